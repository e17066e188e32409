"""The leased store's directory: the shared store's, with what a change touches settled before it is made."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from ...account import Account
from ...event import By, Event
from ...key import ApiKey
from ...operations.report import KeyUsage, ReportDays
from ...plan import UsagePlan
from ...rule.record import Record
from ..server.flow import Flow, operation
from .holder import LeaseHolder
from .index import LeaseHolders


class Change(NamedTuple):
    """A change of the shared store's directory: in this process it binds at once.

    ``touched``: the key whose leases are settled first, or what finds them.
    """

    method: str
    args: tuple[Any, ...]
    touched: str | Callable[[], list[LeaseHolder]]


class LeasedDirectory(LeaseHolders):
    """Keys, plans and associations. Steps yield a ``Change``, or (method, arguments) of the shared store."""

    @operation
    def put_plan(self, plan: UsagePlan, replace: bool | UsagePlan, now: int, by: By | None = None) -> Flow[None]:
        yield Change("put_plan", (plan, replace, now, by), lambda: self._of_plan(plan.id))

    @operation
    def drop_plan(self, plan_id: str, now: int, by: By | None = None, expected: UsagePlan | None = None) -> Flow[None]:
        yield Change("drop_plan", (plan_id, now, by, expected), lambda: self._of_plan(plan_id))

    @operation
    def add_key(self, key: ApiKey, plan_id: str | None, *more: str, by: By | None = None) -> Flow[None]:
        return self._add([(key, [id_ for id_ in (plan_id, *more) if id_ is not None])], by)

    @operation
    def add_keys(self, keys: Sequence[tuple[ApiKey, Sequence[str]]], by: By | None = None) -> Flow[None]:
        return self._add(keys, by)

    def _add(self, keys: Sequence[tuple[ApiKey, Sequence[str]]], by: By | None) -> Flow[None]:
        accounts = {key.account for key, _ in keys}
        yield Change("add_keys", (keys, by), lambda: [held for id_ in accounts for held in self._of_account(id_)])

    @operation
    def change_key(self, key_id: str, change: Callable[[ApiKey], ApiKey], by: By | None = None) -> Flow[ApiKey]:
        changed: ApiKey = yield Change("change_key", (key_id, change, by), key_id)
        return changed

    @operation
    def drop_key(self, key_id: str, by: By | None = None) -> Flow[None]:
        yield Change("drop_key", (key_id, by), key_id)

    @operation
    def associate(self, key_id: str, plan_id: str, at: int | str | None, now: int, by: By | None = None) -> Flow[None]:
        yield Change("associate", (key_id, plan_id, at, now, by), key_id)

    @operation
    def dissociate(self, key_id: str, plan_id: str, now: int, by: By | None = None) -> Flow[None]:
        yield Change("dissociate", (key_id, plan_id, now, by), key_id)

    @operation
    def events(self, after: int, limit: int) -> Flow[list[Event]]:
        events: list[Event] = yield "events", (after, limit)
        return events

    @operation
    def add_account(self, account: Account, by: By | None = None) -> Flow[None]:
        yield Change("add_account", (account, by), self._owing)

    @operation
    def change_account(
        self, account_id: str, change: Callable[[Account], Account], by: By | None = None
    ) -> Flow[Account]:
        account: Account = yield Change("change_account", (account_id, change, by), self._owing)
        self._known.clear()
        return account

    @operation
    def drop_account(self, account_id: str, by: By | None = None) -> Flow[None]:
        yield Change("drop_account", (account_id, by), self._owing)

    @operation
    def place_account(
        self, account_id: str, plan_id: str, on: bool, at: int | str | None, now: int, by: By | None = None
    ) -> Flow[None]:
        yield Change("place_account", (account_id, plan_id, on, at, now, by), self._owing)

    @operation
    def get_account(self, account_id: str) -> Flow[Account]:
        account: Account = yield "get_account", (account_id,)
        return account

    @operation
    def list_accounts(
        self, after: str | None = None, limit: int | None = None, parent: str | None = None
    ) -> Flow[list[Account]]:
        accounts: list[Account] = yield "list_accounts", (after, limit, parent)
        return accounts

    @operation
    def get_plan(self, plan_id: str) -> Flow[UsagePlan]:
        plan: UsagePlan = yield "get_plan", (plan_id,)
        return plan

    @operation
    def list_plans(self) -> Flow[list[UsagePlan]]:
        plans: list[UsagePlan] = yield "list_plans", ()
        return plans

    @operation
    def get_key(self, key_id: str) -> Flow[ApiKey]:
        key: ApiKey = yield "get_key", (key_id,)
        return key

    @operation
    def list_keys(
        self, after: str | None, limit: int | None, plan_id: str | None, account: str | None, now: int
    ) -> Flow[list[ApiKey]]:
        keys: list[ApiKey] = yield "list_keys", (after, limit, plan_id, account, now)
        return keys

    @operation
    def report(self, days: ReportDays, after: str, most: int, by_account: bool) -> Flow[list[KeyUsage]]:
        found: list[KeyUsage] = yield Change("report", (days, after, most, by_account), self._owing)
        return found

    @operation
    def removed(self, key_id: str, now: int) -> Flow[list[Record]]:
        found: list[Record] = yield "removed", (key_id, now)
        return found

    @operation
    def purge(self, key_ids: Sequence[str], account: str | None, gone: bool, by: By) -> Flow[bool]:
        self._known.clear()
        found: bool = yield "purge", (key_ids, account, gone, by)
        return found

    @operation
    def last_used(self, key_id: str) -> Flow[int]:
        minute: int = yield "last_used", (key_id,)
        return minute

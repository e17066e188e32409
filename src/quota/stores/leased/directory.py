"""The leased store's directory: the shared store's, with what a change touches settled before it is made."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from ...account import Account
from ...key import ApiKey
from ...operations.report import KeyUsage, ReportDays
from ...plan import UsagePlan
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
    def put_plan(self, plan: UsagePlan, replace: bool | UsagePlan) -> Flow[None]:
        yield Change("put_plan", (plan, replace), lambda: self._of_plan(plan.id))

    @operation
    def drop_plan(self, plan_id: str) -> Flow[None]:
        yield Change("drop_plan", (plan_id,), lambda: self._of_plan(plan_id))

    @operation
    def add_key(self, key: ApiKey, plan_id: str | None, *more: str) -> Flow[None]:
        yield Change("add_key", (key, plan_id, *more), lambda: self._of_account(key.account))

    @operation
    def add_keys(self, keys: Sequence[tuple[ApiKey, Sequence[str]]]) -> Flow[None]:
        accounts = {key.account for key, _ in keys}
        yield Change("add_keys", (keys,), lambda: [held for id_ in accounts for held in self._of_account(id_)])

    @operation
    def change_key(self, key_id: str, change: Callable[[ApiKey], ApiKey]) -> Flow[ApiKey]:
        changed: ApiKey = yield Change("change_key", (key_id, change), key_id)
        return changed

    @operation
    def drop_key(self, key_id: str) -> Flow[None]:
        yield Change("drop_key", (key_id,), key_id)

    @operation
    def associate(self, key_id: str, plan_id: str) -> Flow[None]:
        yield Change("associate", (key_id, plan_id), key_id)

    @operation
    def dissociate(self, key_id: str, plan_id: str) -> Flow[None]:
        yield Change("dissociate", (key_id, plan_id), key_id)

    @operation
    def add_account(self, account: Account) -> Flow[None]:
        yield Change("add_account", (account,), self._owing)

    @operation
    def change_account(self, account_id: str, change: Callable[[Account], Account]) -> Flow[Account]:
        account: Account = yield Change("change_account", (account_id, change), self._owing)
        return account

    @operation
    def drop_account(self, account_id: str) -> Flow[None]:
        yield Change("drop_account", (account_id,), self._owing)

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
        self, after: str | None = None, limit: int | None = None, plan_id: str | None = None, account: str | None = None
    ) -> Flow[list[ApiKey]]:
        keys: list[ApiKey] = yield "list_keys", (after, limit, plan_id, account)
        return keys

    @operation
    def report(self, days: ReportDays, after: tuple[str, str], most: int, by_account: bool) -> Flow[list[KeyUsage]]:
        found: list[KeyUsage] = yield Change("report", (days, after, most, by_account), self._owing)
        return found

    @operation
    def last_used(self, key_id: str) -> Flow[int]:
        minute: int = yield "last_used", (key_id,)
        return minute

    @operation
    def plans_of(self, key_id: str) -> Flow[list[UsagePlan]]:
        plans: list[UsagePlan] = yield "plans_of", (key_id,)
        return plans

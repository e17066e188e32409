"""The leased store's directory: the shared store's, with what a change touches settled before it is made."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from inspect import signature
from typing import Any, Concatenate, NamedTuple, ParamSpec, TypeVar

from ...account import Account
from ...event import By
from ...key import ApiKey
from ...operations.report import KeyUsage, ReportDays
from ...rule.record import Record
from ..base import Store
from ..server.flow import Flow, operation
from .holder import LeaseHolder
from .index import LeaseHolders

P = ParamSpec("P")
T = TypeVar("T")


class Change(NamedTuple):
    """A change of the shared store's directory: in this process it binds at once.

    ``touched``: the key whose leases are settled first, or what finds them.
    """

    method: str
    args: tuple[Any, ...]
    touched: str | Callable[[], list[LeaseHolder]]


def _passed(method: Callable[Concatenate[Any, P], T], touched: Callable[..., Any] | None = None) -> operation[P, T]:
    """Return the operation that the shared store does; ``touched``: of the arguments of a change, as of ``Change``."""

    @wraps(method)
    def steps(self: Any, /, *args: P.args, **named: P.kwargs) -> Flow[T]:
        given = signature(method).bind(self, *args, **named)
        given.apply_defaults()
        asked = method.__name__, given.args[1:]
        answer: T = yield asked if touched is None else Change(*asked, touched(*given.args))
        return answer

    return operation(steps)


def _key(_: Any, key_id: str, *_more: Any) -> str:
    return key_id


def _joined(self: LeaseHolders, keys: Sequence[tuple[ApiKey, Any]], *_: Any) -> Callable[[], list[LeaseHolder]]:
    accounts = {key.account for key, _ in keys}
    return lambda: [held for id_ in accounts for held in self._of_account(id_)]


def _any(self: LeaseHolders, *_: Any) -> Callable[[], list[LeaseHolder]]:
    return self._owing


class LeasedDirectory(LeaseHolders):
    """Keys, plans and associations. Steps yield a ``Change``, or (method, arguments) of the shared store."""

    put_plan = _passed(Store.put_plan, lambda self, plan, *_: lambda: self._of_plan(plan.id))
    drop_plan = _passed(Store.drop_plan, lambda self, plan_id, *_: lambda: self._of_plan(plan_id))
    get_plan = _passed(Store.get_plan)
    list_plans = _passed(Store.list_plans)
    add_keys = _passed(Store.add_keys, _joined)
    change_key = _passed(Store.change_key, _key)
    drop_key = _passed(Store.drop_key, _key)
    get_key = _passed(Store.get_key)
    list_keys = _passed(Store.list_keys)
    last_used = _passed(Store.last_used)
    associate = _passed(Store.associate, _key)
    dissociate = _passed(Store.dissociate, _key)
    events = _passed(Store.events)
    add_account = _passed(Store.add_account, _any)
    drop_account = _passed(Store.drop_account, _any)
    get_account = _passed(Store.get_account)
    list_accounts = _passed(Store.list_accounts)
    place_account = _passed(Store.place_account, _any)

    @operation
    def change_account(
        self, account_id: str, change: Callable[[Account], Account], by: By | None = None
    ) -> Flow[Account]:
        account: Account = yield Change("change_account", (account_id, change, by), self._owing)
        self._known.clear()
        return account

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

"""The model's accounts: the tree that they are in, and the plans of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import attrs

from ..errors import InvalidValue, UnknownAccount
from ..plan import UsagePlan
from .plans import Member, PlansOfKeys

Subject = tuple[str, str]


class AccountsOfModel(PlansOfKeys):
    """Accounts with their parents and plans, changed step by step as an operator says."""

    members: dict[str, list[str]]
    shared: set[str]
    parents: dict[str, str | None]
    on_plans: dict[str, Member]
    limits: Callable[[UsagePlan, str | None], list[Any]]
    in_force: Callable[[UsagePlan, Callable[[Any], tuple[Subject, str]], int], UsagePlan]
    _copy: Callable[[Subject, Subject], None]
    _drop: Callable[[Subject], None]

    def begin(self, account: str) -> None:
        """An account has a count from now on: what its only key used is in it."""
        if account not in self.shared:
            if self.members.get(account):
                self._copy(("key", self.members[account][0]), ("account", account))
            self.shared.add(account)

    def there(self, account: str) -> bool:
        """Tell whether an account was added, or has a key of another id."""
        return account in self.parents or any(key != account for key in self.members.get(account, ()))

    def above(self, account: str) -> list[str]:
        line: list[str] = []
        parent = self.parents.get(account)
        while parent is not None:
            line.append(parent)
            parent = self.parents.get(parent)
        return line

    def line(self, key: Member) -> list[str]:
        """Return the accounts above a key's own, as far as they are there: those of now, or those of a charge."""
        if key.line is None:
            return self.above(key.account)
        return [account for account in key.line if account in self.shared]

    @contextmanager
    def along(self, id_: str, line: tuple[str, ...]) -> Iterator[None]:
        """Look at a key with the accounts above that a charge was counted on."""
        key = self.keys[id_]
        key.line = line
        try:
            yield
        finally:
            key.line = None

    def height(self, account: str) -> int:
        return max((1 + self.height(one) for one, parent in self.parents.items() if parent == account), default=0)

    def put_account(self, account: str, parent: str | None, *, add: bool) -> type[Exception] | None:
        """Put an account below another; or say why that cannot be."""
        if parent == account:
            return InvalidValue
        if parent is not None and parent != self.parents.get(account):
            if not self.there(parent):
                return UnknownAccount
            line = [parent, *self.above(parent)]
            if account in line or len(line) + 1 + self.height(account) > 4:
                return InvalidValue
            self.parents.setdefault(parent, None)
            self.begin(parent)
        if add or parent != self.parents.get(account):
            self.parents[account] = parent
        return None

    def remove_account(self, account: str) -> type[Exception] | None:
        if not self.there(account):
            return UnknownAccount
        if self.members.get(account) or account in self.parents.values():
            return InvalidValue
        self._drop(("account", account))
        self.shared.discard(account)
        for table in (self.parents, self.on_plans, self.members):
            table.pop(account, None)  # type: ignore[attr-defined, unused-ignore] # dicts all
        return None

    def put_on(self, account: str, plan: str, at: int | str | None, now: int, *, on: bool) -> str:
        """Put an account on a plan, now or later, or take it off; or say why not."""
        mine = self.on_plans.get(account) or Member("", account)
        refused = self.associate(mine, plan, at, now) if on else "" if self.dissociate(mine, plan, now) else "not on it"
        if not refused:
            self.on_plans[account] = mine
            self.parents.setdefault(account, None)
            self.begin(account)
        return refused

    def plans_of(self, account: str, now: int) -> dict[str, str]:
        """Return the plans that an account itself is on at an instant, by api."""
        return self.on(self.on_plans[account], now) if account in self.on_plans else {}

    def parts(self, key: Member, api: str, now: int) -> list[tuple[str, UsagePlan]]:
        """Return the accounts that a key's calls count on and that have a plan for an api, each with it."""
        mine = [key.account] if key.account in self.shared else []
        found = [(account, self.plans_of(account, now).get(api)) for account in (*mine, *self.line(key))]
        return [(account, self.plans[plan]) for account, plan in found if plan is not None]

    def joined(self, key: Member, plan: UsagePlan | None, api: str, route: str | None, now: int) -> list[Any]:
        """Return the limits of a key's plan and of those of the accounts that it is counted on; none without a plan."""
        if plan is None and key.id:
            return []
        parts = self.parts(key, api, now)
        own = [
            of_account(limit, account)
            for account, upper in parts
            for limit in self.limits(self.in_force(upper, partial(own_place, account), now), route)
        ]
        return [*(self.limits(plan, route) if plan else ()), *own]


def own_place(account: str, limit: Any) -> tuple[Subject, str]:
    """Return on what a limit of an account's own plan is counted, and the name that its override has."""
    return ("account", account), f"{account}: {limit.spec.name}"


def of_account(limit: Any, account: str) -> Any:
    """Return a limit of an account's own plan, as it is told."""
    return attrs.evolve(limit, name=f"{account}: {limit.name}", holder=account)

"""The memory store's lists of keys, and how a key joins an account."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from itertools import islice
from typing import Any

from ...key import ApiKey
from ...operations.request import Request, Upper, settled
from ...plan import UsagePlan
from ...process.atomic import Step
from ...rule.record import Record
from .entries import AccountEntry, KeyEntry, Stripe
from .plans import Plans, associations


@cache
def _modules() -> tuple[Any, Any]:
    from . import accounts, reports  # noqa: PLC0415 -- not loaded where nobody asks

    return accounts, reports


def _later(name: str) -> Any:
    """Return the method that is a function of ``accounts`` or ``reports``: see ``Store``."""

    def method(self: Any, *args: Any, **named: Any) -> Any:
        accounts, reports = _modules()
        return getattr(accounts if hasattr(accounts, name) else reports, name)(self, *args, **named)

    return method


class Directory(Plans):
    """Of which keys and accounts there are."""

    order: tuple[object, bool, list[str]] = (None, False, [])
    """The ids of all keys when the places of a report were last sorted, whether by account, and these places."""
    _key_entry: Callable[..., KeyEntry | None]
    _look_up: Callable[[KeyEntry | AccountEntry], Mapping[str, UsagePlan]]
    _sorted: list[str] | None
    _stripes: list[Stripe]

    def list_keys(
        self, after: str | None, limit: int | None, plan_id: str | None, account: str | None, now: int
    ) -> list[ApiKey]:
        from bisect import bisect_right  # noqa: PLC0415 -- few programs ask for pages

        with self._directory:
            plan = None if plan_id is None else self.get_plan(plan_id)
            ids = self._ids() if account is None else sorted(key_entry.key.id for key_entry in self._members(account))
            start = 0 if after is None else bisect_right(ids, after)
            key_entries = (self.rooms[id_].key_entry for id_ in islice(ids, start, None))
            wanted = (s for s in key_entries if plan is None or self._is_on(s, plan, now))
            return [self._told(key_entry) for key_entry in islice(wanted, limit)]

    def _told(self, key_entry: KeyEntry) -> ApiKey:
        """Return the key, which tells the plans that it goes to."""
        key: ApiKey = key_entry.key
        if not key_entry.key_plans.later:
            return key  # nearly always
        with self._directory:
            return associations().told(key, self._entry(key_entry).scheduled)  # type: ignore[no-any-return] # it is one

    def _is_on(self, key_entry: KeyEntry, plan: UsagePlan, now: int) -> bool:
        if not key_entry.key_plans.later:
            return plan.id in key_entry.key_plans.ids.values()
        return plan in settled(self._entry(key_entry), now).plans.values()

    add_account, change_account, drop_account = map(_later, ("add_account", "change_account", "drop_account"))
    get_account, list_accounts, place_account = map(_later, ("get_account", "list_accounts", "place_account"))
    _apply_to_account, _apply_across = map(_later, ("apply_to_account", "apply_across"))
    report, removed, purge = map(_later, ("report", "removed", "purge"))

    def _stripe(self, account: str) -> Stripe:
        """Return the stripe of an account: that of its tree, or where it would begin one."""
        found = self._accounts.get(account)
        return self._stripes[hash(account) % len(self._stripes)] if found is None else found.stripe

    def _above(self, request: Request, key_entry: KeyEntry) -> list[AccountEntry]:
        """Return the accounts above a key's own that a request counts on: of now, or of its charge."""
        account = key_entry.account
        if request.above is None:
            return [] if account is None or account.parent is None else account.parent.line()
        return [self._accounts[id_] for id_ in request.above if id_ in self._accounts]

    def _upper(self, account: AccountEntry) -> Upper:
        """Return an account with its own plans, as a request finds it."""
        plans = account.key_plans.plans
        return Upper(account.name, self._look_up(account) if plans is None else plans, account.key_plans.scheduled)

    def _ids(self) -> list[str]:
        """The ids of all keys in their order, sorted anew where keys came or went."""
        if self._sorted is None:
            self._sorted = sorted(ref for ref in self.rooms if type(ref) is str)
        return self._sorted

    def _members(self, account: str) -> list[KeyEntry]:
        found = self._accounts.get(account)
        alone = self._key_entry(account)
        return found.members if found is not None else [alone] if alone and alone.key.account == account else []

    def _account_of(self, key: ApiKey, stripe: Stripe, joining: int, steps: list[Step]) -> AccountEntry | None:
        """The account that a key joins, shared from its second key on; None for a key's own, which nobody shares."""
        account = self._accounts.get(key.account)
        first = self._key_entry(key.account)
        members = [] if account is None else account.members
        if account is None:
            if key.account == key.id and joining == 1:
                return None
            account = AccountEntry(key.account, stripe)
            steps.append((self._accounts.__setitem__, key.account, account))
            if first is not None and first.account is None:
                steps += [(account.members.append, first), (setattr, first, "account", account)]
                members = [first]
        if (members or joining > 1) and not account.shared:
            steps += self._split(account, members)
        return account

    def _split(self, account: AccountEntry, members: Sequence[KeyEntry]) -> list[Step]:
        """A second key joins: what the first one used is the account's count, and goes on being its own."""
        steps: list[Step] = [(setattr, account, "shared", True)]
        for first in members:
            first.room.invalidate()
            if first.record is not None:
                record = Record.decode(first.record.encode())
                steps += [(setattr, account, "record", record), (account.stripe.round.append, account)]
        return steps

"""Holders of a plan: keys and accounts that are on it, and those that go to it at a date."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from datetime import datetime
from itertools import chain
from typing import Any, NamedTuple

from ...account import Account
from ...errors import UnknownAccount
from ...key import ApiKey
from ...ledger.sync import Ledger
from ..common import every_key
from ..show import at


class Going(NamedTuple):
    """A key or an account that goes to a plan at an instant."""

    who: ApiKey | Account
    at: datetime

    def __str__(self) -> str:
        return f"{named(self.who)} at {at(self.at)}"

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON can hold it."""
        return {_kind(self.who): self.who.id, "at": self.at.isoformat()}


def _kind(who: ApiKey | Account) -> str:
    return "account" if isinstance(who, Account) else "key"


def named(who: ApiKey | Account) -> str:
    """Name a key or an account in a sentence."""
    return f"{_kind(who)} {who.id}"


def accounts_on(ledger: Ledger) -> dict[str, list[Account]]:
    """Return the accounts that are on each plan, by its id."""
    found: dict[str, list[Account]] = {}
    for account in ledger.list_accounts():
        with suppress(UnknownAccount):  # removed meanwhile
            for plan in ledger.list_plans(account):
                found.setdefault(plan.id, []).append(account)
    return found


def going_to(ledger: Ledger) -> dict[str, list[Going]]:
    """Return who goes to each plan at a date, by its id: keys and then accounts, in the order of their ids."""
    found: dict[str, list[Going]] = {}
    holders: Iterable[ApiKey | Account] = chain(every_key(ledger), ledger.list_accounts())
    for who in holders:
        for change in who.scheduled:
            found.setdefault(change.plan, []).append(Going(who, change.at))
    return found


def some(names: Iterable[object], most: int = 5) -> str:
    """Name the first few of many."""
    found = [str(name) for name in names]
    more = [f"{len(found) - most} more"] if len(found) > most else []
    return ", ".join(found[:most] + more)

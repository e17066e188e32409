"""The rules of accounts, whatever the store is: what may be added, be above another, leave a plan, be removed."""

from __future__ import annotations

from collections.abc import Sequence

from ..account import Account
from ..errors import InvalidValue, PlanConflict

MOST_LEVELS = 4
"""Accounts above one another, the lowest included."""


def is_new(account: Account, old: Account | None) -> bool:
    """Tell whether an account is to be added; an equal one is there already. Raises ``PlanConflict`` for another."""
    if old is None or old == account:
        return old is None
    raise PlanConflict(account.id, "another account has this id; update_account() changes it")


def check_parent(account: Account, line: Sequence[str], height: int) -> None:
    """Raise ``InvalidValue`` where an account cannot be below its parent.

    ``line``: the ids of the parent and of those above it. ``height``: so many are below the account in a line.
    """
    if account.id in line:
        raise InvalidValue("parent", account.parent, f"an account that is not below {account.id!r} itself")
    if len(line) + 1 + height > MOST_LEVELS:
        room = MOST_LEVELS - 2 - height
        accepted = f"an account with at most {room} above it: {MOST_LEVELS} in a line at most" if room >= 0 else "None"
        raise InvalidValue("parent", account.parent, accepted)


def check_empty(account_id: str, keys: Sequence[str], below: Sequence[str]) -> None:
    """Raise ``InvalidValue`` for an account that is to be removed and has keys, or accounts below it."""
    if keys or below:
        found = f"{keys[0]!r} is a key of it" if keys else f"{below[0]!r} is below it"
        raise InvalidValue("account", account_id, f"an account without keys and without accounts below it; {found}")

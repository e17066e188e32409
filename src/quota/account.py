"""Accounts: whose usage is counted where several keys, or other accounts, are counted together."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import attrs

from .errors import InvalidValue, UnknownAccount, check_text, to_metadata
from .key import ApiKey, ScheduledPlan


@attrs.frozen(weakref_slot=False)
class Account:
    """An account: keys, and accounts below it, are counted together on it.

    ``name``: for people, its id by default. ``parent``: the id of the account above, whose limits hold for all calls of
    this one too; at most four accounts are above one another. ``metadata``: texts of the operator's own. ``scheduled``:
    the plans that it goes to, as the methods tell that return accounts.
    """

    id: str
    name: str = attrs.field(default=None, kw_only=True)
    parent: str | None = attrs.field(default=None, kw_only=True)
    metadata: Mapping[str, str] = attrs.field(default={}, kw_only=True, converter=to_metadata, hash=False)
    scheduled: tuple[ScheduledPlan, ...] = attrs.field(default=(), kw_only=True)

    def __attrs_post_init__(self) -> None:
        check_text("id", self.id)
        if self.name is None:
            object.__setattr__(self, "name", self.id)
        check_text("name", self.name)
        if self.parent is not None:
            check_text("parent", self.parent)
        if self.parent == self.id:
            raise InvalidValue("parent", self.parent, "another account: none is above itself")

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON can hold it."""
        return {**self.said(), "scheduled": [change.to_dict() for change in self.scheduled]}

    def said(self) -> dict[str, Any]:
        """Return what was said of it, without what is scheduled; ``Account(**data)`` makes it again."""
        return {"id": self.id, "name": self.name, "parent": self.parent, "metadata": dict(self.metadata)}

    def __getstate__(self) -> dict[str, Any]:
        """A plain mapping in place of the read-only one, which cannot be pickled."""
        return {**self.said(), "scheduled": self.scheduled}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc] # the one way to build a frozen object


def line_of(account_id: str | None, get_account: Callable[[str], Account]) -> list[Account]:
    """Return an account and those above it, the nearest first; none of a key's own of which nothing was said."""
    line: list[Account] = []
    while account_id is not None:
        try:
            line.append(get_account(account_id))
        except UnknownAccount:
            break  # or removed meanwhile
        account_id = line[-1].parent
    return line


Holder = TypeVar("Holder", ApiKey, Account)
"""A key or an account, whichever it is."""

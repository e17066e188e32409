"""The pure steps of accounts: what to ask the store, and what to make of its answer."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress

from ..account import Account
from ..errors import InvalidValue, PlanConflict, UnknownAccount, UnknownKey, check_text
from ..key import ApiKey
from .administration import UNCHANGED, Administration, Asking, Step, Unchanged, at_least_one, changed, same, to_come


class Accounts(Administration):
    """Accounts and the tree that they are in."""

    def add_account(
        self,
        id: str,  # noqa: A002 -- the public contract
        *,
        parent: Account | str | None = None,
        name: str | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> Step[Account]:
        """Add an account, below its ``parent`` if one is given. An equal one again changes nothing.

        At most four accounts are above one another. An account that a key made becomes this one, with its keys and
        counts. Raises ``UnknownAccount`` for the parent, ``PlanConflict`` when another account has this id,
        ``InvalidValue``.
        """
        above, own = None if parent is None else account_id(parent, "parent"), {} if metadata is None else metadata
        account = Account(id, name=name, parent=above, metadata=own)  # type: ignore[arg-type] # its default
        return Step("add_account", (account, self._by()), lambda _: account)

    def get_account(self, account: Account | str) -> Step[Account]:
        """The account as it is now. Raises ``UnknownAccount``."""
        now = self._now()
        return Step("get_account", (account_id(account),), lambda found: to_come(found, now))

    def list_accounts(
        self, *, parent: Account | str | None = None, after: Account | str | None = None, limit: int | None = None
    ) -> Step[list[Account]]:
        """Accounts in the order of their ids: all of them, or those right below ``parent``.

        Those that keys made are among them, but not a key's own that nothing was said of. ``limit``, ``after``: as in
        ``list_keys``. Raises ``UnknownAccount`` for the parent.
        """
        most = None if limit is None else at_least_one("limit", limit)
        above = None if parent is None else account_id(parent, "parent")
        first = None if after is None else account_id(after, "after")
        now = self._now()
        return Step("list_accounts", (first, most, above), lambda found: [to_come(one, now) for one in found])

    def update_account(
        self,
        account: Account | str,
        *,
        parent: Account | str | Unchanged | None = UNCHANGED,
        name: str | Unchanged = UNCHANGED,
        metadata: Mapping[str, str] | Unchanged = UNCHANGED,
    ) -> Step[Account]:
        """Change what is given of an account; its plan, keys and counts stay. ``parent``: None for none above it.

        From the next call on, everywhere, calls count on the new parent and those above it, and no more on the old
        ones; what was charged before is refunded, committed or lapses where it was charged. Raises ``UnknownAccount``,
        and ``InvalidValue`` for a parent that is below the account, or where more than four would be in a line.
        """
        above = parent if parent is None or parent is UNCHANGED else account_id(parent, "parent")
        id_, by = account_id(account), self._by()
        change = changed(Account(id_), name=name, metadata=metadata, parent=above)
        return Step("change_account", (id_, change, by), lambda found: to_come(found, by[1]))

    def remove_account(self, account: Account | str) -> Step[None]:
        """Remove an account and its counts.

        Raises ``UnknownAccount``, and ``InvalidValue`` while it has keys or accounts below it.
        """
        return Step("drop_account", (account_id(account), self._by()), same)

    def _one(self, who: ApiKey | Account | str) -> Asking[tuple[str | None, str | None]]:
        """The id of the key that is meant, or of the account: a text names the key of that id, else the account."""
        if isinstance(who, ApiKey):
            return who.id, None
        if isinstance(who, Account):
            return None, who.id
        check_text("key_or_account", who)
        key = account = None
        with suppress(UnknownKey):
            key = yield Step("get_key", (who,), same)
        if key is None or key.account != who:
            with suppress(UnknownAccount):
                account = yield Step("get_account", (who,), same)
        if key is None and account is None:
            raise UnknownKey(who)
        if key is None or account is None:
            return (None, who) if key is None else (who, None)
        found = [one.id for one in (yield Step("list_keys", (None, 1, None, who, self._now()), same))]
        of = f", and it is the account of {found[0]!r}" if found else ", and so has another account"
        raise PlanConflict(who, f"a key has this id{of}: give the ApiKey, or the Account")


def account_id(account: Account | str, field: str = "account") -> str:
    """An account given as the object or its id."""
    if not isinstance(account, (Account, str)):
        raise InvalidValue(field, account, "an Account or its id")
    return account.id if isinstance(account, Account) else check_text(field, account)

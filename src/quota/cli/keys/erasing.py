"""quota key erase, quota account erase: nothing is left of who must be forgotten."""

from __future__ import annotations

from contextlib import suppress

import typer

from ...account import Account
from ...errors import UnknownAccount, UnknownKey
from ...ledger.sync import Ledger
from ..common import JsonOption, KeyArgument, StoreOption, YesOption, confirm, find_key, opened, several
from ..show import print_json, say
from .accounts import AccountArgument
from .accounts import app as accounts


def register(keys: typer.Typer) -> None:
    """Add the commands."""
    keys.command("erase", epilog="Example: quota key erase 8f3k2m9x1q --yes")(erase_key)
    accounts.command("erase", epilog="Example: quota account erase acme --yes")(erase_account)


def erase_key(key: KeyArgument, yes: YesOption = False, store: StoreOption = None, as_json: JsonOption = False) -> None:
    """Leave nothing of a key, there or removed. Its name, counts, usage by day and events go; it cannot be undone."""
    with opened(store) as ledger:
        id_, named = key, key
        try:
            found = find_key(ledger, key)
            id_, named = found.id, f"{found.id} ({found.name})"
        except UnknownKey as unknown:
            with suppress(UnknownAccount):
                ledger.get_account(key)
                raise unknown from None  # an account has this id: it is not meant
        _erase(ledger, id_, f"key {named}", "its usage by day", yes=yes, as_json=as_json)


def erase_account(
    account: AccountArgument, yes: YesOption = False, store: StoreOption = None, as_json: JsonOption = False
) -> None:
    """Leave nothing of an account and all its keys, there or removed. Not to be undone."""
    with opened(store) as ledger:
        named, keys = account, 0
        with suppress(UnknownAccount):
            found = ledger.get_account(account)
            named = f"{found.id} ({found.name})"
            keys = len(ledger.list_keys(account=account))
        _erase(
            ledger,
            Account(account),
            f"account {named}",
            f"its {several(keys, 'key')}, their usage by day",
            yes=yes,
            as_json=as_json,
        )


def _erase(ledger: Ledger, who: Account | str, named: str, more: str, *, yes: bool, as_json: bool) -> None:
    confirm(f"erase {named}, {more} and its events, for good?", yes=yes)
    ledger.erase(who)
    if as_json:
        print_json({"erased": who.id if isinstance(who, Account) else who})
    else:
        say(f"erased {named}")

"""The pure steps that leave nothing of a key or an account. Not loaded where nobody asks."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress

from ..account import Account
from ..errors import InvalidValue, UnknownAccount, UnknownKey
from ..event import By
from ..key import ApiKey
from ..operations.request import Request
from ..stores.accounts import check_empty
from .administration import Asking, Step, same

_PAGE = 500
"""Keys of an account that are asked for at once."""


def erase_key(id_: str, by: By) -> Asking[None]:
    """Erase a key, and its account where nothing else is in that and nothing was said of it, but for its own."""
    account, gone = None, False
    with suppress(UnknownKey):
        found: ApiKey = yield Step("get_key", (id_,), same)
        yield Step("drop_key", (id_, by), same)
        account, gone = found.account, True
    if account is not None:
        yield from _release(account, [id_], by)
        try:
            yield Step("drop_account", (id_, by), same) if account == id_ else Step("get_account", (account,), same)
            account = account if account == id_ else None
        except InvalidValue:
            account = None  # other keys are in it, or accounts below it
        except UnknownAccount:
            pass  # it was this key's alone
    if not (yield Step("purge", ([id_], account, gone, by), same)):
        raise UnknownKey(id_)


def erase_account(id_: str, by: By) -> Asking[None]:
    """Erase an account with its keys."""
    gone, ids = False, dict[str, None]()
    with suppress(UnknownAccount):
        below: list[Account] = yield Step("list_accounts", (None, 1, id_), same)
        check_empty(id_, [], [one.id for one in below])
    while True:
        keys: list[ApiKey] = yield Step("list_keys", (None, _PAGE, None, id_, by[1]), same)
        for key in keys:
            with suppress(UnknownKey):
                yield Step("drop_key", (key.id, by), same)
            ids[key.id] = None
        if keys:
            continue
        yield from _release(id_, ids, by)
        try:
            yield Step("drop_account", (id_, by), same)
            gone = True
        except UnknownAccount:
            pass  # that keys made
        except InvalidValue:
            if (yield Step("list_keys", (None, 1, None, id_, by[1]), same)):
                continue  # one joined meanwhile
            raise
        break
    if not (yield Step("purge", ([*ids], id_, gone or bool(ids), by), same)):
        raise UnknownAccount(id_)


def _release(account: str, keys: Iterable[str], by: By) -> Asking[None]:
    """Forget what keys hold on an account and on those above it: reservations have the ids of their keys."""
    with suppress(UnknownAccount, UnknownKey):
        yield Step("apply", (Request("release", by[1], None, None, args=tuple(keys), account=account),), same)

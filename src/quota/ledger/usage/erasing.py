"""The pure steps for keys that are gone: what they used, how nothing is left of one. Not loaded where nobody asks."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress

from ...account import Account
from ...errors import InvalidValue, UnknownAccount, UnknownKey
from ...event import By
from ...key import ApiKey
from ...operations.report import removed_days
from ...operations.request import Request
from ...operations.usage import UsageRecord
from ...rule.record import Record
from ...stores.accounts import check_empty
from ..accounts import Accounts
from ..administration import PAGE, Asking, Step, key_id, same


def removed_usage(
    unknown: UnknownKey, who: ApiKey | Account | str, api: str, now: int, days: tuple[int, int]
) -> Asking[list[UsageRecord]]:
    """Tell the days of a removed key; raise what was raised where nothing is kept of one."""
    records: list[Record] = []
    if not isinstance(who, Account):
        records = yield Step("removed", (key_id(who), now), same)
    if not records:
        raise unknown
    return removed_days(records, api, now, *days)


def erase(self: Accounts, who: ApiKey | Account | str) -> Asking[None]:
    """See ``Ledger.erase``."""
    by = self._by()
    account: str | None = None
    with suppress(UnknownKey):
        _, account = yield from self._one(who)
    if account is not None:
        yield from erase_account(account, by)
        return
    id_ = key_id(who)  # type: ignore[arg-type] # an account has its id
    try:
        yield from erase_key(id_, by)
    except UnknownKey as unknown:
        if not isinstance(who, str):
            raise
        try:
            yield from erase_account(id_, by)
        except UnknownAccount:
            raise unknown from None


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
        while keys := (yield Step("list_keys", (None, PAGE, None, id_, by[1]), same)):
            for key in keys:
                with suppress(UnknownKey):
                    yield Step("drop_key", (key.id, by), same)
                ids[key.id] = None
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

"""The memory store's reports of what keys used, and keys that are removed or erased. Not loaded where nobody asks."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from itertools import islice
from typing import Any

from ...clock import DAY_US, system_clock
from ...event import By, erased, is_of, key_removed
from ...operations.report import KeyRecord, KeyUsage, ReportDays, closed, lives, page
from ...process.atomic import Step
from ...rule.record import Record
from .entries import KeyEntry


def report(store: Any, days: ReportDays, after: str, most: int, by_account: bool) -> list[KeyUsage]:
    """See ``Store.report``."""
    from bisect import bisect_right  # noqa: PLC0415 -- few programs ask for pages

    found = []
    with store._directory:
        order = _order(store, by_account)
        start = bisect_right(order, after)
        for place in islice(order, start, start + most):
            *_, last = place.split("\n")
            if not place.endswith("\v"):
                one = store._removed[last]
                found.append(one._replace(record=one.record.copy()))
                continue
            key_entry = store.rooms[last[:-1]].key_entry
            with key_entry.stripe.exclusive():
                key_entry.room.flush()
                record = None if key_entry.record is None else key_entry.record.copy()
            found.append(KeyRecord(key_entry.key.account, key_entry.key.id, "", record))
        return page(found, days, most, by_account, store.options.retention)


def _order(store: Any, by_account: bool) -> list[str]:
    """Return the places of all keys and of those that were removed, sorted anew where keys came or went."""
    ids = store._ids()
    if store.order[0] is not ids or store.order[1] != by_account:
        living = (KeyRecord(store.rooms[id_].key_entry.key.account, id_, "", None) for id_ in ids)
        places = [one.place(by_account) for found in (living, store._removed.values()) for one in found]
        store.order = ids, by_account, sorted(places)
    return store.order[2]  # type: ignore[no-any-return] # as it was made


def drop_key(store: Any, key_entry: KeyEntry, by: By | None) -> None:
    """Remove a key that is at rest."""
    account, key = key_entry.account, key_entry.key
    steps = kept(store, key_entry, by[1] if by else system_clock())
    store._sorted = None
    if account is not None:
        steps.append((account.members.remove, key_entry))
        heir = account.record if account.shared else key_entry.record
        last = account.members == [key_entry] and account.account is None
        if last and (account.name == key.id or heir is None):
            steps += [(setattr, account, "record", None), (store._accounts.pop, account.name)]
        elif not account.shared and heir is not None:
            steps += [(setattr, account, "record", heir), (setattr, account, "shared", True)]
            steps.append((account.stripe.round.append, account))
    gone = [(store.rooms.pop, ref) for ref in (key.id, *(secret.digest for secret in key.secrets))]
    steps += [(setattr, key_entry, "record", None), *gone]
    store._outbox.at_once(steps, key_removed(key, by))
    key_entry.stripe.sweep()


def kept(store: Any, key_entry: Any, now: int) -> list[Step]:
    """Return the steps that keep what is told of a key that is removed, and forget two that were kept long enough."""
    retention, life = store.options.retention, f"{next(store._lives):020}"
    late = [of for of, one in islice(store._removed.items(), 2) if one.record.at + (retention + 1) * DAY_US < now]
    steps: list[Step] = [(store._removed.pop, of) for of in late]
    if key_entry.record is None:
        return steps
    record = closed(key_entry.record.copy(), now, retention)
    return [
        *steps,
        (store._removed.__setitem__, life, KeyRecord(key_entry.key.account, key_entry.key.id, life, record)),
    ]


def removed(store: Any, key_id: str, now: int) -> list[Record]:
    """See ``Store.removed``."""
    with store._directory:
        found = [one._replace(record=one.record.copy()) for one in store._removed.values() if one.id == key_id]
        return lives(found, now, store.options.retention)


def purge(store: Any, key_ids: Sequence[str], account: str | None, gone: bool, by: By) -> bool:
    """See ``Store.purge``."""
    with store._directory:
        kept = [life for life, one in store._removed.items() if one.account == account or one.id in key_ids]
        ids = {*key_ids, *(store._removed[life].id for life in kept)}
        steps: list[Step] = [(store._removed.pop, life) for life in kept]
        place = store._accounts.get(account)
        if place is not None and place.account is None and not place.members:  # its count outlived its keys
            steps += [(setattr, place, "record", None), (store._accounts.pop, account)]
        store._sorted = None
        found = store._outbox.drop(lambda one: is_of(one, ids, account))
        if gone or steps or found:
            store._outbox.at_once(steps, erased(by))
        for stripe in store._stripes:
            with stripe.exclusive():
                stripe.round = deque(place for place in stripe.round if place.record is not None)
        return bool(gone or steps or found)

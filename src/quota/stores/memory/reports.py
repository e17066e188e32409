"""The memory store's reports: what each key used, a page of keys at a time. Not loaded where nobody asks."""

from __future__ import annotations

from itertools import islice
from typing import Any

from ...operations.report import KeyRecord, KeyUsage, ReportDays, page


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

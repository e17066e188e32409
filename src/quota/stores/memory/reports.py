"""The memory store's reports: what each key used, a page of keys at a time. Not loaded where nobody asks."""

from __future__ import annotations

from itertools import islice
from typing import Any

from ...operations.report import KeyUsage, ReportDays, used_of


def report(store: Any, days: ReportDays, after: tuple[str, str], most: int, by_account: bool) -> list[KeyUsage]:
    """See ``Store.report``."""
    from bisect import bisect_right  # noqa: PLC0415 -- few programs ask for pages

    found = []
    with store._directory:
        order = _by_account(store) if by_account else store._ids()
        start = bisect_right(order, after if by_account else after[1])
        for place in islice(order, start, start + most):
            key_entry = store.rooms[place[1] if by_account else place].key_entry
            with key_entry.stripe.exclusive():
                key_entry.room.flush()
                record = None if key_entry.record is None else key_entry.record.copy()
            key = key_entry.key
            found.append(KeyUsage(key.account, key.id, used_of(record, days, store.options.retention)))
    return found


def _by_account(store: Any) -> list[tuple[str, str]]:
    """The account and the id of all keys in their order, sorted anew where keys came or went."""
    ids = store._ids()
    sorted_of, order = store.by_account
    if sorted_of is not ids:
        order = sorted((store.rooms[id_].key_entry.key.account, id_) for id_ in ids)
        store.by_account = ids, order
    return order  # type: ignore[no-any-return] # as it was made

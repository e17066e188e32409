"""Reports of the stores on a server: what each key used, a page of keys at a time, its records in one round trip.

The record of a key that is removed is kept, under a name of its own, out of reach of every call. It is on three lists:
by the key's id (``r``), by its account (``s``) and by time (``t``).
"""

from __future__ import annotations

from collections.abc import Callable, Container, Generator, Sequence
from typing import Any

from ...clock import DAY_US
from ...event import By, Draft, Event, erased, is_of
from ...key import ApiKey, new_number
from ...operations.report import KeyRecord, KeyUsage, ReportDays, lives, living_from, page
from ...rule.limits import StoreOptions
from ...rule.record import Record
from .changes import ClearRecord, CopyRecord, IndexKey, Mutation, Precondition, UnindexKey, Untell
from .flow import Flow, operation


class Reports:
    """Of what all keys used. An engine says how a page of keys with their records is read."""

    options: StoreOptions
    _attempts: Callable[[], Generator[int, None, None]]
    _change: Callable[[list[Precondition], Sequence[Mutation]], Flow[bool]]
    _events: Callable[[int, int], Flow[list[Event]]]
    _read: Callable[..., Flow[list[str | None]]]
    _told: Callable[[Sequence[Draft]], list[Mutation]]
    _page: Callable[[tuple[str, str], int, bool], Flow[list[tuple[str, str, Any]]]]
    _entries: Callable[[str, str, str | None, int | None], Flow[list[str]]]
    """The entries of a list between two texts, in order."""
    _records: Callable[[Sequence[str]], Flow[list[Any]]]
    _own_record: Callable[[Any], Record | None]
    _forget_requests: Callable[[Container[str]], Flow[None]]

    @operation
    def report(self, days: ReportDays, after: str, most: int, by_account: bool) -> Flow[list[KeyUsage]]:
        rows = yield from self._page(living_from(after, by_account), most, by_account)
        found = [KeyRecord(account, id_, "", self._own_record(row)) for account, id_, row in rows]
        # Afterwards: a key that is removed meanwhile is found twice, and not missed.
        found += yield from self._removed("s" if by_account else "r", after, None, most)
        return page(found, days, most, by_account, self.options.retention)

    @operation
    def removed(self, key_id: str, now: int) -> Flow[list[Record]]:
        found = yield from self._removed("r", f"{key_id}\n", f"{key_id}\v", None)
        return lives(found, now, self.options.retention)

    @operation
    def purge(self, key_ids: Sequence[str], account: str | None, gone: bool, by: By) -> Flow[bool]:
        for _ in self._attempts():
            places = ("stamps", "**"), ("accounts", account or ""), ("use", f"a:{account}")
            stamp, text, count = yield from self._read(*places)
            alone = account is not None and text is None and count is not None  # its count outlived its keys
            lives: dict[str, KeyRecord] = {}
            for name, of in [*(("r", id_) for id_ in key_ids), *([("s", account)] if account else [])]:
                found = yield from self._removed(name, f"{of}\n", f"{of}\v", None)
                lives |= {one.life: one for one in found}
            ids = {*key_ids, *(one.id for one in lives.values())}
            yield from self._forget_requests(ids)
            cursors, page = list[int](), list[Event]()
            while page := (yield from self._events(page[-1].cursor if page else 0, 10_000)):
                cursors += [one.cursor for one in page if is_of(one, ids, account)]
            if not (gone or lives or alone or cursors):
                return False
            writes = [write for one in lives.values() for write in forgotten(one.account, one.id, one.life)]
            writes += [*(Untell(cursors[i : i + 1000]) for i in range(0, len(cursors), 1000)), *self._told(erased(by))]
            writes += [ClearRecord(f"a:{account}")] if alone else []
            checks = [Precondition("stamps", "**", stamp), Precondition("accounts", account or "", text)]
            if (yield from self._change(checks, writes)):
                return True
        raise AssertionError  # pragma: no cover -- attempts end by raising

    def _removed(self, name: str, after: str, before: str | None, most: int | None) -> Flow[list[KeyRecord]]:
        entries = [entry.split("\n") for entry in (yield from self._entries(name, after, before, most))]
        rows = (yield from self._records([f"r:{entry[2]}" for entry in entries])) if entries else []
        names = [(of[0], of[1], of[2]) if name == "s" else (of[1], of[0], of[2]) for of in entries]
        return [KeyRecord(*of, self._own_record(row)) for of, row in zip(names, rows, strict=True)]

    def _keep_days(self, key: ApiKey, now: int) -> Flow[list[Mutation]]:
        """Keep the record of a key that is removed, and forget two that were kept long enough."""
        life = f"{now:020}.{new_number()}"
        writes: list[Mutation] = [IndexKey(*at) for at in _places(key.account, key.id, life)]
        writes.append(CopyRecord(f"k:{key.id}", f"r:{life}"))
        for entry in (yield from self._entries("t", "", None, 2)):
            life, account, id_ = entry.split("\n")
            if int(life[:20]) + (self.options.retention + 1) * DAY_US < now:
                writes += forgotten(account, id_, life)
        return writes


def forgotten(account: str, key_id: str, life: str) -> list[Mutation]:
    """Return the mutations that leave nothing of a removed key."""
    return [ClearRecord(f"r:{life}"), *(UnindexKey(*at) for at in _places(account, key_id, life))]


def _places(account: str, key_id: str, life: str) -> tuple[tuple[str, str], ...]:
    names = ("r", (key_id, account, life)), ("s", (account, key_id, life)), ("t", (life, account, key_id))
    return tuple((name, "\n".join(place)) for name, place in names)

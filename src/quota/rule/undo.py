"""Putting records back as they were, where a store changes them in place and an interrupt comes half way.

A signal handler may raise between any two calls of a change of many steps; what was half done would mint units or lose
them. Stores that write encoded records need none of this: what was not written never was.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter
from typing import Any

from .record import Bucket, Meter, Record, Slot

_all_of = attrgetter(*Record.__slots__)
_NAMED = ("holds", "requests", "refunds", "leases")
TRIES = 100


class Undo:
    """What the records of a party were before a request changed them.

    ``names``: under which it may keep or drop a hold, a memo, a refund, a lease.
    """

    __slots__ = ("buckets", "meters", "names", "records", "slots", "things")

    def __init__(self, *names: str | None) -> None:
        self.names = names
        self.records: Sequence[tuple[Record, tuple[Any, ...]]] = ()
        self.meters: Sequence[tuple[Meter, int, int, int, list[tuple[int, int]]]] = ()
        self.slots: Sequence[tuple[Slot, int, int, int, int]] = ()
        self.buckets: Sequence[tuple[Bucket, int, int]] = ()
        self.things: Sequence[tuple[Record, str, str, Any]] = ()

    def note(self, records: Sequence[Record], *, whole: bool) -> None:
        """Before the first change. ``whole``: meters are changed in place; else others take their place."""
        if self.records:
            return
        self.records = [(record, _all_of(record)) for record in records]
        if whole:
            meters = [meter for record in records for meter in record.meters]
            self.meters = [(m, m.total, m.minute, m.hour, m.days) for m in meters]
            self.slots = [(s, s.base, s.extra, s.alerted, s.limit) for m in meters for s in m.slots]
            self.buckets = [(b, b.level, b.at) for m in meters for b in m.buckets]
        self.things = [
            (record, field, name, named.get(name))
            for record in records if record.holds or record.requests or record.refunds or record.leases
            for field in _NAMED if (named := getattr(record, field))
            for name in self.names if name
        ]  # fmt: skip

    def back(self) -> None:
        """Put all back; what interrupts that is as good as what interrupted the change."""
        for _ in range(TRIES):
            try:
                self._back()
            except BaseException:  # noqa: BLE001, S112 -- the one that is on its way is raised
                continue
            return

    def _back(self) -> None:
        for record, values in self.records:
            for field, value in zip(Record.__slots__, values, strict=True):
                setattr(record, field, value)
        for meter, total, minute, hour, days in self.meters:
            meter.total, meter.minute, meter.hour, meter.days = total, minute, hour, days
        for slot, base, extra, alerted, limit in self.slots:
            slot.base, slot.extra, slot.alerted, slot.limit = base, extra, alerted, limit
        for bucket, level, at in self.buckets:
            bucket.level, bucket.at = level, at
        for record, field, name, value in self.things:
            named = getattr(record, field)
            if value is not None:
                named[name] = value
            else:
                named.pop(name, None)

"""What a ledger remembers of one counted party (a key or an account): plain mutable data and its encoded form.

A *meter* counts every unit taken of one (api, route, unit), under whatever plan; a quota's *slot* remembers what its
meter read when the window began. So ``used = meter.total - slot.base``, and no change of plan can lose or mint a unit.
"""

from __future__ import annotations

from typing import Any


class Slot:
    """One quota's current window, ``[start, end)``: ``base`` is what the meter read at ``start``."""

    __slots__ = ("alerted", "base", "end", "extra", "limit", "name", "start")

    def __init__(self, name: str, start: int, end: int, base: int, extra: int, alerted: int, limit: int) -> None:  # noqa: PLR0913, E501 -- plain data
        self.name = name
        self.start = start
        self.end = end
        self.base = base
        self.extra = extra
        self.alerted = alerted
        self.limit = limit

    def encode(self) -> list[Any]:
        return [self.name, self.start, self.end, self.base, self.extra, self.alerted, self.limit]


class Bucket:
    """One throttle's level at ``at``, in units times ``scale``, falling by ``drain`` each microsecond.

    ``live``: the latest plan charged it; a bucket that waits for its plan to come back is not.
    """

    __slots__ = ("at", "drain", "level", "live", "name", "scale")

    def __init__(self, name: str, scale: int, drain: int, level: int, at: int, live: bool) -> None:  # noqa: FBT001, PLR0913 -- plain data
        self.name = name
        self.scale = scale
        self.drain = drain
        self.level = level
        self.at = at
        self.live = live

    def encode(self) -> list[Any]:
        return [self.name, self.scale, self.drain, self.level, self.at, self.live]


class Meter:
    """Everything ever taken of one unit (``total``), and what it read at the start of the latest minute, hour and days."""

    __slots__ = ("api", "buckets", "days", "hour", "minute", "route", "slots", "total", "unit")

    def __init__(self, api: str, route: str, unit: str, day: int) -> None:
        self.api = api
        self.route = route
        self.unit = unit
        self.total = 0
        self.minute = 0
        self.hour = 0
        self.days = [(day, 0)]
        self.slots: list[Slot] = []
        self.buckets: list[Bucket] | tuple[()] = ()

    def slot(self, name: str) -> Slot | None:
        for slot in self.slots:
            if slot.name == name:
                return slot
        return None

    def bucket(self, name: str) -> Bucket | None:
        for bucket in self.buckets:
            if bucket.name == name:
                return bucket
        return None

    def encode(self) -> list[Any]:
        return [
            self.api, self.route, self.unit, self.total, self.minute, self.hour, self.days,
            [slot.encode() for slot in self.slots], [bucket.encode() for bucket in self.buckets],
        ]  # fmt: skip

    @classmethod
    def decode(cls, data: list[Any]) -> Meter:
        meter = cls(data[0], data[1], data[2], 0)
        _, _, _, meter.total, meter.minute, meter.hour, days, slots, buckets = data
        meter.days = [(day, total) for day, total in days]
        meter.slots = [Slot(*slot) for slot in slots]
        meter.buckets = [Bucket(*bucket) for bucket in buckets] or ()
        return meter


class Record:
    """All slots of one party, so that several limits stay atomic in every store.

    ``at``: the latest instant charged; time never runs backwards for a record. ``floor``: nothing before it is
    remembered, so a call from before it is refused an answer. ``token`` tells this record from one forgotten earlier.
    ``version`` moves whenever anything but a plain charge changed the record. ``holds``: id -> [expires, taken_at,
    open, takes]. ``requests``: request_id -> memo. ``refunds``: decision id -> until when it is remembered. ``rows``:
    finished days.
    """

    __slots__ = ("at", "due", "floor", "holds", "meters", "refunds", "requests", "rows", "token", "version")

    def __init__(self, token: int = 0, floor: int = 0) -> None:
        self.at = 0
        self.floor = floor
        self.token = token
        self.version = 0
        self.due: int | None = None
        self.meters: list[Meter] = []
        self.holds: dict[str, list[Any]] | None = None
        self.requests: dict[str, list[Any]] | None = None
        self.refunds: dict[str, int] | None = None
        self.rows: list[list[Any]] | None = None

    def meter(self, api: str, route: str, unit: str) -> Meter | None:
        for meter in self.meters:
            if meter.unit == unit and meter.route == route and meter.api == api:
                return meter
        return None

    def encode(self) -> list[Any]:
        """Lists, strings and integers only: JSON holds it exactly."""
        return [
            self.at, self.floor, self.token, self.version, self.due, [meter.encode() for meter in self.meters],
            self.holds, self.requests, self.refunds, self.rows,
        ]  # fmt: skip

    @classmethod
    def decode(cls, data: list[Any]) -> Record:
        record = cls()
        (record.at, record.floor, record.token, record.version, record.due, meters,
         record.holds, record.requests, record.refunds, record.rows) = data  # fmt: skip
        record.meters = [Meter.decode(meter) for meter in meters]
        return record

    def copy(self) -> Record:
        """A record of its own: changing one never changes the other."""
        twin = Record.decode(self.encode())
        twin.holds = self.holds and {id_: list(hold) for id_, hold in self.holds.items()}
        twin.requests = self.requests and dict(self.requests)
        twin.refunds = self.refunds and dict(self.refunds)
        twin.rows = self.rows and [list(row) for row in self.rows]
        return twin

    def become(self, other: Record) -> None:
        """Take over another record's contents, as one change."""
        for field in Record.__slots__:
            setattr(self, field, getattr(other, field))
        self.version += 1

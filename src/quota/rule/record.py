"""The record of one counted party (a key or an account): plain mutable data and its encoded form.

A *meter* counts every unit taken of one (api, route, unit), under whatever plan; a quota's *slot* remembers what its
meter read when the window began. So ``used = meter.total - slot.base``, and no change of plan can lose or mint a unit.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ..clock import DAY_US
from .entries import Amount, Amounts, Day, Hold, Lease, MeterName, Override, RememberedRequest, ThrottleRef

MINUTE_US = 60_000_000
HOUR_US = 3_600_000_000
_NEVER = 2**62

_unused: dict[int, tuple[int, int]] = {}
"""Days on which nothing was counted before: one each for all the meters that begin on them."""


class Slot:
    """One quota's current window, ``[start, end)``: ``base`` is what the meter read at ``since``.

    ``since`` is the start, unless the limit's period changed and what was used carried over, or the reading at the
    start was not known; or the end, where the window has ended and its limit was not called since.
    """

    __slots__ = ("alerted", "base", "end", "extra", "limit", "name", "since", "start")

    def __init__(
        self, name: str, start: int, end: int, base: int, extra: int, alerted: int, limit: int, since: int
    ) -> None:
        self.name = name
        self.start = start
        self.end = end
        self.base = base
        self.extra = extra
        self.alerted = alerted
        self.limit = limit
        self.since = since

    def matters_until(self) -> int:
        """The end of its use: where it has ended, the window that follows may yet begin at its reading."""
        return self.end + max(2 * (self.end - self.start), 2 * DAY_US) if self.since == self.end else self.end

    def encode(self) -> list[Any]:
        return [self.name, self.start, self.end, self.base, self.extra, self.alerted, self.limit, self.since]


class Bucket:
    """One throttle's level at ``at``, in units times ``scale``, falling by ``drain`` each microsecond.

    ``lent``: how much of the level at ``since`` another bucket holds as well: what it began with, or has passed on.
    """

    __slots__ = ("at", "drain", "lent", "level", "name", "scale", "since")

    def __init__(self, name: str, scale: int, drain: int, level: int, at: int, lent: int = 0, since: int = 0) -> None:
        self.name = name
        self.scale = scale
        self.drain = drain
        self.level = level
        self.at = at
        self.lent = lent
        self.since = since

    def encode(self) -> list[Any]:
        return [self.name, self.scale, self.drain, self.level, self.at, self.lent, self.since]


class Meter:
    """All ever taken of one unit (``total``), and its readings at the start of the last minute, hour, days.

    ``places``: of the unit's throttles in the plan that the key was last charged under; on its own meter of no route.
    """

    __slots__ = ("api", "buckets", "days", "hour", "minute", "places", "route", "slots", "total", "unit")

    def __init__(self, api: str, route: str, unit: str, day: int) -> None:
        self.api = api
        self.route = route
        self.unit = unit
        self.total = 0
        self.minute = 0
        self.hour = 0
        self.days = [_unused.setdefault(day, (day, 0))]
        self.slots: list[Slot] = []
        self.buckets: list[Bucket] | tuple[()] = ()
        self.places: tuple[ThrottleRef, ...] = ()

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
            *([self.places] if self.places else ()),
        ]  # fmt: skip

    def copy(self) -> Meter:
        """A meter of its own: changing one never changes the other."""
        twin = Meter(self.api, self.route, self.unit, 0)
        twin.total, twin.minute, twin.hour, twin.days = self.total, self.minute, self.hour, [*self.days]
        twin.slots = [Slot(*slot.encode()) for slot in self.slots]
        twin.buckets = [Bucket(*bucket.encode()) for bucket in self.buckets] or ()
        twin.places = self.places
        return twin

    @classmethod
    def decode(cls, data: list[Any]) -> Meter:
        meter = cls(data[0], data[1], data[2], 0)
        _, _, _, meter.total, meter.minute, meter.hour, days, slots, buckets, *places = data
        meter.days = [(day, total) for day, total in days]
        meter.slots = [Slot(*slot) for slot in slots]
        meter.buckets = [Bucket(*bucket) for bucket in buckets] or ()
        if places:
            meter.places = tuple([ThrottleRef(*place) for place in places[0]])
        return meter


class Record:
    """All slots of one party, so that several limits stay atomic in every store.

    ``at``: the latest instant charged; time never runs backwards for a record. ``floor``: nothing before it is
    remembered, so a call from before it is refused an answer. ``token`` tells this record from one forgotten earlier.
    ``version`` moves whenever anything but a plain charge changed the record. ``holds`` go by reservation id,
    ``requests`` by request_id, ``leases`` by name. ``refunds``: decision id -> until when it is remembered.
    ``overrides``: the subject's own limits, in place of those of the same names in its plans.
    """

    __slots__ = (
        "at", "due", "floor", "holds", "leases", "meters", "overrides", "refunds", "requests", "rows", "token",
        "version",
    )  # fmt: skip

    def __init__(self, token: int = 0, floor: int = 0) -> None:
        self.at = 0
        self.floor = floor
        self.token = token
        self.version = 0
        self.due: int | None = None
        self.meters: list[Meter] = []
        self.holds: dict[str, Hold] | None = None
        self.requests: dict[str, RememberedRequest] | None = None
        self.refunds: dict[str, int] | None = None
        self.rows: list[Day] | None = None
        self.leases: dict[str, Lease] | None = None
        self.overrides: tuple[Override, ...] = ()

    def meter(self, api: str, route: str, unit: str) -> Meter | None:
        for meter in self.meters:
            if meter.unit == unit and meter.route == route and meter.api == api:
                return meter
        return None

    def encode(self) -> list[Any]:
        """Lists, tuples, strings and integers only: JSON holds it exactly."""
        # Most records never have any: they pay nothing.
        leases = [self.leases or None, self.overrides] if self.overrides else [self.leases] if self.leases else []
        return [
            self.at, self.floor, self.token, self.version, self.due, [meter.encode() for meter in self.meters],
            self.holds, self.requests, self.refunds, self.rows, *leases,
        ]  # fmt: skip

    @classmethod
    def decode(cls, data: list[Any]) -> Record:
        record = cls()
        (record.at, record.floor, record.token, record.version, record.due, meters,
         holds, requests, record.refunds, rows, *more) = data  # fmt: skip
        leases, overrides = more[0] if more else None, more[1] if len(more) > 1 else ()
        record.meters = [Meter.decode(meter) for meter in meters]
        record.holds = holds and {id_: Hold.decode(hold) for id_, hold in holds.items()}
        record.requests = requests and {id_: RememberedRequest.decode(memo) for id_, memo in requests.items()}
        record.rows = rows and [Day(*row) for row in rows]
        record.leases = {name: Lease.decode(lease) for name, lease in leases.items()} if leases else None
        record.overrides = tuple(Override(*override) for override in overrides)
        return record

    def copy(self) -> Record:
        """A record of its own: changing one never changes the other."""
        twin = Record(self.token, self.floor)
        twin.at, twin.version, twin.due = self.at, self.version, self.due
        twin.meters = [meter.copy() for meter in self.meters]
        # An empty one is copied too: shared, it would take in what only one of the records holds.
        twin.holds = dict(self.holds or {}) or None
        twin.requests = dict(self.requests or {}) or None
        twin.refunds = dict(self.refunds or {}) or None
        twin.rows = list(self.rows or ()) or None
        twin.leases = dict(self.leases or {}) or None
        twin.overrides = self.overrides
        return twin

    def become(self, other: Record) -> None:
        """Take over another record's contents, as one change."""
        version = self.version + 1
        for field in Record.__slots__:
            setattr(self, field, getattr(other, field))
        self.version = version

    def metered(self, api: str, route: str, unit: str, now: int) -> Meter:
        """The meter of a unit, made when there is none."""
        meter = self.meter(api, route, unit)
        if meter is None:
            meter = Meter(api, route, unit, now // DAY_US)
            self.meters = [*self.meters, meter]  # appending would make room for three more in every key's record
            self.version += 1
        return meter

    def turn_minute(self, now: int) -> int:
        """Note the readings at the start of the minute and the hour of ``now``, before anything is taken in them.

        Returns when the next minute starts.
        """
        minute = now - now % MINUTE_US
        if self.at < minute:
            for meter in self.meters:
                meter.minute = meter.total
            if self.at < now - now % HOUR_US:
                for meter in self.meters:
                    meter.hour = meter.total
        return minute + MINUTE_US

    def stamp(self, now: int) -> None:
        """Something was taken or given at ``now``."""
        self.turn_minute(now)
        self.at = now

    def give_back(self, taken_at: int, takes: Iterable[Amount]) -> None:
        """Undo a take as though it had never been: windows that began later keep their count. Throttles keep theirs."""
        for api, route, unit, units in takes:
            meter = self.meter(api, route, unit)
            if meter is None:
                continue
            meter.total -= units
            for slot in [slot for slot in meter.slots if slot.since > taken_at]:
                slot.base -= units
            if self.at - self.at % MINUTE_US > taken_at:
                meter.minute -= units
            if self.at - self.at % HOUR_US > taken_at:
                meter.hour -= units
            meter.days = [(day, total - units if day * DAY_US > taken_at else total) for day, total in meter.days]
            name = api, route, unit
            self.rows = [d.without(units, taken_at) if d.meter == name else d for d in self.rows or ()] or None
        self.version += 1

    def open_until(self, taken_at: int, takes: Iterable[Amount], now: int) -> int:
        """The end of the last window that holds this take; 0 when none is left open."""
        until = 0
        for api, route, unit, _ in takes:
            meter = self.meter(api, route, unit)
            for slot in meter.slots if meter else ():
                if slot.since <= taken_at and now < slot.end:
                    until = max(until, slot.end)
        return until

    def hold(self, id_: str, expires: int, now: int, takes: Amounts) -> None:
        """Remember that a take made at ``now`` is only held, until ``expires``."""
        if self.holds is None:
            self.holds = {}
        closed = [old for old, (end, _, still, _) in self.holds.items() if not still and end + DAY_US < now]
        for old in closed:
            del self.holds[old]
        self.holds[id_] = Hold(expires, now, still_open=True, takes=takes)
        self.due = expires if self.due is None else min(self.due, expires)
        self.version += 1

    def release(self, id_: str) -> Hold | None:
        """Drop a hold and return it, if it is there."""
        hold = self.holds.pop(id_, None) if self.holds else None
        if hold is not None:
            self.find_due()
            self.version += 1
        return hold

    def find_due(self) -> None:
        """Note when the next hold lapses."""
        self.due = min((end for end, _, still, _ in (self.holds or {}).values() if still), default=None)

    def leased(self, meter: MeterName, day: int) -> int:
        """Units leased on a day that were not reported as spent."""
        leases = [lease for lease in (self.leases or {}).values() if lease.taken_at // DAY_US == day]
        return sum(take.units for lease in leases for take in lease.takes if take.meter == meter)

    def history(self) -> list[Day]:
        """The days of all quotas, the one that is not finished included."""
        rows = list(self.rows or ())
        for meter in self.meters:
            day, before = meter.days[-1]
            if meter.total != before:
                rows.extend(
                    Day(meter.api, meter.route, meter.unit, slot.name, day, slot.limit + slot.extra,
                        meter.total - before, meter.total - slot.base, slot.since)
                    for slot in meter.slots if slot.name and slot.end > day * DAY_US
                )  # fmt: skip
        return rows

    def dead_after(self, retention: int, late: int = 2) -> tuple[int, int]:
        """(when nothing here matters any more: windows late, buckets empty, history told; until when it counts)."""
        if not self.at:
            return _NEVER, 0  # it was forgotten: what takes its place may be refused an answer, which it is not
        dead = self.at + retention * DAY_US
        for override in self.overrides:
            dead = max(dead, _NEVER if override.until is None else override.until)
        floor = self.at + 1
        for meter in self.meters:
            for slot in meter.slots:
                dead = max(dead, slot.end + late * (slot.end - slot.start))
                floor = max(floor, slot.end)
            for bucket in meter.buckets:
                dead = max(dead, min(bucket.at - -bucket.level // bucket.drain, _NEVER))
            for place in meter.places:
                dead = max(dead, min(self.at - -place.burst // place.drain, _NEVER) if place.shared else 0)
        for hold in (self.holds or {}).values():
            dead = max(dead, hold.expires + DAY_US)
        for memo in (self.requests or {}).values():
            dead = max(dead, memo.until)
        for until in (self.refunds or {}).values():
            dead = max(dead, until)
        return dead, floor

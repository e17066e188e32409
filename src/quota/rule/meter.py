"""All that a record counts of one unit: plain mutable data and its encoded form.

A *meter* counts every unit taken of one (api, route, unit), under whatever plan; a quota's *window* remembers what its
meter read when the window began. So ``used = meter.total - window.base``, and no change of plan can lose or mint a
unit.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from ..clock import DAY_US
from .entries import Day, ThrottleRef
from .kept import Step


def numbers(found: Iterable[int]) -> Sequence[int]:
    """Numbers in 8 bytes each; a tuple where one is larger. Never changed: others take their place."""
    found = tuple(found)
    try:
        return array("q", found)
    except OverflowError:
        return found


_unused: dict[int, Sequence[int]] = {}
"""Days on which nothing was counted before: one each for all the meters that begin on them."""


class Window(NamedTuple):
    """One quota's current window, ``[start, end)``: ``base`` is what the meter read at ``since``.

    ``since`` is the start, unless the limit's period changed and what was used carried over, or the reading at the
    start was not known; or the end, where the window has ended and its limit was not called since.
    """

    name: str
    start: int
    end: int
    base: int
    extra: int
    alerted: int
    limit: int
    since: int

    def matters_until(self) -> int:
        """The end of its use: where it has ended, the window that follows may yet begin at its reading."""
        return self.end + max(2 * (self.end - self.start), 2 * DAY_US) if self.since == self.end else self.end


class Bucket:
    """One throttle's level at ``at``, in units times ``scale``, falling by ``drain`` each microsecond.

    ``shared_level``: how much of the level at ``since`` another bucket holds as well: what it began with, or has passed
    on.
    """

    __slots__ = ("at", "drain", "level", "name", "scale", "shared_level", "since")

    def __init__(
        self, name: str, scale: int, drain: int, level: int, at: int, shared_level: int = 0, since: int = 0
    ) -> None:
        self.name = name
        self.scale = scale
        self.drain = drain
        self.level = level
        self.at = at
        self.shared_level = shared_level
        self.since = since

    def encode(self) -> list[Any]:
        return [self.name, self.scale, self.drain, self.level, self.at, self.shared_level, self.since]

    def kind(self) -> tuple[Any, ...]:
        """Return all of it that a plain charge leaves as it is."""
        return self.name, self.scale, self.drain, self.shared_level, self.since


class Meter:
    """All ever taken of one unit (``total``), and its readings at the start of the last minute, hour, days.

    ``api``: the one that it counts, or all that it counts together (``apis.together``): what it reads is then the
    sum of the meters of each, whatever plan it was counted under.
    ``days``: a day, what was read as it began, the next day on which something was used, and so on. ``rows``: a quota,
    then four numbers for each of these days that is over: which, its limit, units used in its window and since when.
    ``throttle_refs``: of the unit's throttles in the plan that the key was last charged under; on its own meter of no
    route. Lists of these are never changed but replaced, so that copies share them.
    """

    __slots__ = (
        "api", "buckets", "days", "hour", "minute", "route", "rows", "throttle_refs", "total", "unit", "windows",
    )  # fmt: skip

    def __init__(self, api: str, route: str, unit: str, day: int) -> None:
        self.api = api
        self.route = route
        self.unit = unit
        self.total = 0
        self.minute = 0
        self.hour = 0
        self.days = _unused.setdefault(day, numbers((day, 0)))
        self.windows: tuple[Window, ...] = ()
        self.buckets: list[Bucket] | tuple[()] = ()
        self.throttle_refs: tuple[ThrottleRef, ...] = ()
        self.rows: tuple[Any, ...] = ()

    def window(self, name: str) -> Window | None:
        for window in self.windows:
            if window.name == name:
                return window
        return None

    def renew(self, window: Window, **fields: Any) -> Window:
        """Put a window with other values in a window's place."""
        new = window._replace(**fields)
        self.windows = tuple([new if other is window else other for other in self.windows])
        return new

    def bucket(self, name: str) -> Bucket | None:
        for bucket in self.buckets:
            if bucket.name == name:
                return bucket
        return None

    def readings(self) -> list[tuple[int, int]]:
        """Return the days of ``days``, each with what was read as it began."""
        return list(zip(self.days[::2], self.days[1::2], strict=True))

    def history(self) -> Iterator[Day]:
        """The days of its quotas that are over."""
        used = self.used()
        for name, rows in zip(self.rows[::2], self.rows[1::2], strict=True):
            for day, limit, window_used, since in _fours(rows):
                yield Day(self.api, self.route, self.unit, name, day, limit, used[day], window_used, since)

    def used(self) -> dict[int, int]:
        """Return the units taken by day, the one that is not finished included."""
        readings = [*self.readings(), (0, self.total)]
        return {day: after - before for (day, before), (_, after) in pairwise(readings)}

    def add_up(self, parts: Sequence[Meter], today: int) -> None:
        """Begin as the sum of these meters: from now on it counts whatever they do."""
        self.total = sum(part.total for part in parts)
        self.minute = sum(part.minute for part in parts)
        self.hour = sum(part.hour for part in parts)
        self.days = numbers((today, self.total - sum(part.used().get(today, 0) for part in parts)))

    def unfinished(self) -> list[Day]:
        """The day of each quota that is not finished, where something was used."""
        day, before = self.days[-2:]
        if self.total == before:
            return []
        return [
            Day(self.api, self.route, self.unit, window.name, day, window.limit + window.extra,
                self.total - before, self.total - window.base, window.since)
            for window in self.windows if window.name and window.end > day * DAY_US
        ]  # fmt: skip

    def begin_day(self, today: int, horizon: int) -> None:
        """Note what is read now, and forget the days before the horizon, but for what was read as that began."""
        rows = dict(zip(self.rows[::2], self.rows[1::2], strict=True))
        for row in self.unfinished():
            rows[row.name] = (*rows.get(row.name, ()), row.day, row.limit, row.window_used, row.since)
        kept = {name: [row for row in _fours(found) if row[0] >= horizon] for name, found in rows.items()}
        self.rows = tuple([part for name, found in kept.items() if found for part in (name, _joined(found))])
        days = self.readings()
        if self.total == days[-1][1]:
            days.pop()
        days.append((today, self.total))
        left = [entry for entry in days if entry[0] >= horizon]
        if len(left) < len(days) and left[0][0] > horizon:
            # Nothing was used from the day that is forgotten to the first that is kept.
            left.insert(0, (horizon, left[0][1]))
        self.days = _joined(left)

    def give_back(self, taken_at: int, units: int) -> None:
        """Undo a take as though it had never been, but for the readings of the minute and the hour."""
        self.total -= units
        if any(window.since > taken_at for window in self.windows):
            self.windows = tuple([s._replace(base=s.base - units) if s.since > taken_at else s for s in self.windows])
        first = taken_at // DAY_US
        if self.days[-2] * DAY_US <= taken_at:
            return
        self.days = _joined(
            (day, total - units if day * DAY_US > taken_at else total) for day, total in self.readings()
        )
        self.rows = tuple([
            part if type(part) is str else _joined(
                (day, limit, used - units if since <= taken_at and day >= first else used, since)
                for day, limit, used, since in _fours(part)
            )
            for part in self.rows
        ])  # fmt: skip

    def encode(self) -> list[Any]:
        """Return all but its days that are over, which the record has with the others'."""
        return [
            self.api, self.route, self.unit, self.total, self.minute, self.hour, self.readings(),
            self.windows, [bucket.encode() for bucket in self.buckets],
            *([self.throttle_refs] if self.throttle_refs else ()),
        ]  # fmt: skip

    @classmethod
    def decode(cls, data: list[Any], rows: Iterable[Day]) -> Meter:
        meter = cls(data[0], data[1], data[2], 0)
        _, _, _, meter.total, meter.minute, meter.hour, days, windows, buckets, *throttle_refs = data
        meter.days = _joined(days)
        meter.windows = tuple([Window(*window) for window in windows])
        meter.buckets = [Bucket(*bucket) for bucket in buckets] or ()
        if throttle_refs:
            meter.throttle_refs = tuple([ThrottleRef(*throttle_ref) for throttle_ref in throttle_refs[0]])
        found: dict[str, list[tuple[int, ...]]] = {}
        for row in rows:
            found.setdefault(row.name, []).append((row.day, row.limit, row.window_used, row.since))
        meter.rows = tuple([part for name, fours in found.items() for part in (name, _joined(fours))])
        return meter

    def copy(self) -> Meter:
        """Return a meter of its own: changing one never changes the other."""
        twin: Meter = Meter.__new__(Meter)
        twin.api, twin.route, twin.unit, twin.throttle_refs = self.api, self.route, self.unit, self.throttle_refs
        twin.total, twin.minute, twin.hour = self.total, self.minute, self.hour
        twin.days, twin.rows, twin.windows = self.days, self.rows, self.windows
        twin.buckets = [Bucket(*bucket.encode()) for bucket in self.buckets] if self.buckets else ()
        return twin

    def changes(self, new: Meter) -> tuple[list[Step], list[Step]]:
        """Return the steps that make it what its changed copy is: those that a plain charge takes, and the others."""
        plain: list[Step] = [
            (setattr, self, field, after)
            for field in ("total", "minute", "hour") if getattr(self, field) != (after := getattr(new, field))
        ]  # fmt: skip
        more: list[Step] = [
            (setattr, self, field, after)
            for field in ("windows", "days", "rows", "throttle_refs")
            if getattr(self, field) is not (after := getattr(new, field))
        ]  # fmt: skip
        if [bucket.kind() for bucket in self.buckets] != [bucket.kind() for bucket in new.buckets]:
            more.append((setattr, self, "buckets", new.buckets))
        else:
            for bucket, other in zip(self.buckets, new.buckets, strict=True):
                plain += [(setattr, bucket, "level", other.level), (setattr, bucket, "at", other.at)]
        return plain, more


def _fours(rows: Sequence[int]) -> Iterator[tuple[int, ...]]:
    """The rows of a quota: a day, its limit, units used in its window, since when."""
    return zip(*[iter(rows)] * 4, strict=True)


def _joined(rows: Iterable[Iterable[int]]) -> Sequence[int]:
    return numbers(number for row in rows for number in row)

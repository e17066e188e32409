"""An independent account of windows, by brute force, for the tests of periods.

Time zones come from ``whenever`` (its own reader of the database) as stretches of constant offset, and are walked;
calendar dates come from ``datetime.date`` and ``dateutil``, and are tried one by one.
"""

from __future__ import annotations

from bisect import bisect_right
from datetime import date, datetime, timedelta, timezone
from functools import lru_cache
from zoneinfo import available_timezones

from dateutil.relativedelta import relativedelta
from whenever import Instant

SECOND = 1_000_000
HOUR = 3600 * SECOND
DAY = 24 * HOUR
CLOCK = {"minute": 60 * SECOND, "hour": HOUR}
EPOCH = datetime(1970, 1, 1)
AWARE_EPOCH = EPOCH.replace(tzinfo=timezone.utc)

# What a system's directory has beyond the names of IANA, and what is no place: both are left out.
ZONES = sorted(available_timezones() - {"localtime", "posixrules", "Factory"})


def us(text: str) -> int:
    """Microseconds since the epoch of an ISO 8601 instant."""
    return (datetime.fromisoformat(text) - AWARE_EPOCH) // timedelta(microseconds=1)


def reading_of(local: datetime) -> int:
    """A naive local time, in microseconds since its own 1970-01-01."""
    return (local - EPOCH) // timedelta(microseconds=1)


class Timeline:
    """A zone from 1890 to 2045 as stretches of constant offset: ``starts[i]`` begins ``aheads[i]`` ahead of UTC."""

    def __init__(self, zone: str) -> None:
        at = Instant.from_utc(1890, 1, 1).to_tz(zone)
        self.starts, self.aheads = [-(2**62)], [round(at.offset.total("seconds")) * SECOND]
        while (at := at.next_transition()) is not None and at.year < 2045:
            ahead = round(at.offset.total("seconds")) * SECOND
            if ahead != self.aheads[-1]:
                self.starts.append(round(at.timestamp()) * SECOND)
                self.aheads.append(ahead)
        self.ends = [*self.starts[1:], 2**62]

    def transitions(self, first_year: int = 1900, last_year: int = 2040) -> list[int]:
        first, last = us(f"{first_year}-01-01T00:00Z"), us(f"{last_year}-12-31T00:00Z")
        return [start for start in self.starts if first <= start <= last]

    def reading(self, instant: int) -> int:
        """What the clock shows at an instant."""
        return instant + self.aheads[bisect_right(self.starts, instant) - 1]

    def first_at_or_past(self, reading: int) -> int:
        """The first instant when the clock shows a reading or a later one."""
        for i in range(bisect_right(self.starts, reading - 3 * DAY) - 1, len(self.starts)):
            instant = max(self.starts[i], reading - self.aheads[i])
            if instant < self.ends[i]:
                return instant
        raise AssertionError("the last stretch never ends")

    def first_shown(self, reading: int) -> int:
        """RFC 5545, 3.3.5: the first instant that shows a reading; a skipped one as if the clock had not moved."""
        nearby = range(bisect_right(self.starts, reading - 3 * DAY) - 1, bisect_right(self.starts, reading + 3 * DAY))
        for i in nearby:
            if self.starts[i] <= reading - self.aheads[i] < self.ends[i]:
                return reading - self.aheads[i]
        for i in nearby:
            if self.starts[i] + self.aheads[i - 1] <= reading < self.starts[i] + self.aheads[i]:
                return reading - self.aheads[i - 1]
        raise AssertionError("shown or skipped: there is no third way")


timeline = lru_cache(None)(Timeline)


@lru_cache(None)
def distinct_zones() -> list[str]:
    """One zone of each history: most names are links to others."""
    return list({tuple(zip(timeline(zone).starts, timeline(zone).aheads)): zone for zone in ZONES}.values())


def begins(day: date, every: str, count: int, offset: int) -> bool:
    """Whether a window without an anchor begins on a date."""
    day -= timedelta(days=offset)
    if every == "day":
        return (day - date(1970, 1, 1)).days % count == 0
    if every == "week":
        return day.isoweekday() == 1 and (day - date(1970, 1, 5)).days // 7 % count == 0
    if every == "month":
        return day.day == 1 and ((day.year - 1) * 12 + day.month - 1) % count == 0
    return day.day == day.month == 1 and (day.year - 1) % count == 0


def _clock_edges(line: Timeline, now: int, length: int) -> tuple[int, int]:
    nearby = line.aheads[bisect_right(line.starts, now - 2 * DAY) - 1 : bisect_right(line.starts, now + 2 * DAY)]
    reach = length + max(nearby) - min(nearby)
    k, last = (line.reading(now) - reach) // length, (line.reading(now) + reach) // length + 1
    edges = {line.first_at_or_past(i * length) for i in range(k, last + 1)}
    start, end = max(e for e in edges if e <= now), min(e for e in edges if e > now)
    while end - start >= 2 * length:  # readings that were repeated
        start, end = (start, start + length) if now < start + length else (start + length, end)
    return start, end


def _calendar_edges(line: Timeline, now: int, every: str, count: int, offset: int) -> tuple[int, int]:
    day = (EPOCH + timedelta(microseconds=line.reading(now))).date() + timedelta(days=2)
    end = None
    while True:
        if begins(day, every, count, offset):
            edge = line.first_at_or_past(reading_of(datetime(day.year, day.month, day.day)))
            if edge <= now:
                start = edge
                break
        day -= timedelta(days=1)
    while end is None:
        day += timedelta(days=1)
        if begins(day, every, count, offset):
            edge = line.first_at_or_past(reading_of(datetime(day.year, day.month, day.day)))
            end = edge if edge > now else None
            start = start if edge > now else edge
    return start, end


def _anchored_edges(line: Timeline, now: int, every: str, count: int, anchor: int) -> tuple[int, int]:
    local = EPOCH + timedelta(microseconds=line.reading(anchor))
    days = {"day": 1, "week": 7, "month": 30.436875, "year": 365.2425}[every] * count
    near = round((now - anchor) / (days * DAY))
    edges = {
        anchor if n == 0 else line.first_shown(reading_of(local + relativedelta(**{f"{every}s": n * count})))
        for n in range(near - 3, near + 4)
    }
    return max(e for e in edges if e <= now), min(e for e in edges if e > now)


def window_by_hand(
    zone: str, now: int, every: str, count: int = 1, offset: int = 0, anchor: int | None = None
) -> tuple[int, int]:
    """The window around an instant of 1895 to 2040, found by trying."""
    line = timeline(zone)
    if every in CLOCK:
        length = CLOCK[every] * count
        if anchor is None:
            return _clock_edges(line, now, length)
        past = (now - anchor) // length
        return anchor + past * length, anchor + (past + 1) * length
    if anchor is None:
        return _calendar_edges(line, now, every, count, offset)
    return _anchored_edges(line, now, every, count, anchor)

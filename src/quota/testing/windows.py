"""The model's calendar windows, computed from dates alone."""

from __future__ import annotations

from calendar import monthrange
from datetime import datetime, timedelta, timezone

import attrs

from ..period import Period

DAY = 86_400_000_000
PER = {"second": 1_000_000, "minute": 60_000_000, "hour": 3_600_000_000, "day": DAY}
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


@attrs.define(eq=False)
class Window:
    """A quota's window; everything since ``since`` counts in it."""

    start: int
    end: int
    since: int
    extra: int = 0
    alerted: int = 0


def window(period: Period, now: int) -> tuple[int, int]:
    """The calendar window around an instant: in UTC, in Kolkata (always 5:30 ahead) or from an anchor."""
    if period.anchor is not None:
        return _anchored(period.every, period.anchor, now)
    if period.count > 1:  # a century
        return _us(datetime(2001, 1, 1, tzinfo=timezone.utc)), _us(datetime(2101, 1, 1, tzinfo=timezone.utc))
    ahead = 19_800_000_000 if period.zone == "Asia/Kolkata" else 0
    start, end = _calendar(period.every, now + ahead)
    return start - ahead, end - ahead


def _anchored(every: str, anchor: datetime, now: int) -> tuple[int, int]:
    """From an instant on, day by day or month by month: the 31st comes back after February."""
    if every == "day":
        start = now - (now - _us(anchor)) % DAY
        return start, start + DAY
    end = 0
    for months in range(12 * 30):
        year, month = divmod(12 * anchor.year + anchor.month - 1 + months, 12)
        last = monthrange(year, month + 1)[1]
        start, end = end, _us(anchor.replace(year=year, month=month + 1, day=min(anchor.day, last)))
        if now < end:
            break
    return start, end


def _calendar(every: str, now: int) -> tuple[int, int]:
    if every in ("minute", "hour"):
        return now - now % PER[every], now - now % PER[every] + PER[every]
    day = (_EPOCH + timedelta(microseconds=now)).replace(hour=0, minute=0, second=0, microsecond=0)
    if every == "week":
        day -= timedelta(days=day.weekday())
    start = {"day": day, "week": day, "month": day.replace(day=1), "year": day.replace(month=1, day=1)}[every]
    later = {"day": 1, "week": 7, "month": 31, "year": 366}[every]
    end = start + timedelta(days=later)
    if every in ("month", "year"):
        end = end.replace(day=1)
    return _us(start), _us(end)


def _us(instant: datetime) -> int:
    return (instant - _EPOCH) // timedelta(microseconds=1)

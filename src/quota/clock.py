"""Time: any callable that returns integer microseconds since the epoch. The only module that reads a wall clock."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from functools import partial

from .errors import InvalidValue

Clock = Callable[[], int]
"""Any callable returning integer microseconds since the Unix epoch (UTC)."""

EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
MICROSECOND = timedelta(microseconds=1)
DAY_US = 86_400_000_000

if hasattr(time, "clock_gettime"):
    monotonic: Callable[[], float] = partial(time.clock_gettime, time.CLOCK_MONOTONIC)
else:  # pragma: no cover -- Windows
    monotonic = partial(time.monotonic)
"""Bounds waits (``StoreBusy``); never decides an admission. What freezes time in tests puts its own in the place of
``time.monotonic``, wherever a module has it, and a deadline of that would never come."""

pause = time.sleep
"""Waits for others' turns, in seconds."""


def system_clock() -> int:
    """The system's wall clock, in microseconds. ``time.time_ns`` is looked up at each call, so frozen time is seen."""
    return time.time_ns() // 1000


def to_us(instant: datetime, field: str = "instant") -> int:
    """Microseconds since the epoch of an aware datetime, exactly.

    Raises:
        InvalidValue: for anything but a timezone-aware datetime.
    """
    if not isinstance(instant, datetime) or instant.utcoffset() is None:
        raise InvalidValue(field, instant, "a timezone-aware datetime")
    return (instant - EPOCH) // MICROSECOND


def to_datetime(instant_us: int) -> datetime:
    """The aware UTC datetime of microseconds since the epoch, exactly; of what is beyond them all, the nearest."""
    try:
        return EPOCH + timedelta(microseconds=instant_us)
    except OverflowError:
        if instant_us < 0:
            return datetime.min.replace(tzinfo=timezone.utc)
        return datetime.max.replace(tzinfo=timezone.utc)


def span_us(span: timedelta | int, field: str) -> int:
    """A length of time in microseconds, given as a timedelta or as whole microseconds."""
    if isinstance(span, timedelta):
        return span // MICROSECOND
    if type(span) is int:
        return span
    raise InvalidValue(field, span, "a timedelta or whole microseconds")


class ManualClock:
    """A clock that moves only when told; for tests, replays and simulations.

    ``start`` is a timezone-aware datetime or microseconds since the epoch. ``readings`` counts how often it was read.
    """

    __slots__ = ("_now_us", "readings")

    def __init__(self, start: datetime | int) -> None:
        self.readings = 0
        self.set(start)

    def __call__(self) -> int:
        self.readings += 1
        return self._now_us

    def set(self, instant: datetime | int) -> None:
        """Move to an instant, forwards or backwards: an aware datetime, or microseconds since the epoch."""
        self._now_us = instant if type(instant) is int else to_us(instant, "instant")  # type: ignore[arg-type]

    def advance(self, span: timedelta | int) -> None:
        """Move by a timedelta or by microseconds; a negative span steps the clock back."""
        self._now_us += span_us(span, "span")

    def __repr__(self) -> str:
        return f"ManualClock({to_datetime(self._now_us).isoformat()})"

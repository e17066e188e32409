"""Calendar periods: half-open windows that tile the timeline in every IANA zone, through every transition."""

from __future__ import annotations

import re
from calendar import monthrange
from datetime import date, datetime, time, timedelta, timezone, tzinfo
from typing import Any

import attrs

from .clock import EPOCH, MICROSECOND, to_us
from .errors import InvalidPlan

_UNITS = ("minute", "hour", "day", "week", "month", "year")
_FIXED_US = {"minute": 60_000_000, "hour": 3_600_000_000}
_OFFSETS = {"week": 6, "month": 27}
_WORDS = {"m": "minute", "min": "minute", "h": "hour", "d": "day", "w": "week", "mo": "month", "y": "year"}
_MONDAY = date(1970, 1, 5).toordinal()
_UTC: tzinfo = timezone.utc
_TEXT = re.compile(
    r"(?:(?P<count>\S+)\s+)?(?P<every>[^\s]+)(?:\s+in\s+(?P<zone>\S+))?(?:\s+offset\s+(?P<offset>\S+))?"
    r"(?:\s+from\s+(?P<anchor>\S+))?\s*\Z"
)


def _zone(name: object) -> tzinfo:
    if name == "UTC":
        return _UTC
    from zoneinfo import ZoneInfo  # noqa: PLC0415 -- UTC needs none of it

    try:
        return ZoneInfo(name)  # type: ignore[arg-type] # a wrong type is what is being found out
    except (TypeError, ValueError, OSError, LookupError):
        raise InvalidPlan("zone", name, "an IANA time zone such as 'Europe/Paris'") from None


@attrs.frozen
class Period:
    """Windows of ``count`` calendar units ``every``: minute, hour, day, week (from Monday), month or year."""

    every: str
    count: int = attrs.field(default=1, kw_only=True)
    zone: str = attrs.field(default="UTC", kw_only=True)
    offset: int = attrs.field(default=0, kw_only=True)
    anchor: datetime | None = attrs.field(default=None, kw_only=True)
    _tz: tzinfo = attrs.field(init=False, eq=False, repr=False)
    _current: tuple[int, int] = attrs.field(init=False, eq=False, repr=False, default=(0, 0))

    def __attrs_post_init__(self) -> None:
        if self.every not in _UNITS:
            raise InvalidPlan("period", self.every, f"one of {', '.join(_UNITS)}")
        if type(self.count) is not int or not 1 <= self.count <= 1000:
            raise InvalidPlan("count", self.count, "a whole number from 1 to 1000")
        highest = _OFFSETS.get(self.every, 0)
        if type(self.offset) is not int or not 0 <= self.offset <= highest:
            raise InvalidPlan("offset", self.offset, f"whole days from 0 to {highest} for a {self.every}")
        if self.anchor is not None:
            to_us_plan(self.anchor)
            if self.offset:
                raise InvalidPlan("offset", self.offset, "0 where an anchor says when cycles begin")
        object.__setattr__(self, "_tz", _zone(self.zone))

    def window(self, now_us: int) -> tuple[int, int]:
        """The window ``[start, end)`` that holds an instant, in microseconds since the epoch."""
        current = self._current
        if current[0] <= now_us < current[1]:
            return current
        current = self._window(now_us)
        object.__setattr__(self, "_current", current)
        return current

    def _window(self, now_us: int) -> tuple[int, int]:
        if self.every in _FIXED_US:
            length = _FIXED_US[self.every] * self.count
            origin = to_us(self.anchor) if self.anchor else 0
            start = now_us - (now_us - origin) % length
            return start, start + length
        n = self._guess(now_us)
        while self._boundary(n) > now_us:
            n -= 1
        while self._boundary(n + 1) <= now_us:
            n += 1
        return self._boundary(n), self._boundary(n + 1)

    def _origin(self) -> datetime:
        if self.anchor is not None:
            return self.anchor.astimezone(self._tz)
        first = date.fromordinal(_MONDAY) if self.every == "week" else date(1970, 1, 1)
        return datetime.combine(first + timedelta(days=self.offset), time(), self._tz)

    def _guess(self, now_us: int) -> int:
        local = (EPOCH + timedelta(microseconds=now_us)).astimezone(self._tz)
        origin = self._origin()
        if self.every in ("month", "year"):
            months = (local.year - origin.year) * 12 + local.month - origin.month
            return months // (self.count * (12 if self.every == "year" else 1))
        days = local.date().toordinal() - origin.date().toordinal()
        return days // (self.count * (7 if self.every == "week" else 1))

    def _boundary(self, n: int) -> int:
        origin = self._origin()
        if self.every in ("month", "year"):
            months = origin.year * 12 + origin.month - 1 + n * self.count * (12 if self.every == "year" else 1)
            year, month = divmod(months, 12)
            day = date(year, month + 1, min(origin.day, monthrange(year, month + 1)[1]))
        else:
            day = date.fromordinal(origin.date().toordinal() + n * self.count * (7 if self.every == "week" else 1))
        local = datetime.combine(day, origin.time(), self._tz)
        return (local.astimezone(timezone.utc) - EPOCH) // MICROSECOND

    def __str__(self) -> str:
        text = self.every if self.count == 1 else f"{self.count} {self.every}"
        text += f" in {self.zone}" if self.zone != "UTC" else ""
        text += f" offset {self.offset}" if self.offset else ""
        return text + (f" from {self.anchor.isoformat()}" if self.anchor else "")

    def __getstate__(self) -> dict[str, Any]:
        return {f: getattr(self, f) for f in ("every", "count", "zone", "offset", "anchor")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]


def to_us_plan(anchor: object) -> None:
    if not isinstance(anchor, datetime) or anchor.utcoffset() is None:
        raise InvalidPlan("anchor", anchor, "a timezone-aware datetime")


def parse_period(text: str) -> Period:
    """The period that ``str()`` of it wrote; plurals and short forms are understood."""
    found = _TEXT.match(text.strip()) if isinstance(text, str) else None
    if found is None:
        raise InvalidPlan("period", text, "such as 'day', '15 minute', 'month in Europe/Paris', 'week offset 2'")
    every = found["every"]
    every = _WORDS.get(every, every[:-1] if every.endswith("s") and every[:-1] in _UNITS else every)
    anchor = None
    if found["anchor"]:
        try:
            anchor = datetime.fromisoformat(found["anchor"])
        except ValueError:
            raise InvalidPlan("anchor", found["anchor"], "an ISO 8601 instant with its offset") from None
    return Period(every, count=_whole("count", found["count"] or "1"), zone=found["zone"] or "UTC",
                  offset=_whole("offset", found["offset"] or "0"), anchor=anchor)  # fmt: skip


def _whole(field: str, text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 4:
        raise InvalidPlan(field, text, "a whole number")
    return int(text)

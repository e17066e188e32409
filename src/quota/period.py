"""Calendar periods: half-open windows that tile the timeline in every IANA zone, through every transition.

All arithmetic is on integer microseconds: *instants* since the Unix epoch, and *readings*, what a zone's clock shows,
since that clock showed 1970-01-01T00:00. Only a zone's offset is asked of datetime; in UTC nothing is.

Windows are instants, not labels: a start that was stored stays comparable whatever becomes of the zone. When a new
release of the time zone database moves a boundary, the stored window and the new one share the instant that is asked
about, so what was used carries over (see ``charge.py``) and no window is split.
"""

from __future__ import annotations

import re
from datetime import datetime, timedelta, timezone, tzinfo
from typing import Any

import attrs

from .clock import DAY_US, EPOCH, MICROSECOND, to_us
from .errors import InvalidPlan, InvalidValue

FIRST_US = -62_135_596_800_000_000
"""The first instant that has a window: 0001-01-01T00:00Z."""
LAST_US = 253_402_300_800_000_000
"""The end of the last window: the year 10000, which datetime cannot hold any more."""

_LENGTHS = {"minute": 60_000_000, "hour": 3_600_000_000, "day": DAY_US, "week": 7 * DAY_US}
_MONTHS = {"month": 1, "year": 12}
_CLOCK = ("minute", "hour")
_UNITS = (*_LENGTHS, *_MONTHS)
_OFFSETS = {"week": 6, "month": 27}
_MONDAY_US = 4 * DAY_US
_MOST = _LONGEST = 1000
_SHORT = {"second": "s sec secs", "minute": "m min mins", "hour": "h hr hrs", "day": "d", "week": "w", "month": "mo",
          "year": "y yr"}  # fmt: skip
WORDS = {word: unit for unit, short in _SHORT.items() for word in (unit, f"{unit}s", *short.split())}
"""Every way to write a unit of time, in quotas and in throttles."""
_OPTIONS = {"in": "zone", "offset": "offset", "from": "anchor"}
_ZONE = r"[A-Za-z0-9_+-]+(?:/[A-Za-z0-9_+-]+)*"
_NOT_IANA = r"localtime|posixrules|(?:posix|right)/.*"
_ANCHOR = (
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}(?::[0-9]{2}(?:\.[0-9]{3}(?:[0-9]{3})?)?)?"
    r"(?:Z|[+-][0-9]{2}:[0-9]{2}(?::[0-9]{2})?)"
)


@attrs.frozen
class Period:
    """Calendar windows of ``count`` units ``every``: minute, hour, day, week (from Monday), month or year.

    ``zone`` is the IANA time zone whose calendar and clock count. ``offset`` moves the boundary of weeks (0 to 6) and
    months (0 to 27) by whole days, as API Gateway does. ``anchor``, an aware datetime, begins billing cycles at that
    instant, and on its local day and time ever after and before: counted from the anchor and clamped to the month's
    end, so the 31st comes back after February.

    Without an anchor, windows of several units are counted from a fixed origin on the zone's clock: minutes, hours and
    days from 1970-01-01T00:00, weeks from Monday 1970-01-05, months and years from January of year 1.

    Where clocks change: a window begins at the first instant when the zone's clock shows its beginning or has jumped
    past it. A day may last 23 or 25 hours; a date that a zone skipped has no window. So hours and minutes begin where
    the users' clocks show them (half past, by UTC, in Kolkata; ``6 hour`` at 0, 6, 12 and 18 through summer time
    too), and those that a clock set back repeats are windows of their own: hours are hours, and never two in one.
    From an anchor, days and longer follow RFC 5545 (a repeated time is its first occurrence, a skipped one is read as
    if the clock had not moved yet), and minutes and hours are elapsed time.

    Raises:
        InvalidPlan: naming the field that cannot be meant.
    """

    every: str
    count: int = attrs.field(default=1, kw_only=True)
    zone: str = attrs.field(default="UTC", kw_only=True)
    offset: int = attrs.field(default=0, kw_only=True)
    anchor: datetime | None = attrs.field(default=None, kw_only=True)
    _tz: tzinfo | None = attrs.field(init=False, eq=False, repr=False)
    _origin: int = attrs.field(init=False, eq=False, repr=False)
    _into: int = attrs.field(init=False, eq=False, repr=False)
    _current: tuple[int, int] = attrs.field(init=False, eq=False, repr=False, default=(0, 0))

    def __attrs_post_init__(self) -> None:
        if type(self.every) is not str or self.every not in _UNITS:
            raise InvalidPlan("every", self.every, f"one of {', '.join(_UNITS)}")
        if type(self.count) is not int or not 1 <= self.count <= _MOST:
            raise InvalidPlan("count", self.count, f"a whole number from 1 to {_MOST}")
        tz = _load(self.zone)
        highest = 0 if self.anchor is not None else _OFFSETS.get(self.every, 0)
        if type(self.offset) is not int or not 0 <= self.offset <= highest:
            raise InvalidPlan("offset", self.offset, _accepted_offset(self.every, self.anchor))
        anchor = None if self.anchor is None else _fixed(self.anchor, tz)
        object.__setattr__(self, "_tz", tz)
        object.__setattr__(self, "anchor", anchor)
        self._set_origin(anchor)

    def _set_origin(self, anchor: datetime | None) -> None:
        """Where window 0 begins: a reading, or an instant for elapsed time; for months, a month and how far into it."""
        into = self.offset * DAY_US
        if anchor is None:
            origin = into + (_MONDAY_US if self.every == "week" else 0) if self.every in _LENGTHS else 0
        elif self.every in _LENGTHS:
            origin = to_us(anchor if self.every in _CLOCK else anchor.replace(tzinfo=timezone.utc))
        else:
            origin = (anchor.year - 1) * 12 + anchor.month - 1
            into = to_us(anchor.replace(tzinfo=timezone.utc)) - _month_us(origin)
        object.__setattr__(self, "_origin", origin)
        object.__setattr__(self, "_into", into)

    def window(self, now_us: int) -> tuple[int, int]:
        """The window ``[start, end)`` around an instant, all in microseconds since the epoch.

        The current window is remembered, so that asking within it again costs two comparisons. Windows are clipped to
        what a datetime can hold: the years 1 to 9999, UTC.

        Raises:
            InvalidValue: for an instant that is not a whole number, or outside of these years.
        """
        current = self._current
        try:
            if current[0] <= now_us < current[1]:
                return current
        except TypeError:
            pass  # told below
        if type(now_us) is not int or not FIRST_US <= now_us < LAST_US:
            raise InvalidValue("now_us", now_us, "whole microseconds since the epoch, of the years 1 to 9999")
        start, end = self._find(now_us)
        current = max(start, FIRST_US), min(end, LAST_US)
        object.__setattr__(self, "_current", current)  # one reference: a thread sees the old window or the new one
        return current

    @property
    def length_us(self) -> int | None:
        """The length that every window has, in microseconds; None where lengths differ, as months and local days do."""
        if self.every in _LENGTHS and (self._tz is None or (self.anchor is not None and self.every in _CLOCK)):
            return _LENGTHS[self.every] * self.count
        return None

    def _find(self, now: int) -> tuple[int, int]:
        regular = self.length_us
        if regular is not None:
            start = now - (now - self._origin) % regular
            return start, start + regular
        length = _LENGTHS.get(self.every, 0) * self.count
        reading = _furthest(self._tz, now)
        if length:
            n = (reading - self._origin) // length
        else:
            n = (_month(reading) - self._origin) // (_MONTHS[self.every] * self.count)
        while (start := self._begin(n)) > now:
            n -= 1  # pragma: no mutate -- what goes too far comes back below
        while (end := self._begin(n + 1)) <= now:
            n, start = n + 1, end
        return _split(start, end, length, now) if length else (start, end)

    def _begin(self, n: int) -> int:
        """The instant when window ``n`` begins."""
        if self.anchor is not None and n == 0:
            return to_us(self.anchor)
        if self.every in _LENGTHS:
            reading = self._origin + n * _LENGTHS[self.every] * self.count
        else:
            month = self._origin + n * _MONTHS[self.every] * self.count
            last_day = _month_us(month + 1) - DAY_US
            reading = min(_month_us(month) + self._into, last_day + self._into % DAY_US)
        return _shown(self._tz, reading, past_gap=self.anchor is None)

    def __str__(self) -> str:
        text = self.every if self.count == 1 else f"{self.count} {self.every}"
        text += f" in {self.zone}" if self.zone != "UTC" else ""
        text += f" offset {self.offset}" if self.offset else ""
        return text + (f" from {self.anchor.isoformat()}" if self.anchor is not None else "")

    def __getstate__(self) -> dict[str, Any]:
        """The public fields alone: the window remembered here may not be one of the time zone data there."""
        return {field: getattr(self, field) for field in ("every", "count", "zone", "offset", "anchor")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc] # the one way to build a frozen object


def parse_period(text: str) -> Period:
    """The period of a text as ``str()`` of it writes: ``[COUNT ]PERIOD [in ZONE] [offset DAYS] [from ANCHOR]``.

    Plurals (``days``) and short forms (``m min h d w mo y`` and the like) are understood too.

    Raises:
        InvalidPlan: whose ``value`` is the word that cannot be meant.
    """
    if not isinstance(text, str) or not text.strip() or len(text) > _LONGEST:
        raise InvalidPlan("period", text, "such as 'day', '15 minute', 'month in Europe/Paris' or 'week offset 2'")
    words = text.split()
    fields: dict[str, Any] = {}
    if words[0][0] in "+-.0123456789":
        fields["count"] = _whole("count", words.pop(0), _MOST)
    every = words.pop(0) if words else text.strip()
    if WORDS.get(every) not in _UNITS:
        raise InvalidPlan("period", every, f"one of {', '.join(_UNITS)}, or a throttle such as '10/s burst 20'")
    while words:
        word = words.pop(0)
        if word not in _OPTIONS or _OPTIONS[word] in fields:
            raise InvalidPlan("period", word, "'in ZONE', 'offset DAYS' or 'from ANCHOR', each once")
        field = _OPTIONS[word]
        if not words:
            raise InvalidPlan(field, word, f"a word after {word!r}")
        fields[field] = words.pop(0)
    if "offset" in fields:
        fields["offset"] = _whole("offset", fields["offset"], max(_OFFSETS.values()))
    if "anchor" in fields:
        fields["anchor"] = _instant(fields["anchor"])
    return Period(WORDS[every], **fields)


def _whole(field: str, word: str, highest: int) -> int:
    if not word.isascii() or not word.isdigit() or len(word) > len(str(highest)):
        raise InvalidPlan(field, word, f"a whole number, at most {highest}")
    return int(word)


def _instant(word: str) -> datetime:
    try:
        if re.fullmatch(_ANCHOR, word):
            return datetime.fromisoformat(word)
    except ValueError:
        pass
    raise InvalidPlan("anchor", word, "an ISO 8601 instant with its offset, such as 2026-01-31T09:00:00+01:00")


def _accepted_offset(every: str, anchor: object) -> str:
    if anchor is not None:
        return "0 days where an anchor says when cycles begin"
    return f"whole days from 0 to {_OFFSETS[every]} for a {every}" if every in _OFFSETS else f"0 days for a {every}"


def _load(zone: object) -> tzinfo | None:
    """The zone's rules; None for UTC, which needs none."""
    accepted = "an IANA time zone such as 'Europe/Paris', known to this system or to the tzdata package"
    if type(zone) is str and zone == "UTC":
        return None
    if type(zone) is not str or not re.fullmatch(_ZONE, zone) or re.fullmatch(_NOT_IANA, zone):
        raise InvalidPlan("zone", zone, accepted)
    from zoneinfo import ZoneInfo  # noqa: PLC0415 -- who stays in UTC need not pay for it

    try:
        return ZoneInfo(zone)
    except (LookupError, OSError, ValueError):
        raise InvalidPlan("zone", zone, accepted) from None


def _fixed(anchor: datetime, tz: tzinfo | None) -> datetime:
    """The anchor as the zone's clock shows it, with a fixed offset: one form for one instant, whatever it came in."""
    try:
        instant = to_us(anchor)
        ahead = timedelta(microseconds=_ahead(tz, instant))
        return (EPOCH + timedelta(microseconds=instant)).astimezone(timezone(ahead))
    except (InvalidValue, OverflowError):
        raise InvalidPlan("anchor", anchor, "a timezone-aware datetime of the years 1 to 9999") from None


def _split(start: int, end: int, length: int, now: int) -> tuple[int, int]:
    """A window that a clock set back made longer, as whole windows; the last one keeps the rest."""
    last = max((end - start) // length, 1) - 1
    nth = min((now - start) // length, last)
    start += nth * length
    return start, end if nth == last else start + length


def _month_us(month: int) -> int:
    """The reading at which a month begins; month 0 is January of year 1.

    The arithmetic is Howard Hinnant's days_from_civil: years that begin in March end in the leap day.
    """
    year, since_march = divmod(month + 10, 12)
    return (365 * year + year // 4 - year // 100 + year // 400 + (153 * since_march + 2) // 5 - 719_468) * DAY_US


def _month(reading: int) -> int:
    """The month of a reading, give or take one: 400 years are 4800 months and 146097 days."""
    return (reading - FIRST_US) * 4800 // (146_097 * DAY_US)


_EARLIEST, _LATEST = FIRST_US + 2 * DAY_US, LAST_US - 2 * DAY_US
"""No zone's rules begin or change nearer to the ends of datetime's range, where its arithmetic would overflow."""


def _ahead(tz: tzinfo | None, instant: int) -> int:
    """Return how far ahead of UTC a zone's clock is at an instant."""
    if tz is None:
        return 0
    utc = EPOCH + timedelta(microseconds=min(max(instant, _EARLIEST), _LATEST))
    return utc.astimezone(tz).utcoffset() // MICROSECOND  # type: ignore[operator] # it is aware


def _ahead_showing(tz: tzinfo | None, reading: int) -> int:
    """Return how far ahead of UTC a zone's clock is when it first shows a reading, or just before it skips that."""
    local = EPOCH.replace(tzinfo=tz) + timedelta(microseconds=min(max(reading, _EARLIEST), _LATEST))
    return local.utcoffset() // MICROSECOND  # type: ignore[operator] # it is aware


def _shown(tz: tzinfo | None, reading: int, *, past_gap: bool) -> int:
    """The first instant when a zone's clock shows a reading.

    A reading that is skipped is found as if the clock had not moved yet, or where the clock jumps past it.
    """
    if tz is None:
        return reading
    instant = reading - _ahead_showing(tz, reading)
    return _turn(tz, reading - _ahead(tz, instant), instant) if past_gap else instant


def _furthest(tz: tzinfo | None, now: int) -> int:
    """The furthest that a zone's clock has shown up to now: not what it shows while it repeats what it showed."""
    if tz is None:
        return now
    ahead = _ahead(tz, now)
    # A reading near it does too: where nothing turned, what follows comes to the same.
    before = _ahead_showing(tz, now + ahead)  # pragma: no mutate
    if before <= ahead:
        return now + ahead
    since = now - (before - ahead)  # pragma: no mutate -- or any instant before it and after another turn
    return _turn(tz, since, now) + before - 1


def _turn(tz: tzinfo, before: int, after: int) -> int:
    """The instant between two at which a zone's clock is changed."""
    ahead = _ahead(tz, after)
    while after - before > 1:
        middle = (before + after) // 2
        if _ahead(tz, middle) == ahead:
            after = middle
        else:
            before = middle
    return after

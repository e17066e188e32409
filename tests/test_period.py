"""Windows: what each period's are, that they tile the timeline everywhere, their text, their cache, their mistakes."""

from __future__ import annotations

import copy
import json
import os
import pickle
import subprocess
import sys
from datetime import datetime, timedelta, timezone, tzinfo
from enum import StrEnum
from zoneinfo import ZoneInfo

import attrs
import pytest
from dateutil.relativedelta import relativedelta
from hypothesis import assume, example, given
from hypothesis import strategies as st
from whenever import Instant

from quota import Ledger
from quota import period as module
from quota.clock import ManualClock, to_datetime, to_us
from quota.errors import InvalidPlan, InvalidValue
from quota.limit import Quota
from quota.period import FIRST_US, LAST_US, Period, parse_period
from quota.plan import UsagePlan
from scheduler import Found, explore
from timeline import DAY, HOUR, SECOND, ZONES, timeline, us, window_by_hand

UNITS = ["minute", "hour", "day", "week", "month", "year"]
NOON = us("2026-03-01T12:00Z")
MINUTE = 60 * SECOND
EVENTFUL = [
    "UTC", "Africa/Cairo", "Africa/Casablanca", "Africa/Monrovia", "America/Anchorage", "America/Argentina/San_Luis",
    "America/Havana", "America/Juneau", "America/New_York", "America/Nuuk", "America/Sao_Paulo", "America/St_Johns",
    "America/Toronto", "Antarctica/Troll", "Asia/Beirut", "Asia/Gaza", "Asia/Kolkata", "Asia/Manila", "Asia/Pyongyang",
    "Atlantic/Azores", "Australia/Lord_Howe", "Europe/Dublin", "Europe/Paris", "Pacific/Apia", "Pacific/Chatham",
    "Pacific/Guam", "Pacific/Kiritimati", "Pacific/Kwajalein",
]  # fmt: skip

zones = st.sampled_from(EVENTFUL) | st.sampled_from(ZONES)
moments = st.integers(us("1895-01-01T00:00Z"), us("2039-12-31T00:00Z"))
anchors = st.integers(us("1900-01-01T00:00Z"), us("2035-12-31T00:00Z")).map(to_datetime)
nudges = st.sampled_from([0, -1, 1]) | st.integers(-2 * DAY, 2 * DAY)


@st.composite
def periods(draw):
    """Any valid period, with or without an anchor."""
    every = draw(st.sampled_from(UNITS))
    anchor = draw(st.none() | anchors)
    highest = {"week": 6, "month": 27}.get(every, 0) if anchor is None else 0
    count = draw(st.just(1) | st.integers(1, 1000 if every in ("minute", "hour") else 40))
    return Period(every, count=count, zone=draw(zones), offset=draw(st.integers(0, highest)), anchor=anchor)


@st.composite
def near_transitions(draw, zone):
    """An instant near a transition of a zone, or just any."""
    transitions = timeline(zone).transitions()
    at = draw(st.sampled_from(transitions) if transitions else moments)
    return draw(moments | nudges.map(lambda nudge: at + nudge))


# What a window is


EXAMPLES = [
    # (period, an instant, its window)
    ("minute", "2026-03-01T12:34:56Z", "2026-03-01T12:34Z", "2026-03-01T12:35Z"),
    ("15 minute", "2026-03-01T12:34:56Z", "2026-03-01T12:30Z", "2026-03-01T12:45Z"),
    ("hour", "2026-03-01T12:34:56Z", "2026-03-01T12:00Z", "2026-03-01T13:00Z"),
    ("day", "2026-03-01T12:34:56Z", "2026-03-01T00:00Z", "2026-03-02T00:00Z"),
    ("week", "2026-03-01T12:34:56Z", "2026-02-23T00:00Z", "2026-03-02T00:00Z"),
    ("month", "2026-03-01T12:34:56Z", "2026-03-01T00:00Z", "2026-04-01T00:00Z"),
    ("year", "2026-03-01T12:34:56Z", "2026-01-01T00:00Z", "2027-01-01T00:00Z"),
    # A start is in its window, an end in the next, to the microsecond
    ("day", "2026-02-28T23:59:59.999999Z", "2026-02-28T00:00Z", "2026-03-01T00:00Z"),
    ("day", "2026-03-01T00:00Z", "2026-03-01T00:00Z", "2026-03-02T00:00Z"),
    # Month ends, leap days, year ends, ISO week 53
    ("month", "2024-02-29T23:59:59.999999Z", "2024-02-01T00:00Z", "2024-03-01T00:00Z"),
    ("month", "2026-12-31T23:59:59.999999Z", "2026-12-01T00:00Z", "2027-01-01T00:00Z"),
    ("month", "1900-02-28T12:00Z", "1900-02-01T00:00Z", "1900-03-01T00:00Z"),
    ("year", "2024-02-29T12:00Z", "2024-01-01T00:00Z", "2025-01-01T00:00Z"),
    ("year", "2025-12-31T23:59:59.999999Z", "2025-01-01T00:00Z", "2026-01-01T00:00Z"),
    ("week", "2021-01-01T12:00Z", "2020-12-28T00:00Z", "2021-01-04T00:00Z"),
    # Before 1970
    ("minute", "1969-12-31T23:59:59.999999Z", "1969-12-31T23:59Z", "1970-01-01T00:00Z"),
    ("day", "1969-12-31T23:59:59.999999Z", "1969-12-31T00:00Z", "1970-01-01T00:00Z"),
    ("month", "1969-12-31T23:59:59.999999Z", "1969-12-01T00:00Z", "1970-01-01T00:00Z"),
    # Counts, from their origins
    ("7 minute", "1970-01-01T00:08Z", "1970-01-01T00:07Z", "1970-01-01T00:14Z"),
    ("6 hour", "2026-03-01T12:34:56Z", "2026-03-01T12:00Z", "2026-03-01T18:00Z"),
    ("5 hour", "1970-01-01T06:00Z", "1970-01-01T05:00Z", "1970-01-01T10:00Z"),
    ("2 day", "1970-01-02T12:00Z", "1970-01-01T00:00Z", "1970-01-03T00:00Z"),
    ("2 week", "1970-01-12T00:00Z", "1970-01-05T00:00Z", "1970-01-19T00:00Z"),
    ("3 month", "2026-03-01T12:34:56Z", "2026-01-01T00:00Z", "2026-04-01T00:00Z"),
    ("5 month", "0001-06-01T00:00Z", "0001-06-01T00:00Z", "0001-11-01T00:00Z"),
    ("10 year", "2026-03-01T12:34:56Z", "2021-01-01T00:00Z", "2031-01-01T00:00Z"),
    # Offsets, as API Gateway's
    ("week offset 2", "2026-03-01T12:34:56Z", "2026-02-25T00:00Z", "2026-03-04T00:00Z"),
    ("week offset 6", "2026-03-01T12:34:56Z", "2026-03-01T00:00Z", "2026-03-08T00:00Z"),
    ("2 week offset 3", "1970-01-08T00:00Z", "1970-01-08T00:00Z", "1970-01-22T00:00Z"),
    ("month offset 27", "2026-03-01T12:34:56Z", "2026-02-28T00:00Z", "2026-03-28T00:00Z"),
    ("month offset 1", "2026-03-01T12:34:56Z", "2026-02-02T00:00Z", "2026-03-02T00:00Z"),
    ("3 month offset 5", "2026-01-05T23:00Z", "2025-10-06T00:00Z", "2026-01-06T00:00Z"),
    ("7 month offset 1", "2026-03-15T00:00Z", "2025-10-02T00:00Z", "2026-05-02T00:00Z"),
    ("month", "2003-05-15T00:00Z", "2003-05-01T00:00Z", "2003-06-01T00:00Z"),
    ("month", "2000-02-29T12:00Z", "2000-02-01T00:00Z", "2000-03-01T00:00Z"),
    ("month", "1900-02-28T12:00Z", "1900-02-01T00:00Z", "1900-03-01T00:00Z"),
    ("month", "0400-03-01T00:00Z", "0400-03-01T00:00Z", "0400-04-01T00:00Z"),
    # Zones: summer time, midnight that is missing, repeated, inside a gap, seen twice; a day that is missing
    ("day in Europe/Paris", "2026-03-29T12:00Z", "2026-03-29T00:00+01:00", "2026-03-30T00:00+02:00"),
    ("day in Europe/Paris", "2026-10-25T12:00Z", "2026-10-25T00:00+02:00", "2026-10-26T00:00+01:00"),
    ("week in Europe/Paris", "2026-03-29T12:00Z", "2026-03-23T00:00+01:00", "2026-03-30T00:00+02:00"),
    ("month in Europe/Paris", "2026-03-29T12:00Z", "2026-03-01T00:00+01:00", "2026-04-01T00:00+02:00"),
    ("year in Europe/Paris", "2025-12-31T23:00Z", "2026-01-01T00:00+01:00", "2027-01-01T00:00+01:00"),
    ("day in America/Havana", "2024-11-03T04:30Z", "2024-11-03T00:00-04:00", "2024-11-04T00:00-05:00"),
    ("day in America/Havana", "2024-11-03T05:30Z", "2024-11-03T00:00-04:00", "2024-11-04T00:00-05:00"),
    ("day in America/Sao_Paulo", "2018-11-04T12:00Z", "2018-11-04T01:00-02:00", "2018-11-05T00:00-02:00"),
    ("day in America/Sao_Paulo", "2018-11-04T02:59:59.999999Z", "2018-11-03T00:00-03:00", "2018-11-04T01:00-02:00"),
    ("day in America/Toronto", "1919-03-31T12:00Z", "1919-03-31T00:30-04:00", "1919-04-01T00:00-04:00"),
    ("day in America/St_Johns", "2010-11-07T02:30:30Z", "2010-11-07T00:00-02:30", "2010-11-08T00:00-03:30"),
    ("day in America/St_Johns", "2010-11-07T03:00Z", "2010-11-07T00:00-02:30", "2010-11-08T00:00-03:30"),
    ("day in Pacific/Apia", "2011-12-30T09:59:59.999999Z", "2011-12-29T00:00-10:00", "2011-12-31T00:00+14:00"),
    ("day in Pacific/Apia", "2011-12-30T10:00Z", "2011-12-31T00:00+14:00", "2012-01-01T00:00+14:00"),
    ("2 day in Pacific/Apia", "2011-12-30T10:00Z", "2011-12-31T00:00+14:00", "2012-01-01T00:00+14:00"),
    ("week in Pacific/Apia", "2011-12-30T10:00Z", "2011-12-26T00:00-10:00", "2012-01-02T00:00+14:00"),
    # Minutes and hours: on the users' clocks, and never two in one
    ("hour in Asia/Kolkata", "2026-03-01T12:34:56Z", "2026-03-01T12:30Z", "2026-03-01T13:30Z"),
    ("6 hour in Asia/Kolkata", "2026-03-01T12:34:56Z", "2026-03-01T18:00+05:30", "2026-03-02T00:00+05:30"),
    ("hour in Europe/Paris", "2026-10-25T00:30Z", "2026-10-25T02:00+02:00", "2026-10-25T02:00+01:00"),
    ("hour in Europe/Paris", "2026-10-25T01:30Z", "2026-10-25T02:00+01:00", "2026-10-25T03:00+01:00"),
    ("minute in Europe/Paris", "2026-10-25T00:59:30Z", "2026-10-25T02:59+02:00", "2026-10-25T02:00+01:00"),
    ("minute in Europe/Paris", "2026-10-25T01:30:30Z", "2026-10-25T02:30+01:00", "2026-10-25T02:31+01:00"),
    ("6 hour in Europe/Paris", "2026-10-25T01:30Z", "2026-10-25T00:00+02:00", "2026-10-25T06:00+01:00"),
    ("6 hour in Europe/Paris", "2026-03-29T01:30Z", "2026-03-29T00:00+01:00", "2026-03-29T06:00+02:00"),
    ("12 hour in Europe/Paris", "2026-07-01T12:00Z", "2026-07-01T12:00+02:00", "2026-07-02T00:00+02:00"),
    ("45 minute in Europe/Paris", "2026-10-25T00:30Z", "2026-10-25T02:15+02:00", "2026-10-25T02:00+01:00"),
    ("45 minute in Europe/Paris", "2026-10-25T01:00Z", "2026-10-25T02:00+01:00", "2026-10-25T03:00+01:00"),
    ("hour in Australia/Lord_Howe", "2026-04-04T15:10Z", "2026-04-05T01:00+11:00", "2026-04-05T02:00+10:30"),
    ("hour in Australia/Lord_Howe", "2026-10-03T15:40Z", "2026-10-04T02:30+11:00", "2026-10-04T03:00+11:00"),
    # Anchors: the 31st comes back, before the anchor too; leap days; the time of day survives summer time
    ("month from 2026-01-31T09:00:00+00:00", "2026-01-31T09:00Z", "2026-01-31T09:00Z", "2026-02-28T09:00Z"),
    ("month from 2026-01-31T09:00:00+00:00", "2026-03-01T00:00Z", "2026-02-28T09:00Z", "2026-03-31T09:00Z"),
    ("month from 2026-01-31T09:00:00+00:00", "2026-03-31T09:00Z", "2026-03-31T09:00Z", "2026-04-30T09:00Z"),
    ("month from 2026-01-31T09:00:00+00:00", "2025-11-30T08:59Z", "2025-10-31T09:00Z", "2025-11-30T09:00Z"),
    ("month from 2026-01-31T09:00:00+00:00", "2028-02-29T09:00Z", "2028-02-29T09:00Z", "2028-03-31T09:00Z"),
    ("3 month from 2025-11-30T00:00:00+00:00", "2026-02-27T00:00Z", "2025-11-30T00:00Z", "2026-02-28T00:00Z"),
    ("year from 2024-02-29T12:00:00+00:00", "2026-01-01T00:00Z", "2025-02-28T12:00Z", "2026-02-28T12:00Z"),
    ("year from 2024-02-29T12:00:00+00:00", "2028-02-28T13:00Z", "2027-02-28T12:00Z", "2028-02-29T12:00Z"),
    ("day from 2026-01-31T09:30:00+00:00", "2026-03-01T09:29Z", "2026-02-28T09:30Z", "2026-03-01T09:30Z"),
    ("week from 2026-01-31T09:30:00+00:00", "2026-02-07T09:30Z", "2026-02-07T09:30Z", "2026-02-14T09:30Z"),
    ("hour from 2026-01-31T09:30:00.000001+00:00", "2026-03-01T12:00Z", "2026-03-01T11:30:00.000001Z", "2026-03-01T12:30:00.000001Z"),
    ("hour in Asia/Kolkata from 2026-01-31T09:15:00Z", "2026-03-01T12:20Z", "2026-03-01T12:15Z", "2026-03-01T13:15Z"),
    ("5 hour from 2026-01-31T09:00:00+00:00", "2026-01-31T00:00Z", "2026-01-30T23:00Z", "2026-01-31T04:00Z"),
    ("36 hour in Europe/Paris from 2026-03-28T12:00Z", "2026-03-29T12:00Z", "2026-03-28T12:00Z", "2026-03-30T00:00Z"),
    ("month in Europe/Paris from 2026-01-31T09:00:00+01:00", "2026-04-30T06:59Z", "2026-03-31T09:00+02:00", "2026-04-30T09:00+02:00"),
    ("day in Europe/Paris from 2026-03-01T02:30:00+01:00", "2026-03-29T01:29Z", "2026-03-28T02:30+01:00", "2026-03-29T03:30+02:00"),
    ("day in Europe/Paris from 2026-10-01T02:30:00+02:00", "2026-10-25T00:30Z", "2026-10-25T02:30+02:00", "2026-10-26T02:30+01:00"),
    ("day in Europe/Paris from 2026-10-25T02:30:00+01:00", "2026-10-25T01:30Z", "2026-10-25T02:30+01:00", "2026-10-26T02:30+01:00"),
    ("day in Europe/Paris from 2026-10-25T02:30:00+01:00", "2026-10-25T01:00Z", "2026-10-24T02:30+02:00", "2026-10-25T02:30+01:00"),
]  # fmt: skip


def test_the_furthest_that_a_clock_has_shown():
    """While a clock repeats what it showed it has shown no more than before it was set back, to the microsecond."""
    tz, hour = ZoneInfo("Europe/Paris"), 3_600_000_000
    back = 1_792_890_000_000_000  # 2026-10-25 01:00 UTC: 03:00 is 02:00 again
    last = back + 2 * hour - 1
    assert [module._furthest(tz, now) for now in (back - 1, back, back + hour - 1)] == [last, last, last]
    assert [module._furthest(tz, now) for now in (back - hour, back + hour)] == [back + hour, last + 1]
    assert module._furthest(None, back) == back


@pytest.mark.parametrize(("text", "now", "start", "end"), EXAMPLES)
def test_pinned(text, now, start, end):
    """The windows that the calendar, the clocks and the billing cycles call for."""
    assert parse_period(text).window(us(now)) == (us(start), us(end))


@given(st.data())
def test_windows_tile(data):
    """Every instant is in its window, which touches the next and the previous; nowhere a gap or an overlap."""
    period = data.draw(periods())
    now = data.draw(near_transitions(period.zone))
    start, end = period.window(now)
    assert start <= now < end
    assert period.window(end)[0] == end
    assert period.window(start - 1)[1] == start


@given(st.data())
def test_the_window_is_the_same_within_itself(data):
    """Whatever instant of a window is asked about, and with whatever remembered: the same window."""
    period = data.draw(periods())
    start, end = window = period.window(data.draw(near_transitions(period.zone)))
    for inside in (start, end - 1, data.draw(st.integers(start, end - 1))):
        fresh = attrs.evolve(period)
        assert fresh.window(inside) == window == period.window(inside)


@given(st.data())
def test_windows_found_by_hand(data):
    """Windows equal those that trying each date on an independent account of the zone finds."""
    period = data.draw(periods())
    assume(period.every != "year" or period.count < 20)
    now = data.draw(near_transitions(period.zone))
    anchor = period.anchor and to_us(period.anchor)
    try:
        expected = window_by_hand(period.zone, now, period.every, period.count, period.offset, anchor)
    except (OverflowError, ValueError):
        assume(False)  # dateutil and date cannot look beyond the year 9999
    assert period.window(now) == expected


@given(st.data())
def test_days_and_months_are_those_of_whenever(data):
    """Days and months begin where ``whenever`` says; unless dates ran backwards, where each begins but once."""
    zone = data.draw(zones)
    now = data.draw(near_transitions(zone))
    local = Instant.from_timestamp(now // SECOND).to_tz(zone)
    for every in ("day", "month"):
        start, end = Period(every, zone=zone).window(now)
        theirs = local.start_of(every).timestamp() * SECOND
        line = timeline(zone)
        ran_back = any(
            line.reading(at) // DAY < line.reading(at - 1) // DAY for at in line.starts[1:] if start <= at <= end
        )
        assert start == theirs or ran_back


@given(anchors, st.sampled_from(["day", "week", "month", "year"]), st.integers(1, 12), st.integers(-150, 300))
@example(datetime(2026, 1, 31, tzinfo=timezone.utc), "month", 1, 1)
@example(datetime(2024, 2, 29, tzinfo=timezone.utc), "year", 1, -1)
def test_anchored_cycles_are_those_of_dateutil(anchor, every, count, n):
    """Cycle n begins at anchor + n units as ``dateutil`` adds them: counted from the anchor, never drifting."""
    cycles = [anchor + relativedelta(**{f"{every}s": i * count}) for i in (n, n + 1)]
    period = Period(every, count=count, anchor=anchor)
    start, end = map(to_us, cycles)
    assert period.window(start) == period.window(end - 1) == (start, end)


def test_the_31st_comes_back():
    """A cycle anchored on the 31st ends short months early and returns to the 31st, for ten years."""
    period = Period("month", anchor=datetime(2020, 1, 31, tzinfo=timezone.utc))
    now, days = us("2020-01-31T00:00Z"), []
    for _ in range(120):
        start, now = period.window(now)
        days.append(to_datetime(start))
    assert [day.month for day in days] == [*range(1, 13)] * 10
    assert all((day + timedelta(days=1)).day == 1 for day in days)


@pytest.mark.spread(3)
@pytest.mark.parametrize("zone", EVENTFUL)
@pytest.mark.parametrize("every", ["hour", "day", "week"])
def test_every_transition_of_eventful_zones(zone, every):
    """On each side of each transition from 1900 to 2040, windows equal those found by hand."""
    period = Period(every, zone=zone)
    for transition in timeline(zone).transitions():
        for now in (transition - 1, transition, transition + 1):
            start, end = period.window(now)
            assert (start, end) == window_by_hand(zone, now, every)
            assert period.window(start - 1)[1] == start
            assert period.window(end)[0] == end


@given(st.sampled_from(EVENTFUL), st.integers(1, 90), st.data())
def test_clock_windows_are_never_two_in_one(zone, count, data):
    """No window of minutes lasts twice its length, whatever the clocks do; whole windows that repeat are their own."""
    start, end = Period("minute", count=count, zone=zone).window(data.draw(near_transitions(zone)))
    assert 0 < end - start < 2 * count * 60 * SECOND


@pytest.mark.parametrize(
    ("text", "length"),
    [
        ("minute", MINUTE),
        ("36 hour", 36 * HOUR),
        ("day", DAY),
        ("2 week offset 3", 14 * DAY),
        ("day from 2026-01-31T09:00Z", DAY),
        ("15 minute in Europe/Paris from 2026-01-31T09:00Z", 15 * MINUTE),
        ("6 hour in Europe/Paris from 2026-01-31T09:00Z", 6 * HOUR),
        ("day in Europe/Paris from 2026-01-31T09:00Z", None),
        ("minute in Europe/Paris", None),
        ("day in Europe/Paris", None),
        ("month", None),
        ("year from 2026-01-31T09:00Z", None),
    ],
)
def test_length(text, length):
    """Where every window has the same length, the period tells it."""
    assert parse_period(text).length_us == length


@given(st.data())
def test_the_length_is_every_windows(data):
    """A length that is told is that of any window, away from the ends of time."""
    period = data.draw(periods())
    start, end = period.window(data.draw(near_transitions(period.zone)))
    assert period.length_us in (None, end - start)


@given(st.sampled_from(EVENTFUL[1:]), st.data())
def test_a_transition_is_found_to_the_microsecond(zone, data):
    """Between any two instants around one transition, the search ends on it."""
    at = data.draw(st.sampled_from(timeline(zone).transitions()))
    before, after = at - data.draw(st.integers(1, 30 * MINUTE)), at + data.draw(st.integers(0, 30 * MINUTE))
    line = timeline(zone)
    assume(sum(before < start <= after for start in line.starts) == 1)
    assert module._turn(ZoneInfo(zone), before, after) == at


@given(st.integers(FIRST_US, LAST_US - 1))
@example(FIRST_US)
@example(us("0401-01-01T00:00Z"))
@example(us("9601-01-01T00:00Z"))
@example(LAST_US - 1)
def test_the_guess_at_a_month_is_off_by_one_at_most(instant):
    """So that looking at a neighbour is enough; and after each 400 years it is right."""
    day = to_datetime(instant)
    off = module._month(instant) - ((day.year - 1) * 12 + day.month - 1)
    assert off == 0 if instant % (146_097 * DAY) == FIRST_US % (146_097 * DAY) else abs(off) <= 1


# The ends of time


@pytest.mark.parametrize("every", UNITS)
@pytest.mark.parametrize("zone", ["UTC", "Pacific/Kiritimati", "America/Anchorage", "Asia/Kolkata", "Europe/Paris"])
@pytest.mark.parametrize("anchor", [None, datetime(2026, 1, 31, 9, tzinfo=timezone.utc)])
def test_the_ends_of_what_a_datetime_can_hold(every, zone, anchor):
    """The first and the last microsecond have windows, clipped there, in reach of datetime and touching the next."""
    period = Period(every, zone=zone, anchor=anchor)
    first, last = period.window(FIRST_US), period.window(LAST_US - 1)
    assert first[0] == FIRST_US
    assert last[1] == LAST_US
    assert period.window(first[1])[0] == first[1]
    assert period.window(last[0] - 1)[1] == last[0]
    assert to_datetime(first[0]) == datetime.min.replace(tzinfo=timezone.utc)
    assert to_datetime(last[1] - 1) == datetime.max.replace(tzinfo=timezone.utc)


@pytest.mark.parametrize("near", [FIRST_US, LAST_US])
@given(st.data())
def test_windows_tile_near_the_ends(near, data):
    """In the first and last years too, in every zone."""
    period = data.draw(periods())
    now = near + data.draw(st.integers(-3 * 366 * DAY, 3 * 366 * DAY) | nudges)
    assume(FIRST_US <= now < LAST_US)
    start, end = period.window(now)
    assert start <= now < end
    assert start == FIRST_US or period.window(start - 1)[1] == start
    assert end == LAST_US or period.window(end)[0] == end


def test_the_last_dates_are_local_ones():
    """In the days where UTC and a zone are in different years, the zone's calendar counts, to the last window."""
    new_year = us("9999-12-31T10:00Z")
    assert Period("month", zone="Pacific/Kiritimati").window(LAST_US - 1) == (new_year, LAST_US)
    assert Period("year", zone="Pacific/Kiritimati").window(new_year - 1) == (us("9998-12-31T10:00Z"), new_year)
    assert Period("day", zone="Etc/GMT+12").window(FIRST_US) == (FIRST_US, FIRST_US + 12 * HOUR)
    assert Period("month", zone="Etc/GMT+12").window(FIRST_US) == (FIRST_US, FIRST_US + 12 * HOUR)
    assert Period("year", count=1000).window(LAST_US - 1) == (us("9001-01-01T00:00Z"), LAST_US)


@pytest.mark.parametrize("now", [FIRST_US - 1, LAST_US, 2**80, -(2**80), float(NOON), float("nan"), None, "now", []])
def test_instants_without_a_window(now):
    """What no datetime holds, or is no whole number, is an error that names it."""
    with pytest.raises(InvalidValue) as caught:
        Period("day").window(now)
    assert caught.value.field == "now_us"
    assert caught.value.value is now
    assert caught.value.accepted == "whole microseconds since the epoch, of the years 1 to 9999"


# Mistakes


class Unit(StrEnum):
    DAY = "day"


class Vague(tzinfo):
    """Says nothing of its offset, which makes its datetimes naive."""

    def utcoffset(self, _):
        return None


MISTAKES = [
    ({"every": "fortnight"}, "every", "one of minute, hour, day, week, month, year"),
    ({"every": "days"}, "every", "one of minute, hour, day, week, month, year"),
    ({"every": ""}, "every", "one of minute, hour, day, week, month, year"),
    ({"every": None}, "every", "one of minute, hour, day, week, month, year"),
    ({"every": ["day"]}, "every", "one of minute, hour, day, week, month, year"),
    ({"every": Unit.DAY}, "every", "one of minute, hour, day, week, month, year"),
    *[({"count": count}, "count", "a whole number from 1 to 1000")
      for count in (0, -1, 1001, 2**63, True, False, 1.0, float("nan"), "1", None)],
    *[({"zone": zone}, "zone", "an IANA time zone such as 'Europe/Paris', known to this system or to the tzdata package")
      for zone in ("", "Mars/Olympus", "../etc", "Europe/../Europe/Paris", "/etc/passwd", "Europe/Paris/", "Europe",
                   "Europe/Par\0is", "\0", "\ud800", "Europe/Paris\n", " UTC", "Europe Paris", "UTC,", "x" * 5000, ".",
                   "tzdata.zi", "zone.tab", "localtime", "posixrules", "right/UTC", "posix/Europe/Paris", b"UTC", None,
                   0, timezone.utc, ZoneInfo("Europe/Paris"))],
    *[({"every": every, "offset": 1}, "offset", f"0 days for a {every}") for every in ("minute", "hour", "day", "year")],
    *[({"every": "week", "offset": offset}, "offset", "whole days from 0 to 6 for a week")
      for offset in (-1, 7, True, False, 1.0, "1", None)],
    *[({"every": "month", "offset": offset}, "offset", "whole days from 0 to 27 for a month") for offset in (-1, 28)],
    ({"every": "month", "offset": 1, "anchor": to_datetime(NOON)}, "offset", "0 days where an anchor says when cycles begin"),
    *[({"anchor": anchor}, "anchor", "a timezone-aware datetime of the years 1 to 9999")
      for anchor in (datetime(2026, 1, 31), datetime(2026, 1, 31, tzinfo=Vague()), "2026-01-31", 0, False, NOON,
                     datetime(2026, 1, 31).date(), datetime.min.replace(tzinfo=timezone(timedelta(hours=1))),
                     datetime.max.replace(tzinfo=timezone(timedelta(hours=-1))))],
    ({"anchor": datetime.max.replace(tzinfo=timezone.utc), "zone": "Europe/Paris"}, "anchor",
     "a timezone-aware datetime of the years 1 to 9999"),
]  # fmt: skip


@pytest.mark.parametrize(("fields", "field", "accepted"), MISTAKES)
def test_mistakes_name_the_field_the_value_and_what_is_accepted(fields, field, accepted):
    """Every period that cannot be meant is refused when it is made, in printable words."""
    fields = {"every": "day", **fields}
    with pytest.raises(InvalidPlan) as caught:
        Period(**fields)
    assert (caught.value.field, caught.value.accepted) == (field, accepted)
    assert caught.value.value is fields[field]
    assert str(caught.value).isprintable()


@given(st.text() | st.text("aAeE/._-+UTC0\0\ud800 "))
def test_any_text_is_a_zone_or_a_mistake(zone):
    """No name of a zone does anything but work or raise ``InvalidPlan``."""
    try:
        Period("day", zone=zone)
    except InvalidPlan as error:
        assert error.field == "zone"
    else:
        assert ZoneInfo(zone).key == zone


def test_without_a_time_zone_database_only_utc_works(monkeypatch):
    """Where there is no database, the error says what is missing; UTC needs none."""
    import zoneinfo

    def nowhere(key):
        raise zoneinfo.ZoneInfoNotFoundError(key)

    monkeypatch.setattr(zoneinfo, "ZoneInfo", nowhere)
    assert Period("day").window(NOON) == (us("2026-03-01T00:00Z"), us("2026-03-02T00:00Z"))
    with pytest.raises(InvalidPlan, match="known to this system or to the tzdata package"):
        Period("day", zone="Europe/Paris")


# Values


def test_a_period_is_a_frozen_value():
    """Equal fields are one value, in sets too; nothing can be assigned; ``repr`` shows the five fields."""
    one, same = (
        Period("month", count=3, zone="Europe/Paris", offset=5),
        parse_period("3 months in Europe/Paris offset 5"),
    )
    one.window(NOON)
    assert one == same
    assert len({one, same, Period("month", count=3, zone="Europe/Paris"), Period("day")}) == 3
    assert repr(one) == "Period(every='month', count=3, zone='Europe/Paris', offset=5, anchor=None)"
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        one.count = 2
    with pytest.raises(TypeError):
        Period("month", 3)


@given(anchors, zones, st.integers(-23 * 60, 23 * 60))
def test_an_anchor_is_its_instant(anchor, zone, minutes):
    """In whatever offset an anchor is given: one value, one text, shown as the zone's clock does."""
    period = Period("month", zone=zone, anchor=anchor)
    elsewhere = anchor.astimezone(timezone(timedelta(minutes=minutes)))
    moved = Period("month", zone=zone, anchor=elsewhere)
    assert (moved, str(moved), hash(moved)) == (period, str(period), hash(period))
    assert period.anchor == anchor
    assert period.anchor.replace(tzinfo=None) == anchor.astimezone(ZoneInfo(zone)).replace(tzinfo=None)
    assert type(period.anchor.tzinfo) is timezone


def test_repeated_times_are_two_anchors():
    """The two instants that a clock shows alike are told apart, by value and by text."""
    first, second = (datetime(2026, 10, 25, 2, 30, fold=fold, tzinfo=ZoneInfo("Europe/Paris")) for fold in (0, 1))
    one, other = (Period("day", zone="Europe/Paris", anchor=anchor) for anchor in (first, second))
    assert one != other
    assert str(one) == "day in Europe/Paris from 2026-10-25T02:30:00+02:00"
    assert str(other) == "day in Europe/Paris from 2026-10-25T02:30:00+01:00"


@given(periods())
def test_copies_and_pickles_are_equal_and_remember_nothing(period):
    """A copy or a pickle is the same period, and works out its windows anew where it arrives."""
    window = period.window(NOON)
    for twin in (copy.copy(period), copy.deepcopy(period), pickle.loads(pickle.dumps(period)), attrs.evolve(period)):
        assert twin == period
        assert twin._current == (0, 0)
        assert twin.window(NOON) == window


def test_a_pickle_that_was_tampered_with_is_refused():
    """What is loaded is validated as what is made."""
    with pytest.raises(InvalidPlan):
        copy.copy(Period("day")).__setstate__({**Period("day").__getstate__(), "count": 0})


# The window that is remembered


def test_asking_within_the_current_window_touches_no_datetime(monkeypatch):
    """Inside the window that is remembered nothing is computed; the next window computes once."""
    period = Period("month", zone="Europe/Paris", anchor=datetime(2026, 1, 31, tzinfo=timezone.utc))
    start, end = window = period.window(NOON)

    def untouchable(*_, **__):
        raise AssertionError("touched")

    with monkeypatch.context() as patch:
        for name in (
            "datetime",
            "timedelta",
            "EPOCH",
            "to_us",
            "_ahead",
            "_ahead_showing",
            "_shown",
            "_furthest",
            "_month",
        ):
            patch.setattr(module, name, untouchable)
        assert all(period.window(now) is window for now in (start, NOON, end - 1))
        for outside in (start - 1, end):
            with pytest.raises((AssertionError, TypeError)):
                period.window(outside)
    assert period.window(end)[0] == end
    assert period.window(start) == window


def test_utc_never_asks_datetime(monkeypatch):
    """In UTC every window is arithmetic alone."""
    found = [Period(every, count=count, offset=int(every == "week")) for every in UNITS for count in (1, 5)]

    def untouchable(*_, **__):
        raise AssertionError("touched")

    for name in ("datetime", "timedelta", "EPOCH", "to_us"):
        monkeypatch.setattr(module, name, untouchable)
    for period in found:
        start, end = period.window(NOON)
        assert start <= NOON < end


@pytest.mark.parametrize("every", UNITS)
@pytest.mark.parametrize("anchored", [False, True])
def test_far_from_the_anchor_is_not_slower(every, anchored, monkeypatch):
    """No counting from the anchor: the offsets asked for are as many after a millennium as after a day."""
    anchor = datetime(1970, 1, 15, 12, tzinfo=timezone.utc) if anchored else None
    asked = []
    ahead, showing = module._ahead, module._ahead_showing
    monkeypatch.setattr(module, "_ahead", lambda *a: asked.append(a) or ahead(*a))
    monkeypatch.setattr(module, "_ahead_showing", lambda *a: asked.append(a) or showing(*a))
    period = Period(every, zone="Europe/Paris", anchor=anchor)
    for year in range(100, 9900, 7):
        asked.clear()
        period.window(us(f"{year:04}-06-15T12:00Z"))
        assert len(asked) <= 10


def asking(period):
    """Two threads that ask for each other's windows."""
    return [lambda: (period.window(0), period.window(MINUTE)), lambda: (period.window(MINUTE), period.window(0))]


def own_windows(_, results):
    first, second = (0, MINUTE), (MINUTE, 2 * MINUTE)
    assert results == [(first, second), (second, first)]


def test_threads_never_see_half_a_window():
    """Under every schedule of two switches, threads that ask for different windows of one period each get theirs."""
    report = explore(lambda: Period("minute"), asking, own_windows, files=[module], preemptions=2)
    assert report.preempted > 100


class Torn:
    """A period that remembers its window in two attributes."""

    def __init__(self):
        self.start, self.end = 0, 0

    def window(self, now):
        if not self.start <= now < self.end:
            self.start = now - now % MINUTE
            self.end = self.start + MINUTE
        return self.start, self.end


def test_half_a_window_would_be_seen():
    """The same schedules do find a window that is remembered in two steps."""
    with pytest.raises(Found):
        explore(Torn, asking, own_windows, files=[__file__], preemptions=2)


def test_a_new_time_zone_database_splits_no_window(monkeypatch):
    """When a zone's boundary moves between two runs, the stored window and the new one overlap, and used carries."""
    import zoneinfo

    clock = ManualClock(us("2026-03-01T23:30Z"))
    plan = UsagePlan("p", [Quota(3, Period("day", zone="Europe/Paris"), name="daily")])
    ledger = Ledger(clock=clock)
    ledger.add_plan(plan)
    _, secret = ledger.issue_key("k", plan=plan)
    assert [ledger.consume(secret).allowed for _ in range(3)] == [True] * 3

    monkeypatch.setattr(zoneinfo, "ZoneInfo", lambda _: timezone(timedelta(hours=2)))
    later = UsagePlan("p", [Quota(3, Period("day", zone="Europe/Paris"), name="daily")])
    stored, fresh = plan.limits[0].period.window(clock()), later.limits[0].period.window(clock())
    assert fresh == (stored[0] - HOUR, stored[1] - HOUR)
    ledger.replace_plan(later)
    assert not ledger.consume(secret)


# Imports


def test_utc_does_not_import_zoneinfo():
    """Who stays in UTC does not pay for time zones."""
    code = (
        f"import sys; from {Period.__module__} import Period; Period('day').window(0)\n"
        "import json; print(json.dumps(['zoneinfo' in sys.modules]))\n"
        "Period('day', zone='Europe/Paris'); print(json.dumps(['zoneinfo' in sys.modules]))"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert [json.loads(line) for line in done.stdout.splitlines()] == [[False], [True]]


# The text


@pytest.mark.parametrize(
    ("period", "text"),
    [
        (Period("day"), "day"),
        (Period("minute", count=15), "15 minute"),
        (Period("week", offset=2), "week offset 2"),
        (Period("hour", count=6, zone="Asia/Kolkata"), "6 hour in Asia/Kolkata"),
        (Period("month", count=3, zone="Europe/Paris", offset=27), "3 month in Europe/Paris offset 27"),
        (
            Period("month", zone="Europe/Paris", anchor=datetime(2026, 1, 31, 8, tzinfo=timezone.utc)),
            "month in Europe/Paris from 2026-01-31T09:00:00+01:00",
        ),
        (
            Period("year", count=2, anchor=datetime(2026, 1, 31, 8, 0, 0, 1, tzinfo=timezone.utc)),
            "2 year from 2026-01-31T08:00:00.000001+00:00",
        ),
        (
            Period("day", zone="Africa/Monrovia", anchor=datetime(1960, 1, 1, tzinfo=timezone.utc)),
            "day in Africa/Monrovia from 1959-12-31T23:15:30-00:44:30",
        ),
    ],
)
def test_text(period, text):
    """A period's text leaves out what is understood, and reads back as the same period."""
    assert str(period) == text
    assert parse_period(text) == period


@given(periods())
def test_text_round_trips(period):
    """``parse_period(str(period)) == period``, whatever the period; and the text is one line without commas."""
    text = str(period)
    assert parse_period(text) == period
    assert str(parse_period(text)) == text
    assert text.isprintable()
    assert "," not in text


@pytest.mark.parametrize(
    ("word", "every"),
    [
        *[(word, unit) for unit in UNITS for word in (unit, f"{unit}s")],
        *{"m": "minute", "min": "minute", "h": "hour", "d": "day", "w": "week", "mo": "month", "y": "year"}.items(),
    ],
)
def test_words_for_units(word, every):
    """Units are understood in singular, in plural, and in short."""
    assert parse_period(word) == Period(every)
    assert parse_period(f" 2\t{word}\n") == Period(every, count=2)


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("1 day", "day"),
        ("015 minutes", "15 minute"),
        ("1000 h", "1000 hour"),
        ("week offset 2 in Europe/Paris", "week in Europe/Paris offset 2"),
        ("month from 2026-01-31T09:00Z in Europe/Paris", "month in Europe/Paris from 2026-01-31T10:00:00+01:00"),
        ("day from 2026-01-31T09:00:00.125-05:00", "day from 2026-01-31T14:00:00.125000+00:00"),
        ("day in UTC offset 0", "day"),
    ],
)
def test_other_words_for_the_same(text, same):
    """What is understood beyond what is written: options in any order, defaults, shorter instants."""
    assert str(parse_period(text)) == same


WHOLE = "a whole number, at most "
UNIT = "one of minute, hour, day, week, month, year, or a throttle such as '10/s burst 20'"
OPTION = "'in ZONE', 'offset DAYS' or 'from ANCHOR', each once"
ISO = "an ISO 8601 instant with its offset, such as 2026-01-31T09:00:00+01:00"
GARBLED = [
    ("", "period", "", "such as 'day', '15 minute', 'month in Europe/Paris' or 'week offset 2'"),
    (" \t", "period", " \t", "such as 'day', '15 minute', 'month in Europe/Paris' or 'week offset 2'"),
    (None, "period", None, "such as 'day', '15 minute', 'month in Europe/Paris' or 'week offset 2'"),
    (b"day", "period", b"day", "such as 'day', '15 minute', 'month in Europe/Paris' or 'week offset 2'"),
    ("s", "period", "s", UNIT),
    ("second", "period", "second", UNIT),
    ("Day", "period", "Day", UNIT),
    ("fortnight in Europe/Paris", "period", "fortnight", UNIT),
    (" 15 ", "period", "15", UNIT),
    ("15minute", "count", "15minute", WHOLE + "1000"),
    ("15 in Europe/Paris", "period", "in", UNIT),
    ("2 2 day", "period", "2", UNIT),
    ("1.5 hour", "count", "1.5", WHOLE + "1000"),
    ("X day", "period", "X", UNIT),
    ("+1 hour", "count", "+1", WHOLE + "1000"),
    ("-1 hour", "count", "-1", WHOLE + "1000"),
    (".5 hour", "count", ".5", WHOLE + "1000"),
    ("1_0 hour", "count", "1_0", WHOLE + "1000"),
    ("2\u00b2 hour", "count", "2\u00b2", WHOLE + "1000"),
    ("1\u0663 hour", "count", "1\u0663", WHOLE + "1000"),
    ("10000 hour", "count", "10000", WHOLE + "1000"),
    ("1001 hour", "count", 1001, "a whole number from 1 to 1000"),
    ("0 hour", "count", 0, "a whole number from 1 to 1000"),
    ("day at noon", "period", "at", OPTION),
    ("day zone UTC", "period", "zone", OPTION),
    ("day in UTC in UTC", "period", "in", OPTION),
    ("day in", "zone", "in", "a word after 'in'"),
    ("week offset", "offset", "offset", "a word after 'offset'"),
    ("day from", "anchor", "from", "a word after 'from'"),
    ("day in Mars/Olympus", "zone", "Mars/Olympus", None),
    ("week offset two", "offset", "two", WHOLE + "27"),
    ("week offset 100", "offset", "100", WHOLE + "27"),
    ("week offset 7", "offset", 7, "whole days from 0 to 6 for a week"),
    ("day offset 1", "offset", 1, "0 days for a day"),
    ("month offset 1 from 2026-01-31T09:00Z", "offset", 1, "0 days where an anchor says when cycles begin"),
    *[
        (f"day from {word}", "anchor", word, ISO)
        for word in (
            "noon", "2026-01-31", "2026-01-31T09:00", "2026-01-31T09:00:00", "2026-02-30T09:00Z", "20260131T0900Z",
            "2026-W05-6T09:00Z", "2026-01-31T09Z", "2026-01-31T09:00:00.1234567Z", "2026-01-31T09:00+24:00",
            "2026-01-31T09:00z", "2026-01-31t09:00Z", "x2026-01-31T09:00Z", "2026-01-31T09:00Zx", "2026-01-31T25:00Z",
            "\u0662026-01-31T09:00Z",
        )
    ],
]  # fmt: skip


@pytest.mark.parametrize(("text", "field", "value", "accepted"), GARBLED)
def test_garbled_text_names_the_word(text, field, value, accepted):
    """Text that cannot be meant is refused, and the error holds the word that is at fault."""
    with pytest.raises(InvalidPlan) as caught:
        parse_period(text)
    assert (caught.value.field, caught.value.value) == (field, value)
    assert type(caught.value.value) is type(value)
    assert accepted in (caught.value.accepted, None)


words = st.sampled_from([*UNITS, "days", "h", "m", "2", "15", "0", "in", "offset", "from", "UTC", "Europe/Paris", "3",
                         "2026-01-31T09:00:00+01:00", "2026-01-31", "by", "\ud800"])  # fmt: skip


@given(st.lists(words, max_size=7).map(" ".join) | st.text(max_size=20))
def test_any_text_is_a_period_or_a_mistake(text):
    """Whatever the text: a period whose own text means the same, or ``InvalidPlan`` with a word of the text."""
    try:
        period = parse_period(text)
    except InvalidPlan as error:
        assert isinstance(error.value, (int, datetime)) or error.value in text
    else:
        assert parse_period(str(period)) == period

"""Every zone, every transition from 1900 to 2040, to the microsecond."""

from __future__ import annotations

import pytest

from quota.clock import to_datetime
from quota.period import Period
from timeline import HOUR, distinct_zones, timeline, us, window_by_hand

pytestmark = pytest.mark.slow

PERIODS = [
    ("minute", 1, 0, None), ("minute", 15, 0, None), ("minute", 7, 0, None), ("hour", 1, 0, None), ("hour", 6, 0, None),
    ("hour", 36, 0, None), ("day", 1, 0, None), ("day", 2, 0, None), ("week", 1, 0, None), ("week", 2, 3, None),
    ("month", 1, 0, None), ("month", 3, 27, None), ("year", 1, 0, None), ("hour", 5, 0, "2001-03-25T01:30:00Z"),
    ("day", 1, 0, "2000-01-31T00:30:00Z"), ("day", 1, 0, "1999-12-31T12:15:00.000001Z"),
    ("week", 1, 0, "2024-10-27T01:30:00Z"), ("month", 1, 0, "2000-01-31T06:45:00Z"), ("year", 1, 0, "2000-02-29T02:30:00Z"),
]  # fmt: skip


@pytest.mark.parametrize(("every", "count", "offset", "anchor"), PERIODS)
def test_every_zone_at_every_transition(every, count, offset, anchor):
    """On and around each transition, windows equal those found by hand, and touch their neighbours."""
    anchor_us = anchor and us(anchor)
    checked = 0
    for zone in distinct_zones():
        period = Period(every, count=count, zone=zone, offset=offset, anchor=anchor and to_datetime(anchor_us))
        for transition in timeline(zone).transitions():
            for now in (transition - HOUR, transition - 1, transition, transition + 1, transition + HOUR // 2):
                start, end = period.window(now)
                assert start <= now < end, (zone, now)
                assert (start, end) == window_by_hand(zone, now, every, count, offset, anchor_us), (zone, now)
                assert period.window(end)[0] == end, (zone, now)
                assert period.window(start - 1)[1] == start, (zone, now)
                checked += 1
    assert checked > 100_000

"""Clocks and instants: whole microseconds, and nothing that is naive."""

from datetime import datetime, timedelta, timezone

import pytest

from quota import ManualClock
from quota.clock import span_us, to_datetime, to_us
from quota.errors import InvalidValue

PARIS = timezone(timedelta(hours=1))
NOON = datetime(2026, 3, 10, 12, tzinfo=timezone.utc)


def test_a_manual_clock_moves_only_when_told():
    """Set to an instant or to microseconds, advanced by a span or by microseconds, forwards and back; it counts readings."""
    clock = ManualClock(NOON)
    assert [clock(), clock()] == [to_us(NOON)] * 2
    clock.advance(timedelta(seconds=1))
    clock.advance(5)
    assert clock() == to_us(NOON) + 1_000_005
    clock.advance(-1_000_005)
    assert repr(clock) == "ManualClock(2026-03-10T12:00:00+00:00)"
    clock.set(7)
    assert (clock(), clock.readings) == (7, 4)
    clock.set(NOON.astimezone(PARIS))
    assert clock() == to_us(NOON)


@pytest.mark.parametrize("start", [datetime(2026, 1, 1), 1.5, True, "now", None])
def test_a_manual_clock_starts_at_an_instant(start):
    """A naive datetime is no instant, and neither is anything that is not a whole number."""
    with pytest.raises(InvalidValue, match="instant: .*timezone-aware datetime"):
        ManualClock(start)


@pytest.mark.parametrize("span", [1.5, True, "1s", None])
def test_a_span_is_whole(span):
    """A timedelta, or whole microseconds."""
    with pytest.raises(InvalidValue, match="overlap: .*timedelta or whole microseconds"):
        span_us(span, "overlap")


def test_instants_are_exact_to_the_ends_of_datetime():
    """Every microsecond is kept; beyond the first or last one a datetime can tell, it tells that one."""
    for instant in (NOON, NOON + timedelta(microseconds=1), datetime.max.replace(tzinfo=timezone.utc)):
        assert to_datetime(to_us(instant)) == instant
    assert to_datetime(2**62) == datetime.max.replace(tzinfo=timezone.utc)
    assert to_datetime(-(2**62)) == datetime.min.replace(tzinfo=timezone.utc)

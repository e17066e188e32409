"""Long ways round that could mint or lose a unit: what is pruned, joined, renamed, forgotten, retried, and when."""

from datetime import datetime, timedelta, timezone

import pytest

from quota import Ledger, ManualClock, Quota, RequestMismatch, ReservationClosed, UsagePlan
from quota.stores.memory import MemoryStore

MORNING = datetime(2026, 3, 10, 9, tzinfo=timezone.utc)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)


@pytest.fixture
def clock():
    return ManualClock(MORNING)


@pytest.fixture
def ledger(clock):
    return Ledger(clock=clock)


def on(ledger, limits="10/day", *, id="p", key="k", account=None, **plan):
    """A key on a plan of these limits: its id and its secret."""
    ledger.replace_plan(UsagePlan(id, limits, **plan))
    return ledger.issue_key(key, id, id=key, account=account).secret


@pytest.mark.parametrize(("limits", "retention", "idle", "back"), [
    ("1/day burst 1000", 35, 36 * DAY, 36), ("10/hour burst 10", 0, HOUR / 2, 5), ("10/hour burst 10", 0, HOUR, 10),
])  # fmt: skip
def test_a_bucket_that_is_not_empty_is_never_pruned(clock, limits, retention, idle, back):
    """It may take longer to drain than history is kept: to forget it would be to fill the whole burst again."""
    ledger = Ledger(MemoryStore(stripes=1, retention=retention), clock=clock)
    secret = on(ledger, limits)
    other = on(ledger, id="q", key="other")
    assert ledger.consume(secret, ledger.get_plan("p").limits[0].burst)
    clock.advance(idle)
    for _ in range(4):
        ledger.consume(other)
    assert not ledger.peek(secret, back + 1)
    assert ledger.peek(secret, back)


# History


def test_a_key_s_history_is_its_own_when_another_joins_its_account(ledger, clock):
    """A limit by key tells the key's usage, one by account the account's, before and after the second key came."""
    limits = "90/month, 95/month by account as joint"
    first = on(ledger, limits, key="first")
    ledger.consume(first, 5)
    second = on(ledger, limits, key="second", account="first")
    ledger.consume(second, 7)
    today = [[(r.limit, r.used, r.remaining) for r in ledger.usage(key)] for key in ("first", "second")]
    assert today == [
        [("joint", 12, 83), ("requests/month", 5, 85)],
        [("joint", 12, 83), ("requests/month", 7, 83)],
    ]
    clock.advance(DAY)
    ledger.consume(first)
    ledger.consume(second, 2)
    both = [[(r.day.day, r.limit, r.used, r.remaining) for r in ledger.usage(key)] for key in ("first", "second")]
    assert both == [
        [(10, "joint", 12, 83), (10, "requests/month", 5, 85), (11, "joint", 3, 80), (11, "requests/month", 1, 84)],
        [(10, "joint", 12, 83), (10, "requests/month", 7, 83), (11, "joint", 3, 80), (11, "requests/month", 2, 81)],
    ]


def test_routes_that_name_their_limits_alike_are_told_apart(ledger, clock):
    """A count is kept by api, route and name: the history of one route's never hides another's."""
    secret = on(ledger, "100/month", routes={"/a": "10/hour", "/b": "20/hour, 9/day as few"})
    ledger.consume(secret, 5, route="/a")
    ledger.consume(secret, 3, route="/b")
    for _ in range(2):
        rows = [(r.limit, r.used, r.remaining) for r in ledger.usage("k", until=MORNING)]
        assert rows == [
            ("/a requests/hour", 5, 5), ("/b requests/hour", 3, 17), ("few", 3, 6), ("requests/month", 8, 92),
        ]  # fmt: skip
        clock.advance(DAY)
        ledger.consume(secret)


# Refunds, reservations and their retries


def test_a_refund_does_not_reach_an_account_that_was_forgotten_since(ledger, clock):
    """What the account counts now was taken later: the key's own count alone had what is refunded."""
    limits = "10/day by account as joint, 10/day"
    first, second = (on(ledger, limits, key=name, account="team") for name in ("first", "second"))
    ledger.consume(second)
    before = ledger.consume(first, 5)
    clock.advance(3 * DAY)
    ledger.consume(second)
    clock.advance(-3 * DAY)
    ledger.forget("second")
    assert ledger.consume(first, 5)
    assert ledger.refund(before) == 5
    assert [s.used for s in ledger.peek(first).limits] == [6, 6]


def test_a_refund_reaches_the_account_that_a_key_s_count_became(ledger):
    """Taken while the key was alone: its account's count began as a copy of its own."""
    limits = "10/day by account as joint, 10/day"
    first = on(ledger, limits, key="first")
    before = ledger.consume(first, 5)
    second = on(ledger, limits, key="second", account="first")
    assert ledger.refund(before, 3) == 3
    assert [s.used for s in ledger.peek(first).limits] == [3, 3]
    assert [s.used for s in ledger.peek(second).limits] == [3, 1]


def test_a_cancelled_reservation_is_not_retried(ledger, clock):
    """Its retry would be told that it may go on, and holds nothing: a mismatch, as of a refunded call; or another ttl."""
    secret = on(ledger)
    held = ledger.reserve(secret, 4, ttl=HOUR, request_id="a")
    with pytest.raises(RequestMismatch, match="another call"):
        ledger.reserve(secret, 4, ttl=2 * HOUR, request_id="a")
    ledger.reserve(secret, 4, ttl=HOUR, request_id="a").cancel()
    with pytest.raises(RequestMismatch, match="cancelled"):
        ledger.reserve(secret, 4, ttl=HOUR, request_id="a")
    with pytest.raises(ReservationClosed):
        held.commit()
    done = ledger.reserve(secret, 4, ttl=HOUR, request_id="b")
    done.commit(3)
    assert ledger.reserve(secret, 4, ttl=HOUR, request_id="b").id == done.id
    clock.advance(DAY)
    again = ledger.reserve(secret, 4, ttl=HOUR, request_id="a")
    assert (bool(again), again.decision.replayed) == (True, False)


def test_a_late_commit_reaches_the_account_whatever_others_held_since(ledger, clock):
    """A day after a hold lapsed the account may have dropped it, when another key held something; its key has not."""
    limits = "100/month by account as joint, 100/month"
    first, second = (on(ledger, limits, key=name, account="team") for name in ("first", "second"))
    held = ledger.reserve(first, 5, ttl=HOUR)
    clock.advance(DAY + 2 * HOUR)
    assert ledger.reserve(second, 1, ttl=HOUR)
    decision = held.commit(4)
    assert [(s.name, s.used) for s in decision.limits] == [("joint", 5), ("requests/month", 4)]
    assert ledger.refund(decision) == 4
    assert [s.used for s in ledger.peek(first, 1).limits] == [2, 1]


# Limits that not every call touches


@pytest.mark.parametrize("period", ["day in Europe/Paris", "week in Asia/Kolkata", "45 minute", "month in America/Havana",
                                    "hour from 2026-01-31T09:17:00+00:00", "day"])  # fmt: skip
@pytest.mark.parametrize("where", [{"route": "r"}, {"api": "b"}])
def test_a_window_begins_empty_whatever_was_called_first_in_it(ledger, clock, period, where):
    """A call elsewhere does not touch a route's or another api's limit, but it moves time on: no unit is lost by it."""
    limit = Quota(5, period, name="few")
    secret = on(ledger, "1000/day", routes={"r": [limit]})
    ledger.add_plan(UsagePlan("b", [limit], api="b"))
    ledger.associate("k", "b")
    for _ in range(4):
        while ledger.consume(secret, **where):
            clock.advance(1)
        start, end = limit.period.window(clock())
        clock.set(end - 1)
        assert ledger.peek(secret, **where).violated == ("few",)
        for instant in (end + (end - start) // 2, end + (end - start) * 9 // 10):
            clock.set(instant)
            assert ledger.consume(secret)
        assert ledger.consume(secret, 5, **where)
        clock.advance(1)


def test_a_hold_of_one_key_is_never_another_s(ledger, clock):
    """A key that held something before another joined its account gives nothing back of what that one holds."""
    limits = "10/day, 50/day by account as joint"
    first = on(ledger, limits, key="first")
    ledger.reserve(first, 3, ttl=HOUR).cancel()
    second = on(ledger, limits, key="second", account="first")
    ledger.reserve(second, 4, ttl=HOUR)
    ledger.reserve(first, 1, ttl=HOUR)
    clock.advance(2 * HOUR)
    assert [s.used for s in ledger.peek(first, 1).limits] == [1, 1]
    assert ledger.consume(first, 10)
    assert not ledger.consume(first)

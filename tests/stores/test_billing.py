"""When a key was last used, and what all keys used: whatever the store is."""

from datetime import datetime, timedelta, timezone

import pytest

from every_store import ALL, EXACT
from quota import InvalidValue, UnknownKey, UsagePlan

START = datetime(2026, 3, 10, 12, tzinfo=timezone.utc)
SECOND, MINUTE, HOUR, DAY = timedelta(seconds=1), timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)


def over(*kinds):
    """The test once for each of these kinds of store."""
    return pytest.mark.parametrize("stores", kinds, indirect=True)


@pytest.mark.parametrize("limits", ["5/day", "5/day, 3/s burst 2", "5/day, 9 tokens/day by account, 7/s"])
@over(*ALL)
def test_last_used_is_the_minute_of_the_last_admission(stores, clock, limits):
    """Not of a refusal, a peek, a refund, a grant, a limit of one's own: of a call that was let in, by any way in."""
    ledger, key, secret = stores.with_key(clock, limits)
    assert ledger.last_used(key) is None
    ledger.peek(secret)
    ledger.grant(key, "requests/day", 1)
    assert ledger.last_used("k") is None
    first = ledger.consume(secret)
    clock.advance(59 * SECOND)
    assert ledger.consume(secret) and ledger.consume(secret, 1)
    assert ledger.last_used(key) == START
    clock.advance(SECOND)
    ledger.refund(first)
    ledger.override_limit(key, "requests/day", 9)
    ledger.set_remaining(key, "requests/day", 3)
    ledger.peek(secret)
    assert ledger.last_used(key) == START
    clock.advance(2 * SECOND)
    assert ledger.consume(secret)  # its minute began with something that was no admission
    assert ledger.last_used(key) == START + MINUTE
    clock.advance(10 * MINUTE)
    held = ledger.reserve(secret, 2, ttl=HOUR)
    assert ledger.last_used(key) == START + 11 * MINUTE
    clock.advance(10 * MINUTE)
    assert not ledger.consume(secret) and not ledger.consume(secret, 99)
    held.commit(1)
    assert ledger.last_used(key) == START + 11 * MINUTE
    ledger.disable_key(key)
    ledger.rotate_key(key)
    assert ledger.last_used(key) == START + 11 * MINUTE
    ledger.forget(key)
    assert ledger.last_used(key) == START + 11 * MINUTE
    ledger.remove_key(key)
    with pytest.raises(UnknownKey):
        ledger.last_used("k")


@over(*ALL)
def test_last_used_of_every_key_of_an_account(stores, clock):
    """Each has its own, whatever they share; other processes see it."""
    ledger = stores.ledger(clock)
    ledger.add_plan(UsagePlan("p", "100/day by account, 50/hour"))
    keys = [ledger.issue_key(id_, "p", id=id_, account="team") for id_ in ("x", "y", "z")]
    for key, _ in keys[:2]:
        for _ in range(4):
            assert ledger.consume(key)
            clock.advance(20 * SECOND)
    there = stores.ledger(clock, ledger)
    assert [there.last_used(id_) for id_ in ("x", "y", "z")] == [START + MINUTE, START + 2 * MINUTE, None]
    if not stores.leased:
        assert there.consume(keys[2].key) and there.consume(keys[0].key, request_id="once")
        clock.advance(HOUR)
        assert there.consume(keys[0].key, request_id="once").replayed
        assert [ledger.last_used(id_) for id_ in ("x", "z")] == [START + 2 * MINUTE] * 2


@over(*EXACT)
def test_last_used_outlives_the_record(stores, clock):
    """It is known when everything else of the key was forgotten, and until the next admission."""
    ledger, key, secret = stores.with_key(clock, "5/hour")
    _, other = ledger.issue_key("other", "p", id="other")
    assert ledger.consume(secret)
    for _ in range(4):
        clock.advance(30 * DAY)
        for _ in range(3):
            assert ledger.consume(other)
    assert ledger.last_used(key) == START
    assert not ledger.consume(secret, 99) and ledger.usage(key)[0].used == 0
    assert ledger.last_used(key) == START
    ledger.grant(key, "requests/hour", 2)
    assert ledger.last_used(key) == START
    assert ledger.consume(secret)
    assert ledger.last_used(key) == START + 120 * DAY


@over(*EXACT)
def test_last_used_after_a_wild_clock(stores, clock):
    """An instant far ahead is told until forget() and the next admission put it right."""
    ledger, key, secret = stores.with_key(clock, "5/hour")
    clock.advance(400 * DAY)
    assert ledger.consume(secret)
    clock.set(START)
    ledger.forget(key)
    assert ledger.consume(secret) and ledger.consume(secret)
    assert ledger.last_used(key) == START


@over(*ALL)
def test_last_used_of_nobody(stores, clock):
    """An error that names the key."""
    ledger = stores.ledger(clock)
    with pytest.raises(UnknownKey, match="nobody"):
        ledger.last_used("nobody")
    with pytest.raises(InvalidValue):
        ledger.last_used("")

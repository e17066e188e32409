"""Short histories of what keys used and when, each told by a ledger of whatever package is given."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

START = datetime(2026, 3, 10, 12, tzinfo=timezone.utc)
DAY, MINUTE = timedelta(days=1), timedelta(minutes=1)


def _ledger(q, limits, retention=35, **key):
    """A ledger on a clock by hand, that clock, and the secret of a key on a plan."""
    from importlib import import_module

    clock = q.ManualClock(START)
    store = import_module(f"{q.__name__}.stores.memory").MemoryStore(stripes=1, retention=retention)
    ledger = q.Ledger(store, clock=clock)
    ledger.add_plan(q.UsagePlan("p", limits))
    return ledger, clock, ledger.issue_key("k", "p", id="k", **key).secret


def _told(ledger, by="key"):
    return [(one.id, one.used) for one in ledger.usage_report("2026-03-01", "2026-06-30", by=by)]


def a_refusal_is_no_use(q):
    for limits in ("2/day", "2/day, 9/s burst 9, 5/hour by account"):
        ledger, clock, secret = _ledger(q, limits)
        assert ledger.consume(secret) and ledger.consume(secret)
        for _ in range(3):
            clock.advance(MINUTE)
            assert not ledger.consume(secret)
        assert ledger.last_used("k") == START, limits


def a_grant_s_minute_hides_no_use(q):
    for limits in ("9/day", "9/day, 9/s, 9 tokens/day"):
        ledger, clock, secret = _ledger(q, limits)
        assert all(ledger.consume(secret) for _ in range(3))
        clock.advance(10 * MINUTE)
        ledger.peek(secret)
        ledger.grant("k", "requests/day", 1)
        ledger.peek(secret)
        assert ledger.consume(secret)
        assert ledger.last_used("k") == START + 10 * MINUTE, limits


def a_refund_s_minute_hides_no_use(q):
    for limits in ("9/day, 9 tokens/day", "9/day, 8/month, 7/hour, 9/s"):
        ledger, clock, secret = _ledger(q, limits)
        first = [ledger.consume(secret, {"requests": 1}) for _ in range(3)][0]
        clock.advance(10 * MINUTE)
        assert ledger.refund(first) == 1
        assert ledger.consume(secret, {"requests": 1})
        assert ledger.last_used("k") == START + 10 * MINUTE, limits


def the_last_use_outlives_the_record(q):
    ledger, clock, secret = _ledger(q, "9/hour")
    _, other = ledger.issue_key("other", "p", id="other")
    assert ledger.consume(secret)
    for _ in range(8):
        clock.advance(30 * DAY)
        assert ledger.consume(other) and ledger.consume(other)
        ledger.grant("other", "requests/hour", 1)
    assert ledger.store.rooms["k"].key_entry.record is None
    assert ledger.last_used("k") == START


def two_keys_of_an_account_are_told_once(q):
    ledger, _, secret = _ledger(q, "99/day by account", account="team")
    _, other = ledger.issue_key("other", "p", id="other", account="team")
    assert ledger.consume(secret, 3) and ledger.consume(other, 4)
    assert _told(ledger) == [("k", 3), ("other", 4)]
    assert _told(ledger, "account") == [("team", 7)]
    assert _told(ledger, "plan") == [("p", 7)]


def no_day_within_retention_is_lost(q):
    ledger, clock, secret = _ledger(q, "99/day", retention=3)
    for number in range(4):
        assert ledger.consume(secret, 10 + number)
        clock.advance(DAY * (number < 3))
    assert _told(ledger) == [("k", 10 + 11 + 12 + 13)]
    clock.advance(DAY)
    assert _told(ledger) == [("k", 11 + 12 + 13)]


def a_day_is_its_last_charge_s_plan_s(q):
    ledger, clock, secret = _ledger(q, "99/day")
    ledger.add_plan(q.UsagePlan("q", "99/day"))
    for _ in range(2):  # the second time nothing is due for either plan
        for plan in ("q", "p"):
            ledger.associate("k", plan)
            assert ledger.peek(secret) and ledger.peek(secret)
            assert ledger.consume(secret) and ledger.consume(secret)
    assert _told(ledger, "plan") == [("p", 8)]
    clock.advance(DAY)
    ledger.associate("k", "q")
    assert ledger.peek(secret)
    assert ledger.consume(secret)
    assert _told(ledger, "plan") == [("p", 8), ("q", 1)]


def a_route_s_units_are_told_once(q):
    ledger, _, secret = _ledger(q, "99/day")
    ledger.replace_plan(q.UsagePlan("p", "99/day", routes={"r": "50/day"}))
    assert ledger.consume(secret, 3, route="r") and ledger.consume(secret, 4)
    assert _told(ledger) == [("k", 7)]


def a_removed_key_is_told(q):
    ledger, clock, secret = _ledger(q, "99/day, 99/hour by account")
    assert ledger.consume(secret, 5)
    clock.advance(DAY)
    assert ledger.consume(secret, 2) and ledger.reserve(secret, 10, ttl=600_000_000)
    ledger.remove_key("k")
    assert _told(ledger) == _told(ledger, "account") == [("k", 7)]
    assert _told(ledger, "plan") == [("p", 7)]
    days = [(one.day.day, one.limit, one.used) for one in ledger.usage("k")]
    assert days == [(of, name, used) for of, used in ((10, 5), (11, 2)) for name in ("requests/day", "requests/hour")]
    _, secret = ledger.issue_key("again", "p", id="k")
    assert ledger.status("k")[0].used == 0
    assert ledger.consume(secret, 3)
    assert {one.used for one in ledger.usage("k")} == {3}
    assert _told(ledger) == [("k", 10)]
    ledger.remove_key("k")
    assert [one.used for one in ledger.usage("k", since="2026-03-11")] == [5, 5]
    clock.advance(34 * DAY)
    assert _told(ledger) == [("k", 10)]
    clock.advance(DAY)
    assert _told(ledger) == [("k", 5)]
    clock.advance(2 * DAY)
    for _ in range(2):
        _, secret = ledger.issue_key("again", "p", id="k")
        assert ledger.consume(secret)
        ledger.remove_key("k")
    assert len(ledger.store._removed) == 2


def nothing_is_left_of_who_is_erased(q):
    ledger, clock, secret = _ledger(q, "99/day, 99/day by account as all", account="team")
    _, other = ledger.issue_key("other", "p", id="other", account="team")
    assert ledger.consume(secret, 5, request_id="once") and ledger.consume(other, 2)
    ledger.remove_key("k")
    _, secret = ledger.issue_key("again", "p", id="k", account="team")
    assert ledger.consume(secret, 3) and ledger.reserve(secret, 40, ttl=600_000_000)
    assert ledger.status("other")[1].used == 50
    ledger.erase("k")
    assert ledger.status("other")[1].used == 10
    assert [e.kind for e in ledger.events() if e.key != "other"] == ["plan.added", "erased"]
    assert _told(ledger) == [("other", 2)]
    holds = ledger.store._accounts["team"].record.holds
    assert not any("k" in hold.id for hold in (holds.each() if holds else ()))
    for who in ("k", "nobody"):
        try:
            ledger.erase(who)
        except q.UnknownKey:
            continue
        raise AssertionError(who)
    ledger.update_account("team", name="Team")
    ledger.erase("team")
    assert [(e.kind, e.account) for e in ledger.events()] == [("plan.added", None), ("erased", None), ("erased", None)]
    assert not ledger.store._accounts and not _told(ledger)


def a_plan_is_known_for_every_day_that_is(q):
    ledger, clock, secret = _ledger(q, "99/day")
    ledger.add_plan(q.UsagePlan("q", "99/day"))
    assert ledger.consume(secret, 5)
    clock.advance(5 * DAY)
    assert ledger.consume(secret, 6)
    clock.advance(31 * DAY)
    ledger.associate("k", "q")
    assert ledger.consume(secret, 7)
    assert _told(ledger, "plan") == [("p", 6), ("q", 7)]


def a_lapsed_hold_is_told_no_more(q):
    ledger, clock, secret = _ledger(q, "99/day")
    assert ledger.reserve(secret, 5, ttl=MINUTE) and ledger.consume(secret)
    assert _told(ledger) == [("k", 6)]
    clock.advance(MINUTE)
    assert _told(ledger) == [("k", 1)]
    assert ledger.consume(secret).limits[0].used == 2


SCENARIOS = {
    name: function for name, function in list(globals().items())
    if callable(function) and not name.startswith("_") and function.__module__ == __name__
}  # fmt: skip

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


def bill(ledger, by="key", since="2026-03-01", until="2026-05-30", api=None):
    """What a report tells, as tuples."""
    return [(t.id, t.api, t.unit, t.used) for t in ledger.usage_report(since, until, by=by, api=api)]


@over(*ALL)
def test_a_report_tells_what_all_keys_used(stores, clock):
    """By key, account and plan; every unit once, whatever limits it, of each api, days included at both ends."""
    ledger = stores.ledger(clock)
    ledger.add_plan(UsagePlan("gold", "1000/day, 9000 tokens/month by account", routes={"GET /export": "50/day"}))
    ledger.add_plan(UsagePlan("b", "70/day by account", api="b"))
    keys = {
        id_: ledger.issue_key(id_, "gold", id=id_, account=of).secret
        for id_, of in (("x", "team"), ("y", "team"), ("z", None))
    }
    ledger.associate("x", "b")
    ledger.issue_key("idle", "gold", id="idle")
    for secret in keys.values():
        assert ledger.consume(secret, {"requests": 2, "tokens": 5}, route="GET /export")
    assert ledger.consume(keys["x"], 3, api="b") and not ledger.consume(keys["y"], api="b")
    clock.advance(DAY)
    assert ledger.consume(keys["y"], {"tokens": 7}) and ledger.consume(keys["z"])
    both = [("x", "", "requests", 2), ("x", "", "tokens", 5), ("x", "b", "requests", 3), ("y", "", "requests", 2)]
    assert bill(ledger) == [*both, ("y", "", "tokens", 12), ("z", "", "requests", 3), ("z", "", "tokens", 5)]
    assert bill(ledger, until="2026-03-10")[3:] == [
        ("y", "", "requests", 2),
        ("y", "", "tokens", 5),
        ("z", "", "requests", 2),
        ("z", "", "tokens", 5),
    ]
    assert bill(ledger, since="2026-03-11") == [("y", "", "tokens", 7), ("z", "", "requests", 1)]
    assert bill(ledger, "account") == [
        ("team", "", "requests", 4), ("team", "", "tokens", 17), ("team", "b", "requests", 3), ("z", "", "requests", 3), ("z", "", "tokens", 5),
    ]  # fmt: skip
    assert bill(ledger, "plan") == [("b", "b", "requests", 3), ("gold", "", "requests", 7), ("gold", "", "tokens", 22)]
    assert bill(ledger, "plan", api="b") == [("b", "b", "requests", 3)]
    assert bill(ledger, since="2026-03-12") == bill(ledger, until="2026-03-09") == []
    there = stores.ledger(clock, ledger)
    assert bill(there, "account") == bill(ledger, "account")


@over(*ALL)
def test_a_day_goes_to_the_plan_of_its_last_charge(stores, clock):
    """A key that changes its plan in the middle of a day takes that day along; looks and refusals move nothing."""
    ledger, key, secret = stores.with_key(clock, "1000/day")
    for id_ in ("q", "r"):
        ledger.add_plan(UsagePlan(id_, "1000/day" if id_ == "q" else "0/day"))
    assert ledger.consume(secret, 5)
    clock.advance(DAY)
    assert ledger.consume(secret, 7)
    ledger.associate(key, "q")
    assert ledger.consume(secret, 2) and ledger.consume(secret)
    clock.advance(DAY)
    assert ledger.consume(secret, 20)
    ledger.associate(key, "r")
    assert not ledger.consume(secret)
    clock.advance(DAY)
    assert not ledger.consume(secret)
    assert bill(ledger, "plan") == [("p", "", "requests", 5), ("q", "", "requests", 30)]
    for plan in ("p", "q", "p"):
        ledger.associate(key, plan)
        assert ledger.consume(secret, 100)
    assert bill(ledger, "plan") == [("p", "", "requests", 305), ("q", "", "requests", 30)]
    ledger.remove_plan("q")
    assert bill(ledger, "plan", until="2026-03-12") == [("p", "", "requests", 5), ("q", "", "requests", 30)]


@over(*EXACT)
def test_a_report_tells_what_was_given_back_and_held(stores, clock):
    """A refund leaves the day of its charge, a lapsed hold is nothing though nobody called since, an open one counts."""
    ledger, key, secret = stores.with_key(clock, "1000/month")
    early = ledger.consume(secret, 10)
    clock.advance(DAY)
    assert ledger.consume(secret, 20)
    ledger.refund(early, 4)
    assert ledger.reserve(secret, 7, ttl=HOUR)
    assert bill(ledger, until="2026-03-10") == [("k", "", "requests", 6)]
    assert bill(ledger, since="2026-03-11") == [("k", "", "requests", 27)]
    clock.advance(2 * HOUR)
    assert bill(ledger) == [("k", "", "requests", 26)]


@over(*EXACT)
def test_a_report_keeps_every_day_until_retention_ends(stores, clock):
    """The day that is retention ago is told whole, and the one before it not at all; of keys that went silent too."""
    ledger, key, secret = stores.with_key(clock, "1000/day")
    _, silent = ledger.issue_key("silent", "p", id="silent")
    assert ledger.consume(silent, 50)
    for day in range(36):
        clock.advance(DAY * (day > 0))
        assert ledger.consume(secret, 3) and ledger.consume(secret)
    assert bill(ledger) == [("k", "", "requests", 36 * 4), ("silent", "", "requests", 50)]
    assert bill(ledger, until="2026-03-10") == [("k", "", "requests", 4), ("silent", "", "requests", 50)]
    clock.set(START + 36 * DAY - 12 * HOUR)
    assert bill(ledger) == [("k", "", "requests", 35 * 4)]
    assert ledger.consume(secret)
    assert bill(ledger) == [("k", "", "requests", 35 * 4 + 1)]


def days(ledger, id_, **more):
    """What is told of a key's days, as tuples."""
    return [(one.day.day, one.limit, one.used, one.remaining) for one in ledger.usage(id_, **more)]


@over(*ALL)
def test_a_removed_key_is_told_until_retention_ends(stores, clock):
    """By key, account and plan, day by day; what it held is given back, and its account goes on counting."""
    ledger = stores.ledger(clock)
    ledger.add_plan(UsagePlan("p", "100/day, 1000/month by account", routes={"GET /x": "50/day"}))
    ledger.add_plan(UsagePlan("q", "100/day"))
    (key, secret), (_, other) = (ledger.issue_key(id_, "p", id=id_, account="team") for id_ in "kl")
    unused = ledger.issue_key("unused", "p", id="unused", account="team").key
    assert ledger.consume(secret, 5, route="GET /x") and ledger.consume(other, 3)
    clock.advance(DAY)
    ledger.associate(key, "q")
    assert ledger.consume(secret, 2)
    held = ledger.reserve(secret, 10, ttl=HOUR)
    ledger.remove_key(unused)
    ledger.remove_key(key)
    assert ledger.consume(secret).reason.value == "UNKNOWN_KEY"
    with pytest.raises(UnknownKey):
        held.commit()
    there = stores.ledger(clock, ledger)
    told = [(10, "GET /x requests/day", 5, 45), (10, "requests/day", 5, 95), (11, "requests/day", 2, 98)]
    assert days(there, "k") == days(there, key) == told
    assert days(there, "k", since="2026-03-11") == told[2:] and days(there, "k", api="b") == []
    with pytest.raises(UnknownKey):
        there.usage("unused")
    assert bill(there) == [("k", "", "requests", 7), ("l", "", "requests", 3)]
    assert bill(there, "account") == [("team", "", "requests", 10)]
    assert bill(there, "plan") == [("p", "", "requests", 8), ("q", "", "requests", 2)]
    assert (10, "requests/month", 8, 992) in days(there, "l")
    clock.set(START + 35 * DAY)
    assert bill(there, until="2026-03-10") == [("k", "", "requests", 5), ("l", "", "requests", 3)]
    clock.advance(DAY)
    assert bill(there) == [("k", "", "requests", 2)] and days(there, "k") == told[2:]
    clock.advance(DAY)
    assert bill(there) == []
    late = [ledger.issue_key("late", "p", id=f"late {number}") for number in range(3)]
    for one, _ in late:
        assert ledger.consume(one)
        ledger.remove_key(one)
        clock.advance(DAY)
    assert bill(there) == [(f"late {number}", "", "requests", 1) for number in range(3)]
    with pytest.raises(UnknownKey):
        there.usage("k")


@over(*ALL)
def test_a_key_under_the_id_of_a_removed_one(stores, clock):
    """It begins anew and its usage is its own; a report tells what was used under the id."""
    ledger, key, secret = stores.with_key(clock, "9/day, 20/month by account")
    assert ledger.consume(secret, 9)
    ledger.override_limit(key, "requests/day", 1)
    for used in (4, 2):
        ledger.remove_key("k")
        assert [one[2] for one in days(ledger, "k")] == [{4: 9, 2: 13}[used]] * 2
        again = ledger.issue_key("again", "p", id="k").secret
        assert [(one.used, one.remaining) for one in ledger.status("k")] == [(0, 9), (0, 20)]
        assert ledger.consume(again, used)
        assert [one[2] for one in days(ledger, "k")] == [used] * 2
        assert bill(ledger) == bill(ledger, "account") == [("k", "", "requests", {4: 13, 2: 15}[used])]
    ledger.remove_key("k")
    ledger.issue_key("elsewhere", "p", id="k", account="team")
    assert bill(ledger) == bill(ledger, "account") == [("k", "", "requests", 15)]


@over(*ALL)
def test_a_report_asks_for_a_page_at_a_time(stores, clock, monkeypatch):
    """However many pages there are, every key is told once, in order, accounts larger than a page whole."""
    monkeypatch.setattr("quota.ledger.usage.reports.PAGE", 3)
    ledger = stores.ledger(clock)
    ledger.add_plan(UsagePlan("p", "1000/day"))
    expected = []
    for number in range(11):
        account = "large" if number % 2 else None
        _, secret = ledger.issue_key("n", "p", id=f"k{number:02}", account=account)
        assert ledger.consume(secret, number + 1)
        expected.append((f"k{number:02}", "", "requests", number + 1))
    assert bill(ledger) == expected
    alone = [told for told in expected if told[3] % 2]
    assert bill(ledger, "account") == [*alone, ("large", "", "requests", 30)]
    assert bill(ledger, "plan") == [("p", "", "requests", 66)]
    for number in (1, 2, 3, 4, 9):
        ledger.remove_key(f"k{number:02}")
    for lives in range(7):
        assert ledger.consume(ledger.issue_key("n", "p", id="k04", account="large").secret)
        if lives < 6:
            ledger.remove_key("k04")
    expected[4] = ("k04", "", "requests", 5 + 7)
    assert bill(ledger) == expected
    alone.remove(("k04", "", "requests", 5))
    assert bill(ledger, "account") == [
        *alone[:2],
        ("k04", "", "requests", 5),
        *alone[2:],
        ("large", "", "requests", 37),
    ]
    assert bill(ledger, "plan") == [("p", "", "requests", 73)]
    pages = ledger.usage_report("2026-03-01", "2026-03-31")
    told = [(one.id, one.used) for one in (next(pages), next(pages))]
    for number in (0, 5, 8):
        ledger.remove_key(f"k{number:02}")
    assert [*told, *((one.id, one.used) for one in pages)] == [(of, used) for of, _, _, used in expected]


@pytest.mark.parametrize(
    ("field", "given"),
    [("by", {"by": "team"}), ("since", {"since": "2026-06-01"}), ("since", {"since": "yesterday"}), ("until", {"until": "soon"}), ("since", {"since": None}), ("api", {"api": 7})],
)  # fmt: skip
@over("memory", "awaited sqlite")
def test_a_report_that_cannot_be_meant(stores, clock, field, given):
    """Said at once, before anything is asked for."""
    ledger = stores.ledger(clock)
    with pytest.raises(InvalidValue) as error:
        ledger.usage_report(**{"since": "2026-03-01", "until": "2026-03-31", **given})
    assert error.value.field == field

"""Where keys and accounts stand, whatever the store is."""

from datetime import datetime, timedelta, timezone

import pytest

from every_store import ALL
from quota import InvalidCost, InvalidValue, PlanConflict, Throttle, UnknownKey, UsagePlan

START = datetime(2026, 3, 10, 12, tzinfo=timezone.utc)
HOUR = timedelta(hours=1)


def over(*kinds):
    """The test once for each of these kinds of store."""
    return pytest.mark.parametrize("stores", kinds, indirect=True)


def told(statuses):
    """Of each limit the name, what is used and what remains, and on whom it is counted."""
    return [(s.name, s.used, s.remaining, s.holder) for s in statuses]


@over(*ALL)
def test_status_charges_nothing_and_tells_all(stores, clock):
    """Of unused, used, exhausted, disabled and expired keys alike, by secret or not; what it tells is what is there."""
    ledger, key, secret = stores.with_key(clock, "3/day, 2/s burst 2, 9 tokens/month by account")
    end = datetime(2026, 3, 11, tzinfo=timezone.utc)
    assert told(ledger.status("k")) == [
        ("requests/day", 0, 3, "k"),
        ("throttle", 0, 2, "k"),
        ("tokens/month", 0, 9, "k"),
    ]
    assert ledger.consume(secret, {"requests": 2, "tokens": 4})
    for _ in range(2):
        day, throttle, tokens = ledger.status(key)
        assert (day.used, day.resets_at, day.retry_at) == (2, end, None)
        assert (throttle.used, throttle.retry_at) == (2, START + HOUR / 7200)
        assert (tokens.used, tokens.limit, tokens.holder, tokens.window) == (4, 9, "k", None)
    clock.advance(timedelta(seconds=1))
    assert ledger.consume(secret)
    assert ledger.status(key)[0].retry_at == end
    ledger.disable_key(key)
    assert told(ledger.status(key))[0] == ("requests/day", 3, 0, "k")
    ledger.enable_key(key)
    clock.set(end)
    assert told(ledger.status(key))[0] == ("requests/day", 0, 3, "k")
    assert ledger.consume(secret).limits[0].used == 1
    expiring, _ = ledger.issue_key("e", "p", id="e", expires_at=end + HOUR)
    clock.advance(2 * HOUR)
    assert told(ledger.status(expiring))[0] == ("requests/day", 0, 3, "e")


@over(*ALL)
def test_status_tells_what_was_adjusted_and_what_is_over(stores, clock):
    """Grants and what was taken away, of this window alone; units beyond a limit that shrank or a commit passed."""
    ledger, key, secret = stores.with_key(clock, "10/hour")
    assert ledger.status(key)[0].extra == 0
    ledger.grant(key, "requests/hour", 5)
    held = ledger.reserve(secret, 3, ttl=HOUR)
    held.commit(18)
    (status,) = ledger.status(key)
    assert (status.limit, status.extra, status.used, status.remaining, status.over) == (10, 5, 18, 0, 3)
    assert status.retry_at == status.resets_at
    assert ledger.set_remaining(key, "requests/hour", 2).extra == 10
    clock.advance(HOUR)
    (status,) = ledger.status(key)
    assert (status.extra, status.used, status.over, status.retry_at) == (0, 0, 0, None)
    ledger.replace_plan(UsagePlan("p", "0/hour"))
    assert ledger.status(key)[0].retry_at is None


@over(*ALL)
def test_status_of_an_account(stores, clock):
    """The limits by account of its keys' plans, each once, told by any name that means it; what a key used beside."""
    ledger = stores.ledger(clock)
    ledger.add_plan(UsagePlan("a", "5/day, 100 tokens/day by account as ours"))
    ledger.add_plan(UsagePlan("b", "70/day by account", api="b"))
    ledger.add_plan(UsagePlan("c", "8/day"))
    keys = {id_: ledger.issue_key(id_, "a", id=id_, account="team") for id_ in ("x", "y")}
    ledger.associate("y", "b")
    ledger.issue_key("z", "c", id="z", account="team")
    assert ledger.consume(keys["x"].secret, {"requests": 1, "tokens": 30})
    assert ledger.consume(keys["y"].secret, {"requests": 2, "tokens": 7})
    assert ledger.consume(keys["y"].secret, 4, api="b")
    assert told(ledger.status("team")) == [("ours", 37, 63, "team"), ("requests/day", 4, 66, "team")]
    assert told(ledger.status("team", api="b")) == [("requests/day", 4, 66, "team")]
    assert told(ledger.status("x")) == [("requests/day", 1, 4, "x"), ("ours", 37, 63, "team")]
    assert told(ledger.status("y", api="")) == [("requests/day", 2, 3, "y"), ("ours", 37, 63, "team")]
    assert ledger.status("x", api="b") == ()
    assert told(ledger.status("z")) == [("requests/day", 0, 8, "z")]


@over(*ALL)
def test_a_text_names_a_key_before_an_account(stores, clock):
    """A key whose account is of its own name is that key; one id of a key and of another's account is refused."""
    ledger, key, _ = stores.with_key(clock, "10/day, 20/day by account as ours")
    ledger.issue_key("second", "p", id="second", account="k")
    assert told(ledger.status("k")) == [("requests/day", 0, 10, "k"), ("ours", 0, 20, "k")]
    ledger.issue_key("team", "p", id="team", account="k")
    assert [s.holder for s in ledger.status("team")] == ["team", "k"]
    ledger.issue_key("third", "p", id="third", account="team")
    with pytest.raises(PlanConflict, match="'third'"):
        ledger.status("team")
    assert [s.holder for s in ledger.status(ledger.get_key("team"))] == ["team", "k"]
    for nobody in ("nobody", ledger.issue_key("gone", id="gone").key):
        if nobody != "nobody":
            ledger.remove_key("gone")
        with pytest.raises(UnknownKey):
            ledger.status(nobody)
    assert [s.holder for s in ledger.status(key)] == ["k", "k"]


@over(*ALL)
def test_status_of_a_route(stores, clock):
    """A route's own limits are told where it is named, as calls on it see them."""
    ledger, key, secret = stores.with_key(clock, "10/day, 9/s", routes={"GET /x": "2/hour as x, 1/s burst 5 as slow"})
    assert ledger.consume(secret, route="GET /x")
    assert told(ledger.status(key)) == [("requests/day", 1, 9, "k"), ("throttle", 0, 9, "k")]
    assert told(ledger.status(key, route="GET /x")) == [
        ("requests/day", 1, 9, "k"), ("x", 1, 1, "k"), ("slow", 1, 4, "k"),
    ]  # fmt: skip
    assert ledger.consume(secret, route="GET /x").limits[1].remaining == 0
    assert not ledger.consume(secret, route="GET /x")


def shown(statuses):
    """Of each limit its name, what it is now and what remains of it."""
    return [(s.name, s.limit, s.remaining) for s in statuses]


@over(*ALL)
def test_a_limit_of_one_s_own_binds_at_once_until_its_microsecond(stores, clock):
    """In every process; used stays used; None takes it back; other keys of the plan keep the plan's."""
    here, key, secret = stores.with_key(clock, "5/day, 100/hour")
    there = stores.ledger(clock, here)
    other = here.issue_key("other", "p", id="other").secret
    assert all(there.consume(secret) for _ in range(5))
    assert not there.consume(secret)
    clock.advance(HOUR if stores.leased else 0)  # as long as a lease, or its refusal, may be believed elsewhere
    until = START + 3 * HOUR
    status = here.override_limit(key, "requests/day", 7, until=until)
    assert (status.name, status.limit, status.used, status.remaining) == ("requests/day", 7, 5, 2)
    assert shown(there.status("k"))[0] == ("requests/day", 7, 2)
    assert [bool(there.consume(secret)) for _ in range(3)] == [True, True, False]
    assert shown(there.status(other and "other"))[0] == ("requests/day", 5, 5)
    clock.set(until - timedelta(microseconds=1))
    assert here.consume(secret).limits[0].limit == 7
    here.override_limit(key, "requests/day", 8, until=until)
    assert here.consume(secret).limits[0].remaining == 0
    clock.set(until)
    for ledger in (here, there):
        assert ledger.consume(secret).limits[0].limit == 5
        assert ledger.status(key)[0].over == 3
    here.override_limit(key, "requests/day", 10)
    assert here.consume(secret).limits[0].remaining == 1
    here.override_limit(key, "requests/day", None)
    here.override_limit(key, "requests/day", None)
    assert not here.consume(secret)
    assert shown(here.status(key))[0] == ("requests/day", 5, 0)


@over(*ALL)
def test_a_limit_of_one_s_own_sleeps_under_another_plan_and_follows_its_own(stores, clock):
    """Another plan's limit of the same name stays as it is; a replaced version of the plan has the override."""
    ledger, key, secret = stores.with_key(clock, "5/day")
    ledger.override_limit(key, "requests/day", 3)
    ledger.add_plan(UsagePlan("q", "4/day"))
    ledger.associate(key, "q")
    assert shown(ledger.status(key)) == [("requests/day", 4, 4)]
    assert ledger.consume(secret)
    ledger.associate(key, "p")
    assert shown(ledger.status(key)) == [("requests/day", 3, 2)]
    ledger.replace_plan(UsagePlan("p", "50/day overage 1, 2/s burst 9"))
    assert shown(ledger.status(key)) == [("requests/day", 3, 2), ("throttle", 9, 9)]
    assert [bool(ledger.consume(secret)) for _ in range(4)] == [True, True, True, False]
    ledger.replace_plan(UsagePlan("p", "8/hour"))
    assert shown(ledger.status(key)) == [("requests/hour", 8, 4)]
    ledger.replace_plan(UsagePlan("p", "50/day"))
    assert shown(ledger.status(key)) == [("requests/day", 3, 0)]
    ledger.forget(key)
    assert shown(ledger.status(key)) == [("requests/day", 3, 3)]
    ledger.remove_key(key)
    ledger.issue_key("k", "p", id="k")
    assert shown(ledger.status("k")) == [("requests/day", 50, 50)]


@over(*ALL)
def test_a_throttle_of_one_s_own_mints_nothing(stores, clock):
    """What is in the bucket stays in it, to and fro; a route's own throttle is overridden on its route."""
    ledger, key, secret = stores.with_key(clock, "1/s burst 5", routes={"GET /x": "1/s burst 2"})
    assert sum(bool(ledger.consume(secret)) for _ in range(9)) == 5
    wider = Throttle(1, burst=8)
    assert ledger.override_limit(key, "throttle", wider).limit == 8
    assert sum(bool(ledger.consume(secret)) for _ in range(9)) == 3
    for _ in range(3):
        ledger.override_limit(key, "throttle", None)
        assert not ledger.consume(secret)
        ledger.override_limit(key, "throttle", wider)
        assert not ledger.consume(secret)
    clock.advance(timedelta(hours=1))
    ledger.override_limit(key, "throttle", Throttle(1, burst=4), route="GET /x")
    assert sum(bool(ledger.consume(secret, route="GET /x")) for _ in range(9)) == 4
    assert [s.limit for s in ledger.status(key, route="GET /x")] == [4]
    assert [s.limit for s in ledger.status(key)] == [8]


@over(*ALL)
def test_an_account_s_limit_is_overridden_on_the_account(stores, clock):
    """By whichever key, or the account's name; keys that join later have it too, and it outlives the key it was given by."""
    ledger = stores.ledger(clock)
    ledger.add_plan(UsagePlan("p", "9/day, 20/day by account as ours"))
    x, secret = ledger.issue_key("x", "p", id="x", account="team")
    ledger.override_limit("team", "ours", 6)
    assert ledger.consume(secret, 2).limits[1].limit == 6
    _, other = ledger.issue_key("y", "p", id="y", account="team")
    assert [(s.limit, s.remaining) for s in ledger.status("y")] == [(9, 9), (6, 4)]
    ledger.override_limit("x", "requests/day", 3)
    assert [s.limit for s in ledger.consume(other).limits] == [9, 6]
    assert [s.limit for s in ledger.consume(secret).limits] == [3, 6]
    ledger.remove_key(x)
    assert ledger.consume(other, 2).limits[1].remaining == 0
    assert ledger.override_limit("y", "ours", 7).holder == "team"
    assert shown(ledger.status("team")) == [("ours", 7, 1)]
    ledger.add_plan(UsagePlan("q", "5/day by account as ours"))
    ledger.issue_key("z", "q", id="z", account="team")
    with pytest.raises(PlanConflict, match="p, q"):
        ledger.override_limit("team", "ours", 8)
    with pytest.raises(InvalidValue, match="ours"):
        ledger.override_limit("team", "requests/day", 8)


@over("memory", "sqlite", "awaited redis")
def test_what_no_override_can_be_is_refused(stores, clock):
    """A limit that is not there, a value of the other kind or below a cost, an instant that is past; nothing changes."""
    ledger, key, secret = stores.with_key(clock, "5/day, 9/s", costs={"/dear": 3})
    wrong = [
        (("requests/month", 3), {}, "requests/day, throttle"), (("requests/day", Throttle(1)), {}, "units of a quota"),
        (("throttle", 3), {}, "a Throttle"), (("requests/day", 2), {}, "at most 2 requests"),
        (("requests/day", 9), {"until": START}, "still to come"), (("requests/day", -1), {}, "value"),
        (("requests/day", 9), {"api": "b"}, "none"),
    ]  # fmt: skip
    for args, kwargs, said in wrong:
        with pytest.raises((InvalidValue, InvalidCost), match=said):
            ledger.override_limit(key, *args, **kwargs)
    with pytest.raises(UnknownKey):
        ledger.override_limit("nobody", "requests/day", 3)
    assert shown(ledger.status(key)) == [("requests/day", 5, 5), ("throttle", 9, 9)]
    ledger.override_limit(key, "requests/day", 0)
    refused = ledger.consume(secret)
    assert (refused.reason.value, refused.retry_at) == ("COST_TOO_LARGE", None)

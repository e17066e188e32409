"""What a change of plan does to throttles, case by case; tests/rule/test_toggling.py looks for a case that mints."""

from datetime import datetime, timedelta, timezone

from hypothesis import given
from hypothesis import strategies as st

from quota import ApiKey, Ledger, ManualClock, Throttle, UsagePlan
from quota.operations import perform
from quota.operations.request import Entry, Request
from quota.rule.record import Record
from quota.rule.subject import Subject
from quota.stores.base import make_options

START = 1_773_144_030_000_000
EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


def made(*plans, keys=1, **options):
    """A ledger with these plans, and keys on the first."""
    ledger = Ledger(clock=ManualClock(START))
    for plan in plans:
        ledger.add_plan(plan)
    return ledger, [ledger.issue_key(f"k{n}", plans[0].id, id=f"k{n}", **options).key for n in range(keys)]


def room(ledger, key, route=None):
    """How many units the throttles let through at once, found by taking them one by one."""
    count = 0
    while ledger.consume(key, route=route):
        count += 1
    return count


def test_a_route_that_has_no_throttle_for_a_while_has_the_same_one_again():
    """Under the other plan neither the route nor the plan has one: nobody takes its bucket over."""
    ledger, (key,) = made(
        UsagePlan("one", "99/day", routes={"a": "1/s burst 5"}), UsagePlan("two", "99/day", routes={"b": "1/s burst 5"})
    )
    assert [bool(ledger.consume(key, 3, route="a")), bool(ledger.consume(key, 2, route="b"))] == [True, True]
    ledger.associate(key, "two")
    assert room(ledger, key, route="b") == 5
    ledger.associate(key, "one")
    assert room(ledger, key, route="a") == 2


def left(ledger, key, to, route=None):
    """What a key may take at once after it was moved to a plan."""
    ledger.associate(key, to)
    return room(ledger, key, route)


def test_a_faster_throttle_binds_at_once():
    """A refusal tells when to retry by the new rate, and then it is so: nobody waits for the old bucket to drain."""
    ledger, (key,) = made(UsagePlan("p", "1/minute burst 1"))
    ledger.consume(key)
    ledger.replace_plan(UsagePlan("p", "1/s burst 1"))
    refused = ledger.consume(key)
    assert refused.retry_after == 1
    ledger._clock.advance(999_999)
    assert not ledger.consume(key)
    ledger._clock.advance(1)
    assert ledger.consume(key)


def test_keys_of_one_account_at_rates_of_their_own_retry_when_told():
    """Each key's plan drains the bucket that they share at its own rate, from its refusal on."""
    slow, fast = (
        UsagePlan(id_, f"{rate} burst 1 by account as t") for id_, rate in (("slow", "1/minute"), ("fast", "1/s"))
    )
    ledger, (one, two) = made(slow, fast, keys=2, account="team")
    ledger.associate(two, "fast")
    ledger.consume(one)
    assert ledger.consume(two).retry_after == 1
    ledger._clock.advance(1_000_000)
    assert ledger.consume(two)


def test_looking_keeps_nothing():
    """A peek answers by the new rate and leaves the bucket as it was."""
    ledger, (key,) = made(UsagePlan("slow", "1/minute burst 1"), UsagePlan("fast", "1/s burst 1"))
    ledger.consume(key)
    ledger.associate(key, "fast")
    assert ledger.peek(key).retry_after == 1
    ledger.associate(key, "slow")
    ledger._clock.advance(59_999_999)
    assert not ledger.consume(key)
    ledger._clock.advance(1)
    assert ledger.consume(key)


def test_a_throttle_of_another_name_takes_over():
    """The same calls would have filled it as far."""
    ledger, (key,) = made(UsagePlan("one", "1/s burst 10 as a"), UsagePlan("two", "1/s burst 10 as b"))
    ledger.consume(key, 4)
    assert left(ledger, key, "two") == 6
    assert left(ledger, key, "one") == 0


def test_of_several_throttles_the_fullest_of_the_slowest_counts_once():
    """All were charged the same calls: a slower one's level is no less than the new one's would be."""
    plans = UsagePlan("one", "1/s burst 20 as slow, 5/s burst 10 as fast"), UsagePlan("two", "2/s burst 20 as new")
    ledger, (key,) = made(*plans)
    ledger.consume(key, 9)
    ledger._clock.advance(1_000_000)
    assert left(ledger, key, "two") == 12  # 8 are left in the slow one, 4 in the fast one


def test_where_all_were_faster_the_highest_counts():
    """It is what they promised to keep."""
    plans = UsagePlan("one", "2/s burst 20 as slow, 5/s burst 10 as fast"), UsagePlan("two", "1/s burst 20 as new")
    ledger, (key,) = made(*plans)
    ledger.consume(key, 9)
    ledger._clock.advance(1_000_000)
    assert left(ledger, key, "two") == 13


def test_a_throttle_as_fast_is_no_slower():
    """The rate decides, whatever it is written in: of an equal one the level is taken as it is."""
    plans = (
        UsagePlan("one", "60/minute burst 20 as same, 30/minute burst 20 as slow"),
        UsagePlan("two", "1/s burst 20 as new"),
    )
    ledger, (key,) = made(*plans)
    ledger.consume(key, 10)
    ledger._clock.advance(2_000_000)
    assert left(ledger, key, "two") == 12  # 8 are left in the one that is as fast, 9 in the slower one


def test_parts_of_a_unit_are_rounded_up():
    """What a third of a unit becomes in another throttle's terms is never less than it was."""
    ledger, (key,) = made(UsagePlan("one", "3/second burst 10 as a"), UsagePlan("two", "7/minute burst 10 as b"))
    ledger.consume(key, 2)
    ledger._clock.advance(333_334)  # a little less than one unit is left
    assert left(ledger, key, "two") == 9
    assert ledger.consume(key).retry_at is not None


def test_a_route_begins_where_the_plan_was():
    """Calls on the route were the plan's before; the route's own throttle is as full as the plan's then."""
    ledger, (key,) = made(
        UsagePlan("one", "1/s burst 10"), UsagePlan("two", "1/s burst 10", routes={"r": "1/s burst 8"})
    )
    ledger.consume(key, 4)
    assert left(ledger, key, "two", "r") == 4
    assert room(ledger, key) == 6


def test_the_plan_goes_on_where_its_routes_were():
    """What calls left in throttles of routes that have none any more is poured into the plan's, each once."""
    ledger, (key,) = made(
        UsagePlan("one", "1/s burst 20", routes={"a": "1/s burst 5", "b": "1/s burst 5"}),
        UsagePlan("two", "1/s burst 20"),
    )
    for route, units in (("a", 4), ("b", 3), (None, 2)):
        ledger.consume(key, units, route=route)
    assert left(ledger, key, "two") == 11
    assert left(ledger, key, "one", "a") == 0
    assert left(ledger, key, "two") == 0


def test_what_is_poured_in_stops_at_the_burst():
    """A throttle is full at its burst: it must not refuse for longer than a full one does."""
    ledger, (key,) = made(
        UsagePlan("one", "1/s burst 20", routes={"a": "1/s burst 15"}), UsagePlan("two", "1/s burst 20")
    )
    ledger.consume(key, 15, route="a")
    ledger.consume(key, 15)
    assert left(ledger, key, "two") == 0
    ledger._clock.advance(1_000_000)
    assert room(ledger, key) == 1


def lent():
    """A route took over the 5 that its plan held, and 3 more."""
    one, two = (
        UsagePlan(id_, "1/s burst 20", routes=own) for id_, own in (("one", {}), ("two", {"r": "1/s burst 20"}))
    )
    ledger, (key,) = made(one, two)
    ledger.consume(key, 5)
    ledger.associate(key, "two")
    ledger.consume(key, 3, route="r")
    return ledger, key


def test_what_a_route_lent_is_not_poured_in_twice():
    """Coming back, the plan gets only what is new."""
    ledger, key = lent()
    assert left(ledger, key, "one") == 12  # 5 and 3


def test_what_was_lent_drains():
    """What the plan's bucket and the route's both held has drained from both meanwhile; what came since is the route's."""
    ledger, key = lent()
    ledger.consume(key, 2)
    ledger._clock.advance(4_000_000)
    assert left(ledger, key, "one") == 14  # 3 are left of 7, and 3 that the route had for itself


def test_an_account_takes_over_from_its_key_and_back():
    """By key under one plan, by account under the other: one key's calls are the same calls."""
    ledger, (one, two) = made(
        UsagePlan("key", "1/s burst 10"), UsagePlan("team", "1/s burst 10 by account"), keys=2, account="team"
    )
    ledger.consume(one, 4)
    assert left(ledger, one, "team") == 6
    assert left(ledger, two, "team") == 0
    assert left(ledger, one, "key") == 0


def test_what_an_idle_key_left_in_its_accounts_bucket_is_gone():
    """When a full bucket would have drained since its last call, the account's level is others' doing."""
    for rate, idle in ((1, 10_000_000), (3, 3_333_334)):
        plans = UsagePlan("team", f"{rate}/s burst 10 by account"), UsagePlan("key", f"{rate}/s burst 10")
        ledger, (one, two) = made(*plans, keys=2, account="team")
        ledger.consume(one, 4)
        ledger._clock.advance(idle)
        ledger.consume(two, 9)
        assert left(ledger, one, "key") == 10
        assert left(ledger, two, "key") == 1


def test_up_to_the_instant_a_full_bucket_would_have_drained_it_may_be_the_keys():
    """One microsecond earlier it is taken for the key's own."""
    ledger, (one, two) = made(
        UsagePlan("team", "1/s burst 10 by account"), UsagePlan("key", "1/s burst 10"), keys=2, account="team"
    )
    ledger.consume(one, 4)
    ledger._clock.advance(9_999_999)
    ledger.consume(two, 9)
    assert left(ledger, one, "key") == 1


def test_a_keys_throttle_beside_its_accounts_begins_empty():
    """The account's stays as tight, so nothing that was refused before is let through now."""
    ledger, (one, _) = made(
        UsagePlan("team", "1/s burst 10 by account as team"),
        UsagePlan("both", "1/s burst 10 by account as team, 1/s burst 10 as own"), keys=2, account="team",
    )  # fmt: skip
    ledger.consume(one, 4)
    ledger.associate(one, "both")
    decision = ledger.consume(one)
    assert {limit.name: limit.used for limit in decision.limits} == {"team": 5, "own": 1}


def test_a_keys_throttle_beside_a_wider_one_of_its_account_does_not():
    """The account's bucket is wider or faster now: what kept the key from more before must go on."""
    for wider in ("1/s burst 11", "2/s burst 10"):
        ledger, (one, _) = made(
            UsagePlan("team", "1/s burst 10 by account as team"),
            UsagePlan("both", f"{wider} by account as team, 1/s burst 10 as own"), keys=2, account="team",
        )  # fmt: skip
        ledger.consume(one, 4)
        ledger.associate(one, "both")
        decision = ledger.consume(one)
        assert {limit.name: limit.used for limit in decision.limits} == {"team": 5, "own": 5}, wider


def test_an_empty_bucket_of_a_plan_left_behind_goes():
    """A key that changes plans for years keeps no bucket of each."""
    plans = [UsagePlan(f"p{n}", f"1/s burst 5 as same, 1/s burst 5 as t{n}") for n in range(5)]
    ledger, (key,) = made(*plans)
    for plan in plans * 2:
        ledger.associate(key, plan)
        ledger.consume(key)
        ledger._clock.advance(60_000_000)
    (meter,) = ledger.store.rooms["k0"].key_entry.record.meters
    assert sorted(bucket.name for bucket in meter.buckets) == ["same", "t4"]


def test_other_units_and_apis_are_not_moved():
    """A change of the requests' throttle leaves the tokens' and another API's alone."""
    ledger, (key,) = made(
        UsagePlan("one", "1/s burst 10 as a, 1 tokens/s burst 10 as t"),
        UsagePlan("two", "1/s burst 10 as b, 1 tokens/s burst 10 as t"),
        UsagePlan("maps one", "1/s burst 10 as a", api="maps"), UsagePlan("maps two", "1/s burst 10 as b", api="maps"),
    )  # fmt: skip
    ledger.associate(key, "maps one")
    ledger.consume(key, {"requests": 4, "tokens": 7})
    ledger.consume(key, 2, api="maps")
    ledger.associate(key, "two")
    decision = ledger.consume(key, {"requests": 1, "tokens": 1})
    assert {limit.name: limit.used for limit in decision.limits} == {"b": 5, "t": 8}
    ledger.associate(key, "maps two")
    assert ledger.consume(key, api="maps").limits[0].used == 3


def used(ledger, key, units=1, **where):
    """What each limit counts after one more call."""
    return {limit.name: limit.used for limit in ledger.consume(key, units, **where).limits}


def test_a_throttle_that_goes_on_hears_nothing_of_others():
    """It was charged the same calls by itself, however slow it is made."""
    plans = [
        UsagePlan(id_, f"1/s burst 20 as slow, {fast}/s burst 10 as fast") for id_, fast in (("one", 5), ("two", 3))
    ]
    ledger, (key,) = made(*plans)
    ledger.consume(key, 9)
    ledger._clock.advance(1_000_000)
    ledger.associate(key, "two")
    assert used(ledger, key) == {"slow": 9, "fast": 5}


def test_a_routes_throttle_of_another_name_takes_over():
    """From the route's, not from the plan's."""
    one, two = (
        UsagePlan(id_, "1/s burst 20 as all", routes={"r": f"1/s burst 10 as {name}"})
        for id_, name in (("one", "x"), ("two", "y"))
    )
    ledger, (key,) = made(one, two, UsagePlan("three", "1/s burst 20 as all"))
    ledger.consume(key, 2)
    ledger.consume(key, 4, route="r")
    ledger.associate(key, "two")
    assert used(ledger, key, route="r") == {"y": 5}
    ledger.associate(key, "three")
    assert used(ledger, key) == {"all": 2 + 5 + 1}


def test_a_routes_throttle_of_the_plans_old_name_takes_over():
    """A name says nothing of where calls were charged."""
    ledger, (key,) = made(
        UsagePlan("one", "1/s burst 10 as x"), UsagePlan("two", "9/day", routes={"r": "1/s burst 10 as x"})
    )
    ledger.consume(key, 4)
    ledger.associate(key, "two")
    assert used(ledger, key, route="r") == {"requests/day": 5, "x": 5}


def test_a_keys_own_bucket_tells_more_than_its_accounts():
    """What other keys left in the account's is no news of this one, where it has a bucket of its own."""
    ledger, (one, two) = made(
        UsagePlan("one", "5/s burst 10 as own, 1/s burst 20 by account as team"),
        UsagePlan("two", "2/s burst 10 as new, 1/s burst 21 by account as team"), keys=2, account="team",
    )  # fmt: skip
    ledger.consume(two, 5)
    ledger.consume(one, 2)
    ledger.associate(one, "two")
    assert used(ledger, one) == {"new": 3, "team": 8}


def test_what_is_poured_in_is_exact_to_the_microsecond():
    """Neither a part of a unit more nor one less; a full bucket gets nothing, one that nobody called gives nothing."""
    routes = {"a": "1/s burst 5", "never": "1/s burst 5"}
    for own, on_the_route in ((20, 3), (2, 4), (4, 0)):
        ledger, (key,) = made(UsagePlan("one", "1/s burst 20", routes=routes), UsagePlan("two", "1/s burst 20"))
        ledger.consume(key, own)
        if on_the_route:
            ledger.consume(key, on_the_route, route="a")
        assert left(ledger, key, "two") == max(0, 20 - own - on_the_route)
        assert ledger.consume(key).retry_at == EPOCH + timedelta(microseconds=START + 1_000_000)


def test_what_routes_gave_the_plan_is_not_given_twice():
    """Back on the routes and back again: only what was taken since is poured in."""
    one = UsagePlan("one", "1/s burst 50", routes={"a": "1/s burst 20", "b": "1/s burst 20"})
    ledger, (key,) = made(one, UsagePlan("two", "1/s burst 50"))
    for route, units in (("a", 4), ("b", 3), (None, 2)):
        ledger.consume(key, units, route=route)
    ledger.associate(key, "two")
    assert used(ledger, key) == {"throttle": 10}
    ledger.associate(key, "one")
    ledger.consume(key, 1, route="a")
    ledger.associate(key, "two")
    assert used(ledger, key) == {"throttle": 12}


def test_what_routes_hold_is_theirs_while_others_are_throttled():
    """A plan that throttles another route takes nothing over from these: they still have it to give."""
    ledger, (key,) = made(
        UsagePlan("plain", "1/s burst 50"),
        UsagePlan("routes", "99/day", routes={"a": "1/s burst 20", "b": "1/s burst 20"}),
        UsagePlan("other", "99/day", routes={"c": "1/s burst 20"}),
    )
    ledger.consume(key, 2)
    ledger.associate(key, "routes")
    ledger.consume(key, 3, route="a")
    ledger.consume(key, 4, route="b")
    ledger.associate(key, "other")
    ledger.consume(key, 1, route="c")
    ledger.associate(key, "routes")
    ledger.consume(key, 1, route="a")
    ledger.associate(key, "plain")
    assert used(ledger, key) == {"throttle": 2 + 3 + 4 + 1 + 1}


def test_levels_stay_whole_numbers():
    """From a finer scale to a coarser one they are rounded up."""
    ledger, (key,) = made(UsagePlan("one", "7/minute burst 10 as a"), UsagePlan("two", "1/s burst 10 as b"))
    ledger.consume(key)
    ledger._clock.advance(1)
    ledger.associate(key, "two")
    ledger.consume(key)
    (meter,) = ledger.store.rooms["k0"].key_entry.record.meters
    assert [bucket.level for bucket in meter.buckets if bucket.name == "b"] == [2_000_000]
    assert {
        type(n) for bucket in meter.buckets for n in (bucket.level, bucket.at, bucket.shared_level, bucket.since)
    } == {int}


def test_a_refusal_under_the_plan_as_it_was_keeps_nothing():
    """There is nothing to write: neither when the throttles are new nor when they are the same."""
    plan = UsagePlan("p", "5/day, 1/s burst 3")
    entry, subject = Entry(ApiKey("k", "k", "k"), {"": plan}), Subject(Record(1))
    for units, allowed in ((6, False), (2, True), (2, False)):
        subject.changed = False
        request = Request("consume", START, None, "k", takes={"requests": units})
        assert perform(request, entry, subject, make_options()).allowed is allowed
        assert subject.changed is allowed


RATES = st.builds(
    lambda rate, per, burst, by, name: Throttle(rate, per, burst=burst, by=by, name=name),
    st.integers(1, 7), st.sampled_from(["second", "minute"]), st.integers(1, 6), st.sampled_from(["key", "account"]),
    st.sampled_from([None, "x"]),
)  # fmt: skip
OWN = st.lists(RATES, min_size=1, max_size=2, unique_by=lambda throttle: throttle.name)
ROUTED = st.lists(RATES, max_size=2, unique_by=lambda throttle: throttle.name)
CALLS = st.lists(
    st.tuples(st.integers(0, 1), st.sampled_from("ab"), st.sampled_from([None, "r"]), st.integers(0, 10_000_000)),
    max_size=12,
)


@given(st.tuples(OWN, ROUTED), st.tuples(OWN, ROUTED), CALLS, st.integers(0, 1), st.sampled_from([None, "r"]))
def test_whatever_was_toggled_a_refusal_tells_the_very_instant(one, other, calls, last, route):
    """Alone, a call is refused until ``retry_at`` and admitted then, under whichever plans and rates its key was before."""
    plans = [
        UsagePlan(id_, own, routes={"r": routed} if routed else {}) for id_, (own, routed) in zip("ab", (one, other))
    ]
    ledger, keys = made(*plans, keys=2, account="team")
    for who, plan, where, pause in calls:
        ledger.associate(keys[who], plan)
        ledger.consume(keys[who], route=where)
        ledger._clock.advance(pause)
    while refused := (ledger.consume(keys[last], route=route)):
        pass
    retry_us = (refused.retry_at - EPOCH) // timedelta(microseconds=1)
    ledger._clock.set(retry_us - 1)
    assert not ledger.consume(keys[last], route=route)
    ledger._clock.set(retry_us)
    assert ledger.consume(keys[last], route=route)

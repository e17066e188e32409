"""Short histories that the fast path must leave in time, with their exact outcome; as ``scenarios``."""

from datetime import timedelta

from scenarios import START, _ledger, _standing

HOUR = timedelta(hours=1)


def a_hot_key_expires_on_its_microsecond(q):
    clock = q.ManualClock(START)
    ledger = q.Ledger(clock=clock)
    ledger.add_plan(q.UsagePlan("p", "9/day"))
    key, secret = ledger.issue_key("k", "p", expires_at=START + timedelta(seconds=20))
    assert ledger.consume(secret)
    assert ledger.consume(secret)
    clock.advance(timedelta(seconds=20) - timedelta(microseconds=1))
    assert ledger.consume(secret)
    clock.advance(1)
    assert ledger.consume(secret).reason is ledger.consume(key).reason is q.Reason.EXPIRED_KEY


def a_hot_secret_expires_and_its_key_goes_on(q):
    ledger, clock, key, old = _ledger(q, "9/day")
    _, new = ledger.rotate_key(key, overlap=timedelta(seconds=20))
    assert all(ledger.consume(who) for who in (old, new, key, old))
    clock.advance(timedelta(seconds=20))
    assert ledger.consume(old).reason is q.Reason.EXPIRED_KEY
    for who in (new, old, key, old, new):
        assert bool(ledger.consume(who)) is (who != old)
    assert _standing(ledger, key) == {"requests/day": 7}


def a_route_of_its_own_is_never_served_as_another(q):
    ledger, _, key, _ = _ledger(q, "9/day", routes={"/r": "2/hour"}, costs={"/dear": 3})
    routes = (None, "/other", "/r", "/other", "/r", "/r", "/dear", "/other")
    assert [bool(ledger.consume(key, route=route)) for route in routes] == [True] * 5 + [False, True, True]
    assert _standing(ledger, key) == {"requests/day": 9}
    assert not ledger.consume(key, route="/other")


def a_hot_count_is_seen_where_a_route_has_its_own(q):
    ledger, _, key, _ = _ledger(q, "99/day", routes={"/r": "50/hour"})
    routes = (None, "/r", None, None, "/r", "/r", None, "/r", None)
    assert [ledger.consume(key, route=route).limits[0].used for route in routes] == list(range(1, 10))
    assert _standing(ledger, key) == {"requests/day": 9}


def an_hour_is_noted_by_whatever_counts_first_in_it(q):
    both = {"requests": 1, "tokens": 5}
    ledger, clock, key, secret = _ledger(q, "99/day, 999 tokens/day", alerts=())
    assert all(ledger.consume(secret, both) for _ in range(4))
    clock.advance(HOUR)
    assert all(ledger.consume(secret, both) for _ in range(2))
    clock.advance(timedelta(minutes=2))
    assert ledger.consume(secret, both)
    ledger.replace_plan(q.UsagePlan(ledger.list_plans(key)[0].id, "99/day, 999 tokens/day, 50/hour"))
    assert _standing(ledger, key)["requests/hour"] == 3


def a_hot_count_is_seen_by_every_other_call(q):
    ledger, clock, key, secret = _ledger(q, "9/day", alerts=())
    for _ in range(3):
        assert ledger.consume(secret)
    assert ledger.usage(key)[0].used == ledger.peek(secret).limits[0].used - 1 == 3
    clock.advance(HOUR)
    assert ledger.consume(secret).limits[0].used == 4
    held = ledger.reserve(key, 2, ttl=HOUR)
    assert ledger.consume(secret).limits[0].used == 7
    held.cancel()
    assert [ledger.refund(ledger.peek(secret)) for _ in range(2)] == [0, 0]
    last = ledger.consume(secret)
    assert last.limits[0].used == 6
    assert ledger.refund(last) == 1
    assert ledger.set_remaining(key, "requests/day", 1).remaining == 1
    assert [bool(ledger.consume(secret)) for _ in range(2)] == [True, False]
    ledger.issue_key("second", "p", account="k")
    assert not ledger.consume(secret)


def a_hot_refusal_takes_nothing_from_a_limit_that_comes(q):
    ledger, clock, key, secret = _ledger(q, "5/day")
    assert all(ledger.consume(secret) for _ in range(5))
    clock.advance(timedelta(minutes=1))
    assert not ledger.consume(secret)
    ledger.replace_plan(q.UsagePlan(ledger.list_plans(key)[0].id, "6/day, 6/hour"))
    assert [status.used for status in ledger.consume(secret).limits] == [6, 6]


def bad_routes_are_refused_beside_the_fast_path(q):
    ledger, _, key, _ = _ledger(q, "9/day")
    assert ledger.consume(key)
    assert ledger.consume(key, route="/a")
    for route in ("", "x" * 1025, "/\n", 7, b"/a"):
        try:
            ledger.consume(key, route=route)
        except q.InvalidPlan:
            continue
        raise AssertionError(route)
    assert _standing(ledger, key) == {"requests/day": 2}


BOTH = {"requests": 1, "tokens": 5}


def _team(q, limits, *, keys=2, **plan):
    """Keys of one account on one plan, and a clock that moves."""
    clock = q.ManualClock(START)
    ledger = q.Ledger(clock=clock)
    ledger.add_plan(q.UsagePlan("p", limits, **plan))
    found = [ledger.issue_key(f"k{n}", "p", id=f"k{n}", account="x" if keys > 1 else None).key for n in range(keys)]
    return ledger, clock, *found


def _used(decision):
    return [status.used for status in decision.limits]


def units_are_counted_to_the_last(q):
    ledger, _, key = _team(q, "9/day, 22 tokens/day", keys=1, alerts=())
    said = [ledger.consume(key, BOTH) for _ in range(6)]
    assert [bool(decision) for decision in said] == [True] * 4 + [False] * 2
    assert [_used(decision) for decision in said] == [[1, 5], [2, 10], [3, 15], [4, 20], [4, 20], [4, 20]]
    assert said[-1].violated == ("tokens/day",)
    assert ledger.consume(key, {"tokens": 2})
    assert [bool(ledger.consume(key)) for _ in range(6)] == [True] * 5 + [False]
    assert ledger.refund(said[1]) == 6
    assert _used(ledger.consume(key, BOTH)) == [9, 22]
    assert not ledger.consume(key, {"tokens": 1})


def alerts_fire_once_for_each_unit(q):
    ledger, _, key = _team(q, "9/day, 20 tokens/day", keys=1, alerts=(50,))
    assert [ledger.consume(key, BOTH).crossed for _ in range(4)] == [(), (("tokens/day", 50),), (), ()]
    assert [ledger.consume(key).crossed for _ in range(3)] == [(("requests/day", 50),), (), ()]


def several_throttles_drain_side_by_side(q):
    ledger, clock, key = _team(q, "2/s burst 3, 6/minute burst 6 as slow, 9 tokens/s burst 20 as words", keys=1)
    said = [ledger.consume(key) for _ in range(4)]
    assert [bool(decision) for decision in said] == [True] * 3 + [False]
    assert said[-1].violated == ("throttle",)
    clock.advance(timedelta(seconds=1))
    assert [bool(ledger.consume(key)) for _ in range(3)] == [True, True, False]
    clock.advance(timedelta(seconds=4))
    assert [_used(ledger.consume(key)) for _ in range(1)] == [[1, 6, 0]]
    refused = ledger.consume(key)
    assert refused.violated == ("slow",)
    assert ledger.consume(key, {"tokens": 15}).limits[2].used == 15
    assert not ledger.consume(key, {"tokens": 15})


def two_throttles_drain_side_by_side(q):
    ledger, clock, key = _team(q, "2/s burst 3, 6/minute burst 5 as slow", keys=1)
    assert [bool(ledger.consume(key)) for _ in range(4)] == [True] * 3 + [False]
    clock.advance(timedelta(seconds=2))
    said = [ledger.consume(key) for _ in range(3)]
    assert [decision.violated for decision in said] == [(), (), ("slow",)]
    clock.advance(timedelta(seconds=20))
    assert _used(ledger.consume(key)) == [1, 4]


def keys_of_a_team_share_what_is_by_account(q):
    ledger, clock, one, other = _team(q, "5/day, 50 tokens/day by account as budget", alerts=())
    for _ in range(3):
        assert ledger.consume(one, BOTH)
        assert ledger.consume(other, BOTH)
    assert _used(ledger.peek(one, BOTH)) == [4, 35]
    assert _used(ledger.peek(other)) == [4, 30]
    clock.advance(timedelta(minutes=1))
    assert ledger.consume(one, BOTH)
    clock.advance(timedelta(seconds=5))
    said = ledger.consume(one, BOTH)
    clock.advance(timedelta(seconds=-3))
    assert ledger.peek(other, BOTH).at == said.at
    assert not ledger.consume(one, BOTH)
    assert [bool(ledger.consume(other, BOTH)) for _ in range(3)] == [True, True, False]
    assert _used(ledger.consume(one)) == [5, 50]
    ledger.grant(other, "budget", 4)
    assert not ledger.consume(other, {"tokens": 5})
    assert ledger.consume(one, {"tokens": 4})
    assert not ledger.consume(other, {"tokens": 1})


def units_that_a_key_never_took_are_counted_when_it_does(q):
    ledger, _, one, other = _team(q, "9/day, 90 tokens/day by account as budget", alerts=())
    for _ in range(2):
        assert ledger.consume(one)
        assert ledger.consume(other, BOTH)
    assert [_used(ledger.consume(one)) for _ in range(2)] == [[3, 10], [4, 10]]
    assert [_used(ledger.consume(one, {"tokens": 5})) for _ in range(3)] == [[4, 15], [4, 20], [4, 25]]
    ledger.replace_plan(q.UsagePlan("p", "9/day, 90 tokens/day as own"))
    assert [_used(ledger.consume(who, BOTH)) for who in (one, other)] == [[5, 20], [3, 15]]


def a_unit_beyond_its_limit_stops_no_other(q):
    ledger, _, key = _team(q, "9/day, 30 tokens/day", keys=1, alerts=())
    assert all(ledger.consume(key, BOTH) for _ in range(3))
    ledger.replace_plan(q.UsagePlan("p", "9/day, 10 tokens/day", alerts=()))
    assert [_used(ledger.consume(key)) for _ in range(3)] == [[4, 15], [5, 15], [6, 15]]
    assert not ledger.consume(key, BOTH)
    assert ledger.consume(key).over == 5


def what_a_limit_was_is_told_as_it_is(q):
    ledger, clock, key, _ = _ledger(q, "5/day", alerts=())
    assert ledger.consume(key)
    ledger.replace_plan(q.UsagePlan("p", "9/day", alerts=()))
    assert not ledger.consume(key, 9)
    assert ledger.consume(key)
    clock.advance(timedelta(days=1))
    assert [(row.used, row.remaining) for row in ledger.usage(key, since="2026-03-01")] == [(2, 7), (0, 9)]


def routes_of_a_team_have_counts_of_their_own(q):
    ledger, _, one, other = _team(
        q, "9/day, 99 tokens/day by account as budget", routes={"/r": "2/day as r"}, alerts=()
    )
    for _ in range(3):
        assert ledger.consume(one, BOTH, route="/other")
        assert ledger.consume(other, BOTH)
    assert [bool(ledger.consume(one, BOTH, route="/r")) for _ in range(3)] == [True, True, False]
    assert _used(ledger.consume(one, BOTH, route="/r")) == [5, 40, 2]
    assert _used(ledger.consume(one, BOTH, route="/more")) == [6, 45]
    assert [bool(ledger.consume(other, BOTH, route="/r")) for _ in range(3)] == [True, True, False]
    assert _used(ledger.consume(other, BOTH)) == [6, 60]


def an_api_is_never_served_as_another(q):
    ledger, _, key = _team(q, "9/day, 90 tokens/day", keys=1)
    ledger.add_plan(q.UsagePlan("s", "2/day, 8 tokens/day", api="shop"))
    ledger.associate(key, "s")
    for _ in range(3):
        assert ledger.consume(key, BOTH)
    assert [bool(ledger.consume(key, api="shop")) for _ in range(4)] == [True, True, False, False]
    assert _used(ledger.consume(key, BOTH)) == [4, 20]
    assert ledger.consume(key, api="none").reason is q.Reason.NO_PLAN


def a_look_takes_nothing(q):
    ledger, clock, key = _team(q, "5/day, 40 tokens/day, 3/s burst 3", keys=1, alerts=())
    for _ in range(2):
        assert ledger.consume(key, BOTH)
        looks = [ledger.peek(key, BOTH) for _ in range(4)]
        assert len({tuple(_used(look)) for look in looks}) == 1
        assert all(ledger.refund(look) == 0 for look in looks)
        clock.advance(timedelta(seconds=20))
    assert _used(ledger.consume(key, BOTH)) == [3, 15, 1]
    cost = {"requests": 1, "tokens": 3}
    said = ledger.consume(key, cost)
    cost["tokens"] = 99
    assert said.cost == {"requests": 1, "tokens": 3}
    for wrong in ({"requests": True, "tokens": 1}, {"requests": 1.5, "tokens": 1}, {"requests": -1, "tokens": 1}):
        try:
            ledger.consume(key, wrong)
        except q.InvalidCost:
            continue
        raise AssertionError(wrong)
    assert _used(ledger.peek(key, BOTH)) == [5, 23, 3]
    assert ledger.refund(said) == 4
    assert _used(ledger.peek(key, BOTH)) == [4, 20, 3]


def a_team_s_key_is_disabled_rotated_and_expires(q):
    ledger, clock, one, other = _team(q, "9/day by account", alerts=())
    _, secret = ledger.rotate_key(one)
    for _ in range(2):
        assert ledger.consume(secret)
        assert ledger.consume(other)
    _, new = ledger.rotate_key(one, overlap=timedelta(seconds=20))
    assert all(ledger.consume(who) for who in (new, new, secret))
    clock.advance(timedelta(seconds=20))
    assert [ledger.consume(who).reason.value for who in (secret, new, secret, new)] == ["EXPIRED_KEY", "OK"] * 2
    assert ledger.consume(secret).reason is q.Reason.EXPIRED_KEY
    ledger.disable_key(one)
    assert ledger.consume(new).reason is q.Reason.DISABLED_KEY
    assert not ledger.consume(other)


def a_team_s_plan_is_replaced(q):
    ledger, clock, one, other = _team(q, "9/day by account")
    for _ in range(3):
        assert ledger.consume(one)
        assert ledger.consume(other)
    clock.advance(timedelta(seconds=70))
    assert [ledger.consume(who).limits[0].used for who in (one, other)] == [7, 8]
    ledger.replace_plan(q.UsagePlan("p", "9/day by account, 3/minute as own"))
    assert _used(ledger.peek(one)) == [9, 2]
    assert ledger.consume(other)
    assert not ledger.consume(one)
    clock.advance(HOUR)
    assert not ledger.consume(one)
    ledger.replace_plan(q.UsagePlan("p", "20/day by account, 3/2 minute as own"))
    assert [_used(ledger.consume(one)) for _ in range(2)] == [[10, 1], [11, 2]]


def what_is_held_by_a_team_lapses(q):
    ledger, clock, one, other = _team(q, "9/day by account")
    for _ in range(2):
        assert ledger.consume(one)
        assert ledger.consume(other)
    assert ledger.reserve(one, 4, ttl=timedelta(seconds=5))
    assert [bool(ledger.consume(who)) for who in (other, other, one)] == [True, False, False]
    clock.advance(timedelta(seconds=5))
    assert [ledger.consume(who).limits[0].used for who in (other, other, one, one)] == [6, 7, 8, 9]
    clock.advance(timedelta(days=1))
    assert [ledger.consume(who).limits[0].used for who in (other, other, one, one)] == [1, 2, 3, 4]


def a_second_key_joins_one_that_is_looked_at(q):
    ledger, _, key, secret = _ledger(q, "9/day by account", alerts=())
    assert ledger.consume(secret)
    assert all(ledger.peek(secret).limits[0].used == 2 for _ in range(3))
    assert [ledger.consume(secret).limits[0].used for _ in range(2)] == [2, 3]
    assert ledger.peek(secret).limits[0].used == 4
    second = ledger.issue_key("second", "p", account="k").key
    assert ledger.consume(second).limits[0].used == 4
    assert ledger.consume(secret).limits[0].used == 5
    assert ledger.peek(second).limits[0].used == 6


SCENARIOS = {
    name: function for name, function in list(globals().items())
    if callable(function) and not name.startswith("_") and function.__module__ == __name__
}  # fmt: skip

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


SCENARIOS = {
    name: function for name, function in list(globals().items())
    if callable(function) and not name.startswith("_") and function.__module__ == __name__
}  # fmt: skip

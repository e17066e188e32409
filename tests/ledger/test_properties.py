"""What holds of every decision, said once each and checked straight on the ledger, without the machine's model."""

from datetime import datetime, timedelta, timezone

from hypothesis import assume, given
from hypothesis import strategies as st

from quota import Ledger, ManualClock, Quota, Throttle, UsagePlan

START = datetime(2026, 1, 31, 23, 59, 58, tzinfo=timezone.utc)
QUOTAS = st.builds(Quota, st.integers(1, 9), st.sampled_from(["minute", "hour", "day", "month"]))
THROTTLES = st.builds(
    Throttle,
    st.sampled_from(["1", "3", "0.5", "1/3", "7"]),
    st.sampled_from(["second", "minute"]),
    burst=st.integers(1, 9),
)
LIMITS = st.lists(st.one_of(QUOTAS, THROTTLES), min_size=1, max_size=3, unique_by=lambda limit: limit.name)
COSTS = st.lists(st.integers(1, 5), max_size=8)


def open_ledger(limits):
    clock = ManualClock(START)
    ledger = Ledger(clock=clock)
    ledger.add_plan(UsagePlan("p", limits))
    return ledger, clock, *(ledger.issue_key(name, "p").key for name in "ab")


def state(ledger, key):
    """What is used, by a call that never fits and so adds nothing."""
    return [status.used for status in ledger.peek(key, 10**6).limits]


@given(limits=LIMITS, costs=COSTS, cost=st.integers(1, 9))
def test_a_refusal_is_justified_and_changes_nothing(limits, costs, cost):
    """Some limit had no room for the cost; those that had it are as they were."""
    ledger, _, key, _ = open_ledger(limits)
    for before in costs:
        ledger.consume(key, before)
    used = state(ledger, key)
    decision = ledger.consume(key, cost)
    if decision:
        assert state(ledger, key) == [n + cost for n in used]
    else:
        assert state(ledger, key) == used
        assert set(decision.violated) == {s.name for s in decision.limits if s.used + cost > s.limit}


@given(limits=LIMITS, one=st.integers(1, 5), other=st.integers(1, 5))
def test_weights_add(limits, one, other):
    """At one instant a call of a + b units is admitted where one of a and one of b both are, with the same left."""
    together, _, key, _ = open_ledger(limits)
    apart, _, same, _ = open_ledger(limits)
    both = bool(apart.consume(same, one)) and bool(apart.consume(same, other))
    assert bool(together.consume(key, one + other)) == both
    if both:
        assert state(together, key) == state(apart, same)


@given(limits=LIMITS, data=st.data())
def test_the_order_of_charges_does_not_matter(limits, data):
    """Charges that are all admitted in one order are in any other, and leave the same."""
    costs = data.draw(COSTS)
    ledger, _, key, _ = open_ledger(limits)
    assume(all([bool(ledger.consume(key, cost)) for cost in costs]))
    other, _, same, _ = open_ledger(limits)
    assert all(other.consume(same, cost) for cost in data.draw(st.permutations(costs)))
    assert state(other, same) == state(ledger, key)


@given(limits=LIMITS, calls=st.lists(st.tuples(st.booleans(), st.integers(1, 5)), max_size=12))
def test_keys_are_independent(limits, calls):
    """What one key gets is what it would get alone."""
    ledger, _, first, second = open_ledger(limits)
    alone, _, same, _ = open_ledger(limits)
    for mine, cost in calls:
        decision = ledger.consume(first if mine else second, cost)
        assert not mine or bool(decision) == bool(alone.consume(same, cost))


@given(limit=st.integers(1, 9), more=st.integers(0, 9), costs=COSTS, cost=st.integers(1, 9))
def test_a_larger_limit_never_refuses_what_a_smaller_admits(limit, more, costs, cost):
    """After the same charges, the next call."""
    ledger, _, key, _ = open_ledger([Quota(limit, "day")])
    for before in costs:
        ledger.consume(key, before)
    small = ledger.peek(key, cost)
    ledger.replace_plan(UsagePlan("p", [Quota(limit + more, "day")]))
    assert not small or ledger.peek(key, cost)


@given(limits=LIMITS, costs=COSTS, cost=st.integers(1, 9), wait=st.integers(0, 3_000_000))
def test_retry_at_is_exact(limits, costs, cost, wait):
    """One client is admitted at that instant and refused a microsecond before; None where the cost never fits."""
    ledger, clock, key, _ = open_ledger(limits)
    for before in costs:
        ledger.consume(key, before)
    clock.advance(wait)
    decision = ledger.consume(key, cost)
    if decision:
        return
    if decision.retry_at is None:
        clock.advance(timedelta(days=70))
        assert not ledger.consume(key, cost)
        return
    clock.set(decision.retry_at - timedelta(microseconds=1))
    assert not ledger.consume(key, cost)
    clock.advance(1)
    assert ledger.consume(key, cost)


@given(throttle=THROTTLES, waits=st.lists(st.integers(0, 20_000_000), max_size=40))
def test_over_any_interval_at_most_the_burst_and_the_rate_s_worth(throttle, waits):
    """A throttle's promise, from every admission to every later one; a full burst is the whole burst."""
    ledger, clock, key, other = open_ledger([throttle])
    admitted = []
    for wait in waits:
        clock.advance(wait)
        while ledger.consume(key):
            admitted.append(clock())
    per = {"second": 1_000_000, "minute": 60_000_000}[throttle.per]
    for first, begun in enumerate(admitted):
        for last in range(first, len(admitted)):
            assert last - first + 1 <= throttle.burst + (admitted[last] - begun) * throttle.rate / per
    assert sum(bool(ledger.consume(other)) for _ in range(throttle.burst + 1)) == throttle.burst


@given(limits=LIMITS, costs=COSTS)
def test_limits_reset_when_they_say(limits, costs):
    """If nobody calls, nothing is used then; a microsecond before, something still is."""
    ledger, clock, key, _ = open_ledger(limits)
    for cost in costs:
        ledger.consume(key, cost)
    for status in sorted(ledger.peek(key, 10**6).limits, key=lambda status: status.resets_at):
        if status.used:
            for early in (1, 0):
                clock.set(status.resets_at - timedelta(microseconds=early))
                used = {s.name: s.used for s in ledger.peek(key, 10**6).limits}[status.name]
                assert bool(used) == bool(early)

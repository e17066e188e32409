"""Plans toggled at one instant: a key is never admitted more than the larger of its plans would admit it."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quota import Ledger, ManualClock, Throttle, UsagePlan

THROTTLES = st.builds(
    lambda burst, by, name: Throttle(1, "hour", burst=burst, by=by, name=name),
    st.integers(1, 6), st.sampled_from(["key", "account"]), st.sampled_from([None, "x"]),
)  # fmt: skip
OWN = st.lists(THROTTLES, min_size=1, max_size=2, unique_by=lambda throttle: throttle.name)
ROUTED = st.lists(THROTTLES, max_size=2, unique_by=lambda throttle: throttle.name)
CALLS = st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from([None, "r"]), st.integers(1, 2)), max_size=40)


def _burst(throttles):
    return min(throttle.burst for throttle in throttles)


def _most(plans):
    """Units that a key can take at one instant: of the plans' own throttles and, beside them, of the route's."""
    if all(routed for _, routed in plans):
        return max(_burst(own) for own, _ in plans) + max(_burst(routed) for _, routed in plans)
    return max(_burst(own) + (_burst(routed) if routed else 0) for own, routed in plans)


def _toggle(plans, calls, *, shared):
    """The routes and units of what is admitted of these calls, each under the plan that it names."""
    ledger = Ledger(clock=ManualClock(10**15))
    for id_, (own, routed) in zip("ab", plans, strict=True):
        ledger.add_plan(UsagePlan(id_, own, routes={"r": routed} if routed else {}))
    key = ledger.issue_key("k", "a", account="team").key
    if shared:
        ledger.issue_key("another", "a", account="team")
    admitted = []
    for plan, route, units in calls:
        ledger.associate(key, plan)
        if ledger.consume(key, units, route=route):
            admitted.append((route, units))
    return admitted


@given(plans=st.tuples(st.tuples(OWN, ROUTED), st.tuples(OWN, ROUTED)), calls=CALLS, shared=st.booleans())
def test_toggling_two_plans_admits_no_more_than_the_larger(plans, calls, shared):
    """By key or by account, renamed, alone or several, on a route that comes and goes: at one instant nothing drains."""
    admitted = _toggle(plans, calls, shared=shared)
    assert sum(units for _, units in admitted) <= _most(plans)
    on_the_route = sum(units for route, units in admitted if route == "r")
    assert on_the_route <= max(_burst(routed or own) for own, routed in plans)


@pytest.mark.slow
@settings(max_examples=20_000)
@given(plans=st.tuples(st.tuples(OWN, ROUTED), st.tuples(OWN, ROUTED)), calls=CALLS, shared=st.booleans())
def test_toggling_two_plans_at_length(plans, calls, shared):
    """The same, many times over."""
    assert sum(units for _, units in _toggle(plans, calls, shared=shared)) <= _most(plans)

"""The smallest limits that spare most clients: enough, and no limit lower would be."""

from fractions import Fraction

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quota import Quota, UsagePlan
from quota.errors import InvalidValue
from quota.replay import replay
from quota.replay.suggest import SHAPE, Watcher, smallest, to_percent
from traffic import traffic

LINES = traffic(2_000)


def spared(lines, limits):
    """How many clients a plan never refuses, by the replay itself."""
    (report,) = replay(lines, [UsagePlan("p", limits)])
    return len(report.clients) - report.clients_refused


@pytest.mark.spread(12)
@pytest.mark.parametrize(
    "shape", [SHAPE, "1/day", "1/s burst 1", "2/s burst 1, 1/hour, 1/week", "1/3/s burst 1, 9/day overage 2"]
)
@pytest.mark.parametrize("percent", ["50", "90", "99.5", "100"])
def test_a_suggestion_is_enough_and_no_limit_can_be_lower(shape, percent):
    """Replayed, it spares what it says; with any one limit a unit lower, fewer than were asked for."""
    watcher = Watcher(UsagePlan("p", shape))
    assert replay(LINES, [], watch=watcher) == []
    found = watcher.suggest(to_percent(percent))
    enough = found.clients * to_percent(percent) / 100
    assert spared(LINES, found.plan.limits) == found.spared >= enough
    for number, limit in enumerate(found.plan.limits):
        field = "limit" if isinstance(limit, Quota) else "burst"
        value = getattr(limit, field)
        if value > 1:
            lower = list(found.plan.limits)
            lower[number] = attrs.evolve(limit, **{field: value - 1})
            assert spared(LINES, lower) < enough


def test_limits_that_admit_nobody():
    """A quota or a burst of 0 is suggested anew; a rate of 0 has nothing to suggest and is left as it is."""

    def suggested(limits):
        watcher = Watcher(UsagePlan("p", limits))
        replay(LINES, [], watch=watcher)
        return [str(limit) for limit in watcher.suggest(to_percent("90")).plan.limits]

    assert suggested("5/s burst 0, 0/day") == suggested("5/s burst 1, 1/day")
    assert suggested("0/s burst 7 as shut, 1/day") == ["0/second burst 7 as shut", *suggested("1/day")]


def test_what_is_suggested_admits_what_each_route_costs():
    """A lower limit could be kept by those who never call the route, and would be no plan."""
    watcher = Watcher(UsagePlan("p", "99999/day, 9999/s burst 9999", costs={"r": 5000, "s": {"tokens": 6000}}))
    replay(LINES, [], watch=watcher)
    assert [str(limit) for limit in watcher.suggest(to_percent("50")).plan.limits] == [
        "5000/day",
        "9999/second burst 5000",
    ]
    assert Watcher(watcher._plan).suggest(to_percent("50")).plan.limits[0].limit == 5000


@given(
    st.lists(st.tuples(*[st.integers(1, 6)] * 3), min_size=1, max_size=12),
    st.integers(1, 100),
)
def test_bounds_are_enough_and_none_is_lower_alone(rows, percent):
    """Of any table: so many rows are within, and no bound can go down by itself."""
    enough = -(-len(rows) * percent // 100)
    columns = list(zip(*rows))
    found = smallest(columns, enough)

    def within(bounds):
        return sum(all(need <= bound for need, bound in zip(row, bounds)) for row in rows)

    assert within(found) >= enough
    for number in range(3):
        assert within([bound - (n == number) for n, bound in enumerate(found)]) < enough


def test_other_limits_stay_as_they_are():
    """Those of other units, by account, and the rates and periods."""
    watcher = Watcher(UsagePlan("p", "7 bytes/day, 3/day by account as all, 9/month in Europe/Paris, 0.5/s burst 9"))
    replay(LINES[:100], [], watch=watcher)
    texts = [str(limit) for limit in watcher.suggest(Fraction(100)).plan.limits]
    assert texts[:2] == ["7 bytes/day", "3/day by account as all"]
    assert texts[2].endswith("/month in Europe/Paris")
    assert texts[3].startswith("0.5/second burst ")


def test_no_clients_need_nothing():
    """Of an empty log, one of each."""
    found = Watcher(UsagePlan("p", "5/day, 2/s burst 9")).suggest(Fraction(99))
    assert found.to_dict() == {
        "percent": 99, "limits": ["1/day", "2/second burst 1"], "clients": 0, "never_refused": 0,
    }  # fmt: skip


@pytest.mark.parametrize("text", ["0", "-1", "100.01", "", "x", "1/0", "nan"])
def test_a_percentage_is_above_zero_and_at_most_a_hundred(text):
    """Exactly as written."""
    with pytest.raises(InvalidValue, match="suggest"):
        to_percent(text)
    assert to_percent("99.9") == Fraction(999, 1000) * 100


def test_a_plan_without_what_can_be_suggested_is_refused():
    """Requests by key are what a log tells."""
    with pytest.raises(InvalidValue, match="suggest"):
        Watcher(UsagePlan("p", "7 bytes/day"))

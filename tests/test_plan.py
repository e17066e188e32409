"""Usage plans: values that are checked when made, compiled once, and survive every way of storing them."""

import copy
import json
import pickle

import pytest

from quota import InvalidPlan, Ledger, Quota, Throttle, UsagePlan

FULL = UsagePlan(
    "gold", "1000/day, 10/s burst 20, 90000 tokens/minute by account as budget", name="Gold", api="pets",
    routes={"GET /export": "3/day as exports", "POST /chat": [Throttle(1, burst=2), "5 tokens/hour"]},
    costs={"GET /export": 3, "POST /chat": {"requests": 1, "tokens": 5}}, alerts=(50, 100, 50),
)  # fmt: skip


@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, lambda plan: pickle.loads(pickle.dumps(plan)),
                                   lambda plan: UsagePlan(**json.loads(json.dumps(plan.to_dict())))])  # fmt: skip
def test_a_plan_is_a_value(again):
    """Copied, pickled or stored as JSON it is equal, costs and routes included."""
    assert again(FULL) == FULL
    assert hash(again(FULL)) == hash(FULL)
    assert again(FULL).routes == FULL.routes
    assert again(FULL).costs == FULL.costs
    assert str(again(FULL)) == "1000/day, 10/second burst 20, 90000 tokens/minute by account as budget"


def test_defaults():
    """A plan is named by its id, governs the only API, and tells of 80 and 100 percent."""
    plan = UsagePlan("p", ())
    assert (plan.name, plan.api, plan.limits, plan.routes, plan.costs, plan.alerts) == ("p", "", (), {}, {}, (80, 100))
    assert FULL.alerts == (50, 100)


def test_nothing_of_a_plan_can_be_changed():
    """Not its fields, its routes or its costs, nor by what it was made of."""
    costs = {"r": {"requests": 1}}
    plan = UsagePlan("p", [Quota(1, "day")], costs=costs, routes={"r": "1/s"})
    costs["r"]["requests"] = 100
    assert plan.costs["r"] == {"requests": 1}
    for change in (
        lambda: setattr(plan, "limits", ()), lambda: plan.routes.update(x=()), lambda: plan.costs.clear(),
        lambda: plan.costs["r"].clear(),
    ):  # fmt: skip
        with pytest.raises(AttributeError):
            change()


@pytest.mark.parametrize("limits", [Quota(5, "day"), [Quota(5, "day")], "5/day", ["5/day"], (Quota(5, "day"),)])
def test_limits_are_given_in_any_form(limits):
    """One limit, several, their text, or texts among them."""
    assert UsagePlan("p", limits).limits == (Quota(5, "day"),)


@pytest.mark.parametrize(("field", "change"), [
    ("id", {"id": ""}), ("id", {"id": "a\nb"}), ("id", {"id": "x" * 257}), ("id", {"id": 5}), ("id", {"id": "\ud800"}),
    ("limits", {"limits": 5}), ("limits", {"limits": b"5/day"}), ("limits", {"limits": {"5/day": 1}}),
    ("limits", {"limits": [5]}), ("limits", {"limits": None}), ("limits", {"limits": [Quota(1, "day"), Quota(2, "day")]}),
    ("name", {"name": ""}), ("api", {"api": "\n"}), ("api", {"api": None}),
    ("routes", {"routes": "r"}), ("routes", {"routes": [("r", "5/day")]}), ("route", {"routes": {"": "5/day"}}),
    ("route", {"routes": {"x" * 1025: "5/day"}}), ("routes['r']: limits", {"routes": {"r": 5}}),
    ("costs", {"costs": "r"}), ("costs['r']", {"costs": {"r": 0}}), ("costs['r']", {"costs": {"r": 1.5}}),
    ("route", {"costs": {5: 0}}), ("route", {"costs": {5: 1}}), ("route", {"costs": {"": 5}}), ("route", {"costs": {"\ud800": 1}}),
    ("alerts", {"alerts": 80}), ("alerts", {"alerts": "80"}), ("alerts", {"alerts": (0,)}), ("alerts", {"alerts": (80.5,)}),
    ("alerts", {"alerts": (1001,)}), ("alerts", {"alerts": (True,)}),
])  # fmt: skip
def test_what_cannot_be_meant(field, change):
    """The field, the value and what would be accepted; nothing is made."""
    with pytest.raises(InvalidPlan) as raised:
        UsagePlan(**{"id": "p", "limits": "5/day", **change})
    assert raised.value.field == field
    assert raised.value.accepted in str(raised.value)


def test_a_route_s_limits_beside_the_plan_s():
    """A throttle of a route overrides the plan's of its unit, a quota adds to it, and each is a name of its own."""
    plan = UsagePlan(
        "p",
        "10/day, 5/s, 7 tokens/s burst 7 as slow",
        routes={"r": "2/day, 1/s", "s": [Quota(3, "hour")]},
        costs={"t": 2},
    )
    assert [compiled.name for compiled in plan.route_plan(None).limits] == ["requests/day", "throttle", "slow"]
    assert [compiled.name for compiled in plan.route_plan("r").limits] == [
        "requests/day",
        "slow",
        "r requests/day",
        "r throttle",
    ]
    assert [compiled.name for compiled in plan.route_plan("s").limits] == [
        "requests/day",
        "throttle",
        "slow",
        "requests/hour",
    ]
    assert [compiled.name for compiled in plan.route_plan("t").limits] == ["requests/day", "throttle", "slow"]
    assert (plan.route_plan("t").cost, plan.route_plan("r").cost) == ({"requests": 2}, {"requests": 1})
    assert plan.route_plan("unheard of") is plan.route_plan(None)
    assert [plan.route_plan(route).route for route in (None, "unheard of", "r")] == ["", "", "r"]
    assert plan.route_plan("r") is plan.route_plan("r")
    with pytest.raises(InvalidPlan, match=r"routes\['r'\]"):
        UsagePlan(
            "p", [Quota(1, "day", name="r x"), Quota(1, "hour", name="x")], routes={"r": [Quota(1, "week", name="x")]}
        )


@pytest.mark.parametrize(("limit", "seconds"), [
    (Quota(1, "day"), 86_400), (Quota(1, "15 minute"), 900), (Quota(1, "2 week"), 1_209_600), (Quota(1, "month"), None),
    (Quota(1, "15 minute in Europe/Paris"), 900), (Quota(1, "45 minute in Europe/Paris"), None),
    (Quota(1, "day in Europe/Paris"), None), (Quota(1, "minute in Europe/Paris"), 60), (Throttle(2, burst=5), 3),
    (Throttle(1000, burst=1), 1), (Throttle("0.5", burst=3), 6), (Throttle(1, burst=10_000_000), 10_000_000),
])  # fmt: skip
def test_how_long_windows_are_where_all_are_alike(limit, seconds):
    """For headers: seconds of every window, or None; of a throttle, until a full bucket is empty."""
    (compiled,) = UsagePlan("p", limit).route_plan(None).limits
    assert compiled.length == seconds


@pytest.mark.parametrize(("limits", "routes", "costs", "said"), [
    ("20/day", {"r": "2/day as few"}, {"r": 5}, "costs['r']: 5 is not accepted; expected at most 2 requests, all that 'few'"),
    ("4/day", {}, {"r": 5}, "at most 4 requests, all that 'requests/day'"),
    ("99/day, 10/s burst 4", {}, {"r": 5}, "at most 4 requests, all that 'throttle'"),
    ("99/day, 10/s burst 9", {"r": "1/s burst 4"}, {"r": 5}, "at most 4 requests, all that 'r throttle'"),
    ("99/day, 10 tokens/day", {}, {"r": {"requests": 1, "tokens": 11}}, "at most 10 tokens, all that 'tokens/day'"),
    ("3/day overage 1", {}, {"r": 5}, "at most 4 requests"),
    ("99/day, 4/day by account as shared", {}, {"r": 5}, "at most 4 requests, all that 'shared'"),
])  # fmt: skip
def test_a_plan_that_can_never_admit_a_route_s_cost(limits, routes, costs, said):
    """Named with the limit that it is above; so in the text form and in what was stored."""
    with pytest.raises(InvalidPlan) as raised:
        UsagePlan("p", limits, routes=routes, costs=costs)
    assert said in str(raised.value)
    assert raised.value.field == "costs['r']"
    with pytest.raises(InvalidPlan):
        UsagePlan(id="p", limits=limits.split(", "), routes=routes, costs=costs)


@pytest.mark.parametrize(("limits", "routes", "costs"), [
    ("4/day", {}, {"r": 4}), ("3/day overage 1", {}, {"r": 4}), ("9/day, 1/s burst 4", {"r": "9/s burst 9"}, {"r": 9}),
    ("0/day", {}, {"r": 5}), ("9/day", {"r": "0/s"}, {"r": 5}), ("9/day", {"r": "5/s burst 0"}, {"r": 5}),
    ("20/day", {"r": "2 exports/day"}, {"r": {"requests": 5, "exports": 1}}), ("2 tokens/day", {}, {"r": 5}),
    ("2 tokens/day", {}, {"r": {"requests": 5, "tokens": 0}}), ("9/day", {"s": "2/day as few"}, {"r": 5}),
])  # fmt: skip
def test_a_route_s_cost_that_fits_or_is_closed(limits, routes, costs):
    """As much as a limit admits, overage included; and any where a limit of 0 closes the route on purpose."""
    plan = UsagePlan("p", limits, routes=routes, costs=costs)
    assert UsagePlan(**json.loads(json.dumps(plan.to_dict()))) == plan


def test_exports_a_day_that_cost_more():
    """The idiom of the README: twice a day, five requests each."""
    plan = UsagePlan("p", "20/day", routes={"r": "2 exports/day"}, costs={"r": {"requests": 5, "exports": 1}})
    ledger = Ledger()
    ledger.add_plan(plan)
    secret = ledger.issue_key("k", "p").secret
    assert [bool(ledger.consume(secret, route="r")) for _ in range(3)] == [True, True, False]
    assert ledger.consume(secret).limits[0].used == 11

"""Plans that govern several apis, over every store; what they are, and what they are not."""

import pickle
from types import SimpleNamespace

import attrs
import pytest

import quota
from every_store import ALL, EXACT
from quota import InvalidPlan, Ledger, UsagePlan
from scenarios_apis import SCENARIOS

BY_THE_RULE = {"a_move_refills_no_throttle"}
"""Leases keep a bound of throttles that is stated, not every token."""


def over(kinds):
    return pytest.mark.parametrize("stores", kinds, indirect=True)


@over(ALL)
def test_histories(stores):
    """What plans for several apis promise is so on every store."""
    for name, history in SCENARIOS.items():
        if stores.leased and name in BY_THE_RULE:
            continue
        names = {"ManualClock": quota.ManualClock, "UsagePlan": UsagePlan, "PlanConflict": quota.PlanConflict}
        history(SimpleNamespace(Ledger=lambda clock: stores.ledger(clock), **names))


@over(EXACT)
def test_a_change_binds_in_every_process_and_random_moves_lose_nothing(stores, clock):
    """Whatever the order of moves and calls, each limit reads what its apis used, by an independent count."""
    from random import Random

    ledger = stores.ledger(clock)
    there = ledger if stores.kind == "memory" else stores.ledger(clock, ledger)
    apis = {"a": ("r1",), "b": ("r2", "r3"), "c": ("r1", "r2"), "d": ("r1", "r2", "r3")}
    for id_, governed in apis.items():
        ledger.add_plan(UsagePlan(id_, "9000/month", apis=governed))
    secret = ledger.issue_key("k", "a", id="k").secret
    random, used, on = Random(7), dict.fromkeys(("r1", "r2", "r3"), 0), ["a"]
    for step in range(80):
        actor = random.choice([ledger, there])
        if not random.randrange(4):
            plan = random.choice(sorted(apis))
            rivals = [one for one in on if one != plan and {*apis[one]} & {*apis[plan]}]
            if len(rivals) > 1:
                with pytest.raises(quota.PlanConflict):
                    actor.associate("k", plan)
                continue
            actor.associate("k", plan)
            on = [one for one in on if one not in (*rivals, plan)] + [plan]
        api, units = random.choice(["r1", "r2", "r3"]), random.randrange(1, 4)
        decision = actor.consume(secret, units, api=api)
        plan = next((one for one in on if api in apis[one]), None)
        assert bool(decision) == (plan is not None), step
        if plan is not None:
            used[api] += units
            assert decision.limits[0].used == sum(used[one] for one in apis[plan]), step
            assert decision.plan.id == plan
    for api, units in used.items():
        assert sum(row.used for row in ledger.usage("k", api=api)) in (0, units)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"api": "a", "apis": ("b",)}, "as api says"), ({"api": "a", "apis": ("a", "b")}, "as api says"),
        ({"apis": "ab"}, "different apis"), ({"apis": ("a", "a")}, "different apis"), ({"apis": ("a", 7)}, "printable"),
        ({"apis": ("a\nb",)}, "printable"), ({"apis": [f"r{n}" for n in range(65)]}, "at most 64"),
    ],
)  # fmt: skip
def test_what_is_no_plan_for_several_apis_is_refused(more, words):
    """By the field's name, the value, and what is accepted."""
    with pytest.raises(InvalidPlan, match=words):
        UsagePlan("p", "1/day", **more)


def test_one_api_may_be_said_either_way():
    """``api`` is short for one; of several it is empty; all forms are read again as they were."""
    assert (
        UsagePlan("p", "1/day", api="a")
        == UsagePlan("p", "1/day", apis=["a"])
        == UsagePlan("p", "1/day", api="a", apis=("a",))
    )
    assert (UsagePlan("p", "1/day").api, UsagePlan("p", "1/day").apis) == ("", ("",))
    several = UsagePlan("p", "1/day, 5/s", apis=("b", "a"), routes={"GET /": "1/day as x"})
    assert (several.api, several.apis) == ("", ("b", "a"))
    assert "apis" not in UsagePlan("p", "1/day", api="a").to_dict()
    for again in (UsagePlan.from_dict(several.to_dict()), pickle.loads(pickle.dumps(several)), attrs.evolve(several)):
        assert again == several
    assert attrs.evolve(several, limits="2/day").apis == ("b", "a")


def test_two_plans_of_a_new_key_that_meet_are_refused():
    """The key is not made."""
    ledger = Ledger()
    ledger.add_plan(UsagePlan("a", "1/day", apis=("r1", "r2")))
    ledger.add_plan(UsagePlan("b", "1/day", api="r2"))
    key = quota.ApiKey("k", "k", "k")
    with pytest.raises(quota.PlanConflict, match="another plan for the api 'r2'"):
        ledger.store.add_keys([(key, ["a", "b"])])
    assert ledger.list_keys() == []

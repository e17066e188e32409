"""Short histories of plans for several apis, and of keys that move between them; as ``scenarios``."""

from datetime import timedelta

from scenarios import START

APIS = ("r1", "r2")


def _tiers(q, free="10/day", paid="20/day", **more):
    """A ledger, its clock, and the secret of key ``k`` on the free plan for r1; the paid one is for r1 and r2."""
    clock = q.ManualClock(START)
    ledger = q.Ledger(clock=clock)
    ledger.add_plan(q.UsagePlan("free", free, api="r1", **more))
    ledger.add_plan(q.UsagePlan("other", free, api="r2", **more))
    ledger.add_plan(q.UsagePlan("paid", paid, apis=APIS, **more))
    return ledger, clock, ledger.issue_key("k", "free", id="k").secret


def _raises(error, call):
    try:
        call()
    except error:
        return
    raise AssertionError(f"no {error}")


def limits_count_all_apis_of_the_plan_together(q):
    ledger, _, secret = _tiers(q, paid="6/day")
    ledger.associate("k", "paid")
    for _ in range(2):  # by the rule, and by the compiled form
        assert [ledger.consume(secret, api=api).limits[0].used % 2 for api in APIS] == [1, 0]
    assert [ledger.consume(secret, 2, api=api).allowed for api in APIS] == [True, False]
    assert [ledger.peek(secret, api=api).limits[0].used for api in APIS] == [6, 6]
    assert [status.used for status in ledger.status("k")] == [6]
    assert [status.used for status in ledger.status("k", api="r2")] == [6]
    assert ledger.consume(secret, api="r3").reason.value == "NO_PLAN"


def what_an_api_never_counted_is_counted_from_its_first_call_on(q):
    ledger, _, secret = _tiers(q)
    ledger.associate("k", "paid")
    for api in APIS:
        assert ledger.consume(secret, {"tokens": 1}, api=api)
    assert [ledger.consume(secret, api=api).limits[0].used for api in (*APIS, *APIS)] == [1, 2, 3, 4]


def a_move_keeps_what_was_used_on_the_apis_of_the_new_plan(q):
    ledger, clock, secret = _tiers(q, free="10/hour, 30/day", paid="20/hour, 50/day")
    assert ledger.consume(secret, 3, api="r1")
    clock.advance(timedelta(hours=1))
    assert ledger.consume(secret, 4, api="r1")
    ledger.associate("k", "paid")
    assert [limit.used for limit in ledger.consume(secret, 5, api="r2").limits] == [9, 12]
    assert [limit.used for limit in ledger.consume(secret, 1, api="r1").limits] == [10, 13]
    ledger.associate("k", "free")
    assert [limit.used for limit in ledger.consume(secret, 1, api="r1").limits] == [6, 9]
    ledger.associate("k", "other")
    assert [limit.used for limit in ledger.consume(secret, 1, api="r2").limits] == [6, 6]
    ledger.dissociate("k", "other")
    ledger.associate("k", "paid")
    assert [limit.used for limit in ledger.status("k")] == [12, 15]


def a_move_counts_the_days_before(q):
    ledger, clock, secret = _tiers(q, free="30/day", paid="50/year")
    assert ledger.consume(secret, 3, api="r1")
    clock.advance(timedelta(days=1))
    assert ledger.consume(secret, 4, api="r1")
    ledger.associate("k", "paid")
    assert [ledger.consume(secret, api=api).limits[0].used for api in ("r2", "r1")] == [8, 9]


def a_later_change_drops_every_date_that_it_overlaps(q):
    ledger, clock, secret = _tiers(q)
    ledger.associate("k", "paid")
    for plan in ("free", "other"):
        ledger.associate("k", plan, at=START + timedelta(hours=1))
    assert [change.plan for change in ledger.get_key("k").scheduled] == ["free", "other"]
    ledger.associate("k", "paid")
    clock.advance(timedelta(hours=1))
    assert ledger.consume(secret, api="r1").plan.id == "paid"
    assert [plan.id for plan in ledger.list_plans("k")] == ["paid"]


def a_move_refills_no_throttle(q):
    ledger, clock, secret = _tiers(q, free="1/min burst 4", paid="1/min burst 6")
    assert [ledger.consume(secret, api="r1").allowed for _ in range(5)] == [True] * 4 + [False]
    ledger.associate("k", "paid")
    assert [ledger.consume(secret, api=api).allowed for api in ("r2", "r1", "r2")] == [True, True, False]
    ledger.associate("k", "free")
    assert not ledger.consume(secret, api="r1")
    ledger.associate("k", "other")
    assert not ledger.consume(secret, api="r2")
    clock.advance(timedelta(minutes=20))
    assert [ledger.consume(secret, 3, api=api).allowed for api in APIS] == [True, True]
    ledger.dissociate("k", "other")
    ledger.associate("k", "paid")
    assert ledger.consume(secret, api="r1").limits[0].used == 4
    assert [ledger.consume(secret, api="r2").allowed for _ in range(2)] == [False, False]  # three more of r2, poured in


def what_comes_back_leaves_the_sum_too(q):
    ledger, clock, secret = _tiers(q)
    before = ledger.consume(secret, 2, api="r1")
    held, lapsing = (ledger.reserve(secret, 3, ttl=timedelta(minutes=ttl), api="r1") for ttl in (9, 1))
    assert held
    assert lapsing
    ledger.associate("k", "paid")
    assert ledger.consume(secret, api="r2").limits[0].used == 9
    assert ledger.refund(before) == 2
    held.commit(1)
    assert ledger.status("k")[0].used == 5
    clock.advance(timedelta(minutes=2))
    assert ledger.consume(secret, 2, api="r1").limits[0].used == 4
    assert ledger.status("k", api="r2")[0].used == 4
    later = ledger.reserve(secret, 4, ttl=timedelta(minutes=1), api="r2")
    assert later.decision.limits[0].used == 8
    later.cancel()
    assert ledger.status("k")[0].used == 4


def usage_tells_each_api_by_itself(q):
    ledger, clock, secret = _tiers(q)
    assert ledger.consume(secret, 2, api="r1")
    ledger.associate("k", "paid")
    assert ledger.consume(secret, 3, api="r2")
    clock.advance(timedelta(days=1))
    assert ledger.consume(secret, 4, api="r1")
    assert ledger.consume(secret, 5, api="r2")
    told = {api: [(row.used, row.remaining) for row in ledger.usage("k", api=api)] for api in APIS}
    assert told == {"r1": [(2, 15), (4, 11)], "r2": [(3, 15), (5, 11)]}
    day = START.date()
    report = ledger.usage_report(day, day + timedelta(days=1))
    assert [(total.api, total.used) for total in report] == [("r1", 6), ("r2", 8)]


def no_key_has_two_plans_for_one_api(q):
    ledger, clock, secret = _tiers(q)
    ledger.associate("k", "other")
    _raises(q.PlanConflict, lambda: ledger.associate("k", "paid"))
    _raises(q.PlanConflict, lambda: ledger.associate("k", "paid", at=START + timedelta(hours=1)))
    _raises(q.PlanConflict, lambda: ledger.replace_plan(q.UsagePlan("free", "10/day", apis=APIS)))
    assert [plan.id for plan in ledger.list_plans("k")] == ["free", "other"]
    ledger.add_plan(q.UsagePlan("wide", "10/day", apis=("r2", "r3")))
    ledger.associate("k", "wide", at=START + timedelta(hours=1))
    _raises(q.PlanConflict, lambda: ledger.replace_plan(q.UsagePlan("wide", "10/day", apis=("r1", "r2"))))
    ledger.dissociate("k", "other")
    ledger.replace_plan(q.UsagePlan("free", "10/day", apis=("r1", "r3")))
    assert ledger.consume(secret, api="r3").limits[0].used == 1
    ledger.associate("k", "paid", at=START + timedelta(hours=1))
    clock.advance(timedelta(hours=1))
    assert [ledger.consume(secret, api=api).allowed for api in ("r1", "r2", "r3")] == [True, True, False]
    assert [plan.id for plan in ledger.list_plans("k")] == ["paid"]
    assert [key.id for key in ledger.list_keys(plan="paid")] == ["k"]
    assert ledger.list_keys(plan="free") == []


def what_was_granted_and_told_goes_along(q):
    ledger, _, secret = _tiers(q, free="10/day", paid="10/day")
    ledger.grant("k", "requests/day", 5, api="r1")
    assert ledger.consume(secret, 12, api="r1").crossed == (("requests/day", 80),)
    ledger.associate("k", "paid")
    assert ledger.status("k")[0].remaining == 3
    assert ledger.consume(secret, 3, api="r2").crossed == (("requests/day", 100),)
    ledger.override_limit("k", "requests/day", 20, api="r2")
    assert [ledger.peek(secret, api=api).limits[0].limit for api in APIS] == [20, 20]
    told = [(event.limit, event.percent) for event in ledger.events() if event.kind == "limit.crossed"]
    assert told == [("requests/day", 80), ("requests/day", 100)]


def an_account_s_plan_counts_the_apis_of_its_keys(q):
    ledger, _, secret = _tiers(q)
    ledger.add_plan(q.UsagePlan("team", "9/day", apis=APIS))
    ledger.add_account("team")
    ledger.associate("team", "team")
    ours = ledger.issue_key("ours", "free", id="ours", account="team").secret
    theirs = ledger.issue_key("theirs", "other", id="theirs", account="team").secret
    for _ in range(2):
        assert ledger.consume(ours, 2, api="r1")
        assert ledger.consume(theirs, 2, api="r2")
    assert ledger.consume(ours, 2, api="r1").violated == ("team: requests/day",)
    assert [(status.name, status.used) for status in ledger.status("team")] == [("team: requests/day", 8)]
    _raises(q.PlanConflict, lambda: (ledger.associate("team", "free"), ledger.associate("team", "other"),
                                     ledger.associate("team", "paid")))  # fmt: skip
    assert [plan.id for plan in ledger.list_plans(ledger.get_account("team"))] == ["free", "other"]
    assert secret


def calls_in_flight_are_those_of_all_apis(q):
    ledger, _, secret = _tiers(q, free="2 concurrent", paid="3 concurrent")
    first = ledger.reserve(secret, 1, ttl=timedelta(minutes=1), api="r1")
    ledger.associate("k", "paid")
    more = [ledger.reserve(secret, 1, ttl=timedelta(minutes=1), api=api) for api in ("r2", "r2", "r1")]
    assert [bool(one) for one in (first, *more)] == [True, True, True, False]
    first.cancel()
    assert ledger.reserve(secret, 1, ttl=timedelta(minutes=1), api="r2")


def routes_are_counted_over_all_apis(q):
    ledger, _, secret = _tiers(q, paid="20/day", routes={"GET /x": "3/day as x"})
    assert ledger.consume(secret, api="r1", route="GET /x")
    ledger.associate("k", "paid")
    for api in ("r2", "r1"):
        assert ledger.consume(secret, api=api, route="GET /x")
    assert [ledger.consume(secret, api=api, route="GET /x").violated for api in APIS] == [("x",), ("x",)]
    assert ledger.consume(secret, api="r2", route="GET /y").limits[0].used == 4


SCENARIOS = {
    name: scenario for name, scenario in globals().items()
    if callable(scenario) and not name.startswith("_") and scenario.__module__ == __name__
}  # fmt: skip

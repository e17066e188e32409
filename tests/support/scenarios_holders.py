"""Short histories of where keys and accounts stand and what changes for one of them; as ``scenarios``."""

from datetime import timedelta

from scenarios import START, _ledger


def an_account_stands_where_its_keys_left_it(q):
    ledger, _, _, _ = _ledger(q, "5/day, 9/month by account as ours")
    first, second = (ledger.issue_key(id_, "p", id=id_, account="team").secret for id_ in ("x", "y"))
    assert ledger.consume(first, 2)
    assert ledger.consume(second)
    assert [(s.name, s.used, s.holder) for s in ledger.status("team")] == [("ours", 3, "team")]
    assert [(s.name, s.used, s.holder) for s in ledger.status("y")] == [("requests/day", 1, "y"), ("ours", 3, "team")]


def a_limit_that_admits_nobody_says_no_time_to_retry(q):
    ledger, _, key, _ = _ledger(q, "0/day, 1/hour, 0/s burst 5")
    assert [(s.retry_at, s.remaining) for s in ledger.status(key)] == [(None, 0), (None, 1), (None, 0)]


def an_exhausted_limit_says_when_it_admits_again(q):
    ledger, _, key, secret = _ledger(q, "1/hour, 5/day")
    assert ledger.consume(secret)
    hour, day = ledger.status(key)
    assert (hour.retry_at, day.retry_at) == (hour.resets_at, None)


def a_limit_of_one_s_own_ends_on_its_microsecond(q):
    ledger, clock, key, secret = _ledger(q, "2/day", routes={"r": "1/day as r"})
    assert ledger.consume(secret)
    ledger.override_limit(key, "requests/day", 9, until=START + timedelta(seconds=10))
    assert all(ledger.consume(secret) for _ in range(4))
    clock.advance(timedelta(seconds=10) - timedelta(microseconds=1))
    assert ledger.consume(secret).limits[0].remaining == 3
    clock.advance(1)
    refused = ledger.consume(secret)
    assert (bool(refused), refused.limits[0].limit, refused.limits[0].used) == (False, 2, 6)
    ledger.override_limit(key, "requests/day", 7)
    assert [bool(ledger.consume(secret)) for _ in range(2)] == [True, False]


def a_limit_of_one_s_own_goes_with_its_plan(q):
    ledger, _, key, secret = _ledger(q, "2/day")
    ledger.add_plan(q.UsagePlan("other", "3/day"))
    ledger.override_limit(key, "requests/day", 9)
    ledger.associate(key, "other")
    assert ledger.status(key)[0].limit == ledger.consume(secret).limits[0].limit == 3
    ledger.associate(key, "p")
    ledger.replace_plan(q.UsagePlan("p", "5/day, 50/month"))
    assert ledger.consume(secret).limits[0].limit == 9
    ledger.forget(key)
    assert ledger.consume(secret).limits[0].limit == 9
    ledger.override_limit(key, "requests/day", None)
    assert ledger.consume(secret).limits[0].limit == 5


def a_limit_of_one_s_own_is_one_limit_s(q):
    ledger, _, key, secret = _ledger(q, "5/day, 9/day by account as ours", routes={"r": "4/day"})
    second = ledger.issue_key("second", "p", id="second", account="k").secret
    ledger.override_limit(key, "requests/day", 3)
    assert [s.limit for s in ledger.consume(secret, route="r").limits] == [3, 9, 4]
    ledger.override_limit(key, "requests/day", 2, route="r")
    assert [s.limit for s in ledger.consume(secret, route="r").limits] == [3, 9, 2]
    ledger.override_limit(key, "ours", 6)
    assert [s.limit for s in ledger.consume(second, route="r").limits] == [5, 6, 4]


def a_second_key_takes_the_account_s_own_limit_along(q):
    ledger, _, key, secret = _ledger(q, "9/day by account as ours")
    ledger.override_limit(key, "ours", 6)
    ledger.issue_key("second", "p", id="second", account="k")
    assert ledger.consume(secret).limits[0].limit == 6
    ledger.override_limit("second", "ours", None)
    assert ledger.consume(secret).limits[0].limit == 9


def a_smaller_limit_of_one_s_own_refuses_again_and_again(q):
    ledger, _, key, secret = _ledger(q, "100/day")
    assert all(ledger.consume(secret) for _ in range(4))
    ledger.override_limit(key, "requests/day", 3)
    assert not any(ledger.consume(secret) for _ in range(4))


def a_key_s_bounds_hold_on_every_path(q):
    for limits in ("100/day", "100/day, 50/s burst 60", "9/day by account as ours, 80/month"):
        ledger, _, key, secret = _ledger(q, limits)
        ledger.update_key(key, networks=["10.0.0.0/8"], scopes=["read"])
        for _ in range(3):
            assert ledger.consume(secret, address="10.0.0.1", scope="read")
            for ask in (ledger.consume, ledger.peek):
                told = [ask(secret, address=at, scope="read").reason.value for at in ("192.0.2.1", None)]
                assert told == ["ADDRESS_NOT_ALLOWED"] * 2
                assert ask(secret, address="10.0.0.1", scope="write").reason.value == "SCOPE_NOT_ALLOWED"
        assert [status.used for status in ledger.status(key)][0] == 3


def a_status_tells_what_is_one_s_own(q):
    ledger, _, key, _ = _ledger(q, "5/day, 3/s burst 5, 9/day by account as ours", routes={"r": "4/day"})
    until = START + timedelta(hours=1)
    ledger.issue_key("second", "p", id="second", account="k")
    ledger.override_limit(key, "requests/day", 3, until=until)
    ledger.override_limit(key, "throttle", q.Throttle(9, burst=10))
    ledger.override_limit(key, "ours", 6, until=until)
    told = [(3, until), ("9/second burst 10", None), (6, until)]
    assert [status.override for status in ledger.status(key)] == told
    assert [status.override for status in ledger.status(key, route="r")] == [*told, None]
    ledger.override_limit(key, "requests/day", 2, route="r")
    assert [status.override for status in ledger.status(key, route="r")] == [*told, (2, None)]
    assert [status.override for status in ledger.status(key)] == told
    assert [status.override for status in ledger.status("second")] == [None, None, (6, until)]
    ledger.add_plan(q.UsagePlan("u", "50/day"))
    ledger.add_account("k")
    ledger.associate(ledger.get_account("k"), "u")
    account = ledger.get_account("k")
    ledger.override_limit(account, "requests/day", 70)
    assert [status.override for status in ledger.status("second")] == [None, None, (6, until), (70, None)]
    ledger.replace_plan(q.UsagePlan("u", "50/day", routes={"r": "40/day"}))
    ledger.override_limit(account, "requests/day", 30, route="r")
    assert [status.override for status in ledger.status("second", route="r")][4:] == [(70, None), (30, None)]


def a_burst_of_one_s_own_binds_on_the_fast_path(q):
    ledger, _, key, secret = _ledger(q, "1/s burst 9")
    assert all(ledger.consume(secret) for _ in range(3))
    ledger.override_limit(key, "throttle", q.Throttle(1, burst=5))
    assert [bool(ledger.consume(secret)) for _ in range(4)] == [True, True, False, False]


def _with_q(q, limits="100/day", later="90/day"):
    ledger, clock, key, secret = _ledger(q, limits)
    ledger.add_plan(q.UsagePlan("q", later))
    return ledger, clock, key, secret


def a_change_of_plan_binds_on_its_microsecond(q):
    ledger, clock, key, secret = _with_q(q)
    ledger.associate(key, "q", at=START + timedelta(seconds=10))
    assert [ledger.consume(secret).limits[0].limit for _ in range(3)] == [100] * 3
    clock.advance(timedelta(seconds=10) - timedelta(microseconds=1))
    assert [ledger.consume(secret).limits[0].limit for _ in range(2)] == [100] * 2
    clock.advance(1)
    assert [ledger.consume(secret).limits[0].limit for _ in range(3)] == [90] * 3
    assert [plan.id for plan in ledger.list_plans(key)] == ["q"]
    assert [one.id for one in ledger.list_keys(plan="q")] == ["k"]
    assert ledger.list_keys(plan="p") == []


def a_change_of_plan_binds_on_its_microsecond_behind_several_limits(q):
    ledger, clock, key, secret = _with_q(q, "100/day, 500/hour, 9 tokens/day", "90/day, 500/hour, 9 tokens/day")
    ledger.associate(key, "q", at=START + timedelta(seconds=10))
    cost = {"requests": 1, "tokens": 1}
    assert [ledger.consume(secret, cost).limits[0].limit for _ in range(3)] == [100] * 3
    clock.advance(timedelta(seconds=10))
    assert [ledger.consume(secret, cost).limits[0].limit for _ in range(3)] == [90] * 3


def a_record_past_its_date_never_goes_back(q):
    ledger, clock, key, secret = _with_q(q)
    ledger.associate(key, "q", at=START + timedelta(seconds=10))
    clock.advance(timedelta(seconds=10))
    assert ledger.consume(secret).limits[0].limit == 90
    clock.advance(-timedelta(seconds=1))
    assert ledger.consume(secret).limits[0].limit == 90
    ledger.add_plan(q.UsagePlan("r", "80/day"))
    ledger.associate(key, "r", at=START + timedelta(hours=1))
    assert ledger.consume(secret).limits[0].limit == 90


def what_is_scheduled_is_dropped_by_what_is_done_at_once(q):
    ledger, clock, key, secret = _with_q(q)
    for drop in (
        lambda: ledger.associate(key, "p"), lambda: ledger.dissociate(key, "q"), lambda: ledger.associate(key, "p", at=START + timedelta(hours=2)),
        lambda: ledger.remove_plan("q"),
    ):  # fmt: skip
        ledger.associate(key, "q", at=START + timedelta(hours=1))
        assert ledger.status(key)[0].scheduled == ledger.get_key(key).scheduled[0] == ("q", START + timedelta(hours=1))
        drop()
        assert "q" not in [change.plan for change in ledger.get_key(key).scheduled]
    clock.advance(timedelta(hours=3))
    assert ledger.consume(secret).limits[0].limit == 100


def a_plan_removed_after_its_date_leaves_the_key_on_none(q):
    ledger, clock, key, secret = _with_q(q)
    ledger.associate(key, "q", at=START + timedelta(hours=1))
    clock.advance(timedelta(hours=1))
    ledger.remove_plan("q")
    assert ledger.consume(secret).reason.value == "NO_PLAN"


def a_plan_that_moves_takes_who_goes_to_it_along(q):
    ledger, clock, key, secret = _with_q(q)
    ledger.associate(key, "q", at=START + timedelta(hours=1))
    ledger.replace_plan(q.UsagePlan("q", "70/day", api="b"))
    clock.advance(timedelta(hours=1))
    assert [plan.id for plan in ledger.list_plans(key)] == ["p", "q"]
    assert ledger.consume(secret, api="b").limits[0].limit == 70


def a_period_ends_where_the_longest_quota_does(q):
    ledger, clock, key, _ = _with_q(q, "100/hour, 900/day, 8/s")
    ledger.associate(key, "q", at="period_end")
    assert ledger.get_key(key).scheduled == (("q", (START + timedelta(days=1)).replace(hour=0, minute=0, second=0)),)


def a_limit_of_one_s_own_stays_when_counts_are_forgotten(q):
    ledger, _, key, secret = _ledger(q, "9/day")
    ledger.override_limit(key, "requests/day", 3)
    assert ledger.consume(secret)
    ledger.forget(key)
    assert ledger.status(key)[0].limit == 3


SCENARIOS = {
    name: function for name, function in list(globals().items())
    if callable(function) and not name.startswith("_") and function.__module__ == __name__
}  # fmt: skip

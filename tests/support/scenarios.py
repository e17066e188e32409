"""Short histories with their exact outcome, as functions of the package: they run on it, and on copies with planted bugs."""

from datetime import datetime, timedelta, timezone

START = datetime(2026, 3, 10, 12, 0, 30, tzinfo=timezone.utc)
DAY = timedelta(days=1)


def _ledger(q, limits, **plan):
    clock = q.ManualClock(START)
    ledger = q.Ledger(clock=clock)
    ledger.add_plan(q.UsagePlan("p", limits, **plan))
    key, secret = ledger.issue_key("k", "p", id="k")
    return ledger, clock, key, secret


def _used(ledger, key, name="requests/day", **where):
    return {status.name: status.used for status in ledger.peek(key, 1, **where).limits}[name] - 1


def _standing(ledger, key):
    """What is used, told by a call that is refused and so adds nothing."""
    return {status.name: status.used for status in ledger.peek(key, {"requests": 10**9}).limits}


def the_last_unit_fits_and_no_more(q):
    ledger, _, key, _ = _ledger(q, "3/day")
    assert [bool(ledger.consume(key)) for _ in range(5)] == [True, True, True, False, False]
    assert _standing(ledger, key) == {"requests/day": 3}


def windows_roll_on_their_first_microsecond(q):
    ledger, clock, key, _ = _ledger(q, "1/day")
    assert ledger.consume(key)
    end = datetime(2026, 3, 11, tzinfo=timezone.utc)
    assert ledger.consume(key).retry_at == end
    clock.set(end - timedelta(microseconds=1))
    assert not ledger.consume(key)
    clock.set(end)
    assert ledger.consume(key)
    assert not ledger.consume(key)


def short_windows_roll_within_a_day(q):
    ledger, clock, key, _ = _ledger(q, "2/minute")
    first = ledger.consume(key, 2)
    assert ledger.grant(key, "requests/minute", 1).remaining == 1
    clock.set(datetime(2026, 3, 10, 12, 1, tzinfo=timezone.utc) - timedelta(microseconds=1))
    assert not ledger.consume(key, 2)
    clock.advance(1)
    assert ledger.consume(key, 2)
    assert not ledger.consume(key)
    assert ledger.refund(first) == 0
    assert not ledger.consume(key)


def a_cost_that_can_never_fit_is_told(q):
    ledger, _, key, _ = _ledger(q, "3/day overage 1, 9/s burst 9")
    for cost, name in ((5, "requests/day"), (10, "throttle")):
        decision = ledger.consume(key, cost)
        assert (decision.reason, decision.retry_at) == (q.Reason.COST_TOO_LARGE, None)
        assert name in decision.violated
    assert ledger.consume(key, 4)


def a_bucket_converts_rounded_up(q):
    ledger, clock, key, _ = _ledger(q, "7/minute burst 7")
    assert ledger.consume(key)
    clock.advance(1)
    ledger.replace_plan(q.UsagePlan("p", "1/s burst 7"))
    status = ledger.consume(key, 10).limits[0]
    assert status.resets_at == START + timedelta(microseconds=1 + 1_000_000)


def a_bucket_s_time_to_retry_is_rounded_up(q):
    ledger, clock, key, _ = _ledger(q, "7/minute burst 1")
    assert ledger.consume(key)
    retry_at = START + timedelta(microseconds=8_571_429)
    assert ledger.consume(key).retry_at == retry_at
    clock.set(retry_at - timedelta(microseconds=1))
    assert not ledger.consume(key)
    clock.set(retry_at)
    assert ledger.consume(key)


def toggling_throttles_refills_nothing(q):
    ledger, _, key, _ = _ledger(q, "1/s burst 5 as a")
    ledger.add_plan(q.UsagePlan("other", "1/s burst 5 as b"))
    assert ledger.consume(key, 5)
    ledger.associate(key, "other")
    assert not ledger.consume(key)
    ledger.associate(key, "p")
    assert not ledger.consume(key)


def _spend(ledger, key, **where):
    """How many calls are admitted at one instant."""
    return sum(bool(ledger.consume(key, **where)) for _ in range(40))


def _toggled(q, first, second, times=3, **where):
    """What is admitted at one instant, plan after plan, of a key that shares its account; (limits, routes) each."""
    told = []
    for shared in (True, False):
        ledger, _, key, _ = _ledger(q, "1/day")
        if shared:
            ledger.issue_key("second", "p", id="second", account="k")
        for name, (limits, routes) in (("a", first), ("b", second)):
            ledger.add_plan(q.UsagePlan(name, limits, routes=routes))
        told.append([])
        for plan in ("a", "b") * times:
            ledger.associate(key, plan)
            told[-1].append(_spend(ledger, key, **where))
    return told


def a_throttle_by_key_then_by_account_refills_nothing(q):
    mine, ours = ("10/s burst 10", {}), ("10/s burst 10 by account", {})
    for first, second in ((mine, ours), (ours, mine)):
        assert _toggled(q, first, second) == [[10, 0, 0, 0, 0, 0]] * 2
        wider = (second[0].replace("burst 10", "burst 12"), {})
        assert _toggled(q, first, wider) == [[10, 2, 0, 0, 0, 0]] * 2


def a_bucket_beside_one_that_stays_takes_over_what_it_must(q):
    mine, ours = "10/s burst 10", "10/s burst 10 by account as ours"
    assert _toggled(q, (mine, {}), (f"20/s burst 20, {ours}", {})) == [[10, 0, 0, 0, 0, 0]] * 2
    assert _toggled(q, (ours, {}), (f"10/s burst 20 by account as ours, {mine}", {})) == [[10, 0, 0, 0, 0, 0]] * 2
    for third in (ours, mine):
        ledger, _, key, secret = _ledger(q, mine)
        ledger.issue_key("second", "p", account="k")
        assert ledger.consume(secret, 9)
        for limits, admitted in ((f"{mine}, {ours}", 1), (third, 0)):
            ledger.replace_plan(q.UsagePlan("p", limits))
            assert _spend(ledger, key) == admitted


def a_key_s_bucket_beside_its_account_s_begins_empty(q):
    ours = "10/s burst 10 by account as ours"
    ledger, _, secret, other = _two_keys(q, ours)
    assert ledger.consume(secret)
    assert ledger.consume(other, 8)
    ledger.replace_plan(q.UsagePlan("p", f"{ours}, 1/s burst 1"))
    assert (_spend(ledger, secret), _spend(ledger, other)) == (1, 0)


def a_key_s_bucket_beside_its_account_s_that_is_faster_now_takes_over(q):
    ledger, clock, secret, _ = _two_keys(q, "10/s burst 10 by account as ours")
    assert ledger.consume(secret, 10)
    ledger.replace_plan(q.UsagePlan("p", "20/s burst 10 by account as ours, 10/s burst 10"))
    for _ in range(2):
        clock.advance(timedelta(seconds=0.5))
        assert _spend(ledger, secret) == 5


def a_route_s_throttle_that_comes_and_goes_refills_nothing(q):
    with_route = ("10/s burst 10", {"/r": "10/s burst 10"})
    for first, second in ((("10/s burst 10", {}), with_route), (with_route, ("10/s burst 10", {}))):
        assert _toggled(q, first, second, route="/r") == [[10, 0, 0, 0, 0, 0]] * 2


def a_route_s_throttle_that_goes_is_poured_into_the_plan_s_once(q):
    throttle = "100/s burst 100"
    ledger, _, key, _ = _ledger(q, throttle, routes={"/r": throttle})
    ledger.add_plan(q.UsagePlan("renamed", throttle, routes={"/r": f"{throttle} as other"}))
    ledger.add_plan(q.UsagePlan("plain", throttle))
    assert ledger.consume(key, 10)
    assert ledger.consume(key, 10, route="/r")
    used = []
    for plan in ("plain", "p", "renamed", "plain", "p", "plain"):
        ledger.associate(key, plan)
        used += [ledger.consume(key, route=route).limits[0].used for route in ("/r", None)]
    assert used == [21, 22, 23, 23, 24, 24, 27, 28, 29, 29, 31, 32]


def a_route_s_throttle_that_goes_fills_the_plan_s_at_most(q):
    ledger, _, key, _ = _ledger(q, "10/s burst 10", routes={"/r": "10/s burst 10"})
    assert (_spend(ledger, key), _spend(ledger, key, route="/r")) == (10, 10)
    ledger.replace_plan(q.UsagePlan("p", "10/s burst 10"))
    assert ledger.consume(key).limits[0].used == 10


def buckets_of_plans_that_are_gone_do_not_pile_up(q):
    ledger, clock, key, _ = _ledger(q, "1/s burst 5")
    for number in range(9):
        ledger.replace_plan(q.UsagePlan("p", f"1/s burst 5 as n{number}"))
        clock.advance(timedelta(seconds=5))
        assert _spend(ledger, key) == 5
    assert len(ledger.store.rooms["k"].key_entry.record.meters[0].buckets) <= 2


def a_route_of_a_plan_that_stands_begins_empty(q):
    ledger, _, key, _ = _ledger(q, "10/s burst 10", routes={"/r": "10/s burst 10"})
    assert (_spend(ledger, key), _spend(ledger, key, route="/r")) == (10, 10)
    ledger, clock, key, _ = _ledger(q, "10/s burst 10")
    assert _spend(ledger, key) == 10
    clock.advance(timedelta(seconds=1))
    ledger.replace_plan(q.UsagePlan("p", "10/s burst 10", routes={"/r": "10/s burst 10"}))
    assert (_spend(ledger, key), _spend(ledger, key, route="/r")) == (10, 10)


def what_an_idle_key_left_in_a_shared_bucket_is_gone(q):
    ledger, clock, first, second = _two_keys(q, "1/s burst 10 by account")
    ledger.add_plan(q.UsagePlan("mine", "1/s burst 10"))
    assert ledger.consume(first, 10)
    clock.advance(timedelta(seconds=10))
    assert ledger.consume(second, 10)
    ledger.associate("k", "mine")
    assert _spend(ledger, first) == 10


def a_limit_that_joins_counts_what_its_window_saw(q):
    ledger, clock, key, _ = _ledger(q, "100/day")
    for _ in range(3):
        assert ledger.consume(key)
    clock.advance(timedelta(minutes=1))
    assert ledger.consume(key)
    clock.advance(1)
    assert ledger.consume(key)
    ledger.replace_plan(q.UsagePlan("p", "100/day, 50/minute, 60/hour, 70/month"))
    expected = {"requests/day": 5, "requests/minute": 2, "requests/hour": 5, "requests/month": 5}
    assert _standing(ledger, key) == expected


def a_changed_period_keeps_what_was_used(q):
    ledger, clock, key, _ = _ledger(q, "5/month as x")
    assert ledger.consume(key, 4)
    clock.advance(DAY)
    ledger.replace_plan(q.UsagePlan("p", "5/day as x"))
    assert not ledger.consume(key, 2)
    assert ledger.consume(key, 1)
    clock.advance(DAY)
    assert ledger.consume(key, 2)
    ledger.replace_plan(q.UsagePlan("p", "50/month as x"))
    assert _standing(ledger, key) == {"x": 7}


def a_plan_change_binds_on_the_next_call(q):
    ledger, _, key, secret = _ledger(q, "10/day")
    for _ in range(3):
        assert ledger.consume(key)
        assert ledger.consume(secret)
    ledger.replace_plan(q.UsagePlan("p", "6/day"))
    assert not ledger.consume(key)
    assert not ledger.consume(secret)
    ledger.replace_plan(q.UsagePlan("p", "7/day"))
    assert ledger.consume(secret)
    assert not ledger.consume(key)


def a_disabled_key_is_refused_on_the_next_call(q):
    ledger, _, key, secret = _ledger(q, "10/day")
    for _ in range(2):
        assert ledger.consume(key)
        assert ledger.consume(secret)
    ledger.disable_key(key)
    assert ledger.consume(secret).reason is q.Reason.DISABLED_KEY
    assert ledger.consume(key).reason is q.Reason.DISABLED_KEY
    ledger.enable_key(key)
    assert ledger.consume(key)
    _, new = ledger.rotate_key(key)
    assert ledger.consume(secret).reason is q.Reason.UNKNOWN_KEY
    assert ledger.consume(new)
    ledger.remove_key(key)
    assert ledger.consume(new).reason is q.Reason.UNKNOWN_KEY


def a_refund_counts_once_and_only_in_its_window(q):
    ledger, clock, key, _ = _ledger(q, "10/day, 100/month")
    first = ledger.consume(key, 3)
    clock.advance(DAY)
    assert ledger.consume(key, 1)
    assert ledger.refund(first) == 3
    assert ledger.refund(first) == 0
    assert _standing(ledger, key) == {"requests/day": 1, "requests/month": 1}
    lone = ledger.consume(key, 2)
    clock.advance(40 * DAY)
    assert ledger.consume(key, 1)
    assert ledger.refund(lone) == 0
    assert _standing(ledger, key) == {"requests/day": 1, "requests/month": 1}


def a_refund_after_its_window_gives_nothing(q):
    ledger, clock, key, _ = _ledger(q, "5/minute")
    first = ledger.consume(key, 3)
    ledger.replace_plan(q.UsagePlan("p", "100/s burst 100"))
    clock.advance(timedelta(minutes=2))
    assert ledger.refund(first) == 0


def a_refund_takes_what_it_gives_out_of_its_day(q):
    ledger, clock, key, _ = _ledger(q, "10/day, 100/month")
    first = ledger.consume(key, 3)
    clock.advance(DAY)
    assert ledger.consume(key, 1)
    assert ledger.refund(first, 2) == 2
    rows = [(r.day.day, r.limit, r.used, r.remaining) for r in ledger.usage(key)]
    assert rows == [
        (10, "requests/day", 1, 9), (10, "requests/month", 1, 99),
        (11, "requests/day", 1, 9), (11, "requests/month", 1, 98),
    ]  # fmt: skip


def a_hold_lapses_on_its_microsecond_and_once(q):
    ledger, clock, key, secret = _ledger(q, "10/day")
    held = ledger.reserve(secret, 4, ttl=timedelta(seconds=10))
    assert _standing(ledger, key) == {"requests/day": 4}
    clock.advance(timedelta(seconds=10) - timedelta(microseconds=1))
    assert ledger.consume(key)
    assert _standing(ledger, key) == {"requests/day": 5}
    clock.advance(1)
    assert ledger.consume(key)
    assert _standing(ledger, key) == {"requests/day": 2}
    held.cancel()
    assert _standing(ledger, key) == {"requests/day": 2}


def a_commit_records_what_was_used(q):
    ledger, clock, key, secret = _ledger(q, "10/day")
    less, more, late = (ledger.reserve(secret, 3, ttl=timedelta(seconds=5)) for _ in range(3))
    less.commit(1)
    assert _standing(ledger, key) == {"requests/day": 7}
    done = more.commit(6)
    assert (_standing(ledger, key), done.over) == ({"requests/day": 10}, 0)
    clock.advance(timedelta(seconds=5))
    assert _standing(ledger, key) == {"requests/day": 7}
    late.commit(5)
    assert _standing(ledger, key) == {"requests/day": 12}
    assert not ledger.consume(key)
    assert ledger.refund(done) == 6
    assert _standing(ledger, key) == {"requests/day": 6}


def what_lapsed_days_ago_is_not_held_longer(q):
    ledger, clock, key, secret = _ledger(q, "9/week")
    held = ledger.reserve(secret, 2, ttl=timedelta(seconds=1))
    clock.advance(timedelta(days=2))
    assert _raises(q.ReservationClosed, lambda: held.extend(timedelta(seconds=1)))
    assert _standing(ledger, key) == {"requests/week": 0}


def a_slot_is_one_call_s_until_it_is_over(q):
    ledger, clock, key, secret = _ledger(q, "2 concurrent, 90/day")
    first, second = (ledger.reserve(secret, 4, ttl=timedelta(seconds=5), route=route) for route in ("r", None))
    assert not ledger.consume(key)
    second.spend(3)
    second.extend(timedelta(seconds=9))
    second.extend(timedelta(seconds=1))
    clock.advance(timedelta(seconds=5))
    assert _standing(ledger, key) == {"concurrency": 1, "requests/day": 4}
    try:
        first.extend(timedelta(seconds=5))
        raise AssertionError("what had lapsed is held again")
    except q.ReservationClosed:
        pass
    assert ledger.consume(key)
    second.cancel()
    assert _standing(ledger, key) == {"concurrency": 0, "requests/day": 4}
    third = ledger.reserve(secret, 4, ttl=timedelta(seconds=5))
    third.spend(1)
    third.spend(2)
    third.commit(6)
    assert _standing(ledger, key) == {"concurrency": 0, "requests/day": 10}
    ledger.replace_plan(q.UsagePlan("p", "9 concurrent", routes={"r": "1 concurrent as one"}))
    plain, routed = (ledger.reserve(secret, 1, ttl=timedelta(seconds=5), route=route) for route in (None, "r"))
    assert plain
    assert routed
    assert not ledger.consume(key, route="r")
    routed.cancel()
    assert ledger.consume(key, route="r")


def a_reservation_is_closed_once(q):
    ledger, _, key, secret = _ledger(q, "10/day")
    for first in ("commit", "cancel"):
        held = ledger.reserve(secret, 3, ttl=timedelta(seconds=5))
        getattr(held, first)()
        for again in (held.commit, held.cancel):
            try:
                again()
            except q.ReservationClosed:
                continue
            raise AssertionError("closed twice")
    assert _standing(ledger, key) == {"requests/day": 3}


def a_request_id_is_charged_once(q):
    ledger, clock, key, secret = _ledger(q, "10/day, 100/month")
    first = ledger.consume(secret, 2, request_id="a")
    again = ledger.consume(secret, 2, request_id="a")
    assert (again.id, again.replayed, again.limits) == (first.id, True, first.limits)
    assert _standing(ledger, key)["requests/day"] == 2
    assert _raises(q.RequestMismatch, lambda: ledger.consume(secret, 3, request_id="a"))
    assert ledger.refund(again) == 2
    assert _raises(q.RequestMismatch, lambda: ledger.consume(secret, 2, request_id="a"))
    clock.advance(DAY)
    assert not ledger.consume(secret, 2, request_id="a").replayed


def a_reservation_s_retry_is_the_same_hold(q):
    ledger, _, key, secret = _ledger(q, "10/day")
    first, again = (ledger.reserve(secret, 4, ttl=DAY, request_id="a") for _ in range(2))
    assert (again.id, again.decision.replayed) == (first.id, True)
    assert _standing(ledger, key) == {"requests/day": 4}
    again.commit(1)
    assert _raises(q.ReservationClosed, first.commit)
    assert _standing(ledger, key) == {"requests/day": 1}


def a_refused_call_charges_nobody(q):
    ledger, _, key, secret = _ledger(q, [q.Quota(1, "day"), q.Quota(10, "day", by="account", name="team")])
    other, _ = ledger.issue_key("second", "p", account="k")
    assert ledger.consume(secret)
    for _ in range(3):
        assert ledger.consume(secret).violated == ("requests/day",)
    assert _standing(ledger, other) == {"requests/day": 0, "team": 1}
    assert ledger.consume(other)
    assert _standing(ledger, key) == {"requests/day": 1, "team": 2}


def routes_cost_and_count_on_their_own(q):
    ledger, _, key, _ = _ledger(q, "9/day", routes={"GET /a": "2/day as few"}, costs={"GET /b": 4})
    assert ledger.consume(key, route="GET /b").cost == 4
    assert ledger.consume(key, route="GET /a")
    assert ledger.consume(key, route="GET /a")
    assert ledger.consume(key, route="GET /a").violated == ("few",)
    assert ledger.consume(key, route="GET /c")
    assert _standing(ledger, key) == {"requests/day": 7}


def a_grant_ends_with_its_window(q):
    ledger, clock, key, _ = _ledger(q, "2/day")
    assert ledger.consume(key, 2)
    assert ledger.grant(key, "requests/day", 3).remaining == 3
    assert ledger.consume(key, 3)
    assert not ledger.consume(key)
    assert ledger.set_remaining(key, "requests/day", 1).remaining == 1
    assert ledger.consume(key)
    assert not ledger.consume(key)
    clock.advance(DAY)
    assert [bool(ledger.consume(key)) for _ in range(3)] == [True, True, False]


def alerts_fire_once_in_a_window(q):
    ledger, clock, key, _ = _ledger(q, "10/day")
    seen = []
    for _ in range(10):
        decision = ledger.consume(key)
        seen.append(decision.crossed)
    assert [s for s in seen if s] == [(("requests/day", 80),), (("requests/day", 100),)]
    assert seen[7]
    assert ledger.refund(decision) == 1
    assert ledger.consume(key).crossed == ()
    clock.advance(DAY)
    assert ledger.consume(key, 9).crossed == (("requests/day", 80),)


def forgotten_charges_are_not_refunded(q):
    ledger, _, key, _ = _ledger(q, "10/day")
    first = ledger.consume(key, 3)
    ledger.forget(key)
    assert ledger.consume(key, 2)
    assert ledger.refund(first) == 0
    assert _standing(ledger, key) == {"requests/day": 2}


def what_a_key_took_before_it_was_forgotten_is_not_refunded_to_its_account(q):
    ledger, _, first, _ = _two_keys(q, "10/day by account")
    before = ledger.consume(first, 3)
    ledger.forget("k")
    assert ledger.refund(before) == 0


def a_clock_stepped_back_grants_nothing(q):
    ledger, clock, key, _ = _ledger(q, "2/minute")
    clock.set(datetime(2026, 3, 10, 12, 1, 0, tzinfo=timezone.utc))
    assert ledger.consume(key, 2)
    clock.advance(-timedelta(seconds=20))
    decision = ledger.consume(key)
    assert not decision
    assert decision.retry_at == decision.limits[0].resets_at == datetime(2026, 3, 10, 12, 2, tzinfo=timezone.utc)
    clock.advance(-timedelta(minutes=5))
    assert _raises(q.ClockSkew, lambda: ledger.consume(key))


def windows_begin_empty_whatever_was_called_first(q):
    ledger, clock, key, _ = _ledger(q, "100/day", routes={"r": "5/day in Europe/Paris as few"})
    assert ledger.consume(key, 5, route="r")
    clock.set(datetime(2026, 3, 11, 8, tzinfo=timezone.utc))
    assert ledger.consume(key)
    clock.advance(timedelta(hours=1))
    assert ledger.consume(key, 5, route="r")


def a_bucket_outlives_its_history(q):
    clock = q.ManualClock(START)
    ledger = q.Ledger("memory://?stripes=1&retention=0", clock=clock)
    ledger.add_plan(q.UsagePlan("p", "10/hour burst 10"))
    key, other = (ledger.issue_key(name, "p").key for name in "ab")
    assert ledger.consume(key, 10)
    clock.advance(timedelta(minutes=30))
    for _ in range(4):
        ledger.consume(other)
    assert not ledger.consume(key, 6)


def _two_keys(q, limits):
    ledger, clock, _, first = _ledger(q, limits)
    return ledger, clock, first, ledger.issue_key("second", "p", id="second", account="k").secret


def history_tells_each_key_s_own(q):
    ledger, clock, key, first = _ledger(q, "90/month, 95/month by account as joint")
    assert ledger.consume(first, 5)
    second, secret = ledger.issue_key("second", "p", account="k")
    assert ledger.consume(secret, 7)
    clock.advance(DAY)
    assert [r.used for r in ledger.usage(key)] == [12, 5, 0, 0]
    assert [r.used for r in ledger.usage(second)] == [12, 7, 0, 0]


def an_account_forgotten_since_gets_no_refund(q):
    ledger, clock, first, second = _two_keys(q, "10/day by account")
    before = ledger.consume(first, 5)
    clock.advance(3 * DAY)
    assert ledger.consume(second)
    clock.advance(-3 * DAY)
    ledger.forget("second")
    assert ledger.consume(first, 5)
    ledger.refund(before)
    assert not ledger.consume(first, 6)


def a_cancelled_reservation_is_not_retried(q):
    ledger, _, _, secret = _ledger(q, "10/day")
    held = ledger.reserve(secret, 4, ttl=DAY, request_id="a")
    assert _raises(q.RequestMismatch, lambda: ledger.reserve(secret, 4, ttl=DAY / 2, request_id="a"))
    held.cancel()
    assert _raises(q.RequestMismatch, lambda: ledger.reserve(secret, 4, ttl=DAY, request_id="a"))


def a_hold_of_one_key_is_never_another_s(q):
    ledger, clock, key, first = _ledger(q, "10/day")
    ledger.reserve(first, 3, ttl=timedelta(hours=1)).cancel()
    second = ledger.issue_key("second", "p", account="k").secret
    for secret in (second, first):
        ledger.reserve(secret, 4, ttl=timedelta(hours=1))
    clock.advance(timedelta(hours=2))
    assert _standing(ledger, key) == {"requests/day": 0}


def a_refund_after_its_changed_window_gives_nothing(q):
    ledger, clock, key, _ = _ledger(q, "5/minute as x")
    first = ledger.consume(key, 3)
    ledger.replace_plan(q.UsagePlan("p", "5/hour as x"))
    assert ledger.consume(key, 1)
    clock.advance(timedelta(hours=2))
    assert ledger.refund(first) == 0


def a_late_commit_reaches_the_account(q):
    ledger, clock, first, second = _two_keys(q, "100/month by account")
    held = ledger.reserve(first, 5, ttl=timedelta(hours=1))
    clock.advance(2 * DAY)
    assert ledger.reserve(second, 1, ttl=timedelta(hours=1))
    assert held.commit(4).limits[0].used == 5


def holds_from_before_a_second_key_lapse_on_both(q):
    ledger, clock, first, _ = _ledger(q, "100/day, 100/day by account as both")
    for hours in (1, 2, 3):
        ledger.reserve(first, 5, ttl=timedelta(hours=hours))
    ledger.issue_key("l", "p", id="l", account="k")
    for number, held in enumerate((10, 5, 0), 1):
        clock.advance(timedelta(hours=1))
        assert [limit.used for limit in ledger.consume(first).limits] == [held + number] * 2


def a_refund_later_than_history_is_kept_gives_nothing(q):
    ledger, clock, key, _ = _ledger(q, "9/year")
    early, late, *others = [ledger.consume(key) for _ in range(4)]
    assert [ledger.refund(other) for other in others * 2] == [1, 1, 0, 0]
    clock.advance(35 * DAY - timedelta(microseconds=1))
    assert ledger.refund(early) == 1
    clock.advance(1)
    assert ledger.refund(late) == ledger.refund(early) == 0
    assert _used(ledger, key, "requests/year") == 1


def a_faster_throttle_binds_from_the_first_refusal(q):
    ledger, clock, key, _ = _ledger(q, "1/minute burst 1")
    ledger.consume(key)
    ledger.replace_plan(q.UsagePlan("p", "1/s burst 1"))
    assert ledger.peek(key).retry_after == ledger.consume(key).retry_after == 1
    clock.advance(timedelta(seconds=1))
    assert ledger.consume(key)


def a_look_under_another_plan_changes_no_bucket(q):
    ledger, clock, key, _ = _ledger(q, "1/minute burst 1")
    ledger.add_plan(q.UsagePlan("fast", "1/s burst 1"))
    ledger.consume(key)
    ledger.associate(key, "fast")
    assert not ledger.peek(key)
    ledger.associate(key, "p")
    clock.advance(timedelta(seconds=30))
    assert ledger.consume(key).retry_after == 30


def a_limit_that_comes_after_a_long_rest_counts_from_its_window(q):
    ledger, clock, key, _ = _ledger(q, "99/year")
    ledger.consume(key, 3)
    clock.advance(40 * DAY)
    ledger.consume(key)
    clock.advance(DAY)
    ledger.replace_plan(q.UsagePlan("p", "99/year, 99/month"))
    assert _used(ledger, key, "requests/month") == 1


def _raises(error, call):
    try:
        call()
    except error:
        return True
    return False


SCENARIOS = {
    name: function for name, function in list(globals().items())
    if callable(function) and not name.startswith("_") and function.__module__ == __name__
}  # fmt: skip

"""The ledger, row by row of its contract: plans, keys, calls, adjustments, history, and what each refuses."""

import asyncio
import copy
import pickle
from datetime import date, datetime, timedelta, timezone

import attrs
import pytest

from quota import (
    ApiKey,
    AsyncLedger,
    ClockSkew,
    InvalidCost,
    Ledger,
    ManualClock,
    NotAllowed,
    PlanConflict,
    Quota,
    QuotaError,
    Reason,
    RequestMismatch,
    ReservationClosed,
    StoreBusy,
    StoreUnavailable,
    Throttle,
    UnknownKey,
    UnknownPlan,
    UsagePlan,
    UsageRecord,
)
from quota.errors import InvalidValue
from quota.rule.limits import MAX_UNITS
from quota.stores.memory import MemoryStore

MORNING = datetime(2026, 3, 10, 9, tzinfo=timezone.utc)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)


@pytest.fixture
def clock():
    return ManualClock(MORNING)


@pytest.fixture
def ledger(clock):
    return Ledger(clock=clock)


def on(ledger, limits="10/day", *, id="p", key="k", account=None, **plan):
    """A key on a plan of these limits: its id and its secret."""
    ledger.replace_plan(UsagePlan(id, limits, **plan))
    return ledger.issue_key(key, id, id=key, account=account).secret


def used(ledger, secret, **where):
    return [status.used for status in ledger.peek(secret, 1, **where).limits]


# Plans


def test_an_equal_plan_again_changes_nothing(ledger):
    """A different one of its id is a conflict that names it, and nothing is replaced."""
    plan = UsagePlan("p", "10/day")
    assert ledger.add_plan(plan) is plan
    assert ledger.add_plan(UsagePlan("p", [Quota(10, "day")])) == plan
    with pytest.raises(PlanConflict) as raised:
        ledger.add_plan(UsagePlan("p", "11/day"))
    assert raised.value.subject == "p"
    assert ledger.get_plan("p") == ledger.get_plan(plan) == plan
    assert ledger.list_plans() == [plan]


def test_plans_by_id(ledger):
    """Listed in the order of their ids; those of a key in the order of their apis."""
    secret = on(ledger, id="z", api="b")
    ledger.add_plan(UsagePlan("a", "1/day"))
    ledger.associate("k", "a")
    assert [plan.id for plan in ledger.list_plans()] == ["a", "z"]
    assert [plan.id for plan in ledger.list_plans("k")] == ["a", "z"]
    assert ledger.consume(secret, api="b").plan.id == "z"
    assert ledger.consume(secret).plan.id == "a"


def test_a_removed_plan_leaves_its_keys_on_none(ledger):
    """They are refused, and stay so when a plan of the same id comes back."""
    secret = on(ledger)
    other = on(ledger, "5/day", id="q", key="other")
    assert ledger.consume(secret)
    ledger.remove_plan("p")
    assert ledger.consume(secret).reason is Reason.NO_PLAN
    assert ledger.consume(other)
    assert ledger.list_plans("k") == []
    ledger.add_plan(UsagePlan("p", "10/day"))
    assert ledger.consume(secret).reason is Reason.NO_PLAN
    for call in (ledger.remove_plan, ledger.get_plan):
        with pytest.raises(UnknownPlan) as raised:
            call("gone")
        assert raised.value.plan == "gone"


def test_a_plan_that_changes_its_api_takes_its_keys_along(ledger):
    """Unless one of them has another plan there: then nothing moves."""
    secret = on(ledger)
    ledger.replace_plan(UsagePlan("p", "10/day", api="b"))
    assert ledger.consume(secret).reason is Reason.NO_PLAN
    assert ledger.consume(secret, api="b").plan.api == "b"
    ledger.add_plan(UsagePlan("q", "10/day"))
    ledger.associate("k", "q")
    with pytest.raises(PlanConflict, match="key k has another plan for the api 'b'"):
        ledger.replace_plan(UsagePlan("q", "10/day", api="b"))
    assert [plan.api for plan in ledger.list_plans("k")] == ["", "b"]


@pytest.mark.parametrize("plan", ["10/day", None, 5, {"id": "p"}])
def test_only_a_plan_can_be_added(ledger, plan):
    """Its text alone has no id."""
    for call in (ledger.add_plan, ledger.replace_plan):
        with pytest.raises(InvalidValue, match="plan: .*a UsagePlan"):
            call(plan)


def test_associating_moves_and_dissociating_ends(ledger):
    """A key has one plan for each api, and what was used stays used."""
    secret = on(ledger, "10/day")
    ledger.consume(secret, 4)
    ledger.add_plan(UsagePlan("q", "5/day"))
    ledger.associate(ledger.get_key("k"), ledger.get_plan("q"))
    assert used(ledger, secret) == [5]
    with pytest.raises(PlanConflict, match="key k is not on this plan"):
        ledger.dissociate("k", "p")
    ledger.dissociate("k", "q")
    assert ledger.consume(secret).reason is Reason.NO_PLAN
    for call in (ledger.associate, ledger.dissociate):
        with pytest.raises(UnknownKey):
            call("gone", "p")
        with pytest.raises(UnknownPlan):
            call("k", "gone")
        with pytest.raises(InvalidValue):
            call("", "p")
        with pytest.raises(InvalidValue):
            call("k", 5)


# Keys


def test_a_key_as_it_was_issued(ledger):
    """With an account of its own unless told; found by the object or its id."""
    key, secret = ledger.issue_key("Ada", metadata={"team": "x"}, expires_at=MORNING + DAY, prefix="my")
    assert (key.name, key.account, key.enabled, key.created_at) == ("Ada", key.id, True, MORNING)
    assert secret.startswith("my_")
    assert ledger.get_key(key) == ledger.get_key(key.id) == key
    assert ledger.list_keys() == [key]
    with pytest.raises(UnknownPlan):
        ledger.issue_key("Bob", "gone")
    with pytest.raises(PlanConflict, match="id already"):
        ledger.issue_key("Eve", id=key.id)
    assert ledger.list_keys() == [key]


def test_an_imported_secret_is_one_key_s(ledger):
    """A second key with it is a conflict, on import as on any change."""
    ledger.add_plan(UsagePlan("p", "10/day"))
    key, secret = ledger.import_key("a-secret-from-elsewhere", "old", "p")
    assert ledger.consume("a-secret-from-elsewhere").key == key
    with pytest.raises(PlanConflict, match="another API key has this secret"):
        ledger.import_key(secret, "again")
    assert [key.name for key in ledger.list_keys()] == ["old"]


def test_rotation_overlaps_as_told_and_never_beyond_the_key(ledger, clock):
    """The old secret goes on for the overlap, the key's own end included; usage is untouched."""
    ledger.add_plan(UsagePlan("p", "10/day"))
    key, first = ledger.issue_key("k", "p", expires_at=MORNING + HOUR)
    ledger.consume(first, 3)
    key, second = ledger.rotate_key(key, overlap=DAY)
    assert [secret.expires_at for secret in key.secrets] == [None, MORNING + HOUR]
    key, third = ledger.rotate_key(key, overlap=timedelta(minutes=10))
    assert [bool(ledger.consume(secret)) for secret in (first, second, third)] == [True] * 3
    clock.advance(timedelta(minutes=10))
    assert [ledger.consume(secret).reason for secret in (first, second, third)] == [
        Reason.EXPIRED_KEY, Reason.EXPIRED_KEY, Reason.OK,
    ]  # fmt: skip
    _, fourth = ledger.rotate_key(key)
    assert ledger.consume(third).reason is Reason.UNKNOWN_KEY
    assert ledger.consume(fourth).limits[0].used == 8
    clock.set(MORNING + HOUR)
    assert ledger.consume(fourth).reason is Reason.EXPIRED_KEY
    with pytest.raises(InvalidValue, match="overlap"):
        ledger.rotate_key(key, overlap=-1)
    with pytest.raises(UnknownKey):
        ledger.rotate_key("gone")


def test_a_key_disabled_enabled_and_removed(ledger):
    """Its counts stay while it is disabled and go with it."""
    secret = on(ledger)
    ledger.consume(secret, 4)
    assert not ledger.disable_key("k").enabled
    assert ledger.consume(secret).reason is Reason.DISABLED_KEY
    assert ledger.enable_key("k").enabled
    assert used(ledger, secret) == [5]
    ledger.remove_key("k")
    assert ledger.consume(secret).reason is Reason.UNKNOWN_KEY
    assert used(ledger, on(ledger)) == [1]
    for call in (ledger.remove_key, ledger.get_key, ledger.enable_key, ledger.disable_key, ledger.list_plans):
        with pytest.raises(UnknownKey) as raised:
            call("gone")
        assert raised.value.key == "gone"


def test_a_shared_account_outlives_its_keys(ledger):
    """A key that is removed leaves what it used to the account that others count on."""
    limits = "10/day by account as joint, 9/day"
    first = on(ledger, limits, key="first", account="team")
    ledger.consume(first, 4)
    second = on(ledger, limits, key="second", account="team")
    ledger.consume(second, 3)
    assert (used(ledger, first), used(ledger, second)) == ([8, 5], [8, 4])
    ledger.remove_key("first")
    assert used(ledger, second) == [8, 4]
    ledger.remove_key("second")
    assert used(ledger, on(ledger, limits, key="third", account="team")) == [8, 1]


# Calls


@pytest.mark.parametrize(("presented", "reason"), [
    (None, Reason.MISSING_KEY), ("", Reason.MISSING_KEY), ("x", Reason.UNKNOWN_KEY), ("\ud800", Reason.UNKNOWN_KEY),
    ("qk_" + "0" * 34, Reason.UNKNOWN_KEY), (ApiKey(id="x", name="x", account="x"), Reason.UNKNOWN_KEY),
])  # fmt: skip
def test_what_is_no_key(ledger, presented, reason):
    """Refused with 403, counting nothing, on every call that decides."""
    on(ledger)
    for decision in (
        ledger.consume(presented),
        ledger.peek(presented),
        ledger.reserve(presented, 1, ttl=HOUR).decision,
    ):
        assert not decision
        assert (decision.reason, decision.status, decision.plan, decision.limits) == (reason, 403, None, ())
        assert (decision.cost, decision.retry_at, decision.retry_after, decision.violated) == (1, None, None, ())


@pytest.mark.parametrize("secret", [b"bytes", 5, True, ["qk"], object()])
def test_what_cannot_be_presented(ledger, secret):
    """The type is named, never the value: it might be a secret."""
    for call in (ledger.consume, ledger.peek, ledger.require):
        with pytest.raises(InvalidValue, match="secret: <class") as raised:
            call(secret)
        assert raised.value.value is type(secret)


@pytest.mark.parametrize(("field", "arguments"), [
    ("cost", {"cost": 0}), ("cost", {"cost": True}), ("cost", {"cost": 1.0}), ("cost", {"cost": 2**53}), ("cost", {"cost": None}),
    ("cost['requests']", {"cost": {"requests": -1}}), ("api", {"api": "\n"}), ("api", {"api": None}), ("api", {"api": 0}),
    ("route", {"route": ""}), ("route", {"route": 5}), ("request_id", {"request_id": ""}), ("request_id", {"request_id": 5}),
    ("request_id", {"request_id": "x" * 257}), ("route", {"route": "\ud800"}),
])  # fmt: skip
def test_arguments_that_cannot_be_meant(ledger, field, arguments):
    """Named, and nothing is charged, whether the key has been used before or not."""
    secret = on(ledger)
    for _ in range(2):
        for call in (ledger.consume, ledger.peek, ledger.require):
            with pytest.raises(InvalidValue) as raised:
                call(secret, **arguments)
            assert raised.value.field == field
        with pytest.raises(InvalidValue):
            ledger.reserve(secret, **{"cost": 1, "ttl": HOUR, **arguments})
        ledger.consume(secret)
    assert used(ledger, secret) == [3]


@pytest.mark.parametrize("clock_", [lambda: 1.5, lambda: None, lambda: True, datetime.now])
def test_a_clock_gives_whole_microseconds(clock_):
    """Anything else is an error of the clock, on the first call that reads it."""
    ledger = Ledger(clock=clock_)
    for call in (lambda: ledger.consume("x"), lambda: ledger.peek("x"), lambda: ledger.issue_key("k")):
        with pytest.raises(InvalidValue, match="clock: .*whole microseconds"):
            call()


class Awaited(MemoryStore):
    """A store for ``AsyncLedger``: what a plain ledger would take for an answer is a coroutine, and that is truthy."""

    async def apply(self, request):
        return super().apply(request)


@pytest.mark.parametrize("store", [5, b"memory://", [], object(), MemoryStore])
def test_what_is_no_store(store):
    """It is told at once, not by the first call."""
    for kind in (Ledger, AsyncLedger):
        with pytest.raises(InvalidValue, match="store: .*or the URL of one"):
            kind(store)


def test_an_awaited_store_is_refused_by_a_ledger_that_does_not_await():
    """Else every call would be a coroutine, and a coroutine is truthy: all would be let in."""
    with pytest.raises(InvalidValue, match="AsyncLedger"):
        Ledger(Awaited())
    assert AsyncLedger(Awaited()).store


@pytest.mark.parametrize(
    "settings", [{"clock": 5}, {"clock": None}, {"on_unavailable": "open"}, {"on_unavailable": None}]
)
def test_settings_that_cannot_be_meant(settings):
    """A ledger is not made."""
    for kind in (Ledger, AsyncLedger):
        with pytest.raises(InvalidValue) as raised:
            kind(**settings)
        assert raised.value.field == next(iter(settings))


def test_require_raises_what_consume_returns(ledger):
    """``NotAllowed`` carries the decision."""
    secret = on(ledger, "1/day")
    assert ledger.require(secret).allowed
    with pytest.raises(NotAllowed) as raised:
        ledger.require(secret)
    assert raised.value.decision.reason is Reason.QUOTA_EXCEEDED
    assert "requests/day" in str(raised.value)


def test_one_clock_reading_for_each_call(ledger, clock):
    """By the fast path and by the general one, admitted or refused."""
    secret = on(ledger, "3/day, 2/s burst 2")
    for _ in range(5):
        before = clock.readings
        ledger.consume(secret)
        assert clock.readings == before + 1


@pytest.mark.parametrize("presented", ["secret", "key"])
def test_a_call_by_its_parts(ledger, presented):
    """Admitted from the fast path and from the general one, a decision tells the same; it can be copied and pickled."""
    secret = on(ledger, "10/day, 5/s burst 5", alerts=())
    who = secret if presented == "secret" else ledger.get_key("k")
    for number in (1, 2):
        decision = ledger.consume(who)
        for told in (decision, pickle.loads(pickle.dumps(decision)), copy.copy(decision)):
            assert told.id == decision.id
            assert (told.allowed, told.reason, told.status, told.cost, told.at) == (True, Reason.OK, 200, 1, MORNING)
            assert (told.key.id, told.plan.id, told.over, told.crossed, told.replayed) == ("k", "p", 0, (), False)
            assert [(s.name, s.limit, s.used, s.remaining) for s in told.limits] == [
                ("requests/day", 10, number, 10 - number), ("throttle", 5, number, 5 - number),
            ]  # fmt: skip
            assert told.limits[0].resets_at == datetime(2026, 3, 11, tzinfo=timezone.utc)
    assert repr(decision) == "<Decision OK: requests/day 2/10, throttle 2/5>"
    assert repr(ledger.consume(None)) == "<Decision MISSING_KEY>"


def test_a_refusal_by_its_parts(ledger):
    """Every limit that refused is named; the reason is the quota's where one refused; the retry is the latest."""
    secret = on(ledger, "5/day, 8/hour, 5/s burst 5")
    ledger.consume(secret, 5)
    refused = ledger.consume(secret, 4)
    assert (refused.violated, refused.reason) == (("requests/day", "requests/hour", "throttle"), Reason.QUOTA_EXCEEDED)
    assert refused.retry_at == datetime(2026, 3, 11, tzinfo=timezone.utc)
    assert refused.retry_after == 15 * 3600
    assert [s.used for s in refused.limits] == [5, 5, 5]


def test_throttled_is_told_apart(ledger, clock):
    """A throttle alone refused: until its bucket has room, to the microsecond."""
    secret = on(ledger, "5/day, 0.3/s burst 2")
    ledger.consume(secret, 2)
    refused = ledger.consume(secret)
    assert (refused.reason, refused.violated, refused.retry_after) == (Reason.THROTTLED, ("throttle",), 4)
    clock.set(refused.retry_at - timedelta(microseconds=1))
    assert not ledger.peek(secret)
    clock.set(refused.retry_at)
    assert ledger.consume(secret)


def test_a_cost_that_can_never_fit(ledger):
    """It has no retry; a quota's overage and a grant may make room for what its limit alone would not."""
    secret = on(ledger, "5/day overage 2")
    assert (ledger.peek(secret, 8).reason, ledger.peek(secret, 8).retry_at) == (Reason.COST_TOO_LARGE, None)
    assert ledger.peek(secret, 7)
    ledger.grant("k", "requests/day", 1)
    assert ledger.peek(secret, 8)
    throttled = on(ledger, "5/s", id="q", key="q")
    assert (ledger.consume(throttled, 6).reason, ledger.consume(throttled, 6).retry_at) == (Reason.COST_TOO_LARGE, None)


def test_overage_is_admitted_and_shown(ledger):
    """Up to its cap; ``over`` counts the units beyond the limit."""
    secret = on(ledger, "5/day overage 3, 9/month")
    assert [ledger.consume(secret, 4).over, ledger.consume(secret, 3).over] == [0, 2]
    decision = ledger.consume(secret)
    assert (decision.over, decision.limits[0].used, decision.limits[0].remaining) == (3, 8, 0)
    refused = ledger.consume(secret)
    assert (refused.allowed, refused.violated, refused.over) == (False, ("requests/day",), 3)


def test_units_and_routes_each_on_their_own(ledger):
    """A call takes requests and tokens at once; a route adds a quota, overrides the throttle and has a cost."""
    secret = on(
        ledger,
        "10/day, 100 tokens/day, 5/s",
        routes={"r": "2/day, 1/s burst 1"},
        costs={"t": {"requests": 2, "tokens": 30}},
    )
    names = [s.name for s in ledger.consume(secret, {"requests": 1, "tokens": 40}).limits]
    assert names == ["requests/day", "tokens/day", "throttle"]
    assert [(s.name, s.used) for s in ledger.consume(secret, route="r").limits] == [
        ("requests/day", 2), ("tokens/day", 40), ("r requests/day", 1), ("r throttle", 1),
    ]  # fmt: skip
    assert ledger.consume(secret, route="r").violated == ("r throttle",)
    decision = ledger.consume(secret, route="t")
    assert (dict(decision.cost), [s.used for s in decision.limits]) == ({"requests": 2, "tokens": 30}, [4, 70, 3])
    assert ledger.consume(secret, {"tokens": 31}).violated == ("tokens/day",)
    assert ledger.consume(secret, {"tokens": 30}).limits[1].remaining == 0


def test_alerts_fire_once_each_window(ledger, clock):
    """Whatever is refunded, granted or replaced; the call that crossed them tells."""
    secret = on(ledger, "10/day", alerts=(50, 80, 100))
    assert ledger.consume(secret, 4).crossed == ()
    crossing = ledger.consume(secret, 5)
    assert crossing.crossed == (("requests/day", 50), ("requests/day", 80))
    ledger.refund(crossing)
    assert ledger.consume(secret, 5).crossed == ()
    ledger.replace_plan(UsagePlan("p", "9/day", alerts=(50, 90, 100)))
    assert ledger.consume(secret, 1).violated == ("requests/day",)
    ledger.replace_plan(UsagePlan("p", "10/day", alerts=(50, 90, 100)))
    assert ledger.consume(secret, 1).crossed == (("requests/day", 90), ("requests/day", 100))
    clock.advance(DAY)
    assert ledger.consume(secret, 8).crossed == (("requests/day", 50),)


# Reservations


def test_a_reservation_holds_then_counts_what_was_used(ledger, clock):
    """Less goes back to its window, more is recorded all the same, and either ends it."""
    secret = on(ledger, "10/day")
    held = ledger.reserve(secret, 6, ttl=HOUR)
    assert held
    assert (held.decision.limits[0].used, held.expires_at) == (6, MORNING + HOUR)
    assert not ledger.consume(secret, 5)
    decision = held.commit(2)
    assert (decision.allowed, decision.limits[0].used, decision.cost) == (True, 2, 2)
    with pytest.raises(ReservationClosed) as raised:
        held.commit()
    assert raised.value.reservation == held.id
    assert ledger.reserve(secret, 1, ttl=HOUR).commit(20).limits[0].used == 22
    assert not ledger.consume(secret)
    assert ledger.refund(decision) == 2


def test_a_reservation_cancels_itself_as_a_context(ledger):
    """Unless committed, also when the block raises; a refused one is falsy and has nothing to end."""
    secret = on(ledger, "10/day")
    with pytest.raises(ZeroDivisionError), ledger.reserve(secret, 6, ttl=HOUR) as held:
        assert used(ledger, secret) == [7]
        held.decision.allowed / 0
    assert used(ledger, secret) == [1]
    with ledger.reserve(secret, 6, ttl=HOUR) as held:
        held.commit()
    assert used(ledger, secret) == [7]
    with ledger.reserve(secret, 5, ttl=HOUR) as refused:
        assert not refused
    for end in (refused.commit, refused.cancel):
        with pytest.raises(ReservationClosed):
            end()
    assert repr(refused).startswith(f"<Reservation {refused.id} <Decision QUOTA_EXCEEDED")


def test_an_abandoned_reservation_returns_by_itself(ledger, clock):
    """At its end, to the microsecond; a commit after that is recorded all the same, a cancel gives nothing twice."""
    secret = on(ledger, "10/day")
    late, dropped, unused = (ledger.reserve(secret, 3, ttl=HOUR) for _ in range(3))
    clock.set(late.expires_at - timedelta(microseconds=1))
    assert used(ledger, secret) == [10]
    clock.set(late.expires_at)
    assert used(ledger, secret) == [1]
    assert late.commit().limits[0].used == 3
    dropped.cancel()
    assert used(ledger, secret) == [4]
    clock.advance(DAY + HOUR)
    ledger.reserve(secret, 1, ttl=HOUR)
    with pytest.raises(ReservationClosed):
        unused.commit()


@pytest.mark.parametrize("ttl", [0, -1, timedelta(0), timedelta(days=367), 1.5, True, None, "1h"])
def test_a_reservation_ends(ledger, ttl):
    """It has a length, and not one of years."""
    secret = on(ledger)
    with pytest.raises(InvalidValue, match="ttl"):
        ledger.reserve(secret, 1, ttl=ttl)


def test_a_reservation_charges_the_account_too(ledger):
    """Held, returned and committed on both, once each; on a route, on its count too."""
    limits = "10/day, 20/day by account as joint"
    first = on(ledger, limits, key="first", account="team", routes={"r": "5/day as mine"})
    on(ledger, limits, key="second", account="team", routes={"r": "5/day as mine"})
    held = ledger.reserve(first, 4, ttl=HOUR, route="r")
    assert used(ledger, first, route="r") == [5, 5, 5]
    assert held.commit(3).limits[2].used == 3
    ledger.reserve(first, 4, ttl=HOUR).cancel()
    assert used(ledger, first, route="r") == [4, 4, 4]
    units = ledger.reserve(first, {"requests": 1, "tokens": 9}, ttl=HOUR)
    assert units.commit({"tokens": 0}).limits[0].used == 3
    with pytest.raises(InvalidCost):
        ledger.reserve(first, 1, ttl=HOUR).commit(-1)


@pytest.mark.parametrize("cost", [{"tokens": 9}, {"requests": 1, "tokens": 9}])
def test_a_bare_number_commits_requests_and_nothing_else(ledger, clock, cost):
    """Of a hold of tokens it would be a commit of no tokens at all: an error that names them, and the hold stays."""
    secret = on(ledger, "10/day, 50 tokens/day")
    held = ledger.reserve(secret, cost, ttl=HOUR)
    with pytest.raises(InvalidCost, match="tokens"):
        held.commit(5)
    assert held.commit({"tokens": 5}).limits[1].used == 5
    assert ledger.reserve(secret, {"requests": 2}, ttl=HOUR).commit(1).limits[0].used == 1


def test_a_reservation_on_a_plan_that_went(ledger):
    """What was used is counted all the same, though no limit is left to tell of."""
    secret = on(ledger)
    held = ledger.reserve(secret, 2, ttl=HOUR)
    ledger.remove_plan("p")
    assert held.commit(2).limits == ()
    ledger.add_plan(UsagePlan("p", "10/day"))
    ledger.associate("k", "p")
    assert used(ledger, secret) == [3]


# Refunds and retries


def test_a_refund_counts_once(ledger, clock):
    """All of it or some, never more than was taken, never after the window."""
    secret = on(ledger, "10/day, 10/s burst 10")
    whole, part = ledger.consume(secret, 4), ledger.consume(secret, 5)
    assert [ledger.refund(whole), ledger.refund(whole)] == [4, 0]
    with pytest.raises(InvalidCost, match="at most the 5 requests"):
        ledger.refund(part, 6)
    assert [ledger.refund(part, 2), ledger.refund(part, 2)] == [2, 0]
    assert used(ledger, secret) == [4, 10]
    late = ledger.consume(secret, 1)
    clock.advance(DAY)
    assert ledger.refund(late) == 0
    assert ledger.refund(ledger.consume(secret, 99)) == 0
    assert ledger.refund(ledger.consume(None)) == 0


def test_a_refund_finds_its_own_windows(ledger, clock):
    """Units of one call go back to the day that is over no more, and to the month that is not."""
    secret = on(ledger, "10/day, 50/month, 90 tokens/month")
    decision = ledger.consume(secret, {"requests": 2, "tokens": 7})
    clock.advance(DAY)
    ledger.consume(secret, 3)
    assert ledger.refund(decision, {"requests": 1}) == 1
    assert [s.used for s in ledger.peek(secret).limits] == [4, 5, 7]
    held = ledger.reserve(secret, 5, ttl=HOUR)
    clock.advance(60_000_000)
    both = held.commit(8)
    assert ledger.refund(both, 7) == 7
    assert [s.used for s in ledger.peek(secret).limits] == [5, 6, 7]


def test_units_of_one_call_go_back_together(ledger):
    """Also those that no limit counts, while a window that counted the call is open, and those that a commit added."""
    secret = on(ledger, "9/day")
    assert ledger.refund(ledger.consume(secret, {"requests": 2, "tokens": 3})) == 5
    assert ledger.refund(ledger.consume(secret, {"requests": 2, "tokens": 3}), {"tokens": 1}) == 1
    assert ledger.refund(ledger.reserve(secret, 2, ttl=HOUR).commit({"requests": 3, "tokens": 4})) == 7
    assert ledger.refund(ledger.reserve(secret, 2, ttl=HOUR).commit({"requests": 3, "tokens": 4}), {"requests": 3}) == 3
    ledger.replace_plan(UsagePlan("p", "9/day, 99 tokens/day"))
    assert [s.used for s in ledger.peek(secret, {"tokens": 1}).limits] == [2, 7]


def test_what_cannot_be_refunded(ledger):
    """A reservation's own decision is cancelled instead; anything else is no decision."""
    secret = on(ledger)
    with pytest.raises(InvalidValue, match="commit"):
        ledger.refund(ledger.reserve(secret, 1, ttl=HOUR).decision)
    for decision in (None, "id", 5):
        with pytest.raises(InvalidValue, match="decision"):
            ledger.refund(decision)
    gone = ledger.consume(secret)
    ledger.remove_key("k")
    with pytest.raises(UnknownKey):
        ledger.refund(gone)
    on(ledger)
    assert ledger.refund(gone) == 0


def test_a_request_id_is_charged_once(ledger, clock):
    """For a day, per key: the same admission again; other parameters, or a refunded one, are a mismatch."""
    secret, other = on(ledger, "10/day, 9/s burst 9 by account"), on(ledger, key="other")
    first = ledger.consume(secret, 3, request_id="a")
    again = ledger.consume(secret, 3, request_id="a")
    assert (again.replayed, again.id, again.limits) == (True, first.id, first.limits)
    assert not ledger.consume(other, 3, request_id="a").replayed
    for arguments in ({"cost": 2}, {"cost": 3, "route": "r"}, {"cost": {"requests": 3, "tokens": 1}}, {}):
        with pytest.raises(RequestMismatch) as raised:
            ledger.consume(secret, **arguments, request_id="a")
        assert raised.value.request_id == "a"
    with pytest.raises(RequestMismatch):
        ledger.reserve(secret, 3, ttl=HOUR, request_id="a")
    ledger.refund(again)
    with pytest.raises(RequestMismatch, match="refunded"):
        ledger.consume(secret, 3, request_id="a")
    clock.advance(DAY)
    assert not ledger.consume(secret, 3, request_id="a").replayed
    for number in range(4):
        ledger.consume(secret, request_id=str(number))
    clock.advance(DAY)
    for number in range(4):
        assert not ledger.consume(secret, request_id=str(number)).replayed


def test_a_refusal_is_not_remembered(ledger, clock):
    """The same request may be admitted later; a reservation retried is the same reservation."""
    secret = on(ledger, "2/day")
    ledger.consume(secret, 2)
    assert not ledger.consume(secret, request_id="a")
    clock.advance(DAY)
    assert ledger.consume(secret, request_id="a")
    held = ledger.reserve(secret, 1, ttl=HOUR, request_id="b")
    again = ledger.reserve(secret, 1, ttl=HOUR, request_id="b")
    assert (again.id, again.expires_at, again.decision.replayed) == (held.id, held.expires_at, True)
    again.commit()
    with pytest.raises(ReservationClosed):
        held.cancel()
    assert ledger.peek(secret).limits[0].used == 2


# Adjustments


def test_a_grant_is_for_this_window(ledger, clock):
    """So many more now, none at the next."""
    secret = on(ledger, "5/day", routes={"r": "3/day"})
    ledger.consume(secret, 5)
    status = ledger.grant("k", "requests/day", 2)
    assert (status.name, status.limit, status.used, status.remaining) == ("requests/day", 5, 5, 2)
    assert ledger.consume(secret, 2)
    assert ledger.grant("k", "requests/day", 1, route="r").limit == 3
    clock.advance(DAY)
    assert not ledger.consume(secret, 6)


def test_set_remaining_is_for_this_window(ledger, clock):
    """As API Gateway's UpdateUsage: more or less than there was."""
    secret = on(ledger, "5/day")
    ledger.consume(secret, 2)
    assert ledger.set_remaining("k", "requests/day", 1).remaining == 1
    assert [bool(ledger.consume(secret)) for _ in range(2)] == [True, False]
    assert ledger.set_remaining("k", "requests/day", 0).remaining == 0
    assert ledger.set_remaining(ledger.get_key("k"), "requests/day", 100).remaining == 100
    assert ledger.consume(secret, 100)
    clock.advance(DAY)
    assert ledger.peek(secret).limits[0].remaining == 4


@pytest.mark.parametrize(("error", "arguments"), [
    (InvalidCost, {"units": -1}), (InvalidCost, {"units": 1.5}), (InvalidCost, {"units": True}), (InvalidCost, {"units": MAX_UNITS + 1}),
    (InvalidValue, {"limit": "throttle"}), (InvalidValue, {"limit": ""}), (InvalidValue, {"limit": 5}), (InvalidValue, {"api": "b"}),
    (InvalidValue, {"api": None}), (InvalidValue, {"api": []}), (InvalidValue, {"route": ""}), (InvalidValue, {"route": []}),
    (UnknownKey, {"key": "gone"}), (InvalidValue, {"key": 5}),
])  # fmt: skip
def test_adjustments_that_cannot_be_meant(ledger, error, arguments):
    """Nothing changes."""
    secret = on(ledger, "5/day, 5/s")
    values = {"key": "k", "limit": "requests/day", "units": 1, **arguments}
    api = {name: values.pop(name) for name in ("api", "route") if name in values}
    for call in (ledger.grant, ledger.set_remaining):
        with pytest.raises(error):
            call(*values.values(), **api)
    for units in (0, MAX_UNITS - 4):
        with pytest.raises(InvalidCost, match="units"):
            ledger.grant("k", "requests/day", units)
    assert ledger.peek(secret).limits[0].remaining == 4


def test_as_much_is_granted_as_can_be_counted(ledger):
    """All of it together comes to the largest number; one more is refused, and the error names what was given."""
    on(ledger, f"{MAX_UNITS - 3}/day overage 1")
    with pytest.raises(InvalidCost, match=f"at most {MAX_UNITS}") as error:
        ledger.grant("k", "requests/day", 3)
    assert error.value.field == "units"
    assert ledger.grant("k", "requests/day", 2).extra == 2
    with pytest.raises(InvalidCost, match=f"at most {MAX_UNITS}") as error:
        ledger.set_remaining("k", "requests/day", MAX_UNITS)
    assert error.value.field == "remaining"
    assert ledger.set_remaining("k", "requests/day", MAX_UNITS - 1).extra == 2


def test_a_limit_that_is_not_there_is_told_with_those_that_are(ledger):
    """The message names the key's quotas."""
    on(ledger, "5/day, 7/hour, 5/s")
    with pytest.raises(InvalidValue, match="requests/day, requests/hour"):
        ledger.grant("k", "nonsense", 1)
    ledger.dissociate("k", "p")
    with pytest.raises(InvalidValue, match="none"):
        ledger.grant("k", "nonsense", 1)


def test_forgetting_is_the_repair_after_a_wild_clock(ledger, clock):
    """Counts from the future refuse an answer until forgotten, the account's too; they go for nothing else."""
    limits = "10/day, 20/day by account as joint"
    first, second = (on(ledger, limits, key=name, account="team") for name in ("first", "second"))
    ledger.consume(second, 3)
    ledger.forget("first")
    assert used(ledger, second) == [4, 4]
    clock.advance(400 * DAY)
    ledger.consume(first)
    clock.set(MORNING)
    for call in (
        lambda: ledger.consume(first), lambda: ledger.peek(second), lambda: ledger.usage("first"),
        lambda: ledger.grant("first", "requests/day", 1),
    ):  # fmt: skip
        with pytest.raises(ClockSkew) as raised:
            call()
        assert raised.value.seen > raised.value.now == clock()
    ledger.forget("first")
    assert used(ledger, first) == [1, 1]
    with pytest.raises(UnknownKey):
        ledger.forget("gone")


def test_a_clock_a_little_behind_grants_nothing(ledger, clock):
    """Up to five minutes the latest instant stands, also over the end of a window."""
    secret = on(ledger, "3/day, 2/s burst 2")
    clock.set(datetime(2026, 3, 11, tzinfo=timezone.utc))
    ledger.consume(secret, 2)
    clock.advance(timedelta(minutes=-5))
    assert [s.used for s in ledger.peek(secret).limits] == [2, 2]
    assert ledger.peek(secret, 1).violated == ("throttle",)
    clock.advance(-1)
    with pytest.raises(ClockSkew):
        ledger.consume(secret)


# History


def test_usage_by_utc_day(ledger, clock):
    """What each quota of the plan counted, days unused left out, today always there, as long as it is kept."""
    secret = on(ledger, "10/day, 100/month")
    ledger.consume(secret, 3)
    clock.advance(2 * DAY)
    refunded = ledger.consume(secret, 5)
    ledger.refund(refunded, 1)
    days = [date(2026, 3, day) for day in (10, 12, 13)]
    assert ledger.usage("k") == [
        UsageRecord(days[0], "", "requests/day", 3, 7), UsageRecord(days[0], "", "requests/month", 3, 97),
        UsageRecord(days[1], "", "requests/day", 4, 6), UsageRecord(days[1], "", "requests/month", 4, 93),
    ]  # fmt: skip
    clock.advance(DAY)
    assert ledger.usage("k", since="2026-03-11")[2:] == [
        UsageRecord(days[2], "", "requests/day", 0, 10), UsageRecord(days[2], "", "requests/month", 0, 93),
    ]  # fmt: skip
    assert ledger.usage("k", until=days[0]) == ledger.usage("k", since=MORNING, until=MORNING)
    assert len(ledger.usage("k", until=days[0])) == 2
    assert ledger.usage("k", api="b") == []
    clock.advance(35 * DAY)
    ledger.consume(secret)
    assert [record.day for record in ledger.usage("k")][0] > days[1]


def test_a_late_refund_corrects_the_day_it_was_taken(ledger, clock):
    """And what remained at the end of the days since."""
    secret = on(ledger, "100/month")
    decision = ledger.consume(secret, 3)
    for _ in range(2):
        clock.advance(DAY)
        ledger.consume(secret, 2)
    assert ledger.refund(decision, 1) == 1
    assert [(r.day.day, r.used, r.remaining) for r in ledger.usage("k")] == [(10, 2, 98), (11, 2, 96), (12, 2, 94)]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("since", "yesterday"),
        ("until", 5),
        ("since", datetime(2026, 1, 1)),
        ("until", ""),
        ("api", None),
        ("api", []),
    ],
)
def test_days_that_are_none(ledger, field, value):
    """A date, an aware datetime, or a text of one."""
    on(ledger)
    with pytest.raises(InvalidValue) as raised:
        ledger.usage("k", **{field: value})
    assert raised.value.field == field


def test_history_and_remembered_are_kept_as_long_as_told(clock):
    """A store that keeps three days tells of three, and forgets request ids and refunds when it may."""
    ledger = Ledger(MemoryStore(retention=3, request_ttl=60), clock=clock)
    secret = on(ledger)
    for _ in range(6):
        ledger.refund(ledger.consume(secret, request_id="a"))
        ledger.consume(secret, 2)
        clock.advance(DAY)
    assert [record.used for record in ledger.usage("k")] == [2, 2, 2, 0]
    record = ledger.store.rooms["k"].key_entry.record
    assert len(record.refunds) <= 4


# Plans that change


@pytest.mark.parametrize(("before", "after", "then"), [
    ("10/day", "10/day as renamed", [6]), ("10/day", "100/hour", [6]), ("100/hour", "10/day", [6]), ("10/month", "10/day", [6]),
    ("10/day", "10/day, 20/month", [6, 6]), ("10/day", "10/day in Asia/Kolkata", [6]), ("10/day, 20/month", "20/month", [6]),
    ("10/day", "7 tokens/day, 10/day", [0, 6]), ("10/day as x", "10/week as x", [6]), ("10/week as x", "10/hour as x", [6]),
])  # fmt: skip
def test_what_was_used_stays_used(ledger, before, after, then):
    """Whatever becomes of the limit: renamed, another period or zone, added, removed; and back again."""
    secret = on(ledger, before)
    ledger.consume(secret, 5)
    first = [s.used for s in ledger.peek(secret).limits]
    for _ in range(2):
        ledger.replace_plan(UsagePlan("p", after))
        assert used(ledger, secret) == then
        ledger.replace_plan(UsagePlan("p", before))
        assert [s.used for s in ledger.peek(secret).limits] == first


def test_a_period_that_changes_midway_carries(ledger, clock):
    """While the old and the new window overlap, and no longer."""
    secret = on(ledger, "10/day as x")
    ledger.consume(secret, 5)
    clock.advance(HOUR)
    ledger.replace_plan(UsagePlan("p", "10/hour as x"))
    assert ledger.consume(secret).limits[0].used == 6
    ledger.replace_plan(UsagePlan("p", "10/day as x"))
    assert ledger.consume(secret).limits[0].used == 7
    ledger.replace_plan(UsagePlan("p", "10/hour as x"))
    assert ledger.consume(secret).limits[0].used == 8
    clock.advance(HOUR)
    assert ledger.consume(secret).limits[0].used == 1
    ledger.replace_plan(UsagePlan("p", "10/day as x"))
    assert ledger.consume(secret).limits[0].used == 10


def test_a_throttle_that_changes_refills_nothing(ledger):
    """Its level converts, rounded up, and another plan's throttle begins where this one stands."""
    secret = on(ledger, "3/s burst 4")
    ledger.consume(secret, 3)
    ledger.replace_plan(UsagePlan("p", "2/s burst 4"))
    assert ledger.consume(secret).limits[0].used == 4
    ledger.replace_plan(UsagePlan("p", "1/minute burst 4 as slow"))
    assert ledger.consume(secret).violated == ("slow",)
    ledger.replace_plan(UsagePlan("p", "3/s burst 4"))
    assert not ledger.consume(secret)


# Memory


def test_dead_windows_are_forgotten_behind_a_floor(clock):
    """Records of keys that are used no more go, two windows late; a call from before then is an error, not a grant."""
    ledger = Ledger(MemoryStore(stripes=1, retention=0), clock=clock)
    old, new = on(ledger, key="old"), on(ledger, key="new")
    ledger.consume(old, 10)
    clock.advance(10 * DAY)
    for _ in range(4):
        ledger.consume(new)
    assert ledger.store.rooms["old"].key_entry.record is None
    assert ledger.consume(old, 10)
    clock.advance(-9 * DAY)
    for secret in (old, new):
        with pytest.raises(ClockSkew):
            ledger.consume(secret)
    third = on(ledger, key="third")
    clock.set(MORNING)
    with pytest.raises(ClockSkew) as raised:
        ledger.consume(third)
    assert raised.value.seen == ledger.store._stripes[0].floor


# Stores that fail, and async


class Failing(MemoryStore):
    """Fails as told."""

    def __init__(self, error):
        super().__init__()
        self.error = error

    def apply(self, request):
        if self.error is not None:
            raise self.error
        return super().apply(request)


@pytest.mark.parametrize("error", [StoreBusy("contended"), StoreUnavailable("gone")])
@pytest.mark.parametrize(("choice", "allowed"), [("deny", False), ("allow", True)])
def test_deciding_without_the_store_is_the_caller_s_choice(error, choice, allowed):
    """The decision says that it was taken; without a choice the error is raised; what is no decision always raises."""
    store = Failing(None)
    on(Ledger(store))
    store.error = error
    ledger = Ledger(store, on_unavailable=choice)
    for decision in (ledger.consume("x" * 20), ledger.peek("x" * 20), ledger.reserve("x" * 20, 1, ttl=HOUR).decision):
        assert (bool(decision), decision.reason) == (allowed, Reason.STORE_UNAVAILABLE)
        assert (decision.status, decision.limits, decision.key) == (200 if allowed else 503, (), None)
    with pytest.raises(type(error)):
        Ledger(store).consume("x" * 20)
    with pytest.raises(type(error)):
        ledger.usage("k")
    assert ledger.refund(ledger.consume("x" * 20)) == 0


def test_a_reservation_that_was_allowed_without_the_store_can_be_settled():
    """There is nothing to commit or cancel; leaving its block, which is where the work was done, is no error."""
    ledger = Ledger(Failing(StoreUnavailable("gone")), on_unavailable="allow")
    with ledger.reserve("x" * 20, 5, ttl=HOUR) as held:
        assert held
    with ledger.reserve("x" * 20, 5, ttl=HOUR) as held:
        assert held.commit(3).reason is Reason.STORE_UNAVAILABLE
    with pytest.raises(InvalidCost):
        ledger.reserve("x" * 20, 5, ttl=HOUR).commit(-1)


def test_async_is_the_same_with_await(clock):
    """Every method, its context manager, and a reservation's."""

    async def play():
        async with AsyncLedger(clock=clock) as ledger:
            await ledger.add_plan(UsagePlan("p", "10/day"))
            key, secret = await ledger.issue_key("k", "p", id="k")
            assert (await ledger.consume(secret, 2)).limits[0].used == 2
            assert (await ledger.consume(None)).reason is Reason.MISSING_KEY
            async with await ledger.reserve(secret, 3, ttl=HOUR) as held:
                assert (await ledger.peek(secret)).limits[0].used == 6
            with pytest.raises(ReservationClosed):
                await held.commit()
            async with await ledger.reserve(secret, 3, ttl=HOUR) as held:
                assert (await held.commit(1)).limits[0].used == 3
            with pytest.raises(NotAllowed):
                await ledger.require(secret, 9)
            return [record.used for record in await ledger.usage(key)]

    assert asyncio.run(play()) == [3]


@pytest.mark.parametrize(("choice", "allowed"), [("deny", False), ("allow", True)])
def test_async_without_the_store(choice, allowed):
    """As the sync ledger decides; and a store that blocks is asked in a thread."""
    store = Failing(StoreUnavailable("gone"))

    async def play():
        decision = await AsyncLedger(store, on_unavailable=choice).consume("x" * 20)
        with pytest.raises(StoreUnavailable):
            await AsyncLedger(store).consume("x" * 20)
        store.error, store.blocking = None, True
        unknown = await AsyncLedger(store).consume("x" * 20)
        return bool(decision), decision.reason, unknown.reason

    assert asyncio.run(play()) == (allowed, Reason.STORE_UNAVAILABLE, Reason.UNKNOWN_KEY)


def test_a_closed_ledger_closes_its_store(clock):
    """As a context manager, once or twice."""
    closed = []

    class Closing(MemoryStore):
        def close(self):
            closed.append(self)

    with Ledger(Closing(), clock=clock) as ledger:
        pass
    ledger.close()
    assert closed == [ledger.store] * 2


def test_throttles_of_one_plan_in_several_units(ledger, clock):
    """Each drains by itself, and a call that fits one and not the other takes from none."""
    secret = on(ledger, [Throttle(1, burst=2), Throttle(10, burst=50, unit="tokens", name="tokens")])
    assert ledger.consume(secret, {"requests": 1, "tokens": 45})
    assert ledger.consume(secret, {"requests": 1, "tokens": 6}).violated == ("tokens",)
    assert ledger.consume(secret, 1)
    clock.advance(1_000_000)
    assert [s.used for s in ledger.peek(secret, {"tokens": 1}).limits] == [1, 36]


def test_every_error_is_one_of_ours(ledger):
    """One root, and a frozen world: nothing a ledger hands out can be changed."""
    secret = on(ledger)
    decision = ledger.consume(secret)
    assert issubclass(NotAllowed, QuotaError)
    for thing, field in ((decision.key, "enabled"), (decision.plan, "limits"), (decision.limits[0], "used")):
        with pytest.raises(attrs.exceptions.FrozenInstanceError):
            setattr(thing, field, None)

"""Calls in flight on every store: never one above the limit, whatever clocks say; spent, held and given back as told."""

import asyncio
import logging
from datetime import timedelta

import pytest

from every_store import ALL, EXACT, key_on, run_threads
from quota import (
    Concurrency,
    InvalidCost,
    InvalidValue,
    ManualClock,
    Reason,
    ReservationClosed,
    StoreUnavailable,
    UsagePlan,
    system_clock,
)
from quota.clock import DAY_US

START = 1_773_144_000_000_000  # 2026-03-10 12:00 UTC
SECOND = timedelta(seconds=1)


def over(*kinds):
    """The test once for each of these kinds of store."""
    return pytest.mark.parametrize("stores", kinds, indirect=True)


def used(ledger, limit=0):
    """What a limit of the key counts."""
    return ledger.status("k")[limit].used


@over(*ALL)
def test_never_more_in_flight_than_the_limit(stores):
    """By a reservation or a call that keeps its slot; a plain call needs a free one and keeps none."""
    clock = ManualClock(START)
    ledger, _, secret = stores.with_key(clock, "2 concurrent, 100/day")
    assert [bool(ledger.consume(secret)) for _ in range(3)] == [True] * 3
    held = ledger.reserve(secret, 5, ttl=10 * SECOND)
    kept = ledger.consume(secret, keep_slot=4 * SECOND)
    assert used(ledger) == 2
    assert kept.slot.id in [one.id for one in ledger.list_reservations("k")]
    for refused in (ledger.consume(secret), ledger.reserve(secret, 1, ttl=1).decision, ledger.peek(secret)):
        assert (refused.reason, refused.violated, refused.status) == (
            Reason.CONCURRENCY_EXCEEDED, ("concurrency",), 429,
        )  # fmt: skip
        assert (refused.retry_after, refused.headers()["Retry-After"]) == (1, "1")
        assert refused.retry_at == kept.slot.expires_at
        assert refused.headers()["RateLimit"].startswith('"concurrency";r=0, ')
    assert 'q=2;qu="concurrent-requests"' in refused.headers()["RateLimit-Policy"]
    assert used(ledger, 1) == 3 + 5 + 1
    kept.slot.cancel()
    assert used(ledger), used(ledger, 1) == (1, 9)  # what it was charged stays charged
    with pytest.raises(ReservationClosed):
        kept.slot.cancel()
    held.commit(2)
    assert (used(ledger), used(ledger, 1)) == (0, 6)


@over(*ALL)
@pytest.mark.parametrize("later", [10, DAY_US + 10, 3 * DAY_US])
def test_what_lapsed_is_not_held_longer(stores, later):
    """Nor where it lapsed so long ago that this very call forgets it."""
    clock = ManualClock(START)
    ledger, key, secret = stores.with_key(clock, "100/week")
    held = ledger.reserve(secret, 5, ttl=10)
    clock.advance(later)
    with pytest.raises(ReservationClosed):
        held.extend(10)
    assert ledger.status(key)[0].used == 0


@over(*ALL)
def test_a_slot_lapses_at_its_end_and_stays_so(stores):
    """To the microsecond by a ManualClock; what was used after that is recorded, and takes no slot."""
    clock = ManualClock(START)
    ledger, _, secret = stores.with_key(clock, "1 concurrent, 100/day")
    held = ledger.reserve(secret, 5, ttl=10)
    clock.advance(9)
    assert not ledger.consume(secret)
    held.extend(10)
    held.extend(1)  # never earlier than it was
    clock.advance(9)
    assert not ledger.consume(secret)
    clock.advance(1)
    other = ledger.reserve(secret, 1, ttl=10)
    assert other
    with pytest.raises(ReservationClosed):
        held.extend(10)
    held.spend(3)
    held.commit(4)
    assert (used(ledger), used(ledger, 1)) == (1, 5)


@over(*ALL)
def test_spent_held_and_given_back_are_what_was_taken(stores):
    """After each step; a cancel gives back what was not spent, a commit less than that is refused."""
    ledger, _, secret = stores.with_key(ManualClock(START), "100/day")
    held = ledger.reserve(secret, 10, ttl=SECOND)
    for spent, rest, counted in ((3, 7, 10), (4, 3, 10), (5, 0, 12)):
        held.spend(spent)
        assert (held.held.get("requests", 0), used(ledger)) == (rest, counted)
    with pytest.raises(InvalidCost, match="at least the 12 requests that were spent"):
        held.commit(11)
    decision = held.commit(20)
    assert (decision.cost, used(ledger)) == (20, 20)
    assert (ledger.refund(decision), used(ledger)) == (20, 0)
    cancelled = ledger.reserve(secret, 10, ttl=SECOND)
    cancelled.spend(4)
    cancelled.cancel()
    assert used(ledger) == 4


@over(*EXACT)
def test_another_process_settles_what_it_finds(stores):
    """By the reservation's id; one that is closed is not found."""
    clock = ManualClock(START)
    ledger, _, secret = stores.with_key(clock, "1 concurrent, 100/day")
    held = ledger.reserve(secret, 10, ttl=SECOND)
    held.spend(2)
    there = stores.ledger(clock, beside=ledger)
    found = there.reservation(held.id)
    assert (found.held, found.spent, found.key) == ({"requests": 8}, {"requests": 2}, "k")
    found.extend(60 * SECOND)
    clock.advance(2 * SECOND)
    assert [one.expires_at for one in ledger.list_reservations("k")] == [found.expires_at]
    found.commit(3)
    assert (ledger.list_reservations("k"), used(ledger, 1)) == ([], 3)
    with pytest.raises(ReservationClosed):
        ledger.reservation(held.id)
    with pytest.raises(InvalidValue, match="the id of a reservation"):
        ledger.reservation("nothing")


@over("sqlite", "redis", "postgres", "awaited redis")
def test_no_caller_s_clock_frees_a_slot(stores):
    """A process that is five seconds ahead sees no slot free before its time, nor holds one any longer."""
    ledger, _, secret = stores.with_key(system_clock, "1 concurrent")
    held = ledger.reserve(secret, 1, ttl=4 * SECOND)
    for apart in (5, -5):
        there = stores.ledger(lambda apart=apart: system_clock() + apart * 1_000_000, beside=ledger)
        assert not there.consume(secret)
        assert not there.reserve(secret, 1, ttl=SECOND)
    held.cancel()
    there.reserve(secret, 1, ttl=1)
    assert ledger.reserve(secret, 1, ttl=SECOND)  # which lapsed a microsecond later, though its maker is behind


@over(*EXACT)
def test_a_lowered_limit_evicts_nobody(stores):
    """And admits nobody until there is room; an override and a route's own limit count like the plan's."""
    ledger, _, secret = stores.with_key(
        ManualClock(START), "3 concurrent", routes={"r": [Concurrency(1, name="one at a time")]}
    )
    held = [ledger.reserve(secret, 1, ttl=SECOND, route=route) for route in (None, "r", None)]
    assert all(held)
    ledger.override_limit("k", "concurrency", 2)
    held[0].cancel()
    assert not ledger.consume(secret)
    held[2].commit()
    assert ledger.consume(secret)
    refused = ledger.consume(secret, route="r")
    assert refused.violated == ("one at a time",)
    held[1].cancel()
    assert ledger.consume(secret, route="r")
    ledger.replace_plan(UsagePlan("p", "0 concurrent"))
    ledger.override_limit("k", "concurrency", None)
    closed = ledger.consume(secret)
    assert (closed.reason, closed.retry_at) == (Reason.CONCURRENCY_EXCEEDED, None)


@over(*EXACT)
def test_an_account_s_keys_share_its_slots(stores):
    """A slot by account is one, whoever's call it is."""
    ledger = stores.ledger(ManualClock(START))
    ledger.add_plan(UsagePlan("p", "2 concurrent by account"))
    secrets = [ledger.issue_key(name, "p", id=name, account="team").secret for name in "kl"]
    held = [ledger.reserve(secret, 1, ttl=SECOND) for secret in secrets]
    assert [bool(ledger.consume(secret)) for secret in secrets] == [False, False]
    assert {one.id for one in ledger.list_reservations("team")} == {one.id for one in held}
    held[0].cancel()
    assert ledger.consume(secrets[1])


@over("memory", "sqlite", "redis", "postgres")
def test_threads_never_see_a_slot_too_many(stores):
    """Eight of them, on two ledgers where the store is shared."""
    ledger, key, _ = stores.with_key(system_clock, "5 concurrent")
    there = ledger if stores.kind == "memory" else stores.ledger(system_clock, beside=ledger)
    inside, most = [], []

    def calls(mine):
        for _ in range(12):
            held = mine.reserve(key, 1, ttl=60 * SECOND)
            if held:
                inside.append(1)
                most.append(len(inside))
                inside.pop()
                held.commit()

    run_threads([lambda mine=mine: calls(mine) for mine in (ledger, there) * 4])
    assert 1 <= max(most) <= 5
    assert used(ledger) == 0


@over("memory", "sqlite", "redis", "postgres")
def test_a_repeated_settlement_counts_once(stores, monkeypatch):
    """Where the answer was lost: of a reservation with a request id."""
    ledger, _, secret = stores.with_key(ManualClock(START), "100/day")
    held = ledger.reserve(secret, 10, ttl=SECOND, request_id="r")
    apply, lost = ledger.store.apply, []

    def losing(request):
        answer = apply(request)
        if request.op in ("spend", "extend", "commit", "cancel") and request.op not in lost:
            lost.append(request.op)
            raise StoreUnavailable("the answer was lost")
        return answer

    monkeypatch.setattr(ledger.store, "apply", losing)
    for ask in (lambda: held.spend(3), lambda: held.extend(2 * SECOND)):
        with pytest.raises(StoreUnavailable):
            ask()
        ask()
    assert (used(ledger), held.spent) == (10, {"requests": 3})
    held.spend(3)
    assert held.spent == {"requests": 6}
    monkeypatch.setattr("quota.ledger.reservations.again.Thread.put", lambda *_: None)
    with pytest.raises(StoreUnavailable):
        held.commit(8)
    assert (held.commit(8).replayed, used(ledger)) == (True, 8)
    with pytest.raises(ReservationClosed):
        held.commit(8)
    other = ledger.reserve(secret, 10, ttl=SECOND, request_id="s")
    with pytest.raises(StoreUnavailable):
        other.cancel()
    other.cancel()
    assert used(ledger) == 8


@over("memory", "sqlite", "redis", "postgres")
def test_a_repeated_call_has_its_slot_though_its_plan_has_none_any_more(stores):
    """Whoever asks again, as the answer was lost, can give it back."""
    ledger, _, secret = stores.with_key(ManualClock(START), "1 concurrent, 100/day")
    plan = ledger.get_plan(ledger.list_plans()[0])
    kept = ledger.consume(secret, request_id="r", keep_slot=60 * SECOND).slot
    ledger.replace_plan(UsagePlan(plan.id, "100/day"))
    assert [ledger.consume(secret, request_id=name).allowed for name in "st"] == [True, True]
    again = ledger.consume(secret, request_id="r", keep_slot=60 * SECOND)
    assert (again.replayed, again.slot.id, again.slot.expires_at) == (True, kept.id, kept.expires_at)
    again.slot.cancel()
    assert ledger.list_reservations("k") == []


@over("memory", "sqlite", "redis", "postgres")
def test_a_repeated_call_tells_its_route_by_the_plan_of_now(stores):
    """As it tells the key and the plan."""
    ledger, _, secret = stores.with_key(ManualClock(START), "100/day")
    plan = ledger.get_plan(ledger.list_plans()[0])
    assert ledger.consume(secret, route="/x", request_id="r").route is None
    ledger.replace_plan(UsagePlan(plan.id, "100/day", routes={"/x": "50/day"}))
    assert [ledger.consume(secret, route="/x", request_id=name).route for name in "str"] == ["/x"] * 3


@over("memory", "sqlite", "redis", "postgres")
def test_a_settlement_is_repeated_as_long_as_its_request_is_remembered(stores):
    """A day, and no longer, whether or not a store forgot it by then."""
    clock = ManualClock(START)
    ledger, _, secret = stores.with_key(clock, "100/day")
    held, again, late = (ledger.reserve(secret, 10, ttl=SECOND, request_id="r") for _ in range(3))
    held.commit(8)
    clock.advance(timedelta(days=1, microseconds=-1))
    assert again.commit(8).replayed
    clock.advance(timedelta(microseconds=1))
    with pytest.raises(ReservationClosed):
        late.commit(8)


@over("memory", "sqlite", "redis", "postgres")
def test_what_failed_is_told_and_settled_in_the_background(stores, monkeypatch, caplog):
    """As soon as the store is back: what was used is not free because it was away for a moment."""
    ledger, _, secret = stores.with_key(ManualClock(START), "1 concurrent, 100/day")
    held = ledger.reserve(secret, 10, ttl=60 * SECOND)
    apply, away = ledger.store.apply, [True]

    def gone(request):
        if away[0] and request.op == "commit":
            raise StoreUnavailable("away")
        return apply(request)

    monkeypatch.setattr(ledger.store, "apply", gone)
    with caplog.at_level(logging.WARNING, "quota.ledger"), pytest.raises(StoreUnavailable):
        held.commit(7)
    (record,) = caplog.records
    told = record.getMessage()
    for part in ("commit of {'requests': 7}", "key 'k'", "account 'k'", repr(held.id), "away"):
        assert part in told
    thread = ledger._again._thread
    away[0] = False
    thread.join(30)
    assert not thread.is_alive()
    assert (used(ledger), used(ledger, 1), held.settled) == (0, 7, True)


@over("sqlite", "redis")
def test_a_ledger_that_is_closed_tries_once_more_and_leaves_no_thread(stores, monkeypatch, caplog):
    """What is left then is told."""
    ledger, _, secret = stores.with_key(ManualClock(START), "100/day")
    held = ledger.reserve(secret, 10, ttl=60 * SECOND)

    def gone(request):
        raise StoreUnavailable("away")

    monkeypatch.setattr(ledger.store, "apply", gone)
    with pytest.raises(StoreUnavailable):
        held.cancel()
    thread = ledger._again._thread
    ledger.close()
    assert not thread.is_alive()
    assert f"reservation {held.id!r} is left unsettled: cancel" in [one.getMessage() for one in caplog.records]


def test_a_plan_without_slots_keeps_its_fast_path():
    """A call that may keep a slot is answered as any other, and has none."""
    from quota import AsyncLedger, Ledger

    ledger, key, _ = key_on(Ledger(clock=ManualClock(START)), "10/day")
    asked = []
    apply = ledger.store.apply
    ledger.store.apply = lambda request: asked.append(request) or apply(request)
    assert [ledger.consume(key, keep_slot=SECOND).slot for _ in range(5)] == [None] * 5
    assert len(asked) <= 2
    awaited = AsyncLedger(ledger.store, clock=ledger._clock)
    for wrong in (-1, 0, True, 1.5, "1", [1], timedelta(0), timedelta(-1), timedelta(367), 367 * 86_400 * SECOND):
        for call in (ledger.consume, lambda *args, **more: asyncio.run(awaited.consume(*args, **more))):
            with pytest.raises(InvalidValue, match="keep_slot"):
                call(key, keep_slot=wrong)
    assert ledger.status(key)[0].used == 5
    assert ledger.consume(key, keep_slot=timedelta(366))


@over("leased sqlite", "leased redis", "leased postgres")
def test_a_plan_with_slots_is_not_leased(stores):
    """Each call asks the store, however busy the key is."""
    ledger, key, _ = stores.with_key(ManualClock(START), "5 concurrent, 1000/day")
    for _ in range(40):
        assert ledger.consume(key)
    assert ledger.store.outstanding() == {}
    assert used(ledger, 1) == 40

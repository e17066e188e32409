"""A store that is away: after three calls in a row that could not ask, everybody is answered at once, and one call asks."""

import asyncio
import inspect
import logging
import pickle
import threading
import time

import pytest

from interleavings import plant
from quota import AsyncLedger, ClockSkew, InvalidValue, Ledger, Reason, StoreBusy, StoreUnavailable, UsagePlan
from quota.ledger import breaker as module
from quota.ledger.breaker import Breaker
from quota.ledger.reservations import again
from quota.stores.leased import LeasedStore
from quota.stores.memory import MemoryStore

AWAY = StoreUnavailable("gone; the outcome is unknown")


class Shaky:
    """A store that passes calls on to one in memory, but raises what it is told to."""

    exact_across_failover = True

    def __init__(self):
        self.within, self.error, self.asked = MemoryStore(), None, 0

    def apply(self, request):
        self.asked += 1
        if self.error is not None:
            raise self.error
        return self.within.apply(request)

    def __getattr__(self, name):
        return getattr(self.within, name)

    @property
    def rooms(self):
        return {}


@pytest.fixture
def now(monkeypatch):
    """Seconds by the monotonic clock, moved by hand."""
    told = [1000.0]
    monkeypatch.setattr(module, "monotonic", lambda: told[0])
    return told


def made(kind="sync", **options):
    """A ledger over a shaky store, its store, and a call of it."""
    store = Shaky()
    if kind == "sync":
        ledger = Ledger(store, **options)
        ledger.add_plan(UsagePlan("p", "100/day"))
        secret = ledger.issue_key("k", "p").secret
        return store, lambda op="consume", **more: getattr(ledger, op)(secret, 1, **more)
    ledger = AsyncLedger(store, **options)
    asyncio.run(ledger.add_plan(UsagePlan("p", "100/day")))
    secret = asyncio.run(ledger.issue_key("k", "p")).secret
    return store, lambda op="consume", **more: asyncio.run(getattr(ledger, op)(secret, 1, **more))


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_after_three_calls_one_in_a_second_asks(kind, now, caplog):
    """Whatever was asked: consume, peek and reserve are answered at once; when it is back, the next that asks finds out."""
    store, call = made(kind, on_unavailable="deny")
    store.error = AWAY
    for op, more in [("consume", {}), ("peek", {}), ("reserve", {"ttl": 10**6})] * 20:
        answer = call(op, **more)
        assert (answer.decision if op == "reserve" else answer).reason is Reason.STORE_UNAVAILABLE
        assert not answer
    assert store.asked == 3
    now[0] += 1.0
    assert [call().reason for _ in range(5)] == [Reason.STORE_UNAVAILABLE] * 5
    assert store.asked == 4
    store.error = None
    assert call().reason is Reason.STORE_UNAVAILABLE
    now[0] += 1.0
    decision = call()
    assert (decision.reason, decision.limits[0].used) == (Reason.OK, 1)
    assert [call().limits[0].used for _ in range(3)] == [2, 3, 4]
    told = [record.getMessage() for record in caplog.records if record.name == module.__package__]
    assert [text.split(",")[0] for text in told] == ["the store is away", "the store answers again"]


def test_raise_and_allow(now):
    """As ``on_unavailable`` says: an error that tells that nothing was charged, or an admission that asked nobody."""
    store, call = made()
    store.error = AWAY
    for _ in range(3):
        with pytest.raises(StoreUnavailable, match="outcome is unknown"):
            call()
    with pytest.raises(
        StoreUnavailable, match=r"was away and is asked again every 1\.0 s; nothing was charged"
    ) as caught:
        call()
    assert (caught.value.asked, pickle.loads(pickle.dumps(caught.value)).asked) == (False, False)
    assert store.asked == 3
    store, call = made(on_unavailable="allow")
    store.error = AWAY
    assert all(call() for _ in range(50))
    assert store.asked == 3


@pytest.mark.parametrize(
    "error",
    [StoreBusy("busy"), ClockSkew(1, 2), StoreUnavailable("a record is damaged", reached=True)],
    ids=["busy", "skew", "reached"],
)
def test_what_is_no_absence(error, now):
    """A store that is busy, a clock that is wrong and a record that is damaged are each call's own trouble."""
    store, call = made()
    store.error = error
    for _ in range(20):
        with pytest.raises(type(error)):
            call()
    assert store.asked == 20


def test_in_a_row(now):
    """An answer in between begins the count anew; a busy store, which says neither, does not."""
    store, call = made(on_unavailable="deny")
    for error in (AWAY, AWAY, None, AWAY, AWAY, StoreBusy("busy")):
        store.error = error
        call()
    store.error = None
    assert call().reason is Reason.OK
    for error in (AWAY, StoreBusy("busy"), AWAY, AWAY):
        store.error = error
        call()
    asked = store.asked
    call()
    assert store.asked == asked


def test_what_settles_and_administers_always_asks(now):
    """A commit and a refund are tried though the store is taken to be away: what they settle is lost otherwise."""
    store, call = made(on_unavailable="deny")
    held = call("reserve", ttl=10**9)
    store.error = AWAY
    for _ in range(4):
        call()
    store.error = None
    assert held.commit().limits[0].used == 1


@pytest.mark.parametrize("kind", [Ledger, AsyncLedger])
def test_what_a_middleware_settles_waits_for_no_store_that_is_away(kind, now, monkeypatch):
    """Its failures count, and one call in a second asks; what is not settled is tried again all the same."""
    monkeypatch.setattr(again, "_SHORTEST", 60)
    store = Shaky()
    ledger = kind(store, on_unavailable="deny")

    async def do(answer):
        return await answer if inspect.isawaitable(answer) else answer

    async def asked(ask, *args):
        before = store.asked
        with pytest.raises(StoreUnavailable):
            await do(ask(*args))
        return store.asked - before

    async def act():
        await do(ledger.add_plan(UsagePlan("p", "100/day")))
        secret = (await do(ledger.issue_key("k", "p", id="k"))).secret
        held = [await do(ledger.reserve(secret, 1, ttl=10**9)) for _ in range(6)]
        store.error = AWAY
        for one in held:
            one._patient = False
        assert [await asked(one.cancel) for one in held[:5]] == [1, 1, 1, 0, 0]
        last = held[5]
        assert (await asked(last.extend, 10**9), await asked(last.spend, 1)) == (0, 1)
        now[0] += 1
        assert (await asked(last.extend, 10**9), await asked(last.commit)) == (1, 0)
        last._patient = True
        assert await asked(last.commit) == 1
        store.error = None
        now[0] += 1
        last._patient = False
        await do(last.extend(10**9))
        assert not ledger._breaker.open
        await do(last.commit())
        await do(ledger._again.close())
        assert (await do(ledger.status("k")))[0].used == 1 + 5 * (kind is AsyncLedger)

    asyncio.run(act())


def test_threads_do_not_pile_up(monkeypatch):
    """Behind a server that hangs one thread waits; fifty calls are answered meanwhile."""
    store, call = made(on_unavailable="allow", probe_every=0.001)
    store.error = AWAY
    for _ in range(3):
        call()
    inside, go = threading.Event(), threading.Event()

    def hang(request):
        inside.set()
        assert go.wait(30)
        raise AWAY

    monkeypatch.setattr(store, "apply", hang)
    prober = threading.Thread(target=lambda: [call() for _ in iter(lambda: inside.is_set(), True)])
    prober.start()
    assert inside.wait(30)
    began = time.perf_counter()
    for _ in range(50):
        assert call().reason is Reason.STORE_UNAVAILABLE
    took = time.perf_counter() - began
    go.set()
    prober.join()
    assert took < 0.25


def test_a_call_that_is_interrupted_while_it_asks_lets_the_next_one_ask(now):
    """Also one that a forked child never had: after a minute it is taken to be gone."""
    store, call = made(on_unavailable="deny")
    store.error = AWAY
    for _ in range(3):
        call()
    now[0] += 1
    store.error = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        call()
    store.error = None
    assert call()
    breaker = Breaker(1.0)
    for _ in range(3):
        breaker.leave(AWAY, probe=False)
    now[0] += 1
    assert breaker.enter()
    now[0] += 59
    with pytest.raises(StoreUnavailable):
        breaker.enter()
    now[0] += 1
    assert breaker.enter()


def test_a_store_that_leases_goes_on_with_what_it_holds(now):
    """What is held is spent while the store behind is away, and only those that would ask it are answered at once."""
    store = Shaky()
    ledger = Ledger(LeasedStore(store, share=0.5), on_unavailable="deny")
    ledger.add_plan(UsagePlan("p", "10000/day"))
    secret, other = (ledger.issue_key(name, "p").secret for name in "kl")
    for _ in range(40):
        assert ledger.consume(secret)
    store.error = AWAY
    asked = store.asked
    assert [ledger.consume(other).reason for _ in range(10)] == [Reason.STORE_UNAVAILABLE] * 10
    assert store.asked <= asked + 4
    assert ledger.consume(secret)
    store.error = None
    now[0] += 1
    assert ledger.consume(other)


@pytest.mark.parametrize("every", [0, -1, True, "1", None, float("nan")])
def test_probe_every(every):
    """Seconds, or an error that says so."""
    for kind in (Ledger, AsyncLedger):
        with pytest.raises(InvalidValue, match="probe_every"):
            kind(probe_every=every)


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("leave", "self._failures >= _IN_A_ROW", "self._failures > _IN_A_ROW"),
        ("leave", "not error.reached", "True"),
        ("leave", "isinstance(error, StoreBusy) or", "False or"),
        ("leave", "self._failures, self._asks_at = 0, None", "self._asks_at = None"),
        ("leave", 'said = "" if self.open else', "said ="),
        ("enter", "busy or now < self._asks_at", "now < self._asks_at"),
        ("enter", "busy or now < self._asks_at", "busy"),
        ("leave", "self._probe = None", "pass"),
    ],
)
def test_planted(monkeypatch, caplog, name, old, new):
    """One call too many or too few, errors that are no absence, and calls that pile up, are seen."""

    def well():
        told = [1000.0]
        with monkeypatch.context() as patch:
            patch.setattr(module, "monotonic", lambda: told[0])
            caplog.clear()
            try:
                test_after_three_calls_one_in_a_second_asks("sync", told, caplog)
                for error in (StoreBusy("busy"), StoreUnavailable("damaged", reached=True)):
                    test_what_is_no_absence(error, told)
                test_in_a_row(told)
                test_a_call_that_is_interrupted_while_it_asks_lets_the_next_one_ask(told)
            except BaseException:
                return False
        return True

    caplog.set_level(logging.WARNING)
    assert well()
    plant(monkeypatch, Breaker, name, {old: new})
    assert not well()

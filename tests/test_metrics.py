"""``quota.metrics``: what a ledger decides, as Prometheus reads it; nothing in it names a key."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

import paths
from documents import play
from quota import AsyncLedger, InvalidValue, Ledger, ManualClock, NotAllowed, StoreUnavailable, UsagePlan
from quota.metrics import instrument
from quota.operations.headroom import Told
from quota.stores.memory import MemoryStore


@pytest.fixture
def registry():
    return CollectorRegistry()


ORDER = ("plan", "api", "reason", "unit", "operation")


def scraped(registry):
    """What a scrape finds, parsed by the library's own reader: by name and labels."""
    text = generate_latest(registry).decode()
    return {
        (sample.name, *(sample.labels[name] for name in ORDER if name in sample.labels)): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if not sample.name.endswith("_created")
    }


def decisions(registry):
    """The decisions alone, by (plan, api, reason)."""
    return {name[1:]: value for name, value in scraped(registry).items() if name[0] == "quota_decisions_total"}


def with_key(store=None, limits="3/day", **options):
    ledger = Ledger(store, clock=ManualClock(10**15), **options)
    ledger.add_plan(UsagePlan("free", limits))
    return ledger, *ledger.issue_key("ACME", "free", id="acme")


def test_decisions_by_plan_api_and_reason(registry):
    """Each call once, whatever it was told; ``peek`` decides nothing, ``require`` is a ``consume``."""
    ledger, key, secret = with_key()
    ledger.add_plan(UsagePlan("pets", "1/day", api="pets"))
    ledger.associate(key, "pets")
    instrument(ledger, registry)
    for _ in range(4):
        ledger.consume(secret)
    ledger.consume(secret, api="pets")
    ledger.consume("qk_none")
    ledger.consume(None)
    ledger.peek(secret)
    with pytest.raises(NotAllowed):
        ledger.require(secret)
    assert decisions(registry) == {
        ("free", "", "OK"): 3, ("free", "", "QUOTA_EXCEEDED"): 2, ("pets", "pets", "OK"): 1,
        ("", "", "UNKNOWN_KEY"): 1, ("", "", "MISSING_KEY"): 1,
    }  # fmt: skip


def test_an_api_that_nobody_knows_makes_no_series(registry):
    """The name of an api is the caller's word: a thousand of them are one series."""
    ledger, _, secret = with_key()
    instrument(ledger, registry)
    for number in range(1000):
        ledger.consume(secret, api=f"made up {number}")
    assert decisions(registry) == {("", "", "NO_PLAN"): 1000}


def test_units_are_counted_once(registry):
    """By plan and unit: refusals take none, a retry none again, a reservation what was committed of it."""
    ledger, _, secret = with_key(limits="5/day, 1000 tokens/day")
    instrument(ledger, registry)
    ledger.consume(secret, {"requests": 1, "tokens": 100})
    for _ in range(2):
        ledger.consume(secret, 2, request_id="a")
    ledger.consume(secret, 3)  # refused
    held = ledger.reserve(secret, {"tokens": 500}, ttl=1_000_000)
    assert scraped(registry)["quota_units_total", "free", "tokens"] == 100
    held.commit({"tokens": 70})
    ledger.reserve(secret, {"tokens": 500}, ttl=1_000_000).cancel()
    found = scraped(registry)
    assert found["quota_units_total", "free", "tokens"] == 170
    assert found["quota_units_total", "free", "requests"] == 3
    assert found["quota_decisions_total", "free", "", "OK"] == 5


@pytest.mark.parametrize("waits", [False, True], ids=["sync", "awaited"])
def test_a_plain_admission_is_counted_without_its_whole_answer(registry, monkeypatch, waits):
    """Its plan, its units and that it was admitted are known; where the limits stand is nobody's question here."""
    ledger, key, _ = with_key(limits="9/day, 1000 tokens/day")
    ledger = AsyncLedger(ledger.store, clock=ManualClock(10**15)) if waits else ledger
    instrument(ledger, registry)

    async def asked():
        for cost in (1, 1, {"tokens": 5}, {"requests": 2, "tokens": 7}):
            decision = ledger.consume(key, cost)
            yield await decision if waits else decision

    async def kinds():
        found = [type(decision) async for decision in asked()]
        return found[1:]

    monkeypatch.setattr(Told, "_work_out", lambda _: pytest.fail("worked out"))
    assert asyncio.run(kinds()) == [Told] * 3
    found = scraped(registry)
    assert decisions(registry) == {("free", "", "OK"): 4}
    assert found["quota_units_total", "free", "requests"] == 4
    assert found["quota_units_total", "free", "tokens"] == 12


@pytest.mark.parametrize("elsewhere", [False, True], ids=["here", "found"])
def test_what_is_spent_is_counted_as_it_is(registry, elsewhere):
    """Of a commit the rest is; whoever settles it, and whatever else is asked of it."""
    ledger, _, secret = with_key(limits="1000 tokens/day")
    instrument(ledger, registry)
    held = ledger.reserve(secret, {"tokens": 500}, ttl=1_000_000)
    held = ledger.reservation(held.id) if elsewhere else held
    held.spend({"tokens": 20})
    held.extend(2_000_000)
    assert scraped(registry)["quota_units_total", "free", "tokens"] == 20
    held.commit({"tokens": 70})
    assert scraped(registry)["quota_units_total", "free", "tokens"] == 70


def test_a_store_that_cannot_be_asked(registry):
    """Its seconds count, the ledger's answer counts, and a settlement that was not written is told."""
    ledger, _, secret = with_key(on_unavailable="allow")

    def away(request):
        raise StoreUnavailable("the network is down; nothing was charged")

    instrument(ledger, registry)
    held = ledger.reserve(secret, 1, ttl=1_000_000)
    real, vars(ledger.store)["apply"] = ledger.store.apply, away
    with pytest.raises(StoreUnavailable):
        held.commit()
    with pytest.raises(StoreUnavailable):
        held.cancel()
    assert ledger.reserve(secret, 1, ttl=1_000_000)
    vars(ledger.store)["apply"] = real
    held.commit()
    found = scraped(registry)
    assert found[("quota_settlements_failed_total",)] == 2
    assert found["quota_decisions_total", "", "", "STORE_UNAVAILABLE"] == 1
    assert found["quota_units_total", "free", "requests"] == 1


@pytest.mark.parametrize("waits", [False, True], ids=["sync", "awaited"])
def test_what_is_settled_at_last_is_counted(registry, waits):
    """A commit that is tried again in the background counts its units when it is written, and once."""
    plain, key, _ = with_key(limits="1000 tokens/day")
    away = threading.Event()
    real = plain.store.apply

    def apply(request):
        if away.is_set() and request.op == "commit":
            raise StoreUnavailable("gone")
        return real(request)

    plain.store.apply = apply

    async def settle(ledger):
        held = ledger.reserve(key, {"tokens": 500}, ttl=60_000_000)
        held = await held if waits else held
        away.set()
        with pytest.raises(StoreUnavailable):
            answer = held.commit({"tokens": 70})
            await answer
        assert ("quota_units_total", "free", "tokens") not in scraped(registry)
        away.clear()
        while not held.settled:
            await asyncio.sleep(0)

    ledger = AsyncLedger(plain.store) if waits else plain
    instrument(ledger, registry)
    asyncio.run(settle(ledger))
    found = scraped(registry)
    assert (found["quota_units_total", "free", "tokens"], found["quota_settlements_failed_total",]) == (70, 1)


def test_several_ledgers_and_a_second_call(registry):
    """Ledgers of a registry share its figures; what is instrumented twice counts once."""
    store = MemoryStore()
    one, key, _ = with_key(store)
    two = AsyncLedger(store, clock=ManualClock(10**15))
    for _ in range(2):
        instrument(one, registry)
        instrument(two, registry)
    one.consume(key)
    asyncio.run(two.consume(key))

    async def held():
        async with await two.reserve(key, 1, ttl=1_000_000) as reservation:
            await reservation.commit()

    asyncio.run(held())
    found = scraped(registry)
    assert decisions(registry) == {("free", "", "OK"): 3}
    assert found["quota_units_total", "free", "requests"] == 3
    assert found["quota_store_seconds_count", "reserve"] == 1


@pytest.mark.parametrize("keys", [1_000, pytest.param(100_000, marks=pytest.mark.slow)])
def test_the_number_of_series_does_not_grow(registry, keys):
    """So many keys, accounts and routes later there is not one series more."""
    ledger, _, secret = with_key(limits="3/day, 2/month by account")
    instrument(ledger, registry)
    ledger.consume(secret)
    before = scraped(registry).keys()
    for number in range(keys):
        key, _ = ledger.issue_key(f"k{number}", "free", account=f"a{number}")
        ledger.consume(key, route=f"GET /{number}")
    assert scraped(registry).keys() == before
    assert "acme" not in generate_latest(registry).decode().lower()


@pytest.mark.parametrize(("ledger", "of"), [(None, None), (MemoryStore(), None), (Ledger(), "a registry")])
def test_what_is_none_is_refused(ledger, of):
    """Neither a ledger nor a registry is guessed at."""
    with pytest.raises(InvalidValue, match="registry" if of else "ledger"):
        instrument(ledger, of)


def test_nobody_loads_it_unasked():
    """Without ``import quota.metrics`` nothing of prometheus-client is loaded, and methods are the class's own."""
    code = "import sys, quota; l = quota.Ledger(); print('prometheus_client' in sys.modules, 'consume' in vars(l))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False False\n"


def test_the_document_is_true():
    """Every block of docs/metrics.md runs, and what it shows is what comes out."""
    assert play((paths.ROOT / "docs" / "metrics.md").read_text("utf-8"), {"__name__": "docs"}) >= 2


def test_a_store_that_is_away(registry):
    """One while calls are answered without asking, zero when it answers again."""

    class Away(MemoryStore):
        down = False

        def apply(self, request):
            if self.down:
                raise StoreUnavailable("gone")
            return super().apply(request)

    store = Away()
    ledger, _, secret = with_key(store, on_unavailable="deny")
    instrument(ledger, registry)
    assert scraped(registry)["quota_store_away",] == 0
    store.down = True
    for _ in range(3):
        ledger.consume(secret)
    assert scraped(registry)["quota_store_away",] == 1
    store.down = False
    while not ledger.consume(secret):
        pass
    assert scraped(registry)["quota_store_away",] == 0


def test_a_call_that_waits_is_one(registry):
    """However often it is tried: ``acquire`` and ``reserve`` with a timeout."""
    ledger = Ledger()
    ledger.add_plan(UsagePlan("free", "50/s burst 1"))
    _, secret = ledger.issue_key("ACME", "free", id="acme")
    instrument(ledger, registry)
    for _ in range(3):
        assert ledger.acquire(secret, timeout=5)
    with ledger.reserve(secret, 1, ttl=10**6, timeout=5) as held:
        held.commit()
    assert decisions(registry) == {("free", "", "OK"): 4}
    assert scraped(registry)["quota_units_total", "free", "requests"] == 4


def test_a_view_of_a_ledger_is_counted_once(registry):
    """Whichever of the two is instrumented first or again, on one registry and on another."""
    ledger = Ledger()
    ledger.add_plan(UsagePlan("p", "9/day"))
    _, secret = ledger.issue_key("k", "p")
    instrument(ledger, registry)
    instrument(ledger, CollectorRegistry())
    view = ledger.acting("ada")
    instrument(view, registry)
    assert ledger.consume(secret)
    assert view.consume(secret)
    assert registry.get_sample_value("quota_decisions_total", {"plan": "p", "api": "", "reason": "OK"}) == 2

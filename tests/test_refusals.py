"""Refusals are explained by the logger ``quota.decisions``: one record each, so many of a key in a minute; and counted."""

import asyncio
import logging
import subprocess
import sys

import pytest

from every_store import run_threads
from quota import AsyncLedger, InvalidValue, Ledger, ManualClock, NotAllowed, UsagePlan
from quota import refusals as module
from quota.errors import StoreUnavailable
from quota.ledger import waiting
from quota.refusals import PER_MINUTE, most_refused
from quota.stores.leased import LeasedStore
from quota.stores.memory import MemoryStore
from quota.stores.sqlite import SQLiteStore

START = 1_773_144_000_000_000


@pytest.fixture(autouse=True)
def afresh(monkeypatch):
    """As in a process that refused nobody yet."""
    monkeypatch.setattr(module, "_refused", {})
    monkeypatch.setattr(module, "_in_minute", {})


@pytest.fixture
def told(caplog):
    """Records of refusals, of a logger that is on."""
    caplog.set_level(logging.INFO, "quota.decisions")
    return lambda: [record for record in caplog.records if record.name == "quota.decisions"]


@pytest.fixture
def ledger():
    found = Ledger(clock=ManualClock(START))
    found.add_plan(UsagePlan("p", "1/hour", api="pets", routes={"GET /x": "0/day as x"}))
    return found


def test_a_refusal_is_one_record(ledger, told, caplog):
    """With who, what, why and when to come back; an admission is none, and no secret is said."""
    _, secret = ledger.issue_key("k", "p", id="k", account="team")
    assert ledger.consume(secret, api="pets")
    assert not ledger.consume(secret, api="pets")
    assert not ledger.reserve(secret, 1, ttl=1000, api="pets", route="GET /x")
    assert not ledger.consume("not a secret that anybody has")
    first, second, third = told()
    assert (first.key, first.account, first.api, first.route, first.reason, first.violated, first.retry_at) == (
        "k", "team", "pets", None, "QUOTA_EXCEEDED", ["requests/hour"], "2026-03-10T13:00:00+00:00",
    )  # fmt: skip
    assert (second.route, second.violated) == ("GET /x", ["requests/hour", "x"])
    assert (third.key, third.reason) == (None, "UNKNOWN_KEY")
    assert secret not in caplog.text


@pytest.mark.parametrize("awaited", [False, True])
@pytest.mark.parametrize("limits", ["1/hour", "1/hour, 5 tokens/hour", "1/hour, 1 concurrent"])
@pytest.mark.parametrize("kind", ["memory", "sqlite", "leased"])
def test_every_way_of_being_refused_is_told_once(told, tmp_path, kind, limits, awaited):
    """The plainest call, one of several meters, a named one, by rule, held, waited for; looks and admissions are none."""
    store = MemoryStore() if kind == "memory" else SQLiteStore(tmp_path / "usage.db", durability="normal")
    store = LeasedStore(store) if kind == "leased" else store
    ledger = (AsyncLedger if awaited else Ledger)(store, clock=ManualClock(START))

    async def asked(answer):
        return await answer if awaited else answer

    async def act():
        await asked(ledger.add_plan(UsagePlan("p", limits)))
        key, secret = await asked(ledger.issue_key("k", "p", id="k"))
        bare, _ = await asked(ledger.issue_key("l", id="l"))
        assert await asked(ledger.consume(secret))
        assert not told()
        ways = [
            lambda: ledger.consume(secret),
            lambda: ledger.consume(key, 1),
            lambda: ledger.consume(secret, {"requests": 1}, request_id="r"),
            lambda: ledger.consume(secret, request_id="r"),
            lambda: ledger.consume(secret, keep_slot=1000),
            lambda: ledger.consume(key, route="GET /"),
            lambda: ledger.consume(bare),
            lambda: ledger.consume(bare, request_id="r"),
            lambda: ledger.consume(None),
            lambda: ledger.consume("nobody's"),
            lambda: ledger.consume("qk_00000000000000000000000000000000zz"),
            lambda: ledger.consume("nobody's", api="pets"),
            lambda: ledger.reserve(secret, 1, ttl=1000),
            lambda: ledger.reserve(secret, 1, ttl=1000, timeout=1),
            lambda: ledger.acquire(secret, timeout=1),
            lambda: ledger.acquire(None, timeout=1),
        ]
        for number, way in enumerate(ways, 1):
            assert not await asked(way())
            assert len(told()) == number, number
        with pytest.raises(NotAllowed):
            await asked(ledger.require(secret))
        assert len(told()) == len(ways) + 1
        assert not await asked(ledger.peek(secret))
        assert not await asked(ledger.peek(None))
        assert not await asked(ledger.peek(bare))
        assert len(told()) == len(ways) + 1
        await ledger.aclose() if awaited else ledger.close()

    asyncio.run(act())


def test_a_call_that_waits_is_told_by_its_last_answer(told, monkeypatch):
    """However often it was tried; what others are refused meanwhile is told as ever."""
    clock = ManualClock(START)
    ledger = Ledger(clock=clock)
    ledger.add_plan(UsagePlan("p", "1/s"))
    key, _ = ledger.issue_key("k", "p", id="k")
    other, _ = ledger.issue_key("l", id="l")
    assert ledger.consume(key)
    tries = []

    def others(_):
        if not tries:
            run_threads([lambda: ledger.consume(other)])
            clock.advance(1_000_000)
            assert ledger.consume(key)  # faster than who waits
        tries.append(len(told()))
        clock.advance(500_000)

    monkeypatch.setattr(waiting, "pause", others)
    assert ledger.acquire(key, timeout=9)
    assert tries == [1, 1]
    assert [record.key for record in told()] == ["l"]


def test_a_busy_key_is_told_so_often_in_a_minute(ledger, told):
    """The rest is a count, as the next minute begins; others have their own."""
    ledger.issue_key("k", id="k")
    ledger.issue_key("l", id="l")
    keys = {key.id: key for key in ledger.list_keys()}
    for _ in range(PER_MINUTE + 5):
        ledger.consume(keys["k"])
    ledger.consume(keys["l"])
    assert [record.key for record in told()] == ["k"] * PER_MINUTE + ["l"]
    ledger._clock.advance(60_000_000)
    ledger.consume(keys["l"])
    assert [(record.key, getattr(record, "left_out", 0)) for record in told()[-2:]] == [("k", 5), ("l", 0)]
    assert most_refused() == [("k", PER_MINUTE + 5), ("l", 2)]
    assert most_refused(1) == [("k", PER_MINUTE + 5)]
    for count in (0, True, "1"):
        with pytest.raises(InvalidValue, match="count"):
            most_refused(count)


def test_a_thread_that_is_late_begins_no_minute_anew(told):
    """Records are bounded though calls of two minutes come by turns, as at the end of one."""
    clock = ManualClock(START)
    ledger = Ledger(clock=clock)
    ledger.add_plan(UsagePlan("p", "0/day"))
    _, secret = ledger.issue_key("k", "p")
    for number in range(4 * PER_MINUTE):
        clock.set(START + 60_000_000 * (1 - number % 2))
        assert not ledger.consume(secret)
    assert len(told()) == PER_MINUTE


def test_counts_are_bounded(ledger, told, monkeypatch):
    """Those that were refused least are forgotten."""
    monkeypatch.setattr(module, "_MOST_NAMES", 4)
    for number in range(9):
        key, _ = ledger.issue_key("k", id=f"k{number}")
        for _ in range(3 if number < 2 else 1):
            ledger.consume(key)
    assert len(module._refused) <= 4
    assert most_refused(2) == [("k1", 3), ("k0", 3)]
    assert len(told()) == 13


def test_the_logger_may_be_turned_on_and_off(caplog):
    """At any time, by any of logging's own ways: the next refusal knows, and while it is off nothing is counted."""
    ledger = Ledger()
    ledger.add_plan(UsagePlan("p", "0/day"))
    key, _ = ledger.issue_key("k", "p", id="k")
    log, root = logging.getLogger("quota.decisions"), logging.getLogger()
    seen = []
    for turn in (
        lambda: log.setLevel(logging.INFO),
        lambda: log.setLevel(logging.WARNING),
        lambda: (log.setLevel(logging.NOTSET), root.setLevel(logging.INFO)),
        lambda: logging.disable(logging.INFO),
        lambda: logging.disable(logging.NOTSET),
        lambda: root.setLevel(logging.WARNING),
    ):
        turn()
        for _ in range(2):
            before = len(caplog.records)
            ledger.consume(key)
            seen.append(len(caplog.records) - before)
    assert seen == [1, 1, 0, 0, 1, 1, 0, 0, 1, 1, 0, 0]
    assert most_refused() == [("k", 6)]


def test_a_store_that_is_away_is_told(told):
    """As a refusal where the ledger denies; an error is none."""

    class Away(MemoryStore):
        def apply(self, request):
            raise StoreUnavailable("gone")

    key, _ = Ledger().issue_key("k", id="k")
    assert not Ledger(Away(), on_unavailable="deny").consume(key)
    with pytest.raises(StoreUnavailable):
        Ledger(Away()).consume(key)
    assert [record.reason for record in told()] == ["STORE_UNAVAILABLE"]


def test_nobody_loads_logging_unasked():
    """A program without it is refused as ever, and one that loads it later is told from then on."""
    code = """
import sys, quota
ledger = quota.Ledger()
ledger.add_plan(quota.UsagePlan("p", "1/day"))
key, _ = ledger.issue_key("k", "p", id="k")
ledger.consume(key), ledger.consume(key)
print("logging" in sys.modules, "quota.refusals" in sys.modules)
import logging
logging.basicConfig(level="INFO", format="%(name)s %(message)s", stream=sys.stdout)
ledger.consume(key)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False False\nquota.decisions refused k: QUOTA_EXCEEDED\n"

"""``with ledger.reserve(...)`` on every store: what leaves the block is the block's own error, and nothing is forgotten."""

import asyncio
from datetime import timedelta

import pytest

from quota import AsyncLedger, ManualClock, StoreUnavailable, UsagePlan
from quota.stores.memory import MemoryStore

START = 1_773_144_000_000_000  # 2026-03-10 12:00 UTC
SECOND = timedelta(seconds=1)
STORES = pytest.mark.parametrize("stores", ["memory", "sqlite", "redis", "postgres"], indirect=True)


class Cut(Exception):
    """The client of a stream left."""


def away_for(monkeypatch, ledger, *ops):
    """Have a store be away for some operations, until what is returned is emptied; what is asked meanwhile."""
    apply, away, asked = ledger.store.apply, list(ops), []

    def gone(request):
        if request.op in ("commit", "cancel"):
            asked.append(request.op)
        if request.op in away:
            raise StoreUnavailable("away")
        return apply(request)

    monkeypatch.setattr(ledger.store, "apply", gone)
    return away, asked


def settled_at_last(ledger, away):
    """Let the store be back; what is counted once what was left is settled: in flight, and of the day."""
    thread = ledger._again._thread
    away.clear()
    thread.join(30)
    assert not thread.is_alive()
    return [limit.used for limit in ledger.status("k")]


@STORES
def test_a_commit_that_failed_is_what_counts(stores, monkeypatch):
    """Leaving the block takes nothing back of what is being committed in the background."""
    ledger, _, secret = stores.with_key(ManualClock(START), "1 concurrent, 100/day")
    away, asked = away_for(monkeypatch, ledger, "commit")
    with pytest.raises(StoreUnavailable), ledger.reserve(secret, 10, ttl=60 * SECOND) as held:
        held.commit(7)
    assert "cancel" not in asked
    assert settled_at_last(ledger, away) == [0, 7]


@STORES
def test_a_block_that_takes_the_failure_for_handled_ends_well(stores, monkeypatch):
    """The store's failure was caught: leaving raises nothing."""
    ledger, _, secret = stores.with_key(ManualClock(START), "1 concurrent, 100/day")
    away, _ = away_for(monkeypatch, ledger, "commit", "cancel")
    with ledger.reserve(secret, 10, ttl=60 * SECOND) as held:
        with pytest.raises(StoreUnavailable):
            held.commit(7)
    assert settled_at_last(ledger, away) == [0, 7]


@STORES
def test_the_error_of_the_block_goes_on(stores, monkeypatch):
    """Also where its reservation cannot be cancelled, now or at all."""
    ledger, _, secret = stores.with_key(ManualClock(START), "1 concurrent, 100/day")
    away, _ = away_for(monkeypatch, ledger, "commit", "cancel")
    with pytest.raises(Cut), ledger.reserve(secret, 10, ttl=60 * SECOND) as held:
        held.spend(4)
        raise Cut
    assert settled_at_last(ledger, away) == [0, 4]
    with pytest.raises(Cut), ledger.reserve(secret, 10, ttl=60 * SECOND) as held:
        ledger.reservation(held.id).commit(3)
        raise Cut
    with pytest.raises(StoreUnavailable), ledger.reserve(secret, 10, ttl=60 * SECOND):
        away.append("cancel")
    assert settled_at_last(ledger, away) == [0, 7]


def test_awaited_blocks_likewise(monkeypatch):
    """A commit that failed is settled by a task; the body's error goes on."""

    async def run():
        ledger = AsyncLedger(MemoryStore(), clock=ManualClock(START))
        await ledger.add_plan(UsagePlan("p", "1 concurrent, 100/day"))
        _, secret = await ledger.issue_key("k", "p", id="k")
        away, asked = away_for(monkeypatch, ledger, "commit", "cancel")
        with pytest.raises(StoreUnavailable):
            async with await ledger.reserve(secret, 10, ttl=60 * SECOND) as held:
                await held.commit(7)
        assert asked == ["commit"]
        away.clear()
        await asyncio.gather(*ledger._again._tasks)
        assert [limit.used for limit in await ledger.status("k")] == [0, 7]
        away.append("cancel")
        with pytest.raises(Cut):
            async with await ledger.reserve(secret, 10, ttl=60 * SECOND):
                raise Cut
        away.clear()
        await asyncio.gather(*ledger._again._tasks)
        assert [limit.used for limit in await ledger.status("k")] == [0, 7]

    asyncio.run(run())

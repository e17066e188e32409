"""Reservations of tasks that are cancelled at any await: what was acknowledged is what is counted, and nothing stays held."""

import asyncio
import random
from datetime import timedelta

import pytest

from quota import AsyncLedger, Ledger, UsagePlan
from quota.stores.memory import MemoryStore

TTL = timedelta(hours=1)


class Slow:
    """A store that is awaited a few times for each call, before it is done and after."""

    def __init__(self, store):
        self.store = store
        self.waits = random.Random(7)

    def __getattr__(self, name):
        return getattr(self.store, name)

    async def apply(self, request):
        for _ in range(self.waits.randrange(3)):
            await asyncio.sleep(0)
        answer = self.store.apply(request)
        for _ in range(self.waits.randrange(3)):
            await asyncio.sleep(0)
        return answer


def cancelled_at_random(handler, tasks, seed):
    """Run so many handlers and cancel each after some turns of the event loop; the ledger, looked at in the end."""
    plain = Ledger(MemoryStore())
    plain.add_plan(UsagePlan("p", "100000/day, 50 concurrent"))
    key, _ = plain.issue_key("k", "p", id="k")
    turns = random.Random(seed)

    async def disturbed(number, told):
        task = asyncio.create_task(handler(ledger, key, told))
        for _ in range(turns.randrange(40)):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    async def all_of_them(told):
        for first in range(0, tasks, 40):
            await asyncio.gather(*(disturbed(number, told) for number in range(first, min(first + 40, tasks))))
        for _ in range(20):  # what was reserved for a task that had left is given back
            await asyncio.sleep(0)

    ledger = AsyncLedger(Slow(plain.store))
    told = []
    asyncio.run(all_of_them(told))
    used, in_flight = (status.used for status in plain.status(key))
    return told, used, in_flight


async def streaming(ledger, key, told):
    """The obvious handler: it spends as it goes and commits in the end, whatever ends it."""
    held = await ledger.reserve(key, 10, ttl=TTL)
    if not held:
        return
    sent = 0
    try:
        for _ in range(4):
            sent += 3
            await held.spend(3)
            await held.extend(TTL)
    finally:
        told.append((held, sent))
        await held.commit(sent)


async def leaving(ledger, key, told):
    """A block that is left: what was not spent goes back."""
    async with await ledger.reserve(key, 10, ttl=TTL) as held:
        if held:
            told.append(held)
            await held.spend(2)
            await asyncio.sleep(0)
            await held.spend(2)


@pytest.mark.parametrize("seed", [1, 2])
def test_a_cancelled_stream_costs_what_was_sent(seed):
    """Of a thousand tasks each."""
    told, used, in_flight = cancelled_at_random(streaming, 1000, seed)
    assert all(held.settled for held, _ in told)
    assert used == sum(sent for _, sent in told)
    assert in_flight == 0
    assert len({sent for _, sent in told}) > 3, "the tasks are not cancelled at different places"


def test_a_block_that_is_left_settles_as_a_whole():
    """Even while its task is being cancelled."""
    told, used, in_flight = cancelled_at_random(leaving, 1000, 3)
    assert used == sum(held.spent.get("requests", 0) for held in told)
    assert in_flight == 0
    assert all(held.settled for held in told)

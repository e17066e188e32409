"""Tasks that are cancelled at any await: what was acknowledged is what is counted, and nothing stays held."""

import asyncio
import random
from datetime import timedelta

import pytest

from every_store import key_on
from quota import AsyncLedger, Ledger, UsagePlan, system_clock
from quota.stores.memory import MemoryStore

TTL = timedelta(hours=1)
TURNS = {"awaited memory": 6, "awaited sqlite": 40, "awaited redis": 40, "awaited postgres": 40}
"""Of the event loop, from the step at which a task is to be cancelled, at most."""


class Slow:
    """A store that is awaited a few times for each call, before it is done and after."""

    def __init__(self, store, seed=7):
        self.store = store
        self.waits = random.Random(seed)

    def __getattr__(self, name):
        return getattr(self.store, name)

    async def apply(self, request):
        for _ in range(self.waits.randrange(3)):
            await asyncio.sleep(0)
        answer = self.store.apply(request)
        for _ in range(self.waits.randrange(3)):
            await asyncio.sleep(0)
        return answer


async def streaming(ledger, key, told, step):
    """The obvious handler: it spends as it goes and commits in the end, whatever ends it."""
    step()
    held = await ledger.reserve(key, 10, ttl=TTL)
    if not held:
        return
    sent = 0
    try:
        for _ in range(4):
            sent += 3
            step()
            await held.spend(3)
            step()
            await held.extend(TTL)
    finally:
        told.append((held, sent))
        step()
        await held.commit(sent)


async def leaving(ledger, key, told, step):
    """A block that is left: what was not spent goes back."""
    step()
    async with await ledger.reserve(key, 10, ttl=TTL) as held:
        try:
            for _ in range(4 * bool(held)):
                step()
                await held.spend(3)
        finally:
            told.append((held, sum(held.spent.values())))
            step()


async def turns(number):
    for _ in range(number):
        await asyncio.sleep(0)


def cancelled_at_random(stores, handler, tasks):
    """Run so many handlers and cancel each once or twice after some turns of the event loop; what they told."""
    made = stores.over(Slow(MemoryStore())) if stores.engine == "memory" else stores.ledger(system_clock)
    _, key, _ = key_on(made, "100000/day, 20 concurrent")
    seed = random.randrange(10**9)
    pick, told, most = random.Random(seed), [], TURNS[stores.kind]

    async def disturbed():
        steps, there = iter(range(pick.randrange(11))), asyncio.Event()
        task = asyncio.create_task(
            handler(made._ledger, key, told, lambda: there.set() if next(steps, None) is None else None)
        )
        task.add_done_callback(lambda _: there.set())
        await there.wait()
        await turns(pick.randrange(most))
        task.cancel()
        if pick.random() < 0.3:
            await turns(pick.randrange(5))
            task.cancel()
        await asyncio.wait([task])
        assert task.cancelled() or task.exception() is None, task

    async def all_of_them():
        for first in range(0, tasks, 40):
            await asyncio.gather(*(disturbed() for _ in range(first, min(first + 40, tasks))))

    made._runner.run(all_of_them())
    for _ in range(1000):  # what was reserved for a task that had left is given back
        used, in_flight = (status.used for status in made.status(key))
        if not in_flight:
            break
    assert (used, in_flight) == (sum(sent for _, sent in told), 0), seed
    assert all(held.settled for held, _ in told), seed
    return told


@pytest.mark.parametrize("stores", TURNS, indirect=True)
@pytest.mark.parametrize("handler", [streaming, leaving])
@pytest.mark.parametrize("tasks", [80, pytest.param(2000, marks=pytest.mark.slow)])
def test_what_was_acknowledged_is_counted(stores, handler, tasks):
    """A stream that is cut costs what it spent, and every slot is free."""
    told = cancelled_at_random(stores, handler, tasks)
    assert len({sent for _, sent in told}) > 2, "the tasks are not cancelled at different places"


def test_an_event_loop_that_is_shut_down_spends_nothing_twice():
    """It cancels what is being done as a whole, too: whatever came of that, the commit says all."""
    for seed in range(60):
        plain = Ledger(MemoryStore())
        plain.add_plan(UsagePlan("p", "1000/day, 20 concurrent"))
        key, told = plain.issue_key("k", "p", id="k").key, []

        async def shut_down(plain=plain, key=key, told=told, seed=seed):
            task = asyncio.create_task(streaming(AsyncLedger(Slow(plain.store, seed)), key, told, int))
            await turns(seed)
            return task

        task = asyncio.run(shut_down())
        assert task.cancelled() or task.exception() is None, (seed, task)
        if told:
            assert [status.used for status in plain.status(key)] == [told[0][1], 0], seed

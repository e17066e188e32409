"""Event loops one after another and side by side, over one store: leases, PostgreSQL, both."""

import asyncio
import contextlib
import threading

import pytest

from quota import AsyncLedger, Ledger, UsagePlan
from quota.stores.leased import AsyncLeasedStore
from quota.stores.memory import MemoryStore
from servers import Postgres

LIMIT = 1500
LOOPS = 8


@pytest.fixture(scope="module")
def postgres():
    found = Postgres()
    yield found.url
    found.stop()


@pytest.fixture(params=["postgres", "leased+postgres", "leased"])
def store(request):
    """A store to be awaited, and the URL or the store that counts behind it."""
    if request.param == "leased":
        behind = MemoryStore()
        return AsyncLeasedStore(behind, share=0.05), behind
    url = f"{request.getfixturevalue('postgres')}?namespace={request.node.name.partition('[')[0][:40]}"
    url = f"{url}_{len(request.param)}"
    return (url if request.param == "postgres" else f"leased+{url}&share=0.05"), url


def side_by_side(*works):
    """Run coroutine functions at once, each in a thread and a loop of its own; what they gave."""
    answers, barrier = [None] * len(works), threading.Barrier(len(works))

    def run(number, work):
        async def begin():
            barrier.wait(20)
            return await work()

        try:
            answers[number] = asyncio.run(begin())
        except BaseException as error:
            answers[number] = error

    threads = [threading.Thread(target=run, args=pair, daemon=True) for pair in enumerate(works)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads), "a loop hangs"
    for answer in answers:
        if isinstance(answer, BaseException):
            raise answer
    return answers


def prepared(counted):
    """A plan and a key on what counts: the key and its secret."""
    with contextlib.ExitStack() as stack:
        ledger = Ledger(counted)
        if isinstance(counted, str):
            stack.callback(ledger.close)
        ledger.add_plan(UsagePlan("p", f"{LIMIT}/month", alerts=()))
        return ledger.issue_key("k", plan="p")


def counted_by(counted, key):
    ledger = Ledger(counted)
    (row,) = ledger.usage(key)
    if isinstance(counted, str):
        ledger.close()
    return row.used, row.leased


def test_loops_side_by_side_admit_the_limit(store):
    """Eight loops at once, each with tasks that spend and do what only the store can: the limit is reached, and kept."""
    store, counted = store
    key, secret = prepared(counted)
    ledger = AsyncLedger(store)

    async def work():
        answers = []

        async def task():
            for number in range(60):
                answers.append(await ledger.consume(secret))
                if number % 20 == 7:
                    reservation = await ledger.reserve(secret, 1, ttl=10**8)
                    if reservation:
                        await reservation.cancel()
                if number % 20 == 13:
                    assert (await ledger.peek(secret)).key.id == key.id

        await asyncio.gather(*(task() for _ in range(5)))
        return sum(map(bool, answers))

    admitted = sum(side_by_side(*[work] * LOOPS))

    async def rest():
        more = 0
        while await ledger.consume(secret):
            more += 1
        await ledger.aclose()
        return more

    admitted += asyncio.run(rest())
    assert (admitted, counted_by(counted, key)) == (LIMIT, (LIMIT, 0))


def test_loops_one_after_another(store):
    """A ledger set up in one loop, used in others, each ended while leases are filled ahead, and closed in the last."""
    store, counted = store
    key, secret = prepared(counted)
    ledger = AsyncLedger(store)

    async def some():
        return sum([bool(await ledger.consume(secret)) for _ in range(60)])

    admitted = sum(asyncio.run(some()) for _ in range(10))
    asyncio.run(ledger.aclose())
    assert (admitted, counted_by(counted, key)) == (600, (600, 0))


def test_loops_in_turn(store):
    """Two loops that are both kept: whatever one has under way when it pauses, the other goes on, and nothing is lost."""
    store, counted = store
    key, secret = prepared(counted)
    ledger = AsyncLedger(store)
    loops = [asyncio.new_event_loop() for _ in range(2)]
    admitted = 0
    for number in range(600):
        admitted += bool(loops[number % 2].run_until_complete(asyncio.wait_for(ledger.consume(secret), 20)))
    for loop in loops:
        while any(
            task.get_loop() is loop for what, task in getattr(ledger.store, "_tasks", {}).items() if what is not loop
        ):
            loop.run_until_complete(asyncio.sleep(0))
    loops[0].run_until_complete(ledger.aclose())
    for loop in loops:
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()
    assert (admitted, counted_by(counted, key)) == (600, (600, 0))

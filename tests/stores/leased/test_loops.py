"""Event loops one after another and side by side, over one store: leases, PostgreSQL, both."""

import asyncio
import contextlib
import threading

import pytest

from quota import AsyncLedger, Ledger, ManualClock, UsagePlan
from quota.stores.leased import AsyncLeasedStore
from quota.stores.memory import MemoryStore
from quota.stores.server.loops import Turns, heeded

LIMIT = 1500
LOOPS = 8


@pytest.fixture(params=["postgres", "leased+postgres", "leased"])
def store(request):
    """A store to be awaited, and the URL or the store that counts behind it."""
    if request.param == "leased":
        behind = MemoryStore()
        return AsyncLeasedStore(behind, share=0.05), behind
    url = f"{request.getfixturevalue('postgres').url}?namespace={request.node.name.partition('[')[0][:40]}"
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


async def lease_holder(turns, told, until):
    turn = await turns.take()
    told.append(turn)
    await until.wait()
    turns.give(turn)


def test_turns_are_handed_on_in_order_and_never_lost():
    """One at a time; who is cancelled or late leaves the line, even with a turn just handed to it."""

    async def play(most):
        turns, had = Turns(most), []

        async def work(number):
            turn = await turns.take(20)
            try:
                had.append(number)
                assert len(turns._taken) <= most
                await asyncio.sleep(0)
            finally:
                turns.give(turn)

        for stop in range(40):
            had.clear()
            tasks = [asyncio.create_task(work(number)) for number in range(6)]
            for _ in range(stop % 8):
                await asyncio.sleep(0)
            tasks[stop % 6].cancel()
            await asyncio.wait(tasks, timeout=20)
            assert had == sorted(had) and len(had) >= 5
            assert (turns._taken, turns._line) == (set(), {})
        turn = await turns.take()
        others = [await turns.take() for _ in range(most - 1)]
        assert await turns.take(0.01) is None and await turns.take(0) is None
        for each in (turn, *others):
            turns.give(each)
        turns.give(turn)  # twice is fine
        assert (turns._taken, turns._line) == (set(), {})

    asyncio.run(play(1))
    asyncio.run(play(3))


def test_nobody_waits_for_a_loop_that_does_not_run():
    """A turn that is with a paused loop is waited for by nobody; one with a loop that goes on is."""
    turns, told = Turns(), []
    paused = asyncio.new_event_loop()
    until = asyncio.Event()
    task = paused.create_task(lease_holder(turns, told, until))
    paused.run_until_complete(asyncio.sleep(0))
    assert len(told) == 1
    assert asyncio.run(turns.take()) is None
    until.set()
    paused.run_until_complete(task)

    async def take():
        turns.give(await turns.take())
        return True

    assert asyncio.run(take())
    paused.close()


def test_a_cancel_that_was_swallowed_is_heeded():
    """What waits by ``wait_for`` may lose a cancel before Python 3.12: it is told with the answer."""

    async def play():
        async def deaf():
            try:
                await asyncio.get_running_loop().create_future()
            except asyncio.CancelledError:
                return 7

        async def plain():
            return 8

        task = asyncio.create_task(heeded(deaf()))
        await asyncio.sleep(0)
        task.cancel()
        return await task, await heeded(plain())

    assert asyncio.run(play()) == ((7, True), (8, False))


class Slow(MemoryStore):
    """A store that is awaited, and answers leases when it is let."""

    def __init__(self):
        super().__init__()
        self.asked, self.let = [], None

    async def apply(self, request):
        answer = super().apply(request)
        if request.op == "lease" and self.let is not None:
            self.asked.append(request)
            await self.let.wait()
        return answer


def test_a_change_binds_though_a_loop_paused_as_it_asked_for_a_lease():
    """A lease that was granted before a change, and is heard of after it, is not spent."""
    behind = Slow()
    clock = ManualClock(1_700_000_000_000_000)
    ledger = AsyncLedger(AsyncLeasedStore(behind, share=0.5), clock=clock)
    one, two = asyncio.new_event_loop(), asyncio.new_event_loop()

    async def begin():
        await ledger.add_plan(UsagePlan("p", "100000/day", alerts=()))
        secret = (await ledger.issue_key("k", plan="p")).secret
        assert await ledger.consume(secret)
        behind.let = asyncio.Event()
        task = asyncio.ensure_future(ledger.consume(secret))
        while not behind.asked:
            await asyncio.sleep(0)
        return secret, task

    secret, task = one.run_until_complete(begin())

    async def change():
        key = (await ledger.peek(secret)).key
        await ledger.disable_key(key)
        return await ledger.consume(secret)

    assert two.run_until_complete(change()).reason.value == "DISABLED_KEY"

    async def go_on():
        behind.let.set()
        first, behind.let = await task, None
        return first, [await ledger.consume(secret) for _ in range(3)]

    first, rest = one.run_until_complete(go_on())
    assert {answer.reason.value for answer in (first, *rest)} == {"DISABLED_KEY"}
    one.run_until_complete(ledger.aclose())
    for loop in (one, two):
        loop.close()


@pytest.mark.spread(3, 1)
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

"""Lines of writers where a process forks and where event loops come and go: nobody waits for who is not there."""

from __future__ import annotations

import asyncio
import os
import threading

import pytest

from every_store import run_threads
from forked import FORKS, in_child
from interleavings import plant
from quota.errors import StoreBusy
from quota.stores.server.flow import JoinQueue, Queues, awaited, synchronous


class Desk:
    """A store whose every call stands in line for one record, and does what it is told to while it is first."""

    def __init__(self, lock=threading.RLock, seconds=0.2):
        self._queues, self.seconds = Queues(lock), seconds

    def _steps(self, within):
        yield JoinQueue("k:1", self.seconds)
        return (yield within)

    def _send(self, within):
        return within()

    serve = synchronous(_steps)


def served_in_child(fork):
    """A child of a process one of whose threads is first in line and another one is at the lines' guard."""
    desk, first, done = Desk(), threading.Event(), threading.Event()
    thread = threading.Thread(target=desk.serve, args=(lambda: (first.set(), done.wait()),))
    thread.start()
    assert first.wait(60)
    guarded = threading.Event()
    guard = threading.Thread(target=lambda: _hold_guard(desk, guarded, done))
    guard.start()
    assert guarded.wait(60)
    try:
        return in_child(fork, lambda: [desk.serve(lambda: "served") for _ in range(2)]), desk
    finally:
        done.set()
        thread.join()
        guard.join()


def _hold_guard(desk, guarded, done):
    with desk._queues._state().guard:
        guarded.set()
        done.wait()


@pytest.mark.parametrize("fork", FORKS.values(), ids=FORKS)
def test_a_child_does_not_wait_for_who_stands_in_its_parents_line(fork):
    """Its lines are its own, whether or not Python was told of the fork."""
    answer, desk = served_in_child(fork)
    assert answer == "['served', 'served']"
    assert len(desk._queues) == 0


def test_planted_lines_that_a_child_inherits(monkeypatch):
    """A child that finds its parent's locks waits for ever."""
    plant(monkeypatch, Queues, "_state", {"number = os.getpid()": "number = 0"})
    desk, first, done = Desk(), threading.Event(), threading.Event()
    thread = threading.Thread(target=desk.serve, args=(lambda: (first.set(), done.wait()),))
    thread.start()
    assert first.wait(60)

    def tell():
        with pytest.raises(StoreBusy):
            desk.serve(lambda: None)
        return "busy"

    assert in_child(os.fork, tell) == "busy"
    done.set()
    thread.join()


class AsyncDesk(Desk):
    """The same, awaited."""

    def __init__(self, seconds=10.0):
        super().__init__(asyncio.Lock, seconds)

    async def _send(self, within):
        return await within()

    serve = awaited(Desk._steps)


def crowd(desk, count, counts):
    """One event loop: so many tasks that contend for the line; each notes that it was the only one of its loop."""
    inside = 0

    async def within():
        nonlocal inside
        inside += 1
        most = inside
        await asyncio.sleep(0)
        inside -= 1
        return most

    async def tasks():
        counts.append(await asyncio.gather(*(desk.serve(within) for _ in range(count))))

    asyncio.run(tasks())


def test_event_loops_one_after_another_and_side_by_side():
    """Eight loops in threads, then two more here: in each of them the tasks are first in line one at a time."""
    desk, counts = AsyncDesk(), []
    run_threads([lambda: crowd(desk, 30, counts)] * 8)
    for _ in range(2):
        crowd(desk, 30, counts)
    assert counts == [[1] * 30] * 10
    assert len(desk._queues) == 0


def test_a_loop_that_died_in_line_stands_in_nobodys_way():
    """Its tasks were never finished; the next loop does not wait for them."""
    desk = AsyncDesk(seconds=0.5)
    dead = asyncio.new_event_loop()

    async def stay():
        await asyncio.Event().wait()

    kept = dead.create_task(desk.serve(stay))
    dead.call_later(0.01, dead.stop)
    dead.run_forever()
    counts = []
    crowd(desk, 3, counts)
    assert counts == [[1, 1, 1]]
    kept.cancel()
    dead.call_soon(dead.stop)
    dead.run_forever()
    dead.close()
    assert len(desk._queues) == 0


def test_waiting_in_line_is_bounded():
    """``StoreBusy`` after so long, and whoever is first goes on."""

    async def tell():
        desk, go = AsyncDesk(seconds=0.05), asyncio.Event()
        first = asyncio.ensure_future(desk.serve(go.wait))
        await asyncio.sleep(0)
        with pytest.raises(StoreBusy):
            await desk.serve(go.wait)
        go.set()
        assert await first
        assert len(desk._queues) == 0

    asyncio.run(tell())


async def cancelled_in_line(turns):
    """Whether a task ends that was cancelled ``turns`` steps after it began to stand in line again and again."""
    desk = AsyncDesk()

    async def worker():
        while True:
            await desk.serve(lambda: asyncio.sleep(0))

    rivals = [asyncio.ensure_future(worker()) for _ in range(3)]
    for _ in range(turns):
        await asyncio.sleep(0)
    for task in rivals:
        task.cancel()
    ended, left = await asyncio.wait(rivals, timeout=0.5)
    while left:
        for task in left:
            task.cancel()
        _, left = await asyncio.wait(left, timeout=0.05)
    return len(ended), len(desk._queues)


def test_a_cancelled_task_ends_wherever_it_stands():
    """At whatever step of the line the cancellation comes (Python 3.11's ``wait_for`` may lose it)."""
    for turns in range(60):
        assert asyncio.run(cancelled_in_line(turns)) == (3, 0)

"""Lines: first come, first served, by threads and by tasks; nobody waits past a deadline or is left in a line."""

import asyncio
import itertools
import sys
import threading
from time import monotonic

import pytest

from interleavings import plant
from interrupts import interrupts
from quota.process import lines
from quota.process.lines import AwaitedLine, Line


class Things:
    """Some things, and a line for them; ``had``: who had one, in order."""

    def __init__(self, count=1, kind=Line):
        self.free, self.line, self.had = count, kind(), []

    def attempt(self):
        if not self.free:
            return None
        self.free -= 1
        return "thing"

    async def attempt_awaited(self):
        await asyncio.sleep(0)
        return self.attempt()

    def give(self):
        self.free += 1
        self.line.wake()

    def use(self, who):
        """Have one and give it back."""
        assert self.line.wait(self.attempt, monotonic() + 60) == "thing"
        self.had.append(who)
        self.give()

    async def use_awaited(self, who):
        assert await self.line.wait(self.attempt_awaited, monotonic() + 60) == "thing"
        self.had.append(who)
        await asyncio.sleep(0)
        self.give()


def in_order(count=8):
    """In which order threads that came one after another are served, and who is left in the line."""
    things = Things(0)
    threads = [threading.Thread(target=things.use, args=(who,)) for who in range(count)]
    for number, thread in enumerate(threads):
        thread.start()
        while len(things.line) <= number:
            pass
    things.give()
    for thread in threads:
        thread.join(60)
    return things.had, len(things.line), things.free


def test_threads_are_served_in_order():
    """And each is out of the line when it is done."""
    assert in_order() == (list(range(8)), 0, 1)


def test_tasks_are_served_in_order():
    """Two hundred of them, with three things to use."""
    things = Things(3, AwaitedLine)

    async def run():
        await asyncio.gather(*map(things.use_awaited, range(200)))

    asyncio.run(run())
    assert (things.had, len(things.line), things.free) == (list(range(200)), 0, 3)


@pytest.mark.parametrize("kind", [Line, AwaitedLine])
def test_nobody_waits_past_a_deadline(kind):
    """Neither the first nor who is behind it, and both are gone then."""
    things = Things(0, kind)

    async def behind():
        return await asyncio.gather(*(things.line.wait(things.attempt_awaited, end) for end in deadlines))

    began = monotonic()
    deadlines = [began + 0.05, began + 0.04]
    if kind is AwaitedLine:
        found = asyncio.run(behind())
    else:
        found = []
        threads = [
            threading.Thread(target=lambda end=end: found.append(things.line.wait(things.attempt, end)))
            for end in deadlines
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
    assert found == [None, None] and 0.05 <= monotonic() - began < 5 and not len(things.line)


@pytest.mark.parametrize("kind", [Line, AwaitedLine])
def test_what_is_given_back_as_a_wait_ends_is_had(kind):
    """Nobody is told that nothing is free while something is: the first looks once more at its deadline."""
    answers = iter([None, "thing"])
    deadline = monotonic() + 0.001  # before it would look again by itself

    async def attempt():
        return next(answers)

    if kind is Line:
        assert kind().wait(lambda: next(answers), deadline) == "thing"
    else:
        assert asyncio.run(kind().wait(attempt, deadline)) == "thing"


@pytest.mark.parametrize("kind", [Line, AwaitedLine])
def test_what_is_given_back_by_who_knows_of_no_line_is_had_soon(kind):
    """As a pool's own user does."""
    tries = itertools.count()

    def attempt():
        return "thing" if next(tries) else None

    async def attempt_awaited():
        return attempt()

    began = monotonic()
    found = kind().wait(attempt if kind is Line else attempt_awaited, began + 60)
    assert (found if kind is Line else asyncio.run(found)) == "thing"
    assert monotonic() - began < 5


def test_an_attempt_that_fails_lets_the_next_one_try():
    """What it raised is its own."""
    line, said = Line(), []

    def fail():
        while len(line) < 2:
            pass
        raise ValueError

    def first():
        try:
            line.wait(fail, monotonic() + 60)
        except ValueError:
            said.append("failed")

    thread = threading.Thread(target=first)
    thread.start()
    while not len(line):
        pass
    assert line.wait(lambda: "thing", monotonic() + 60) == "thing"
    thread.join(30)
    assert (said, len(line)) == (["failed"], 0)


def test_a_task_that_is_cancelled_gives_its_place_up():
    """The first or one behind, waiting or at its attempt: the others are served in order."""
    things = Things(0, AwaitedLine)

    async def run():
        tasks = [asyncio.create_task(things.use_awaited(who)) for who in range(5)]
        for _ in range(3):
            await asyncio.sleep(0)
        tasks[0].cancel()
        tasks[2].cancel()
        things.give()
        await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(run())
    assert (things.had, len(things.line), things.free) == ([1, 3, 4], 0, 1)


def test_an_interrupt_leaves_nobody_in_the_line():
    """At whatever instant it comes: who is behind is served."""
    instants = 0
    while True:
        line = Line()

        def act(line=line):
            answers = iter([None, "thing"])
            line.wait(lambda: next(answers), monotonic() + 0.005)

        if not interrupts(instants + 1, [lines, sys.modules[__name__]], act):
            break
        instants += 1
        assert len(line) == 0, f"after {instants}"
    assert instants > 5


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("wait", "if first and (found", "if (found"),
        ("_leave", "self._waiting.remove(mine)", "pass"),
        ("_leave", "self.wake()", "pass"),
    ],
)
def test_planted_lines(monkeypatch, name, old, new):
    """Who tries though it is not first, who stays in the line and who wakes nobody are seen."""
    plant(monkeypatch, Line, name, {old: new})
    things, served, blocker, end = Things(1), [], threading.Event(), monotonic() + 0.5
    threads = [
        threading.Thread(target=things.line.wait, args=(lambda: blocker.wait(60) and None, 0)),
        threading.Thread(target=lambda: served.append(things.line.wait(things.attempt, end))),
    ]
    for number, thread in enumerate(threads):
        thread.start()
        while len(things.line) <= number and thread.is_alive():
            pass
    threads[1].join(0.05)
    overtook = bool(served)
    blocker.set()
    for thread in threads:
        thread.join(30)
    assert overtook or monotonic() >= end

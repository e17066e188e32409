"""Turns for tasks of any event loops: of one loop after another, or of several side by side in threads."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable
from typing import TypeVar

T = TypeVar("T")

_LOOK = 0.25
"""Seconds after which who waits looks whether a loop that has a turn still runs."""


class Turn:
    """A task's turn, or its place in line: until it is handed a turn, it only waits."""

    __slots__ = ("loop", "mine", "ready")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.mine = False
        self.ready: asyncio.Future[None] | None = None

    def wake(self) -> None:
        """Called in its own loop."""
        if self.ready is not None and not self.ready.done():
            self.ready.set_result(None)


class Turns:
    """At most ``most`` tasks at a time, of whatever loops; the others stand in line.

    A loop may pause for good in the middle of a turn, so nobody waits where all turns are with loops that do not run.
    """

    def __init__(self, most: int = 1) -> None:
        self._lock = threading.RLock()  # a finalizer may end a task in the middle of any step
        self._most = most
        self._taken: set[Turn] = set()
        self._line: dict[Turn, None] = {}

    def _stuck(self) -> bool:
        return len(self._taken) >= self._most and not any(turn.loop.is_running() for turn in self._taken)

    async def take(self, patience: float | None = None) -> Turn | None:
        """Wait for a turn, ``patience`` seconds at most; None where none came in time, or none can come."""
        loop = asyncio.get_running_loop()
        turn = Turn(loop)
        with self._lock:
            if len(self._taken) < self._most:
                turn.mine = True
                self._taken.add(turn)
                return turn
            self._line[turn] = None
        until = None if patience is None else loop.time() + patience
        try:
            while not turn.mine and not self._stuck():
                left = _LOOK if until is None else min(_LOOK, until - loop.time())
                if left <= 0:
                    break
                turn.ready = loop.create_future()
                if not turn.mine:  # since it has something to be woken by
                    alarm = loop.call_later(left, turn.wake)
                    try:
                        await turn.ready
                    finally:
                        alarm.cancel()
        except BaseException:
            self.give(turn)
            raise
        with self._lock:
            self._line.pop(turn, None)
            return turn if turn.mine else None

    def give(self, turn: Turn) -> None:
        """Give a turn back, or the place in line: who is first there and in a loop that runs has the turn."""
        with self._lock:
            self._line.pop(turn, None)
            self._taken.discard(turn)
            if len(self._taken) >= self._most:
                return
            for first in list(self._line):
                if first.loop.is_running():
                    first.mine = True
                    try:
                        first.loop.call_soon_threadsafe(first.wake)
                    except RuntimeError:  # closed since
                        first.mine = False
                        continue
                    del self._line[first]
                    self._taken.add(first)
                    return


async def heeded(wait: Awaitable[T]) -> tuple[T, bool]:
    """Wait for what may swallow a cancel that comes as it ends, as ``asyncio.wait_for`` does before Python 3.12.

    With the answer comes whether its task was told to end meanwhile.
    """
    task = asyncio.current_task()
    told = task.cancelling() if task is not None else 0
    answer = await wait
    return answer, task is not None and task.cancelling() > told

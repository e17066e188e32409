"""Lines for what there are few of: first come, first served, each until a deadline of its own."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, TypeVar

from ..clock import monotonic

T = TypeVar("T")

_LOOK = 0.02
"""Seconds after which the first in line tries again by itself: who gives something back need not know of the line."""


class Line:
    """The threads of a process that wait. True while there are any: then nobody may take what is free but the first.

    An interrupt may come at any instant, and a signal handler may wait in the middle of another wait of its thread.
    """

    def __init__(self) -> None:
        self._waiting: deque[Any] = deque()

    def __len__(self) -> int:
        return len(self._waiting)

    def take(self, attempt: Callable[[], T | None], deadline: float) -> T | None:
        """Make an attempt at once where nobody waits, else in line; None at the deadline."""
        found = None if self else attempt()
        return self.wait(attempt, deadline) if found is None else found

    def wait(self, attempt: Callable[[], T | None], deadline: float) -> T | None:
        """Make an attempt whenever this thread is the first, until one gives something; None at the deadline."""
        mine = threading.Lock()
        mine.acquire()
        try:
            self._waiting.append(mine)
            while True:
                first = self._waiting[0] is mine
                if first and (found := attempt()) is not None:
                    return found
                left = deadline - monotonic()
                if left <= 0:
                    return None
                mine.acquire(timeout=min(left, _LOOK) if first else left)
        finally:
            try:
                self._leave(mine)
            except BaseException:
                self._leave(mine)  # an interrupt came in the middle of that
                raise

    def _leave(self, mine: Any) -> None:
        with suppress(ValueError):
            self._waiting.remove(mine)
        self.wake()

    def wake(self) -> None:
        """Have the first in line try: something was given back, or somebody left."""
        if self._waiting:
            with suppress(IndexError, RuntimeError):  # nobody waits any more, or who does is awake already
                self._waiting[0].release()


class AwaitedLine:
    """``Line`` of the tasks of one event loop."""

    def __init__(self) -> None:
        self._waiting: deque[asyncio.Event] = deque()

    def __len__(self) -> int:
        return len(self._waiting)

    async def take(self, attempt: Callable[[], Awaitable[T | None]], deadline: float) -> T | None:
        """Make an attempt at once where nobody waits, else in line; None at the deadline."""
        found = None if self else await attempt()
        return await self.wait(attempt, deadline) if found is None else found

    async def wait(self, attempt: Callable[[], Awaitable[T | None]], deadline: float) -> T | None:
        """Make an attempt whenever this task is the first, until one gives something; None at the deadline."""
        mine = asyncio.Event()
        self._waiting.append(mine)
        try:
            while True:
                mine.clear()
                first = self._waiting[0] is mine
                if first and (found := await attempt()) is not None:
                    return found
                left = deadline - monotonic()
                if left <= 0:
                    return None
                with suppress(TimeoutError):
                    async with asyncio.timeout(min(left, _LOOK) if first else left):
                        await mine.wait()
        finally:
            self._waiting.remove(mine)
            self.wake()

    def wake(self) -> None:
        """Have the first in line try: something was given back, or somebody left."""
        if self._waiting:
            self._waiting[0].set()

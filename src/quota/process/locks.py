"""Locks of counts in this process: how they are waited for, and what a signal handler finds."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ..clock import pause
from ..errors import StoreBusy

TRIES = 100


def wait_for(lock: Any) -> None:
    """Take a lock that another thread holds, after letting that thread run.

    A thread that blocks is handed the lock while the interpreter runs another one, which then blocks in its turn: once
    begun, that goes on, and every call costs two switches of threads (eight threads were measured at a tenth of one's
    throughput). So blocking comes last, for a holder that takes long.
    """
    for turn in range(TRIES):
        pause(0 if turn < 10 else 0.000_05)
        if lock.acquire(blocking=False):
            return
    lock.acquire()


class Exclusive:
    """One lock around counts, and whether an operation of many steps holds it.

    The lock knows its owner, so that an interrupt between taking it and the block that gives it back cannot leave it
    taken; ``busy`` is what a signal handler then finds.
    """

    __slots__ = ("busy", "lock")

    def __init__(self) -> None:
        self.lock: Any = threading.RLock()
        self.busy = False

    def let_through(self) -> None:
        """Let an operation that is under way end, before its lock is blocked on; see ``wait_for``."""
        for turn in range(TRIES):
            if not self.busy:
                return
            pause(0 if turn < 10 else 0.000_05)

    def check(self) -> None:
        """Refuse who holds the lock already, in the middle of another operation."""
        if self.busy:
            raise StoreBusy("called from a signal handler or a finalizer in the middle of a call of its own thread")

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Nothing else happens on the stripe. ``MemoryStore.apply`` and ``OneMeter.turn`` say the same in line."""
        self.let_through()
        with self.lock:
            self.check()
            try:
                self.busy = True
                yield
            finally:
                self.busy = False

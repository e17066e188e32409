"""Turns at a SQLite file: of a process's threads in whatever order, of processes for a few milliseconds each.

SQLite's own busy handler lets whoever is awake win, so that one of four writers may starve. Here one process at a time,
the *next*, asks for the file while another uses it, and of its threads one alone. A process that has had its time goes
behind those that wait. Every wait is bounded, and the kernel drops the lock of a process that dies.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from contextlib import suppress

from ...process.atomic import at_once

try:
    import fcntl
except ImportError:  # pragma: no cover -- Windows: SQLite's lock alone, polled
    fcntl = None  # type: ignore[assignment] # as its absence is asked about

_never = threading.Lock()
_never.acquire()


def pause(seconds: float) -> None:
    """Let others run: a lock that nobody gives back is a sleep that a signal ends."""
    _never.acquire(timeout=seconds)


class TurnLock:
    """A lock with a deadline, for one thread of a process at a time.

    It is reentrant for what such a lock knows of its owner, noted in one step: an interrupt loses no turn, and a signal
    handler is told that it is in the middle of a call of its own thread. No thread ever takes it twice.
    """

    __slots__ = ("_lock", "mine")

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self.mine: Callable[[], bool] = self._lock._is_owned  # type: ignore[attr-defined] # as Condition asks it
        """Return whether this thread has the turn."""

    def take(self, timeout: float) -> bool:
        """Take the turn, which this thread has not; False when it was not to be had in so many seconds."""
        return bool(self._lock.acquire(timeout=max(0.0, timeout)))

    def give(self) -> None:
        """Let others have this thread's turn, if it has one; twice is fine."""
        if self.mine():
            self._lock.release()

    def taken(self) -> bool:
        """Return whether any thread has the turn."""
        try:
            at_once((self._lock.acquire, False), (self._lock.release,))  # what another has cannot be released
        except RuntimeError:
            return True
        return self.mine()


class ProcessQueue:
    """The line of processes for a file: whoever holds the lock on ``path`` is the next.

    The kernel drops the lock of a process that dies. Where there is no ``flock``, or no place for the file, everybody
    is the next at once, and SQLite's own lock alone decides.
    """

    __slots__ = ("_fd", "_path")

    def __init__(self, path: str) -> None:
        self._path = path
        self._fd: int | None = None

    def enter(self) -> bool:
        """Be the next, if nobody is. Return whether this one is."""
        if fcntl is None:
            return True
        try:
            if self._fd is None:
                self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:
            return True
        return True

    def leave(self) -> None:
        """Be the next no more."""
        if self._fd is not None and fcntl is not None:
            with suppress(OSError):
                fcntl.flock(self._fd, fcntl.LOCK_UN)

    def close(self) -> None:
        """Give the file back."""
        fd, self._fd = self._fd, None
        if fd is not None:
            os.close(fd)

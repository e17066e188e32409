"""Who goes next at a SQLite file: threads first come, first served; processes in turns of a few milliseconds.

SQLite's own busy handler lets whoever is awake win, so that one of four writers may starve. Here only one thread of a
process competes, and only one process at a time, the *next*, asks for the file while another uses it. A process that
has had its time goes behind those that wait. Every wait is bounded, and every lock that a process can die with is one
that the kernel drops with it.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from contextlib import suppress

from ..clock import monotonic

try:
    import fcntl
except ImportError:  # pragma: no cover -- Windows: SQLite's lock alone, polled
    fcntl = None  # type: ignore[assignment] # as its absence is asked about

_YOUNG = 0.0005
"""Seconds for which a waiting thread may be overtaken by those that are awake."""

_never = threading.Lock()
_never.acquire()


def pause(seconds: float) -> None:
    """Let others run: a lock that nobody gives back is a sleep that a signal ends."""
    _never.acquire(timeout=seconds)


class _Waiter:
    """A thread that waits: ``rung`` once it was told to look again."""

    __slots__ = ("bell", "rung", "since", "thread")

    def __init__(self, thread: int, since: float) -> None:
        self.thread = thread
        self.since = since
        self.rung = False
        self.bell = threading.Lock()
        self.bell.acquire()


class Threads:
    """The threads of one process, one at a time, each waiting until its deadline at most.

    Whoever has waited longest is next. A thread that is awake may go before a next that has only just come, since
    waking one up takes as long as a charge; for a next that has waited a little, the turn is kept.
    """

    __slots__ = ("_guard", "_owner", "_waiting")

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._owner: int | None = None
        self._waiting: deque[_Waiter] = deque()

    def take(self, deadline: float) -> bool:
        """Have the turn; False when the deadline came first."""
        me = threading.get_ident()
        with self._guard:
            if self._owner is None:
                self._owner = me
                return True
            now = monotonic()
            waiter = _Waiter(me, now)
            self._waiting.append(waiter)
        try:
            while now < deadline and not self._admitted(waiter, waiter.bell.acquire(timeout=deadline - now)):
                now = monotonic()
        finally:
            with self._guard:
                if waiter in self._waiting:
                    self._waiting.remove(waiter)
                    self._ring()
        return self._owner == me

    def _admitted(self, waiter: _Waiter, rung: bool) -> bool:
        with self._guard:
            if rung:
                waiter.rung = False
            if self._owner is None and self._waiting[0] is waiter:
                self._owner = waiter.thread
                self._waiting.popleft()
            return self._owner == waiter.thread

    def mine(self) -> bool:
        """Whether the calling thread has the turn."""
        return self._owner == threading.get_ident()

    def give(self) -> None:
        """Let others have the turn; nothing when it is not the caller's."""
        if self._owner != threading.get_ident():
            return
        with self._guard:
            self._owner = None
            self._ring()

    def _ring(self) -> None:
        """Wake whoever has waited longest, if the turn is free; after a while it is the next's for sure."""
        if self._owner is not None or not self._waiting:
            return
        waiter = self._waiting[0]
        if monotonic() > waiter.since + _YOUNG:
            self._owner = waiter.thread
            self._waiting.popleft()
        if not waiter.rung:
            waiter.rung = True
            waiter.bell.release()


class Line:
    """Where processes stand in line for a file: whoever holds the lock on ``path`` is the next.

    The kernel drops the lock of a process that dies. Where there is no ``flock``, or no place for the file, everybody
    is the next at once, and SQLite's own lock alone decides.
    """

    __slots__ = ("_fd", "_path")

    def __init__(self, path: str) -> None:
        self._path = path
        self._fd: int | None = None

    def enter(self) -> bool:
        """Be the next, if nobody is."""
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

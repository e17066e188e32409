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

from ...clock import monotonic

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


class Turn:
    """One call's turn, asked for or had. ``rung``: once it was told to look again."""

    __slots__ = ("bell", "rung", "since", "thread")

    def __init__(self) -> None:
        self.thread = threading.get_ident()
        self.since = 0.0
        self.rung = False
        self.bell: threading.Lock | None = None


class Threads:
    """The calls of one process's threads, one at a time, each waiting until its deadline at most.

    Whoever has waited longest is next. A thread that is awake may go before a next that has only just come, since
    waking one up takes as long as a charge; for a next that has waited a little, the turn is kept.

    Who has the turn is noted in a single step, and giving it back twice is fine: an interrupt loses no turn. A signal
    handler in the middle of a call of its own thread never has one.
    """

    __slots__ = ("_guard", "_owner", "_waiting")

    def __init__(self) -> None:
        self._guard = threading.RLock()
        self._owner: Turn | None = None
        self._waiting: deque[Turn] = deque()

    def take(self, turn: Turn, deadline: float) -> bool:
        """Have the turn; False when the deadline came first. It is to be given back in either case."""
        with self._guard:
            if self._owner is None:
                self._owner = turn
                return True
            if self.mine(turn):
                return False
            now = turn.since = monotonic()
            bell = turn.bell = threading.Lock()
            bell.acquire()
            self._waiting.append(turn)
        while now < deadline and not self._admitted(turn, bell.acquire(timeout=deadline - now)):
            now = monotonic()
        return self._owner is turn

    def _admitted(self, turn: Turn, rung: bool) -> bool:
        with self._guard:
            if rung:
                turn.rung = False
            if self._owner is None and self._waiting[0] is turn:
                self._owner = turn
                self._waiting.popleft()
            return self._owner is turn

    def mine(self, turn: Turn) -> bool:
        """Whether another call of a call's thread has the turn, or waits for it."""
        with self._guard:
            return any(
                other is not None and other is not turn and other.thread == turn.thread
                for other in (self._owner, *self._waiting)
            )

    @property
    def busy(self) -> bool:
        """Whether a call has the turn."""
        return self._owner is not None

    def has(self, turn: Turn) -> bool:
        """Whether a call has the turn."""
        return self._owner is turn

    def give(self, turn: Turn) -> None:
        """Let others have the turn, or wait for it no more."""
        with self._guard:
            if turn in self._waiting:
                self._waiting.remove(turn)
            if self._owner is turn:
                self._owner = None
            self._ring()

    def _ring(self) -> None:
        """Wake whoever has waited longest, if the turn is free; after a while it is the next's for sure."""
        if self._owner is not None or not self._waiting:
            return
        turn = self._waiting[0]
        late = monotonic() > turn.since + _YOUNG
        if not turn.rung and turn.bell is not None:
            turn.rung = True
            turn.bell.release()
        if late:
            self._owner = turn
            self._waiting.popleft()


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

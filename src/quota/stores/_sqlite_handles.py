"""The SQLite store's connections: who may use them when, and what happens at a fork."""

from __future__ import annotations

import os
import sqlite3
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar

from ..clock import monotonic
from ..errors import StoreBusy, StoreUnavailable
from ._sqlite_opened import Kept, Opened, close_all, open_file, try_begin
from ._sqlite_schema import NOTHING, failure, is_busy
from ._sqlite_turns import Line, Threads, pause

P = ParamSpec("P")
T = TypeVar("T")

_TIME = 0.010
"""Seconds for which a process may go on taking turns while others wait."""

_GLANCE, _NEXT_PAUSE, _LINE_PAUSE, _LONG = 0.0001, 0.0003, 0.001, 0.25
"""How soon and how often the next in line looks at the file, the others for its place; when to pass a stuck next."""

_MOST_IDLE = 4

_LONG_LOG = 8 << 20
"""Bytes beyond which the log is cut: readers that overlap for ever keep SQLite from beginning it anew by itself."""

_all: weakref.WeakSet[Handles] = weakref.WeakSet()
_left_behind: list[sqlite3.Connection] = []


class Handles:
    """The connections of one process to one file: one that writes, in turn, and some that read.

    None is ever used by two threads at a time, none survives a fork, and there are no more of them than calls were
    under way at once. The file is opened when it is first needed. ``undone``: told of each transaction taken back.
    """

    def __init__(self, path: str, timeout: float, durability: str, undone: Callable[[], None]) -> None:
        self.path = path
        self.timeout = timeout
        self._synchronous = durability.upper()
        self._undone = undone
        self._opened = False
        self._reset()
        weakref.finalize(self, close_all, self._kept)
        _all.add(self)

    def _reset(self) -> None:
        self._threads = Threads()
        self._gate = threading.Condition()
        self._reading = 0
        self._shut = False
        self._time_ends = 0.0
        self._seen = 0
        self._longest_log = _LONG_LOG
        self._kept = Kept(Line(self.path + "-turn"))

    def write(self, work: Callable[Concatenate[sqlite3.Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Do ``work`` in a transaction that writes, alone among all processes; what it raises undoes all of it.

        Raises:
            StoreBusy: others had the file until the timeout.
            StoreUnavailable: SQLite could not; nothing is changed.
        """
        return self.swap_or_write(None, work, *args, **kwargs)

    def swap_or_write(
        self, swap: Callable[Concatenate[sqlite3.Connection, P], T | None] | None,
        work: Callable[Concatenate[sqlite3.Connection, P], T], *args: P.args, **kwargs: P.kwargs,
    ) -> T:  # fmt: skip
        """As ``write``; but try ``swap`` first, where it is this process's time.

        ``swap`` runs a statement that is a transaction of its own, and does all or nothing; None when it did nothing.
        """
        now = monotonic()
        deadline = now + self.timeout
        threads = self._threads
        try:
            in_turn = threads.take(deadline)
            if swap is not None and in_turn and now < self._time_ends and self._kept.writer is not None:
                swapped = swap(self._kept.writer.db, *args, **kwargs)
                if swapped is not None:
                    return swapped
            db = self._begin(in_turn, deadline)
            answer = work(db, *args, **kwargs)
            db.execute("COMMIT")
        except sqlite3.Error as error:
            self._undo(broken=not is_busy(error))
            raise failure(error, self.path) from error
        except BaseException:
            self._undo()
            raise
        finally:
            threads.give()
        return answer

    def _begin(self, in_turn: bool, deadline: float) -> sqlite3.Connection:
        """Begin to write: at once in this process's own time, else in line."""
        if not in_turn:
            raise StoreBusy(f"{self.path}: other threads were first for {self.timeout} s; {NOTHING}")
        writer = self._kept.writer
        if writer is not None and monotonic() < self._time_ends and try_begin(writer.db):
            return writer.db
        self._time_ends = 0.0
        if writer is None or self._moved(writer):
            self._kept.writer = None
            if writer is not None:
                writer.db.close()
            writer = self._kept.writer = self._open(deadline)
        self._cut_log(writer.db)
        self._stand_in_line(writer.db, deadline)
        self._time_ends = monotonic() + _TIME
        return writer.db

    def _cut_log(self, db: sqlite3.Connection) -> None:
        """Cut a log that has grown long, which waits a moment for those who read it; in vain, not soon again."""
        try:
            size = os.stat(self.path + "-wal").st_size  # noqa: PTH116 -- as in _moved
        except OSError:
            return
        if size > self._longest_log:
            db.execute("PRAGMA busy_timeout = 300")
            (in_vain, _, _) = db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            db.execute("PRAGMA busy_timeout = 0")
            self._longest_log = _LONG_LOG + (size if in_vain else 0)

    def _stand_in_line(self, db: sqlite3.Connection, deadline: float) -> None:
        """Be the next, and begin once whoever has the file has used its time, or does not use it."""
        line, since, waited = self._kept.line, monotonic(), False
        next_since = None
        try:
            while True:
                now = monotonic()
                if next_since is None and line.enter():
                    next_since = now
                used = next_since is not None and (self._is_quiet(db) or now > next_since + _TIME)
                # The next may have been stopped: the line is for fairness, SQLite's own lock for exclusion.
                if (used or now > since + _LONG) and try_begin(db):
                    return
                if now >= deadline:
                    raise StoreBusy(f"{self.path} was in use by others for {self.timeout} s; {NOTHING}")
                pause(min(_LINE_PAUSE if next_since is None else _NEXT_PAUSE if waited else _GLANCE, deadline - now))
                waited = next_since is not None
        finally:
            if next_since is not None:
                line.leave()

    def _is_quiet(self, db: sqlite3.Connection) -> bool:
        """Whether no other process has written since this was last asked."""
        try:
            (version,) = db.execute("PRAGMA data_version").fetchone()
        except sqlite3.OperationalError as error:
            if not is_busy(error):
                raise
            return False
        seen, self._seen = self._seen, version
        return bool(seen == version)

    def _undo(self, *, broken: bool = False) -> None:
        """Take back what a failed transaction did; a connection that SQLite failed on is opened anew next time."""
        if not self._threads.mine():
            return
        self._undone()
        writer = self._kept.writer
        if writer is None:
            return
        try:
            if writer.db.in_transaction:
                writer.db.execute("ROLLBACK")
        except sqlite3.Error:
            broken = True
        if broken:
            self._kept.writer = None
            writer.db.close()

    def read(self, work: Callable[Concatenate[sqlite3.Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Do ``work`` on one moment's state of the file, beside whoever writes. Raises as ``write``."""
        deadline = monotonic() + self.timeout
        reader = None
        sound = False
        self._begin_reading(deadline)
        try:
            reader = self._borrow(deadline)
            db = reader.db
            while True:
                try:
                    db.execute("BEGIN")
                    answer = work(db, *args, **kwargs)
                except sqlite3.OperationalError as error:
                    # A moment in which another process recovers or removes the log.
                    if not is_busy(error) or monotonic() >= deadline:
                        raise
                else:
                    sound = True
                    return answer
                finally:
                    if db.in_transaction:
                        db.execute("ROLLBACK")
                pause(_LINE_PAUSE)
        except sqlite3.Error as error:
            raise failure(error, self.path) from error
        except BaseException:
            sound = True
            raise
        finally:
            self._give_back(reader, sound=sound)

    def _begin_reading(self, deadline: float) -> None:
        with self._gate:
            if not self._gate.wait_for(lambda: not self._shut, deadline - monotonic()):
                raise StoreBusy(f"{self.path}: this process forks; {NOTHING}")
            self._reading += 1

    def _borrow(self, deadline: float) -> Opened:
        with self._gate:
            reader = self._kept.idle.pop() if self._kept.idle else None
        if reader is not None and self._moved(reader):
            reader.db.close()
            reader = None
        return reader or self._open(deadline)

    def _give_back(self, reader: Opened | None, *, sound: bool) -> None:
        with self._gate:
            self._reading -= 1
            self._gate.notify_all()
            if reader is not None and sound and len(self._kept.idle) < _MOST_IDLE:
                self._kept.idle.append(reader)
                return
        if reader is not None:
            reader.db.close()

    def _moved(self, opened: Opened) -> bool:
        """Whether the path is another file by now than the one that was opened."""
        try:
            found = os.stat(self.path)  # noqa: PTH116 -- before every other call, and twice as fast
        except OSError:
            return True
        return opened.file != (found.st_dev, found.st_ino)

    def _open(self, deadline: float) -> Opened:
        """A new connection to the file, which is made when it was never there."""
        there = Path(self.path).exists()
        if self._opened and not there:
            raise StoreUnavailable(f"{self.path} was removed while in use; {NOTHING}")
        while True:
            try:
                opened = open_file(self.path, self._synchronous, "rw" if there else "rwc")
            except sqlite3.OperationalError as error:
                if not is_busy(error) or monotonic() >= deadline:
                    raise
            else:
                self._opened = True
                return opened
            pause(_LINE_PAUSE)

    def close(self) -> None:
        """Close all connections once those who use them are done; a call afterwards opens new ones."""
        if self._suspend(monotonic() + self.timeout):
            self._resume()

    def _suspend(self, deadline: float) -> bool:
        """Bring everybody to rest and close everything; False when somebody would not come to rest in time."""
        if self._threads.mine() or not self._threads.take(deadline):
            return False
        with self._gate:
            self._shut = True
            if not self._gate.wait_for(lambda: not self._reading, max(0.0, deadline - monotonic())):
                self._shut = False
                self._threads.give()
                return False
        close_all(self._kept)
        return True

    def _resume(self) -> None:
        with self._gate:
            self._shut = False
            self._gate.notify_all()
        self._threads.give()

    def _begin_child(self) -> None:
        """In a forked child: nothing of the parent's is used. What was still open is never closed, never used."""
        _left_behind.extend(self._kept.forget())
        self._kept.line.close()
        self._reset()
        weakref.finalize(self, close_all, self._kept)


def _before_fork() -> None:
    """Close everything: with a connection inherited, even one that the child opens itself would hold no locks.

    SQLite keeps a process's locks on a file in that process's memory. A child that finds them there takes them for its
    own, and what it writes is lost when the parent closes the file.
    """
    _suspended[:] = [handles for handles in list(_all) if handles._suspend(monotonic() + handles.timeout)]


def _after_fork() -> None:
    while _suspended:
        _suspended.pop()._resume()


def _after_fork_in_child() -> None:
    _suspended.clear()
    for handles in list(_all):
        handles._begin_child()


_suspended: list[Handles] = []

if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork_in_child
    )  # fmt: skip

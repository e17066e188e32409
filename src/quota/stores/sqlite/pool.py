"""The SQLite store's connections: who may use them when, and what happens at a fork."""

from __future__ import annotations

import sqlite3
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

from ...clock import monotonic
from ...errors import StoreBusy, StoreUnavailable
from .connections import LONG_LOG, Held, Kept, Opened, close_all, close_unused, cut_log, moved, open_file, try_begin
from .fair_queue import Line, pause
from .fork import at_home, everybody
from .schema import NOTHING, failure, is_busy

P = ParamSpec("P")
T = TypeVar("T")

_TIME = 0.010
"""Seconds for which a process may go on taking turns while others wait."""

_GLANCE, _NEXT_PAUSE, _LINE_PAUSE, _LONG = 0.0001, 0.0003, 0.001, 0.25
"""How soon and how often the next in line looks at the file, the others for its place; when to pass a stuck next."""

_MOST_IDLE = 4

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
        weakref.finalize(self, close_unused, self._kept)
        everybody.add(self)

    def _reset(self) -> None:
        # Reentrant for what it says of its owner: no call goes on with a turn that its thread has already.
        self._turn: Any = threading.RLock()
        # Python's own Condition may be interrupted as it enters; the lock itself may not.
        self._lock = threading.RLock()
        self._gate = threading.Condition(self._lock)
        self._shut = self._stranded = False
        self._time_ends = 0.0
        self._seen = 0
        self._longest_log = LONG_LOG
        self._kept = Kept(Line(self.path + "-turn"), self._turn, self._lock)

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
        self._at_home()
        now = monotonic()
        deadline = now + self.timeout
        if self.has_turn():
            raise StoreBusy(f"{self.path}: called in the middle of a call of its own thread; {NOTHING}")
        try:
            self._take_turn()
            writer = self._kept.writer
            if writer is not None and writer.db.in_transaction:
                self._undo()  # which was interrupted
            if swap is not None and now < self._time_ends and writer is not None:
                swapped = swap(writer.db, *args, **kwargs)
                if swapped is not None:
                    return swapped
            db = self._begin(deadline)
            answer = work(db, *args, **kwargs)
            db.execute("COMMIT")
        except sqlite3.Error as error:
            self._undo(broken=not is_busy(error))
            raise failure(error, self.path) from error
        except BaseException:
            self._undo()
            raise
        finally:
            try:
                self._give_turn()
            except BaseException:
                self._give_turn()  # an interrupt came in the middle of that
                raise
        return answer

    def has_turn(self) -> bool:
        """Whether this thread is in the middle of a call that writes, closes or forks."""
        return bool(self._turn._is_owned())

    def _take_turn(self) -> None:
        if not self._turn.acquire(timeout=self.timeout):
            raise StoreBusy(f"{self.path}: other threads were first for {self.timeout} s; {NOTHING}")

    def _give_turn(self) -> None:
        """Let others have this thread's turn, if it has one; twice is fine."""
        if self.has_turn():
            self._turn.release()

    def _begin(self, deadline: float) -> sqlite3.Connection:
        """Begin to write: at once in this process's own time, else in line."""
        writer = self._kept.writer
        if writer is not None and monotonic() < self._time_ends and try_begin(writer.db):
            return writer.db
        self._time_ends = 0.0
        if writer is None or moved(writer, self.path):
            self._kept.writer = None
            if writer is not None:
                writer.db.close()
            writer = self._open(self._kept.opening, deadline)
            self._kept.writer, self._kept.opening.opened = writer, None
        self._longest_log = cut_log(writer.db, self.path, self._longest_log)
        self._stand_in_line(writer.db, deadline)
        self._time_ends = monotonic() + _TIME
        return writer.db

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
            line.leave()  # also where an interrupt came before it was known that it was entered

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
        if not self.has_turn():
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
        self._at_home()
        deadline = monotonic() + self.timeout
        reading = object()
        sound = False
        try:
            db = self._borrow(reading, deadline)
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
            try:
                self._give_back(reading, sound=sound)
            except BaseException:
                self._give_back(reading, sound=sound)  # an interrupt came in the middle of that
                raise

    def _borrow(self, reading: object, deadline: float) -> sqlite3.Connection:
        """A connection for a call, which gives back what it has under the same name, even if this fails."""
        with self._lock:
            if not self._gate.wait_for(lambda: not self._shut, deadline - monotonic()):
                raise StoreBusy(f"{self.path}: this process forks; {NOTHING}")
            held = Held(reading)
            for other in self._kept.readers:
                if other.user is None:
                    other.user = reading
                    held = other
                    break
            else:
                self._kept.readers.append(held)
        reader = held.opened
        if reader is not None and moved(reader, self.path):
            reader.db.close()
            held.opened = reader = None
        return (reader or self._open(held, deadline)).db

    def _give_back(self, reading: object, *, sound: bool) -> None:
        """Give back what a call has, if anything; twice is fine."""
        with self._lock:
            readers = self._kept.readers
            for held in list(readers):
                if held.user is reading:
                    if sound and held.opened is not None and len(readers) <= _MOST_IDLE:
                        held.user = None
                    else:
                        if held.opened is not None:
                            held.opened.db.close()
                        readers.remove(held)
            self._gate.notify_all()

    def _reads(self) -> bool:
        return any(held.user is not None for held in self._kept.readers)

    def _open(self, held: Held, deadline: float) -> Opened:
        """A new connection to the file, which is made when it was never there."""
        there = Path(self.path).exists()
        if self._opened and not there:
            raise StoreUnavailable(f"{self.path} was removed while in use; {NOTHING}")
        while True:
            try:
                opened = open_file(self.path, self._synchronous, "rw" if there else "rwc", held)
            except sqlite3.OperationalError as error:
                if not is_busy(error) or monotonic() >= deadline:
                    raise
            else:
                self._opened = True
                return opened
            pause(_LINE_PAUSE)

    def close(self) -> None:
        """Close all connections once those who use them are done; a call afterwards opens new ones."""
        at_home()
        if self.has_turn():
            return
        try:
            self.suspend(monotonic() + self.timeout)
        finally:
            try:
                self.resume()
            except BaseException:
                self.resume()  # an interrupt came in the middle of that
                raise

    def suspend(self, deadline: float) -> bool:
        """Bring everybody to rest and close everything; False when somebody would not come to rest in time.

        Not for a thread that has the turn.
        """
        if not self._turn.acquire(timeout=max(0.0, deadline - monotonic())):
            return False
        with self._lock:
            self._shut = True
            if not self._gate.wait_for(lambda: not self._reads(), max(0.0, deadline - monotonic())):
                return False
        try:
            close_all(self._kept)
        except BaseException:
            close_all(self._kept)  # an interrupt came in the middle of that
            raise
        return True

    def resume(self) -> None:
        """Go on, whether all came to rest or not; twice is fine."""
        if self.has_turn():
            with self._lock:
                self._shut = False
                self._gate.notify_all()
            self._turn.release()

    def _at_home(self) -> None:
        at_home()
        if self._stranded:
            said = "was forked in the middle of a call, by a program that does not tell Python: open the ledger in it"
            raise StoreUnavailable(f"{self.path}: this process {said}; {NOTHING}")

    def begin_child(self, *, stranded: bool = False) -> None:
        """In a forked child: what is still open is never closed, never used. ``stranded``: nothing can be used."""
        kept = self._kept
        for held in kept.readers:
            held.user = None  # the thread is not here
        _left_behind.extend(kept.connections())
        kept.forget()
        self._kept.line.close()
        self._reset()
        weakref.finalize(self, close_unused, self._kept)
        self._stranded = stranded

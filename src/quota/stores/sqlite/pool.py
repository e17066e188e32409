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
from .connections import LONG_LOG, FileConnection, Lent, Open, close_all, close_unused, cut_log, open_file, try_begin
from .fair_queue import ProcessQueue, TurnLock, pause
from .fork import at_home, everybody
from .schema import NOTHING, failure, is_busy, writes_seen

P = ParamSpec("P")
T = TypeVar("T")

_TIME = 0.010
"""Seconds for which a process may go on taking turns while others wait."""

_GLANCE, _NEXT_PAUSE, _LINE_PAUSE, _LONG = 0.0001, 0.0003, 0.001, 0.25
"""Seconds: the next's first and later looks at the file, the others' for its place; until a stuck next is passed."""

_MOST_IDLE = 4

_left_behind: list[sqlite3.Connection] = []


class Pool:
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
        weakref.finalize(self, close_unused, self._open)
        everybody.add(self)

    def _reset(self) -> None:
        self.turn = TurnLock()
        # Python's own Condition may be interrupted as it enters; the lock itself may not.
        self._lock = threading.RLock()
        self._gate = threading.Condition(self._lock)
        self._shut = self._stranded = False
        self._time_ends = 0.0
        self._seen = 0
        self._longest_log = LONG_LOG
        self._open = Open(ProcessQueue(self.path + "-turn"), self.turn, self._lock)

    def write(self, work: Callable[Concatenate[sqlite3.Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Do ``work`` in a transaction that writes, alone among all processes; what it raises undoes all of it.

        Raises:
            StoreBusy: others had the file until the timeout.
            StoreUnavailable: SQLite could not; nothing is changed.
        """
        self._at_home()
        deadline = monotonic() + self.timeout
        if self.turn.mine():
            raise StoreBusy(f"{self.path}: called in the middle of a call of its own thread; {NOTHING}")
        try:
            return self._in_turn(self._write, deadline, work, *args, **kwargs)  # type: ignore[no-any-return] # a T
        except sqlite3.Error as error:
            raise failure(error, self.path) from error

    def _write(self, deadline: float, work: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        if not self.turn.take(self.timeout):
            raise StoreBusy(f"{self.path}: other threads were first for {self.timeout} s; {NOTHING}")
        writer = self._open.writer
        if writer is not None and writer.db.in_transaction:
            self._undo()  # which was interrupted
        db = self._begin(deadline)
        answer = work(db, *args, **kwargs)
        db.execute("COMMIT")
        return answer

    def swap(self, work: Callable[..., T | None], *args: Any, looks: bool) -> T | None:
        """Do ``work``, a transaction by itself, in this process's own time; what only ``looks``, at any. Else None."""
        self._at_home()
        if self.turn.mine() or not (looks or monotonic() < self._time_ends):
            return None
        try:
            return self._in_turn(self._swap, 0.0 if looks else _TIME, work, *args)
        except sqlite3.Error:
            return None

    def _swap(self, patience: float, work: Callable[..., T | None], *args: Any) -> T | None:
        if not self.turn.take(patience):
            return None
        writer = self._open.writer
        if writer is None or writer.db.in_transaction or (patience <= 0 and writer.moved(self.path)):
            return None
        return work(writer.db, *args)

    def _in_turn(self, inside: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Call what takes this thread's turn, which ends with it; what it raises undoes what it did."""
        try:
            return inside(*args, **kwargs)
        except BaseException as error:
            self._undo(broken=isinstance(error, sqlite3.Error) and not is_busy(error))
            raise
        finally:
            try:
                self.turn.give()
            except BaseException:
                self.turn.give()  # an interrupt came in the middle of that
                raise

    def _begin(self, deadline: float) -> sqlite3.Connection:
        """Begin to write: at once in this process's own time, else in line."""
        writer = self._open.writer
        if writer is not None and monotonic() < self._time_ends and try_begin(writer.db):
            return writer.db
        self._time_ends = 0.0
        if writer is None or writer.moved(self.path):
            self._open.writer = None
            if writer is not None:
                writer.db.close()
            writer = self._connect(self._open.opening, deadline)
            self._open.writer, self._open.opening.connection = writer, None
        self._longest_log = cut_log(writer.db, self.path, self._longest_log)
        self._stand_in_line(writer.db, deadline)
        self._time_ends = monotonic() + _TIME
        return writer.db

    def _stand_in_line(self, db: sqlite3.Connection, deadline: float) -> None:
        """Be the next, and begin once whoever has the file has used its time, or does not use it."""
        queue, since, waited = self._open.queue, monotonic(), False
        next_since = None
        try:
            while True:
                now = monotonic()
                if next_since is None and queue.enter():
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
            queue.leave()  # also where an interrupt came before it was known that it was entered

    def _is_quiet(self, db: sqlite3.Connection) -> bool:
        """Return whether no other process has written since this was last asked."""
        seen, found = self._seen, writes_seen(db)
        self._seen = seen if found is None else found
        return seen == found

    def _undo(self, *, broken: bool = False) -> None:
        """Take back what a failed transaction did; a connection that SQLite failed on is opened anew next time."""
        if not self.turn.mine():
            return
        self._undone()
        writer = self._open.writer
        if writer is None:
            return
        try:
            if writer.db.in_transaction:
                writer.db.execute("ROLLBACK")
        except sqlite3.Error:
            broken = True
        if broken:
            self._open.writer = None
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
        """Lend a call a connection. It gives back what it has under the same name, even if this fails."""
        with self._lock:
            if not self._gate.wait_for(lambda: not self._shut, deadline - monotonic()):
                raise StoreBusy(f"{self.path}: this process forks; {NOTHING}")
            lent = Lent(reading)
            for other in self._open.readers:
                if other.user is None:
                    other.user = reading
                    lent = other
                    break
            else:
                self._open.readers.append(lent)
        reader = lent.connection
        if reader is not None and reader.moved(self.path):
            reader.db.close()
            lent.connection = reader = None
        return (reader or self._connect(lent, deadline)).db

    def _give_back(self, reading: object, *, sound: bool) -> None:
        """Give back what a call has, if anything; twice is fine."""
        with self._lock:
            readers = self._open.readers
            for lent in list(readers):
                if lent.user is reading:
                    if sound and lent.connection is not None and len(readers) <= _MOST_IDLE:
                        lent.user = None
                    else:
                        if lent.connection is not None:
                            lent.connection.db.close()
                        readers.remove(lent)
            self._gate.notify_all()

    def _connect(self, lent: Lent, deadline: float) -> FileConnection:
        """Open the file, which is made when it was never there."""
        there = Path(self.path).exists()
        if self._opened and not there:
            raise StoreUnavailable(f"{self.path} was removed while in use; {NOTHING}", reached=True)
        while True:
            try:
                connection = open_file(self.path, self._synchronous, "rw" if there else "rwc", lent)
            except sqlite3.OperationalError as error:
                if not is_busy(error) or monotonic() >= deadline:
                    raise
            else:
                self._opened = True
                return connection
            pause(_LINE_PAUSE)

    def close(self) -> None:
        """Close all connections once those who use them are done; a call afterwards opens new ones."""
        at_home()
        if self.turn.mine():
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
        """Bring all other threads to rest and close everything; False when one would not come to rest in time."""
        if not self.turn.take(deadline - monotonic()):
            return False
        with self._lock:
            self._shut = True
            exclusive = self._gate.wait_for(
                lambda: all(lent.user is None for lent in self._open.readers), max(0.0, deadline - monotonic())
            )
            if not exclusive:
                return False
        try:
            close_all(self._open)
        except BaseException:
            close_all(self._open)  # an interrupt came in the middle of that
            raise
        return True

    def resume(self) -> None:
        """Go on, whether all came to rest or not; twice is fine."""
        if self.turn.mine():
            with self._lock:
                self._shut = False
                self._gate.notify_all()
            self.turn.give()

    def _at_home(self) -> None:
        at_home()
        if self._stranded:
            said = "was forked in the middle of a call, by a program that does not tell Python: open the ledger in it"
            raise StoreUnavailable(f"{self.path}: this process {said}; {NOTHING}")

    def begin_child(self, *, stranded: bool = False) -> None:
        """Begin anew in a forked child, never to use or close what is still open. ``stranded``: nothing can be used."""
        open_ = self._open
        for lent in open_.readers:
            lent.user = None  # the thread is not here
        _left_behind.extend(open_.connections())
        open_.forget()
        self._open.queue.close()
        self._reset()
        weakref.finalize(self, close_unused, self._open)
        self._stranded = stranded

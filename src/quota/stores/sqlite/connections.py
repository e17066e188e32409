"""The SQLite store's open connections, and how one is opened."""

from __future__ import annotations

import os
import sqlite3
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from ...errors import StoreUnavailable
from .fair_queue import ProcessQueue, TurnLock
from .schema import NOTHING, STEPS, bring_up_to_date, is_busy, read_version

LONG_LOG = 8 << 20
"""Bytes beyond which the log is cut: readers that overlap for ever keep SQLite from beginning it anew by itself."""

SMALL = 64 << 20
"""Bytes of a file that is written anew in well under a second."""


class FileConnection(NamedTuple):
    """A connection, and which file it is to."""

    db: sqlite3.Connection
    file: tuple[int, int]

    def moved(self, path: str) -> bool:
        """Return whether the path has become another file than the one that was opened."""
        try:
            found = os.stat(path)  # noqa: PTH116 -- before every other call, and twice as fast
        except OSError:
            return True
        return self.file != (found.st_dev, found.st_ino)


class Lent:
    """Room for a connection, and which call uses it: noted in a single step each, so that no interrupt loses one."""

    __slots__ = ("connection", "user")

    def __init__(self, user: object = None) -> None:
        self.connection: FileConnection | None = None
        self.user = user


class Open:
    """The open connections of a pool: apart from it, so that they can be closed when nobody holds that any more.

    ``opening``: the next writer, until it is the writer.
    """

    def __init__(self, queue: ProcessQueue, turn: TurnLock, lock: threading.RLock) -> None:
        self.writer: FileConnection | None = None
        self.opening = Lent()
        self.readers: list[Lent] = []
        self.queue = queue
        self.turn = turn
        self.lock = lock
        self.pid = os.getpid()

    def connections(self) -> list[sqlite3.Connection]:
        """Return all that are open, but for those that some thread reads with."""
        idle = [lent.connection for lent in self.readers if lent.user is None]
        found = [self.writer, self.opening.connection, *idle]
        return [connection.db for connection in found if connection is not None]

    def forget(self) -> None:
        """Forget whatever ``connections`` returned."""
        self.writer, self.opening = None, Lent()
        self.readers = [lent for lent in self.readers if lent.user is not None]


def close_all(open_: Open) -> None:
    """Close everything that nobody reads with; twice is fine."""
    for db in open_.connections():
        db.close()
    open_.forget()
    open_.queue.close()


def close_unused(open_: Open) -> None:
    """Close what nobody uses: at the interpreter's exit threads may still be in the middle of calls."""
    if open_.pid != os.getpid():
        return  # a forked child that never used them
    if open_.turn.mine() or not open_.turn.take(0.0):
        return
    try:
        with open_.lock:
            close_all(open_)
    finally:
        open_.turn.give()


def close_inherited(open_: Open, path: str) -> bool:
    """Close what a forked child has of its parent's; False where a thread that is not here was using some of it.

    The child holds none of the locks that SQLite's memory says it holds; whoever has the file open does. The last
    connection to close would put the log's content into the file and remove it. That is the business of those who have
    the file open; it must not be done to a log of theirs, or one that a crash left, from what this process remembers.
    """
    if open_.turn.taken() or any(lent.user is not None for lent in (open_.opening, *open_.readers)):
        return False
    for db in open_.connections():
        if sys.version_info >= (3, 12):
            db.setconfig(sqlite3.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, True)  # noqa: FBT003 -- by position alone
        elif _left_log(path):
            return False
        db.close()
    open_.forget()
    return True


def _left_log(path: str) -> bool:
    """Return whether there is a log that nobody has open."""
    import fcntl  # noqa: PLC0415 -- where there are forks

    try:
        if not os.stat(path + "-wal").st_size:  # noqa: PTH116 -- as above
            return False
        with Path(path).open("r+b") as file:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 510, 0x4000_0002)  # where SQLite's readers lock
    except OSError:
        return False  # there is none, or somebody has it
    return True


def open_file(path: str, durability: str, mode: str, lent: Lent) -> FileConnection:
    """Open a file of ours, brought up to date if need be. ``mode``: ``rw``, or ``rwc`` to make it."""
    db = connect(path, mode)
    try:
        db.execute("BEGIN")
        version = read_version(db, path)
        db.execute("COMMIT")
        _use_log(db, path)
        db.execute(f"PRAGMA synchronous = {durability}")
        db.execute("PRAGMA secure_delete = ON")  # what was deleted or replaced is overwritten: see Ledger.erase
        # Elsewhere than on a Mac these do nothing; there fsync alone does not reach the disk.
        db.execute("PRAGMA fullfsync = 1")
        db.execute("PRAGMA checkpoint_fullfsync = 1")
        if version != len(STEPS):
            db.execute("BEGIN IMMEDIATE")
            bring_up_to_date(db, path)
            db.execute("COMMIT")
        found = Path(path).stat()
        connection = lent.connection = FileConnection(db, (found.st_dev, found.st_ino))
    except BaseException:
        db.close()
        raise
    return connection


def _use_log(db: sqlite3.Connection, path: str) -> None:
    (journal,) = db.execute("PRAGMA journal_mode = WAL").fetchone()
    if journal != "wal":
        raise StoreUnavailable(f"{path}: its file system has no shared memory for SQLite's log; {NOTHING}")


def connect(path: str, mode: str) -> sqlite3.Connection:
    """Connect, with SQLite's own busy handler off (``timeout=0``): it lets others starve."""
    return sqlite3.connect(
        f"{Path(path).as_uri()}?mode={mode}", timeout=0, isolation_level=None, check_same_thread=False, uri=True
    )


def try_begin(db: sqlite3.Connection) -> bool:
    """Begin to write, unless somebody else does."""
    try:
        db.execute("BEGIN IMMEDIATE")
    except sqlite3.OperationalError as error:
        if is_busy(error):
            return False
        raise
    return True


def cut_log(db: sqlite3.Connection, path: str, longest: int) -> int:
    """Cut a log beyond ``longest``, which waits a moment for those who read it. Return the next ``longest``."""
    try:
        size = os.stat(path + "-wal").st_size  # noqa: PTH116 -- as above
    except OSError:
        return longest
    if size <= longest:
        return longest
    db.execute("PRAGMA busy_timeout = 300")
    (in_vain, _, _) = db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    db.execute("PRAGMA busy_timeout = 0")
    return LONG_LOG + (size if in_vain else 0)


def wipe(pool: Any) -> None:
    """Write the file anew, where it is small, and empty the log into it, as far as who else has it open lets it.

    What was deleted was overwritten already, but for copies that SQLite leaves where it moves rows within pages. A
    large file is not written anew: others would wait too long.
    """
    pool.write(lambda _: None)  # whose connection it is then
    with suppress(sqlite3.Error):
        pool._in_turn(_wipe, pool)


def _wipe(pool: Any) -> None:
    if not pool.turn.take(pool.timeout) or pool._open.writer is None:
        return
    db: sqlite3.Connection = pool._open.writer.db
    db.execute(f"PRAGMA busy_timeout = {int(pool.timeout * 1000)}")
    try:
        if os.stat(pool.path).st_size <= SMALL:  # noqa: PTH116 -- as above
            with suppress(sqlite3.OperationalError):  # somebody reads: the log is tried all the same
                db.execute("VACUUM")
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    finally:
        db.execute("PRAGMA busy_timeout = 0")

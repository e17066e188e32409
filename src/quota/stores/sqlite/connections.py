"""The SQLite store's open connections, and how one is opened."""

from __future__ import annotations

import os
import sqlite3
import sys
import threading
from pathlib import Path
from typing import Any, NamedTuple

from ...errors import StoreUnavailable
from ...process.atomic import at_once
from .fair_queue import Line
from .schema import NOTHING, STEPS, bring_up_to_date, is_busy, read_version

LONG_LOG = 8 << 20
"""Bytes beyond which the log is cut: readers that overlap for ever keep SQLite from beginning it anew by itself."""


class Opened(NamedTuple):
    """A connection, and which file it is to."""

    db: sqlite3.Connection
    file: tuple[int, int]


class Held:
    """Room for a connection, and which call uses it: noted in a single step each, so that no interrupt loses one."""

    __slots__ = ("opened", "user")

    def __init__(self, user: object = None) -> None:
        self.opened: Opened | None = None
        self.user = user


class Kept:
    """What is open: apart from its user, so that it can be closed when nobody holds that any more.

    ``opening``: the next writer, until it is the writer.
    """

    def __init__(self, line: Line, turn: Any, lock: threading.RLock) -> None:
        self.writer: Opened | None = None
        self.opening = Held()
        self.readers: list[Held] = []
        self.line = line
        self.turn = turn
        self.lock = lock
        self.pid = os.getpid()

    def connections(self) -> list[sqlite3.Connection]:
        """All that are open, but for those that some thread reads with."""
        idle = [held.opened for held in self.readers if held.user is None]
        found = [self.writer, self.opening.opened, *idle]
        return [opened.db for opened in found if opened is not None]

    def forget(self) -> None:
        """Whatever ``connections`` gave is no longer kept."""
        self.writer, self.opening = None, Held()
        self.readers = [held for held in self.readers if held.user is not None]


def close_all(kept: Kept) -> None:
    """Close everything that nobody reads with; twice is fine."""
    for db in kept.connections():
        db.close()
    kept.forget()
    kept.line.close()


def close_unused(kept: Kept) -> None:
    """Close what nobody uses: at the interpreter's exit threads may still be in the middle of calls."""
    if kept.pid != os.getpid():
        return  # a forked child that never used them
    if kept.turn._is_owned() or not kept.turn.acquire(blocking=False):
        return
    try:
        with kept.lock:
            close_all(kept)
    finally:
        kept.turn.release()


def close_inherited(kept: Kept, path: str) -> bool:
    """Close what a forked child has of its parent's; False where a thread that is not here was using some of it.

    The child holds none of the locks that SQLite's memory says it holds; whoever has the file open does. The last
    connection to close would put the log's content into the file and remove it. That is the business of those who have
    the file open; it must not be done to a log of theirs, or one that a crash left, from what this process remembers.
    """
    if _is_taken(kept.turn) or any(held.user is not None for held in (kept.opening, *kept.readers)):
        return False
    for db in kept.connections():
        if sys.version_info >= (3, 12):
            db.setconfig(sqlite3.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, True)  # noqa: FBT003 -- by position alone
        elif _left_log(path):
            return False
        db.close()
    kept.forget()
    return True


def _is_taken(turn: Any) -> bool:
    """Whether any thread has the turn."""
    try:
        at_once((turn.acquire, False), (turn.release,))  # what another thread has cannot be released
    except RuntimeError:
        return True
    return bool(turn._is_owned())


def _left_log(path: str) -> bool:
    """Whether there is a log that nobody has open."""
    import fcntl  # noqa: PLC0415 -- where there are forks

    try:
        if not os.stat(path + "-wal").st_size:  # noqa: PTH116 -- as below
            return False
        with Path(path).open("r+b") as file:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 510, 0x4000_0002)  # where SQLite's readers lock
    except OSError:
        return False  # there is none, or somebody has it
    return True


def open_file(path: str, durability: str, mode: str, held: Held) -> Opened:
    """A new connection to a file of ours, brought up to date if need be. ``mode``: ``rw``, or ``rwc`` to make it."""
    db = connect(path, mode)
    try:
        db.execute("BEGIN")
        version = read_version(db, path)
        db.execute("COMMIT")
        _use_log(db, path)
        db.execute(f"PRAGMA synchronous = {durability}")
        # Elsewhere than on a Mac these do nothing; there fsync alone does not reach the disk.
        db.execute("PRAGMA fullfsync = 1")
        db.execute("PRAGMA checkpoint_fullfsync = 1")
        if version != len(STEPS):
            db.execute("BEGIN IMMEDIATE")
            bring_up_to_date(db, path)
            db.execute("COMMIT")
        found = Path(path).stat()
        opened = held.opened = Opened(db, (found.st_dev, found.st_ino))
    except BaseException:
        db.close()
        raise
    return opened


def _use_log(db: sqlite3.Connection, path: str) -> None:
    (journal,) = db.execute("PRAGMA journal_mode = WAL").fetchone()
    if journal != "wal":
        raise StoreUnavailable(f"{path}: its file system has no shared memory for SQLite's log; {NOTHING}")


def connect(path: str, mode: str) -> sqlite3.Connection:
    """SQLite's own busy handler is off (``timeout=0``): it lets others starve."""
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


def moved(opened: Opened, path: str) -> bool:
    """Whether the path is another file by now than the one that was opened."""
    try:
        found = os.stat(path)  # noqa: PTH116 -- before every other call, and twice as fast
    except OSError:
        return True
    return opened.file != (found.st_dev, found.st_ino)


def cut_log(db: sqlite3.Connection, path: str, longest: int) -> int:
    """Cut a log that has grown beyond ``longest``, which waits a moment for those who read it; when to do so again."""
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

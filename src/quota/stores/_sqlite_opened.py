"""The SQLite store's open connections, and how one is opened."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import NamedTuple

from ..errors import StoreUnavailable
from ._sqlite_schema import NOTHING, STEPS, bring_up_to_date, is_busy, read_version
from ._sqlite_turns import Line


class Opened(NamedTuple):
    """A connection, and which file it is to."""

    db: sqlite3.Connection
    file: tuple[int, int]


class Kept:
    """What is open: apart from its user, so that it can be closed when nobody holds that any more."""

    def __init__(self, line: Line) -> None:
        self.writer: Opened | None = None
        self.idle: list[Opened] = []
        self.line = line

    def forget(self) -> list[sqlite3.Connection]:
        """Give out all connections; none is left."""
        found = [opened.db for opened in (self.writer, *self.idle) if opened is not None]
        self.writer, self.idle = None, []
        return found


def close_all(kept: Kept) -> None:
    """Close everything."""
    for db in kept.forget():
        db.close()
    kept.line.close()


def open_file(path: str, durability: str, mode: str) -> Opened:
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
    except BaseException:
        db.close()
        raise
    return Opened(db, (found.st_dev, found.st_ino))


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

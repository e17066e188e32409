"""The SQLite store's file: its tables, its version, and what SQLite's errors mean."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

from ...errors import QuotaError, StoreBusy, StoreUnavailable
from ...key import new_number
from ..texts import text_beside

APPLICATION = 0x71756F74
"""Marks a file as ours: "quot"."""

NOTHING = "nothing was charged"

_TABLES = text_beside(__package__, "tables.sql")


def _create(db: sqlite3.Connection) -> None:
    """Make version 6.

    ``keys``, ``digests``, ``plans``, ``key_plans`` (which key or account, by its subject, is on which plan) and
    ``scheduled`` (which one it goes to, and when) are the directory; ``accounts`` are those that have a count, as
    several keys share them, other accounts are below or they are on a plan, ``account_entries`` those that something
    was said of. A subject is a key's number or, negative, an account's. ``counts`` holds what plain charges move, small
    and apart from ``records``, the rest of what is remembered of a subject; ``remembered`` are remembered requests and
    refunds; ``events`` are the outbox. ``version`` and ``plans`` are drawn anew whenever anything but a plain charge
    changed a subject or its directory entry, or any plan: a process's copy is fresh while they stand.
    ``keys.last_used`` is the minute of the last admission once the record, which knows it else, is forgotten.
    ``removed`` are keys that are gone and whose days of usage are told until they are forgotten: a number is never
    another key's, so their records stay where they were.
    """
    for statement in _TABLES.split(";"):
        if statement.strip():
            db.execute(statement)
    db.execute("INSERT INTO ledger VALUES (1, ?, 0)", (new_number(),))


def _unreleased(_: sqlite3.Connection) -> None:
    """Make nothing: tables of versions that were never released had other names, and such a file is refused."""


UNRELEASED = 6
"""The first version that is read."""

STEPS: tuple[Callable[[sqlite3.Connection], None], ...] = (*[_unreleased] * 5, _create)
"""Functions that make each version of the schema out of the one before; their number is this version."""


def read_version(db: sqlite3.Connection, path: str) -> int:
    """Read, inside a transaction, the schema's version in a file that is ours; 0 in an empty one.

    Raises:
        StoreUnavailable: a database of something else, of a newer quota, or of one before the first release.
    """
    (application,) = db.execute("PRAGMA application_id").fetchone()
    (version,) = db.execute("PRAGMA user_version").fetchone()
    if application == APPLICATION:
        if version > len(STEPS):
            raise StoreUnavailable(
                f"{path} is of schema version {version}, this quota knows versions up to {len(STEPS)}; {NOTHING}"
            )
        if version < UNRELEASED:
            raise StoreUnavailable(
                f"{path} is of schema version {version}, which was never released: begin a new file; {NOTHING}"
            )
        return int(version)
    (tables,) = db.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if application or version or tables:
        raise StoreUnavailable(f"{path} is a SQLite database of something else; {NOTHING}", reached=True)
    return 0


def bring_up_to_date(db: sqlite3.Connection, path: str) -> None:
    """Make the tables, or make an older version this one, inside a transaction."""
    version = read_version(db, path)
    if version == len(STEPS):
        return
    for step in STEPS[version:]:
        step(db)
    # Processes that were there before look again, and find a version that they may not know.
    db.execute("UPDATE ledger SET plans = ?", (new_number(),))
    db.execute(f"PRAGMA application_id = {APPLICATION}")
    db.execute(f"PRAGMA user_version = {len(STEPS)}")


_BUSY = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL)
_MEANING: Mapping[int, str] = MappingProxyType(
    {
        sqlite3.SQLITE_CANTOPEN: "it cannot be opened (a directory, or a folder that is not there or not writable)",
        sqlite3.SQLITE_READONLY: "it or its folder cannot be written to",
        sqlite3.SQLITE_PERM: "it may not be used",
        sqlite3.SQLITE_FULL: "the disk is full",
        sqlite3.SQLITE_NOTADB: "it is not a SQLite database",
        sqlite3.SQLITE_CORRUPT: "it is damaged",
        sqlite3.SQLITE_IOERR: "its disk cannot be read or written",
        sqlite3.SQLITE_SCHEMA: "its tables are not as they should be",
    }
)


def _code(error: sqlite3.Error) -> int:
    """Return SQLite's primary result code; 0 for what Python itself found wrong."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def is_busy(error: sqlite3.Error) -> bool:
    """Return whether somebody else has the file, for now."""
    return _code(error) in _BUSY


def writes_seen(db: sqlite3.Connection) -> int | None:
    """Return a number that changes with each write of another connection; None where the file is busy."""
    try:
        (version,) = db.execute("PRAGMA data_version").fetchone()
    except sqlite3.OperationalError as error:
        if not is_busy(error):
            raise
        return None
    return int(version)


def failure(error: sqlite3.Error, path: str) -> QuotaError:
    """Return what a call that was rolled back raises: the file by name, what is wrong with it, SQLite's own words."""
    if is_busy(error):
        return StoreBusy(f"{path} is in use; {NOTHING}")
    meaning = _MEANING.get(_code(error))
    text = f"{meaning} ({error})" if meaning else str(error)
    mine = os.access in os.supports_effective_ids
    beside = [Path(path + end) for end in ("", "-wal", "-shm", "-turn")]
    foreign = [str(name) for name in beside if name.exists() and not os.access(name, os.W_OK, effective_ids=mine)]
    if foreign and _code(error) in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM):
        text += f"; this user may not write {', '.join(foreign)}: one user should own the file and what lies beside it"
    return StoreUnavailable(f"{path}: {text}; {NOTHING}", reached=True)  # a file says so at once: nobody waits for it

"""One machine, many processes: a SQLite file, and nothing but the standard library. Exact across kill -9.

A decision is one transaction, begun with ``BEGIN IMMEDIATE``: the key and its plan are looked at, the rule decides in
Python, the counts are written, committed. Readers never wait for writers.
"""

from __future__ import annotations

import os
import sqlite3
import struct
from collections.abc import Callable
from contextlib import closing, suppress
from copy import copy
from pathlib import Path
from typing import Any, TypeVar

from ...clock import Clock, ManualClock, system_clock
from ...errors import InvalidValue, StoreUnavailable
from ..base import COMMON, make_options
from ..urls import seconds_option, shown_url, split_url, whole_option
from .pool import Pool
from .records import load, prune
from .requests import Decisions
from .schema import read_version

T = TypeVar("T")

_DURABILITY = ("full", "normal")


class SQLiteStore(Decisions):
    """A ledger in the SQLite file ``path``, shared by any number of threads and processes of one machine.

    ``durability``: ``"full"`` waits for the disk at each admission, so that what was acknowledged survives a power
    loss. ``"normal"`` does not: a crash of the process loses nothing, but a power loss (or a crash of the operating
    system) may lose the last moments, whose units can then be granted again; the file stays whole. ``timeout``:
    seconds that a call waits for its turn. Further options as in every store.

    The file is made when it is first used, with ``-wal``, ``-shm`` and ``-turn`` beside it. It must be on a local disk:
    SQLite's log does not work over a network. May be opened before a fork; connections never cross it.

    Raises:
        InvalidValue: an option that cannot be meant; also for ``:memory:``, which no two connections would share
            (``memory://`` is the store in memory).
    """

    exact_across_failover = True
    blocking = True

    def __init__(
        self, path: str | os.PathLike[str], *, durability: str = "full", timeout: float = 5.0, **options: Any
    ) -> None:
        super().__init__()
        name = os.fspath(path)
        if not isinstance(name, str) or not name or name.startswith(":memory:") or "\0" in name:
            raise InvalidValue("path", name, "the path of a file; memory:// is the store in memory")
        if durability not in _DURABILITY:
            raise InvalidValue("durability", durability, "'full' or 'normal'")
        if type(timeout) not in (int, float) or not 0 <= timeout < 10**6:
            raise InvalidValue("timeout", timeout, "seconds, at least 0 and below 1000000")
        self.options = make_options(**options)
        self.path = os.path.abspath(name)  # noqa: PTH100 -- symbolic links stay, as SQLite follows them itself
        self._pool = Pool(self.path, timeout, durability, self._undone)
        self._clock: Clock = system_clock

    def migrate(self) -> int:
        """Make the file, or bring an older one up to date. Return the schema's version. Opening does so too."""
        return self._pool.read(read_version, self.path)

    def check(self) -> list[str]:
        """Return what is wrong with the file: SQLite's own check, and whether its tables agree. Nothing, mostly."""
        return self._pool.read(_problems)

    def use_clock(self, clock: Clock) -> None:
        """Take the clock of a ledger: ``prune`` goes by it. Reservations lapse by the machine's, or a ManualClock."""
        self._clock = clock
        self._lapse_clock = None if isinstance(clock, ManualClock) else system_clock

    def in_one_step(self, work: Callable[[SQLiteStore], T]) -> T:
        """Do all that ``work`` changes in the directory of the store that it is given in one transaction.

        What it raises, or a crash, undoes all of it. Until it returns others cannot write; this store is ``StoreBusy``.
        """

        def inside(db: sqlite3.Connection) -> T:
            view: Any = copy(self)
            view._pool = _Within(db)
            return work(view)

        return self._pool.write(inside)

    def prune(self) -> int:
        """Drop the records and remembered requests that are dead. Return how many. It goes by itself too."""
        gone, looked, now = 0, 1, self._clock()
        while looked:
            looked, dropped = self._pool.write(prune, now, self.options, 500)
            gone += dropped
        return gone

    def backup(self, path: str | os.PathLike[str]) -> None:
        """Copy the whole file as of one moment to a new one, while others go on using it.

        Raises ``InvalidValue`` for a path that is there already.
        """
        target = Path(path)
        if target.exists():
            raise InvalidValue("path", str(target), "a file that is not there yet: a backup never replaces one")
        part = target.with_name(f"{target.name}-part")
        try:
            self._pool.read(_copy_to, part)
            part.replace(target)
        except OSError as error:
            raise StoreUnavailable(f"{target}: {error.strerror}; no backup was made") from error
        finally:
            with suppress(OSError):
                part.unlink()

    def close(self) -> None:
        """Close all connections, once those who use them are done. Twice is fine; a later call opens new ones."""
        self._pool.close()


class _Within:
    """In place of a pool, the transaction that a store is in; what a part of it raises undoes that part."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def write(self, work: Callable[..., T], *args: Any) -> T:
        self._db.execute("SAVEPOINT part")
        try:
            answer = work(self._db, *args)
        except BaseException:
            if self._db.in_transaction:  # SQLite itself takes all of it back where it cannot go on
                self._db.execute("ROLLBACK TO part")
                self._db.execute("RELEASE part")
            raise
        self._db.execute("RELEASE part")
        return answer

    def read(self, work: Callable[..., T], *args: Any) -> T:
        return work(self._db, *args)


def _copy_to(db: sqlite3.Connection, path: Path) -> None:
    try:
        with closing(sqlite3.connect(path, isolation_level=None)) as copy:
            db.backup(copy)
            (said,) = copy.execute("PRAGMA quick_check(1)").fetchone()
            if said != "ok":
                raise StoreUnavailable(f"the copy is damaged, as the file is; no backup was made at {path}")
            # Whole in one file, whoever moves it where.
            copy.execute("PRAGMA journal_mode = DELETE")
    except sqlite3.Error as error:
        raise StoreUnavailable(f"{path}: {error}; no backup was made") from error


_AGREEMENTS = {
    "SELECT id FROM keys LEFT JOIN digests ON key = number GROUP BY number HAVING count(digest) <> "
    "json_array_length(body, '$.secrets')": "key {}: not all of its secrets are found",
    "SELECT key FROM digests WHERE key NOT IN (SELECT number FROM keys)": "a secret of a key {} that is not there",
    "SELECT key FROM key_plans WHERE key NOT IN (SELECT number FROM keys UNION ALL SELECT -number FROM accounts)":
        "a plan of a key or account {} that is not there",
    "SELECT key FROM scheduled WHERE key NOT IN (SELECT number FROM keys UNION ALL SELECT -number FROM accounts) "
    "OR plan NOT IN (SELECT number FROM plans)": "a plan that a key or account {} goes to, of which one is not there",
    "SELECT subject FROM counts WHERE subject NOT IN (SELECT subject FROM records)":
        "the counts of subject {} have no record",
    "SELECT subject FROM records WHERE subject NOT IN (SELECT subject FROM counts)":
        "the record of subject {} has no counts",
    "SELECT subject FROM counts WHERE subject < 1 << 61 AND subject NOT IN (SELECT number FROM keys UNION ALL "
    "SELECT number FROM removed UNION ALL SELECT -number FROM accounts)": "counts of a subject {} that is not there",
}  # fmt: skip


def _problems(db: sqlite3.Connection) -> list[str]:
    found = [text for (text,) in db.execute("PRAGMA integrity_check") if text != "ok"]
    for query, text in _AGREEMENTS.items():
        found += [text.format(who) for (who,) in db.execute(query)]
    for (subject,) in db.execute("SELECT subject FROM records").fetchall():
        try:
            load(db, subject)
        except (ValueError, TypeError, LookupError, struct.error):
            found.append(f"the record of subject {subject} cannot be read")
    return found


def open_url(url: str, *, asynchronous: bool = False) -> SQLiteStore:  # noqa: ARG001 -- AsyncLedger asks it in threads
    """``sqlite:///relative.db``, ``sqlite:////absolute.db?durability=normal&timeout=5&max_skew=300``.

    Behind the three slashes the path stands letter for letter, but that ``?`` begins the options.
    """
    parts, options = split_url(url)
    if parts.netloc or parts.fragment or not parts.path.startswith("/") or parts.path == "/":
        raise InvalidValue("store", shown_url(url), "sqlite:///PATH, where an absolute PATH brings a fourth slash")
    own: dict[str, Any] = {name: whole_option(options, name) for name in COMMON if name in options}
    if "timeout" in options:
        own["timeout"] = seconds_option(options, "timeout")
    if "durability" in options:
        own["durability"] = options.pop("durability")
    if options:
        raise InvalidValue(
            "store", shown_url(", ".join(options)), f"the options {', '.join(('durability', 'timeout', *COMMON))}"
        )
    return SQLiteStore(parts.path[1:], **own)

"""Power loss for SQLite: a VFS that records what is written and synced, and the files that a power loss would leave.

The store under test runs on apsw, another build of the same engine, whose files pass through a VFS written here. What
was written after a file's last sync may be there or not, in any combination, each write whole, in part or not at all.
"""

from __future__ import annotations

import os
import random
import sqlite3
from pathlib import Path

import apsw

_SECTOR = 512


class _File(apsw.VFSFile):
    def __init__(self, vfs, name, flags):
        self._vfs, self._name = vfs, os.path.basename(name.filename() if hasattr(name, "filename") else name)
        super().__init__("", name, flags)

    def xWrite(self, data, offset):
        self._vfs.log.append(("write", self._name, offset, bytes(data)))
        super().xWrite(data, offset)

    def xTruncate(self, size):
        self._vfs.log.append(("truncate", self._name, size))
        super().xTruncate(size)

    def xSync(self, flags):
        super().xSync(flags)
        self._vfs.log.append(("sync", self._name))


class Recorder(apsw.VFS):
    """The VFS. ``log``: what was done, in order; the test adds its own entries in between."""

    def __init__(self):
        self.log = []
        self.name = f"recorder{id(self)}"
        super().__init__(self.name, "")

    def xOpen(self, name, flags):
        return _File(self, name, flags)

    def xDelete(self, name, syncdir):
        self.log.append(("delete", os.path.basename(name), 0))
        super().xDelete(name, syncdir)

    def connect(self, path, mode):
        """In place of the store's own way to connect."""
        return Connection(self, path)


class _Rows:
    """A cursor as sqlite3 has it."""

    def __init__(self, cursor, db):
        self._rows = iter(list(cursor))
        self.rowcount, self.lastrowid = db.changes(), db.last_insert_rowid()

    def fetchone(self):
        return next(self._rows, None)

    def fetchall(self):
        return list(self._rows)

    def __iter__(self):
        return self._rows


class Connection:
    """As much of sqlite3's connection as the store uses, over apsw."""

    def __init__(self, recorder, path):
        flags = apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE
        self._db = apsw.Connection(path, vfs=recorder.name, flags=flags)
        self._db.execute("PRAGMA wal_autocheckpoint = 12")  # often: a checkpoint is where most can go wrong

    @property
    def in_transaction(self):
        return not self._db.getautocommit()

    def execute(self, sql, bindings=()):
        try:
            return _Rows(self._db.execute(sql, bindings), self._db)
        except apsw.Error as error:
            told = sqlite3.OperationalError(str(error))
            told.sqlite_errorcode = error.extendedresult
            raise told from error

    def executemany(self, sql, rows):
        for row in rows:
            self.execute(sql, row)

    def close(self):
        self._db.close()


def after_power_loss(log, folder, pick: random.Random):
    """Write the files that a power loss at the end of ``log`` leaves into ``folder``.

    ``pick`` decides the fate of each write that was not synced; one that always picks the first drops them all.
    """
    files: dict[str, bytearray] = {}
    synced = {entry[1]: place for place, entry in enumerate(log) if entry[0] == "sync"}
    begun = {}
    for place, entry in enumerate(log):
        if entry[0] == "write":
            begun.setdefault(entry[1], place)
    for place, entry in enumerate(log):
        if entry[0] not in ("write", "truncate", "delete"):
            continue
        kind, name, offset = entry[:3]
        safe = place < synced.get(name, -1)
        if kind == "delete":
            # The first sync of a file syncs its folder, with all that was deleted there before.
            if any(place < begun[other] < at for other, at in synced.items()) or pick.choice([False, True]):
                files.pop(name, None)
            continue
        content = files.setdefault(name, bytearray())
        if kind == "truncate":
            if safe or pick.choice([False, True]):
                del content[offset:]
            continue
        data = entry[3]
        if not safe:
            fate = pick.choice(["lost", "whole", "torn"])
            data = (
                b""
                if fate == "lost"
                else data
                if fate == "whole"
                else data[: _SECTOR * pick.randint(0, len(data) // _SECTOR)]
            )
        if data:
            content.extend(bytes(max(0, offset - len(content))))
            content[offset : offset + len(data)] = data
    for name, content in files.items():
        Path(folder, name).write_bytes(content)


class Nothing(random.Random):
    """The worst of luck: whatever was not synced is gone."""

    def choice(self, options):
        return options[0]

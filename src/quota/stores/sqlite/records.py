"""The SQLite store's records: what plain charges move is packed, the rest is JSON; remembered requests lie apart."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable
from functools import cache
from hashlib import sha256
from sqlite3 import Connection
from typing import Any

from ...clock import DAY_US
from ...key import Caller, new_number
from ...operations.request import Request, forgetful
from ...rule.entries import Refund
from ...rule.kept import Kept
from ...rule.limits import StoreOptions
from ...rule.record import Record
from ..remembered import decode_remembered, encode_remembered
from ..texts import to_json

Moving = bytes | str

_LAST = 2**62
_CALLERS = 2**61
"""From here on the numbers of callers."""


def number_of(caller: Caller) -> int:
    """The number of a caller's record: one that no key or account has. Two of a number would share their count."""
    return _CALLERS + int.from_bytes(sha256(caller.id.encode("utf-8", "surrogatepass")).digest()[:8], "big") % _CALLERS


def _terms(subject: int, options: StoreOptions) -> StoreOptions:
    return forgetful(options) if subject >= _CALLERS else options


@cache
def _packing(count: int) -> struct.Struct:
    return struct.Struct(f"<{count}q")


def pack(record: Record) -> Moving:
    """Pack the numbers that plain charges move."""
    numbers = [record.at]
    for meter in record.meters:
        numbers += (meter.total, meter.minute, meter.hour)
        for bucket in meter.buckets:
            numbers += (bucket.level, bucket.at)
    numbers.append(record.last_used)
    try:
        return _packing(len(numbers)).pack(*numbers)
    except struct.error:  # beyond 64 bits: a bucket may hold any number of units times its scale
        return to_json(numbers)


def unpack(record: Record, moving: Moving) -> None:
    """Set the numbers that plain charges move."""
    numbers = json.loads(moving) if isinstance(moving, str) else _packing(len(moving) // 8).unpack(moving)
    record.at = numbers[0]
    place = 1
    for meter in record.meters:
        meter.total, meter.minute, meter.hour = numbers[place : place + 3]
        place += 3
        for bucket in meter.buckets:
            bucket.level, bucket.at = numbers[place : place + 2]
            place += 2
    record.last_used = numbers[place]


def last_used_of(moving: Moving | None) -> int:
    """Return the minute of the last admission that was packed; 0 where none was."""
    if moving is None:
        return 0
    return int(json.loads(moving)[-1] if isinstance(moving, str) else _packing(1).unpack(moving[-8:])[0])


def latest(db: Connection, subject: int) -> int:
    """Return the latest instant that a subject's record knows; 0 where there is none."""
    row = db.execute("SELECT moving FROM counts WHERE subject = ?", (subject,)).fetchone()
    if row is None:
        return 0
    at: int = json.loads(row[0])[0] if isinstance(row[0], str) else _packing(1).unpack_from(row[0])[0]
    return at


def encode_body(record: Record) -> str:
    """Encode all else but remembered requests: equal as long as nothing but plain charges changed the record."""
    data = record.encode()
    data[0] = data[3] = 0
    data[8] = None
    for meter in data[5]:
        meter[3:6] = 0, 0, 0
        for bucket in meter[8]:
            bucket[3:5] = 0, 0
    return to_json(data)


class LoadedRecord:
    """One subject's record as found: its row's version, what was packed, its body; all None when there is none."""

    __slots__ = ("body", "moving", "record", "subject", "version")

    def __init__(self, subject: int, record: Record) -> None:
        self.subject = subject
        self.record = record
        self.version: int | None = None
        self.moving: Moving | None = None
        self.body: str | None = None


def load(db: Connection, subject: int) -> LoadedRecord:
    """Load a subject's record, or a new one that knows nothing from before what was pruned."""
    row = db.execute(
        "SELECT version, moving, body FROM counts JOIN records USING (subject) WHERE subject = ?", (subject,)
    ).fetchone()  # fmt: skip
    if row is None:
        (floor,) = db.execute("SELECT floor FROM ledger").fetchone()
        return LoadedRecord(subject, Record(new_number(), floor))
    found = LoadedRecord(subject, Record())
    found.version, found.moving, found.body = row
    found.record = Record.decode(json.loads(row[2]))
    unpack(found.record, row[1])
    return found


def keep(db: Connection, found: LoadedRecord, options: StoreOptions) -> None:
    """Write what has changed of a record, and what was found along with it."""
    record = found.record
    moving, body = pack(record), encode_body(record)
    if body == found.body:
        db.execute("UPDATE counts SET moving = ? WHERE subject = ?", (moving, found.subject))
    else:
        found.version = new_number()
        options = _terms(found.subject, options)
        dead_at = _due(record.dead_after(options.retention, options.late)[0])
        db.execute("INSERT OR REPLACE INTO counts VALUES (?, ?, ?)", (found.subject, found.version, moving))
        db.execute(
            "INSERT INTO records VALUES (?, ?, ?) ON CONFLICT (subject) DO UPDATE SET dead_at = excluded.dead_at, "
            "body = excluded.body", (found.subject, dead_at, body),
        )  # fmt: skip
    found.moving, found.body = moving, body


def _due(dead_at: int) -> int:
    """Return when to look at a record again: at a day's end, so that its index is seldom touched; 64 bits at most."""
    return min(-(-dead_at // DAY_US) * DAY_US, _LAST)


def drop(db: Connection, subject: int) -> None:
    """Forget a subject's record and remembered requests."""
    for table in ("counts", "records", "remembered"):
        db.execute(f"DELETE FROM {table} WHERE subject = ?", (subject,))  # noqa: S608 -- names from the line above


def forget_account(db: Connection, subject: int) -> None:
    """Forget an account, by its subject, that has neither keys nor a record: who joins it then is alone."""
    db.execute(
        "DELETE FROM accounts WHERE number = ? AND NOT EXISTS (SELECT 1 FROM counts WHERE subject = -number) "
        "AND NOT EXISTS (SELECT 1 FROM keys WHERE keys.account = accounts.id) "
        "AND NOT EXISTS (SELECT 1 FROM account_entries AS e WHERE e.id = accounts.id) "
        "AND NOT EXISTS (SELECT 1 FROM keys WHERE keys.id = accounts.id AND keys.account IS NULL)", (-subject,),
    )  # fmt: skip


def touch(db: Connection, subject: int) -> None:
    """Make copies of a subject stale, whose directory entry has changed."""
    db.execute("UPDATE counts SET version = ? WHERE subject = ?", (new_number(), subject))


def fetch_remembered(db: Connection, subject: int, request: Request, record: Record) -> None:
    """Load what a request may ask about: what is remembered under its id, and the refunds that bear on it."""
    refund = request.id if request.op == "refund" else None
    if request.op == "cancel" and request.args:  # whether it was cancelled before
        (refund,) = request.args
    if request.request_id is not None:
        row = _remembered(db, subject, f"q{request.request_id}")
        if row is not None:
            earlier = decode_remembered(request.request_id, [row[0], *json.loads(row[1])])
            record.requests = Kept((earlier,))
            refund = earlier.id
    if refund is not None:
        row = _remembered(db, subject, f"r{refund}")
        if row is not None:
            record.refunds = Kept((Refund(row[0], refund),))


def _remembered(db: Connection, subject: int, name: str) -> Any:
    return db.execute("SELECT until, body FROM remembered WHERE subject = ? AND name = ?", (subject, name)).fetchone()


def remembered_of(record: Record) -> dict[str, tuple[int, Any]]:
    """Return what a record knows of remembered requests and refunds, as rows."""
    found: dict[str, tuple[int, Any]] = {}
    for refund in record.refunds.all() if record.refunds else ():
        found[f"r{refund.name}"] = refund.until, ""
    for earlier in record.requests.all() if record.requests else ():
        found[f"q{earlier.name}"] = earlier.until, encode_remembered(earlier)[1:]
    return found


def keep_remembered(db: Connection, subject: int, remembered: Iterable[tuple[str, tuple[int, Any]]]) -> None:
    """Write remembered requests."""
    for name, (until, body) in remembered:
        db.execute("INSERT OR REPLACE INTO remembered VALUES (?, ?, ?, ?)", (subject, name, until, to_json(body)))


def prune(db: Connection, now: int, options: StoreOptions, most: int = 2) -> tuple[int, int]:
    """Look over the records and remembered requests that should be dead first. Return how many, and how many went.

    What lies dead for two windows is forgotten behind the floor: a call from before it is refused an answer.
    """
    gone = 0
    names = db.execute(
        "SELECT subject, name FROM remembered WHERE until <= ? ORDER BY until LIMIT ?", (now, most)
    ).fetchall()
    for row in names:
        gone += db.execute("DELETE FROM remembered WHERE subject = ? AND name = ?", row).rowcount
    dead = db.execute(
        "SELECT subject FROM records WHERE dead_at <= ? ORDER BY dead_at LIMIT ?", (now - options.max_skew, most)
    ).fetchall()  # fmt: skip
    for (subject,) in dead:
        gone += _bury(db, subject, now, options)
    return len(names) + len(dead), gone


def _bury(db: Connection, subject: int, now: int, options: StoreOptions) -> bool:
    options = _terms(subject, options)
    record = load(db, subject).record
    dead_at, floor = record.dead_after(options.retention, options.late)
    (remembered,) = db.execute("SELECT max(until) FROM remembered WHERE subject = ?", (subject,)).fetchone()
    dead_at = max(dead_at, remembered or 0)
    if dead_at + options.max_skew > now:
        db.execute("UPDATE records SET dead_at = ? WHERE subject = ?", (_due(dead_at), subject))
        return False
    if subject < _CALLERS:  # a clock gone wrong must not keep new keys out for what callers did then
        db.execute("UPDATE ledger SET floor = max(floor, ?)", (floor,))
        if record.last_used:
            db.execute("UPDATE keys SET last_used = ? WHERE number = ?", (record.last_used, subject))
    drop(db, subject)
    db.execute("DELETE FROM removed WHERE number = ?", (subject,))
    forget_account(db, subject)
    return True

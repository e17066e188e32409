"""The SQLite store's records: what plain charges move is packed small, the rest is JSON; memos have their own rows."""

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
from ...rule.limits import Terms
from ...rule.record import Record
from ..remembered import decode_memo, encode_memo
from ..texts import to_json

Moving = bytes | str

_LAST = 2**62
_CALLERS = 2**61
"""From here on the numbers of callers."""


def number_of(caller: Caller) -> int:
    """The number of a caller's record: one that no key or account has. Two of a number would share their count."""
    return _CALLERS + int.from_bytes(sha256(caller.id.encode("utf-8", "surrogatepass")).digest()[:8], "big") % _CALLERS


def _terms(party: int, terms: Terms) -> Terms:
    return forgetful(terms) if party >= _CALLERS else terms


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


def encode_body(record: Record) -> str:
    """Encode everything else, but for memos: equal as long as nothing but plain charges changed the record."""
    data = record.encode()
    data[0] = 0
    data[8] = None
    for meter in data[5]:
        meter[3:6] = 0, 0, 0
        for bucket in meter[8]:
            bucket[3:5] = 0, 0
    return to_json(data)


class Found:
    """One party's record as it was found: its row's version, what was packed, its body; all None when there is none."""

    __slots__ = ("body", "moving", "party", "record", "version")

    def __init__(self, party: int, record: Record) -> None:
        self.party = party
        self.record = record
        self.version: int | None = None
        self.moving: Moving | None = None
        self.body: str | None = None


def load(db: Connection, party: int) -> Found:
    """Load a party's record, or a new one that knows nothing from before what was pruned."""
    row = db.execute(
        "SELECT version, moving, body FROM counts JOIN records USING (party) WHERE party = ?", (party,)
    ).fetchone()  # fmt: skip
    if row is None:
        (floor,) = db.execute("SELECT floor FROM ledger").fetchone()
        return Found(party, Record(new_number(), floor))
    found = Found(party, Record())
    found.version, found.moving, found.body = row
    found.record = Record.decode(json.loads(row[2]))
    unpack(found.record, row[1])
    return found


def keep(db: Connection, found: Found, terms: Terms) -> None:
    """Write what has changed of a record, and what was found along with it."""
    record = found.record
    moving, body = pack(record), encode_body(record)
    if body == found.body:
        db.execute("UPDATE counts SET moving = ? WHERE party = ?", (moving, found.party))
    else:
        found.version = new_number()
        terms = _terms(found.party, terms)
        dead_at = _due(record.dead_after(terms.retention, terms.late)[0])
        db.execute("INSERT OR REPLACE INTO counts VALUES (?, ?, ?)", (found.party, found.version, moving))
        db.execute(
            "INSERT INTO records VALUES (?, ?, ?) ON CONFLICT (party) DO UPDATE SET dead_at = excluded.dead_at, "
            "body = excluded.body", (found.party, dead_at, body),
        )  # fmt: skip
    found.moving, found.body = moving, body


def _due(dead_at: int) -> int:
    """Return when to look at a record again: at a day's end, so that its index is seldom touched; 64 bits at most."""
    return min(-(-dead_at // DAY_US) * DAY_US, _LAST)


def drop(db: Connection, party: int) -> None:
    """Forget a party's record and memos."""
    for table in ("counts", "records", "memos"):
        db.execute(f"DELETE FROM {table} WHERE party = ?", (party,))  # noqa: S608 -- names from the line above


def forget_account(db: Connection, party: int) -> None:
    """Forget an account, by its party, that has neither keys nor a record: who joins it then is alone."""
    db.execute(
        "DELETE FROM accounts WHERE number = ? AND NOT EXISTS (SELECT 1 FROM counts WHERE party = -number) "
        "AND NOT EXISTS (SELECT 1 FROM keys WHERE keys.account = accounts.id) "
        "AND NOT EXISTS (SELECT 1 FROM keys WHERE keys.id = accounts.id AND keys.account IS NULL)", (-party,),
    )  # fmt: skip


def touch(db: Connection, party: int) -> None:
    """Make copies of a party stale, whose directory entry has changed."""
    db.execute("UPDATE counts SET version = ? WHERE party = ?", (new_number(), party))


def fetch_memos(db: Connection, party: int, request: Request, record: Record) -> None:
    """Let a record know the memos that a request may ask about: its own, and the refunds that bear on it."""
    refund = request.id if request.op == "refund" else None
    if request.request_id is not None:
        row = _memo(db, party, f"q{request.request_id}")
        if row is not None:
            memo = decode_memo(request.request_id, [row[0], *json.loads(row[1])])
            record.requests = Kept((memo,))
            refund = memo.id
    if refund is not None:
        row = _memo(db, party, f"r{refund}")
        if row is not None:
            record.refunds = Kept((Refund(row[0], refund),))


def _memo(db: Connection, party: int, name: str) -> Any:
    return db.execute("SELECT until, body FROM memos WHERE party = ? AND name = ?", (party, name)).fetchone()


def memos_of(record: Record) -> dict[str, tuple[int, Any]]:
    """Return what a record knows of remembered requests and refunds, as rows."""
    found: dict[str, tuple[int, Any]] = {}
    for refund in record.refunds.all() if record.refunds else ():
        found[f"r{refund.name}"] = refund.until, ""
    for memo in record.requests.all() if record.requests else ():
        found[f"q{memo.name}"] = memo.until, encode_memo(memo)[1:]
    return found


def keep_memos(db: Connection, party: int, memos: Iterable[tuple[str, tuple[int, Any]]]) -> None:
    """Write memos."""
    for name, (until, body) in memos:
        db.execute("INSERT OR REPLACE INTO memos VALUES (?, ?, ?, ?)", (party, name, until, to_json(body)))


def prune(db: Connection, now: int, terms: Terms, most: int = 2) -> tuple[int, int]:
    """Look over the records and memos that should be dead first, ``most`` of each. Return how many, and how many went.

    What lies dead for two windows is forgotten behind the floor: a call from before it is refused an answer.
    """
    gone = 0
    names = db.execute("SELECT party, name FROM memos WHERE until <= ? ORDER BY until LIMIT ?", (now, most)).fetchall()
    for row in names:
        gone += db.execute("DELETE FROM memos WHERE party = ? AND name = ?", row).rowcount
    dead = db.execute(
        "SELECT party FROM records WHERE dead_at <= ? ORDER BY dead_at LIMIT ?", (now - terms.max_skew, most)
    ).fetchall()  # fmt: skip
    for (party,) in dead:
        gone += _bury(db, party, now, terms)
    return len(names) + len(dead), gone


def _bury(db: Connection, party: int, now: int, terms: Terms) -> bool:
    terms = _terms(party, terms)
    dead_at, floor = load(db, party).record.dead_after(terms.retention, terms.late)
    (memos,) = db.execute("SELECT max(until) FROM memos WHERE party = ?", (party,)).fetchone()
    dead_at = max(dead_at, memos or 0)
    if dead_at + terms.max_skew > now:
        db.execute("UPDATE records SET dead_at = ? WHERE party = ?", (_due(dead_at), party))
        return False
    if party < _CALLERS:  # a clock gone wrong must not keep new keys out for what callers did then
        db.execute("UPDATE ledger SET floor = max(floor, ?)", (floor,))
    drop(db, party)
    forget_account(db, party)
    return True

"""The SQLite store's decisions: each in one transaction, by the rule, on copies of records that are checked in it.

A *copy* is what this process last saw of a key: its directory entry, its decoded records, and the headrooms that were
compiled for calls on them (``operations.headroom``). A process that has the file to itself for a moment expects its
copy to be fresh: a headroom decides first, and one guarded statement, a transaction of its own, swaps the numbers if
the copy was. What was decided on is then what was stored at that instant, as though it had looked inside.

Everything else is a transaction of several statements: one look at ``counts`` and ``ledger`` tells whether the copy is
fresh; then a headroom decides, or ``operations.perform``.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, lru_cache
from sqlite3 import Connection
from typing import Any

from ...clock import Clock
from ...decision import Decision
from ...operations import perform
from ...operations.compiled import compile_headroom
from ...operations.headroom import SeveralMeters, Told
from ...operations.request import LOOKS, Request, barred, refused
from ...operations.shape import Shape
from ...process.atomic import at_once
from ...rule.record import Record
from ...rule.subject import Subject
from .directory import Directory, KeyRow
from .records import (
    LoadedRecord,
    drop,
    fetch_remembered,
    keep,
    keep_remembered,
    load,
    pack,
    prune,
    remembered_of,
    unpack,
)

_MOST_COPIES = 65_536
_MOST_ROOMS = 8
"""Headrooms of one copy: those that were compiled last."""

_FRESH = "SELECT version, moving, (SELECT plans FROM ledger) FROM counts WHERE subject = ?"
_SWAP = (
    "UPDATE counts SET moving = ? WHERE subject = ? AND version = ? AND moving = ? AND (SELECT plans FROM ledger) = ?"
)


@cache
def _swap_all(count: int) -> str:
    """Write the guarded statement for several records: subjects and new numbers, subjects, plans, what was read."""
    alike = " OR ".join(["subject = ? AND version = ? AND moving = ?"] * count)
    return (
        f"UPDATE counts SET moving = CASE subject {'WHEN ? THEN ? ' * count}END "  # noqa: S608 -- no text of anybody's
        f"WHERE subject IN ({', '.join('?' * count)}) AND "
        f"(SELECT count(*) FROM counts, ledger WHERE plans = ? AND ({alike})) = {count}"
    )


_shape = lru_cache(1024)(Shape)


class Copy:
    """A key as this process last saw it. ``plans``: the state of all plans that its entry is of.

    It is what the ledger asks first: see ``take``.
    """

    __slots__ = ("decisions", "found", "key_entry", "plans", "ref", "rooms")

    def __init__(
        self, decisions: Decisions, ref: Any, key_entry: KeyRow, plans: int, found: list[LoadedRecord]
    ) -> None:
        self.decisions = decisions
        self.ref = ref
        self.key_entry = key_entry
        self.plans = plans
        self.found = found
        self.rooms: tuple[SeveralMeters, ...] = ()

    def take(  # as the ledger calls it
        self, now: int, cost: Any, api: str, route: str | None, address: str | None, scope: str | None, dry: bool
    ) -> Decision | None:
        """Decide a call on this copy, where it is this process's time; None where there is more to it.

        ``dry``: tell what would be decided, and take nothing.
        """
        for room in self.rooms:
            shape = room.shape
            if shape.serves(api, route):
                amounts = shape.asked(cost)
                if amounts is None or type(now) is not int or barred(room.key, address, scope):
                    break
                told: Decision | None = self.decisions._pool.swap(self._swap, room, amounts, now, dry, looks=dry)
                return told if told is None or dry or told.allowed else refused(told, api, route)
        return None

    def _swap(self, db: Connection, room: SeveralMeters, amounts: list[int], now: int, dry: bool) -> Decision | None:
        """Decide by a headroom, and keep what was taken, if all is as it was; else do nothing and return None."""
        if room not in self.rooms or self.decisions.rooms.get(self.ref) is not self:
            return None  # another thread was first, and changed more than counts
        self.decisions._at_work = self.ref
        decision: Told = Told()
        if room.take(decision, amounts, now, dry) is None:
            return None
        if dry or not decision.allowed:
            return decision if self._stands(db) else None
        moved = [pack(one.record) for one in self.found]
        if len(moved) == 1:
            (one,) = self.found
            done = db.execute(_SWAP, (moved[0], one.subject, one.version, one.moving, self.plans)).rowcount
        else:
            new, old = list[Any](), list[Any]()
            for one, moving in zip(self.found, moved, strict=True):
                new += one.subject, moving
                old += one.subject, one.version, one.moving
            done = db.execute(_swap_all(len(moved)), (*new, *new[::2], self.plans, *old)).rowcount
        if done == len(moved):
            for one, moving in zip(self.found, moved, strict=True):
                one.moving = moving
            return decision
        for one in self.found:
            unpack(one.record, one.moving)  # type: ignore[arg-type] # a record with headrooms was stored
        return None

    def _stands(self, db: Connection) -> bool:
        """Return whether nothing of it has changed in the file."""
        return all(
            db.execute(_FRESH, (one.subject,)).fetchone() == (one.version, one.moving, self.plans) for one in self.found
        )

    def fresh(self, db: Connection) -> bool:
        """Return whether it is what is stored; what plain charges of others moved is taken over."""
        for one in self.found:
            row = db.execute(_FRESH, (one.subject,)).fetchone()
            if row is None or row[0] != one.version or row[2] != self.plans:
                return False
            if row[1] != one.moving:
                one.moving = row[1]
                unpack(one.record, row[1])
        return True

    def decide(self, db: Connection, request: Request) -> Decision | None:
        """Decide inside a transaction, on a copy that is fresh, as ``take`` does."""
        barring = barred(self.key_entry.entry.key, request.address, request.scope)
        if request.op == "consume" and request.request_id is None and barring is None:
            for room in self.rooms:
                if room.shape.serves(request.api, request.route):
                    amounts = room.shape.standard if request.takes is None else room.shape.amounts(request.takes)
                    return None if amounts is None else self._swap(db, room, amounts, request.now, dry=False)
        return None

    def bind(self, request: Request) -> None:
        """Compile a headroom for calls like this one, after the rule has decided it."""
        subject = self.key_entry.subject([one.record for one in self.found])
        room = compile_headroom(request, self.key_entry.entry, subject, _shape, bound=True)
        if room is not None:
            kept = [other for other in self.rooms if not other.shape.serves(request.api, request.route)]
            self.rooms = (room, *kept[: _MOST_ROOMS - 1])


class Decisions(Directory):
    """Requests on records."""

    def __init__(self) -> None:
        super().__init__()
        self.rooms: dict[bytes | str, Copy] = {}
        self._at_work: Any = None
        self._lapse_clock: Clock | None = None

    def _subject(self, key_entry: KeyRow, records: Sequence[Record]) -> Subject:
        """Records at the machine's instant, by which reservations lapse whatever a caller's clock says."""
        subject = key_entry.subject(records)
        subject.server_now = None if self._lapse_clock is None else self._lapse_clock()
        return subject

    def apply(self, request: Request) -> Any:
        """Perform the request in one transaction; what only looks does not wait for who writes."""
        ref: Any = request.ref
        if request.op in LOOKS:
            return self._pool.read(self._tell, request)
        if request.account is not None or request.above is not None:
            return self._pool.write(self._decide_apart, request)
        if ref not in self.rooms and self._pool.read(self._look, request) is None:
            # A secret that nobody has is refused without a turn.
            return perform(request, None, None, self.options)
        return self._pool.write(self._decide, request, ref)

    def _undone(self) -> None:
        """Drop a copy, still in turn, after a rollback: it may have been moved by what never was."""
        self.rooms.pop(self._at_work, None)

    def _tell(self, db: Connection, request: Request) -> Any:
        """Answer ``peek`` and ``usage``: the same rule, on what one moment holds."""
        key_entry = self._look(db, request)
        if key_entry is None:
            return perform(request, None, None, self.options)
        records = [load(db, subject).record for subject in key_entry.numbers]
        fetch_remembered(db, key_entry.number, request, records[0])
        subject = self._subject(key_entry, records)
        return perform(request, key_entry.entry, subject, self.options)

    def _decide(self, db: Connection, request: Request, ref: Any) -> Any:
        self._at_work = ref
        copy = self.rooms.get(ref)
        if copy is None or not copy.fresh(db):
            copy = self._copy(db, request, ref)
            if copy is None:
                return perform(request, None, None, self.options)
        decision = copy.decide(db, request)
        return self._perform(db, request, copy) if decision is None else decision

    def _decide_apart(self, db: Connection, request: Request) -> Any:
        """Decide what is about an account, or a charge of before: such copies are not kept."""
        self._at_work = None
        copy = self._read_copy(db, request, None)
        return perform(request, None, None, self.options) if copy is None else self._perform(db, request, copy)

    def _read_copy(self, db: Connection, request: Request, ref: Any) -> Copy | None:
        key_entry = self._look(db, request)
        if key_entry is None:
            return None
        (plans,) = db.execute("SELECT plans FROM ledger").fetchone()
        return Copy(self, ref, key_entry, plans, [load(db, subject) for subject in key_entry.numbers])

    def _copy(self, db: Connection, request: Request, ref: Any) -> Copy | None:
        """Copy what is stored now."""
        self.rooms.pop(ref, None)
        copy = self._read_copy(db, request, ref)
        if copy is None:
            return None
        while len(self.rooms) >= _MOST_COPIES:
            self.rooms.pop(next(iter(self.rooms)))
        self.rooms[ref] = copy
        return copy

    def _perform(self, db: Connection, request: Request, copy: Copy) -> Any:
        """Decide by the rule, and keep what it changed."""
        subject = self._subject(copy.key_entry, [one.record.copy() for one in copy.found])
        fetch_remembered(db, copy.key_entry.number, request, subject.key)
        before = remembered_of(subject.key)
        result = perform(request, copy.key_entry.entry, subject, self.options)
        if subject.changed and copy.key_entry.number:
            if request.op == "forget":
                drop(db, copy.key_entry.number)
                copy.found[0].body = None
            rows = [
                (name, earlier) for name, earlier in remembered_of(subject.key).items() if before.get(name) != earlier
            ]
            keep_remembered(db, copy.key_entry.number, rows)
            subject.key.requests = subject.key.refunds = None
            for one, record in zip(copy.found, subject.records(), strict=True):
                at_once(*record.written())
                one.record = record
                keep(db, one, self.options)
            self._tell_of(db, subject.told)
            prune(db, request.now, self.options)
            copy.rooms = ()
        if request.op == "consume" and request.request_id is None:
            copy.bind(request)
        return result

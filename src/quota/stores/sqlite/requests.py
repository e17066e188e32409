"""The SQLite store's decisions: each in one transaction, by the rule, on copies of records that are checked in it.

A *copy* is what this process last saw of a key: its directory entry, its decoded records, and the headrooms that were
compiled for calls on them (``operations.headroom``). A process that has the file to itself for a moment expects its
copy to be fresh: a headroom decides first, and one guarded statement, a transaction of its own, swaps the numbers if
the copy was. What was decided on is then what was stored at that instant, as though it had looked inside.

Everything else is a transaction of several statements: one look at ``counts`` and ``ledger`` tells whether the copy is
fresh; then a headroom decides, or ``operations.perform``.
"""

from __future__ import annotations

from functools import lru_cache
from sqlite3 import Connection
from typing import Any

from ...decision import Decision
from ...operations import perform
from ...operations.compiled import compile_headroom
from ...operations.headroom import SeveralMeters, Told
from ...operations.request import LOOKS, Request, barred
from ...operations.shape import Shape
from ...process.atomic import at_once
from ...rule.party import Party
from .directory import Directory, Seat
from .records import Found, drop, fetch_memos, keep, keep_memos, load, memos_of, pack, prune, unpack

_MOST_COPIES = 65_536
_MOST_ROOMS = 8
"""Headrooms of one copy: those that were compiled last."""

_FRESH = "SELECT version, moving, (SELECT plans FROM ledger) FROM counts WHERE party = ?"
_SWAP = "UPDATE counts SET moving = ? WHERE party = ? AND version = ? AND moving = ? AND (SELECT plans FROM ledger) = ?"
_SWAP_BOTH = (
    "UPDATE counts SET moving = CASE party WHEN ?2 THEN ?1 ELSE ?5 END WHERE party IN (?2, ?6) AND (SELECT count(*) "
    "FROM counts, ledger WHERE plans = ?9 AND (party = ?2 AND version = ?3 AND moving = ?4 OR party = ?6 "
    "AND version = ?7 AND moving = ?8)) = 2"
)

_shape = lru_cache(1024)(Shape)


class Copy:
    """A key as this process last saw it. ``plans``: the state of all plans that its entry is of.

    It is what the ledger asks first: see ``take``.
    """

    __slots__ = ("decisions", "found", "plans", "ref", "rooms", "seat")

    def __init__(self, decisions: Decisions, ref: Any, seat: Seat, plans: int, found: list[Found]) -> None:
        self.decisions = decisions
        self.ref = ref
        self.seat = seat
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
                return self.decisions._pool.swap(self._swap, room, amounts, now, dry, looks=dry)
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
        first, *others = self.found
        moved = [pack(first.record)]
        told: tuple[Any, ...] = moved[0], first.party, first.version, first.moving
        for one in others:
            moved.append(pack(one.record))
            told += moved[-1], one.party, one.version, one.moving
        done = db.execute(_SWAP_BOTH if others else _SWAP, (*told, self.plans)).rowcount
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
            db.execute(_FRESH, (one.party,)).fetchone() == (one.version, one.moving, self.plans) for one in self.found
        )

    def fresh(self, db: Connection) -> bool:
        """Return whether it is what is stored; what plain charges of others moved is taken over."""
        for one in self.found:
            row = db.execute(_FRESH, (one.party,)).fetchone()
            if row is None or row[0] != one.version or row[2] != self.plans:
                return False
            if row[1] != one.moving:
                one.moving = row[1]
                unpack(one.record, row[1])
        return True

    def decide(self, db: Connection, request: Request) -> Decision | None:
        """Decide inside a transaction, on a copy that is fresh, as ``take`` does."""
        barring = barred(self.seat.entry.key, request.address, request.scope)
        if request.op == "consume" and request.request_id is None and barring is None:
            for room in self.rooms:
                if room.shape.serves(request.api, request.route):
                    amounts = room.shape.standard if request.takes is None else room.shape.amounts(request.takes)
                    return None if amounts is None else self._swap(db, room, amounts, request.now, dry=False)
        return None

    def bind(self, request: Request) -> None:
        """Compile a headroom for calls like this one, after the rule has decided it."""
        party = Party(*[one.record for one in self.found])
        room = compile_headroom(request, self.seat.entry, party, _shape, bound=True)
        if room is not None:
            kept = [other for other in self.rooms if not other.shape.serves(request.api, request.route)]
            self.rooms = (room, *kept[: _MOST_ROOMS - 1])


class Decisions(Directory):
    """Requests on records."""

    def __init__(self) -> None:
        super().__init__()
        self.rooms: dict[bytes | str, Copy] = {}
        self._at_work: Any = None

    def apply(self, request: Request) -> Any:
        """Perform the request in one transaction; what only looks does not wait for who writes."""
        ref: Any = request.ref
        if request.op in LOOKS:
            return self._pool.read(self._tell, request)
        if ref not in self.rooms and self._pool.read(self._look, request) is None:
            # A secret that nobody has is refused without a turn.
            return perform(request, None, None, self.terms)
        return self._pool.write(self._decide, request, ref)

    def _undone(self) -> None:
        """Drop a copy, still in turn, after a rollback: it may have been moved by what never was."""
        self.rooms.pop(self._at_work, None)

    def _tell(self, db: Connection, request: Request) -> Any:
        """Answer ``peek`` and ``usage``: the same rule, on what one moment holds."""
        seat = self._look(db, request)
        if seat is None:
            return perform(request, None, None, self.terms)
        records = [load(db, party).record for party in seat.parties()]
        fetch_memos(db, seat.number, request, records[0])
        party = Party(*records)
        return perform(request, seat.entry, party, self.terms)

    def _decide(self, db: Connection, request: Request, ref: Any) -> Any:
        self._at_work = ref
        copy = self.rooms.get(ref)
        if copy is None or not copy.fresh(db):
            copy = self._copy(db, request, ref)
            if copy is None:
                return perform(request, None, None, self.terms)
        decision = copy.decide(db, request)
        return self._perform(db, request, copy) if decision is None else decision

    def _copy(self, db: Connection, request: Request, ref: Any) -> Copy | None:
        """Copy what is stored now."""
        self.rooms.pop(ref, None)
        seat = self._look(db, request)
        if seat is None:
            return None
        (plans,) = db.execute("SELECT plans FROM ledger").fetchone()
        copy = Copy(self, ref, seat, plans, [load(db, party) for party in seat.parties()])
        while len(self.rooms) >= _MOST_COPIES:
            self.rooms.pop(next(iter(self.rooms)))
        self.rooms[ref] = copy
        return copy

    def _perform(self, db: Connection, request: Request, copy: Copy) -> Any:
        """Decide by the rule, and keep what it changed."""
        party = Party(*[one.record.copy() for one in copy.found])
        fetch_memos(db, copy.seat.number, request, party.key)
        before = memos_of(party.key)
        result = perform(request, copy.seat.entry, party, self.terms)
        if party.changed:
            if request.op == "forget":
                drop(db, copy.seat.number)
                copy.found[0].body = None
            memos = [(name, memo) for name, memo in memos_of(party.key).items() if before.get(name) != memo]
            keep_memos(db, copy.seat.number, memos)
            party.key.requests = party.key.refunds = None
            for one, record in zip(copy.found, party.records(), strict=True):
                at_once(*record.written())
                one.record = record
                keep(db, one, self.terms)
            prune(db, request.now, self.terms)
            copy.rooms = ()
        if request.op == "consume" and request.request_id is None:
            copy.bind(request)
        return result

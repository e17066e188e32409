"""The SQLite store's decisions: each in one transaction, by the rule, on copies of records that are checked in it.

A *copy* is what this process last saw of a key: its directory entry and its decoded records. Inside the transaction one
look at ``counts`` and ``ledger`` tells whether it is fresh. On a fresh copy a plain charge runs in the lane that the
rule opened for it (``operations.headroom``) and writes a few numbers; everything else is ``operations.perform``.

A process that has the file to itself for a moment expects its copy to be fresh: it decides first, and one guarded
statement, a transaction of its own, swaps the numbers if the copy was. What the rule decided on is then what was stored
at that instant, as though it had looked inside.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from sqlite3 import Connection, OperationalError
from typing import Any

from ...decision import Decision
from ...operations import perform
from ...operations.compiled import compile_headroom
from ...operations.headroom import SeveralMeters
from ...operations.request import LOOKS, Request, barred
from ...process.atomic import at_once
from ...rule.limits import RoutePlan
from ...rule.meter import Bucket, Meter
from ...rule.record import MINUTE_US, Record
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
from .schema import is_busy

_MOST_COPIES = 65_536
_FRESH = "SELECT version, moving, (SELECT plans FROM ledger) FROM counts WHERE subject = ?"
_MOVE = "UPDATE counts SET moving = ? WHERE subject = ?"
_SWAP = (
    "UPDATE counts SET moving = ? WHERE subject = ? AND version = ? AND moving = ? AND (SELECT plans FROM ledger) = ?"
)


class Plain:
    """A lane on decoded records: the very meters and buckets it moves."""

    __slots__ = ("amounts", "buckets", "lane", "meters", "records")

    def __init__(self, lane: SeveralMeters, records: Sequence[Record]) -> None:
        self.lane = lane
        self.records = records
        self.amounts = lane.shape.standard
        self.meters: list[tuple[Meter, int, int, int]] = [
            (records[index].meters[position], unit, quiet, ceiling)
            for index, position, unit, quiet, ceiling in lane.cells
        ]
        self.buckets: list[tuple[Bucket, int, int, int, int]] = [
            (records[index].meters[position].buckets[place], unit, drain, scale, burst)
            for index, position, place, unit, drain, scale, burst in lane.pours
        ]

    def decide(self, takes: Mapping[str, int] | None, now: int) -> Decision | None:
        """Answer by the rule where nothing but counting happens, and charge the records; None where more may."""
        lane = self.lane
        if now >= lane.end:
            return None
        for record in self.records:
            if now < record.at:
                return None
        amounts = self.amounts if takes is None else lane.shape.amounts(takes)
        if amounts is None:
            return None
        readings, fits, quiet = self._evaluate(amounts, now)
        if fits and not quiet:
            return None
        if fits:
            self._charge(readings, now)
        else:
            units = [(unit, 1) for _, unit, _, _ in self.meters] + [(b[1], b[3]) for b in self.buckets]
            readings = [r - amounts[unit] * scale for r, (unit, scale) in zip(readings, units, strict=True)]
        return lane.conclude(fits, lane.route_plan.cost if takes is None else takes, now, readings)

    def _evaluate(self, amounts: list[int], now: int) -> tuple[list[int], bool, bool]:
        """Return what meters and buckets would read, whether all of it fits, and whether nothing else happens."""
        fits = quiet = True
        readings = []
        for meter, unit, calm, ceiling in self.meters:
            total = meter.total + amounts[unit]
            readings.append(total)
            if total > calm and amounts[unit]:
                quiet = False
                if total > ceiling:
                    fits = False
        for bucket, unit, drain, scale, burst in self.buckets:
            level = bucket.level - drain * (now - bucket.at)
            filled = (level if level > 0 else 0) + amounts[unit] * scale  # noqa: FURB136 -- a call
            readings.append(filled)
            if filled > burst and amounts[unit]:
                fits = False
        return readings, fits, quiet

    def _charge(self, readings: list[int], now: int) -> None:
        for record in self.records:
            if record.at < now - now % MINUTE_US:
                record.turn_minute(now)
            record.at = now
        place = 0
        for meter, _, _, _ in self.meters:
            meter.total = readings[place]
            place += 1
        for bucket, _, _, _, _ in self.buckets:
            bucket.level, bucket.at = readings[place], now
            place += 1


class Copy:
    """A key as this process last saw it. ``plans``: the state of all plans that its entry is of."""

    __slots__ = ("found", "key_entry", "lanes", "plans")

    def __init__(self, key_entry: KeyRow, plans: int, found: list[LoadedRecord]) -> None:
        self.key_entry = key_entry
        self.plans = plans
        self.found = found
        self.lanes: dict[RoutePlan, Plain] = {}

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

    def _barred(self, request: Request) -> bool:
        return barred(self.key_entry.entry.key, request.address, request.scope) is not None

    def plain(self, request: Request) -> Plain | None:
        """Return the lane of calls like this one, if any: plain charges that nobody need remember by an id."""
        if request.op != "consume" or request.request_id is not None or self._barred(request):
            return None
        plan = self.key_entry.entry.plans.get(request.api)
        return None if plan is None else self.lanes.get(plan.route_plan(request.route))


class Decisions(Directory):
    """Requests on records."""

    def __init__(self) -> None:
        super().__init__()
        self._copies: dict[bytes | str, Copy] = {}
        self._at_work: Any = None

    def apply(self, request: Request) -> Any:
        """Perform the request in one transaction; what only looks does not wait for who writes."""
        ref: Any = request.ref
        if request.op in LOOKS:
            return self._pool.read(self._tell, request)
        if ref not in self._copies and self._pool.read(self._look, request) is None:
            # A secret that nobody has is refused without a turn.
            return perform(request, None, None, self.options)
        return self._pool.swap_or_write(self._swap, self._decide, request, ref)

    def _undone(self) -> None:
        """Drop a copy, still in turn, after a rollback: it may have been moved by what never was."""
        self._copies.pop(self._at_work, None)

    def _tell(self, db: Connection, request: Request) -> Any:
        """Answer ``peek`` and ``usage``: the same rule, on what one moment holds."""
        key_entry = self._look(db, request)
        if key_entry is None:
            return perform(request, None, None, self.options)
        records = [load(db, subject).record for subject in key_entry.subjects()]
        fetch_remembered(db, key_entry.number, request, records[0])
        subject = Subject(*records)
        return perform(request, key_entry.entry, subject, self.options)

    def _decide(self, db: Connection, request: Request, ref: Any) -> Any:
        self._at_work = ref
        copy = self._copies.get(ref)
        if copy is None or not copy.fresh(db):
            copy = self._copy(db, request, ref)
            if copy is None:
                return perform(request, None, None, self.options)
        elif (plain := copy.plain(request)) is not None:
            decision = plain.decide(request.takes, request.now)
            if decision is not None:
                if decision.allowed:
                    for one in copy.found:
                        one.moving = pack(one.record)
                        db.execute(_MOVE, (one.moving, one.subject))
                return decision
        return self._perform(db, request, copy)

    def _swap(self, db: Connection, request: Request, ref: Any) -> Decision | None:
        """Charge one record plainly, on a copy that is found to have been fresh; else do nothing, and return None."""
        copy = self._copies.get(ref)
        plain = None if copy is None or len(copy.found) > 1 else copy.plain(request)
        if copy is None or plain is None:
            return None
        self._at_work = ref
        found, decision = copy.found[0], plain.decide(request.takes, request.now)
        if decision is None:
            return None
        known = found.version, found.moving, copy.plans
        moving = pack(found.record) if decision.allowed else found.moving
        try:
            if decision.allowed:
                fresh = db.execute(_SWAP, (moving, found.subject, *known)).rowcount == 1
            else:
                fresh = db.execute(_FRESH, (found.subject,)).fetchone() == known
        except OperationalError as error:
            if not is_busy(error):
                raise
            fresh = False
        if fresh:
            found.moving = moving
            return decision
        unpack(found.record, found.moving)  # type: ignore[arg-type] # a record with lanes was stored
        return None

    def _copy(self, db: Connection, request: Request, ref: Any) -> Copy | None:
        """Copy what is stored now."""
        self._copies.pop(ref, None)
        key_entry = self._look(db, request)
        if key_entry is None:
            return None
        (plans,) = db.execute("SELECT plans FROM ledger").fetchone()
        copy = Copy(key_entry, plans, [load(db, subject) for subject in key_entry.subjects()])
        while len(self._copies) >= _MOST_COPIES:
            self._copies.pop(next(iter(self._copies)))
        self._copies[ref] = copy
        return copy

    def _perform(self, db: Connection, request: Request, copy: Copy) -> Any:
        """Decide by the rule, and keep what it changed."""
        subject = Subject(*[one.record.copy() for one in copy.found])
        fetch_remembered(db, copy.key_entry.number, request, subject.key)
        before = remembered_of(subject.key)
        result = perform(request, copy.key_entry.entry, subject, self.options)
        if subject.changed:
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
            prune(db, request.now, self.options)
            copy.lanes.clear()
        if request.op == "consume":
            records = [one.record for one in copy.found]
            lane = compile_headroom(request, copy.key_entry.entry, Subject(*records))
            if lane is not None:
                copy.lanes[copy.key_entry.entry.plans[request.api].route_plan(request.route)] = Plain(lane, records)
        return result

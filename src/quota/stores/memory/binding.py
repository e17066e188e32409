"""After the rule has decided: compiling a headroom for the next calls like this one."""

from __future__ import annotations

from weakref import WeakSet

from ...clock import to_us
from ...key import Caller, Subject
from ...operations.compiled import compile_headroom
from ...operations.request import Entry, Request, in_force
from ...operations.shape import Shape
from ...plan import UsagePlan
from ...rule.limits import Course
from ...rule.party import Party
from .entries import Seat
from .one_meter import NoMeter, OneMeter

MOST_ROOMS = 8
"""Headrooms of one key: of apis and of routes with limits of their own, those that were bound last."""
MOST_SHAPES = 4096
"""Shapes of one plan that are kept: of its routes, and of which of its units a record has counted."""


class Shapes:
    """The shapes of one plan. ``common``: by course and the units that are missing; ``own``: others, while in use."""

    __slots__ = ("common", "own")

    def __init__(self) -> None:
        self.common: dict[tuple[Course, frozenset[str]], Shape] = {}
        self.own: WeakSet[Shape] = WeakSet()


class Binding:
    """What a memory store does so that the next call like this one need not ask the rule.

    ``rooms``: of every key, by its id and by its secrets' digests. ``_shapes``: by plan, what its headrooms share.
    """

    rooms: dict[bytes | str | Caller, OneMeter | NoMeter]
    _plans: dict[str, UsagePlan]
    _shapes: dict[str, Shapes]

    def _bind(self, request: Request, seat: Seat, entry: Entry, party: Party) -> None:
        """Open the key's headroom again where it still holds, or compile one for what was just decided."""
        record, room, now = seat.record, seat.room, request.now
        if record is None or now < record.at:
            return
        if (
            isinstance(room, OneMeter)
            and room.version == record.version
            and not room.until
            and room.shape.live
            and now < room.span.end
        ):
            room.open(record)
        plan = in_force(entry, party, now).plans.get(request.api)
        if plan is None or request.op not in ("consume", "peek") or request.request_id is not None:
            return
        course = plan.course(request.route)
        if isinstance(room, OneMeter) and room.until and room.shape.course is course:
            return
        # One that was bound and then served no call, because each changes the record, is bound every second time.
        old = next((old for old in seat.rooms if old.course is course), None)
        if old is not None and (old.good(now) or not old.until):
            old.until = old.until or 1
            return
        account = seat.account.record if seat.account is not None and seat.account.shared else None
        if party.key is record and party.account is account:
            self._compile(request, seat, entry, party)

    def _compile(self, request: Request, seat: Seat, entry: Entry, party: Party) -> None:
        compiled = compile_headroom(request, entry, party, self._shape, bound=True)
        if compiled is None:
            return
        now, room, shape = request.now, seat.room, compiled.shape
        if shape.simple and party.account is None and not room.until and not seat.key.networks:
            room = OneMeter(seat)
            room.lay(compiled)
            self._renew(seat, room, now)
            room.open(compiled.own)
            return
        late = [s for s in seat.key.secrets if s.expires_at is not None and to_us(s.expires_at) <= now]
        if (room.version < 0 and not seat.rooms) or any(self.rooms.get(secret.digest) is room for secret in late):
            self._renew(seat, NoMeter(seat), now)
        rooms = tuple(old for old in seat.rooms if old.course is not compiled.course and old.shape.live)
        seat.rooms = (compiled, *rooms[: MOST_ROOMS - 1])

    def _renew(self, seat: Seat, room: OneMeter | NoMeter, now: int) -> None:
        """Put another room in the place of the key's: who found that one by a secret that has expired asks neither."""
        if isinstance(seat.room, OneMeter):
            seat.room.close()
            seat.room.version = -1
        seat.room = room
        self.rooms.update(self._references(seat, now=now))

    def _shape(self, plan: UsagePlan, course: Course, missing: frozenset[str]) -> Shape:
        """Return what all keys of a plan share; of a subject with limits of its own, a shape of its own."""
        shapes = self._shapes.get(plan.id) or self._shapes.setdefault(plan.id, Shapes())
        shape = shapes.common.get((course, missing))
        if shape is None:
            shape = Shape(plan, course, missing)
            if plan is self._plans.get(plan.id) and len(shapes.common) < MOST_SHAPES:
                return shapes.common.setdefault((course, missing), shape)
            shapes.own.add(shape)
        return shape

    def _references(
        self, seat: Seat, key: Subject | None = None, now: int = 0
    ) -> dict[bytes | str | Caller, OneMeter | NoMeter]:
        """By what a key is found: its id and its secrets; one that has expired is served by no fast path."""
        key = key or seat.key
        refs: dict[bytes | str | Caller, OneMeter | NoMeter] = {key if isinstance(key, Caller) else key.id: seat.room}
        for secret in key.secrets:
            expired = secret.expires_at is not None and to_us(secret.expires_at) <= now
            refs[secret.digest] = NoMeter(seat) if expired else seat.room
        return refs

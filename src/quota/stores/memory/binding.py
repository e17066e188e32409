"""After the rule has decided: compiling a headroom for the next calls like this one."""

from __future__ import annotations

from weakref import WeakSet

from ...clock import to_us
from ...key import Caller, KeyOrCaller
from ...operations.compiled import compile_headroom
from ...operations.headroom import SeveralMeters
from ...operations.request import Entry, Request, in_force
from ...operations.shape import Shape
from ...plan import UsagePlan
from ...rule.limits import RoutePlan
from ...rule.subject import Subject
from .entries import KeyEntry, Rooms
from .one_meter import NoMeter, OneMeter

MOST_ROOMS = 8
"""Headrooms of one key: of apis and of routes with limits of their own, those that were bound last."""
MOST_SHAPES = 4096
"""Shapes of one plan that are kept: of its routes, and of which of its units a record has counted."""


class Shapes:
    """The shapes of one plan. ``common``: by route plan and missing units; ``own``: others, while in use."""

    __slots__ = ("common", "own")

    def __init__(self) -> None:
        self.common: dict[tuple[RoutePlan, frozenset[str]], Shape] = {}
        self.own: WeakSet[Shape] = WeakSet()


class Binding:
    """All that a memory store does so that the next call like this one need not ask the rule.

    ``_shapes``: by plan, what its headrooms share.
    """

    rooms: Rooms
    _plans: dict[str, UsagePlan]
    _shapes: dict[str, Shapes]

    def _bind(self, request: Request, key_entry: KeyEntry, entry: Entry, subject: Subject) -> None:
        """Open the key's headroom again where it still holds, or compile one for what was just decided."""
        room, now = key_entry.room, request.now
        if not self._reopen(key_entry, now):
            return
        plan = in_force(entry, subject, now).plans.get(request.api)
        if plan is None or request.op not in ("consume", "peek", "reserve"):
            return
        route_plan = plan.route_plan(request.route, request.api)
        if _unnamed(request) and isinstance(room, OneMeter) and room.until and room.shape.route_plan is route_plan:
            return
        # One that was bound and then served no call, because each changes the record, is bound every second time.
        old = next((old for old in key_entry.rooms if old.route_plan is route_plan), None)
        if (
            old is not None
            and (old.good(now) or not old.until)
            and not (_unnamed(request) and _on_one_meter(key_entry, subject, old))
        ):
            old.until = old.until or 1
            return
        self._compile(request, key_entry, entry, subject)

    @staticmethod
    def _reopen(key_entry: KeyEntry, now: int) -> bool:
        """Open the key's headroom of one meter again where it still holds; tell whether it is the record's time."""
        record, room = key_entry.record, key_entry.room
        if record is None or now < record.at:
            return False
        closed = isinstance(room, OneMeter) and room.version == record.version and not room.until
        if closed and room.shape.live and now < room.span.end:  # type: ignore[union-attr] # one meter
            room.open(record)  # type: ignore[union-attr] # as above
        return True

    def _compile(self, request: Request, key_entry: KeyEntry, entry: Entry, subject: Subject) -> None:
        compiled = compile_headroom(request, entry, subject, self._shape, bound=True, slots=True)
        if compiled is None:
            return
        now, room = request.now, key_entry.room
        if _on_one_meter(key_entry, subject, compiled):
            room = OneMeter(key_entry)
            room.lay(compiled)
            self._renew(key_entry, room, now)
            room.open(compiled.own)
            if _unnamed(request):
                return
        late = [s for s in key_entry.key.secrets if s.expires_at is not None and to_us(s.expires_at) <= now]
        if (room.version < 0 and not key_entry.rooms) or any(self.rooms.get(secret.digest) is room for secret in late):
            self._renew(key_entry, NoMeter(key_entry), now)
        rooms = tuple(old for old in key_entry.rooms if old.route_plan is not compiled.route_plan and old.shape.live)
        key_entry.rooms = (compiled, *rooms[: MOST_ROOMS - 1])

    def _renew(self, key_entry: KeyEntry, room: OneMeter | NoMeter, now: int) -> None:
        """Put another room in the place of the key's: who found that one by a secret that has expired asks neither."""
        if isinstance(key_entry.room, OneMeter):
            key_entry.room.close()
            key_entry.room.version = -1
        key_entry.room = room
        self.rooms.update(self._references(key_entry, now=now))

    def _shape(self, plan: UsagePlan, route_plan: RoutePlan, missing: frozenset[str]) -> Shape:
        """Return what all keys of a plan share; of a subject with limits of its own, a shape of its own."""
        shapes = self._shapes.get(plan.id) or self._shapes.setdefault(plan.id, Shapes())
        shape = shapes.common.get((route_plan, missing))
        if shape is None:
            shape = Shape(plan, route_plan, missing)
            for id_ in plan.ids():
                (self._shapes.get(id_) or self._shapes.setdefault(id_, Shapes())).own.add(shape)
            if plan.told is self._plans.get(plan.id) and len(shapes.common) < MOST_SHAPES:
                return shapes.common.setdefault((route_plan, missing), shape)
        return shape

    def _references(self, key_entry: KeyEntry, key: KeyOrCaller | None = None, now: int = 0) -> Rooms:
        """By what a key is found: its id and its secrets; one that has expired is served by no fast path."""
        key = key or key_entry.key
        refs: Rooms = {key if isinstance(key, Caller) else key.id: key_entry.room}
        for secret in key.secrets:
            expired = secret.expires_at is not None and to_us(secret.expires_at) <= now
            refs[secret.digest] = NoMeter(key_entry) if expired else key_entry.room
        return refs


def _unnamed(request: Request) -> bool:
    """Tell whether nothing is kept of a call under a name."""
    return request.request_id is None and request.op != "reserve"


def _on_one_meter(key_entry: KeyEntry, subject: Subject, room: SeveralMeters) -> bool:
    """Tell whether the next calls like this one get the plainest form, which knows no ids, accounts or networks."""
    plain = room.shape.simple and not key_entry.key.networks
    plain = plain and [cell[0].api for cell in room.cells] == [room.shape.api]
    return plain and len(subject.records()) == 1 and not key_entry.room.until

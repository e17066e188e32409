"""Reservations by the compiled form: made and settled in one write, where nothing else is due.

A reservation is a charge and an entry that is held on each of its records; to settle it counts what was used beyond it,
and takes back what was not used.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ...clock import DAY_US
from ...decision import Decision, Details
from ...operations import request as bounds
from ...operations.headroom import SeveralMeters, Told
from ...operations.request import Request, barred, reservation_id
from ...process.atomic import Step, at_once
from ...rule.charge import metered
from ...rule.entries import Hold
from ...rule.kept import Kept
from ...rule.meter import Meter
from ...rule.record import HOUR_US, MINUTE_US, Record
from .entries import KeyEntry


class Reserved(Told):
    """A decision that holds something. ``_made``: its reservation."""

    __slots__ = ("_made",)

    _made: Hold

    def _work_out(self) -> Details:
        details = self._room.details(self)
        if self.allowed:
            kind = {"hold": self._made.id, "metered": ()} if self._made.takes else {"slot": self._made.id}
            details = details.changed(until=self._made.until, **kind)
        return details


class Settlement(Told):
    """A decision on what was used of a reservation. ``_of``: that."""

    __slots__ = ("_of",)

    _of: Hold

    def _work_out(self) -> Details:
        from ...operations.reservations import spent_of  # noqa: PLC0415 -- seldom asked for

        details = self._room.details(self)
        return details.changed(metered=spent_of(self._of, details.takes, self._now, self._room.shape.route_plan))  # type: ignore[no-any-return] # one of its kind


def decided(request: Request, key_entry: KeyEntry, *, known: bool) -> tuple[Decision | None] | None:
    """Decide under the lock, with every headroom of one meter closed; None where the rule must.

    ``known``: the key was found by what may be used now.
    """
    if request.op in ("commit", "cancel"):
        return _settled(request, key_entry)
    return _held(request, key_entry) if known and request.request_id is None else None


def _serving(key_entry: KeyEntry, api: str, route: str | None) -> SeveralMeters | None:
    return next((room for room in key_entry.rooms if room.shape.serves(api, route)), None)


def _held(request: Request, key_entry: KeyEntry) -> tuple[Decision] | None:
    """Reserve, or charge and keep the slots."""
    room, now = _serving(key_entry, request.api, request.route), request.now
    if room is None or barred(room.key, request.address, request.scope):
        return None
    shape, reserves = room.shape, request.op == "reserve"
    takes = shape.route_plan.cost if request.takes is None else request.takes
    amounts, records = shape.amounts(takes), room.records()
    if amounts is None or not (reserves or room.slots):
        return None
    if any(len(record.holds or ()) >= bounds.MOST_HOLDS for record in records):
        return None
    decision = Reserved()
    allowed = room.take(decision, amounts, now, True)  # noqa: FBT003 -- as its other callers
    if not allowed:
        return None if allowed is None else (decision,)
    del decision._dry
    route, route_plan = request.route or "", shape.route_plan
    also = tuple([name for name in dict.fromkeys((*route_plan.counted, route_plan.told)) if name not in ("", route)])
    decision._made = hold = Hold(
        now + request.ttl, reservation_id(request.id, room.key), now, still_open=True,
        takes=metered(route_plan, takes) if reserves else (), api=request.api, route=route, also=also,
        above=shape.plan.above,
    )  # fmt: skip
    at_once(*room.steps(decision._found, now), *[step for record in records for step in _put(record, hold)])
    _see(room, decision)
    return (decision,)


def _settled(request: Request, key_entry: KeyEntry) -> tuple[Decision | None] | None:
    """Commit or cancel a reservation of which nothing was spent so far, where its windows have not ended since."""
    own, now, commits = key_entry.record, request.now, request.op == "commit"
    hold = None if own is None else own.held(request.id)
    room = None if hold is None else _counts(key_entry, hold, now)
    if hold is None or room is None:
        return None
    held = hold.held()
    actual = ({} if not commits else held) if request.takes is None else request.takes
    more = room.shape.amounts({unit: max(0, units - held.get(unit, 0)) for unit, units in actual.items()})
    less = room.shape.amounts({unit: max(0, units - actual.get(unit, 0)) for unit, units in held.items()})
    decision = Settlement()
    if more is None or less is None or not room.take(decision, more, now, True):  # noqa: FBT003 -- as above
        return None
    del decision._dry
    decision._amounts, decision._of = actual, hold
    backs = {meter: less[unit] for meter, unit, *_ in room.cells if less[unit]}
    if any(_turned(meter, hold.taken_at) for meter in backs):
        return None
    found = decision._found
    for place, (meter, *_) in enumerate(room.cells):
        found[place] -= backs.get(meter, 0)
    # Nothing is poured by giving back.
    steps = room.steps(found if commits else found[: len(room.cells)], now, admitted=False)
    for record in room.records():
        steps += [*_unread(record, backs, hold.taken_at, now), *_drop(record, hold)]
    at_once(*steps)
    _see(room, decision)
    return (decision if commits else None,)


def _counts(key_entry: KeyEntry, hold: Hold, now: int) -> SeveralMeters | None:
    """Return the headroom of a reservation that is open: on the very records and meters that it was counted on."""
    room = _serving(key_entry, hold.api, hold.route or None)
    if room is None or not hold.still_open or hold.decision or hold.spent or not room.good(now):
        return None
    if hold.above != room.shape.plan.above or any(record.held(hold.id) != hold for record in room.records()):
        return None
    route_plan = room.shape.route_plan
    places = {(route_plan.api, route) for route in ("", *route_plan.counted)}
    return room if not hold.takes or {amount.meter[:2] for amount in hold.takes} == places else None


def _turned(meter: Meter, taken_at: int) -> bool:
    """Tell whether a day or a window began after a take, and its reading has it."""
    return meter.days[-2] * DAY_US > taken_at or any(window.since > taken_at for window in meter.windows)


def _unread(record: Record, backs: Mapping[Meter, int], taken_at: int, now: int) -> Iterator[Step]:
    """Take what is given back off the readings of a minute and an hour that began after it was taken."""
    for name, span in (("minute", MINUTE_US), ("hour", HOUR_US)):
        began = now - now % span
        for meter in record.meters if began > taken_at else ():
            if meter in backs:
                reading = meter.total if record.at < began else getattr(meter, name)
                yield setattr, meter, name, reading - backs[meter]


def _put(record: Record, hold: Hold) -> list[Step]:
    """Return the steps that hold something on a record."""
    steps = [(setattr, record, "holds", Kept((hold,)))] if record.holds is None else record.holds.more(hold)
    return [*steps, (setattr, record, "in_flight", record.opened(hold.place, 1))]


def _drop(record: Record, hold: Hold) -> list[Step]:
    """Return the steps that hold it no more."""
    kept: Any = record.holds
    if len(kept.entries) == 1:
        steps: list[Step] = [(setattr, record, "holds", None)]
    else:
        steps = [(kept.entries.pop, hold.id)]
        if len(kept.heap) > 2 * len(kept.entries) + 64:
            steps.append((setattr, kept, "heap", kept.all()))
    return [*steps, (setattr, record, "in_flight", record.opened(hold.place, -1))]


def _see(room: SeveralMeters, decision: Told) -> None:
    """Read how many calls are in flight after what was just written."""
    for place, (record, apis, route, _) in enumerate(reversed(room.slots), 1):
        decision._found[-place] = record.in_use(apis, route)

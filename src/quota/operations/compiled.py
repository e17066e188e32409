"""Compiling: from a key's settled records and its plan to the numbers of a headroom (``headroom.py``)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ..clock import to_us
from ..decision import Reason
from ..plan import UsagePlan
from ..rule.charge import current, quiet_until
from ..rule.limits import BEYOND, MAX_UNITS, Course, QuotaLine
from ..rule.party import Party
from ..rule.record import Record
from .headroom import Place, SeveralMeters
from .request import Entry, Request, in_force, usable
from .shape import Shape, units_of

_MOST_METERS = 500

Shapes = Callable[[UsagePlan, Course, frozenset[str]], Shape]
"""Gives the shape of a plan's course, less the units that a record has no meters for."""


def compile_headroom(
    request: Request, entry: Entry, party: Party, shapes: Shapes = Shape, *, bound: bool = False
) -> SeveralMeters | None:
    """Return the headroom for calls like this one, where the records are settled for its course; else None.

    ``bound``: to the very records, whose meters and buckets it moves; else it names them by index.
    """
    plan = in_force(entry, party, request.now).plans.get(request.api)
    if plan is None or usable(request, entry) is not Reason.OK:
        return None
    course = plan.course(request.route)
    records = party.records()
    now = max(request.now, *(record.at for record in records))
    if now >= MAX_UNITS or any(len(record.meters) > _MOST_METERS for record in records):
        return None
    if not all(record.at for record in records) or not current(party, course, now):
        return None
    room = SeveralMeters()
    room.key, room.tag = entry.key, None
    room.tokens = party.key.token, party.account.token if party.account else 0
    meters, missing = _meters(course, records)
    ends = [entry.key.expires_at, *(s.expires_at for s in entry.key.secrets if bound or s.digest == request.digest)]
    expiries = [end for end in (to_us(end) for end in ends if end is not None) if end > now]
    if not meters or not _lay(room, party, course, meters, bound=bound):
        return None
    room.shape = shape = shapes(plan, course, missing)
    room.places, room.bases = shape.share("places", room.places), shape.share("bases", room.bases)
    room.cells = tuple(
        (*meter, unit, shape.share(f"soft {place}", soft), shape.share(f"hard {place}", hard))
        for place, (meter, unit, soft, hard) in enumerate(room.cells)
    )
    room.end = shape.share("end", min([MAX_UNITS, *map(quiet_until, records), *expiries]))
    if bound:
        room.bind(records)
    return room


def _meters(course: Course, records: Sequence[Record]) -> tuple[list[tuple[int, int, int]], frozenset[str]]:
    """Find the meters of a course's units, by record, position and unit; the units that a record lacks."""
    routes = ("", course.route) if course.routed else ("",)
    meters: list[tuple[int, int, int]] = []
    missing = set()
    for order, unit in enumerate(units_of(course)):
        found = [
            (index, position, order)
            for index, record in enumerate(records)
            for position, meter in enumerate(record.meters)
            if meter.unit == unit and meter.api == course.api and meter.route in routes
        ]
        meters += found
        if len(found) < len(routes) * len(records):
            missing.add(unit)
    return meters, frozenset(missing)


def _lay(
    room: SeveralMeters, party: Party, course: Course, meters: Sequence[tuple[int, int, int]], *, bound: bool
) -> bool:
    """Work out how far each meter may go, and from where its limits count."""
    records, units = party.records(), units_of(course)
    orders = {(index, position): order for order, (index, position, _) in enumerate(meters)}
    tops = [(MAX_UNITS, BEYOND)] * len(meters)
    places: list[Place] = []
    bases: list[int] = []
    pours: list[Any] = []
    for line in course.lines:
        record = party.holder(line)
        index = records.index(record)
        meter = record.meter(course.api, line.route, line.unit)
        position = record.meters.index(meter)  # type: ignore[arg-type] # settled
        order = orders[index, position]
        if isinstance(line, QuotaLine):
            slot = meter.slot(line.name)  # type: ignore[union-attr] # settled
            if slot is None or slot.limit != line.limit:
                return False
            whole = line.limit + slot.extra
            top = slot.base + whole + line.overage
            calm = min([top, *(slot.base - (-p * whole // 100) - 1 for p in line.alerts if p > slot.alerted)])
            soft, hard = tops[order]
            tops[order] = min(soft, calm), min(hard, top if top <= MAX_UNITS else BEYOND)
            places.append((line, order, slot.extra, slot.end))
            bases.append(slot.base)
        else:
            place = [bucket.name for bucket in meter.buckets].index(line.name)  # type: ignore[union-attr] # settled
            bucket = meter.buckets[place]  # type: ignore[union-attr] # settled
            if bucket.level > MAX_UNITS and not bound:
                return False
            places.append((line, len(meters) + len(pours), 0, 0))
            bases.append(0)
            what = (bucket,) if bound else (index, position, place)
            pours.append((*what, units.index(line.unit), line.drain, line.scale, line.burst))
    room.places, room.bases, room.pours = tuple(places), tuple(bases), tuple(pours)
    whose = [(records[index].meters[position],) if bound else (index, position) for index, position, _ in meters]
    room.cells = tuple((what, unit, *top) for what, (_, _, unit), top in zip(whose, meters, tops, strict=True))
    return True

"""Compiling: from a key's settled records and its plan to the numbers of a headroom (``headroom.py``)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ..clock import to_us
from ..decision import Reason
from ..plan import UsagePlan
from ..rule.apis import counts
from ..rule.charge import current, next_due, next_end
from ..rule.limits import BEYOND, MAX_UNITS, CompiledConcurrency, CompiledQuota, CompiledThrottle, Place, RoutePlan
from ..rule.record import Record
from ..rule.subject import Subject
from .headroom import SeveralMeters
from .request import Entry, Request, in_force, tokens_of, usable
from .shape import Shape, units_of

_MOST_METERS = 500

Shapes = Callable[[UsagePlan, RoutePlan, frozenset[str]], Shape]
"""Gives the shape of a plan's route plan, less the units that a record has no meters for."""


def compile_headroom(
    request: Request,
    entry: Entry,
    subject: Subject,
    shapes: Shapes = Shape,
    *,
    bound: bool = False,
    slots: bool = False,
) -> SeveralMeters | None:
    """Return the headroom for calls like this one, where the records are settled for its route plan; else None.

    ``bound``: to the very records, whose meters and buckets it moves; else it names them by index. ``slots``: calls in
    flight lapse by the instants of calls, each of which sees for itself which reservations are open.
    """
    entry = in_force(entry, subject, request.now)
    plan = entry.plans.get(request.api)
    if plan is None or usable(request, entry) is not Reason.OK:
        return None
    route_plan = plan.route_plan(request.route, request.api)
    records = subject.records()
    # The first admission on a plan is noted by the rule.
    if (route_plan.slotted and not slots) or records[0].plan_of(request.api) != plan.id:
        return None
    now = max(request.now, *(record.at for record in records))
    if now >= MAX_UNITS or any(len(record.meters) > _MOST_METERS for record in records):
        return None
    if not all(record.at for record in records) or not current(subject, route_plan, now):
        return None
    room = SeveralMeters()
    room.key, room.tag = entry.key, None
    room.tokens = tokens_of(subject)
    meters, missing = _meters(route_plan, records)
    ends = [entry.key.expires_at, *(s.expires_at for s in entry.key.secrets if bound or s.digest == request.digest)]
    expiries = [end for end in (to_us(end) for end in ends if end is not None) if end > now]
    if not meters or not _lay(room, subject, route_plan, meters, bound=bound):
        return None
    room.shape = shape = shapes(plan, route_plan, missing)
    room.places, room.bases = shape.share("places", room.places), shape.share("bases", room.bases)
    room.cells = tuple(
        (*meter, unit, shape.share(f"soft {place}", soft), shape.share(f"hard {place}", hard))
        for place, (meter, unit, soft, hard) in enumerate(room.cells)
    )
    changes = [at for _, at in entry.changes]
    room.end = shape.share("end", min([MAX_UNITS, *map(next_end if slots else next_due, records), *expiries, *changes]))
    if bound:
        room.bind(records)
    return room


def _meters(route_plan: RoutePlan, records: Sequence[Record]) -> tuple[list[tuple[int, int, int]], frozenset[str]]:
    """Find the meters of a route plan's units, by record, position and unit; the units that a record lacks."""
    routes = ("", *route_plan.counted)
    meters: list[tuple[int, int, int]] = []
    missing = set()
    for order, unit in enumerate(units_of(route_plan)):
        found = [
            (index, position, order)
            for index, record in enumerate(records)
            for position, meter in enumerate(record.meters)
            if meter.unit == unit and meter.route in routes and counts(meter.api, route_plan.api)
        ]
        meters += found
        own = [records[index].meters[position] for index, position, _ in found]
        if sum(meter.api == route_plan.api for meter in own) < len(routes) * len(records):
            missing.add(unit)
    return meters, frozenset(missing)


def _lay(
    room: SeveralMeters, subject: Subject, route_plan: RoutePlan, meters: Sequence[tuple[int, int, int]], *, bound: bool
) -> bool:
    """Work out how far each meter may go, and from where its limits count."""
    records, units = subject.records(), units_of(route_plan)
    orders = {(index, position): order for order, (index, position, _) in enumerate(meters)}
    tops = [(MAX_UNITS, BEYOND)] * len(meters)
    places: list[Place] = []
    bases: list[int] = []
    pours: list[Any] = []
    slots: list[tuple[Record, str, str, int]] = []
    for limit in route_plan.limits:
        record = subject.record_of(limit)
        if isinstance(limit, CompiledConcurrency):
            slots.insert(0, (record, limit.apis, limit.route, limit.limit))
            places.append((limit, -len(slots), 0, 0))
            bases.append(0)
            continue
        index = records.index(record)
        meter = record.meter(limit.apis, limit.route, limit.unit)
        position = record.meters.index(meter)  # type: ignore[arg-type] # advanced
        order = orders[index, position]
        if isinstance(limit, CompiledQuota):
            window = meter.window(limit.name)  # type: ignore[union-attr] # advanced
            if window is None or window.limit != limit.limit:
                return False
            whole = limit.limit + window.extra
            top = window.base + whole + limit.overage
            calm = min([top, *(window.base - (-p * whole // 100) - 1 for p in limit.alerts if p > window.alerted)])
            soft, hard = tops[order]
            tops[order] = min(soft, calm), min(hard, top if top <= MAX_UNITS else BEYOND)
            places.append((limit, order, window.extra, window.end))
            bases.append(window.base)
        elif isinstance(limit, CompiledThrottle):
            place = [bucket.name for bucket in meter.buckets].index(limit.name)  # type: ignore[union-attr] # advanced
            bucket = meter.buckets[place]  # type: ignore[union-attr] # advanced
            if bucket.level > MAX_UNITS and not bound:
                return False
            places.append((limit, len(meters) + len(pours), 0, 0))
            bases.append(0)
            what = (bucket,) if bound else (index, position, place)
            pours.append((*what, units.index(limit.unit), limit.drain, limit.scale, limit.burst))
    room.places, room.bases, room.pours, room.slots = tuple(places), tuple(bases), tuple(pours), tuple(slots)
    whose = [(records[index].meters[position],) if bound else (index, position) for index, position, _ in meters]
    room.cells = tuple((what, unit, *top) for what, (_, _, unit), top in zip(whose, meters, tops, strict=True))
    return True

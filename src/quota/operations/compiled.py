"""Lanes: charges compiled to numbers, which the stores on a server have a script there drive.

The rule runs in Python on decoded records. A *lane* is what it leaves to a server for the plain case: meters to add to
below a ceiling and buckets to pour into, good while the records' versions stand and nothing is due. A server that
finds anything else answers with the records, and the rule decides here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..clock import to_us
from ..decision import Decision, Details, Reason, _lazy, reason_of
from ..key import Subject
from ..plan import UsagePlan
from ..rule.charge import current, metered, quiet_until, weigh
from ..rule.entries import RememberedRequest
from ..rule.limits import BEYOND, MAX_UNITS, Course, QuotaLine, Reading, Standing, Terms
from ..rule.party import Party
from ..rule.record import Record
from .idempotency import decode_standing, encode_standing, fingerprint
from .request import Entry, Request, in_force, usable

_MOST_METERS = 500


class _Told(Decision):
    """A decision that a server made on a lane: the whole answer is worked out when something of it is asked for."""

    __slots__ = ("_told",)

    _told: tuple[Lane, Mapping[str, int], Sequence[int], str | None]

    def __getattr__(self, name: str) -> Any:
        if name != "_full":
            raise AttributeError(name)
        lane, takes, found, id_ = self._told
        with _lazy:
            full = lane.details(self.allowed, takes, self._now, found, id_)
            try:
                return object.__getattribute__(self, "_full")  # another thread was first
            except AttributeError:
                self._full = full
        return full


class Lane:
    """One key's plain way through one course.

    ``units``: in the order the server gets them; ``counted``: those of them that it can count. ``meters``: (record,
    meter, unit, quiet, ceiling), ``buckets``: (record, meter, bucket, unit, drain, scale, burst), by index; records
    are 0 (the key's) and 1 (the account's). ``base``: the course as its plan has it; ``course``: with the subject's own
    limits. Up to ``quiet`` nothing happens but counting, above ``ceiling`` the quota
    refuses, in between the rule is asked. ``tag``: what a store keeps with it.
    """

    __slots__ = (
        "base", "buckets", "counted", "course", "key", "meters", "places", "plan", "tag", "tokens", "units", "until",
    )  # fmt: skip

    units: tuple[str, ...]
    counted: set[str]
    meters: list[tuple[int, int, int, int, int]]
    buckets: list[tuple[int, int, int, int, int, int, int]]
    places: list[tuple[Any, int, int, int, int]]
    until: int
    key: Subject
    plan: UsagePlan
    base: Course
    course: Course
    tokens: tuple[int, int]
    tag: Any

    def amounts(self, takes: Mapping[str, int]) -> list[int] | None:
        """The units of ``takes`` in the lane's order; None when it cannot count one of them."""
        if any(units and unit not in self.counted for unit, units in takes.items()):
            return None
        return [takes.get(unit, 0) for unit in self.units]

    def readings(self, found: Sequence[int], now: int) -> list[Reading]:
        """Read where the limits stand from what the meters read and the buckets' levels."""
        return [
            Reading(line, found[index] - base, extra, end)
            if type(line) is QuotaLine
            else Reading(line, found[index], 0, now)
            for line, index, base, extra, end in self.places
        ]

    def conclude(
        self, allowed: bool, takes: Mapping[str, int], now: int, found: Sequence[int], id_: str | None = None
    ) -> Decision:
        """The decision, from what the server answered; ``id_`` where it is remembered under one."""
        decision = _Told.__new__(_Told)
        decision.allowed = allowed
        decision._now = now
        decision._told = (self, takes, found, id_)
        return decision

    def details(
        self, allowed: bool, takes: Mapping[str, int], now: int, found: Sequence[int], id_: str | None
    ) -> Details:
        """The whole answer."""
        verdict = weigh(self.readings(found, now), {} if allowed else takes, now)
        groups = ((now, metered(self.course, takes)),) if allowed else ()
        tokens = self.tokens if allowed else (0, 0)
        return Details(reason_of(verdict), id_, self.key, self.plan, takes, verdict, groups, tokens)

    def memo(self, request: Request, takes: Mapping[str, int], id_: str) -> list[Any]:
        """All that is remembered of an admission besides the server's answer; ``read_memo`` puts them together."""
        lines = [
            [encode_standing(Standing(line, 0, extra, end)), index, base]
            for line, index, base, extra, end in self.places
        ]
        return [fingerprint(request), id_, request.id, self.plan.id, sorted(takes.items()), lines,
                metered(self.course, takes), list(self.tokens)]  # fmt: skip


def read_memo(now: int, found: Sequence[int], rest: list[Any], terms: Terms) -> RememberedRequest:
    """An admission that a server remembered, as ``operations`` remembers its own."""
    prints, id_, hold_id, plan_id, takes, lines, groups, tokens = rest
    readings: list[Reading] = []
    for encoded, index, base in lines:
        empty = decode_standing(encoded)
        quota = type(empty.line) is QuotaLine
        used = found[index] - base if quota else found[index]
        readings.append(Reading(empty.line, used, empty.extra, empty.resets_at))
    standings = [encode_standing(standing) for standing in weigh(readings, {}, now).standings]
    until = now + terms.request_ttl
    return RememberedRequest.decode(
        [until, prints, id_, hold_id, plan_id, takes, now, standings, [], [[now, groups]], tokens]
    )


def open_lane(request: Request, entry: Entry, party: Party) -> Lane | None:
    """The lane for calls like this one, where the records are settled for its course; else None."""
    planned = entry.plans.get(request.api)
    plan = in_force(entry, party, request.now).plans.get(request.api)
    if planned is None or plan is None or usable(request, entry) is not Reason.OK:
        return None
    course = plan.course(request.route)
    records = party.records()
    now = max(request.now, *(record.at for record in records))
    if now >= MAX_UNITS or any(len(record.meters) > _MOST_METERS for record in records):
        return None
    if not all(record.at for record in records) or not current(party, course, now):
        return None
    lane = Lane()
    lane.course, lane.plan, lane.key = course, plan, entry.key
    lane.tokens = party.key.token, party.account.token if party.account else 0
    lane.base, lane.tag = planned.course(request.route), None
    _lay_meters(lane, course, records)
    return lane if _lay_lines(lane, party, request) else None


def _lay_meters(lane: Lane, course: Course, records: Sequence[Record]) -> None:
    """Find the meters of the course's units. A unit counts where every record and route has its meter."""
    routes = ("", course.route) if course.routed else ("",)
    lane.units = tuple(dict.fromkeys([*(line.unit for line in course.lines), *course.cost]))
    lane.meters, lane.counted = [], set()
    for order, unit in enumerate(lane.units):
        places = [
            (index, position)
            for index, record in enumerate(records)
            for position, meter in enumerate(record.meters)
            if meter.unit == unit and meter.api == course.api and meter.route in routes
        ]
        lane.meters += [(*place, order, MAX_UNITS, BEYOND) for place in places]
        if len(places) == len(routes) * len(records):
            lane.counted.add(unit)


def _lay_lines(lane: Lane, party: Party, request: Request) -> bool:
    """Work out how far each meter may go and until when that holds, as ``charge.bounds`` does."""
    records = party.records()
    places = {(index, position): order for order, (index, position, *_) in enumerate(lane.meters)}
    until = min([MAX_UNITS, *map(quiet_until, records), *_expiries(lane.key, request.digest)])
    lane.places, lane.buckets = [], []
    for line in lane.course.lines:
        record = party.holder(line)
        index = records.index(record)
        meter = record.meter(lane.course.api, line.route, line.unit)
        position = record.meters.index(meter)  # type: ignore[arg-type] # settled
        order = places[index, position]
        if isinstance(line, QuotaLine):
            slot = meter.slot(line.name)  # type: ignore[union-attr] # settled
            if slot is None or slot.limit != line.limit:
                return False
            whole = line.limit + slot.extra
            top = slot.base + whole + line.overage
            calm = min([top, *(slot.base - (-p * whole // 100) - 1 for p in line.alerts if p > slot.alerted)])
            _, _, unit, quiet, ceiling = lane.meters[order]
            ceiling = min(ceiling, top if top <= MAX_UNITS else BEYOND)
            lane.meters[order] = (index, position, unit, min(quiet, calm), ceiling)
            lane.places.append((line, order, slot.base, slot.extra, slot.end))
        else:
            names = [bucket.name for bucket in meter.buckets]  # type: ignore[union-attr] # settled
            place = names.index(line.name)
            if meter.buckets[place].level > MAX_UNITS:  # type: ignore[union-attr] # settled
                return False
            lane.places.append((line, len(lane.meters) + len(lane.buckets), 0, 0, 0))
            unit, drain, scale, burst = lane.units.index(line.unit), line.drain, line.scale, line.burst
            lane.buckets.append((index, position, place, unit, drain, scale, burst))
    lane.until = until
    return True


def _expiries(key: Subject, digest: bytes | None) -> list[int]:
    ends = [key.expires_at, *(secret.expires_at for secret in key.secrets if secret.digest == digest)]
    return [to_us(end) for end in ends if end is not None]

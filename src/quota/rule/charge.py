"""THE rule: everything that decides an admission. Pure functions on integers: no clock, lock, I/O, datetime or float.

Time is microseconds since the epoch. A call is a charge: units taken from every limit it touches, all or nothing.

*Quotas.* A meter only ever counts what was taken (and what was given back, as though it had never been taken); a slot
remembers the meter's reading at the start of its window. A limit that is new, renamed or back from another plan finds
its base among the readings that are known (``known``), so whatever was taken counts under every plan. Where the
reading at the very start is not known, the latest earlier one stands: a change of plan may count too much for the rest
of one window, never too little, save for what lies further back than history is kept.

*Throttles.* A token bucket whose level is kept in units times ``scale`` and falls by ``drain`` each microsecond: a rate
of n/d units per p microseconds is scale d*p/g and drain n/g, so nothing is ever divided. A bucket that joins takes over
the level of those it replaces, so that toggling plans refills nothing (``moves.py``).

*Routes.* What calls on a route used is known from when a plan of the key first gave that route limits of its own, and
for the calls under such plans: a route's quota that comes in the middle of a window counts these and no others. The
plan's own quotas count every call all along. A route's throttle begins at the level of the plan's that it overrides,
and where it goes, what it let through is poured into the plan's.

*Time* never runs backwards for a record. What is due at an instant (holds that lapse, days that end, windows that roll)
is settled first, on records that are the request's own: its store writes what became of them only where the party says
that it changed. So a refusal changes nothing, but for one that is the first to find the key's throttles changed, from
which on they drain as the new plan has it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import pairwise

from ..clock import DAY_US
from .entries import Amount, Amounts
from .limits import Course, Line, QuotaLine, Reading, Standing, Terms, ThrottleLine, Verdict
from .meter import Bucket, Meter, Slot
from .party import Party
from .record import HOUR_US, MINUTE_US, Record
from .replan import converted, level_at, move, put


def current(party: Party, course: Course | None, now: int) -> bool:
    """Tell whether nothing is due at ``now`` for these limits."""
    return not _due(party, course, now)


def _due(party: Party, course: Course | None, now: int) -> tuple[Record, ...]:
    """Return the records on which something is due at ``now``: of themselves, or for these limits."""
    records = party.records()
    if course is None:
        return tuple([record for record in records if now >= quiet_until(record)])
    if any(party.places(course, unit) != places for unit, (places, _) in course.throttles.items()):
        return records
    late = [party.holder(line) for line in course.lines if not _current(party.holder(line), course.api, line, now)]
    return tuple([record for record in records if now >= quiet_until(record) or record in late])


def settled(party: Party, course: Course | None, now: int, terms: Terms) -> Party:
    """Bring the party to ``now``: what is due is done, and every one of these limits is there. The party itself."""
    due = _due(party, course, now)
    if not due:
        return party
    for record in due:
        _settle(record, now, terms)
    if course is not None:
        for unit, throttles in course.throttles.items():
            if party.places(course, unit) != throttles[0]:
                party.moved |= move(party, course.api, unit, throttles, now)
        for line in course.lines:
            party.moved |= _place(party.holder(line), course.api, line, now)
    return party


def read(party: Party, course: Course, now: int) -> list[Reading]:
    """Read what a settled party's limits stand at."""
    readings: list[Reading] = []
    for line in course.lines:
        meter: Meter = party.holder(line).meter(course.api, line.route, line.unit)  # type: ignore[assignment] # settled
        if isinstance(line, QuotaLine):
            slot: Slot = meter.slot(line.name)  # type: ignore[assignment] # settled
            readings.append(Reading(line, meter.total - slot.base, slot.extra, slot.end))
        else:
            bucket: Bucket = meter.bucket(line.name)  # type: ignore[assignment] # settled
            readings.append(Reading(line, level_at(bucket, now), 0, now))
    return readings


def weigh(readings: Iterable[Reading], takes: Mapping[str, int], now: int) -> Verdict:
    """Decide what taking ``takes`` on top of these readings would get; every limit that refuses is told."""
    standings = []
    waits: list[int] = []
    large: list[int] = []  # since when a limit can never take so much
    for line, reading, extra, end in readings:
        units = takes.get(line.unit, 0)
        if isinstance(line, QuotaLine):
            refused = units > 0 and reading + units > line.limit + line.overage + extra
            later = end if refused and units <= line.limit + line.overage else None
            standings.append(Standing(line, reading, extra, end, refused, later))
            if refused:
                waits.append(end)
            if units > line.limit + line.overage:
                large.append(end)
        else:
            excess = reading + units * line.scale - line.burst
            refused = units > 0 and excess > 0
            if units > line.limit:
                large.append(now)
            if refused:
                waits.append(now + -(-excess // line.drain))
            later = waits[-1] if refused and units <= line.limit else None
            standings.append(_standing(line, reading, now, refused=refused, later=later))
    retry_at = max(waits, default=None)
    # When the window of a quota that is too small for this ends, what a grant lets through now is gone with it.
    never = retry_at is not None and any(since <= retry_at for since in large)
    return Verdict(not waits, now, tuple(standings), (), None if never else retry_at, never)


def _standing(line: ThrottleLine, level: int, now: int, *, refused: bool = False, later: int | None = None) -> Standing:
    """Tell where a throttle stands: its level in units, rounded up, and when it is empty."""
    return Standing(line, -(-level // line.scale), 0, now - -level // line.drain, refused, later)


def take(party: Party, course: Course, takes: Mapping[str, int], now: int) -> Verdict:
    """Take units from a settled party, asking nothing."""
    counted = _counted(course, takes)
    for record in party.records():
        add(record, counted, now)
    return mark(party, course, takes, takes, now)


def add(record: Record, takes: Iterable[tuple[str, str, str, int]], now: int) -> None:
    """Count units on the meters they name."""
    record.stamp(now)
    for api, route, unit, units in takes:
        record.metered(api, route, unit, now).total += units


def mark(party: Party, course: Course, counted: Mapping[str, int], poured: Mapping[str, int], now: int) -> Verdict:
    """After units were counted: pour them into the buckets too, fire the alerts they crossed, tell where all stands."""
    standings: list[Standing] = []
    crossed: list[tuple[str, int]] = []
    for line in course.lines:
        meter: Meter = party.holder(line).meter(course.api, line.route, line.unit)  # type: ignore[assignment] # settled
        if isinstance(line, QuotaLine):
            slot: Slot = meter.slot(line.name)  # type: ignore[assignment] # settled
            alerted = slot.alerted
            for percent in line.alerts if counted.get(line.unit) else ():
                full = percent * (line.limit + slot.extra)
                if percent > alerted and (meter.total - slot.base) * 100 >= full:
                    crossed.append((line.name, percent))
                    alerted = percent
            if (alerted, line.limit) != (slot.alerted, slot.limit):
                meter.renew(slot, alerted=alerted, limit=line.limit)
            standings.append(Standing(line, meter.total - slot.base, slot.extra, slot.end))
        else:
            bucket: Bucket = meter.bucket(line.name)  # type: ignore[assignment] # settled
            bucket.level = level_at(bucket, now) + poured.get(line.unit, 0) * line.scale
            bucket.at = now
            standings.append(_standing(line, bucket.level, now))
    return Verdict(allowed=True, now=now, standings=tuple(standings), crossed=tuple(crossed))


def charge(party: Party, course: Course, takes: Mapping[str, int], now: int, terms: Terms, *, dry: bool) -> Verdict:
    """The rule: take all of it or nothing. ``dry`` answers the same, of a party that is not kept.

    Raises:
        ClockSkew: see ``Party.instant``.
    """
    now = party.instant(now, terms)
    settled(party, course, now, terms)
    verdict = weigh(read(party, course, now), takes, now)
    # Buckets that became others drain as this plan has it from now on, as the time to retry was reckoned.
    if not dry and (verdict.allowed or party.moved):
        party.keep(now)
    return take(party, course, takes, now) if verdict.allowed else verdict


def metered(course: Course, takes: Mapping[str, int]) -> Amounts:
    """The meters that a charge counts on, as a hold or a refund names them."""
    return tuple([Amount(*counted) for counted in _counted(course, takes)])


def _counted(course: Course, takes: Mapping[str, int]) -> list[tuple[str, str, str, int]]:
    routes = ("", course.route) if course.routed else ("",)
    return [(course.api, route, unit, units) for unit, units in takes.items() if units for route in routes]


def quiet_until(record: Record) -> int:
    """The instant when something is due of a record, whatever is called: a hold lapses, a day or a window ends."""
    ends = [slot.end for meter in record.meters for slot in meter.slots if slot.name and slot.end > record.at]
    ends += [own.until for own in record.overrides if own.until is not None and own.until > record.at]
    return min([record.at - record.at % DAY_US + DAY_US, *ends, *([] if record.due is None else [record.due])])


def _current(record: Record, api: str, line: Line, now: int) -> bool:
    meter = record.meter(api, line.route, line.unit)
    if meter is None:
        return False
    if isinstance(line, QuotaLine):
        slot = meter.slot(line.name)
        return slot is not None and (slot.start, slot.end) == line.window(now)
    bucket = meter.bucket(line.name)
    return bucket is not None and bucket.scale == line.scale and bucket.drain == line.drain


def _settle(record: Record, now: int, terms: Terms) -> None:
    """Lapse the holds that are due and close the days that are over."""
    record.lapse(now)
    if record.overrides:
        record.overrides = tuple(override for override in record.overrides if override.holds(now))
    today = now // DAY_US
    turned = record.at // DAY_US != today
    for meter in record.meters:
        if turned:
            meter.begin_day(today, today - terms.retention)
        # What it read where windows ended may be known no more when their limits are called next.
        slots = [
            slot._replace(base=meter.total, since=slot.end, extra=0, alerted=0)
            if slot.name and record.at < slot.end <= now else slot
            for slot in meter.slots
        ]  # fmt: skip
        slots = [slot for slot in slots if slot.matters_until() > now or not turned]
        if slots != [*meter.slots]:
            meter.slots = tuple(slots)


def _place(record: Record, api: str, line: Line, now: int) -> bool:
    """Give a quota the slot of its window at ``now``, a throttle its bucket at its rate; whether it had another."""
    meter = record.metered(api, line.route, line.unit, now)
    if not isinstance(line, QuotaLine):
        bucket = meter.bucket(line.name)
        if bucket is None or (bucket.scale, bucket.drain) != (line.scale, line.drain):
            put(meter, line, *converted(bucket, line, now), now)
            return bucket is not None
        return False
    start, end = line.window(now)
    slot = meter.slot(line.name)
    if slot is None or slot.end <= now:
        (base, since), extra, alerted = known(record, meter, start), 0, 0
    elif (slot.start, slot.end) == (start, end):
        return False
    else:
        # The period changed: what was used carries over, and the window that is left stays known while it lasts.
        base, since = min((slot.base, slot.since), known(record, meter, start))
        extra, alerted = slot.extra, slot.alerted
        shadow = Slot("", slot.start, slot.end, slot.base, 0, 0, 0, slot.since)
        others = (s for s in meter.slots if s.name or (s.since, s.end) != (slot.since, slot.end))
        meter.slots = (*others, shadow)
    new = Slot(line.name, start, end, base, extra, alerted, line.limit, since)
    meter.slots = (*(other for other in meter.slots if other is not slot), new)
    return False


def known(record: Record, meter: Meter, start: int) -> tuple[int, int]:
    """The meter's reading at ``start``, and the instant it is a reading of.

    Exact where it was noted, else the latest noted before it, else the earliest.
    """
    if record.at < start:
        return meter.total, start
    points = [
        (meter.minute, record.at - record.at % MINUTE_US),
        (meter.hour, record.at - record.at % HOUR_US),
        *((slot.base, slot.since) for slot in meter.slots),
        *((total, day * DAY_US) for day, total in meter.readings()),
        *((after, (day + 1) * DAY_US) for (day, _), (_, after) in pairwise(meter.readings())),
    ]
    before = [point for point in points if point[1] <= start]
    return max(before) if before else min(points)

"""THE rule: everything that decides an admission. Pure functions on integers: no clock, lock, I/O, datetime or float.

Time is microseconds since the epoch. A call is a charge: units taken from every limit it touches, all or nothing.

*Quotas.* A meter only ever counts what was taken (and what was given back, as though it had never been taken); a window
remembers the meter's reading at the start of its window. A limit that is new, renamed or back from another plan finds
its base among the readings that are known (``reading_at``), so whatever was taken counts under every plan. Where the
reading at the very start is not known, the latest earlier one stands: a change of plan may count too much for the rest
of one window, never too little, save for what lies further back than history is kept.

*Throttles.* A token bucket whose level is kept in units times ``scale`` and falls by ``drain`` each microsecond: a rate
of n/d units per p microseconds is scale d*p/g and drain n/g, so nothing is ever divided. A bucket that joins takes over
the level of those it replaces, so that toggling plans refills nothing (``replan.py``).

*Routes.* What calls on a route used is known from when a plan of the key first gave that route limits of its own, and
for the calls under such plans: a route's quota that comes in the middle of a window counts these and no others. The
plan's own quotas count every call all along. A route's throttle begins at the level of the plan's that it overrides,
and where it goes, what it let through is poured into the plan's.

*Concurrency.* In flight is every open reservation of a record, or of one route of it. A call needs a free slot; a
reservation keeps one until it is closed or lapses, by the store's own clock where callers' may differ.

*Time* never runs backwards for a record. What is due at an instant (holds that lapse, days that end, windows that roll)
is settled first, on records that are the request's own: its store writes what became of them only where the subject
says that it changed. So a refusal changes nothing, but for one that is the first to find the key's throttles changed,
from which on they drain as the new plan has it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ..clock import DAY_US
from .entries import Amount, Amounts
from .limits import (
    CompiledConcurrency,
    CompiledLimit,
    CompiledQuota,
    CompiledThrottle,
    Crossing,
    LimitState,
    Outcome,
    Reading,
    RoutePlan,
    StoreOptions,
)
from .meter import Bucket, Meter, Window
from .readings import carried, reading_at
from .record import HOUR_US, Record
from .replan import converted, level_at, move, put
from .subject import Subject


def current(subject: Subject, route_plan: RoutePlan | None, now: int) -> bool:
    """Tell whether nothing is due at ``now`` for these limits."""
    return not _due(subject, route_plan, now)


def _due(subject: Subject, route_plan: RoutePlan | None, now: int) -> tuple[Record, ...]:
    """Return the records on which something is due at ``now``: of themselves, or for these limits."""
    records, lapse_instant = subject.records(), subject.lapse_instant(now)
    if route_plan is None:
        return tuple([record for record in records if _late(record, now, lapse_instant)])
    if any(
        subject.throttle_refs(route_plan, *of) != throttle_refs
        for of, (throttle_refs, _) in route_plan.throttles.items()
    ):
        return records
    late = [
        subject.record_of(limit) for limit in route_plan.limits if not _current(subject.record_of(limit), limit, now)
    ]
    return tuple([record for record in records if _late(record, now, lapse_instant) or record in late])


def _late(record: Record, now: int, lapse_instant: int) -> bool:
    """Tell whether something is due of a record at ``now``, or a hold at the instant by which they lapse."""
    return now >= next_end(record) or (record.due is not None and lapse_instant >= record.due)


def advanced(subject: Subject, route_plan: RoutePlan | None, now: int, options: StoreOptions) -> Subject:
    """Bring the subject to ``now``: what is due is done, and every one of these limits is there. The subject itself."""
    due = _due(subject, route_plan, now)
    if not due:
        return subject
    for record in due:
        _advance(record, now, subject.lapse_instant(now), options)
    if route_plan is not None:
        for (level, unit), throttles in route_plan.throttles.items():
            if subject.throttle_refs(route_plan, level, unit) != throttles[0]:
                whose = Subject(subject.at_level(level)) if level else subject
                subject.moved |= move(whose, route_plan.api, unit, throttles, now)
        for limit in route_plan.limits:
            subject.moved |= _prepare(subject, limit, now)
    return subject


def read(subject: Subject, route_plan: RoutePlan, now: int) -> list[Reading]:
    """Read what an advanced subject's limits stand at."""
    readings: list[Reading] = []
    for limit in route_plan.limits:
        if isinstance(limit, CompiledConcurrency):
            readings.append(_in_flight(subject.record_of(limit), limit, now))
            continue
        meter: Meter = subject.record_of(limit).meter(limit.apis, limit.route, limit.unit)  # type: ignore[assignment] # advanced
        if isinstance(limit, CompiledQuota):
            window: Window = meter.window(limit.name)  # type: ignore[assignment] # advanced
            readings.append(Reading(limit, meter.total - window.base, window.extra, window.end))
        else:
            bucket: Bucket = meter.bucket(limit.name)  # type: ignore[assignment] # advanced
            readings.append(Reading(limit, level_at(bucket, now), 0, now))
    return readings


def _in_flight(record: Record, limit: CompiledConcurrency, now: int) -> Reading:
    """Read how many reservations are open, and when one more may be, if none is closed before it lapses."""
    used = record.in_use(limit.apis, limit.route)
    over = used - limit.limit + 1
    return Reading(limit, used, 0, record.frees_at(limit.apis, limit.route, over) if 0 < over <= used else now)


def evaluate(readings: Iterable[Reading], takes: Mapping[str, int], now: int) -> Outcome:
    """Decide what taking ``takes`` on top of these readings would get; every limit that refuses is told."""
    states = []
    waits: list[int] = []
    large: list[int] = []  # since when a limit can never take so much
    closed = False
    for limit, reading, extra, end in readings:
        if isinstance(limit, CompiledConcurrency):
            refused = bool(takes) and reading >= limit.limit
            later = end if refused and limit.limit else None
            states.append(LimitState(limit, reading, 0, now, refused, later))
            closed = closed or (refused and not limit.limit)
            if refused:
                waits.append(end)
            continue
        units = takes.get(limit.unit, 0)
        if isinstance(limit, CompiledQuota):
            refused = units > 0 and reading + units > limit.limit + limit.overage + extra
            later = end if refused and units <= limit.limit + limit.overage else None
            states.append(LimitState(limit, reading, extra, end, refused, later))
            if refused:
                waits.append(end)
            if units > limit.limit + limit.overage:
                large.append(end)
        else:
            excess = reading + units * limit.scale - limit.burst
            refused = units > 0 and excess > 0
            if units > limit.limit:
                large.append(now)
            if refused:
                waits.append(now + -(-excess // limit.drain))
            later = waits[-1] if refused and units <= limit.limit else None
            states.append(_state(limit, reading, now, refused=refused, later=later))
    retry_at = max(waits, default=None)
    # When the window of a quota that is too small for this ends, what a grant lets through now is gone with it.
    never = retry_at is not None and any(since <= retry_at for since in large)
    return Outcome(not waits, now, tuple(states), (), None if never or closed else retry_at, never)


def _state(
    limit: CompiledThrottle, level: int, now: int, *, refused: bool = False, later: int | None = None
) -> LimitState:
    """Tell where a throttle stands: its level in units, rounded up, and when it is empty."""
    return LimitState(limit, -(-level // limit.scale), 0, now - -level // limit.drain, refused, later)


def apply(
    subject: Subject, route_plan: RoutePlan, takes: Mapping[str, int], now: int, *, slot: bool = False
) -> Outcome:
    """Take units from an advanced subject, asking nothing. ``slot``: it is to have one reservation more."""
    counted = _counted(route_plan, takes)
    for record in subject.records():
        count(record, counted, now)
    return finish(subject, route_plan, takes, takes, now, slot=slot)


def count(record: Record, takes: Iterable[tuple[str, str, str, int]], now: int) -> None:
    """Count units on the meters they name, and on those that count these with others."""
    record.stamp(now)
    for api, route, unit, units in takes:
        record.metered(api, route, unit, now)
        for meter in record.meters_of(api, route, unit):
            meter.total += units


def finish(
    subject: Subject, route_plan: RoutePlan, counted: Mapping[str, int], filled: Mapping[str, int], now: int, *,
    slot: bool = False,
) -> Outcome:  # fmt: skip
    """After units were counted: pour them into the buckets too, fire the alerts they crossed, tell where all stands."""
    states: list[LimitState] = []
    crossed: list[tuple[str, int]] = []
    for limit in route_plan.limits:
        if isinstance(limit, CompiledConcurrency):
            used = subject.record_of(limit).in_use(limit.apis, limit.route) + slot
            states.append(LimitState(limit, used, 0, now))
            continue
        meter: Meter = subject.record_of(limit).meter(limit.apis, limit.route, limit.unit)  # type: ignore[assignment] # advanced
        if isinstance(limit, CompiledQuota):
            window: Window = meter.window(limit.name)  # type: ignore[assignment] # advanced
            alerted = window.alerted
            for percent in limit.alerts if counted.get(limit.unit) else ():
                full = percent * (limit.limit + window.extra)
                if percent > alerted and (meter.total - window.base) * 100 >= full:
                    crossed.append((limit.told, percent))
                    alerted = percent
                    if window.end - window.start >= HOUR_US:
                        used, whole = meter.total - window.base, limit.limit + window.extra
                        subject.told += (Crossing(limit, percent, used, whole, window.end, now),)
            if (alerted, limit.limit) != (window.alerted, window.limit):
                meter.renew(window, alerted=alerted, limit=limit.limit)
            states.append(LimitState(limit, meter.total - window.base, window.extra, window.end))
        else:
            bucket: Bucket = meter.bucket(limit.name)  # type: ignore[assignment] # advanced
            bucket.level = level_at(bucket, now) + filled.get(limit.unit, 0) * limit.scale
            bucket.at = now
            states.append(_state(limit, bucket.level, now))
    return Outcome(allowed=True, now=now, states=tuple(states), crossed=tuple(crossed))


def charge(
    subject: Subject, route_plan: RoutePlan, takes: Mapping[str, int], now: int, options: StoreOptions, *, dry: bool,
    slot: bool = False,
) -> Outcome:  # fmt: skip
    """The rule: take all of it or nothing. ``dry`` answers the same, of a subject that is not kept.

    ``slot``: the call has a reservation, which its caller puts on the records of an admission.

    Raises:
        ClockSkew: see ``Subject.instant``.
    """
    now = subject.instant(now, options)
    advanced(subject, route_plan, now, options)
    outcome = evaluate(read(subject, route_plan, now), takes, now)
    # Buckets that became others drain as this plan has it from now on, as the time to retry was reckoned.
    if not dry and (outcome.allowed or subject.moved):
        subject.keep(now)
    return apply(subject, route_plan, takes, now, slot=slot) if outcome.allowed else outcome


def metered(route_plan: RoutePlan, takes: Mapping[str, int]) -> Amounts:
    """The meters that a charge counts on, as a hold or a refund names them."""
    return tuple([Amount(*counted) for counted in _counted(route_plan, takes)])


def _counted(route_plan: RoutePlan, takes: Mapping[str, int]) -> list[tuple[str, str, str, int]]:
    routes = ("", *route_plan.counted)
    return [(route_plan.api, route, unit, units) for unit, units in takes.items() if units for route in routes]


def next_due(record: Record) -> int:
    """The instant when something is due of a record, whatever is called: a hold lapses, a day or a window ends."""
    end = next_end(record)
    return end if record.due is None else min(end, record.due)


def next_end(record: Record) -> int:
    """The instant when a day, a window or a subject's own limit ends."""
    ends = [window.end for meter in record.meters for window in meter.windows if window.name and window.end > record.at]
    ends += [own.until for own in record.overrides if own.until is not None and own.until > record.at]
    return min([record.at - record.at % DAY_US + DAY_US, *ends])


def _current(record: Record, limit: CompiledLimit, now: int) -> bool:
    if isinstance(limit, CompiledConcurrency):
        return True
    meter = record.meter(limit.apis, limit.route, limit.unit)
    if meter is None:
        return False
    if isinstance(limit, CompiledQuota):
        window = meter.window(limit.name)
        return window is not None and (window.start, window.end) == limit.window(now)
    bucket = meter.bucket(limit.name)
    return bucket is not None and bucket.scale == limit.scale and bucket.drain == limit.drain


def _advance(record: Record, now: int, lapse_instant: int, options: StoreOptions) -> None:
    """Lapse the holds that are due and close the days that are over."""
    record.lapse(lapse_instant)
    if record.overrides:
        record.overrides = tuple(override for override in record.overrides if override.holds(now))
    today = now // DAY_US
    turned = record.at // DAY_US != today
    for meter in record.meters:
        if turned:
            meter.begin_day(today, today - options.retention)
        # What it read where windows ended may be known no more when their limits are called next.
        windows = [
            window._replace(base=meter.total, since=window.end, extra=0, alerted=0)
            if window.name and record.at < window.end <= now else window
            for window in meter.windows
        ]  # fmt: skip
        windows = [window for window in windows if window.matters_until() > now or not turned]
        if windows != [*meter.windows]:
            meter.windows = tuple(windows)


def _prepare(subject: Subject, limit: CompiledLimit, now: int) -> bool:
    """Give a quota the window of its window at ``now``, a throttle its bucket at its rate; whether it had another."""
    if isinstance(limit, CompiledConcurrency):
        return False
    record = subject.record_of(limit)
    meter = record.metered(limit.apis, limit.route, limit.unit, now)
    if not isinstance(limit, CompiledQuota):
        bucket = meter.bucket(limit.name)
        if bucket is None or (bucket.scale, bucket.drain) != (limit.scale, limit.drain):
            put(meter, limit, *converted(bucket, limit, now), now)
            return bucket is not None
        return False
    start, end = limit.window(now)
    window = meter.window(limit.name)
    if window is None or window.end <= now:
        base, since = reading_at(record, meter, start)
        # On an account the plans of several keys count at the same time: a window there came from no other one.
        alone = record is subject.key or limit.level
        extra, alerted = carried(record, meter, limit.name, (start, end)) if alone else (0, 0)
    elif (window.start, window.end) == (start, end):
        return False
    else:
        # The period changed: what was used carries over, and the window that is left stays known while it lasts.
        base, since = min((window.base, window.since), reading_at(record, meter, start))
        extra, alerted = window.extra, window.alerted
        shadow = Window("", window.start, window.end, window.base, 0, 0, 0, window.since)
        others = (s for s in meter.windows if s.name or (s.since, s.end) != (window.since, window.end))
        meter.windows = (*others, shadow)
    new = Window(limit.name, start, end, base, extra, alerted, limit.limit, since)
    meter.windows = (*(other for other in meter.windows if other is not window), new)
    return False

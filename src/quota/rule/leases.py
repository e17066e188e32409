"""Leases in the record: units that a process took from every limit of a route plan at once, to spend them by itself.

Why this is exact. Leased units are charged by the rule, like any others, before their process may spend one of them: a
meter counts what was spent and what may still be. So whatever processes do by themselves, admitted <= counted <= limit.
What a process reports as not spent is given back as though it had never been taken, once. What it never reports (it
crashed) stays counted until its windows are over, because the record cannot tell it from what was spent.

A record has its leases by name (``entries.Lease``), one of a name at a time. Asking for lease n + 1 says what was spent
of lease n; a request that is repeated, late or out of order finds a number that is not the one it expects and changes
nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import attrs

from ..clock import DAY_US
from .apis import counts
from .charge import metered, read
from .entries import Amount, Lease, MeterName
from .limits import BEYOND, CompiledConcurrency, CompiledQuota, CompiledThrottle, Reading, RoutePlan, StoreOptions
from .record import Record
from .subject import Subject

MILLION = 1_000_000
LEAST = 4
"""Calls that a lease must cover to be worth it; below, every call is charged by itself."""
MOST = 256
"""Leases that a record remembers; of more, those whose processes seem dead are forgotten, which burns their units."""


@attrs.frozen
class LeaseRequest:
    """A process asks for lease ``number`` under ``name``, having ``used`` so much of the one before.

    ``calls``: as many calls like this one it would cover. ``share``: millionths of a limit that all leases together
    may hold. ``life``: microseconds that the process will be taken to be alive. ``only``: nothing is charged where
    there is no lease to be had. ``again``: it was sent before, and no answer came. ``above``: the accounts above the
    key's own that the lease before was taken of, None where there was none.
    """

    name: str
    number: int
    used: Mapping[str, int] = attrs.field(factory=dict)
    calls: int = 1
    share: int = 0
    life: int = 0
    only: bool = False
    again: bool = False
    above: tuple[str, ...] | None = None


def held(subject: Subject, name: str) -> Lease | None:
    """The lease under a name."""
    for record in subject.records():
        if record.leases and name in record.leases:
            return record.leases[name]
    return None


def give_back(subject: Subject, lease_request: LeaseRequest, now: int, *, last: bool) -> None:
    """Give back what was not spent of the lease before the lease request's, once. The subject is settled.

    ``last``: no lease follows. One of the lease request's own number was then granted to nobody: its reply was lost.
    """
    for record in subject.records():
        lease = record.leases.get(lease_request.name) if record.leases else None
        if lease is None or lease.number > lease_request.number:
            continue
        rest: Iterable[Amount] = ()
        if lease.number == lease_request.number - 1:
            rest = [
                amount._replace(units=amount.units - lease_request.used.get(amount.unit, 0)) for amount in lease.takes
            ]
        elif lease.number == lease_request.number and last:
            rest = lease.takes
        rest = [amount for amount in rest if amount.units > 0]
        if rest:
            record.give_back(lease.taken_at, rest)
        closed = lease._replace(number=lease_request.number + last, lively=now + lease_request.life, takes=())
        record.leases = {**(record.leases or {}), lease_request.name: closed}
    subject.changed = True


def granted(subject: Subject, lease: Lease, route_plan: RoutePlan, now: int) -> dict[str, int] | None:
    """The units of a lease that may be spent from now on, of an advanced subject: it is asked for again, or renewed.

    None when they are for windows or meters that are not now's, or when a limit was lowered below what it counts.
    """
    units = {amount.unit: amount.units for amount in lease.takes}
    if metered(route_plan, units) != lease.takes or route_plan.slotted:
        return None
    for limit, reading, extra, _ in read(subject, route_plan, now):
        if isinstance(limit, CompiledQuota):
            if limit.window(now)[0] > lease.taken_at or reading > limit.limit + limit.overage + extra:
                return None
        elif isinstance(limit, CompiledThrottle) and reading > limit.burst:
            return None
    return units


def close_name(subject: Subject, lease_request: LeaseRequest, now: int, *, last: bool) -> None:
    """The lease request was made before and may still be under way: should it come, it finds its number gone by."""
    closed = Lease(lease_request.number + last, now, now + lease_request.life, now, ())
    subject.key.leases = {**(subject.key.leases or {}), lease_request.name: closed}
    subject.changed = True


def remember(
    subject: Subject,
    lease_request: LeaseRequest,
    route_plan: RoutePlan,
    units: Mapping[str, int],
    now: int,
    options: StoreOptions,
) -> None:
    """Write down what was just charged as leased; of leases that matter no more, only what history tells."""
    takes = metered(route_plan, units)
    # An account without windows of its own, which may get some, forgets a lease no sooner than the others do.
    until = max(record.open_until(now, takes, now) for record in subject.records())
    for record in subject.records():
        leases, burned, over = {}, {}, []
        for name, lease in (record.leases or {}).items():
            if not lease.number:
                if lease.taken_at // DAY_US >= now // DAY_US - options.retention:
                    burned[name] = lease
            elif _over(lease, now):
                over.append(lease)
            else:
                leases[name] = lease
        if len(leases) >= MOST:
            dead = min(leases, key=lambda name: leases[name].lively)
            if leases[dead].lively < now:
                over.append(leases.pop(dead))
        leases[lease_request.name] = Lease(lease_request.number, until, now + lease_request.life, now, takes)
        record.leases = {**_burn(burned, over), **leases}


def _burn(burned: dict[str, Lease], over: list[Lease]) -> dict[str, Lease]:
    """Add what was never reported of a day's leases up, all in one: number 0, of nobody."""
    for lease in over:
        name = f"burned {lease.taken_at // DAY_US}"
        for amount in lease.takes:
            day = burned.get(name) or Lease(0, 0, 0, lease.taken_at, ())
            had = sum(old.units for old in day.takes if old.meter == amount.meter)
            others = tuple([old for old in day.takes if old.meter != amount.meter])
            burned[name] = day._replace(takes=(*others, amount._replace(units=had + amount.units)))
    return burned


def revive(subject: Subject, lease_request: LeaseRequest, now: int) -> None:
    """The lease's process is alive."""
    for record in subject.records():
        if record.leases and lease_request.name in record.leases:
            alive = record.leases[lease_request.name]._replace(lively=now + lease_request.life)
            record.leases = {**record.leases, lease_request.name: alive}
    subject.changed = True


def _over(lease: Lease, now: int) -> bool:
    """Tell whether nothing can come of a lease any more, late messages of its process included."""
    lively = lease.lively
    return lively + 300 * MILLION < now and (not lease.takes or lease.until <= now or lively + DAY_US < now)


def affordable(
    subject: Subject, route_plan: RoutePlan, takes: Mapping[str, int], lease_request: LeaseRequest, now: int
) -> dict[str, int] | None:
    """The units to lease for calls like this one, from an advanced subject; None where each call goes by itself.

    Of every limit: at most the lease request's part of ``share``, what is left of all holders' share, and half of this
    holder's part of what is free, so that leases shrink as the free amount does and the last units are handed out one
    by one. Never across an alert's threshold: the call that crosses it is charged by itself, and told. Calls in flight
    are counted where all processes see them, so a plan that limits those leases nothing. A call that no
    limit counts goes by itself: answered from a lease, it would tell its key's limits as they stood when that was made.
    """
    units = {unit: lease_request.calls * n for unit, n in takes.items() if n}
    if route_plan.slotted or not any(limit.unit in units for limit in route_plan.limits):
        return None
    for limit, reading, extra, _ in read(subject, route_plan, now):
        if limit.unit not in units or isinstance(limit, CompiledConcurrency):
            continue
        record = subject.record_of(limit)
        holders, out = _others(record, (limit.apis, limit.route, limit.unit), lease_request.name, now)
        if isinstance(limit, CompiledQuota):
            whole = limit.limit + extra
            room = whole + limit.overage - reading
            window = record.meter(limit.apis, limit.route, limit.unit).window(limit.name)  # type: ignore[union-attr] # advanced
            calm = [-(-p * whole // 100) - 1 - reading for p in limit.alerts if p > window.alerted]  # type: ignore[union-attr] # advanced
            all_may = max(0, whole + limit.overage) * lease_request.share // MILLION
            most = min([all_may // holders, all_may - out, room // (2 * holders), *calm])
        else:
            most = (limit.burst - reading) // limit.scale // (2 * holders)
        units[limit.unit] = min(units[limit.unit], most)
    if any(units[unit] < LEAST * n for unit, n in takes.items() if n):
        return None
    return units


def _others(record: Record, meter: MeterName, name: str, now: int) -> tuple[int, int]:
    """(how many processes hold leases on a meter, the bidder included; how many units the others' live leases hold)."""
    holders, out = {name[:-1]}, 0
    for other, lease in (record.leases or {}).items():
        if lease.lively <= now:
            continue
        units = sum(
            amount.units for amount in lease.takes if amount.meter[1:] == meter[1:] and counts(meter[0], amount.api)
        )  # fmt: skip
        if units:
            holders.add(other[:-1])
            out += units
    return len(holders), out


def first_end(subject: Subject, readings: tuple[Reading, ...]) -> int:
    """The instant when the first window ends or hold lapses: until then only charges move these readings."""
    ends = [reading.end for reading in readings if isinstance(reading.limit, CompiledQuota)]
    for record in subject.records():
        ends += [override.until for override in record.overrides if override.until is not None]
    return min([BEYOND, *ends, *(record.due for record in subject.records() if record.due is not None)])

"""Leases in the record: units that a process took from every limit of a course at once, to spend them by itself.

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
from .charge import metered, read
from .entries import Amount, Lease, MeterName
from .limits import BEYOND, Course, QuotaLine, Reading, Terms
from .party import Party
from .record import Record

MILLION = 1_000_000
LEAST = 4
"""Calls that a lease must cover to be worth it; below, every call is charged by itself."""
MOST = 256
"""Leases that a record remembers; of more, those whose processes seem dead are forgotten, which burns their units."""


@attrs.frozen
class Bid:
    """A process asks for lease ``number`` under ``name``, having ``used`` so much of the one before.

    ``calls``: as many calls like this one it would cover. ``share``: millionths of a limit that all leases together
    may hold. ``life``: microseconds that the process will be taken to be alive. ``only``: nothing is charged where
    there is no lease to be had. ``again``: it was sent before, and no answer came.
    """

    name: str
    number: int
    used: Mapping[str, int] = attrs.field(factory=dict)
    calls: int = 1
    share: int = 0
    life: int = 0
    only: bool = False
    again: bool = False


def held(party: Party, name: str) -> Lease | None:
    """The lease under a name."""
    for record in party.records():
        if record.leases and name in record.leases:
            return record.leases[name]
    return None


def give_back(party: Party, bid: Bid, now: int, *, last: bool) -> None:
    """Give back what was not spent of the lease before the bid's, once. The party is settled.

    ``last``: no lease follows. One of the bid's own number was then granted to nobody: its reply was lost.
    """
    for record in party.records():
        lease = record.leases.get(bid.name) if record.leases else None
        if lease is None or lease.number > bid.number:
            continue
        rest: Iterable[Amount] = ()
        if lease.number == bid.number - 1:
            rest = [take._replace(units=take.units - bid.used.get(take.unit, 0)) for take in lease.takes]
        elif lease.number == bid.number and last:
            rest = lease.takes
        rest = [take for take in rest if take.units > 0]
        if rest:
            record.give_back(lease.taken_at, rest)
        closed = lease._replace(number=bid.number + last, lively=now + bid.life, takes=())
        record.leases = {**(record.leases or {}), bid.name: closed}
    party.changed = True


def granted(party: Party, lease: Lease, course: Course, now: int) -> dict[str, int] | None:
    """The units of a lease that may be spent from now on, of a settled party: its bid comes again, or it is renewed.

    None when they are for windows or meters that are not now's, or when a limit was lowered below what it counts.
    """
    units = {take.unit: take.units for take in lease.takes}
    if metered(course, units) != lease.takes:
        return None
    for line, reading, extra, _ in read(party, course, now):
        if isinstance(line, QuotaLine):
            if line.window(now)[0] > lease.taken_at or reading > line.limit + line.overage + extra:
                return None
        elif reading > line.burst:
            return None
    return units


def close_name(party: Party, bid: Bid, now: int, *, last: bool) -> None:
    """The bid was made before and may still be under way: should it come, it finds its number gone by."""
    closed = Lease(bid.number + last, now, now + bid.life, now, ())
    party.key.leases = {**(party.key.leases or {}), bid.name: closed}
    party.changed = True


def remember(party: Party, bid: Bid, course: Course, units: Mapping[str, int], now: int, terms: Terms) -> None:
    """Write down what was just charged as leased; of leases that matter no more, only what history tells."""
    takes = metered(course, units)
    for record in party.records():
        until = record.open_until(now, takes, now)
        leases, burned, over = {}, {}, []
        for name, lease in (record.leases or {}).items():
            if not lease.number:
                if lease.taken_at // DAY_US >= now // DAY_US - terms.retention:
                    burned[name] = lease
            elif _over(lease, now):
                over.append(lease)
            else:
                leases[name] = lease
        if len(leases) >= MOST:
            dead = min(leases, key=lambda name: leases[name].lively)
            if leases[dead].lively < now:
                over.append(leases.pop(dead))
        leases[bid.name] = Lease(bid.number, until, now + bid.life, now, takes)
        record.leases = {**_burn(burned, over), **leases}


def _burn(burned: dict[str, Lease], over: list[Lease]) -> dict[str, Lease]:
    """Add what was never reported of a day's leases up, all in one: number 0, of nobody."""
    for lease in over:
        name = f"burned {lease.taken_at // DAY_US}"
        for take in lease.takes:
            day = burned.get(name) or Lease(0, 0, 0, lease.taken_at, ())
            had = sum(old.units for old in day.takes if old.meter == take.meter)
            others = tuple([old for old in day.takes if old.meter != take.meter])
            burned[name] = day._replace(takes=(*others, take._replace(units=had + take.units)))
    return burned


def revive(party: Party, bid: Bid, now: int) -> None:
    """The lease's process is alive."""
    for record in party.records():
        if record.leases and bid.name in record.leases:
            alive = record.leases[bid.name]._replace(lively=now + bid.life)
            record.leases = {**record.leases, bid.name: alive}
    party.changed = True


def _over(lease: Lease, now: int) -> bool:
    """Tell whether nothing can come of a lease any more, late messages of its process included."""
    lively = lease.lively
    return lively + 300 * MILLION < now and (not lease.takes or lease.until <= now or lively + DAY_US < now)


def affordable(party: Party, course: Course, takes: Mapping[str, int], bid: Bid, now: int) -> dict[str, int] | None:
    """The units to lease for calls like this one, from a settled party; None where each call goes by itself.

    Of every limit: at most the bid's part of ``share``, what is left of all holders' share, and half of this holder's
    part of what is free, so that leases shrink as the free amount does and the last units are handed out one by one.
    Never across an alert's threshold: the call that crosses it is charged by itself, and told.
    """
    units = {unit: bid.calls * n for unit, n in takes.items() if n}
    for line, reading, extra, _ in read(party, course, now):
        if line.unit not in units:
            continue
        record = party.holder(line)
        holders, out = _others(record, (course.api, line.route, line.unit), bid.name, now)
        if isinstance(line, QuotaLine):
            whole = line.limit + extra
            room = whole + line.overage - reading
            slot = record.meter(course.api, line.route, line.unit).slot(line.name)  # type: ignore[union-attr] # settled
            calm = [-(-p * whole // 100) - 1 - reading for p in line.alerts if p > slot.alerted]  # type: ignore[union-attr] # settled
            all_may = max(0, whole + line.overage) * bid.share // MILLION
            most = min([all_may // holders, all_may - out, room // (2 * holders), *calm])
        else:
            most = (line.burst - reading) // line.scale // (2 * holders)
        units[line.unit] = min(units[line.unit], most)
    if not units or any(units[unit] < LEAST * n for unit, n in takes.items() if n):
        return None
    return units


def _others(record: Record, meter: MeterName, name: str, now: int) -> tuple[int, int]:
    """(how many processes hold leases on a meter, the bidder included; how many units the others' live leases hold)."""
    holders, out = {name[:-1]}, 0
    for other, lease in (record.leases or {}).items():
        if lease.lively <= now:
            continue
        units = sum(take.units for take in lease.takes if take.meter == meter)
        if units:
            holders.add(other[:-1])
            out += units
    return len(holders), out


def first_end(party: Party, readings: tuple[Reading, ...]) -> int:
    """The instant when the first window ends or hold lapses: until then only charges move these readings."""
    ends = [reading.end for reading in readings if isinstance(reading.line, QuotaLine)]
    for record in party.records():
        ends += [override.until for override in record.overrides if override.until is not None]
    return min([BEYOND, *ends, *(record.due for record in party.records() if record.due is not None)])

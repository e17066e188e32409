"""Refunds, grants, and the repair after a wild clock."""

from __future__ import annotations

from ..errors import InvalidCost, InvalidValue
from ..key import new_number
from ..rule.charge import add
from ..rule.limits import MAX_UNITS, Course, QuotaLine, Standing, Terms
from ..rule.meter import Meter, Slot
from ..rule.party import Party
from ..rule.record import Record
from ..standing import LimitStatus, status_of
from .request import Entry, Request, course_of, required, settle


def refund(request: Request, entry: Entry | None, party: Party | None, terms: Terms) -> int:
    """Give units back to the windows they came from, once. How many were given back.

    ``args``: groups, tokens, when it was decided: so long ago that a refund would be remembered no more, it gives 0.
    """
    entry, party = required(request, entry, party)
    groups, tokens, decided_at = request.args
    now = party.instant(request.now, terms)
    if party.key.token != tokens[0] or party.key.refunded(request.id) or now >= decided_at + terms.refund_span:
        return 0
    settle(request, entry, party, terms)
    wanted = None if request.takes is None else dict(request.takes)
    given = 0
    for at, takes in reversed(groups):
        part = [take if wanted is None else take._replace(units=min(take.units, wanted[take.unit]))
                for take in takes if wanted is None or wanted.get(take.unit)]  # fmt: skip
        together = [take for other, others in groups if other == at for take in others]
        records = [record for record in party.records() if record.token in tokens]
        if not any(record.open_until(at, together, now) for record in records):
            continue
        for record in records:
            record.give_back(at, part)
        for _, route, unit, units in part:
            if not route:
                given += units
                if wanted is not None:
                    wanted[unit] -= units
    if given:
        party.key.remember_refund(request.id, now + terms.refund_span, now)
    return given


def adjust(request: Request, entry: Entry | None, party: Party | None, terms: Terms) -> LimitStatus:
    """grant and set_remaining, this window only. ``args``: the limit's name, units."""
    entry, party = required(request, entry, party)
    name, units = request.args
    course = course_of(entry, request)
    line = find_quota(course, name, request.route)
    settle(request, entry, party, terms)
    meter: Meter = party.holder(line).meter(request.api, line.route, line.unit)  # type: ignore[assignment] # settled
    slot: Slot = meter.slot(line.name)  # type: ignore[assignment] # settled
    extra = slot.extra + units if request.op == "grant" else units + meter.total - slot.base - line.limit
    if not -MAX_UNITS <= extra <= MAX_UNITS - line.limit - line.overage:
        raise InvalidCost("units", units, f"so many that limit, overage and grants stay below {MAX_UNITS}")
    slot = meter.renew(slot, extra=extra, limit=line.limit)
    return status_of(Standing(line, meter.total - slot.base, slot.extra, slot.end), entry.key)


def find_quota(course: Course | None, name: str, route: str | None) -> QuotaLine:
    """The quota of a name; on a route, the route's own before the plan's."""
    quotas = [line for line in course.lines if isinstance(line, QuotaLine)] if course else []
    for wanted in (f"{route} {name}", name) if route else (name,):
        for line in quotas:
            if line.name == wanted:
                return line
    raise InvalidValue("limit", name, f"a quota of the key's plan: {', '.join(line.name for line in quotas) or 'none'}")


def _outlive(old: Record, now: int, terms: Terms) -> Record:
    """A record that begins anew, but for what is out on lease: it may be spent yet, so it stays counted.

    Not what a wild clock leased, further ahead than any other process may be.
    """
    fresh = Record(new_number())
    fresh.overrides = old.overrides
    latest = now + terms.max_skew
    leases = {name: lease for name, lease in (old.leases or {}).items() if lease.number and lease.taken_at <= latest}
    for name, lease in leases.items():
        left = () if lease.until and lease.until <= now else lease.takes  # of windows that are not over
        if left:
            add(fresh, left, now)
        # As though it were leased now: that is when these units are counted, and what is not spent of them goes back.
        leases[name] = lease._replace(taken_at=now, takes=left)
    fresh.leases = leases or None
    return fresh


def forget(request: Request, entry: Entry | None, party: Party | None, terms: Terms) -> None:
    """Drop a key's counts, and its account's where they lie in the future: the repair after a wild clock."""
    _, party = required(request, entry, party)
    party.key = _outlive(party.key, request.now, terms)
    if party.account is not None and request.now < party.account.at - terms.max_skew:
        fresh = Record(new_number())
        fresh.overrides = party.account.overrides
        party.account = fresh
    party.changed = True

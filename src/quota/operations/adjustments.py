"""Refunds, grants, and the repair after a wild clock."""

from __future__ import annotations

from types import MappingProxyType

from ..errors import InvalidCost, InvalidValue
from ..event import limit_changed
from ..key import new_number
from ..rule.charge import count
from ..rule.limits import MAX_UNITS, OWN, CompiledQuota, LimitState, RoutePlan, StoreOptions
from ..rule.meter import Meter, Window
from ..rule.record import Record
from ..rule.subject import Subject
from ..status import LimitStatus, status_of
from .request import Entry, Request, advance, required, route_plan_of


def refund(request: Request, entry: Entry | None, subject: Subject | None, options: StoreOptions) -> int:
    """Give units back to the windows they came from, once. How many were given back.

    ``args``: groups, tokens, when it was decided: so long ago that a refund would be remembered no more, it gives 0.
    """
    entry, subject = required(request, entry, subject)
    groups, tokens, decided_at = request.args
    now = subject.instant(request.now, options)
    if subject.key.token != tokens[0] or subject.key.refunded(request.id) or now >= decided_at + options.refund_span:
        return 0
    advance(request, entry, subject, options)
    wanted = None if request.takes is None else dict(request.takes)
    given = 0
    for at, takes in reversed(groups):
        part = [amount if wanted is None else amount._replace(units=min(amount.units, wanted[amount.unit]))
                for amount in takes if wanted is None or wanted.get(amount.unit)]  # fmt: skip
        together = [amount for other, others in groups if other == at for amount in others]
        records = [record for record in subject.records() if record.token in tokens]
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
        subject.key.remember_refund(request.id, now + options.refund_span, now)
    return given


def adjust(request: Request, entry: Entry | None, subject: Subject | None, options: StoreOptions) -> LimitStatus:
    """grant and set_remaining, this window only. ``args``: the limit's name, units."""
    entry, subject = required(request, entry, subject)
    name, units = request.args
    route_plan = route_plan_of(entry, request)
    limit = find_quota(route_plan, name, request.route)
    advance(request, entry, subject, options)
    meter: Meter = subject.record_of(limit).meter(limit.apis, limit.route, limit.unit)  # type: ignore[assignment] # advanced
    window: Window = meter.window(limit.name)  # type: ignore[assignment] # advanced
    extra = window.extra + units if request.op == "grant" else units + meter.total - window.base - limit.limit
    if not -MAX_UNITS <= extra <= MAX_UNITS - limit.limit - limit.overage:
        field, most = "units" if request.op == "grant" else "remaining", f"come to at most {MAX_UNITS}"
        raise InvalidCost(field, units, f"so many that limit, overage and grants {most}")
    if extra != window.extra:
        by, granted = (request.actor, request.now), ({"extra": window.extra}, {"extra": extra})
        where = {"key": entry.key, "plan": entry.plans[request.api].id, "api": request.api}
        subject.told = limit_changed(by, "limit.granted", limit, *granted, **where)
    window = meter.renew(window, extra=extra, limit=limit.limit)
    return status_of(LimitState(limit, meter.total - window.base, window.extra, window.end), entry.key)


def find_quota(route_plan: RoutePlan | None, name: str, route: str | None) -> CompiledQuota:
    """The quota of a name; on a route, the route's own before the plan's."""
    limits = [limit for limit in route_plan.limits if not limit.level] if route_plan else []
    quotas = [limit for limit in limits if isinstance(limit, CompiledQuota)]
    for wanted in (f"{route} {name}", name) if route else (name,):
        for limit in quotas:
            if wanted in (limit.told, limit.name.removeprefix(OWN)):
                return limit
    names = ", ".join(limit.name.removeprefix(OWN) for limit in quotas)
    raise InvalidValue("limit", name, f"a quota of the key's or account's own plan: {names or 'none'}")


def _outlive(old: Record, now: int, options: StoreOptions) -> Record:
    """A record that begins anew, but for what is out on lease: it may be spent yet, so it stays counted.

    Not what a wild clock leased, further ahead than any other process may be.
    """
    fresh = Record(new_number())
    fresh.overrides, fresh.last_used = old.overrides, old.last_used
    latest = now + options.max_skew
    leases = {name: lease for name, lease in (old.leases or {}).items() if lease.number and lease.taken_at <= latest}
    for name, lease in leases.items():
        left = () if lease.until and lease.until <= now else lease.takes  # of windows that are not over
        if left:
            count(fresh, left, now)
        # As though it were leased now: that is when these units are counted, and what is not spent of them goes back.
        leases[name] = lease._replace(taken_at=now, takes=left)
    fresh.leases = leases or None
    return fresh


def forget(request: Request, entry: Entry | None, subject: Subject | None, options: StoreOptions) -> None:
    """Drop a key's counts, and its accounts' where they lie in the future: the repair after a wild clock."""
    _, subject = required(request, entry, subject)
    subject.key = _outlive(subject.key, request.now, options)
    early = request.now + options.max_skew
    if subject.account is not None and early < subject.account.at:
        subject.account = _anew(subject.account)
    subject.above = tuple([_anew(record) if early < record.at else record for record in subject.above])
    subject.changed = True


def _anew(old: Record) -> Record:
    fresh = Record(new_number())
    fresh.overrides = old.overrides
    return fresh


def release(request: Request, entry: Entry | None, subject: Subject | None, options: StoreOptions) -> None:  # noqa: ARG001
    """Give back what removed keys hold on an account and those above, and forget it. ``args``: the keys' ids."""
    _, subject = required(request, entry, subject)
    for record in subject.records():
        for hold in record.holds.each() if record.holds else ():
            if hold.id.partition(".")[2] in request.args:
                record.release(hold.id)
                if hold.still_open:
                    record.give_back(hold.taken_at, hold.takes)
                subject.changed = True


OPERATIONS = MappingProxyType(
    {"refund": refund, "grant": adjust, "set_remaining": adjust, "forget": forget, "release": release}
)

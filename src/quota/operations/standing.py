"""The status of limits, nothing charged; and one subject's own limit in place of its plan's."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

import attrs

from ..clock import to_datetime
from ..errors import InvalidPlan, InvalidValue
from ..event import limit_changed
from ..joined import limit_of
from ..key import ScheduledPlan
from ..limit import REQUESTS, Concurrency, Limit, Quota, Throttle
from ..plan import UsagePlan
from ..rule.apis import several
from ..rule.charge import advanced, evaluate, read
from ..rule.entries import Override
from ..rule.limits import OWN, CompiledLimit, CompiledThrottle, StoreOptions
from ..rule.record import Record
from ..rule.subject import Subject
from ..status import LimitOverride, LimitStatus, status_of
from .request import Entry, Request, in_force, required


def _place(limit: CompiledLimit) -> tuple[Any, ...]:
    return limit.level, limit.holder, limit.apis, limit.route, limit.name


def status(
    request: Request, entry: Entry | None, subject: Subject | None, options: StoreOptions
) -> tuple[LimitStatus, ...]:
    """Tell where every limit of a key's plans stands. ``args``: the apis, None for all; whether only of its account."""
    entry, subject = required(request, entry, subject)
    apis, shared_only = request.args
    now = subject.instant(request.now, options)
    found: list[LimitStatus] = []
    known: set[tuple[Any, ...]] = set()
    for of in sorted(entry.plans) if apis is None else apis:
        plan = entry.plans.get(of)
        if plan is None:
            continue
        route_plan = plan.route_plan(request.route, of)
        readings = read(advanced(subject, route_plan, now, options), route_plan, now)
        states = evaluate(readings, {limit.unit: 1 for limit in route_plan.limits}, now).states
        # A limit of several apis is told with the first of them.
        states = tuple([each for each in states if not (several(each.limit.apis) and _place(each.limit) in known)])
        known |= {_place(each.limit) for each in states}
        told = [each for each in states if each.limit.shared or not shared_only]
        found += [_changing(status_of(each, entry.key), entry, subject, each.limit, of, now) for each in told]
    return tuple(found)


def _changing(
    status: LimitStatus, entry: Entry, subject: Subject, limit: CompiledLimit, api: str, now: int
) -> LimitStatus:
    """Tell of a limit which plan takes the place of its own, the key's or an account's, and which override holds."""
    whose = next((upper for upper in entry.uppers if upper.id == limit.holder), entry) if limit.holder else entry
    plan = whose.plans[api]
    changes = sorted((at, goes.id) for goes, at in whose.scheduled if not {*goes.apis}.isdisjoint(plan.apis))
    scheduled = ScheduledPlan(changes[0][1], to_datetime(changes[0][0])) if changes else None
    own = _override(subject.record_of(limit), plan.id, limit, now)
    return attrs.evolve(status, scheduled=scheduled, override=own)


def _override(record: Record, plan: str, limit: CompiledLimit, now: int) -> LimitOverride | None:
    """Return what a record has in place of a plan's limit; None where that is of the other kind by now."""
    route, begin = limit.route, OWN * limit.name.startswith(OWN)
    for own in record.overrides:
        alike = isinstance(own.value, str) == isinstance(limit, CompiledThrottle)
        names = own.name, f"{begin}{route} {own.name.removeprefix(OWN)}"  # a route's may have its route before it
        if own[:2] == (plan, route) and limit.name in names and alike and own.holds(now):
            return LimitOverride(own.value, to_datetime(own.until) if own.until is not None else None)
    return None


def override(request: Request, entry: Entry | None, subject: Subject | None, options: StoreOptions) -> LimitStatus:
    """Give a subject a limit of its own. ``args``: the limit's name, the value or None, until when or None.

    Whatever was used stays used, and where the limit stands then is told.
    """
    entry, subject = required(request, entry, subject)
    name, value, until = request.args
    own = request.account is not None
    name = name.removeprefix(f"{request.account}: ") if own else name
    plan, route, limit = find_limit(entry.plans.get(request.api), name, request.route)
    if value is not None:
        _check(plan, route, limit, value)
    now = subject.instant(request.now, options)
    record = subject.record(shared=limit.by == "account")
    mine = plan.id, route, OWN * own + limit.name
    had = [other for other in record.overrides if other.holds(now)]
    kept = [other for other in had if other[:3] != mine]
    if value is not None:
        kept.append(Override(*mine, _encoded(value), until))
    if tuple(kept) != record.overrides:
        record.overrides = tuple(kept)
        subject.changed = True
    entry = in_force(entry, subject, now)
    route_plan = entry.plans[request.api].route_plan(route or None, request.api)
    look = subject.copy()  # what is due is not done by looking
    readings = read(advanced(look, route_plan, now, options), route_plan, now)
    states = evaluate(readings, {compiled.unit: 1 for compiled in route_plan.limits}, now).states
    wanted = [OWN * own + of for of in (name, f"{route} {limit.name}", limit.name)]
    found = [s for s in states if not s.limit.level and s.limit.route == route and s.limit.name in wanted]
    before, after = ([_told(other) for other in those if other[:3] == mine] for those in (had, kept))
    if before != after:
        kind = "override.set" if after else "override.cleared"
        told = [those[0] if those else None for those in (before, after)]
        where = {"key": entry.key, "plan": plan.id, "api": request.api}
        subject.told = limit_changed((request.actor, request.now), kind, found[-1].limit, *told, **where)
    return _changing(status_of(found[-1], entry.key), entry, look, found[-1].limit, request.api, now)


def _told(override: Override) -> dict[str, Any]:
    until = override.until
    return {"value": override.value, "until": None if until is None else to_datetime(until).isoformat()}


def find_limit(plan: UsagePlan | None, name: str, route: str | None) -> tuple[UsagePlan, str, Limit]:
    """Find a limit by its name; on a route, the route's own before the plan's. Raises ``InvalidValue``."""
    own = plan.routes.get(route or "", ()) if plan else ()
    plans = plan.limits if plan else ()
    for limit in own:
        if name in (limit.name, f"{route} {limit.name}"):
            return plan, str(route), limit  # type: ignore[return-value] # it has the limit
    for limit in plans:
        if limit.name == name:
            return plan, "", limit  # type: ignore[return-value] # as above
    names = ", ".join([*(limit.name for limit in own), *(limit.name for limit in plans)]) or "none"
    raise InvalidValue("limit", name, f"a limit of the plan for this api: {names}")


def _encoded(value: int | Throttle) -> int | str:
    plain = value if isinstance(value, int) else attrs.evolve(value, unit=REQUESTS, by="key", name="throttle")
    return plain if isinstance(plain, int) else str(plain)


def _check(plan: UsagePlan, route: str, limit: Limit, value: int | Throttle) -> None:
    """Raise ``InvalidValue`` for a value of the other kind of limit, or one that the plan could not have."""
    if isinstance(limit, Throttle) == isinstance(value, int):
        kind = "units of a quota" if isinstance(limit, Quota) else "a Throttle"
        raise InvalidValue("value", value, "calls in flight" if isinstance(limit, Concurrency) else kind)
    limits = {of: list(own) for of, own in {**plan.routes, "": plan.limits}.items()}
    limits[route][limits[route].index(limit)] = limit_of(limit, _encoded(value))
    own = limits.pop("")
    try:
        UsagePlan(plan.id, own, apis=plan.apis, routes=limits, costs=plan.costs)
    except InvalidPlan as error:
        raise InvalidValue("value", value, f"what fits the plan: {error}") from None


OPERATIONS = MappingProxyType({"status": status, "override": override})

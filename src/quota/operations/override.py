"""One subject's own limit in place of its plan's."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

import attrs

from ..clock import to_datetime
from ..errors import InvalidPlan, InvalidValue
from ..event import limit_changed
from ..joined import limit_of
from ..limit import REQUESTS, Concurrency, Limit, Quota, Throttle
from ..plan import UsagePlan
from ..rule.charge import advanced, evaluate, read
from ..rule.entries import Override
from ..rule.limits import OWN, StoreOptions
from ..rule.subject import Subject
from ..status import LimitStatus, status_of
from .request import Entry, Request, in_force, required


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
    return status_of(found[-1], entry.key)


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


OPERATIONS = MappingProxyType({"override": override})

"""One subject's own limit in place of its plan's."""

from __future__ import annotations

import attrs

from ..errors import InvalidPlan, InvalidValue
from ..limit import REQUESTS, Limit, Quota, Throttle
from ..plan import UsagePlan, limit_of
from ..rule.charge import read, settled, weigh
from ..rule.entries import Override
from ..rule.limits import Terms
from ..rule.party import Party
from ..standing import LimitStatus, status_of
from .request import Entry, Request, in_force, required


def override(request: Request, entry: Entry | None, party: Party | None, terms: Terms) -> LimitStatus:
    """Give a subject a limit of its own. ``args``: the limit's name, the value or None, until when or None.

    Whatever was used stays used, and where the limit stands then is told.
    """
    entry, party = required(request, entry, party)
    name, value, until = request.args
    plan, route, limit = find_limit(entry.plans.get(request.api), name, request.route)
    if value is not None:
        _check(plan, route, limit, value)
    now = party.instant(request.now, terms)
    record = party.record(shared=limit.by == "account")
    mine = plan.id, route, limit.name
    kept = [other for other in record.overrides if other[:3] != mine and other.holds(now)]
    if value is not None:
        kept.append(Override(*mine, _encoded(value), until))
    if tuple(kept) != record.overrides:
        record.overrides = tuple(kept)
        party.changed = True
    entry = in_force(entry, party, now)
    course = entry.plans[request.api].course(route or None)
    look = Party(*[each.copy() for each in party.records()])  # what is due is not done by looking
    readings = read(settled(look, course, now, terms), course, now)
    standings = weigh(readings, {line.unit: 1 for line in course.lines}, now).standings
    wanted = (name, f"{route} {limit.name}", limit.name)
    found = [s for s in standings if s.line.route == route and s.line.name in wanted]
    return status_of(found[-1], entry.key)


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
    if isinstance(limit, Quota) != isinstance(value, int):
        raise InvalidValue("value", value, "units of a quota" if isinstance(limit, Quota) else "a Throttle")
    limits = {of: list(own) for of, own in {**plan.routes, "": plan.limits}.items()}
    limits[route][limits[route].index(limit)] = limit_of(limit, _encoded(value))
    own = limits.pop("")
    try:
        UsagePlan(plan.id, own, api=plan.api, routes=limits, costs=plan.costs)
    except InvalidPlan as error:
        raise InvalidValue("value", value, f"what fits the plan: {error}") from None

"""Where the limits of a key or an account stand, nothing charged."""

from __future__ import annotations

from ..rule.charge import read, settled, weigh
from ..rule.limits import Terms
from ..rule.party import Party
from ..standing import LimitStatus, status_of
from .request import Entry, Request, required


def status(request: Request, entry: Entry | None, party: Party | None, terms: Terms) -> tuple[LimitStatus, ...]:
    """Tell where every limit of a key's plans stands. ``args``: the apis, None for all; whether only of its account."""
    entry, party = required(request, entry, party)
    apis, shared_only = request.args
    now = party.instant(request.now, terms)
    found: list[LimitStatus] = []
    for of in sorted(entry.plans) if apis is None else apis:
        plan = entry.plans.get(of)
        if plan is None:
            continue
        course = plan.course(request.route)
        readings = read(settled(party, course, now, terms), course, now)
        standings = weigh(readings, {line.unit: 1 for line in course.lines}, now).standings
        found += [status_of(each, entry.key) for each in standings if each.line.shared or not shared_only]
    return tuple(found)

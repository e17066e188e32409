"""Usage by UTC day, as API Gateway's GetUsage tells it, by limit; and where limits stand now. Nothing is charged."""

from __future__ import annotations

from datetime import date, timedelta
from typing import Any

import attrs

from ..clock import DAY_US, EPOCH
from ..plan import UsagePlan
from ..rule.charge import read, settled, weigh
from ..rule.limits import Course, QuotaLine, Terms
from ..rule.party import Party
from ..standing import LimitStatus, status_of
from .request import Entry, Request, course_of, required


@attrs.frozen
class UsageRecord:
    """One quota on one UTC day: units ``used`` that day and what ``remaining`` of its window at the day's end.

    ``limit`` is the quota's name, behind its route where several routes have one of that name. ``leased``: so many of
    ``used`` are out on leases (``LeasedStore``) and were not reported as spent; what was spent for sure is
    ``used - leased``.
    """

    day: date
    api: str
    limit: str
    used: int
    remaining: int
    leased: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON can hold it, as ``quota usage --json`` tells it."""
        return {
            "day": self.day.isoformat(), "api": self.api, "limit": self.limit, "used": self.used,
            "remaining": self.remaining,
        }  # fmt: skip


def by_day(
    work: Party, plan: UsagePlan | None, course: Course | None, api: str, now: int, first: int, last: int
) -> list[UsageRecord]:
    """The quotas of an api on a settled party, from the first to the last day since the epoch; today always."""
    today = now // DAY_US
    found = {
        (day, name): UsageRecord(EPOCH.date() + timedelta(days=day), api, name, *row)
        for day, name, *row in _rows(work, plan, api)
    }
    for standing in weigh(read(work, course, now), {}, now).standings if course else ():
        if isinstance(standing.line, QuotaLine):
            remaining = max(0, standing.line.limit + standing.extra - standing.used)
            name = standing.line.name
            empty = UsageRecord(EPOCH.date() + timedelta(days=today), api, name, 0, 0)
            found[today, name] = attrs.evolve(found.get((today, name), empty), remaining=remaining)
    return [record for (day, _), record in sorted(found.items(), key=_by_day) if first <= day <= last]


def _rows(party: Party, plan: UsagePlan | None, api: str) -> list[tuple[Any, ...]]:
    """(day, name, used, remaining, leased) of each quota: of the record that counts it, routes apart where need be."""
    lines = [line for route in ("", *plan.routes) for line in plan.course(route).lines] if plan else []
    held = {(line.route, line.name): (party.holder(line), line.unit) for line in lines}
    found = {
        (row.day, row.route, row.name): (
            row.used,
            max(0, row.limit - row.window_used),
            record.leased(row.meter, row.day),
        )
        for record in reversed(party.records())
        for row in record.history()
        if row.api == api and held.get((row.route, row.name), (record, row.unit)) == (record, row.unit)
    }
    places = {(route, name) for _, route, name in found} | set(held)
    alike = {name for route, name in places if sum(other == name for _, other in places) > 1}
    return [
        (day, f"{route} {name}" if route and name in alike else name, *told)
        for (day, route, name), told in found.items()
    ]


def _by_day(item: tuple[tuple[int, str], UsageRecord]) -> tuple[int, str]:
    return item[0]


def usage(request: Request, entry: Entry | None, party: Party | None, terms: Terms) -> list[UsageRecord]:
    """The quotas of an api by UTC day. ``args``: the first and the last, in days since the epoch."""
    entry, party = required(request, entry, party)
    first, last = request.args
    now = party.instant(request.now, terms)
    course = course_of(entry, request)
    work = settled(party, course, now, terms)
    return by_day(work, entry.plans.get(request.api), course, request.api, now, first, last)


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

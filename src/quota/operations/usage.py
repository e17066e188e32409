"""Usage by UTC day, as API Gateway's GetUsage tells it, by limit. Nothing is charged."""

from __future__ import annotations

from datetime import date, timedelta
from types import MappingProxyType
from typing import Any, NamedTuple

from ..clock import DAY_US, EPOCH
from ..plan import UsagePlan
from ..rule.apis import counts
from ..rule.charge import advanced, evaluate, read
from ..rule.limits import OWN, CompiledQuota, RoutePlan, StoreOptions
from ..rule.subject import Subject
from .request import Entry, Request, each_once, required, route_plan_of


class UsageRecord(NamedTuple):
    """One quota on one UTC day: units ``used`` that day and what ``remaining`` of its window at the day's end.

    ``remaining`` goes by the limit of that day's last charge (of today: by what it is now). ``limit`` is the quota's
    name, behind its route where several routes have one of that name. ``leased``: so many of ``used`` are out on leases
    (``LeasedStore``) and were not reported as spent; what was spent for sure is ``used - leased``.
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


class UsageTotal(NamedTuple):
    """All that a key, an account, or the keys on a plan (its ``id``) used of a unit in an api on some days.

    ``used``: what was admitted and not given back; open reservations and units out on a lease count.
    """

    id: str
    api: str
    unit: str
    used: int

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON can hold it, as ``quota report --json`` tells it."""
        return self._asdict()


def by_day(
    work: Subject, plan: UsagePlan | None, route_plan: RoutePlan | None, api: str, now: int, first: int, last: int,
    account: str | None = None,
) -> list[UsageRecord]:  # fmt: skip
    """The quotas of an api on an advanced subject, from the first to the last day since the epoch; today always.

    ``account``: whose subject it is, where it is no key's: the quotas of its own plan are told then.
    """
    today = now // DAY_US
    found = {
        (day, name): UsageRecord(EPOCH.date() + timedelta(days=day), api, name, *row)
        for day, name, *row in _rows(work, plan, api, account)
    }
    for state in evaluate(read(work, route_plan, now), {}, now).states if route_plan else ():
        if isinstance(state.limit, CompiledQuota) and not state.limit.level:
            remaining = max(0, state.limit.limit + state.extra - state.used)
            name = state.limit.told
            empty = UsageRecord(EPOCH.date() + timedelta(days=today), api, name, 0, 0)
            found[today, name] = found.get((today, name), empty)._replace(remaining=remaining)
    return [record for (day, _), record in sorted(found.items(), key=_by_day) if first <= day <= last]


def _rows(subject: Subject, plan: UsagePlan | None, api: str, account: str | None) -> list[tuple[Any, ...]]:
    """(day, name, used, remaining, leased) of each quota: of the record that counts it, routes apart where need be."""
    limits = [limit for route in ("", *plan.routes) for limit in plan.route_plan(route, api).limits] if plan else []
    limits = [limit for limit in limits if not limit.level]
    apis = {limit.apis for limit in limits}
    held = {(limit.route, limit.name): (subject.record_of(limit), limit.unit) for limit in limits}
    rows = [
        (record, row)
        for record in reversed(subject.records()[: 1 + (subject.account is not None)])
        for row in record.history()
        if counts(row.api, api)
        and (account is not None or not row.name.startswith(OWN))
        and held.get((row.route, row.name), (record, row.unit)) == (record, row.unit)
    ]
    found = {}
    for record, row in sorted(rows, key=lambda one: one[1].api in apis):  # where two tell of a day, its own plan's does
        meter = record.meter(api, row.route, row.unit)
        used = row.used if row.api == api else meter.used().get(row.day, 0) if meter else 0
        if used or row.api == api:
            left = max(0, row.limit - row.window_used)
            found[row.day, row.route, row.name] = used, left, record.leased((api, row.route, row.unit), row.day)
    places = {(route, name) for _, route, name in found} | set(held)
    alike = {name for route, name in places if sum(other == name for _, other in places) > 1}
    return [
        (day, _shown(f"{route} {name}" if route and name in alike else name, account), *told)
        for (day, route, name), told in found.items()
    ]


def _shown(name: str, account: str | None) -> str:
    """Return what users see of a count's name."""
    route, own, limit = name.rpartition(OWN)
    return f"{account}: {route}{limit}" if own else name


def _by_day(item: tuple[tuple[int, str], UsageRecord]) -> tuple[int, str]:
    return item[0]


def usage(request: Request, entry: Entry | None, subject: Subject | None, options: StoreOptions) -> list[UsageRecord]:
    """The quotas of an api by UTC day. ``args``: the first and the last, in days since the epoch."""
    entry, subject = required(request, entry, subject)
    first, last = request.args
    now = subject.instant(request.now, options)
    route_plan = route_plan_of(entry, request)
    work = advanced(subject, route_plan, now, options)
    return by_day(work, entry.plans.get(request.api), route_plan, request.api, now, first, last, request.account)


def plans(request: Request, entry: Entry | None, subject: Subject | None, options: StoreOptions) -> list[UsagePlan]:  # noqa: ARG001
    """Tell the plans that a key is on, each once, by the first of its apis."""
    entry, _ = required(request, entry, subject)
    return each_once(entry.plans)


OPERATIONS = MappingProxyType({"usage": usage, "plans": plans})

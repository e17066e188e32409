"""All that the usage page tells of a key: where each limit stands, and the last 35 days, as JSON can hold it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from ...account import Account, line_of
from ...clock import to_datetime
from ...errors import InvalidValue
from ...key import ApiKey
from ...ledger.sync import Ledger
from ...limit import Quota
from ...plan import UsagePlan
from ...status import LimitStatus

Owners = dict[str, list[UsagePlan]]
"""The plans that hold a call, by how names of their limits begin: a key's with nothing, an account's with its id."""

_MOST_ROUTES = 100
"""The most routes whose own limits are told: each is asked for by itself."""

DAYS = 35
"""The days of the chart: as long as daily usage is kept by default."""


def find_zone(name: str) -> ZoneInfo:
    """Return the time zone of a name such as Europe/Paris. Raises ``InvalidValue``."""
    accepted = "the name of a time zone, such as UTC or Europe/Paris"
    if not re.fullmatch(r"[A-Za-z0-9_+/-]{1,64}", name):
        raise InvalidValue("zone", name[:64], accepted)
    try:
        return ZoneInfo(name)
    except (ValueError, OSError, LookupError):
        raise InvalidValue("zone", name, accepted) from None


def collect(ledger: Ledger, key: ApiKey, zone: str) -> dict[str, Any]:
    """Return what a key's holder may see of it. Nothing is charged."""
    where = find_zone(zone)
    now = to_datetime(ledger._steps._now())
    accounts = line_of(key.account, ledger.get_account)
    above = {f"{account.id}: ": ledger.list_plans(account) for account in accounts}
    plans = [_plan(ledger, key, plan, above, now, where) for plan in ledger.list_plans(key)]
    told = {
        "name": key.name,
        "hint": key.secrets[0].hint if key.secrets else "",
        "expires_at": _at(key.expires_at, where),
        "scheduled": _goings(ledger, key, where),
    }
    changes = [(account.name, _goings(ledger, account, where)) for account in accounts]
    going = [{"name": name, "scheduled": scheduled} for name, scheduled in changes if scheduled]
    return {"at": _at(now, where), "zone": zone, "key": told, "accounts": going, "plans": plans}


def _goings(ledger: Ledger, who: ApiKey | Account, zone: ZoneInfo) -> list[dict[str, Any]]:
    return [{"plan": ledger.get_plan(id_).name, "at": _at(at, zone)} for id_, at in who.scheduled]


def _plan(ledger: Ledger, key: ApiKey, plan: UsagePlan, above: Owners, now: datetime, zone: ZoneInfo) -> dict[str, Any]:
    today = now.date()
    since = today - timedelta(days=DAYS - 1)
    used: dict[str, dict[str, int]] = {limit.name: {} for limit in plan.limits if isinstance(limit, Quota)}
    for record in (record for api in plan.apis for record in ledger.usage(key, api=api, since=since, until=today)):
        counts, day = used.setdefault(record.limit, {}), record.day.isoformat()
        counts[day] = counts.get(day, 0) + record.used
    days = [(since + timedelta(days=at)).isoformat() for at in range(DAYS)]
    history = [
        {"limit": name, "days": [{"day": day, "used": counts.get(day, 0)} for day in days]}
        for name, counts in used.items()
    ]
    limits = list(_limits(ledger, key, plan, {"": [plan], **above}, zone))
    return {"name": plan.name, "api": ", ".join(plan.apis), "limits": limits, "history": history}


def _limits(ledger: Ledger, key: ApiKey, plan: UsagePlan, owners: Owners, zone: ZoneInfo) -> Iterator[dict[str, Any]]:
    """Every limit that a call on a plan can meet: its own, its routes', and the same of the accounts above.

    An account may have another plan for another api of the plan's: such an api is asked for too.
    """
    first = plan.apis[0]
    every = [own for owns in owners.values() for own in owns if {*own.apis} & {*plan.apis}]
    others = [next(api for api in plan.apis if api in own.apis) for own in every if first not in own.apis]
    routes = list(dict.fromkeys(route for own in every for route in own.routes))[:_MOST_ROUTES]
    names: set[tuple[str | None, str]] = set()
    for api in dict.fromkeys([first, *others]):
        governing = {
            owner: own for owner, owns in owners.items() for own in owns
            if api in own.apis and (api == first or first not in own.apis)
        }  # fmt: skip
        for route in (None, *routes):
            for status in ledger.status(key, api=api, route=route):
                kind = _kind(governing, status, route)
                if kind is None:
                    continue
                name = status.name if (route, status.name) not in names else f"{status.name} ({api})"
                names.add((route, name))
                yield _limit(status, name, kind, route, zone)


def _kind(governing: Mapping[str, UsagePlan], status: LimitStatus, route: str | None) -> str | None:
    """Tell what a limit is: a quota, a throttle and so on; None of one that is not the route's own."""
    owner = f"{status.holder}: "
    owner = owner if status.name.startswith(owner) else ""
    own = governing.get(owner)
    limits = () if own is None else own.limits if route is None else own.routes.get(route, ())
    general = set() if own is None or route is None else {limit.name for limit in own.limits}
    kinds = {
        f"{owner}{route} {limit.name}" if limit.name in general else f"{owner}{limit.name}": type(
            limit
        ).__name__.lower()
        for limit in limits
    }
    return kinds.get(status.name)


def _limit(status: LimitStatus, name: str, kind: str, route: str | None, zone: ZoneInfo) -> dict[str, Any]:
    return {
        "name": name, "kind": kind, "route": route, "unit": status.unit, "limit": status.limit,
        "extra": status.extra, "used": status.used, "remaining": status.remaining,
        "resets_at": _at(status.resets_at, zone) if status.used or status.extra else None,
        "override": status.override and {"until": _at(status.override.until, zone)},
    }  # fmt: skip


def _at(instant: datetime | None, zone: ZoneInfo) -> str | None:
    """An instant in the holder's zone; UTC where a year of it would lie beyond the calendar."""
    if instant is None:
        return None
    try:
        return instant.astimezone(zone).isoformat()
    except OverflowError:
        return instant.isoformat()

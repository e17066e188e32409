"""All that the usage page tells of a key: where each limit stands, and the last 35 days, as JSON can hold it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from ...clock import to_datetime
from ...errors import InvalidValue
from ...key import ApiKey
from ...ledger.sync import Ledger
from ...limit import Quota
from ...plan import UsagePlan
from ...status import LimitStatus

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
    plans = [_plan(ledger, key, plan, now, where) for plan in ledger.list_plans(key)]
    told = {
        "name": key.name,
        "hint": key.secrets[0].hint if key.secrets else "",
        "expires_at": _at(key.expires_at, where),
    }
    return {"at": _at(now, where), "zone": zone, "key": told, "plans": plans}


def _plan(ledger: Ledger, key: ApiKey, plan: UsagePlan, now: datetime, zone: ZoneInfo) -> dict[str, Any]:
    today = now.date()
    since = today - timedelta(days=DAYS - 1)
    statuses = ledger.status(key, api=plan.apis[0])
    kinds = _kinds("", [plan])
    for account in {status.holder for status in statuses if status.name.startswith(f"{status.holder}: ")}:
        kinds |= _kinds(f"{account}: ", ledger.list_plans(ledger.get_account(account)))
    limits = [_limit(status, kinds.get(status.name, "quota"), zone) for status in statuses]
    used: dict[str, dict[str, int]] = {limit.name: {} for limit in plan.limits if isinstance(limit, Quota)}
    for record in (record for api in plan.apis for record in ledger.usage(key, api=api, since=since, until=today)):
        counts, day = used.setdefault(record.limit, {}), record.day.isoformat()
        counts[day] = counts.get(day, 0) + record.used
    days = [(since + timedelta(days=at)).isoformat() for at in range(DAYS)]
    history = [
        {"limit": name, "days": [{"day": day, "used": counts.get(day, 0)} for day in days]}
        for name, counts in used.items()
    ]
    return {"name": plan.name, "api": ", ".join(plan.apis), "limits": limits, "history": history}


def _kinds(prefix: str, plans: Iterable[UsagePlan]) -> dict[str, str]:
    """The kind of each limit of plans, by the name that it has in a status: a quota, a throttle and so on."""
    return {f"{prefix}{limit.name}": type(limit).__name__.lower() for plan in plans for limit in plan.limits}


def _limit(status: LimitStatus, kind: str, zone: ZoneInfo) -> dict[str, Any]:
    return {
        "name": status.name, "kind": kind, "unit": status.unit, "limit": status.limit,
        "extra": status.extra, "used": status.used, "remaining": status.remaining,
        "resets_at": _at(status.resets_at, zone) if status.used else None,
    }  # fmt: skip


def _at(instant: datetime | None, zone: ZoneInfo) -> str | None:
    """An instant in the holder's zone; UTC where a year of it would lie beyond the calendar."""
    if instant is None:
        return None
    try:
        return instant.astimezone(zone).isoformat()
    except OverflowError:
        return instant.isoformat()

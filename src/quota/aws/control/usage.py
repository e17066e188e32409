"""Usage: for each key and day what was used that day, and what remained at its end."""

from __future__ import annotations

import re
from datetime import date, datetime, timedelta, timezone
from typing import Any

import attrs

from ...clock import to_datetime
from ...errors import UnknownKey
from ...key import ApiKey
from ...limit import Quota
from ...operations.usage import UsageRecord
from ...plan import UsagePlan
from ...rule.limits import MAX_UNITS
from ..write import quota_of
from .errors import NO_KEY, bad_request, not_found
from .instants import parse_day
from .keys import Reply, wrong_path
from .paging import page, rank_of
from .plane import Plane
from .plans import attached
from .wire import Call, brief

_LONGEST = 366
"""The most days of an answer."""

_PATHS = ("/remaining",)
_DAY = timedelta(days=1)


def get_usage(plane: Plane, call: Call, plan_id: str) -> Reply:
    """GetUsage: every key of the plan, used or not; nothing where the plan has no quota."""
    since, until = (_day(call, name) for name in ("startDate", "endDate"))
    if until < since:
        raise bad_request("Usage end date must not be before the start date")
    if (until - since).days >= _LONGEST:
        raise bad_request(f"Usage can be told for at most {_LONGEST} days")
    plan, key_id = plane.plan(plan_id), call.one("keyId")
    keys = plane.keys_on(plan_id)
    if key_id:
        plane.key(key_id)
        keys = [key for key in keys if key.id == key_id]
    quota = quota_of(plan)
    shown, position = page(keys if quota else [], call, rank_of)
    values = {key.id: days for key in shown if quota and (days := _days(plane, key, plan, quota, since, until))}
    data = {"usagePlanId": plan_id, "startDate": since.isoformat(), "endDate": until.isoformat(), "values": values}
    return 200, {**data, **({"position": position} if position else {})}


def _day(call: Call, name: str) -> date:
    text = call.one(name)
    day = parse_day(text or "")
    if day is None or not 1971 <= day.year <= 9000:  # where a window before and after it is still a date
        raise bad_request(f"Invalid {name} specified: '{brief(text or '')}'; a date is YYYY-MM-DD")
    return day


def _days(plane: Plane, key: ApiKey, plan: UsagePlan, quota: Quota, since: date, until: date) -> list[list[int]]:
    """(used, remaining) of each day. Of days without use, what the day before left, or all where a window began."""
    first = since - timedelta(days=35)  # the longest window before it
    try:
        records = [
            record for api in plan.apis for record in plane.ledger.usage(key, api=api, since=first, until=until)
            if record.limit == quota.name
        ]  # fmt: skip
    except UnknownKey:  # removed since it was listed
        return []
    told: dict[date, UsageRecord] = {}
    for record in records:
        before = told.get(record.day)
        used, remaining = (before.used, before.remaining) if before else (0, record.remaining)
        told[record.day] = record._replace(used=used + record.used, remaining=min(remaining, record.remaining))
    found: list[list[int]] = []
    remaining, window = quota.limit, None
    period = attrs.evolve(quota.period)  # one of its own: the plan's remembers the current window
    day = first
    while day <= until:
        at = period.window(_us(day))[0]
        if at != window:
            remaining, window = quota.limit, at
        if day in told:
            remaining = told[day].remaining
        if day >= since:
            found.append([told[day].used if day in told else 0, remaining])
        day += _DAY
    return found


def _us(day: date) -> int:
    return int(datetime(day.year, day.month, day.day, tzinfo=timezone.utc).timestamp()) * 1_000_000


def update_usage(plane: Plane, call: Call, plan_id: str, key_id: str) -> Reply:
    """UpdateUsage: what remains of the current window, more or less than it did; what was used stays used."""
    remaining = None
    for operation in call.operations("updateUsageInput"):
        accepted = _PATHS if operation.op == "replace" else ()
        if operation.path not in accepted:
            raise wrong_path(operation, accepted)
        text = (operation.value or "").strip()
        if not re.fullmatch(r"[0-9]{1,18}", text) or int(text) > MAX_UNITS:
            raise bad_request(
                f"Invalid remaining value specified: '{brief(operation.value or '')}'; a whole number is expected"
            )
        remaining = int(text)
    plan, key = attached(plane, plan_id, key_id)
    quota = quota_of(plan)
    if quota is None:
        raise bad_request(f"Usage Plan {plan_id} has no quota")
    if remaining is not None:
        try:
            plane.ledger.set_remaining(key, quota.name, remaining, api=plan.apis[0])
        except UnknownKey:
            raise not_found(NO_KEY) from None
        except ValueError as error:
            raise bad_request(brief(error)) from None
    today = to_datetime(plane.now()).date()
    days = _days(plane, key, plan, quota, today, today)
    data: dict[str, Any] = {"usagePlanId": plan_id, "startDate": today.isoformat(), "endDate": today.isoformat()}
    return 200, {**data, "values": {key.id: days} if days else {}}

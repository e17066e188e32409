"""Changes of the plans that a key is on: pure steps, each in the atomic step of a store's directory."""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from ..account import Account
from ..clock import to_datetime
from ..errors import InvalidValue, PlanConflict
from ..event import By, Draft, association_changed
from ..key import ApiKey, ScheduledPlan
from ..limit import Quota
from ..operations.request import Entry, Scheduled, settled
from ..plan import UsagePlan

PERIOD_END = "period_end"
"""In place of an instant: the end of the longest calendar quota of the plan that a key leaves."""


def associated(entry: Entry, plan: UsagePlan, at: int | str | None, now: int) -> Entry:
    """Put a key on a plan, at once or at an instant; what was scheduled for that api before is dropped.

    ``now``: the latest instant that the key's record knows, or a later one; what was due by then stays made.
    """
    entry = settled(entry, now)
    later = tuple(change for change in entry.scheduled if change[0].api != plan.api)
    if at is None:
        return entry._replace(plans={**entry.plans, plan.api: plan}, scheduled=later)
    instant = period_end(entry.plans.get(plan.api), now) if isinstance(at, str) else at
    return settled(entry._replace(scheduled=(*later, (plan, instant))), now)  # its record may be past it


def period_end(plan: UsagePlan | None, now: int) -> int:
    """Return when the longest of a plan's quotas begins anew. Raises ``InvalidValue`` where there is none."""
    limits = [limit for own in (plan.limits, *plan.routes.values()) for limit in own] if plan else []
    windows = [limit.period.window(now) for limit in limits if isinstance(limit, Quota)]
    if not windows:
        left = f"plan {plan.id}, which the key leaves, has no quota" if plan else "the key leaves no plan for this api"
        raise InvalidValue("at", PERIOD_END, f"an instant: {left}")
    return max(windows, key=lambda window: (window[1] - window[0], window[1]))[1]


def dissociated(entry: Entry, plan: UsagePlan, now: int) -> Entry:
    """Take a key off a plan that it is on, or is to go to; then nothing is scheduled for that api."""
    entry = settled(entry, now)
    on = entry.plans.get(plan.api)
    if on is not None and on.id == plan.id:
        entry = entry._replace(plans=_without(entry.plans, plan.api))
    elif plan.id not in [goes.id for goes, _ in entry.scheduled]:
        raise PlanConflict(plan.id, f"key {entry.key.id} is not on this plan")
    return entry._replace(scheduled=tuple(change for change in entry.scheduled if change[0].api != plan.api))


def deprived(entry: Entry, plan: UsagePlan, now: int) -> Entry:
    """Take a plan from a key that is removed: it is on none then, and goes to it no more."""
    entry = settled(entry, now)
    on = entry.plans.get(plan.api)
    plans = _without(entry.plans, plan.api) if on is not None and on.id == plan.id else entry.plans
    return entry._replace(plans=plans, scheduled=tuple(one for one in entry.scheduled if one[0].id != plan.id))


def moved(entry: Entry, old: UsagePlan, new: UsagePlan, now: int) -> Entry:
    """Have a key follow a plan to another api. Raises ``PlanConflict`` where it has another plan there."""
    entry = settled(entry, now)
    for plans in (entry.plans.values(), [goes for goes, _ in entry.scheduled]):
        ids = {plan.api: plan.id for plan in plans}
        if ids.get(old.api) == old.id and new.api in ids:
            raise PlanConflict(new.id, f"{_kind(entry)} {entry.key.id} has another plan for the api {new.api!r}")
    on = [new if plan.id == old.id else plan for plan in entry.plans.values()]
    later = [(new if goes.id == old.id else goes, at) for goes, at in entry.scheduled]
    return entry._replace(plans={plan.api: plan for plan in on}, scheduled=tuple(later))


def _kind(entry: Entry) -> str:
    return "account" if type(entry.key) is Account else "key"


def _without(plans: Mapping[str, UsagePlan], api: str) -> dict[str, UsagePlan]:
    return {other: plan for other, plan in plans.items() if other != api}


def placed(old: Entry, new: Entry, plan: UsagePlan, now: int, by: By | None) -> tuple[Draft, ...]:
    """Tell of what became other between a key and a plan's api: which plan it is on, and which it goes to when."""
    before, after = (_standing(entry, plan.api) for entry in (settled(old, now), new))
    return association_changed(old.key, plan, before, after, by)


def _standing(entry: Entry, api: str) -> dict[str, str] | None:
    found = {"plan": entry.plans[api].id} if api in entry.plans else {}
    for plan, at in entry.scheduled:
        found |= {"next": plan.id, "at": to_datetime(at).isoformat()} if plan.api == api else {}
    return found or None


def told(key: ApiKey, scheduled: tuple[Scheduled, ...]) -> ApiKey:
    """Return a key that tells which plans it goes to."""
    if not scheduled:
        return key
    changes = [ScheduledPlan(plan.id, to_datetime(at)) for plan, at in sorted(scheduled, key=lambda change: change[1])]
    return attrs.evolve(key, scheduled=tuple(changes))

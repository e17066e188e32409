"""Changes of the plans that a key or an account is on: pure steps, each in the atomic step of a store's directory."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import attrs

from ..account import Account, Holder
from ..clock import to_datetime
from ..errors import InvalidValue, PlanConflict
from ..event import By, Draft, association_changed
from ..key import ScheduledPlan
from ..limit import Quota
from ..operations.request import Entry, Scheduled, by_api, rivals, settled, with_plan
from ..plan import UsagePlan
from .base import IF_FREE, PERIOD_END


def change_of(on: bool, at: int | str | None) -> Callable[..., Entry]:
    """Return the step that puts an account on a plan, or takes it off."""
    return partial(associated, at=at) if on else dissociated


def associated(entry: Entry, plan: UsagePlan, at: int | str | None, now: int) -> Entry:
    """Put a key on a plan, at once or at an instant; what was scheduled for an api of its before is dropped.

    ``now``: the latest instant that its records know, or a later one; what was due by then stays made.
    Raises ``PlanConflict`` where it would take the place of two plans.
    """
    entry = settled(entry, now)
    later = _later(entry, plan)
    if at is None or at == IF_FREE:
        check_one(entry, entry.plans, plan, most=at is None)
        return entry._replace(plans=with_plan(entry.plans, plan), scheduled=later)
    leaves = next((entry.plans[api] for api in plan.apis if api in entry.plans), None)
    instant = period_end(leaves, now, _kind(entry)) if isinstance(at, str) else at
    entry = entry._replace(scheduled=(*later, (plan, instant)))
    _check_dates(entry)
    return settled(entry, now)  # its record may be past it


def _later(entry: Entry, plan: UsagePlan) -> tuple[Scheduled, ...]:
    """Return what is scheduled for other apis than a plan's."""
    return tuple(change for change in entry.scheduled if {*plan.apis}.isdisjoint(change[0].apis))


def check_one(entry: Entry, plans: Mapping[str, UsagePlan], plan: UsagePlan, most: int = 1) -> None:
    """Raise ``PlanConflict`` where a plan would take the place of two: which of them it replaces is not ours to say.

    ``most``: of how many it may take the place.
    """
    others = [f"{id_} for {', '.join(map(repr, other.apis))}" for id_, other in rivals(plans, plan).items()]
    if len(others) > most:
        found = "; ".join(others)
        who = f"{_kind(entry)} {entry.key.id}"
        raise PlanConflict(plan.id, f"{who} has several plans for its apis: {found}; take it off all but one first")


def _check_dates(entry: Entry) -> None:
    """Raise ``PlanConflict`` where a plan that is gone to would take the place of two at its instant."""
    plans = entry.plans
    for plan, _ in sorted(entry.scheduled, key=lambda change: change[1]):
        check_one(entry, plans, plan)
        plans = with_plan(plans, plan)


def period_end(plan: UsagePlan | None, now: int, kind: str) -> int:
    """Return when the longest of a plan's quotas begins anew. Raises ``InvalidValue`` where there is none."""
    limits = [limit for own in (plan.limits, *plan.routes.values()) for limit in own] if plan else []
    windows = [limit.period.window(now) for limit in limits if isinstance(limit, Quota)]
    if not windows:
        left = (
            f"plan {plan.id}, which the {kind} leaves, has no quota"
            if plan
            else f"the {kind} leaves no plan for this api"
        )
        raise InvalidValue("at", PERIOD_END, f"an instant: {left}")
    return max(windows, key=lambda window: (window[1] - window[0], window[1]))[1]


def dissociated(entry: Entry, plan: UsagePlan, now: int) -> Entry:
    """Take a key off a plan that it is on, or is to go to; then nothing is scheduled for its apis."""
    entry = settled(entry, now)
    plans = _without(entry.plans, plan)
    if len(plans) == len(entry.plans) and plan.id not in [goes.id for goes, _ in entry.scheduled]:
        raise PlanConflict(plan.id, f"{_kind(entry)} {entry.key.id} is not on this plan")
    return entry._replace(plans=plans, scheduled=_later(entry, plan))


def check_apart(key_id: str, plans: Sequence[UsagePlan]) -> None:
    """Raise ``PlanConflict`` where two plans that a key is to be on govern an api together."""
    found: dict[str, str] = {}
    for plan in plans:
        for api in plan.apis:
            if found.setdefault(api, plan.id) != plan.id:
                raise PlanConflict(plan.id, f"key {key_id} would have another plan for the api {api!r}: {found[api]}")


def deprived(entry: Entry, plan: UsagePlan, now: int) -> Entry:
    """Take a plan from a key that is removed: it is on none then, and goes to it no more."""
    entry = settled(entry, now)
    later = tuple(one for one in entry.scheduled if one[0].id != plan.id)
    return entry._replace(plans=_without(entry.plans, plan), scheduled=later)


def moved(entry: Entry, old: UsagePlan, new: UsagePlan, now: int) -> Entry:
    """Have a key follow a plan to other apis. Raises ``PlanConflict`` where it has, or gets, another plan there."""
    entry = settled(entry, now)
    on = {plan.id: plan for plan in entry.plans.values()}
    goes = {plan.id: plan for plan, _ in entry.scheduled}
    for plans in (on, goes):
        taken = [api for id_, plan in plans.items() if id_ != old.id for api in plan.apis if api in new.apis]
        if old.id in plans and taken:
            raise PlanConflict(new.id, f"{_kind(entry)} {entry.key.id} has another plan for the api {taken[0]!r}")
        if old.id in plans:
            plans[old.id] = new
    later = tuple([(goes[plan.id], at) for plan, at in entry.scheduled])
    entry = entry._replace(plans=by_api(on.values()), scheduled=later)
    _check_dates(entry)
    return entry


def _kind(entry: Entry) -> str:
    return "account" if type(entry.key) is Account else "key"


def _without(plans: Mapping[str, UsagePlan], plan: UsagePlan) -> dict[str, UsagePlan]:
    return {api: kept for api, kept in plans.items() if kept.id != plan.id}


def placed(old: Entry, new: Entry, plan: UsagePlan, now: int, by: By | None) -> tuple[Draft, ...]:
    """Tell of what became other between a key and a plan's apis: which plan it is on, and which it goes to when."""
    before, after = (_standing(entry, plan) for entry in (settled(old, now), new))
    return association_changed(old.key, plan, before, after, by)


def _standing(entry: Entry, plan: UsagePlan) -> dict[str, str] | None:
    on = [entry.plans[api].id for api in plan.apis if api in entry.plans]
    found = {"plan": on[0]} if on else {}
    for goes, at in entry.scheduled:
        if not {*plan.apis}.isdisjoint(goes.apis):
            found |= {"next": goes.id, "at": to_datetime(at).isoformat()}
    return found or None


def told(who: Holder, scheduled: tuple[Scheduled, ...]) -> Holder:
    """Return a key or an account that tells which plans it goes to."""
    if not scheduled:
        return who
    changes = sorted((at, plan.id) for plan, at in scheduled)
    return attrs.evolve(who, scheduled=tuple([ScheduledPlan(id_, to_datetime(at)) for at, id_ in changes]))

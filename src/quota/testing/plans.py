"""The model's plans of keys and accounts: which one each is on at an instant, and which one it goes to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs

from ..limit import Quota
from ..plan import UsagePlan


@attrs.define(eq=False)
class Member:
    """A key; or an account, with no id of its own."""

    id: str
    account: str
    enabled: bool = True
    plans: dict[str, str] = attrs.field(factory=dict)
    goes_to: dict[str, int] = attrs.field(factory=dict)
    remembered: dict[str, tuple[Any, ...]] = attrs.field(factory=dict)
    refunded: set[str] = attrs.field(factory=set)
    era: int = 0
    admissions: list[tuple[int, str, str]] = attrs.field(factory=list)
    last_used: int | None = None
    line: tuple[str, ...] | None = None


class PlansOfKeys:
    """Plans and the keys on them, changed step by step as an operator says."""

    plans: dict[str, UsagePlan]
    keys: dict[str, Member]
    at: dict[tuple[str, str], int]
    on_plans: dict[str, Member]
    shared: set[str]
    members: dict[str, list[str]]
    subjects: Callable[[Member], list[tuple[str, str]]]
    window: Callable[[Any, int], tuple[int, int]]

    def latest(self, key: Member, now: int) -> int:
        """Return the latest instant that anybody told the key's counts, or ``now``."""
        alone = [] if key.id or key.account in self.shared else self.members.get(key.account, [])
        counts = [*self.subjects(key), *(("key", id_) for id_ in alone)]
        return max([now, *[self.at.get(subject, 0) for subject in counts]])

    def on(self, key: Member, now: int) -> dict[str, str]:
        """Return the plans by api, as they are at an instant of the key's."""
        plans = key.plans
        for plan, at in sorted(key.goes_to.items(), key=lambda change: change[1]):
            plans = self._with(plans, plan) if at <= now else plans
        return plans

    def _with(self, plans: dict[str, str], plan: str) -> dict[str, str]:
        """Put a plan in the place of those that govern one of its apis."""
        gone = {plan, *self._rivals(plans, plan)}
        kept = {api: id_ for api, id_ in plans.items() if id_ not in gone}
        return kept | dict.fromkeys(self.plans[plan].apis, plan)

    def _rivals(self, plans: dict[str, str], plan: str) -> set[str]:
        return {plans[api] for api in self.plans[plan].apis if api in plans} - {plan}

    def _clash(self, plans: dict[str, str], goes_to: dict[str, int]) -> bool:
        """Tell whether a plan that is gone to would come in the place of two."""
        for plan, _ in sorted(goes_to.items(), key=lambda change: change[1]):
            if len(self._rivals(plans, plan)) > 1:
                return True
            plans = self._with(plans, plan)
        return False

    def scheduled(self, key: Member, plan: UsagePlan) -> list[tuple[str, int]]:
        """Return what a key goes to, and when, that governs an api of a plan's."""
        return [(one, at) for one, at in key.goes_to.items() if {*self.plans[one].apis} & {*plan.apis}]

    def plan_at(self, key: Member, api: str, now: int) -> UsagePlan | None:
        """Return the plan of an api at an instant, or at the latest one that the key's counts know."""
        return self.plans.get(self.on(key, self.latest(key, now)).get(api, ""))

    def _settle_plans(self, key: Member, now: int) -> int:
        now = self.latest(key, now)
        key.plans = self.on(key, now)
        key.goes_to = {plan: at for plan, at in key.goes_to.items() if at > now}
        return now

    def associate(self, key: Member, plan: str, at: int | str | None, now: int) -> str:
        """Put a key on a plan, now or later; or say why not: it leaves none that has a period, or two."""
        apis = self.plans[plan].apis
        latest = self.latest(key, now)
        left = next((one for one in (self.plan_at(key, api, now) for api in apis) if one is not None), None)
        if isinstance(at, str):
            limits = [limit for own in (left.limits, *left.routes.values()) for limit in own] if left else []
            windows = [type(self).window(limit.period, latest) for limit in limits if isinstance(limit, Quota)]
            if not windows:
                return "no period"
            at = max((end - start, end) for start, end in windows)[1]
        plans = self.on(key, latest)
        dropped = {one for one, _ in self.scheduled(key, self.plans[plan])}
        later = {one: when for one, when in key.goes_to.items() if when > latest and one not in dropped}
        if at is None:
            if len(self._rivals(plans, plan)) > 1:
                return "conflict"
            plans = self._with(plans, plan)
        else:
            later[plan] = at
            if self._clash(plans, later):
                return "conflict"
        key.plans, key.goes_to = plans, later
        return ""

    def dissociate(self, key: Member, plan: str, now: int) -> bool:
        """Take a key off a plan, or off its way to it; False where it is neither on it nor on its way."""
        latest = self.latest(key, now)
        if plan not in self.on(key, latest).values() and key.goes_to.get(plan, 0) <= latest:
            return False
        self._settle_plans(key, now)
        for one, _ in self.scheduled(key, self.plans[plan]):
            del key.goes_to[one]
        key.plans = {api: id_ for api, id_ in key.plans.items() if id_ != plan}
        return True

    def _named(self, plan: str) -> list[Member]:
        """Return the keys and accounts that were put on a plan, or are to go to it."""
        everybody = [*self.keys.values(), *self.on_plans.values()]
        return [one for one in everybody if plan in (*one.plans.values(), *one.goes_to)]

    def replace_plan(self, plan: UsagePlan, now: int) -> bool:
        """Have the keys of a plan follow it to its apis; False where one has, or gets, another plan there."""
        old, changed = self.plans.get(plan.id), []
        self.plans[plan.id] = plan
        for key in self._named(plan.id) if old is not None and old.apis != plan.apis else ():
            self.plans[plan.id] = old  # type: ignore[assignment] # there is one
            latest = self.latest(key, now)
            on, goes_to = self.on(key, latest), {one: at for one, at in key.goes_to.items() if at > latest}
            self.plans[plan.id] = plan
            rest = {api: id_ for api, id_ in on.items() if id_ != plan.id}
            there = {*rest} if plan.id in on.values() else set()
            if plan.id in goes_to:
                there |= {api for one in goes_to if one != plan.id for api in self.plans[one].apis}
            plans = rest | (dict.fromkeys(plan.apis, plan.id) if plan.id in on.values() else {})
            if there & {*plan.apis} or self._clash(plans, goes_to):
                self.plans[plan.id] = old  # type: ignore[assignment] # as above
                return False
            changed.append((key, plans, goes_to))
        for key, plans, goes_to in changed:
            key.plans, key.goes_to = plans, goes_to
        return True

    def remove_plan(self, plan: str, now: int) -> None:
        """Remove a plan: who was on it is on none, who was to go there stays."""
        for key in self._named(plan):
            self._settle_plans(key, now)
            key.plans = {api: id_ for api, id_ in key.plans.items() if id_ != plan}
            key.goes_to.pop(plan, None)
        del self.plans[plan]

"""The model's plans of keys: which one a key is on at an instant, and which one it goes to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs

from ..limit import Quota
from ..plan import UsagePlan


@attrs.define(eq=False)
class Member:
    """A key."""

    id: str
    account: str
    enabled: bool = True
    plans: dict[str, str] = attrs.field(factory=dict)
    scheduled: dict[str, tuple[str, int]] = attrs.field(factory=dict)
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
    subjects: Callable[[Member], list[tuple[str, str]]]
    window: Callable[[Any, int], tuple[int, int]]

    def latest(self, key: Member, now: int) -> int:
        """Return the latest instant that anybody told the key's counts, or ``now``."""
        return max([now, *[self.at.get(subject, 0) for subject in self.subjects(key)]])

    def on(self, key: Member, now: int) -> dict[str, str]:
        """Return the plans by api, as they are at an instant of the key's."""
        return {**key.plans, **{api: plan for api, (plan, at) in key.scheduled.items() if at <= now}}

    def plan_at(self, key: Member, api: str, now: int) -> UsagePlan | None:
        """Return the plan of an api at an instant, or at the latest one that the key's counts know."""
        return self.plans.get(self.on(key, self.latest(key, now)).get(api, ""))

    def _settle_plans(self, key: Member, now: int) -> int:
        now = self.latest(key, now)
        key.plans = self.on(key, now)
        key.scheduled = {api: change for api, change in key.scheduled.items() if change[1] > now}
        return now

    def associate(self, id_: str, plan: str, at: int | str | None, now: int) -> bool:
        """Put a key on a plan, now or later; False where it leaves no plan that has a period."""
        key, api = self.keys[id_], self.plans[plan].api
        latest = self.latest(key, now)
        left = self.plan_at(key, api, now)
        if isinstance(at, str):
            limits = [limit for own in (left.limits, *left.routes.values()) for limit in own] if left else []
            windows = [type(self).window(limit.period, latest) for limit in limits if isinstance(limit, Quota)]
            if not windows:
                return False
            at = max((end - start, end) for start, end in windows)[1]
        self._settle_plans(key, now)
        key.scheduled.pop(api, None)
        if at is None:
            key.plans[api] = plan
        else:
            key.scheduled[api] = plan, at
        return True

    def dissociate(self, id_: str, plan: str, now: int) -> bool:
        """Take a key off a plan, or off its way to it; False where it is neither on it nor on its way."""
        key, api = self.keys[id_], self.plans[plan].api
        latest = self.latest(key, now)
        on = self.on(key, latest).get(api) == plan
        goes = api in key.scheduled and key.scheduled[api][0] == plan and key.scheduled[api][1] > latest
        if not on and not goes:
            return False
        self._settle_plans(key, now)
        key.scheduled.pop(api, None)
        if on:
            del key.plans[api]
        return True

    def remove_plan(self, plan: str, now: int) -> None:
        """Remove a plan: who was on it is on none, who was to go there stays."""
        for key in self.keys.values():
            self._settle_plans(key, now)
            key.plans = {api: id_ for api, id_ in key.plans.items() if id_ != plan}
            key.scheduled = {api: change for api, change in key.scheduled.items() if change[0] != plan}
        del self.plans[plan]

"""The plan of a key joined by those of its account and of the accounts above: one plan of limits that hold together.

And a plan with limits that are one key's or account's own.

A limit of an account's own plan is counted on the account's record under a name that no limit of a key's plan can have,
so that each has windows and buckets of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import attrs

from .account import Account
from .limit import Concurrency, Limit, Quota
from .limit_text import parse_limits
from .plan import UsagePlan, ref_of
from .rule.entries import Override
from .rule.limits import MAX_UNITS, OWN, CompiledLimit, RoutePlan, Throttles
from .rule.routes import JoinedNames

_MOST = 1024
"""Forms of a plan that are kept, joined ones and those with subjects' own limits."""


class Part(NamedTuple):
    """An account's own plan in a joined one. ``level``: of its record, as ``Subject.at_level`` has it."""

    account: str
    level: int
    plan: UsagePlan


class JoinedPlan(UsagePlan):
    """A key's plan with those of the accounts whose records its calls count on.

    ``base``: the key's plan, None of an account's own calls; ``parts``: the accounts'. ``above``: the accounts above
    the key's own.
    """

    base: UsagePlan | None
    parts: tuple[Part, ...]
    above: tuple[str, ...]  # type: ignore[misc] # a plan of its own has none

    def __eq__(self, other: object) -> bool:
        """Tell whether the plans of the key and of the accounts are equal: one of these may have been replaced."""
        mine = self.base, self.parts, self.above
        return type(other) is JoinedPlan and mine == (other.base, other.parts, other.above)

    __hash__ = UsagePlan.__hash__

    @property
    def told(self) -> UsagePlan:
        """The key's plan itself."""
        return self if self.base is None else self.base

    def ids(self) -> set[str]:
        """Return the ids of all plans in it."""
        return {self.id, *(part.plan.id for part in self.parts)}

    def _compile(self, api: str, route: str) -> RoutePlan:
        plans = [*([self.base] if self.base else []), *(part.plan for part in self.parts)]
        found = [plan.route_plan(own or None, api) for plan, own in zip(plans, self._names.each(route), strict=True)]  # type: ignore[union-attr] # joined ones
        limits = list(found[0].limits) if self.base else []
        for part, its in zip(self.parts, found[len(found) - len(self.parts) :], strict=True):
            limits += [_of_account(limit, part) for limit in its.limits]
        counted = tuple(dict.fromkeys(its.route for its in found if its.routed))
        changed: dict[str, Any] = {"route": route, "routed": bool(counted), "limits": tuple(limits), "counted": counted}
        changed["slotted"] = any(its.slotted for its in found)
        changed["told"] = found[0].route if self.base else route
        return found[0].changed(throttles=self._throttles, **changed)  # type: ignore[no-any-return] # one of its kind


def _of_account(limit: CompiledLimit, part: Part) -> CompiledLimit:
    """Return an account's own limit as it is counted on its record."""
    return limit.changed(  # type: ignore[no-any-return] # one of its kind
        name=OWN + limit.name, told=f"{part.account}: {limit.name}", holder=part.account, level=part.level,
        shared=False,
    )  # fmt: skip


def join(base: UsagePlan | None, parts: tuple[Part, ...], above: tuple[str, ...]) -> UsagePlan:
    """Join plans of one api: made once for each key's plan, whatever the keys."""
    first = parts[0].plan if base is None else base
    name = "joined", base is None, tuple((part.account, part.level, id(part.plan)) for part in parts), above
    made = first._own.get(name)
    if made is None:
        made = _joined(first, base, parts, above)
        if len(first._own) >= _MOST:
            first._own.clear()
        first._own[name] = made
    return made


def _joined(first: UsagePlan, base: UsagePlan | None, parts: tuple[Part, ...], above: tuple[str, ...]) -> JoinedPlan:
    made: JoinedPlan = JoinedPlan.__new__(JoinedPlan)
    fields = {field.name: getattr(first, field.name) for field in attrs.fields(UsagePlan)}
    plans = [*([base] if base else []), *(part.plan for part in parts)]
    throttles: dict[tuple[int, str], Throttles] = dict(base._throttles) if base else {}
    for part in parts:
        for (_, unit), (_, limits) in part.plan._throttles.items():
            own: Any = tuple(_of_account(limit, part) for limit in limits)
            throttles[part.level, unit] = tuple(map(ref_of, own)), own
    fields |= {"routes": {route: first.routes.get(route, ()) for plan in plans for route in plan.routes}}
    fields |= {"_route_plans": {}, "_own": {}, "_throttles": throttles}
    fields |= {"_names": JoinedNames(plan._names for plan in plans)}
    fields |= {"base": base, "parts": parts, "above": above}
    for field, value in fields.items():
        object.__setattr__(made, field, value)
    return made


def joined(entry: Any, overrides: Sequence[tuple[Override, ...]]) -> Mapping[str, UsagePlan]:
    """Return an entry's plans with those of its accounts in them, each with its subject's own limits."""
    above = entry.above
    levels = range(2 - entry.shared, 2 - entry.shared + len(entry.uppers))
    uppers = list(zip(entry.uppers, levels, overrides[1:], strict=True))
    plans: dict[str, UsagePlan] = {}
    own = type(entry.key) is Account
    for api in dict.fromkeys([*entry.plans, *((api for upper in entry.uppers for api in upper.plans) if own else ())]):
        parts = tuple(
            Part(upper.id, level, own_plan(upper.plans[api], _own(mine), None))
            for upper, level, mine in uppers if api in upper.plans
        )  # fmt: skip
        base = entry.plans.get(api)
        if own:
            parts = (*([Part(entry.key.id, 0, own_plan(base, _own(overrides[0]), None))] if base else ()), *parts)
            plans[api] = join(None, parts, above)
        elif base is not None:
            plans[api] = join(base, parts, above) if parts or above else base
    return plans


def _own(overrides: tuple[Override, ...]) -> tuple[Override, ...]:
    """Return those of an account's own plan, by the names that they have there."""
    return tuple(
        override._replace(name=override.name[len(OWN) :]) for override in overrides if override.name.startswith(OWN)
    )


class OwnPlan(UsagePlan):
    """A usage plan with one subject's own limits in it. A cost above one of them is refused call by call."""

    def _check_cost(self, route: str) -> None:
        """A plan may be replaced by one of other costs, and what a subject was given stands."""


def own_plan(plan: UsagePlan, key: tuple[Override, ...], account: tuple[Override, ...] | None) -> UsagePlan:
    """Put a key's own limits in a plan, and its account's; ``account`` None: the key is alone and holds both."""
    made = plan._own.get((key, account))
    if made is None:

        def own(limits: Iterable[Limit], route: str) -> tuple[Limit, ...]:
            return tuple(
                _overridden(limit, key if account is None or limit.by == "key" else account, plan.id, route)
                for limit in limits
            )

        routes = {route: own(limits, route) for route, limits in plan.routes.items()}
        limits = own(plan.limits, "")
        changed = limits != plan.limits or routes != plan.routes
        made = OwnPlan(
            plan.id, limits, name=plan.name, apis=plan.apis, routes=routes, costs=plan.costs, alerts=plan.alerts,
            metadata=plan.metadata,
        ) if changed else plan  # fmt: skip
        if len(plan._own) >= _MOST:
            plan._own.clear()
        plan._own[key, account] = made
    return made


def _overridden(limit: Limit, overrides: tuple[Override, ...], plan: str, route: str) -> Limit:
    for override in overrides:
        if (override.plan, override.route, override.name) == (plan, route, limit.name):
            return limit_of(limit, override.value)
    return limit


def limit_of(limit: Limit, value: int | str) -> Limit:
    """A limit with another value; as it is where it is of the other kind by now, and the value means nothing."""
    if isinstance(limit, Quota):
        if not isinstance(value, int):
            return limit
        return attrs.evolve(limit, limit=value, overage=min(limit.overage, MAX_UNITS - value) if value else 0)
    if isinstance(limit, Concurrency):
        return attrs.evolve(limit, limit=value) if isinstance(value, int) else limit
    if isinstance(value, int):
        return limit
    throttle: Any = parse_limits(value)[0]
    return attrs.evolve(throttle, unit=limit.unit, by=limit.by, name=limit.name)  # type: ignore[no-any-return] # a limit

"""All that the headrooms of all keys of one plan have in common on one route plan, and how a cost is read there."""

from __future__ import annotations

from collections.abc import Container, Mapping
from typing import Any, TypeVar

from ..limit import REQUESTS
from ..plan import UsagePlan
from ..rule.limits import MAX_UNITS, CompiledConcurrency, CompiledThrottle, RoutePlan

T = TypeVar("T")


class _Default(int):
    """The cost that says nothing: 1, or what the plan says of the route."""

    def __repr__(self) -> str:
        return "1"


DEFAULT = _Default(1)
_UNCOUNTED: Any = object()
"""In place of a unit for which a record has no meter yet: no cost names it."""


def unrouted(own: Container[str], route: object) -> bool:
    """Tell whether a route is a valid one and none of those with limits or a cost of their own."""
    return type(route) is str and route not in own and 0 < len(route) <= 1024 and route.isprintable()


class Shape:
    """All that the keys of a plan share on one route plan: worked out once, whoever calls.

    ``units``: in the order of amounts. ``standard``: the amounts of a call that names no cost; ``plain``: what its
    retry must have in common with it. ``own``: the plan's routes with limits or costs of their own. ``throttle``: the
    only one, where there is one. ``simple_cost``: a call costs one request; ``simple``: that counts on one meter, with
    one throttle at most. ``live``: the plan stands; a change of it ends all its headrooms. ``wide``: some of the plan's
    routes are of more than one name.
    """

    __slots__ = (
        "__weakref__", "_latest", "api", "live", "own", "plain", "plan", "route", "route_plan", "simple", "simple_cost",
        "standard", "throttle", "units", "wide",
    )  # fmt: skip

    def __init__(self, plan: UsagePlan, route_plan: RoutePlan, missing: frozenset[str] = frozenset()) -> None:
        self.plan, self.route_plan = plan, route_plan
        self.api, self.route = route_plan.api, route_plan.route
        self.plain = ("consume", self.api, self.route or None, None)
        self.own = plan._names.own
        self.wide = self.own is plan._names
        units = units_of(route_plan)
        self.units = tuple(unit if unit not in missing else _UNCOUNTED for unit in units)
        self.standard = self.amounts(route_plan.cost)
        throttles = [limit for limit in route_plan.limits if isinstance(limit, CompiledThrottle)]
        self.throttle = throttles[0] if len(throttles) == 1 else None
        self.simple_cost = route_plan.cost == {REQUESTS: 1}
        self.simple = units == (REQUESTS,) and self.simple_cost and len(throttles) <= 1
        self.simple = self.simple and not route_plan.routed and not route_plan.slotted
        self.live = True
        self._latest: dict[str, Any] = {}

    def share(self, name: str, value: T) -> T:
        """Return the value, or the equal one that was shared last: most keys' are equal, and one stays in cache."""
        latest: T | None = self._latest.get(name)
        if latest is not None and latest == value:
            return latest
        self._latest[name] = value
        return value

    def serves(self, api: object, route: object) -> bool:
        """Tell whether calls on a route of an api go this route plan; memory's headrooms say the same in line."""
        if self.api != api:
            return False
        if self.route:
            return self.route == route or (self.wide and self.covers(route))
        return route is None or unrouted(self.own, route)

    def covers(self, route: object) -> bool:
        """Tell whether a valid route is charged under this one's name."""
        valid = type(route) is str and 0 < len(route) <= 1024 and route.isprintable()
        return valid and self.plan._names.charged(route) == self.route  # type: ignore[arg-type] # a str

    def amounts(self, takes: Mapping[str, int]) -> list[int] | None:
        """Return the units of a valid cost in order; None where one of them has no meter."""
        if any(units and unit not in self.units for unit, units in takes.items()):
            return None
        return [takes.get(unit, 0) for unit in self.units]

    def asked(self, cost: Any) -> list[int] | None:
        """Return the units of whatever a caller gave as a cost, in order; None where the rule must look at it."""
        if cost is DEFAULT or (cost == 1 and self.simple_cost and type(cost) is int):
            return self.standard
        if type(cost) is int:
            cost = {REQUESTS: cost}
        elif type(cost) is not dict or not cost:
            return None
        found, left = [], len(cost)
        for unit in self.units:
            if unit in cost:
                units = cost[unit]
                if type(units) is not int or not 0 < units <= MAX_UNITS:
                    return None
                found.append(units)
                left -= 1
            else:
                found.append(0)
        return None if left else found


def units_of(route_plan: RoutePlan) -> tuple[str, ...]:
    """Return the units that calls on a route plan count, in the order of their amounts."""
    limited = [limit.unit for limit in route_plan.limits if not isinstance(limit, CompiledConcurrency)]
    return tuple(dict.fromkeys([*limited, *route_plan.cost]))

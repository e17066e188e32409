"""Usage plans: named sets of limits, compiled into what each route's calls go through."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, ClassVar

import attrs

from .errors import InvalidCost, InvalidPlan, InvalidValue, check_text, to_metadata
from .limit import Concurrency, Cost, Limit, Quota, Throttle, check_distinct, parse_cost
from .rule.apis import several, together
from .rule.entries import ThrottleRef
from .rule.limits import (
    CompiledConcurrency,
    CompiledLimit,
    CompiledQuota,
    CompiledThrottle,
    RoutePlan,
    Throttles,
)
from .rule.routes import AnyRouteNames, RouteNames

MOST_APIS = 64
"""APIs that one plan governs together."""
_FIXED = {"minute": 60, "hour": 3600, "day": 86_400, "week": 604_800}

Limits = str | Limit | Iterable[str | Limit]
"""Limits as they may be given: objects, texts, or several of them."""


def _parse(text: str) -> tuple[Limit, ...]:
    from .limit_text import parse_limits  # noqa: PLC0415 -- loaded where limits are given as text

    return parse_limits(text)


def _to_limits(limits: Limits) -> tuple[Limit, ...]:
    if isinstance(limits, str):
        return _parse(limits)
    if isinstance(limits, Limit):
        return (limits,)
    if not isinstance(limits, Iterable) or isinstance(limits, (bytes, Mapping)):
        accepted = "Quota, Throttle and Concurrency objects, or a text such as '1000/day, 10/s burst 20, 5 concurrent'"
        raise InvalidPlan("limits", limits, accepted)
    found: list[Limit] = []
    for limit in limits:
        if isinstance(limit, str):
            found.extend(_parse(limit))
        elif isinstance(limit, Limit):
            found.append(limit)
        else:
            raise InvalidPlan("limits", limit, "a Quota, a Throttle, a Concurrency or its text")
    check_distinct("limits", found)
    return tuple(found)


def _to_routes(routes: Mapping[str, Limits]) -> Mapping[str, tuple[Limit, ...]]:
    if not isinstance(routes, Mapping):
        raise InvalidPlan("routes", routes, "a mapping from route to limits")
    found = {}
    for route, limits in routes.items():
        name = check_route(route)
        try:
            found[name] = _to_limits(limits)
        except InvalidPlan as error:
            raise InvalidPlan(f"routes[{name!r}]: {error.field}", error.value, error.accepted) from None
    return MappingProxyType(found)


def _to_costs(costs: Mapping[str, Cost]) -> Mapping[str, Cost]:
    if not isinstance(costs, Mapping):
        raise InvalidPlan("costs", costs, "a mapping from route to cost")
    for route, cost in costs.items():
        check_route(route)
        try:
            parse_cost(cost)
        except InvalidCost as error:
            raise InvalidPlan(f"costs[{route!r}]", error.value, error.accepted) from None
    return MappingProxyType(
        {route: cost if isinstance(cost, int) else MappingProxyType(dict(cost)) for route, cost in costs.items()}
    )


def check_route(route: object, field: str = "route") -> str:
    """A route's name: any printable text of at most 1024 characters."""
    return check_text(field, route, error=InvalidPlan, longest=1024)


def _to_alerts(alerts: Iterable[int]) -> tuple[int, ...]:
    accepted = "whole percents from 1 to 1000"
    if not isinstance(alerts, Iterable) or isinstance(alerts, (str, bytes, Mapping)):
        raise InvalidPlan("alerts", alerts, accepted)
    percents = tuple(alerts)
    for percent in percents:
        if type(percent) is not int or not 1 <= percent <= 1000:
            raise InvalidPlan("alerts", percent, accepted)
    return tuple(sorted(set(percents)))


def _to_apis(apis: Iterable[str]) -> tuple[str, ...]:
    accepted = f"at most {MOST_APIS} different apis, as in ('r1/prod', 'r2/prod')"
    if not isinstance(apis, Iterable) or isinstance(apis, (str, bytes, Mapping)):
        raise InvalidPlan("apis", apis, accepted)
    found = tuple(apis)
    for api in found:
        check_text("apis", api, error=InvalidPlan, least=0)
    if len(set(found)) < len(found) or len(found) > MOST_APIS:
        raise InvalidPlan("apis", found, accepted)
    return found


def _to_plan_metadata(metadata: Mapping[str, str]) -> Mapping[str, str]:
    try:
        return to_metadata(metadata)
    except InvalidValue as error:
        raise InvalidPlan(error.field, error.value, error.accepted) from None


@attrs.frozen
class UsagePlan:
    """A named set of limits. ``limits`` is a sequence of ``Quota``, ``Throttle`` and ``Concurrency``, or their text.

    ``apis``: the APIs that the plan governs, together: each limit counts the calls to all of them. ``api``: the same of
    a plan for one, and empty of one for several. A key has at most one plan per api (API Gateway: one plan per stage).
    ``routes``: route -> limits of its own, each with its own count: a throttle overrides the plan's throttles of its
    unit, a quota adds to the plan's and counts the calls on that route since the key was on a plan that limits it,
    a concurrency limit adds to them and counts calls in flight there. A route is ``METHOD /path``, ``ANY /path`` for
    every method, and with a trailing ``/*`` all below that path; the most exact one counts. Any other text names a
    route too, for calls that name it so.
    ``costs``: route -> what one call costs unless the call says otherwise; never more than a limit there admits, unless
    that is 0. Calls of a route are limited apart from what they cost by a unit of their own: ``"2 exports/day"`` and
    ``{"requests": 5, "exports": 1}``. ``alerts``: percents of a quota whose
    crossing shows in ``Decision.crossed``, each once per window. ``metadata``: texts of the operator's own, bounded as
    those of a key.

    Raises:
        InvalidPlan: naming the field, the value and what is accepted.
    """

    id: str = attrs.field()
    limits: tuple[Limit, ...] = attrs.field(converter=_to_limits)
    name: str = attrs.field(default=None, kw_only=True)
    api: str = attrs.field(default="", kw_only=True)
    apis: tuple[str, ...] = attrs.field(default=(), kw_only=True, converter=_to_apis)
    routes: Mapping[str, tuple[Limit, ...]] = attrs.field(default={}, kw_only=True, converter=_to_routes, hash=False)
    costs: Mapping[str, Cost] = attrs.field(default={}, kw_only=True, converter=_to_costs, hash=False)
    alerts: tuple[int, ...] = attrs.field(default=(80, 100), kw_only=True, converter=_to_alerts)
    metadata: Mapping[str, str] = attrs.field(default={}, kw_only=True, converter=_to_plan_metadata, hash=False)
    _names: AnyRouteNames = attrs.field(init=False, eq=False, repr=False)
    _route_plans: dict[tuple[str, str], RoutePlan] = attrs.field(init=False, factory=dict, eq=False, repr=False)
    _throttles: dict[tuple[int, str], Throttles] = attrs.field(init=False, factory=dict, eq=False, repr=False)
    _own: dict[Any, UsagePlan] = attrs.field(init=False, factory=dict, eq=False, repr=False)

    def __attrs_post_init__(self) -> None:
        check_text("id", self.id, error=InvalidPlan)
        if self.name is None:
            object.__setattr__(self, "name", self.id)
        check_text("name", self.name, error=InvalidPlan)
        self._check_apis()
        object.__setattr__(self, "_names", RouteNames([*self.routes, *self.costs]))
        limits = [limit for route in ("", *self.routes) for limit in self._limits(route) if limit.route == route]
        for unit in dict.fromkeys(limit.unit for limit in limits if isinstance(limit, CompiledThrottle)):
            own = tuple(limit for limit in limits if isinstance(limit, CompiledThrottle) and limit.unit == unit)
            self._throttles[0, unit] = tuple(map(ref_of, own)), own
        for route in (None, *self.routes):
            names = [limit.name for limit in self.route_plan(route).limits]
            if len(set(names)) < len(names):
                raise InvalidPlan(f"routes[{route!r}]", names, "limits with names of their own")
        for route in self.costs:
            self._check_cost(route)

    def _check_apis(self) -> None:
        """See that ``api`` and ``apis`` say the same, whichever was given."""
        check_text("api", self.api, error=InvalidPlan, least=0)
        apis = self.apis or (self.api,)
        if self.api and apis != (self.api,):
            raise InvalidPlan("apis", self.apis, f"({self.api!r},), as api says, or no api beside them")
        object.__setattr__(self, "apis", apis)
        object.__setattr__(self, "api", apis[0] if len(apis) == 1 else "")

    def _check_cost(self, route: str) -> None:
        """Refuse a cost above a limit that it is charged to: no call on the route could ever be admitted."""
        route_plan = self.route_plan(route)
        for limit in route_plan.limits:
            if isinstance(limit, CompiledConcurrency):
                continue
            units = route_plan.cost.get(limit.unit, 0)
            most = limit.limit + limit.overage if isinstance(limit, CompiledQuota) else limit.limit
            if 0 < most < units:
                accepted = (
                    f"at most {most} {limit.unit}, all that {limit.name!r} ever admits (a unit of its own counts calls)"
                )
                raise InvalidPlan(f"costs[{route!r}]", units, accepted)

    def route_plan(self, route: str | None, api: str | None = None) -> RoutePlan:
        """The limits that a call on a route goes through, compiled once for each route that the plan knows.

        ``api``: of these that the plan governs, by default the first.
        """
        known = self.apis[0] if api is None else api, self._names.charged(route)
        route_plan = self._route_plans.get(known)
        if route_plan is None:
            route_plan = self._route_plans[known] = self._compile(*known)
        return route_plan

    def _compile(self, api: str, route: str) -> RoutePlan:
        cost = parse_cost(self.costs.get(route, 1))
        own = bool(self.routes.get(route))
        limits = tuple(self._limits(route))
        slotted = any(isinstance(limit, CompiledConcurrency) for limit in limits)
        return RoutePlan(api, route, own, limits, cost, self._throttles, slotted=slotted)

    def _limits(self, route: str) -> list[CompiledLimit]:
        own = self.routes.get(route, ())
        overridden = {limit.unit for limit in own if isinstance(limit, Throttle)}
        names = {limit.name for limit in self.limits}
        limits = [
            _compiled(limit, "", limit.name, self)
            for limit in self.limits
            if not (isinstance(limit, Throttle) and limit.unit in overridden)
        ]
        for limit in own:
            name = f"{route} {limit.name}" if limit.name in names else limit.name
            limits.append(_compiled(limit, route, name, self))
        return limits

    above: ClassVar[tuple[str, ...]] = ()
    """The accounts above the key's own that its calls count on: of a plan that is joined with theirs."""

    @property
    def told(self) -> UsagePlan:
        """The plan that a key is on: itself, unless it is joined with accounts' plans."""
        return self

    def ids(self) -> set[str]:
        """Return the ids of all plans in it: its own, unless it is joined with others."""
        return {self.id}

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON can hold it: limits in their text form, ``apis`` where there are several.

        ``UsagePlan.from_dict`` reads it.
        """
        return {
            "id": self.id, "limits": [str(limit) for limit in self.limits], "name": self.name, "api": self.api,
            "routes": {route: [str(limit) for limit in limits] for route, limits in self.routes.items()},
            "costs": _plain(self.costs), "alerts": list(self.alerts), "metadata": dict(self.metadata),
            **({"apis": list(self.apis)} if len(self.apis) > 1 else {}),
        }  # fmt: skip

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> UsagePlan:
        """The plan of what ``to_dict`` wrote, or of its ``id`` and ``limits`` and what else there is to say."""
        fields = {field.name for field in attrs.fields(cls) if field.init}
        if not isinstance(data, Mapping) or not {"id", "limits"} <= set(data) <= fields:
            raise InvalidPlan("plan", data, f"a mapping with id and limits, and of {', '.join(sorted(fields))}")
        return cls(**data)

    def __str__(self) -> str:
        return ", ".join(map(str, self.limits))

    def __getstate__(self) -> dict[str, Any]:
        """Plain mappings in place of the read-only ones, which cannot be pickled or copied."""
        plain = {field: getattr(self, field) for field in ("id", "limits", "name", "apis", "alerts")}
        return {**plain, "routes": dict(self.routes), "costs": _plain(self.costs), "metadata": dict(self.metadata)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc] # the one way to build a frozen object


def _plain(costs: Mapping[str, Cost]) -> dict[str, int | dict[str, int]]:
    return {route: cost if isinstance(cost, int) else dict(cost) for route, cost in costs.items()}


def ref_of(limit: CompiledThrottle) -> ThrottleRef:
    """Return what a record remembers of a throttle that it was charged under."""
    apis = limit.apis if several(limit.apis) else ""
    return ThrottleRef(limit.route, limit.name, limit.shared, limit.scale, limit.drain, limit.burst, apis)


def _compiled(limit: Limit, route: str, name: str, plan: UsagePlan) -> CompiledLimit:
    shared, apis = limit.by == "account", together(plan.apis)
    if isinstance(limit, Concurrency):
        return CompiledConcurrency(name, limit.unit, shared, route, limit.limit, apis=apis)
    if isinstance(limit, Quota):
        period = limit.period
        alike = period.every == "minute" and 15 % period.count == 0  # clocks change by quarters of an hour
        fixed = period.anchor is None and (period.zone == "UTC" or alike)
        length = _FIXED.get(period.every, 0) * period.count if fixed else 0
        return CompiledQuota(
            name, limit.unit, shared, route, limit.limit, limit.overage, plan.alerts, period.window, length or None,
            apis=apis,
        )  # fmt: skip
    (scale, drain), room = limit._measure(), limit._room
    length = -(-room * scale // drain // 1_000_000)
    return CompiledThrottle(name, limit.unit, shared, route, room, scale, drain, room * scale, length, apis=apis)

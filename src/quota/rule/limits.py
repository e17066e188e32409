"""Compiled limits, and what the rule says of them: plain data."""
# ruff: noqa: FBT001, FBT002 -- fields, in the order in which they are compiled

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from ..clock import DAY_US
from .entries import ThrottleRef

MAX_UNITS = 2**53 - 1
"""The largest number of units a limit or a cost may have: exact in every engine, doubles included."""

BEYOND = 2**200
"""More than anything counts."""

OWN = "\n"
"""Begins what the limits of an account's own plan are counted under: no limit of a key's plan has such a name."""


class StoreOptions(NamedTuple):
    """A store's terms: a clock this far behind is an error, remembered requests and history are kept this long.

    ``late``: so many windows later than it ended, a window is forgotten.
    """

    max_skew: int = 300_000_000
    request_ttl: int = DAY_US
    retention: int = 35
    late: int = 2

    @property
    def refund_span(self) -> int:
        """Return how long after a decision its units can be given back, and a refund is remembered."""
        return max(self.retention * DAY_US, self.request_ttl)


class Data:
    """Data that nobody changes once it is made; written by hand, since each class of attrs is a share of start-up."""

    __slots__: tuple[str, ...] = ()

    def changed(self, **changes: Any) -> Any:
        """Return another one with some of it changed."""
        other = object.__new__(type(self))
        for name in self.__slots__:
            setattr(other, name, changes[name] if name in changes else getattr(self, name))
        return other


class CompiledQuota(Data):
    """A quota, compiled. ``route`` is empty for the plan's own; ``shared`` counts the account's keys together.

    ``name``: what its count is kept under; ``told``: what users see. ``apis``: the api that it counts, or the name of
    the meter that counts several together. ``holder``, ``level``: of an account's own plan, the account and where its
    record is among a call's records.
    """

    __slots__ = (
        "alerts", "apis", "holder", "length", "level", "limit", "name", "overage", "route", "shared", "told", "unit",
        "window",
    )  # fmt: skip

    def __init__(
        self, name: str, unit: str, shared: bool, route: str, limit: int, overage: int, alerts: tuple[int, ...],
        window: Callable[[int], tuple[int, int]], length: int | None, told: str | None = None, holder: str = "",
        level: int = 0, apis: str = "",
    ) -> None:  # fmt: skip
        self.name, self.unit, self.shared, self.route, self.apis = name, unit, shared, route, apis
        self.limit, self.overage, self.alerts, self.window, self.length = limit, overage, alerts, window, length
        self.told, self.holder, self.level = name if told is None else told, holder, level


class CompiledThrottle(Data):
    """A throttle, compiled: a bucket of ``burst`` units, in units times ``scale``."""

    __slots__ = (
        "apis", "burst", "drain", "holder", "length", "level", "limit", "name", "route", "scale", "shared", "told",
        "unit",
    )  # fmt: skip

    def __init__(
        self, name: str, unit: str, shared: bool, route: str, limit: int, scale: int, drain: int, burst: int,
        length: int | None, told: str | None = None, holder: str = "", level: int = 0, apis: str = "",
    ) -> None:  # fmt: skip
        self.name, self.unit, self.shared, self.route, self.apis = name, unit, shared, route, apis
        self.limit, self.scale, self.drain, self.burst, self.length = limit, scale, drain, burst, length
        self.told, self.holder, self.level = name if told is None else told, holder, level


class CompiledConcurrency(Data):
    """A concurrency limit, compiled: at most ``limit`` reservations open at once. ``unit`` is what it is told in."""

    __slots__ = ("apis", "holder", "length", "level", "limit", "name", "route", "shared", "told", "unit")

    def __init__(
        self, name: str, unit: str, shared: bool, route: str, limit: int, length: None = None, told: str | None = None,
        holder: str = "", level: int = 0, apis: str = "",
    ) -> None:  # fmt: skip
        self.name, self.unit, self.shared, self.route, self.apis = name, unit, shared, route, apis
        self.limit, self.length = limit, length
        self.told, self.holder, self.level = name if told is None else told, holder, level


CompiledLimit = CompiledQuota | CompiledThrottle | CompiledConcurrency
Throttles = tuple[tuple[ThrottleRef, ...], tuple[CompiledThrottle, ...]]
"""One unit's throttles of a whole plan, its routes' too: where each counts, and the lines."""


class RoutePlan(Data):
    """All that a call on (api, route) under a plan goes through. ``routed``: the route counts on a meter of its own.

    ``counted``: the routes with meters of their own; ``told``: the key's plan's name of it. Where accounts' plans name
    it otherwise, ``route`` has all of them. ``slotted``: there is a concurrency limit among the limits.

    ``throttles``: the whole plan's, by the level of the record whose plan they are of, and unit.
    """

    __slots__ = ("api", "cost", "counted", "limits", "route", "routed", "slotted", "throttles", "told")

    def __init__(
        self, api: str, route: str, routed: bool, limits: tuple[CompiledLimit, ...], cost: Mapping[str, int],
        throttles: Mapping[tuple[int, str], Throttles], counted: tuple[str, ...] | None = None, told: str | None = None,
        slotted: bool = False,
    ) -> None:  # fmt: skip
        self.api, self.route, self.routed, self.limits, self.cost = api, route, routed, limits, cost
        self.throttles, self.slotted = throttles, slotted
        self.counted = ((route,) if routed else ()) if counted is None else counted
        self.told = route if told is None else told


class LimitState(NamedTuple):
    """One limit after a decision. ``used`` is in units (a throttle's level, rounded up); instants in microseconds.

    A concurrency limit's slots come back as calls end: its ``resets_at`` is the decision's instant.

    ``retry_at``: where it refused, when it will admit as much; None when it never will.
    """

    limit: CompiledLimit
    used: int
    extra: int
    resets_at: int
    refused: bool = False
    retry_at: int | None = None


class Outcome(NamedTuple):
    """The rule's word on one charge at ``now``; ``retry_at`` is None when it can never fit."""

    allowed: bool
    now: int
    states: tuple[LimitState, ...]
    crossed: tuple[tuple[str, int], ...] = ()
    retry_at: int | None = None
    too_large: bool = False


class Crossing(NamedTuple):
    """A charge at ``at`` took a quota beyond a share of it: ``used`` of ``whole`` units, in a window until ``end``."""

    limit: CompiledQuota
    percent: int
    used: int
    whole: int
    end: int
    at: int


class Reading(NamedTuple):
    """A limit, its used units or its bucket's level, what was granted on top, the window's end or now.

    Of a concurrency limit that is full ``end`` is when a slot is free if no call ends before it lapses.
    """

    limit: CompiledLimit
    used: int
    extra: int
    end: int


Place = tuple[CompiledLimit, int, int, int]
"""A limit, the index of what it reads, what was granted on top, its window's end; 0 where it has none."""
Stands = tuple[tuple[Place, ...], Sequence[int], Sequence[int]]
"""Places, what each limit read when its window began, and what meters and buckets read after a call."""

"""The smallest limits under which most clients of a log are never refused."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import attrs

from ..errors import InvalidValue
from ..limit import REQUESTS, Limit, Quota, Throttle, parse_cost
from ..plan import UsagePlan
from ..rule.limits import MAX_UNITS

SHAPE = "1/minute, 1/hour, 1/day"
"""The limits that are suggested where no plan says which."""


@attrs.frozen
class Suggestion:
    """``plan`` has the limits found: ``spared`` of ``clients`` are never refused. ``percent`` were asked for."""

    plan: UsagePlan
    percent: Fraction
    clients: int
    spared: int

    def to_dict(self) -> dict[str, Any]:
        """As JSON-able data."""
        limits = [str(limit) for limit in self.plan.limits]
        percent = self.percent.numerator if self.percent.denominator == 1 else float(self.percent)
        return {"percent": percent, "limits": limits, "clients": self.clients, "never_refused": self.spared}


def to_percent(text: str) -> Fraction:
    """``99`` or ``99.9``, exactly. Raises ``InvalidValue`` for what is not above 0 and at most 100."""
    try:
        percent = Fraction(text.strip())
    except (ValueError, ZeroDivisionError):
        percent = Fraction(0)
    if not 0 < percent <= 100:
        raise InvalidValue("suggest", text, "a percentage above 0, at most 100, such as 99 or 99.9")
    return percent


class Watcher:
    """Watches requests in order of their time (``replay``'s ``watch``) and then says what would have been enough.

    ``plan`` says which limits are wanted: a quota's period, a throttle's rate. What clients need is exact, since one
    who is never refused has every request counted. Limits of other units and of routes, and those by account, are left
    as they are.

    Raises:
        InvalidValue: for a plan without a limit of requests by key.
    """

    def __init__(self, plan: UsagePlan) -> None:
        opened = [_opened(limit) for limit in plan.limits]
        self._plan = plan = attrs.evolve(plan, limits=opened)
        ours = [limit for limit in opened if limit.unit == REQUESTS and limit.by == "key"]
        self._watched: list[Quota | Throttle] = [
            limit for limit in ours if isinstance(limit, Quota) or (isinstance(limit, Throttle) and limit.rate)
        ]
        if not self._watched:
            raise InvalidValue("suggest", str(plan), "a plan with a limit of requests by key")
        self._needs: list[dict[str, list[int]]] = [{} for _ in self._watched]
        pairs = zip(self._watched, self._needs, strict=True)
        self._takes = [
            _counting(limit, needs) if isinstance(limit, Quota) else _pouring(*limit._measure(), needs)
            for limit, needs in pairs
        ]

    def __call__(self, now: int, client: str | None) -> None:
        if client is not None:
            for take in self._takes:
                take(now, client)

    def suggest(self, percent: Fraction) -> Suggestion:
        """The smallest limits under which ``percent`` of the clients are never refused; no single one can be lower."""
        clients = list(self._needs[0])
        # A plan that can never admit what a call on a route costs is none.
        dearest = max([1, *(parse_cost(cost).get(REQUESTS, 0) for cost in self._plan.costs.values())])
        floors = [max(dearest, getattr(limit, "overage", 0) + 1) for limit in self._watched]
        columns = []
        for limit, needs, least in zip(self._watched, self._needs, floors, strict=True):
            scale = 1 if isinstance(limit, Quota) else limit._measure()[0]
            columns.append([max(least, -(-needs[client][2] // scale)) for client in clients])
        enough = -(-len(clients) * percent.numerator // (100 * percent.denominator))
        found = smallest(columns, enough) if clients else floors
        spared = len(_within(columns, found))
        values = iter(found)
        limits = [_with(limit, next(values)) if limit in self._watched else limit for limit in self._plan.limits]
        return Suggestion(attrs.evolve(self._plan, limits=limits), percent, len(clients), spared)


def smallest(columns: Sequence[Sequence[int]], enough: int) -> list[int]:
    """Of each column a bound, so that ``enough`` rows are within all of them and no bound alone can be lower.

    The columns are cut at one rank first, so that none is spent to spare another; then each as low as it will go.
    """
    ordered = [sorted(column) for column in columns]
    low, high = enough, len(columns[0])
    while low < high:
        rank = (low + high) // 2
        if len(_within(columns, [column[rank - 1] for column in ordered])) >= enough:
            high = rank
        else:
            low = rank + 1
    found = [column[high - 1] for column in ordered]
    for number, column in enumerate(columns):
        others = [bound if n != number else MAX_UNITS for n, bound in enumerate(found)]
        found[number] = sorted(column[row] for row in _within(columns, others))[enough - 1]
    return found


def _within(columns: Sequence[Sequence[int]], bounds: Sequence[int]) -> list[int]:
    rows = range(len(columns[0]))
    return [row for row in rows if all(column[row] <= bound for column, bound in zip(columns, bounds, strict=True))]


def _counting(limit: Quota, needs: dict[str, list[int]]) -> Callable[[int, str], None]:
    """client -> [end of its window, used in it, most ever used in one]."""
    window = limit.period.window

    def take(now: int, client: str) -> None:
        need = needs.get(client)
        if need is None:
            needs[client] = [window(now)[1], 1, 1]
            return
        if now >= need[0]:
            need[0] = window(now)[1]
            need[1] = 0
        need[1] += 1
        need[2] = max(need[2], need[1])

    return take


def _pouring(scale: int, drain: int, needs: dict[str, list[int]]) -> Callable[[int, str], None]:
    """client -> [when last poured, level then, highest level ever], in units times ``scale``."""

    def take(now: int, client: str) -> None:
        need = needs.get(client)
        if need is None:
            needs[client] = [now, scale, scale]
            return
        need[1] = max(0, need[1] - drain * (now - need[0])) + scale
        need[0] = now
        need[2] = max(need[2], need[1])

    return take


def _opened(limit: Limit) -> Limit:
    """The limit, where it admits nobody one that does: so much more can be suggested."""
    if isinstance(limit, Throttle) and not limit.burst and limit.rate:
        return attrs.evolve(limit, burst=1)
    return limit


def _with(limit: Limit, value: int) -> Limit:
    if isinstance(limit, Quota):
        return attrs.evolve(limit, limit=value - limit.overage)
    return attrs.evolve(limit, burst=value) if isinstance(limit, Throttle) else limit

"""A replay of a recorded access log through usage plans.

To see what they would have done, on a clock that follows the log.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import attrs

from ..clock import DAY_US, ManualClock
from ..decision import Decision
from ..errors import InvalidValue, PlanConflict
from ..key import ApiKey
from ..ledger.sync import Ledger
from ..limit import REQUESTS, Cost
from ..operations.shape import DEFAULT
from ..plan import UsagePlan
from ..rule.limits import MAX_UNITS
from .apis import ApiRules, To
from .log_fields import EARLY_US
from .log_files import LogFile
from .log_reading import SAMPLES, Reading, Requests, Told
from .logs import Parser
from .report import Counts, Report, iso

HOUR_US = DAY_US // 24
_MOST_LATE_S = 86_400


class _Run:
    """A ledger, clock and report of plans that each client's key is on together.

    Each client gets a key when it is first seen, without a secret.
    """

    def __init__(self, plans: tuple[UsagePlan, ...], key: str, start: int) -> None:
        self.report = Report(plans[0], key, more=plans[1:])
        self._plans = plans
        self._clock = ManualClock(start)
        self._now = start
        self._hour_end = 0
        self._hour: Counts = [0, 0]
        self._ledger = Ledger(clock=self._clock)
        # Alerts change no admission, and crossing one costs a look at the whole record.
        for plan in plans:
            self._ledger.add_plan(attrs.evolve(plan, alerts=()))
        self._seats: dict[str, tuple[ApiKey, Counts]] = {}

    def take(self, now: int, client: str, charged: Charged, to: To | None) -> None:
        if now != self._now:
            self._clock.set(now)
            self._now = now
        if now >= self._hour_end:
            self._hour = self.report.hours.setdefault(now - now % HOUR_US, [0, 0])
            self._hour_end = now - now % HOUR_US + HOUR_US
        seat = self._seats.get(client)
        if seat is None:
            seat = self._admit(client)
        key, counts = seat
        cost, route, api = charged
        decision = self._ledger.consume(key, cost, api=api, route=route)
        refused = not decision.allowed
        counts[refused] += 1
        self._hour[refused] += 1
        if to is not None:
            self.report.apis.setdefault(to.api, [0, 0])[refused] += 1
        if refused:
            self._refuse(decision)

    def _admit(self, client: str) -> tuple[ApiKey, Counts]:
        id_ = f"c{len(self._seats)}"
        key = ApiKey(id_, id_, id_)
        self._ledger.store.add_keys([(key, [plan.id for plan in self._plans])])
        counts = self.report.clients[client] = [0, 0]
        self._seats[client] = key, counts
        return key, counts

    def _refuse(self, decision: Decision) -> None:
        report = self.report
        report.by_reason[decision.reason.value] += 1
        of = f"{decision.plan.id}: " if report.more and decision.plan is not None else ""
        for name in decision.violated:
            report.by_limit[of + name] += 1


_TEMPLATE = re.compile(r"(\{[^}]*\}|<[^>]*>)")
_SEVERAL = re.compile(r"\{.*(\+|:path)\}|<path:.*>")


def _pattern(route: str) -> re.Pattern[str]:
    """Return what paths a route's name stands for.

    ``{proxy+}``, ``{rest:path}`` and ``<path:rest>`` are several segments.
    """
    parts = _TEMPLATE.split(route)
    parts[0::2] = map(re.escape, parts[0::2])
    parts[1::2] = [".*" if _SEVERAL.fullmatch(part) else "[^/]+" for part in parts[1::2]]
    return re.compile("".join(parts))


class Routes:
    """The routes of a plan, and which of them a request is.

    ``METHOD /path``, or the first with ``{name}`` in place of a segment.
    """

    def __init__(self, plan: UsagePlan) -> None:
        self._exact = {*plan.routes, *plan.costs}
        found = [(_pattern(route), route) for route in sorted(self._exact) if _TEMPLATE.search(route)]
        self._templates = sorted(found, key=lambda pair: ".*" in pair[0].pattern)  # what takes any path comes last

    def __bool__(self) -> bool:
        return bool(self._exact)

    def find(self, method: str, path: str) -> str | None:
        """The route's name, as the plan writes it; HEAD counts as GET."""
        name = f"{'GET' if method == 'HEAD' else method} {path}"
        if name in self._exact:
            return name
        return next((route for pattern, route in self._templates if pattern.fullmatch(name)), None)


Charged = tuple[Cost, str | None, str]
"""(the cost of a request, its route, the api that is asked)"""


class _Costs:
    """All that a line costs under plans of one key: the plan's own cost, and what the log says of other units."""

    def __init__(self, plans: tuple[UsagePlan, ...]) -> None:
        self._routes = [(plan, Routes(plan)) for plan in plans]
        self.routes = any(routes for _, routes in self._routes)
        limits = [limit for plan in plans for own in (plan.limits, *plan.routes.values()) for limit in own]
        self.units = sorted({limit.unit for limit in limits} - {REQUESTS})
        # A plan of no api in particular is asked for whatever no other one governs.
        self._governs = {api: pair for pair in self._routes for api in pair[0].apis}
        self._others = self._governs.pop("", None)

    def governs(self, to: To | None) -> bool:
        """Tell whether one of the plans is charged for a request."""
        return to is None or to.api in self._governs or self._others is not None

    def of(self, names: Sequence[str], told: Told) -> Charged:
        """Return what a request costs, and where; of which units it tells, in order."""
        if told is None:
            return DEFAULT, None, self._routes[0][0].apis[0]
        units, request, to = dict(zip(names, told[0], strict=True)), told[1], told[2]
        found = self._routes[0] if to is None else self._governs.get(to.api) or self._others
        if found is None:
            return DEFAULT, None, "" if to is None else to.api
        plan, routes = found
        api = plan.apis[0] if to is None else to.api if to.api in self._governs else ""
        route = None
        if routes and request is not None:
            method, path = request
            route = routes.find(method, path)
            if route is None and to is not None and to.below is not None:
                route = routes.find(method, to.below)
        cost: dict[str, int] = {unit: units[unit] for unit in self.units if units[unit]}
        return ({**plan.route_plan(route).cost, **cost} if cost else DEFAULT), route, api


def _together(plans: UsagePlan | Sequence[UsagePlan], apis: Sequence[str]) -> tuple[UsagePlan, ...]:
    """Return plans that a key may be on together.

    Raises:
        InvalidValue: where nothing says which of them a request is charged on.
        PlanConflict: where two of them govern one api.
    """
    found = (plans,) if isinstance(plans, UsagePlan) else tuple(plans)
    if len(found) > 1 and not apis:
        raise InvalidValue("api", apis, "rules that say which API a request is to, where a key has several plans")
    seen: dict[str, str] = {}
    for plan in found:
        for api in plan.apis:
            if seen.setdefault(api, plan.id) != plan.id:
                raise PlanConflict(plan.id, f"it governs the api {api!r}, as {seen[api]!r} of the same key does")
    return found


def replay(
    lines: Iterable[str] | list[LogFile],
    plans: Sequence[UsagePlan | Sequence[UsagePlan]],
    *,
    key: str = "ip",
    apis: Sequence[str] = (),
    fields: Mapping[str, str] | None = None,
    late: int = 60,
    progress: Callable[[int], object] | None = None,
    watch: Callable[[int, str | None], object] | None = None,
) -> list[Report]:
    """Run log lines through each plan, on a ledger and a clock of its own, and report what it would have done.

    ``plans``: each is tried alone; plans for different apis that a key is on together stand in one tuple. ``apis``:
    rules that say which API a request is to (``apis.ApiRules``); a request that none of them names is left out and
    counted, and one to an API that no plan governs is refused, as it would be (``NO_PLAN``). A plan of no api in
    particular counts whatever no other plan of its key governs. Without rules every request is to a plan's first API.

    ``lines`` may be several logs (``log_files.open_logs``): they are read side by side, by time. ``key`` and
    ``fields``: who a line's client is and where a JSON line has what, see ``logs.Parser``; a line without a client is
    left out and counted. A request costs what the plan says of its route (``METHOD /path``, or a route of the plan
    with ``{name}`` segments), and of a unit other than requests what the log says: ``bytes`` sent, or the JSON field
    of that name.

    Time follows the log and never runs backwards. Servers write a line when a request ends, so lines are put in order
    first where they are late by up to ``late`` seconds, of which at most a million wait; one that is later still
    counts at the latest time reached. Malformed lines are counted and the first few kept. ``progress`` is called with
    the number of lines read, now and then; ``watch`` with the time and client of each request, in order. Memory grows
    with the number of distinct clients and with what waits, not with the log.

    Raises:
        InvalidValue: for a ``key`` that names no client, ``late`` seconds that are not 0 to a day, or a rule of
            ``apis`` that is none.
        PlanConflict: where two plans of one key govern one api.
    """
    if type(late) is not int or not 0 <= late <= _MOST_LATE_S:
        raise InvalidValue("late", late, f"whole seconds from 0 to {_MOST_LATE_S}")
    keyed = [_together(plan, apis) for plan in plans]
    costs = [_Costs(plan) for plan in keyed]
    rules = ApiRules(apis)
    units = sorted({unit for cost in costs for unit in cost.units})
    logs: Sequence[Any] = lines if isinstance(lines, list) and isinstance((lines or [""])[0], LogFile) else [lines]
    rules.check_logs([getattr(log, "name", "") for log in logs])
    requests = Requests(
        logs, lambda: Parser(key, fields), late, units=units, routes=any(cost.routes for cost in costs),
        progress=progress, apis=rules,
    )  # fmt: skip
    runs: list[_Run] = []
    first = latest = None
    too_late = 0
    for now, client, told in requests:
        if latest is None:
            first = latest = now
            runs = [_Run(plan, key, now) for plan in keyed]
        if now < latest:
            too_late += 1
        else:
            latest = now
        if watch is not None and (told is None or costs[0].governs(told[2])):
            watch(latest, client)
        for run, cost in zip(runs, costs, strict=True):
            run.take(latest, client, cost.of(units, told), told and told[2])
    reports = [run.report for run in runs] or [Report(plan[0], key, more=plan[1:]) for plan in keyed]
    for report, cost in zip(reports, costs, strict=True):
        report.first, report.last, report.too_late = first, latest, too_late
        _remark(report, requests.readings, cost.units)
        if too_late and requests.full:
            report.notes.append(f"so many lines came within {late} s that not all could be put in order")
    return reports


def _remark(report: Report, readings: Sequence[Reading], units: Sequence[str]) -> None:
    """Note on a report what was met in the logs."""
    for reading in readings:
        name = f"{getattr(reading.lines, 'name', '')}: " if len(readings) > 1 else ""
        report.malformed += reading.malformed
        report.nameless += reading.nameless
        report.out_of_order += reading.out_of_order
        report.elsewhere += reading.elsewhere
        room = SAMPLES - len(report.samples)
        report.samples += [(number, name + text) for number, text in reading.samples[:room]]
        report.nameless_sample = report.nameless_sample or reading.nameless_sample
        report.notes += [name + note for note in getattr(reading.lines, "notes", ())]
    for unit in units:
        uncountable = sum(reading.parser.uncountable[unit] for reading in readings)
        if uncountable:
            report.notes.append(
                f"{uncountable:,} lines have no whole number from 0 to {MAX_UNITS} as {unit}: they count 0 of it"
            )
        if report.total and not any(unit in reading.parser.measured for reading in readings):
            report.notes.append(
                f"no line has a number of {unit}, so limits of {unit} could refuse nothing:"
                f" say where JSON lines have it with --field {unit}=WHERE"
            )
    if report.first is not None and report.first < EARLY_US:
        report.notes.append(
            f"the first time is {iso(report.first)}: if that is none, say where it is with --field time=WHERE"
        )

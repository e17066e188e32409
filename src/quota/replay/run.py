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
from ..errors import InvalidValue
from ..key import ApiKey
from ..ledger.sync import Ledger
from ..limit import REQUESTS, Cost
from ..operations.shape import DEFAULT
from ..plan import UsagePlan
from ..rule.limits import MAX_UNITS
from .log_fields import EARLY_US
from .log_files import LogFile
from .log_reading import SAMPLES, Reading, Requests
from .logs import Parser
from .report import Counts, Report, iso

HOUR_US = DAY_US // 24
_MOST_LATE_S = 86_400


class _Run:
    """One plan's ledger, clock and report. Each client gets a key when it is first seen, without a secret."""

    def __init__(self, plan: UsagePlan, key: str, start: int) -> None:
        self.report = Report(plan, key)
        self._clock = ManualClock(start)
        self._now = start
        self._hour_end = 0
        self._hour: Counts = [0, 0]
        self._ledger = Ledger(clock=self._clock)
        # Alerts change no admission, and crossing one costs a look at the whole record.
        self._ledger.add_plan(attrs.evolve(plan, alerts=()))
        self._seats: dict[str, tuple[ApiKey, Counts]] = {}

    def take(self, now: int, client: str, cost: Cost, route: str | None) -> None:
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
        decision = self._ledger.consume(key, cost, api=self.report.plan.apis[0], route=route)
        if decision.allowed:
            counts[0] += 1
            self._hour[0] += 1
        else:
            counts[1] += 1
            self._hour[1] += 1
            self._refuse(decision)

    def _admit(self, client: str) -> tuple[ApiKey, Counts]:
        id_ = f"c{len(self._seats)}"
        key = ApiKey(id_, id_, id_)
        self._ledger.store.add_key(key, self.report.plan.id)
        counts = self.report.clients[client] = [0, 0]
        self._seats[client] = key, counts
        return key, counts

    def _refuse(self, decision: Decision) -> None:
        report = self.report
        report.by_reason[decision.reason.value] += 1
        for name in decision.violated:
            report.by_limit[name] += 1


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


class _Costs:
    """All that a line costs under a plan: the plan's own cost, and what the log says of units other than requests."""

    def __init__(self, plan: UsagePlan) -> None:
        self._plan = plan
        self.routes = Routes(plan)
        limits = [*plan.limits, *(limit for limits in plan.routes.values() for limit in limits)]
        self.units = sorted({limit.unit for limit in limits} - {REQUESTS})

    def of(self, units: Mapping[str, int], request: tuple[str, str] | None) -> tuple[Cost, str | None]:
        route = self.routes.find(*request) if self.routes and request is not None else None
        cost: dict[str, int] = {unit: units[unit] for unit in self.units if units[unit]}
        return ({**self._plan.route_plan(route).cost, **cost} if cost else DEFAULT), route


def replay(
    lines: Iterable[str] | list[LogFile],
    plans: Sequence[UsagePlan],
    *,
    key: str = "ip",
    fields: Mapping[str, str] | None = None,
    late: int = 60,
    progress: Callable[[int], object] | None = None,
    watch: Callable[[int, str | None], object] | None = None,
) -> list[Report]:
    """Run log lines through each plan, on a ledger and a clock of its own, and report what it would have done.

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
        InvalidValue: for a ``key`` that names no client, or ``late`` seconds that are not 0 to a day.
    """
    if type(late) is not int or not 0 <= late <= _MOST_LATE_S:
        raise InvalidValue("late", late, f"whole seconds from 0 to {_MOST_LATE_S}")
    costs = [_Costs(plan) for plan in plans]
    units = sorted({unit for cost in costs for unit in cost.units})
    logs: Sequence[Any] = lines if isinstance(lines, list) and isinstance((lines or [""])[0], LogFile) else [lines]
    requests = Requests(
        logs, lambda: Parser(key, fields), late, units=units, routes=any(cost.routes for cost in costs),
        progress=progress,
    )  # fmt: skip
    runs: list[_Run] = []
    first = latest = None
    too_late = 0
    for now, client, told in requests:
        if latest is None:
            first = latest = now
            runs = [_Run(plan, key, now) for plan in plans]
        if now < latest:
            too_late += 1
        else:
            latest = now
        if watch is not None:
            watch(latest, client)
        for run, cost in zip(runs, costs, strict=True):
            if told is None:
                run.take(latest, client, DEFAULT, None)
            else:
                run.take(latest, client, *cost.of(dict(zip(units, told[0], strict=True)), told[1]))
    reports = [run.report for run in runs] or [Report(plan, key) for plan in plans]
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

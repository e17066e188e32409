"""What would a plan have done? A recorded access log run through usage plans, on a clock that follows the log."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from operator import itemgetter

import attrs

from .clock import DAY_US, ManualClock
from .decision import Decision
from .errors import InvalidValue
from .key import ApiKey
from .ledger import Ledger
from .logs import Parser, Row
from .plan import REQUESTS, Cost, UsagePlan
from .report import Counts, Report
from .steps import DEFAULT

HOUR_US = DAY_US // 24
_SAMPLES = 5
_SAMPLE = 160
_TOLD_EVERY = 4096
_MOST_LATE_S = 86_400
_MOST_WAITING = 100_000


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
        self._seats: dict[str | None, tuple[ApiKey | None, Counts]] = {None: (None, [0, 0])}

    def take(self, now: int, client: str | None, cost: Cost, route: str | None) -> None:
        if now != self._now:
            self._clock.set(now)
            self._now = now
        if now >= self._hour_end:
            self._hour = self.report.hours.setdefault(now - now % HOUR_US, [0, 0])
            self._hour_end = now - now % HOUR_US + HOUR_US
        seat = self._seats.get(client)
        if seat is None:
            seat = self._admit(str(client))
        key, counts = seat
        decision = self._ledger.consume(key, cost, api=self.report.plan.api, route=route)
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
    """What paths a route's name stands for; ``{proxy+}``, ``{rest:path}`` and ``<path:rest>`` are several segments."""
    parts = _TEMPLATE.split(route)
    parts[0::2] = map(re.escape, parts[0::2])
    parts[1::2] = [".*" if _SEVERAL.fullmatch(part) else "[^/]+" for part in parts[1::2]]
    return re.compile("".join(parts))


class Routes:
    """Which of a plan's routes a request is: ``METHOD /path``, or the first with ``{name}`` in place of a segment."""

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
    """What a line costs under a plan: the plan's own cost, and what the log says of units other than requests."""

    def __init__(self, plan: UsagePlan, parser: Parser) -> None:
        self._plan = plan
        self._parser = parser
        self.routes = Routes(plan)
        limits = [*plan.limits, *(limit for limits in plan.routes.values() for limit in limits)]
        self._units = sorted({limit.unit for limit in limits} - {REQUESTS})
        self.plain = not self.routes and not self._units

    def of(self, row: Row) -> tuple[Cost, str | None]:
        route = self.routes.find(*self._parser.request(row)) if self.routes else None
        cost: dict[str, int] = {}
        for unit in self._units:
            if units := self._parser.units(row, unit):
                cost[unit] = units
        return ({**self._plan.course(route).cost, **cost} if cost else DEFAULT), route


_Request = tuple[int, str | None, Row | None]
_first = itemgetter(0)


@attrs.define
class _Reading:
    """The requests of a log in order of their time, and what was met on the way. ``wanted``: rows are looked at."""

    parser: Parser
    late_us: int
    wanted: bool
    progress: Callable[[int], object] | None
    malformed: int = 0
    samples: list[tuple[int, str]] = attrs.field(factory=list)
    out_of_order: int = 0

    def requests(self, lines: Iterable[str]) -> Iterator[_Request]:
        """As they are in the log."""
        parse, progress, wanted = self.parser, self.progress, self.wanted
        latest = 0
        for number, line in enumerate(lines, 1):
            if progress is not None and number % _TOLD_EVERY == 0:
                progress(number)
            try:
                now, client, row = parse(line)
            except ValueError:
                self._leave_out(number, line)
                continue
            if now < latest:
                self.out_of_order += 1
            else:
                latest = now
            yield now, client, row if wanted else None

    def _leave_out(self, number: int, line: str) -> None:
        if line.strip():
            self.malformed += 1
            if len(self.samples) < _SAMPLES:
                self.samples.append((number, line[: _SAMPLE * 2].strip()[:_SAMPLE]))

    def in_order(self, lines: Iterable[str]) -> Iterator[_Request]:
        """Sorted a stretch at a time: what waits is sorted when it spans twice ``late_us``, and half of it goes."""
        waiting: list[_Request] = []
        latest = due = 0
        for request in self.requests(lines):
            latest = max(latest, request[0])
            if latest >= due or len(waiting) >= _MOST_WAITING:
                waiting.sort(key=_first)
                ready = bisect_right(waiting, latest - self.late_us, key=_first)
                if len(waiting) - ready >= _MOST_WAITING // 2:
                    ready = len(waiting) // 2
                yield from waiting[:ready]
                del waiting[:ready]
                due = latest + self.late_us
            waiting.append(request)
        waiting.sort(key=_first)
        yield from waiting


def replay(
    lines: Iterable[str],
    plans: Sequence[UsagePlan],
    *,
    key: str = "ip",
    fields: Mapping[str, str] | None = None,
    late: int = 60,
    progress: Callable[[int], object] | None = None,
    watch: Callable[[int, str | None], object] | None = None,
) -> list[Report]:
    """Run log lines through each plan, on a ledger and a clock of its own, and report what it would have done.

    ``key`` and ``fields``: who a line's client is and where a JSON line has what, see ``logs.Parser``; a line without
    a client is refused as ``MISSING_KEY``. A request costs what the plan says of its route (``METHOD /path``, or a
    route of the plan with ``{name}`` segments), and of a unit other than requests what the log says: ``bytes`` sent,
    or the JSON field of that name.

    Time follows the log and never runs backwards. Servers write a line when a request ends, so lines are put in order
    first where they are late by up to ``late`` seconds; one that is later still counts at the latest time reached.
    Malformed lines are counted and the first few kept. ``progress`` is called with the number of lines read, now and
    then; ``watch`` with the time and client of each request, in order. Memory grows with the number of distinct
    clients, not with the log.

    Raises:
        InvalidValue: for a ``key`` that names no client, or ``late`` seconds that are not 0 to a day.
    """
    if type(late) is not int or not 0 <= late <= _MOST_LATE_S:
        raise InvalidValue("late", late, f"whole seconds from 0 to {_MOST_LATE_S}")
    parser = Parser(key, fields)
    costs = [_Costs(plan, parser) for plan in plans]
    reading = _Reading(parser, late * 1_000_000, not all(cost.plain for cost in costs), progress)
    runs: list[_Run] = []
    first = latest = None
    too_late = 0
    for now, client, row in reading.in_order(lines) if late else reading.requests(lines):
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
            if row is None or cost.plain:
                run.take(latest, client, DEFAULT, None)
            else:
                run.take(latest, client, *cost.of(row))
    reports = [run.report for run in runs] or [Report(plan, key) for plan in plans]
    for report in reports:
        report.malformed, report.samples = reading.malformed, reading.samples
        report.out_of_order, report.too_late = reading.out_of_order, too_late
        report.first, report.last = first, latest
    return reports

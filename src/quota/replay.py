"""What would a plan have done? A recorded access log run through usage plans, on a clock that follows the log."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import attrs

from .clock import DAY_US, ManualClock, to_datetime
from .key import ApiKey
from .ledger import Ledger
from .logs import Parser, client_of
from .plan import UsagePlan

HOUR_US = DAY_US // 24
_SHOWN = 5


@attrs.define
class Report:
    """What one plan would have done. ``days`` and ``hours``: UTC start -> [allowed, refused]."""

    plan: UsagePlan
    total: int = 0
    allowed: int = 0
    refused: int = 0
    by_reason: Counter[str] = attrs.field(factory=Counter)
    by_limit: Counter[str] = attrs.field(factory=Counter)
    asked: Counter[str] = attrs.field(factory=Counter)
    hit: Counter[str] = attrs.field(factory=Counter)
    days: dict[int, list[int]] = attrs.field(factory=dict)
    hours: dict[int, list[int]] = attrs.field(factory=dict)
    malformed: int = 0
    samples: list[tuple[int, str]] = attrs.field(factory=list)
    out_of_order: int = 0
    first: int | None = None
    last: int | None = None

    def hardest(self, top: int = 10) -> list[tuple[str, int, int]]:
        """The clients refused most: (client, refused, asked)."""
        most = heapq.nsmallest(top, self.hit.items(), key=lambda item: (-item[1], item[0]))
        return [(client, refused, self.asked[client]) for client, refused in most]

    def to_dict(self, top: int = 10) -> dict[str, Any]:
        """The report as JSON-able data; instants are ISO 8601 in UTC."""
        return {
            "plan": {"id": self.plan.id, "limits": [str(limit) for limit in self.plan.limits]},
            "total": self.total,
            "allowed": self.allowed,
            "refused": self.refused,
            "refused_by_reason": dict(self.by_reason.most_common()),
            "refused_by_limit": dict(self.by_limit.most_common()),
            "clients": len(self.asked),
            "clients_refused": len(self.hit),
            "hardest": [{"client": c, "refused": refused, "total": total} for c, refused, total in self.hardest(top)],
            "days": [{"day": _iso(day)[:10], "allowed": a, "refused": r} for day, (a, r) in sorted(self.days.items())],
            "hours": [{"hour": _iso(hour), "allowed": a, "refused": r} for hour, (a, r) in sorted(self.hours.items())],
            "malformed": self.malformed,
            "malformed_samples": [{"line": number, "text": text} for number, text in self.samples],
            "out_of_order": self.out_of_order,
            "first": None if self.first is None else _iso(self.first),
            "last": None if self.last is None else _iso(self.last),
        }


def _iso(instant_us: int) -> str:
    return to_datetime(instant_us).isoformat()


class _Run:
    """One plan's ledger and report. Each client gets a key when it is first seen."""

    def __init__(self, plan: UsagePlan, start: int) -> None:
        self.report = Report(plan)
        self.clock = ManualClock(start)
        self.ledger = Ledger(clock=self.clock)
        self.ledger.add_plan(plan)
        self.api = plan.api
        self.keys: dict[str, ApiKey] = {}

    def take(self, client: str | None, now: int, method: str | None) -> None:
        report = self.report
        self.clock.set(now)
        who = None
        if client is not None:
            who = self.keys.get(client)
            if who is None:
                number = f"c{len(self.keys)}"
                who = self.keys[client] = self.ledger.issue_key(number, self.report.plan, id=number).key
            report.asked[client] += 1
        decision = self.ledger.consume(who, api=self.api, route=method)
        report.total += 1
        refused = 0 if decision else 1
        for table, length in ((report.days, DAY_US), (report.hours, HOUR_US)):
            cell = table.get(now - now % length)
            if cell is None:
                cell = table[now - now % length] = [0, 0]
            cell[refused] += 1
        if not refused:
            report.allowed += 1
            return
        report.refused += 1
        report.by_reason[decision.reason.value] += 1
        for name in decision.violated:
            report.by_limit[name] += 1
        if client is not None:
            report.hit[client] += 1


def replay(
    lines: Iterable[str],
    plans: Sequence[UsagePlan],
    *,
    key: str = "ip",
    progress: Callable[[int], object] | None = None,
) -> list[Report]:
    """Run log lines through each plan, on a ledger and a clock of its own, and report what it would have done.

    ``key``: who a line's client is (see ``client_of``); a line without one is refused as ``MISSING_KEY``. Plans with
    routes are asked for ``METHOD /path``. Time follows the log and never runs backwards; malformed lines are counted
    and the first few kept. ``progress`` is called with the number of lines read, now and then. Memory grows with the number
    of distinct clients, not with the log.

    Raises:
        InvalidValue: for a ``key`` that names no client.
    """
    client = client_of(key)
    parse = Parser()
    runs: list[_Run] = []
    samples: list[tuple[int, str]] = []
    malformed = out_of_order = latest = 0
    routed = any(plan.routes or plan.costs for plan in plans)
    first: int | None = None
    for number, line in enumerate(lines, 1):
        if progress is not None and number % 4096 == 0:
            progress(number)
        try:
            row = parse(line)
            now = row["time"]
        except (ValueError, KeyError, IndexError, TypeError, RecursionError, OverflowError):
            if line.strip():
                malformed += 1
                if len(samples) < _SHOWN:
                    samples.append((number, line.rstrip("\r\n")[:160]))
            continue
        if first is None:
            first = latest = now
            runs = [_Run(plan, now) for plan in plans]
        out_of_order += now < latest
        latest = max(latest, now)
        who = client(row, line)
        route = f"{row.get('method', 'GET')} {str(row.get('path', '')).split('?')[0]}"[:1024] if routed else None
        for run in runs:
            run.take(who, latest, route)
    reports = [run.report for run in runs] or [Report(plan) for plan in plans]
    for report in reports:
        report.malformed, report.samples, report.out_of_order = malformed, samples, out_of_order
        report.first, report.last = first, None if first is None else latest
    return reports


def describe(report: Report, top: int = 10) -> str:
    """A report for people, as plain text."""
    share = f" ({100 * report.allowed / report.total:.1f} %)" if report.total else ""
    lines = [
        f"plan {report.plan}",
        f"  {report.total:,} requests of {len(report.asked):,} clients"
        + (f", {_iso(report.first)} to {_iso(report.last)}" if report.first is not None and report.last else ""),
        f"  allowed {report.allowed:,}{share}, refused {report.refused:,}",
    ]
    lines += [f"    {count:>8,}  {reason}" for reason, count in report.by_reason.most_common()]
    if report.by_limit:
        lines += ["  refused by limit"]
        lines += [f"    {count:>8,}  {name}" for name, count in report.by_limit.most_common()]
    if report.hit:
        lines += [f"  clients hit hardest (of {len(report.hit):,} ever refused)"]
        lines += [f"    {refused:>8,} of {asked:,} refused  {who}" for who, refused, asked in report.hardest(top)]
    if report.days:
        lines += ["  per day        allowed    refused"]
        lines += [f"    {_iso(day)[:10]} {a:>9,}  {r:>9,}" for day, (a, r) in sorted(report.days.items())]
    if report.out_of_order:
        lines += [f"  {report.out_of_order:,} lines were out of order; their time was taken as the latest seen"]
    if report.malformed:
        lines += [f"  {report.malformed:,} malformed lines left out, such as"]
        lines += [f"    line {number}: {text}" for number, text in report.samples]
    return "\n".join(lines)

"""All that a replay found, as data and as text."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Sequence
from typing import Any

import attrs

from ..clock import DAY_US, to_datetime
from ..errors import InvalidValue
from ..plan import UsagePlan
from .log_forms import guess

Counts = list[int]
"""[allowed, refused]"""


@attrs.define
class Report:
    """All that one plan would have done.

    Instants are microseconds since the epoch; ``hours`` and ``days`` begin in UTC.

    ``malformed`` lines were left out, the first few are in ``samples`` as (line number, text), and so were
    ``nameless`` requests, whose client the key does not find. ``out_of_order`` lines came after a later one; of these
    ``too_late`` ones could not be put in order and count at the latest time reached. ``notes``: what else to know.
    ``more``: other plans that the same key is on. ``apis``: what was asked by API, where rules name these; requests
    that no rule names were left out, ``elsewhere``.
    """

    plan: UsagePlan
    key: str = "ip"
    by_reason: Counter[str] = attrs.field(factory=Counter)
    by_limit: Counter[str] = attrs.field(factory=Counter)
    clients: dict[str, Counts] = attrs.field(factory=dict)
    hours: dict[int, Counts] = attrs.field(factory=dict)
    malformed: int = 0
    samples: list[tuple[int, str]] = attrs.field(factory=list)
    nameless: int = 0
    nameless_sample: tuple[int, str] | None = None
    out_of_order: int = 0
    too_late: int = 0
    notes: list[str] = attrs.field(factory=list)
    first: int | None = None
    last: int | None = None
    more: tuple[UsagePlan, ...] = ()
    apis: dict[str, Counts] = attrs.field(factory=dict)
    elsewhere: int = 0

    @property
    def id(self) -> str:
        """The plan's id, or those of all plans of the key."""
        return "+".join(plan.id for plan in (self.plan, *self.more))

    @property
    def limits(self) -> str:
        """The limits as text, each plan's behind its id where there are several."""
        if not self.more:
            return str(self.plan) or "no limits"
        return "; ".join(f"{plan.id}: {plan}" for plan in (self.plan, *self.more))

    @property
    def allowed(self) -> int:
        return sum(allowed for allowed, _ in self.hours.values())

    @property
    def refused(self) -> int:
        return sum(refused for _, refused in self.hours.values())

    @property
    def total(self) -> int:
        return self.allowed + self.refused

    @property
    def days(self) -> dict[int, Counts]:
        """UTC day -> [allowed, refused]."""
        days: dict[int, Counts] = {}
        for hour, (allowed, refused) in self.hours.items():
            day = days.setdefault(hour - hour % DAY_US, [0, 0])
            day[0] += allowed
            day[1] += refused
        return days

    @property
    def clients_refused(self) -> int:
        """Return how many clients were refused at least once."""
        return sum(refused > 0 for _, refused in self.clients.values())

    def hardest(self, top: int = 10) -> list[tuple[str, int, int]]:
        """The clients refused most: (client, refused, asked)."""
        hit = ((client, refused, allowed + refused) for client, (allowed, refused) in self.clients.items() if refused)
        return heapq.nsmallest(top, hit, key=lambda row: (-row[1], row[0]))

    def to_dict(self, top: int = 10) -> dict[str, Any]:
        """The report as JSON-able data; instants are ISO 8601 in UTC."""
        return {
            "plan": {"id": self.id, "limits": [str(lim) for plan in (self.plan, *self.more) for lim in plan.limits]},
            "key": self.key,
            "total": self.total,
            "allowed": self.allowed,
            "refused": self.refused,
            "refused_by_reason": dict(self.by_reason.most_common()),
            "refused_by_limit": dict(self.by_limit.most_common()),
            "clients": len(self.clients),
            "clients_refused": self.clients_refused,
            "hardest": [{"client": c, "refused": refused, "total": total} for c, refused, total in self.hardest(top)],
            "apis": [{"api": api, "allowed": a, "refused": r} for api, (a, r) in sorted(self.apis.items())],
            "days": [{"day": iso(day)[:10], "allowed": a, "refused": r} for day, (a, r) in sorted(self.days.items())],
            "hours": [{"hour": iso(hour), "allowed": a, "refused": r} for hour, (a, r) in sorted(self.hours.items())],
            "malformed": self.malformed,
            "malformed_samples": [{"line": number, "text": text} for number, text in self.samples],
            "nameless": self.nameless,
            "elsewhere": self.elsewhere,
            "out_of_order": self.out_of_order,
            "too_late": self.too_late,
            "notes": list(self.notes),
            "first": None if self.first is None else iso(self.first),
            "last": None if self.last is None else iso(self.last),
        }


def iso(instant_us: int) -> str:
    """An instant as ISO 8601 in UTC."""
    return to_datetime(instant_us).isoformat()


def to_json(log: str, reports: Sequence[Report], top: int = 10) -> dict[str, Any]:
    """Return what ``quota replay --json`` prints."""
    return {"log": log, "reports": [report.to_dict(top) for report in reports], "suggestion": None}


def plain(text: str, longest: int = 80) -> str:
    """Text of a log as a terminal may show it: nothing unprintable, and not too long."""
    shown = "".join(
        c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text[: longest + 1]
    )
    return shown if len(shown) <= longest else shown[: longest - 3] + "..."


def describe(report: Report, top: int = 10) -> str:
    """A report for people, as plain text."""
    lines = [
        f"plan {report.limits if report.more else report.plan}",
        f"  {report.total:,} requests of {len(report.clients):,} clients (by {report.key})"
        + (f", {iso(report.first)} to {iso(report.last)}" if report.first is not None and report.last else ""),
        f"  allowed {report.allowed:,}{share(report.allowed, report.total)}, refused {report.refused:,}",
    ]
    lines += [f"    {count:>8,}  {reason}" for reason, count in report.by_reason.most_common()]
    if report.by_limit:
        lines += ["  refused by limit"]
        lines += [f"    {count:>8,}  {name}" for name, count in report.by_limit.most_common()]
    if report.clients_refused:
        lines += [f"  clients hit hardest (of {report.clients_refused:,} ever refused)"]
        lines += [f"    {refused:>8,} of {n:>7,} refused  {plain(who)}" for who, refused, n in report.hardest(top)]
    if report.hours:
        lines += ["  per day        allowed    refused"]
        lines += [f"    {iso(day)[:10]} {a:>9,}  {r:>9,}" for day, (a, r) in sorted(report.days.items())]
    lines += [f"  {line}" for line in remarks(report)]
    return "\n".join(lines)


def remarks(report: Report) -> list[str]:
    """Return what there is to say about the log, whatever the plan."""
    lines = []
    if report.out_of_order:
        late = f", {report.too_late:,} too late for that: they count at the latest time" if report.too_late else ""
        lines += [f"{report.out_of_order:,} lines were out of order and put in order{late}"]
    if report.nameless and report.nameless_sample:
        number, text = report.nameless_sample
        lines += [f"{report.nameless:,} requests left out in which {plain(report.key)} names no client, such as"]
        lines += [f"  line {number}: {plain(text)}"]
    if report.elsewhere:
        lines += [f"{report.elsewhere:,} requests left out that are to none of the APIs that are named"]
    if report.malformed:
        lines += [f"{report.malformed:,} malformed lines left out, such as"]
        lines += [f"  line {number}: {plain(text)}" for number, text in report.samples]
    return lines + [f"note: {plain(note, 400)}" for note in report.notes]


def check_understood(log: str, report: Report) -> None:
    """Raises ``InvalidValue`` when a log has something in it but no request was replayed, with what it seems to be."""
    if report.elsewhere and not report.total:
        many = f"{report.elsewhere:,} requests are to none of the APIs that are named"
        raise InvalidValue("api", log, f"rules that name the API of some request; {many}")
    if report.total or not (report.malformed or report.nameless or report.notes):
        return
    notes = "".join(f"; {plain(note, 200)}" for note in report.notes)
    seen = ""
    for number, text in [report.nameless_sample] if report.nameless_sample else report.samples[:1]:
        seems = guess(text)
        seen = f", such as line {number}: {plain(text)}" + (f" (it seems to be {seems})" if seems else "")
    if report.nameless:
        raise InvalidValue(
            "key", report.key, f"a key that names clients; it does in none of {report.nameless:,} requests{seen}."
            " Text lines have ip, user and the headers Referer and User-Agent; --field says where JSON lines have it",
        )  # fmt: skip
    raise InvalidValue(
        "log", log, "an access log in combined or common format, JSON lines or another known form;"
        f" none of {report.malformed:,} lines is understood{seen}{notes}"
        + ("; --field time=WHERE says which is the time" if "JSON with" in seen else ""),
    )  # fmt: skip


def share(part: int, whole: int) -> str:
    """`` (12.3 %)``, or nothing of nothing; never 100 % of all but one."""
    if not whole:
        return ""
    permille = part * 1000 // whole
    return f" ({permille // 10}.{permille % 10} %)"

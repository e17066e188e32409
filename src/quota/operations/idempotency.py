"""An admission, remembered under its ``request_id``, and the same answer made of it again."""

from __future__ import annotations

from typing import Any

from ..decision import Decision, Details, Reason, no_window
from ..errors import RequestMismatch
from ..rule.entries import RememberedRequest
from ..rule.limits import Line, QuotaLine, Standing, ThrottleLine, Verdict
from ..rule.party import Party
from ..rule.record import Record
from .request import Entry, Request


def fingerprint(request: Request) -> list[Any]:
    """Name all that a retry must have in common with the call that it repeats."""
    kind = "reserve" if request.op == "reserve" else "consume"
    takes = None if request.takes is None else sorted(request.takes.items())
    prints: list[Any] = [kind, request.api, request.route, takes and [list(pair) for pair in takes]]
    return [*prints, request.ttl] if request.op == "reserve" else prints


def remember(request: Request, details: Details, record: Record, until: int) -> None:
    """Keep an admission for its retries; two old ones are looked at for each new one, so no call pays for all."""
    if record.requests is None:
        record.requests = {}
    for old in [id_ for id_, _ in zip(record.requests, range(2), strict=False)]:
        if record.requests[old].until <= details.verdict.now:
            del record.requests[old]
    verdict = details.verdict
    record.requests[str(request.request_id)] = RememberedRequest(
        until, fingerprint(request), details.id or "", request.id, details.plan.id if details.plan else "",
        sorted(details.takes.items()), verdict.now, [encode_standing(s) for s in verdict.standings],
        list(verdict.crossed), list(details.metered), details.tokens,
    )  # fmt: skip
    record.version += 1


def replay(request: Request, memo: RememberedRequest, entry: Entry, party: Party) -> Decision:
    """Tell the decision of an earlier call, as it was. Raises ``RequestMismatch``."""
    request_id = str(request.request_id)
    if memo.prints != fingerprint(request):
        raise RequestMismatch(request_id, f"was used for another call: {memo.prints}")
    if memo.id in (party.key.refunds or {}):
        raise RequestMismatch(request_id, "its charge was refunded, or its reservation cancelled")
    verdict = Verdict(
        allowed=True, now=memo.now, standings=tuple(decode_standing(s) for s in memo.standings),
        crossed=tuple((name, percent) for name, percent in memo.crossed),
    )  # fmt: skip
    plan = next((plan for plan in entry.plans.values() if plan.id == memo.plan_id), None)
    return Decision(
        Details(
            Reason.OK, memo.id, entry.key, plan, dict(memo.takes), verdict, tuple(memo.groups), memo.tokens,
            replayed=True, hold=memo.hold_id,
        )
    )  # fmt: skip


def encode_standing(standing: Standing) -> list[Any]:
    """A limit and where it stood, as JSON-able data."""
    line = standing.line
    numbers = [line.overage] if isinstance(line, QuotaLine) else [line.scale, line.drain, line.burst]
    return [line.name, line.unit, line.shared, line.route, line.limit, line.length,
            standing.used, standing.extra, standing.resets_at, numbers]  # fmt: skip


def decode_standing(data: list[Any]) -> Standing:
    """Read what ``encode_standing`` wrote."""
    name, unit, shared, route, limit, length, used, extra, resets_at, numbers = data
    line: Line
    if len(numbers) == 1:
        line = QuotaLine(name, unit, shared, route, limit, numbers[0], (), no_window, length)
    else:
        scale, drain, burst = numbers
        line = ThrottleLine(name, unit, shared, route, limit, scale, drain, burst, length)
    return Standing(line, used, extra, resets_at)

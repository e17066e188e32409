"""An admission, remembered under its ``request_id``, and the same answer made of it again."""

from __future__ import annotations

from typing import Any

import attrs

from ..decision import Decision, Details, Reason, no_window
from ..errors import RequestMismatch
from ..rule.entries import RememberedRequest, amounts
from ..rule.limits import Line, QuotaLine, Standing, Terms, ThrottleLine, Verdict
from ..rule.party import Party
from .request import Entry, Request


def asked(request: Request) -> tuple[Any, ...]:
    """Return all that a retry must have in common with the call that it repeats."""
    takes = None if request.takes is None else tuple(sorted(request.takes.items()))
    kind = ("reserve", request.ttl) if request.op == "reserve" else ("consume",)
    return kind[0], request.api, request.route, takes, *kind[1:]


def remembered(party: Party, request: Request) -> RememberedRequest | None:
    """Return what is remembered under the request's id, if anything is."""
    requests = party.key.requests
    return None if requests is None or request.request_id is None else requests.get(request.request_id)


def remember(request: Request, details: Details, party: Party, terms: Terms) -> None:
    """Keep an admission for its retries."""
    now, plan = details.verdict.now, details.plan
    memo = RememberedRequest(
        now + terms.request_ttl,
        str(request.request_id),
        details.id or "",
        plan.id if plan else "",
        asked(request),
        details,
    )
    party.key.remember(memo, now)


def replay(request: Request, memo: RememberedRequest, entry: Entry, party: Party) -> Decision:
    """Tell the decision of an earlier call, as it was. Raises ``RequestMismatch``."""
    if memo.asked != asked(request):
        raise RequestMismatch(memo.name, f"was used for another call: {list(memo.asked)}")
    if party.key.refunded(memo.id):
        raise RequestMismatch(memo.name, "its charge was refunded, or its reservation cancelled")
    plan = next((plan for plan in entry.plans.values() if plan.id == memo.plan_id), None)
    return Decision(attrs.evolve(memo.answer, key=entry.key, plan=plan, replayed=True))


def encode_memo(memo: RememberedRequest) -> list[Any]:
    """A remembered request as JSON-able data, all but its name."""
    details: Details = memo.answer
    verdict = details.verdict
    return [
        memo.until, memo.asked, memo.id, details.hold, memo.plan_id,
        sorted(details.takes.items()), verdict.now, [encode_standing(s) for s in verdict.standings],
        verdict.crossed, details.metered, details.tokens,
    ]  # fmt: skip


def decode_memo(name: str, data: list[Any]) -> RememberedRequest:
    """Read what ``encode_memo`` wrote."""
    until, (kind, api, route, pairs, *ttl), id_, hold, plan_id, takes, now, standings, crossed, groups, tokens = data
    asked_for = (kind, api, route, pairs and tuple([(unit, units) for unit, units in pairs]), *ttl)
    verdict = Verdict(
        allowed=True, now=now, standings=tuple([decode_standing(s) for s in standings]),
        crossed=tuple([(limit, percent) for limit, percent in crossed]),
    )  # fmt: skip
    metered = tuple([(at, amounts(part)) for at, part in groups])
    details = Details(Reason.OK, id_, None, None, dict(takes), verdict, metered, (tokens[0], tokens[1]), hold=hold)
    return RememberedRequest(until, name, id_, plan_id, asked_for, details)


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

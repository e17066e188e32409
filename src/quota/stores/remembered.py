"""Remembered requests as the other stores keep them: JSON-able data, and what a server adds by itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..decision import Details, Reason, no_window
from ..operations.headroom import SeveralMeters
from ..operations.idempotency import asked
from ..operations.request import Request
from ..rule.charge import metered, weigh
from ..rule.entries import RememberedRequest, amounts
from ..rule.limits import Line, QuotaLine, Reading, Standing, Terms, ThrottleLine, Verdict


def encode_memo(memo: RememberedRequest) -> list[Any]:
    """Return a remembered request as JSON-able data, all but its name."""
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
    taken = tuple([(at, amounts(part)) for at, part in groups])
    details = Details(Reason.OK, id_, None, None, dict(takes), verdict, taken, (tokens[0], tokens[1]), hold=hold)
    return RememberedRequest(until, name, id_, plan_id, asked_for, details)


def encode_standing(standing: Standing) -> list[Any]:
    """Return a limit and where it stood as JSON-able data."""
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


def memo_of(room: SeveralMeters, request: Request, takes: Mapping[str, int], id_: str) -> list[Any]:
    """Return all that is remembered of a headroom's admission besides the engine's answer; see ``read_memo``."""
    lines = [
        [encode_standing(Standing(line, 0, extra, end)), index, base]
        for (line, index, extra, end), base in zip(room.places, room.bases, strict=True)
    ]
    return [asked(request), id_, request.id, room.shape.plan.id, sorted(takes.items()), lines,
            metered(room.course, takes), list(room.tokens)]  # fmt: skip


def read_memo(name: str, now: int, found: Sequence[int], rest: list[Any], terms: Terms) -> RememberedRequest:
    """Read an admission that a server remembered: its answer, and what ``memo_of`` gave it."""
    prints, id_, hold_id, plan_id, takes, lines, groups, tokens = rest
    readings: list[Reading] = []
    for encoded, index, base in lines:
        empty = decode_standing(encoded)
        quota = type(empty.line) is QuotaLine
        used = found[index] - base if quota else found[index]
        readings.append(Reading(empty.line, used, empty.extra, empty.resets_at))
    standings = [encode_standing(standing) for standing in weigh(readings, {}, now).standings]
    until = now + terms.request_ttl
    return decode_memo(name, [until, prints, id_, hold_id, plan_id, takes, now, standings, [], [[now, groups]], tokens])

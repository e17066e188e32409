"""Remembered requests as the other stores keep them: JSON-able data, and what a server adds by itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..decision import Details, Reason, no_window
from ..operations.headroom import SeveralMeters
from ..operations.idempotency import asked
from ..operations.request import Request
from ..rule.charge import evaluate, metered
from ..rule.entries import RememberedRequest, amounts
from ..rule.limits import (
    CompiledConcurrency,
    CompiledLimit,
    CompiledQuota,
    CompiledThrottle,
    LimitState,
    Outcome,
    Reading,
    StoreOptions,
)


def encode_remembered(earlier: RememberedRequest) -> list[Any]:
    """Return a remembered request as JSON-able data, all but its name."""
    details: Details = earlier.answer
    outcome = details.outcome
    return [
        earlier.until, earlier.asked, earlier.id, details.hold, earlier.plan_id,
        sorted(details.takes.items()), outcome.now, [encode_state(s) for s in outcome.states],
        outcome.crossed, details.metered, details.tokens,
        *([details.above, details.slot, details.until] if details.above or details.until else []),
    ]  # fmt: skip


def decode_remembered(name: str, data: list[Any]) -> RememberedRequest:
    """Read what ``encode_remembered`` wrote."""
    until, (kind, api, route, pairs, *ttl), id_, hold, plan_id, takes, now, states, crossed, groups, tokens, *own = data
    above, slot, lapses = own or ((), "", 0)
    asked_for = (kind, api, route, pairs and tuple([(unit, units) for unit, units in pairs]), *ttl)
    outcome = Outcome(
        allowed=True, now=now, states=tuple([decode_state(s) for s in states]),
        crossed=tuple([(limit, percent) for limit, percent in crossed]),
    )  # fmt: skip
    taken = tuple([(at, amounts(part)) for at, part in groups])
    details = Details(
        Reason.OK, id_, None, None, dict(takes), outcome, taken, tuple(tokens), hold=hold, slot=slot, until=lapses,
        above=tuple(above),
    )  # fmt: skip
    return RememberedRequest(until, name, id_, plan_id, asked_for, details)


def encode_state(state: LimitState) -> list[Any]:
    """Return a limit and where it stood as JSON-able data."""
    compiled = state.limit
    match compiled:
        case CompiledQuota():
            numbers = [compiled.overage]
        case CompiledThrottle():
            numbers = [compiled.scale, compiled.drain, compiled.burst]
        case _:
            numbers = []
    own = [compiled.told, compiled.holder] if compiled.holder else []
    return [compiled.name, compiled.unit, compiled.shared, compiled.route, compiled.limit, compiled.length,
            state.used, state.extra, state.resets_at, numbers, *own]  # fmt: skip


def decode_state(data: list[Any]) -> LimitState:
    """Read what ``encode_state`` wrote."""
    name, unit, shared, route, limit, length, used, extra, resets_at, numbers, *own = data
    compiled: CompiledLimit
    if not numbers:
        compiled = CompiledConcurrency(name, unit, shared, route, limit, None, *own)
    elif len(numbers) == 1:
        compiled = CompiledQuota(name, unit, shared, route, limit, numbers[0], (), no_window, length, *own)
    else:
        scale, drain, burst = numbers
        compiled = CompiledThrottle(name, unit, shared, route, limit, scale, drain, burst, length, *own)
    return LimitState(compiled, used, extra, resets_at)


def remembered_of(room: SeveralMeters, request: Request, takes: Mapping[str, int], id_: str) -> list[Any]:
    """Return all that is remembered of a headroom's admission besides the engine's answer; see ``read_remembered``."""
    limits = [
        [encode_state(LimitState(compiled, 0, extra, end)), index, base]
        for (compiled, index, extra, end), base in zip(room.places, room.bases, strict=True)
    ]
    above = room.shape.plan.above
    return [asked(request), id_, room.shape.plan.id, sorted(takes.items()), limits,
            metered(room.route_plan, takes), list(room.tokens), *([above] if above else [])]  # fmt: skip


def read_remembered(
    name: str, now: int, found: Sequence[int], rest: list[Any], options: StoreOptions
) -> RememberedRequest:
    """Read an admission that a server remembered: its answer, and what ``remembered_of`` gave it."""
    prints, id_, plan_id, takes, limits, groups, tokens, *above = rest
    readings: list[Reading] = []
    for encoded, index, base in limits:
        empty = decode_state(encoded)
        quota = type(empty.limit) is CompiledQuota
        used = found[index] - base if quota else found[index]
        readings.append(Reading(empty.limit, used, empty.extra, empty.resets_at))
    states = [encode_state(state) for state in evaluate(readings, {}, now).states]
    until = now + options.request_ttl
    own = [above[0], "", 0] if above else []
    return decode_remembered(
        name, [until, prints, id_, "", plan_id, takes, now, states, [], [[now, groups]], tokens, *own]
    )

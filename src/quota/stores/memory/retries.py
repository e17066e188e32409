"""Calls under a request id by the compiled form: what counts an admission remembers it, in one write."""

from __future__ import annotations

from typing import Any

from ...decision import Decision, Details
from ...limit import REQUESTS
from ...operations.headroom import SeveralMeters, Told
from ...operations.idempotency import asked_for, id_of
from ...operations.request import barred, refused
from ...operations.shape import DEFAULT
from ...process.atomic import at_once
from ...process.locks import wait_for
from ...rule.entries import RememberedRequest
from .one_meter import NoMeter, OneMeter

_new = tuple.__new__  # half the time of the class


class Replayed(Told):
    """An answer that is told again, with the key and the plan as they are now. ``_answer``: the earlier one."""

    __slots__ = ("_answer",)

    _answer: Any
    limits, headers, _rows = Decision.limits, Decision.headers, Decision._rows

    def _work_out(self) -> Details:
        answer, room = self._answer, self._room
        found = answer._details() if isinstance(answer, Decision) else answer
        route, plan = room.shape.route_plan.told, room.shape.plan
        return found.changed(id=answer.id, key=room.key, plan=plan, route=route, replayed=True)  # type: ignore[no-any-return]


def take_named(  # noqa: C901, PLR0912 -- in line, as the plainest call
    own: OneMeter | NoMeter, now: int, cost: Any, api: str, route: str | None, address: str | None, scope: str | None,
    name: object, ttl: int, keep: object,
) -> Decision | None:  # fmt: skip
    """Decide a call under the request id ``name``, remembered for ``ttl`` microseconds; None where the rule must.

    ``keep``: not None of a call that would keep its slots, which is not decided here where there are any. ``own``: all
    that the key's calls ask first. As in its ``take_otherwise``, an interrupt leaves no lock taken.
    """
    if type(name) is not str or not 0 < len(name) <= 256 or not name.isprintable():
        return None
    key_entry = own.key_entry
    for room in key_entry.rooms:
        shape = room.shape
        asked = shape.plain
        if (shape.api == api and route == asked[2]) or shape.serves(api, route):
            break
    else:
        return None
    amounts = shape.standard if cost is DEFAULT else shape.asked(cost)
    if amounts is None or (keep is not None and room.slots):
        return None
    if (scope is not None or room.key.networks) and barred(room.key, address, scope):
        return None
    if type(cost) is int:
        asked = "consume", api, route, ((REQUESTS, cost),)
    elif cost is not DEFAULT or route != asked[2]:
        asked = asked_for("consume", api, route, None if cost is DEFAULT else cost)
    stripe, lock, told, mine = key_entry.stripe, own.lock, None, False
    try:
        if not lock.acquire(False):  # noqa: FBT003 -- by keyword it takes twice as long
            wait_for(lock)
        if not stripe.busy and key_entry.room is own:
            mine = stripe.busy = True
            requests = room.own.requests
            earlier = None if requests is None else requests.entries.get(name)
            if earlier is not None and earlier.until > now:
                told = None if keep is not None else _again(own, room, earlier, asked, now)  # it may have a slot
            else:
                asked = asked if asked is shape.plain else shape.share("asked", asked)
                kept = now + ttl, name, "", shape.plan.id, asked
                told = _alone(own, room, amounts, now, kept) or _take(own, room, amounts, now, kept)
            mine = stripe.busy = False
        lock.release()
    except BaseException:
        if mine:
            stripe.busy = False
        if lock._is_owned():
            lock.release()
        raise
    return told if told is None or told.allowed else refused(told, api, route)


def _again(
    own: OneMeter | NoMeter, room: SeveralMeters, earlier: RememberedRequest, asked: tuple[Any, ...], now: int
) -> Told | None:
    """Tell the answer of an earlier call of that name, where nothing changed since and nothing is due."""
    record, shape = room.own, room.shape
    _, _, _, plan_id, before, answer = earlier
    if not (
        before == asked and plan_id == shape.plan.id and shape.live
        and record.version == room.own_version and (record.holds is None or record.quiet(now))
        and (own.at if own.until else record.at) <= now < room.end  # type: ignore[union-attr] # open: one meter
    ):  # fmt: skip
        return None
    if record.refunds is not None and record.refunded(id_of(earlier)):
        return None
    decision: Replayed = Replayed()
    decision.allowed, decision._room = True, room
    decision._now = answer._now if isinstance(answer, Decision) else answer.outcome.now
    decision._answer = answer
    return decision


def _alone(
    own: OneMeter | NoMeter, room: SeveralMeters, amounts: list[int], now: int, kept: tuple[Any, ...]
) -> Told | None:
    """Admit on the key's headroom of one meter, which stays open; None where another way must be gone."""
    shape, record = room.shape, room.own
    if type(own) is not OneMeter or own.shape is not shape or not own.at <= now < own.until:
        return None
    total = own.total + amounts[0]
    if total > own.soft or shape.throttle is not None or not shape.live:
        return None
    decision: Told = Told()
    decision.allowed, decision._room = True, own
    decision._now, decision._amounts = now, amounts[0]
    decision._found = total
    remembered = _new(RememberedRequest, (*kept, decision))
    requests, until = record.requests, kept[0]
    if requests is None or requests.due is None or requests.due <= now or until <= requests.latest:
        at_once((setattr, own, "total", total), (setattr, own, "at", now), *record.remembering(remembered, now))
        return decision
    # As in ``SeveralMeters.take``: no signal is looked for in between. What comes last of all is a heap's last.
    heap, entries, one = requests.heap, requests.entries, (remembered,)
    heap += one
    entries[kept[1]] = remembered
    requests.latest = until
    own.total = total
    own.at = now
    return decision


def _take(
    own: OneMeter | NoMeter, room: SeveralMeters, amounts: list[int], now: int, kept: tuple[Any, ...]
) -> Told | None:
    """Decide by the headroom of several meters, and remember an admission."""
    decision: Told = Told()
    until = own.until
    if until:
        own.close()
    allowed = room.take(decision, amounts, now, True)  # noqa: FBT003
    if allowed:
        del decision._dry
        remembered = _new(RememberedRequest, (*kept, decision))
        at_once(*room.steps(decision._found, now), *room.own.remembering(remembered, now))
    if until:
        own.open(room.own)  # type: ignore[union-attr] # it was
    return None if allowed is None else decision

"""Reservations: spend of what is held, hold it longer, commit what was used, or give it back; and find them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any

from ..decision import Decision, Details, Reason
from ..errors import InvalidCost, ReservationClosed
from ..key import KeyOrCaller, new_token
from ..rule.charge import advanced, count, finish
from ..rule.entries import Amount, Amounts, Groups, Hold
from ..rule.limits import Outcome, RoutePlan, StoreOptions
from ..rule.record import Record
from ..rule.subject import Subject
from .idempotency import asked, remember, remembered, replay
from .request import Entry, Request, advance, check_units, required, tokens_of

_MOST_GROUPS = 16
"""Instants at which units beyond what was held were spent that are kept apart."""
_MOST_MARKS = 4
"""Handles of one reservation whose last spending is known; more than one is seldom."""


Spent = tuple[Decision, Hold]
"""All that came of a spending: the decision on it, and the reservation after it."""


def spend(request: Request, entry: Entry | None, subject: Subject | None, options: StoreOptions) -> Spent:
    """Take a part of a reservation for good; the rest stays held. ``args``: the handle and its spending's number."""
    entry, subject = required(request, entry, subject)
    hold, request, route_plan = _open(request, entry, subject, "actual")
    handle, number = request.args
    known = dict(hold.marks)
    route_plan, now = advance(request, entry, subject, options)
    takes = request.takes or {}
    if hold.decision and known.get(handle) == number:
        outcome = _outcome(subject, route_plan, {}, {}, now)
        return _decision(request, entry, subject, takes, outcome, (), hold=hold.id, replayed=True), hold
    known.pop(handle, None)
    marks = tuple([*known.items(), (handle, number)][-_MOST_MARKS:]) if hold.decision else ()
    counted: dict[str, int] = {}
    filled: dict[str, int] = {}
    for record in subject.records():
        left, counted, filled = _spend(_own(record, hold, now), takes, route_plan, now, record)
        if record is subject.key or record.held(hold.id) is not None:
            record.hold(left._replace(marks=marks))
    outcome = _outcome(subject, route_plan, counted, filled, now)
    kept = subject.key.held(hold.id) or hold
    return _decision(request, entry, subject, takes, outcome, (), hold=hold.id), kept


def extend(request: Request, entry: Entry | None, subject: Subject | None, options: StoreOptions) -> Hold:
    """Hold it for ``ttl`` from now on, or as long as it would be anyway. One that has lapsed stays so."""
    entry, subject = required(request, entry, subject)
    _, request, _ = _open(request, entry, subject)
    _, now = advance(request, entry, subject, options)
    holds = [record.held(request.id) for record in subject.records()]
    # One that lapsed a day ago is forgotten as the subject is brought to this instant.
    if holds[0] is None or any(hold is not None and not hold.still_open for hold in holds):
        raise ReservationClosed(request.id)
    until = subject.lapse_instant(now) + request.ttl
    for record, hold in zip(subject.records(), holds, strict=True):
        if hold is not None and hold.until < until:
            record.hold(hold._replace(until=until))
    return subject.key.held(request.id)  # type: ignore[return-value] # it is there


def commit(request: Request, entry: Entry | None, subject: Subject | None, options: StoreOptions) -> Decision:
    """Turn a hold into what was used: less goes back to its windows, more is recorded all the same."""
    entry, subject = required(request, entry, subject)
    earlier = remembered(subject, request)
    if earlier is not None and earlier.asked == asked(request):
        return replay(request, earlier, entry, subject)
    hold, request, route_plan = _open(request, entry, subject, "actual")
    spent = hold.gone()
    held = hold.held()
    actual = _sum(spent, held) if request.takes is None else request.takes
    for unit, units in spent.items():
        if actual.get(unit, 0) < units:
            raise InvalidCost("actual", actual.get(unit, 0), f"at least the {units} {unit} that were spent")
    rest = {unit: units - spent.get(unit, 0) for unit, units in actual.items()}
    route_plan, now = advance(request, entry, subject, options)
    groups: Groups = ()
    counted: dict[str, int] = {}
    filled: dict[str, int] = {}
    for record in subject.records():
        # A hold that lapsed may be forgotten, an account's before its key's: what was used is recorded all the same.
        own = _own(record, hold, now)
        record.release(request.id)
        left, counted, filled = _spend(own, rest, route_plan, now, record)
        if left.still_open:
            record.give_back(left.taken_at, left.takes)
        groups = groups or left.spent
    outcome = _outcome(subject, route_plan, counted, filled, now)
    decision = _decision(request, entry, subject, actual, outcome, groups)
    if request.request_id is not None:
        remember(request, decision._details(), subject, options)
    return decision


def cancel(request: Request, entry: Entry | None, subject: Subject | None, options: StoreOptions) -> None:
    """Give back what is held. One that lapsed gave itself back already. ``args``: the decision, where it is a retry."""
    entry, subject = required(request, entry, subject)
    if subject.key.held(request.id) is None and any(map(subject.key.refunded, request.args)):
        return
    hold, request, _ = _open(request, entry, subject)
    _, now = advance(request, entry, subject, options)
    for record in subject.records():
        found = record.release(request.id)
        if found is not None and found.still_open:
            record.give_back(found.taken_at, found.takes)
    if hold.decision:
        subject.key.remember_refund(hold.decision, now + options.request_ttl, now)


def find(
    request: Request, entry: Entry | None, subject: Subject | None, options: StoreOptions
) -> list[tuple[Hold, KeyOrCaller]]:
    """Return the reservation of an id, lapsed ones too; or all that are open. ``args``: whether of the account."""
    entry, subject = required(request, entry, subject)
    now = subject.instant(request.now, options)
    (shared,) = request.args
    record = advanced(subject, None, now, options).record(shared=shared)
    holds = record.holds.all() if record.holds else []
    if request.id:
        return [(hold, entry.key) for hold in holds if hold.id == request.id]
    return [(hold, entry.key) for hold in holds if hold.still_open]


def _open(request: Request, entry: Entry, subject: Subject, field: str = "") -> tuple[Hold, Request, RoutePlan | None]:
    """Find a reservation, and let the request be about its own api and route. Raises ``ReservationClosed``."""
    hold = subject.key.held(request.id)
    if hold is None:
        raise ReservationClosed(request.id)
    request = request.changed(api=hold.api, route=hold.route or None)
    plan = entry.plans.get(hold.api)
    route_plan = plan.route_plan(request.route, request.api) if plan else None
    if field:
        check_units(subject, hold.api, route_plan, request.takes or {}, field)
    return hold, request, route_plan


def _own(record: Record, hold: Hold, now: int) -> Hold:
    """A record's own form of a hold; where it has none, one that lapsed."""
    return record.held(hold.id) or hold._replace(until=now, taken_at=now, still_open=False, spent=())


def _spend(
    hold: Hold, takes: Mapping[str, int], route_plan: RoutePlan | None, now: int, record: Record
) -> tuple[Hold, dict[str, int], dict[str, int]]:
    """Take units for good of what is held, and beyond it: the hold then, what was counted anew, what buckets get."""
    held = hold.held()
    within = {unit: min(units, held.get(unit, 0)) for unit, units in takes.items()}
    beyond = {unit: units - within[unit] for unit, units in takes.items()}
    counted = beyond if hold.still_open else dict(takes)
    places = _places(hold, route_plan)
    count(record, _amounts(places, counted), now)
    spent = _spent(hold, places, within if hold.still_open else {}, counted, now)
    left = tuple([each._replace(units=each.units - within.get(each.unit, 0)) for each in hold.takes])
    left = tuple([each for each in left if each.units])
    some = {unit: units for unit, units in counted.items() if units}
    return hold._replace(takes=left, spent=spent), some, {unit: units for unit, units in beyond.items() if units}


def _spent(
    hold: Hold, places: Iterable[tuple[str, str]], within: Mapping[str, int], beyond: Mapping[str, int], now: int
) -> Groups:
    held = _added(hold.spent, hold.taken_at, _amounts(places, within))
    return _added(held, now, _amounts(places, beyond))


def spent_of(hold: Hold, actual: Mapping[str, int], now: int, route_plan: RoutePlan) -> Groups:
    """Tell what was taken for good, and when, of an open reservation of which this was used."""
    held = hold.held()
    within = {unit: min(units, held.get(unit, 0)) for unit, units in actual.items()}
    beyond = {unit: units - within[unit] for unit, units in actual.items()}
    return _spent(hold, _places(hold, route_plan), within, beyond, now)


def _instant(group: tuple[int, Amounts]) -> int:
    return group[0]


def _added(groups: Groups, at: int, part: Amounts) -> Groups:
    """Add what was taken for good at an instant. Of many instants the last ones go by when they began.

    A refund then gives no window back what was not taken in it.
    """
    if not part:
        return groups
    same = [group for group in groups if group[0] == at] or list(groups[_MOST_GROUPS - 1 :])
    if not same:
        return tuple(sorted([*groups, (at, part)], key=_instant))
    (began, had) = same[0]
    units = {amount.meter: amount.units for amount in had}
    for amount in part:
        units[amount.meter] = units.get(amount.meter, 0) + amount.units
    merged = began, tuple([Amount(*meter, number) for meter, number in units.items()])
    return tuple([merged if group is same[0] else group for group in groups])


def _places(hold: Hold, route_plan: RoutePlan | None) -> list[tuple[str, str]]:
    """Name the meters of a reservation: the api's, and its route's if it counted there when it was made."""
    parts = [hold.takes, *(part for _, part in hold.spent)]
    found = list(dict.fromkeys((amount.api, amount.route) for part in parts for amount in part))
    if not found:
        found = [(hold.api, route) for route in ("", *(route_plan.counted if route_plan is not None else ()))]
    return found


def _amounts(places: Iterable[tuple[str, str]], takes: Mapping[str, int]) -> Amounts:
    return tuple([Amount(*place, unit, units) for unit, units in takes.items() if units for place in places])


def _sum(one: Mapping[str, int], other: Mapping[str, int]) -> dict[str, int]:
    return {unit: one.get(unit, 0) + other.get(unit, 0) for unit in {**one, **other}}


def _outcome(
    subject: Subject, route_plan: RoutePlan | None, counted: Mapping[str, int], filled: Mapping[str, int], now: int
) -> Outcome:
    if route_plan is None:
        return Outcome(allowed=True, now=now, states=())
    return finish(subject, route_plan, counted, filled, now)


def _decision(
    request: Request, entry: Entry, subject: Subject, takes: Mapping[str, int], outcome: Outcome, groups: Groups,
    **more: Any,
) -> Decision:  # fmt: skip
    plan = entry.plans.get(request.api)
    more |= {"tokens": tokens_of(subject), "above": entry.above}
    more |= {"route": plan.route_plan(request.route, request.api).told if plan else ""}
    return Decision(Details(Reason.OK, new_token(), entry.key, plan, takes, outcome, groups, **more))


OPERATIONS: Mapping[str, Callable[[Request, Entry | None, Subject | None, StoreOptions], Any]] = MappingProxyType(
    {"spend": spend, "extend": extend, "commit": commit, "cancel": cancel, "reservations": find}
)

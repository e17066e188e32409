"""Close a reservation: commit what was used, or give it back."""

from __future__ import annotations

from collections.abc import Mapping

from ..decision import Decision, Details, Reason
from ..errors import ReservationClosed
from ..key import new_token
from ..rule.charge import count, finish
from ..rule.entries import Amount, Amounts, Hold
from ..rule.limits import Outcome, StoreOptions
from ..rule.subject import Subject
from .idempotency import answer_of, id_of, remembered
from .request import Entry, Request, advance, check_units, required, route_plan_of, tokens_of


def commit(request: Request, entry: Entry | None, subject: Subject | None, options: StoreOptions) -> Decision:
    """Turn a hold into what was used: less goes back to its windows, more is recorded all the same."""
    entry, subject = required(request, entry, subject)
    hold = subject.key.held(request.id)
    if hold is None:
        raise ReservationClosed(request.id)
    check_units(subject, request.api, route_plan_of(entry, request), request.takes or {}, "actual")
    route_plan, now = advance(request, entry, subject, options)
    groups: list[tuple[int, Amounts]] = []
    held: dict[str, int] = {}
    actual: Mapping[str, int] = {}
    counted: dict[str, int] = {}
    takes: Amounts = hold.takes
    for record in subject.records():
        # A hold that lapsed may be forgotten, an account's before its key's: what was used is recorded all the same.
        hold = record.release(request.id) or Hold(0, request.id, now, still_open=False, takes=takes)
        takes = hold.takes
        held = {unit: units for _, route, unit, units in takes if not route}
        actual = held if request.takes is None else request.takes
        kept, more = [], []
        for api, route in dict.fromkeys((amount.api, amount.route) for amount in takes):
            for unit in {**held, **actual}:
                units, had = actual.get(unit, 0), held.get(unit, 0) if hold.still_open else 0
                if units < had:
                    record.give_back(hold.taken_at, [Amount(api, route, unit, had - units)])
                if min(units, had):
                    kept.append(Amount(api, route, unit, min(units, had)))
                if units > had:
                    more.append(Amount(api, route, unit, units - had))
                    counted[unit] = units - had
        groups = groups or [(at, tuple(part)) for at, part in ((hold.taken_at, kept), (now, more)) if part]
        count(record, more, now)
    filled = {unit: units - held.get(unit, 0) for unit, units in actual.items() if units > held.get(unit, 0)}
    outcome = (
        finish(subject, route_plan, counted, filled, now) if route_plan else Outcome(allowed=True, now=now, states=())
    )
    plan = entry.plans.get(request.api)
    return Decision(
        Details(
            Reason.OK,
            new_token(),
            entry.key,
            plan,
            actual,
            outcome,
            tuple(groups),
            tokens=tokens_of(subject),
            above=entry.above,
            route=route_plan.told if route_plan else "",
        )
    )


def cancel(request: Request, entry: Entry | None, subject: Subject | None, options: StoreOptions) -> None:
    """Give a hold back. One that lapsed gave itself back already."""
    entry, subject = required(request, entry, subject)
    if subject.key.held(request.id) is None:
        raise ReservationClosed(request.id)
    _, now = advance(request, entry, subject, options)
    for record in subject.records():
        hold = record.release(request.id)
        if hold is not None and hold.still_open:
            record.give_back(hold.taken_at, hold.takes)
    earlier = remembered(subject, request)
    if earlier is not None and answer_of(earlier).hold == request.id:
        subject.key.remember_refund(id_of(earlier), earlier.until, now)

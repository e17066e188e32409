"""consume, peek and reserve: one rule, one path."""

from __future__ import annotations

from ..decision import Decision, Details, Reason, reason_of, refusal
from ..key import new_token
from ..rule.charge import advanced, charge, metered
from ..rule.entries import Amounts, Hold
from ..rule.limits import StoreOptions
from ..rule.subject import Subject
from .idempotency import remember, remembered, replay
from .request import Entry, Request, check_holds, check_units, reservation_id, tokens_of, usable


def consume(request: Request, entry: Entry | None, subject: Subject | None, options: StoreOptions) -> Decision:
    """consume, peek and reserve: one rule, one path."""
    reason = usable(request, entry)
    if reason is not Reason.OK or entry is None or subject is None:
        return refusal(reason, request.now, request.takes or {"requests": 1}, entry.key if entry else None)
    if (earlier := remembered(subject, request)) is not None:
        return replay(request, earlier, entry, subject)
    plan = entry.plans.get(request.api)
    if plan is None:
        return refusal(Reason.NO_PLAN, request.now, request.takes or {"requests": 1}, entry.key)
    route_plan = plan.route_plan(request.route, request.api)
    takes = route_plan.cost if request.takes is None else request.takes
    if request.takes is not None:  # the plan's own units are as many as it names
        check_units(subject, request.api, route_plan, takes)
    holding = request.op == "reserve"
    slot = holding or (request.op == "consume" and request.ttl > 0 and route_plan.slotted)
    if slot:
        check_holds(advanced(subject, route_plan, subject.instant(request.now, options), options))
    outcome = charge(subject, route_plan, takes, request.now, options, dry=request.op == "peek", slot=slot)
    if not outcome.allowed or request.op == "peek":
        return Decision(Details(reason_of(outcome), None, entry.key, plan, takes, outcome, route=route_plan.told))
    subject.key.admitted(request.api, plan.id, outcome.now, options.retention)
    counted = metered(route_plan, takes)
    groups = () if holding else ((outcome.now, counted),)
    tokens = tokens_of(subject)
    details = Details(
        reason_of(outcome), None, entry.key, plan, takes, outcome, groups, tokens, route=route_plan.told,
        above=entry.above,
    )  # fmt: skip
    if request.request_id is not None:
        details.id = new_token()
    if slot:
        _hold(request, details, subject, counted if holding else (), route_plan.counted)
    if request.request_id is not None:
        remember(request, details, subject, options)
    return Decision(details)


def _hold(request: Request, details: Details, subject: Subject, held: Amounts, counted: tuple[str, ...]) -> None:
    """Put a reservation on the records: of what was taken, or of the slots alone, which nothing is held with."""
    now = details.outcome.now
    until, id_ = subject.lapse_instant(now) + request.ttl, reservation_id(request.id, details.key)  # type: ignore[arg-type] # admitted
    details.until = until
    if request.op == "reserve":
        details.hold, remembered = id_, details.id or ""
    else:
        details.slot, remembered = id_, ""
    route = request.route or ""
    also = tuple([name for name in dict.fromkeys((*counted, details.route)) if name not in ("", route)])
    hold = Hold(
        until, id_, now, still_open=True, takes=held, api=request.api, route=route, decision=remembered,
        also=also, above=details.above,
    )  # fmt: skip
    for record in subject.records():
        record.hold(hold)

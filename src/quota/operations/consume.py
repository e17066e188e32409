"""consume, peek and reserve: one rule, one path."""

from __future__ import annotations

from ..decision import Decision, Details, Reason, reason_of, refusal
from ..key import new_token
from ..rule.charge import charge, metered, settled
from ..rule.entries import Amounts
from ..rule.limits import Terms
from ..rule.party import Party
from .idempotency import remember, remembered, replay
from .request import Entry, Request, check_holds, check_units, tokens_of, usable


def consume(request: Request, entry: Entry | None, party: Party | None, terms: Terms) -> Decision:
    """consume, peek and reserve: one rule, one path."""
    reason = usable(request, entry)
    if reason is not Reason.OK or entry is None or party is None:
        return refusal(reason, request.now, request.takes or {"requests": 1}, entry.key if entry else None)
    memo = remembered(party, request)
    if memo is not None and memo.until > request.now:
        return replay(request, memo, entry, party)
    plan = entry.plans.get(request.api)
    if plan is None:
        return refusal(Reason.NO_PLAN, request.now, request.takes or {"requests": 1}, entry.key)
    course = plan.course(request.route)
    takes = course.cost if request.takes is None else request.takes
    if request.takes is not None:  # the plan's own units are as many as it names
        check_units(party, request.api, course, takes)
    if request.op == "reserve":
        check_holds(settled(party, course, party.instant(request.now, terms), terms))
    verdict = charge(party, course, takes, request.now, terms, dry=request.op == "peek")
    if not verdict.allowed or request.op == "peek":
        return Decision(Details(reason_of(verdict), None, entry.key, plan, takes, verdict))
    counted = metered(course, takes)
    groups: tuple[tuple[int, Amounts], ...] = ((verdict.now, counted),)
    if request.op == "reserve":
        for record in party.records():
            record.hold(request.id, verdict.now + request.ttl, verdict.now, counted)
        groups = ()
    details = Details(
        reason_of(verdict), None, entry.key, plan, takes, verdict, groups, tokens_of(party), hold=request.id
    )
    if request.request_id is not None:
        details.id = new_token()
        remember(request, details, party, terms)
    return Decision(details)

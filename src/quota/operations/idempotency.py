"""An admission, remembered under its ``request_id``, and the same answer made of it again."""

from __future__ import annotations

from typing import Any

import attrs

from ..decision import Decision, Details
from ..errors import RequestMismatch
from ..rule.entries import RememberedRequest
from ..rule.limits import Terms
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

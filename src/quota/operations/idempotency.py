"""An admission, remembered under its ``request_id``, and the same answer made of it again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..decision import Decision, Details
from ..errors import RequestMismatch
from ..rule.entries import RememberedRequest
from ..rule.limits import StoreOptions
from ..rule.subject import Subject
from .request import Entry, Request

_PLAIN = ("consume",)


def asked(request: Request) -> tuple[Any, ...]:
    """Return all that a retry must have in common with the call that it repeats."""
    kind = ("reserve", request.ttl) if request.op == "reserve" else (request.op,) if request.op == "commit" else _PLAIN
    return *asked_for(kind[0], request.api, request.route, request.takes), *kind[1:]


def asked_for(kind: str, api: str, route: str | None, takes: Mapping[str, int] | None) -> tuple[Any, ...]:
    """Return the same of a call that has no time to it."""
    return kind, api, route, None if takes is None else tuple(sorted(takes.items()))


def remembered(subject: Subject, request: Request) -> RememberedRequest | None:
    """Return what is remembered under the request's id, if anything still is."""
    requests, name = subject.key.requests, request.request_id
    found = None if requests is None or name is None else requests.get(name)
    return found if found and found.until > request.now else None


def answer_of(earlier: RememberedRequest) -> Details:
    """Return the whole answer; of a call by a headroom it is worked out now."""
    answer: Any = earlier.answer
    return answer._details() if isinstance(answer, Decision) else answer


def id_of(earlier: RememberedRequest) -> str:
    """Return the decision's id; one by a headroom has none before somebody asks."""
    return earlier.id or earlier.answer.id


def remember(request: Request, details: Details, subject: Subject, options: StoreOptions) -> None:
    """Keep an admission for its retries."""
    now, plan = details.outcome.now, details.plan
    earlier = RememberedRequest(
        now + options.request_ttl,
        str(request.request_id),
        details.id or "",
        plan.id if plan else "",
        asked(request),
        details,
    )
    subject.key.remember(earlier, now)


def replay(request: Request, earlier: RememberedRequest, entry: Entry, subject: Subject) -> Decision:
    """Tell the decision of an earlier call, as it was. Raises ``RequestMismatch``."""
    if earlier.asked != asked(request):
        raise RequestMismatch(earlier.name, f"was used for another call: {list(earlier.asked)}")
    if subject.key.refunded(id_of(earlier)):
        raise RequestMismatch(earlier.name, "its charge was refunded, or its reservation cancelled")
    plan = next((plan for plan in entry.plans.values() if plan.id == earlier.plan_id), None)
    route = plan.route_plan(request.route, request.api).route if plan else ""
    answer = answer_of(earlier).changed(id=id_of(earlier), key=entry.key, plan=plan, route=route, replayed=True)
    return Decision(answer)

"""All that a refused request is answered. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable

from ...decision import Decision, Reason
from ...errors import InvalidValue
from ...headers import PROBLEM_TYPE
from ..settings import Answer

_GATEWAY = {
    401: ("Unauthorized", "UnauthorizedException"),
    403: ("Forbidden", "ForbiddenException"),
    429: ("Limit Exceeded", "LimitExceededException"),
    503: ("Service Unavailable", "ServiceUnavailableException"),
}
_THROTTLED = ("Too Many Requests", "TooManyRequestsException")


def written(decision: Decision, status: int, style: str, profile: str | None) -> tuple[dict[str, str], bytes]:
    """The headers and the body of a refusal in a style."""
    if style == "api_gateway":
        message, kind = _THROTTLED if decision.reason is Reason.THROTTLED else _GATEWAY[status]
        body = json.dumps({"message": message}, separators=(",", ":")).encode()
        return {"Content-Type": "application/json", "x-amzn-ErrorType": kind}, body
    told = decision.problem()
    if status == 401:
        told |= {"title": "Unauthorized", "status": status}
    fields = {"Content-Type": PROBLEM_TYPE, "Cache-Control": "no-store"}
    if profile is not None:
        fields |= decision.headers(profile)
    return fields, json.dumps(told, separators=(",", ":")).encode()


def challenge(sources: Iterable[str]) -> str:
    """``WWW-Authenticate``: where a key may be presented, in order; the same whatever was wrong with one."""
    schemes = []
    for source in sources:
        if source == "authorization":
            schemes.append("Bearer")
        else:
            place = "query" if source[0] == "?" else "header"
            schemes.append(f'ApiKey in="{place}", name="{source.lstrip("?")}"')
    return ", ".join(schemes) or "ApiKey"


def shaped(answer: object, method: str) -> Answer:
    """An answer with the length of its body; HEAD gets no body."""
    if not isinstance(answer, Answer) or not isinstance(answer.body, bytes):
        raise InvalidValue("refuse", answer, "an Answer(status, headers, body), or None for the usual one")
    fields = [(name, value) for name, value in answer.headers if name.lower() != "content-length"]
    fields.append(("Content-Length", str(len(answer.body))))
    return answer._replace(headers=fields, body=b"" if method == "HEAD" else answer.body)

"""What HTTP sees of a decision: headers, problem details, and where a key is found. Pure; no input surprises it."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

from .clock import to_us
from .errors import InvalidValue

if TYPE_CHECKING:
    from .decision import Decision, LimitStatus

PROFILES = ("ietf", "github", "draft03")
PROBLEM_TYPE = "application/problem+json"
LONGEST_KEY = 512
"""A presented key longer than this is unknown without being hashed."""

_LARGEST = 999_999_999_999_999
_BASE = "https://iana.org/assignments/http-problem-types#"
_UNITS = {"bytes": "content-bytes"}


def headers(decision: Decision, profile: str = "ietf") -> dict[str, str]:
    """The response headers of a decision; see ``Decision.headers``."""
    if profile not in PROFILES:
        raise InvalidValue("profile", profile, f"one of {', '.join(PROFILES)}")
    limits = decision.limits
    found = {"ietf": _ietf, "github": _github, "draft03": _draft03}[profile](decision, limits) if limits else {}
    if not decision.allowed and decision.retry_after is not None:
        found["Retry-After"] = str(decision.retry_after)
    return found


def _ietf(decision: Decision, limits: Iterable[LimitStatus]) -> dict[str, str]:
    """draft-ietf-httpapi-ratelimit-headers-10: two RFC 9651 Lists of Strings with parameters.

    ``w`` is left out where windows differ in length (months; days where clocks change); ``t`` is always exact. For a
    limit that refused, ``t`` is when this call would fit, so ``Retry-After`` never precedes it.
    """
    policies, states = [], []
    for status in limits:
        name = _string(status.name)
        policy = f"{name};q={_integer(status.limit)}"
        if status.window:
            policy += f";w={_integer(status.window)}"
        if status.unit != "requests":
            policy += f";qu={_string(_UNITS.get(status.unit, status.unit))}"
        policies.append(policy)
        states.append(f"{name};r={_integer(status.remaining)};t={_integer(_seconds_to(decision, status))}")
    return {"RateLimit-Policy": ", ".join(policies), "RateLimit": ", ".join(states)}


def _github(_: Decision, limits: Iterable[LimitStatus]) -> dict[str, str]:
    """GitHub's ``X-RateLimit-*``: the tightest limit, its reset in epoch seconds."""
    status = tightest(limits)
    reset = -(-to_us(status.resets_at) // 1_000_000)
    return {
        "X-RateLimit-Limit": str(status.limit),
        "X-RateLimit-Remaining": str(status.remaining),
        "X-RateLimit-Used": str(status.used),
        "X-RateLimit-Reset": str(reset),
        "X-RateLimit-Resource": _plain(status.name),
    }


def _draft03(decision: Decision, limits: Iterable[LimitStatus]) -> dict[str, str]:
    """Drafts 03 to 06: the tightest limit, its reset in seconds from now."""
    status = tightest(limits)
    return {
        "RateLimit-Limit": str(status.limit),
        "RateLimit-Remaining": str(status.remaining),
        "RateLimit-Reset": str(_seconds_to(decision, status)),
    }


def tightest(limits: Iterable[LimitStatus]) -> LimitStatus:
    """The limit with the smallest share left; among equals the one that resets last."""
    return min(limits, key=lambda status: (status.remaining / status.limit, -to_us(status.resets_at)))


def _seconds_to(decision: Decision, status: LimitStatus) -> int:
    reset = status.resets_at
    if status.name in decision.violated and decision.retry_at is not None:
        reset = min(reset, decision.retry_at)
    return max(0, -((decision.at - reset) // timedelta(seconds=1)))


def _integer(number: int) -> int:
    """Structured fields carry at most 15 digits (RFC 9651, section 3.3.1)."""
    return max(0, min(number, _LARGEST))


def _plain(text: str) -> str:
    """Visible ASCII: the rest is percent-encoded, as field values carry nothing else safely."""
    return "".join(c if " " <= c <= "~" and c != "%" else "".join(f"%{b:02X}" for b in c.encode()) for c in text)


def _string(text: str) -> str:
    escaped = _plain(text).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def problem(decision: Decision) -> dict[str, Any]:
    """The RFC 9457 body of a refusal; of an admission, which has none, an empty one."""
    if decision.status == 200:
        return {}
    if decision.status == 403:
        return {
            "type": "about:blank", "title": "Forbidden", "status": 403,
            "detail": "A valid API key with a usage plan is required.",
        }  # fmt: skip
    if decision.status == 503:
        return {
            "type": _BASE + "temporary-reduced-capacity", "title": "Service Unavailable", "status": 503,
            "detail": "Usage cannot be checked right now.",
        }  # fmt: skip
    names = ", ".join(decision.violated)
    never = decision.retry_at is None
    return {
        "type": _BASE + "quota-exceeded",
        "title": "Too Many Requests",
        "status": 429,
        "detail": f"Over the limit {names}; " + ("this cost can never fit." if never else "retry later."),
        "violated-policies": [_plain(name) for name in decision.violated],
        **({} if never else {"retry-after": decision.retry_after}),
    }


def find_key(
    values: Iterable[tuple[str, str]], query: str = "", *, header: str = "x-api-key", parameter: str | None = None
) -> str | None:
    """The API key that a request presents: in ``header``, as ``Authorization: Bearer``, or in a query parameter.

    ``values``: (lower-case header name, value) pairs. None when no place has one. Several different ones, or one that
    no key can be, count as an unknown key, never as an error.
    """
    found: set[str] = set()
    for name, value in values:
        if name == header == "authorization":
            kind, _, token = value.partition(" ")
            if kind.lower() == "bearer" and token.strip():
                found.add(token.strip())
        elif name == header and value.strip():
            found.add(value.strip())
    if parameter is not None and not found and len(query) <= 65536:
        found.update(value for name, value in parse_qsl(query, max_num_fields=None) if name == parameter and value)
    if not found:
        return None
    key = found.pop()
    return key if not found and len(key) <= LONGEST_KEY else "?"

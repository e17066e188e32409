"""What HTTP sees of a decision, headers and problem details; and where a request presents its key. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction
from functools import lru_cache
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote

from .charge import Line, QuotaLine
from .errors import InvalidValue

if TYPE_CHECKING:
    from .decision import Decision

PROBLEM_TYPE = "application/problem+json"
"""The media type of ``problem`` (RFC 9457)."""

UNKNOWN = "qk_" + "0" * 34
"""Stands for a presented key that none can be: its checksum is wrong, so it is refused without a look-up."""

_LARGEST = 999_999_999_999_999
_BASE = "https://iana.org/assignments/http-problem-types#"
_SECOND_US = 1_000_000
_FOREVER = 2**63
_LONGEST = 512
_LONGEST_QUERY = 65_536
_POSSIBLE = re.compile(r"[!-~]{20,128}\Z")
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,64}\Z")
_PARAMETER = re.compile(r"\?[A-Za-z0-9._~-]{1,64}\Z")

Row = tuple[Line, int, int, int, bool]
"""(limit, used, extra, when it is unused again, whether it refused): one limit after a decision, in microseconds."""


def headers(decision: Decision, profile: str = "ietf") -> dict[str, str]:
    """The response headers of a decision; see ``Decision.headers``."""
    write = _PROFILES.get(profile) if isinstance(profile, str) else None
    if write is None:
        raise InvalidValue("profile", profile, f"one of {', '.join(_PROFILES)}")
    rows = _rows(decision)
    found = write(rows, decision._now) if rows else {}
    if not decision.allowed and decision.retry_after is not None:
        found["Retry-After"] = str(decision.retry_after)
    return found


def _rows(decision: Decision) -> list[Row]:
    """Every limit after a decision. Of an admission on the fast path, without working the whole answer out.

    A limit that refused is reset, to its client, when this call would fit: so ``Retry-After`` never precedes it.
    """
    now = decision._now
    if decision.allowed and not hasattr(decision, "_full"):
        total = decision._total
        return [
            (line, total - base, extra, end, False)
            if isinstance(line, QuotaLine)
            else (line, -(-decision._level // line.scale), 0, now - -decision._level // line.drain, False)
            for line, base, extra, end in decision._frame.bounds.slots
        ]
    verdict = decision._details().verdict
    latest = _FOREVER if verdict.retry_at is None else verdict.retry_at
    return [
        (s.line, s.used, s.extra, min(s.resets_at, latest) if s.refused else s.resets_at, s.refused)
        for s in verdict.standings
    ]


def _remaining(row: Row) -> int:
    return max(0, row[0].limit + row[2] - row[1])


def _seconds(until: int, now: int) -> int:
    """Whole seconds, rounded up, never negative."""
    return max(0, -((now - until) // _SECOND_US))


def _ietf(rows: list[Row], now: int) -> dict[str, str]:
    """draft-ietf-httpapi-ratelimit-headers-10: two RFC 9651 Lists of Strings with parameters.

    ``w`` is left out where windows differ in length (months; days where clocks change); ``t`` is always exact. ``qu``
    is the limit's unit as it stands, unless it is the default, requests.
    """
    policies, states = [], []
    for line, used, extra, until, _ in rows:
        name, policy = _policy(line)
        policies.append(policy)
        left, wait = line.limit + extra - used, -((now - until) // _SECOND_US)
        if not (0 <= left <= _LARGEST and 0 <= wait <= _LARGEST):  # in line: every admission tells these
            left, wait = _integer(max(0, left)), _integer(max(0, wait))
        states.append(f"{name};r={left};t={wait}")
    return {"RateLimit-Policy": ", ".join(policies), "RateLimit": ", ".join(states)}


@lru_cache(maxsize=1024)
def _policy(line: Line) -> tuple[str, str]:
    """What never changes of a limit: its name as a String, its policy."""
    name = _string(line.name)
    window = f";w={_integer(line.length)}" if line.length else ""
    unit = f";qu={_string(line.unit)}" if line.unit != "requests" else ""
    return name, f"{name};q={_integer(line.limit)}{window}{unit}"


def _github(rows: list[Row], now: int) -> dict[str, str]:  # noqa: ARG001 -- its reset is absolute
    """GitHub's ``X-RateLimit-*`` of the tightest limit, its reset in seconds since the epoch."""
    row = _tightest(rows)
    return {
        "X-RateLimit-Limit": str(row[0].limit),
        "X-RateLimit-Remaining": str(_remaining(row)),
        "X-RateLimit-Used": str(row[1]),
        "X-RateLimit-Reset": str(_seconds(row[3], 0)),
        "X-RateLimit-Resource": _plain(row[0].name),
    }


def _draft03(rows: list[Row], now: int) -> dict[str, str]:
    """Drafts 03 to 06 of the IETF: the tightest limit, its reset in seconds from now."""
    row = _tightest(rows)
    return {
        "RateLimit-Limit": str(row[0].limit),
        "RateLimit-Remaining": str(_remaining(row)),
        "RateLimit-Reset": str(_seconds(row[3], now)),
    }


_PROFILES: dict[str, Callable[[list[Row], int], dict[str, str]]] = {
    "ietf": _ietf, "github": _github, "draft03": _draft03,
}  # fmt: skip
PROFILES = tuple(_PROFILES)


def _tightest(rows: list[Row]) -> Row:
    """One that refused before one that did not, then the smallest share left, then the latest reset, then the first."""
    return min(rows, key=lambda row: (not row[4], Fraction(_remaining(row), row[0].limit or 1), -row[3]))


def _integer(number: int) -> int:
    """Structured fields carry at most 15 digits (RFC 9651, section 3.3.1)."""
    return min(number, _LARGEST)


def _plain(text: str) -> str:
    """Printable ASCII, as field values carry it; the rest is percent-encoded, ``%`` too: names stay distinct."""
    return "".join(c if " " <= c <= "~" and c != "%" else "".join(f"%{b:02X}" for b in c.encode()) for c in text)


def _string(text: str) -> str:
    """An RFC 9651 String."""
    escaped = _plain(text).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def problem(decision: Decision) -> dict[str, Any]:
    """The RFC 9457 body of a refusal; of an admission an empty one.

    A 403 never says which way the key failed. The names in ``violated-policies`` are those of ``RateLimit-Policy``.
    """
    if decision.allowed:
        return {}
    if decision.status == 403:
        return {
            "type": "about:blank",
            "title": "Forbidden",
            "status": 403,
            "detail": "A valid API key with a usage plan is required.",
        }
    if decision.status == 503:
        return {
            "type": _BASE + "temporary-reduced-capacity",
            "title": "Temporary Reduced Capacity",
            "status": 503,
            "detail": "Usage cannot be checked right now; nothing is wrong with the request.",
        }
    seconds = decision.retry_after
    advice = "The cost can never be admitted." if seconds is None else f"Retry in {seconds} s."
    over = [f"{s.name} ({s.used} of {s.limit} {s.unit} used)" for s in decision.limits if s.name in decision.violated]
    return {
        "type": _BASE + "quota-exceeded",
        "title": "Quota Exceeded",
        "status": 429,
        "detail": f"Over {', '.join(over)}. {advice}",
        "violated-policies": [_plain(name) for name in decision.violated],
        **({} if seconds is None else {"retry-after": seconds}),
    }


def to_data(decision: Decision) -> dict[str, Any]:
    """What JSON can hold of a decision; see ``Decision.to_dict``."""
    cost, retry_at = decision.cost, decision.retry_at
    return {
        "allowed": decision.allowed, "reason": decision.reason.value, "id": decision.id, "at": decision.at.isoformat(),
        "key": decision.key.id if decision.key else None, "plan": decision.plan.id if decision.plan else None,
        "cost": {"requests": cost} if isinstance(cost, int) else dict(cost),
        "limits": [status.to_dict() for status in decision.limits], "violated": list(decision.violated),
        "over": decision.over, "crossed": [[name, percent] for name, percent in decision.crossed],
        "replayed": decision.replayed, "retry_at": None if retry_at is None else retry_at.isoformat(),
        "retry_after": decision.retry_after, "status": decision.status,
    }  # fmt: skip


def check_sources(key: str | Iterable[str]) -> tuple[str, ...]:
    """Where keys are looked for, in order: header names, in lower case, and query parameters written ``?name``.

    In the header ``authorization`` it is the token of the ``Bearer`` scheme. Raises ``InvalidValue``.
    """
    sources = (key,) if isinstance(key, str) else tuple(key) if isinstance(key, Iterable) else ()
    for source in sources:
        if not isinstance(source, str) or not (_TOKEN.match(source) or _PARAMETER.match(source)):
            raise InvalidValue("key", source, "the name of a header, or of a query parameter as in '?api_key'")
    if not sources:
        raise InvalidValue("key", key, "at least one header name, or query parameter as in '?api_key'")
    return tuple(source if source.startswith("?") else source.lower() for source in sources)


def find_key(header: Callable[[str], str | None], query: str, sources: Sequence[str]) -> tuple[str | None, str]:
    """The key that a request presents in the first of its sources that has one, and that source.

    ``header`` gives a header by its lower-case name, several lines joined by commas (RFC 9110, section 5.3): so what is
    sent twice is one unknown key. What no key can be (too short, too long, not visible ASCII) is ``UNKNOWN``, whatever
    its size. (None, "") when no source has one.
    """
    for source in sources:
        value = _parameter(query, source) if source[0] == "?" else header(source)
        if value and source == "authorization":
            value = _bearer(value)
        if value and (_POSSIBLE.match(value) or (value := _trimmed(value))):
            return value, source
    return None, ""


def _trimmed(value: str) -> str:
    """Of a value that is no key as it stands: the key without blanks around it, ``UNKNOWN``, or nothing if blank."""
    if len(value) <= _LONGEST:
        value = value.strip(" \t")
        return value if not value or _POSSIBLE.match(value) else UNKNOWN
    return UNKNOWN


def _bearer(value: str) -> str:
    """The token of ``Authorization: Bearer``; none of another scheme (RFC 6750, section 2.1)."""
    return value[7 : _LONGEST * 2].lstrip(" ") if value[:7].lower() == "bearer " else ""


def _parameter(query: str, source: str) -> str:
    """A query parameter; a plus sign stands for itself, as no key has blanks."""
    start = source[1:] + "="
    if start not in query:
        return ""
    if len(query) > _LONGEST_QUERY:
        return UNKNOWN
    values = [part[len(start) :] for part in query.split("&") if part.startswith(start)]
    if len(values) != 1 or len(values[0]) > _LONGEST:
        return UNKNOWN if values else ""
    return unquote(values[0])


def hidden(secret: str | None) -> str:
    """What logs may show of a secret: four asterisks and its last four characters, as API Gateway writes it."""
    return "****" if secret is None or secret == UNKNOWN else "****" + secret[-4:]


def hide_parameters(query: str, starts: Iterable[str], found: str = "", shown: str = "") -> str:
    """A query with the values of parameters hidden; ``starts`` are their names with ``=``.

    Of the one where the key was ``found``, ``shown`` is left: quoted, so that it ends where it ended.
    """
    hide = {start: "****" for start in starts if start in query}
    if not hide:
        return query
    if found in hide:
        hide[found] = quote(shown, safe="*")
    parts = (part.partition("=") for part in query.split("&"))
    return "&".join(name + mark + hide.get(name + mark, value) for name, mark, value in parts)

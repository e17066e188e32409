"""All that HTTP sees of a decision, headers and problem details; and where a request presents its key. Pure."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from functools import lru_cache
from typing import Any

from .errors import InvalidValue
from .rule.limits import CompiledConcurrency, CompiledLimit, CompiledThrottle, Place, Stands

PROBLEM_TYPE = "application/problem+json"
"""The media type of ``problem`` (RFC 9457)."""

_LARGEST = 999_999_999_999_999
_BASE = "https://iana.org/assignments/http-problem-types#"
_SECOND_US = 1_000_000

LimitRow = tuple[str, int, int, str]
"""(name, used, limit, unit) of a limit that refused."""

Row = tuple[CompiledLimit, int, int, int, bool]
"""(limit, used, extra, when it is unused again, whether it refused): one limit after a decision, in microseconds."""


def headers(profile: str, rows: list[Row], now: int, retry_after: int | None) -> dict[str, str]:
    """Write a decision's limits as response headers; see ``Decision.headers``. ``retry_after``: of a refusal, in s."""
    write = _PROFILES.get(profile) if isinstance(profile, str) else None
    if write is None:
        raise InvalidValue("profile", profile, f"one of {', '.join(_PROFILES)}")
    found = write(rows, now) if rows else {}
    if retry_after is not None:
        found["Retry-After"] = str(retry_after)
    return found


def rows_of(stands: Stands, now: int) -> list[Row]:
    """Tell every limit after an admission, by what its meter or bucket reads."""
    places, bases, found = stands
    rows: list[Row] = []
    for (limit, index, extra, end), base in zip(places, bases, strict=True):
        used = found[index] - base
        if type(limit) is CompiledThrottle:
            rows.append((limit, -(-used // limit.scale), 0, now - -used // limit.drain, False))
        else:
            rows.append((limit, used, extra, end or now, False))
    return rows


def told(stands: Stands, now: int) -> dict[str, str]:
    """Write what ``_ietf`` does of an admission: nothing that is the same for all calls of a window is written anew."""
    places, bases, found = stands
    try:
        policies, lines = _known[places]
    except KeyError:
        policies, lines = _learn(places)
    states = ""
    for number, index, whole, limit, late, name in lines:
        used = found[index] - bases[number]
        if late:
            left, wait = whole - used, (late - now) // 1_000_000
            if not 0 <= left <= 999_999_999_999_999:
                left = _integer(max(0, left))
            state = f"{name}{left};t={wait}"
        elif type(limit) is CompiledThrottle:
            left, wait = whole + -used // limit.scale, _seconds(now - -used // limit.drain, now)
            state = f"{name}{_integer(max(0, left))};t={_integer(wait)}"
        else:
            state = f"{name}{_integer(max(0, whole - used))}"
        states = f"{states}, {state}" if states else state
    return {"RateLimit-Policy": policies, "RateLimit": states} if states else {}


_known: dict[tuple[Place, ...], tuple[str, list[tuple[int, int, int, Any, int, str]]]] = {}


def _learn(places: tuple[Place, ...]) -> tuple[str, list[Any]]:
    """Return all policies, and what never changes of each limit in a window: its name, up to what is left of it."""
    if len(_known) > 1024:
        _known.clear()
    lines = [
        (number, index, limit.limit + extra, limit, end and end + _SECOND_US - 1, f"{_policy(limit)[0]};r=")
        for number, (limit, index, extra, end) in enumerate(places)
    ]
    return _known.setdefault(places, (", ".join([_policy(place[0])[1] for place in places]), lines))


def _remaining(row: Row) -> int:
    return max(0, row[0].limit + row[2] - row[1])


def _seconds(until: int, now: int) -> int:
    """Whole seconds, rounded up, never negative."""
    return max(0, -((now - until) // _SECOND_US))


def _ietf(rows: list[Row], now: int) -> dict[str, str]:
    """draft-ietf-httpapi-ratelimit-headers-10: two RFC 9651 Lists of Strings with parameters.

    ``w`` is left out where windows differ in length (months; days where clocks change); ``t`` is always exact, and
    left out of calls in flight, which end when they end. ``qu`` is the limit's unit as it stands, unless it is the
    default, requests.
    """
    policies, states = [], []
    for limit, used, extra, until, _ in rows:
        name, policy = _policy(limit)
        policies.append(policy)
        if type(limit) is CompiledConcurrency:
            states.append(f"{name};r={_integer(max(0, limit.limit - used))}")
            continue
        left, wait = limit.limit + extra - used, -((now - until) // _SECOND_US)
        if not (0 <= left <= _LARGEST and 0 <= wait <= _LARGEST):  # in line: every admission tells these
            left, wait = _integer(max(0, left)), _integer(max(0, wait))
        states.append(f"{name};r={left};t={wait}")
    return {"RateLimit-Policy": ", ".join(policies), "RateLimit": ", ".join(states)}


@lru_cache(maxsize=1024)
def _policy(limit: CompiledLimit) -> tuple[str, str]:
    """Return what never changes of a limit: its name as a String, its policy."""
    name = _string(limit.told)
    window = f";w={_integer(limit.length)}" if limit.length else ""
    unit = f";qu={_string(limit.unit)}" if limit.unit != "requests" else ""
    return name, f"{name};q={_integer(limit.limit)}{window}{unit}"


def _github(rows: list[Row], now: int) -> dict[str, str]:  # noqa: ARG001 -- its reset is absolute
    """GitHub's ``X-RateLimit-*`` of the tightest limit, its reset in seconds since the epoch."""
    row = _tightest(rows)
    return {
        "X-RateLimit-Limit": str(row[0].limit),
        "X-RateLimit-Remaining": str(_remaining(row)),
        "X-RateLimit-Used": str(row[1]),
        "X-RateLimit-Reset": str(_seconds(row[3], 0)),
        "X-RateLimit-Resource": _plain(row[0].told),
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


def problem(status: int, over: list[LimitRow], retry_after: int | None) -> dict[str, Any]:
    """Write the RFC 9457 body of a refusal, by its status, from the limits that refused and when to retry.

    A 403 never says which way the key failed. The names in ``violated-policies`` are those of ``RateLimit-Policy``.
    """
    if status == 403:
        return {
            "type": "about:blank",
            "title": "Forbidden",
            "status": 403,
            "detail": "A valid API key with a usage plan is required.",
        }
    if status == 503:
        return {
            "type": _BASE + "temporary-reduced-capacity",
            "title": "Temporary Reduced Capacity",
            "status": 503,
            "detail": "Usage cannot be checked right now; nothing is wrong with the request.",
        }
    seconds = retry_after
    advice = "The cost can never be admitted." if seconds is None else f"Retry in {seconds} s."
    told = [f"{name} ({used} of {limit} {unit} used)" for name, used, limit, unit in over]
    return {
        "type": _BASE + "quota-exceeded",
        "title": "Quota Exceeded",
        "status": 429,
        "detail": f"Over {', '.join(told)}. {advice}",
        "violated-policies": [_plain(name) for name, *_ in over],
        **({} if seconds is None else {"retry-after": seconds}),
    }

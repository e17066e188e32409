"""The text form of limits: read here, written by ``str()`` of a limit.

1000/day, 50000/month in Europe/Paris, 10/s burst 20, 90000 tokens/minute by account as budget, 5 concurrent
"""

from __future__ import annotations

import re
from typing import Any

from .errors import InvalidPlan
from .limit import _PER_US, REQUESTS, Concurrency, Limit, Quota, Throttle, check_distinct
from .period import WORDS
from .rule.limits import MAX_UNITS

_HEAD = re.compile(r"\s*(?P<amount>[^\s/]+(?:/[0-9]+(?=/|\s))?)(?:\s+(?P<unit>[^\s/]+))?\s*/\s*(?P<rest>.*)", re.DOTALL)
_SLOTS = re.compile(r"\s*(?P<amount>[^\s/]+)\s+concurrent(?P<rest>|\s+[^\s/].*)\Z", re.DOTALL)
_OPTIONS = frozenset({"burst", "overage", "by", "as"})
_SPOKEN = r"\s*([0-9.]{1,16})\s+(?:(\S{1,64})\s+)?(?:per|each|every|an?)\s+(?:1\s+)?([A-Za-z]{1,9})\s*"
_ELSEWHERE = r"[;|&\n]|\band\b"
_LONGEST = 16_384
_EXPECTED = "limits such as '1000/day', '50000 tokens/month in Europe/Paris', '10/s burst 20' or '5 concurrent'"


def parse_limits(text: str) -> tuple[Limit, ...]:
    """Limits from their text form; an error points at the character where it went wrong."""
    limits: list[Limit] = []
    at = 0
    if not text.strip():
        raise InvalidPlan("limits", text, f"{_EXPECTED}, separated by ','; a plan without limits has limits=()")
    if len(text) > _LONGEST:
        raise InvalidPlan("limits", f"{len(text)} characters", f"at most {_LONGEST}")
    for part in text.split(","):
        try:
            limits.append(parse_limit(part))
        except InvalidPlan as error:
            shown = str(error.value)
            inside = part.find(shown) if shown else len(part.rstrip())  # what is missing is missing at the end
            column = at + (inside if inside >= 0 else len(part) - len(part.lstrip())) + 1
            accepted = error.accepted + (", and ',' between limits" if re.search(_ELSEWHERE, part) else "")
            raise InvalidPlan(f"limits, character {column} ({error.field})", error.value, accepted) from None
        at += len(part) + 1
    check_distinct("limits", limits)
    return tuple(limits)


def parse_limit(text: str) -> Limit:
    """One limit from its text form, as ``str()`` of a limit writes it."""
    head = _SLOTS.match(text.rstrip())
    if head is not None:
        return _parse_concurrency(head["amount"], head["rest"])
    head = _HEAD.match(text)
    if head is None:
        spoken = re.match(_SPOKEN, text)
        unit = WORDS.get(spoken[3].lower()) if spoken else None
        amount = " ".join(filter(None, spoken.groups()[:2])) if spoken else ""
        raise InvalidPlan("limit", text.strip(), f"'{amount}/{unit}'" if unit else _EXPECTED)
    period, options = _split_options(head["rest"])
    amount, unit = head["amount"], head["unit"] or REQUESTS
    common: dict[str, Any] = {"unit": unit, "by": options.get("by", "key"), "name": options.get("as")}
    per = WORDS.get(period, period)
    if "burst" in options or per == "second":
        if "overage" in options:
            raise InvalidPlan("overage", options["overage"], "no overage: a throttle has none")
        if per not in _PER_US:
            raise InvalidPlan("per", period, "second, minute, hour or day before 'burst'")
        burst = _digits("burst", options["burst"]) if "burst" in options else None
        if re.fullmatch(r"[0-9]+(\.[0-9]+|/[0-9]+)?", amount) is None:
            raise InvalidPlan("rate", amount, "zero or a positive number such as 10, 0.5 or 1/3")
        return Throttle(amount, per, burst=burst, **common)  # type: ignore[arg-type] # the converters' types
    overage = _digits("overage", options.get("overage", "0"))
    return Quota(_digits("limit", amount), period, overage=overage, **common)  # type: ignore[arg-type, unused-ignore] # its converter's


def _parse_concurrency(amount: str, rest: str) -> Concurrency:
    more, options = _split_options(f" {rest}")
    if more or not options.keys() <= {"by", "as"}:
        wrong = more or next(option for option in options if option not in ("by", "as"))
        raise InvalidPlan("limit", wrong, "'by account', 'as NAME' or nothing behind 'concurrent'")
    return Concurrency(_digits("limit", amount), by=options.get("by", "key"), name=options.get("as"))  # type: ignore[arg-type] # its default's


def _split_options(rest: str) -> tuple[str, dict[str, str]]:
    """The period, and the options behind it; a name goes on to the end."""
    marks: list[re.Match[str]] = []
    for word in re.finditer(r"\S+", rest):
        if word.start() and word[0] in _OPTIONS:
            marks.append(word)
            if word[0] == "as":
                break
    ends = [*(mark.start() for mark in marks), len(rest)]
    options: dict[str, str] = {}
    for mark, end in zip(marks, ends[1:], strict=True):
        if mark[0] in options:
            raise InvalidPlan("limit", mark[0], "each option once")
        options[mark[0]] = rest[mark.end() : end].strip()
    return rest[: ends[0]].strip(), options


def _digits(field: str, text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 16:
        raise InvalidPlan(field, text, f"a whole number, at most {MAX_UNITS}")
    return int(text)

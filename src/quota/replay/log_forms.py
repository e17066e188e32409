"""Lines that are neither combined format nor one JSON object: what stands in front, other forms, several at once."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

from .log_fields import address

_COLOUR = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_HOST = re.compile(r"[\w-]*[A-Za-z0-9][\w.-]*", re.ASCII)
_WHEN = r"(?P<time>\d\d/\w{3}/\d{4}:\d\d:\d\d:\d\d [+-]\d{4})"
_FORMS = (
    re.compile(  # an AWS load balancer's, classic too
        r"(?:(?:https?|h2|grpcs?|wss?) )?(?P<time>\d{4}-\d\d-\d\dT[\d:.]+Z) \S+ (?P<ip>\S+) \S+ (?:-?[\d.]+ ){3}"
        r"(?:\d+|-) (?:\d+|-) \d+ (?P<bytes>\d+) \"(?P<request>[^\"]*)\".*"
    ),
    re.compile(  # API Gateway's CSV, of a REST and of an HTTP API
        rf"(?:\d\S+Z )?(?P<ip>[\w.:]+),(?:[^,]*,(?P<user>[^,]*),)?{_WHEN},(?P<method>[A-Z]+|-),(?P<path>[^,]*),"
        r"[^,]*,(?:\d+|-)(?:,(?P<bytes>\d+|-))?(?:,.*)?"
    ),
)
_TAG = re.compile(r"<(\w+)>([^<]*)</\1>")
_CELL = re.compile(r'"[^"]*"|\S+')
_MOST_WORDS = 64
_MOST_BROKEN = 64
_LISTS = ("Records", "records", "logEvents", "events", "value")
WRAPPERS = ("log", "message", "MESSAGE", "textPayload", "msg")
"""Fields that hold a whole line, as a container's or a collector's JSON does."""


def _no_number(constant: str) -> None:
    raise ValueError(constant)


_DECODER = json.JSONDecoder(parse_float=Decimal, parse_constant=_no_number)


def bare(line: str) -> str:
    """A line without colours, and without what ``cat`` and log rotation leave in front: NULs, byte order marks."""
    line = line.lstrip("\0\ufeff \t")
    return _COLOUR.sub("", line) if "\x1b" in line else line


def front(text: str) -> tuple[str, str] | None:
    """Client and user by what stands before a line's ``[time]``; None where it is no request's.

    ``ADDRESS IDENT USER`` is what should be there. A host, a time, a container's name and the like may come before
    it, a user's name may have blanks, and the address may be a list of proxies that begins with who asked. The client
    is ``-`` where two have an equal claim, or none.
    """
    words = text.split()
    last = len(words) - 3
    if not 0 <= last < _MOST_WORDS:
        return None
    there = [at for at in range(last + 1) if address(words[at])]
    if there:
        at = last if last in there else there[-1] if words[there[-1] + 1] == "-" else 0
        first = at
        while first and words[first - 1].endswith(","):
            first -= 1
        rival = first >= 2 and words[first - 1] == "-" and first - 2 in there
        client = None if rival else address(words[first])
        return client or "-", " ".join(words[at + 2 :]).removeprefix("- ")
    if words[-2] == "-" and _HOST.fullmatch(words[last]) and (not last or "." in words[last]):
        return words[last], words[-1]
    if _HOST.fullmatch(words[0]) and (not last or words[1] == "-"):
        return words[0], " ".join(words[2:])
    return "-", words[-1]


def load(text: str) -> Any:
    """JSON, numbers exactly. Raises ``ValueError`` for anything else, nesting or exponents without end too."""
    try:
        return _DECODER.decode(text)
    except (RecursionError, ArithmeticError):
        raise ValueError(text) from None


def row_of(line: str, columns: list[str] | None) -> dict[str, Any]:
    """The fields of a line in another form.

    API Gateway's XML and CSV, a load balancer's, W3C's under its columns, JSON with something in front.

    Raises:
        ValueError: when it is none of these.
    """
    if "<request " in line:
        return {name: html.unescape(text) for name, text in _TAG.findall(line)}
    for form in _FORMS:
        if found := form.fullmatch(line):
            return found.groupdict()
    if columns is not None:
        cells = line.split("\t") if "\t" in line else _CELL.findall(line)
        if len(cells) == len(columns):
            return dict(zip(columns, (cell.strip('"') for cell in cells), strict=True))
    row = load(line[line.index("{") :])
    if not isinstance(row, dict):
        raise ValueError(line)  # noqa: TRY004 -- a line that is no request, whatever is wrong with it
    return row


def columns_of(line: str) -> list[str] | None:
    """The columns that a W3C log names in a line of its own; None for another comment."""
    name, _, columns = line.partition(":")
    return columns.lower().split() if name.lower() == "#fields" else None


def several(line: str) -> Iterator[tuple[Any, str]]:
    """The JSON objects of a line that has more than one, each with its text.

    ``{..}{..}``, ``[{..}, {..}]``, ``{..},`` or an object with a list of them. None in place of one that is broken;
    nothing of a bracket alone.

    Raises:
        ValueError: when there is not a single one.
    """
    at, found, broken = _next(line, 0), 0, 0
    if line.strip() in ("[", "]", "],"):
        return
    if line[at : at + 1] not in ("{", "["):
        raise ValueError(line)
    while at < len(line):
        start = at
        try:
            value, at = _DECODER.raw_decode(line, at)
        except (ValueError, RecursionError, ArithmeticError):
            broken += 1
            if not found:
                raise ValueError(line) from None
            yield None, line[start:]
            at = (line.find("}{", start) + 1) or len(line)
            if broken == _MOST_BROKEN:  # each try may read to the line's end
                return
            continue
        for inner in _listed(value):
            found += 1
            yield inner, line[start:at]
        at = _next(line, at)
    if not found:
        raise ValueError(line)


def _listed(value: Any) -> list[Any]:
    if isinstance(value, dict):
        value = next((value[name] for name in _LISTS if isinstance(value.get(name), list)), value)
    return value if isinstance(value, list) else [value]


def _next(line: str, at: int) -> int:
    while at < len(line) and line[at] in ", \t\r\0\ufeff":
        at += 1
    return at


_LOOKS = tuple((re.compile(pattern), what) for pattern, what in (
    (r"\S+ \S+ \[\d\d/\w{3}/\d{4}:[\d:]+ [+-]\d{4}\] \S+ \S+ \S+ [A-Z]+\.", "an access log of S3"),
    (r"\d{4}/\d\d/\d\d \d\d:\d\d:\d\d \[\w+\]", "an error log of nginx, not an access log"),
    (r"\[\w{3} \w{3} \d\d [\d:.]+ \d{4}\] \[", "an error log of Apache, not an access log"),
    (r"\w+:\s+\S+:\d+ - \"[A-Z]+ ", "the console of uvicorn, whose lines have no time"),
    (r".*haproxy\[\d+\]: ", "a log of HAProxy in its own format"),
    (r"\d \d{12} eni-", "a flow log of a network"),
    (r"\s*[{\[]\s*$|\s+\"[^\"]+\":\s", "JSON over several lines; one request a line is needed, as jq -c prints it"),
    (r"(?:\S+=(?:\"[^\"]*\"|\S*) ?){3,}", "lines of name=value"),
    (r"<\?xml|<\w", "XML"),
    (r"(?:[^,\s]+,){2,}", "CSV"),
    (r"[^\x00]*\x00|.*[\ufffd\x01-\x08]", "not text"),
))  # fmt: skip


def guess(line: str) -> str:
    """A line that is not understood, in words: what it looks like, its fields if it is JSON; else nothing."""
    text = bare(line)
    try:
        row = next(several(text))[0] if text.startswith(("{", "[")) else None
    except (ValueError, StopIteration):
        row = None
    if isinstance(row, dict) and row:
        return f"JSON with the fields {', '.join(map(str, list(row)[:20]))}"
    return next((what for pattern, what in _LOOKS if pattern.match(line)), "")

"""Access logs, line by line: combined and common format, JSON lines and other forms. No line is fatal."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ..errors import InvalidValue
from .log_fields import (
    ALIASES,
    MINUTES,
    SECONDS,
    Places,
    day_and_clock,
    early_us,
    first_told,
    header,
    host,
    instant_us,
    midnight_us,
    places,
    told,
    values,
    whole,
)
from .log_forms import WRAPPERS, bare, columns_of, front, load, row_of, several

Row = re.Match[str] | dict[str, Any]
"""One request, as it was told: the match of a text line, or the fields of another."""

Request = tuple[int, str | None, Row]
"""Microseconds since the epoch, who asked (None: nobody that the key names), and the row."""

_QUOTED = r'"([^"\\]*+(?:\\.[^"\\]*+)*+)"'
_REST = (
    rf"\[(\d\d/\w{{3}}/\d{{4}}):(\d\d:\d\d):([0-5]\d|60) ([+-]\d{{4}})\] ?+"
    rf"{_QUOTED} (\d\d\d|-) (-?\d++|-)"
)  # fmt: skip
_TEXT = re.compile(rf"([\w.:%-]++) - (\S++) {_REST}", re.ASCII)
_CAREFUL = re.compile(rf"(\S++) - (.*?) {_REST}", re.ASCII | re.DOTALL)
_AFTER = re.compile(_REST, re.ASCII)
_IP, _USER, _DAY, _MINUTE, _SECOND, _ZONE, _REQUEST, _STATUS, _SIZE = range(1, 10)
_HEADERS = re.compile(rf" {_QUOTED} {_QUOTED}")
_ABSOLUTE = re.compile(r"[a-z][a-z0-9+.-]*://[^/?#]*", re.IGNORECASE)
_HOST = re.compile(r"^(?:[A-Z]+ )*[a-z][a-z0-9+.-]*://([^/?# ]+)", re.IGNORECASE)
_PORT = re.compile(r":\d+$")


def field_of(text: str) -> tuple[str, str]:
    """``time=when`` as a pair for ``Parser``'s ``fields``. Raises ``InvalidValue`` for anything else."""
    name, separator, where = text.partition("=")
    if not separator or not name or not where:
        raise InvalidValue("field", text, "NAME=WHERE, such as time=requestTimeEpoch or ip=client.address")
    return name, where


class Parser:
    """Lines to requests: ``(time, client, row)``.

    ``key``: ``ip``, ``user``, ``path``, ``header:NAME``, ``field:NAME`` or ``re:PATTERN`` (its first group, on the
    whole line). A text line knows the headers Referer and User-Agent, a JSON line any field; ``a.b`` is field ``b``
    of object ``a``. ``fields`` says where a JSON line has ``time``, ``ip``, ``user``, ``method``, ``path``, ``host``,
    ``bytes`` or another unit, where it is not found by itself. An ``ip`` is an address or a host without its port. A
    log whose columns are named by a line of its own (W3C) has a parser of its own.

    Raises:
        InvalidValue: for a ``key`` that names no client.
    """

    def __init__(self, key: str = "ip", fields: Mapping[str, str] | None = None) -> None:
        given = {name: (where,) for name, where in (fields or {}).items()}
        self._names = {name: places(names) for name, names in {**ALIASES, **given}.items()}
        self._when = self._names["time"]
        self._of_text, self._of_row = self._clients(key)
        self._columns: list[str] | None = None
        self._day, self._zone, self._day_us = "", "", 0
        self._stamp: tuple[object, int] = (object(), 0)
        self.measured: set[str] = set()
        """Units that a row had so far, see ``units``."""
        self.uncountable: Counter[str] = Counter()
        """The number of times that a row had something else there than a number of units that can be counted."""

    def __call__(self, line: str) -> Request:
        """The request of a line.

        Raises:
            ValueError: when it is no request in a known format.
        """
        found = _TEXT.match(line)
        if found is None:
            other = self._other(line)
            if isinstance(other, tuple):
                return other
            found = other
        day, zone = found[_DAY], found[_ZONE]
        if day != self._day or zone != self._zone:
            self._day_us = midnight_us(day, zone)
            self._day, self._zone = day, zone
        try:
            now = self._day_us + MINUTES[found[_MINUTE]] + SECONDS[found[_SECOND]]
        except KeyError:
            raise ValueError(line) from None
        return now, self._of_text(found, line), found

    def _other(self, line: str) -> Request | re.Match[str]:
        text = bare(line)
        if text.startswith("{"):
            return self._row(load(text), line)
        if text.startswith("#"):
            self._columns = columns_of(text) or self._columns
            raise ValueError(line)
        rest = _AFTER.search(text)
        before = front(text[: rest.start()]) if rest else None
        if rest and before:
            found = _CAREFUL.match(f"{before[0]} - {before[1]} {text[rest.start() :]}")
            if found:
                return found
        return self._row(row_of(text.rstrip(), self._columns), line)

    def several(self, line: str) -> Iterator[Request | None]:
        """The requests of a line that is not understood as one, since it has more; None for each that is broken.

        Raises:
            ValueError: when there are none in it.
        """
        for row, text in several(line):
            try:
                yield self._row(row, text)
            except ValueError:
                yield None

    def _row(self, row: Any, line: str) -> Request:
        if not isinstance(row, dict):
            raise ValueError(line)  # noqa: TRY004 -- a line that is no request, whatever is wrong with it
        for name in WRAPPERS:
            inner = row.get(name)
            if isinstance(inner, str) and ("[" in inner or "{" in inner) and not first_told(row, self._names["ip"]):
                try:
                    return self(inner.rstrip("\r\n"))
                except ValueError:
                    continue
        return self._instant(row), self._of_row(row, line), row

    def _instant(self, row: dict[str, Any]) -> int:
        early = None
        for stamp in values(row, self._when):
            if stamp == self._stamp[0]:
                return self._stamp[1]
            try:
                now = instant_us(stamp)
            except (ValueError, ArithmeticError):
                early = early_us(stamp) if early is None else early
                continue
            self._stamp = (stamp, now)
            return now
        apart = day_and_clock(row)
        if apart is not None:
            return instant_us(apart)
        if early is None:
            raise ValueError(row)
        return early

    def request(self, row: Row) -> tuple[str, str]:
        """Method and path of a request, without its query; the path is the route's template where the log has it."""
        if isinstance(row, re.Match):
            method, path = _split(row[_REQUEST])
        else:
            method, path = first_told(row, self._names["method"]) or "", ""
            for value in values(row, self._names["path"]):
                said, found = _split(told(value) or "")
                method = method or said
                path = path if path and path != "$default" else found or path
        return method.upper() or "GET", path

    def host(self, row: Row, line: str) -> str | None:
        """The host that was asked, in small letters and without its port; a text line may have it in front."""
        if isinstance(row, re.Match):
            said, found = _HOST.search(row[_REQUEST]), None if row.string is line else bare(line).split(maxsplit=1)[0]
        else:
            paths = (told(value) or "" for value in values(row, self._names["path"]))
            said = next((url for path in paths if (url := _HOST.search(path))), None)
            found = first_told(row, self._names["host"]) or header(row, "Host")
        found = said[1] if said else found
        return None if found is None else _PORT.sub("", found.lower()).rstrip(".")

    def text(self, row: Row, name: str) -> str | None:
        """A field of a JSON line; None where it has none."""
        return None if isinstance(row, re.Match) else first_told(row, self._places(name))

    def units(self, row: Row, unit: str) -> int:
        """Return how many of a unit the log says the request took: ``bytes``, of a JSON line any whole number.

        Else 0.
        """
        if isinstance(row, re.Match):
            value: Any = row[_SIZE] if unit == "bytes" else None
        else:
            value = next(iter(values(row, self._places(unit))), None)
        try:
            units = whole(value)
        except (ValueError, ArithmeticError):
            self.uncountable[unit] += 1
            return 0
        if units is None:
            return 0
        self.measured.add(unit)
        return units

    def _places(self, name: str) -> Places:
        return self._names.get(name) or self._names.setdefault(name, places((name,)))

    def _clients(self, key: str) -> tuple[_OfText, _OfRow]:
        """Return how a client is told from a text line's match, and from a row of fields."""
        kind, _, name = key.partition(":") if isinstance(key, str) else ("", "", "")
        if key == "path":
            return (lambda found, _: self.request(found)[1] or None), (lambda row, _: self.request(row)[1] or None)
        if key == "ip":
            ip = self._names["ip"]
            return _ip_of_text, (lambda row, _: host(first_told(row, ip)))
        if key == "user":
            user = self._names["user"]
            return (lambda found, _: told(found[_USER].rstrip())), (lambda row, _: first_told(row, user))
        if kind == "re" and name:
            search = _pattern(key, name)
            return (lambda _, line: search(line)), (lambda _, line: search(line))
        if kind == "header" and name:
            return _header_of_text(name), (lambda row, _: header(row, name))
        if kind == "field" and name:
            where = self._places(name)
            return _field_of_text(name), (lambda row, _: first_told(row, where))
        raise InvalidValue("key", key, "ip, user, path, header:NAME, field:NAME or re:PATTERN")


_OfText = Callable[[re.Match[str], str], str | None]
_OfRow = Callable[[dict[str, Any], str], str | None]


def _split(request: str) -> tuple[str, str]:
    """``GET /pets?q HTTP/1.1``, ``GET /pets``, ``/pets`` or a whole URL, as method and path; ANY is no method."""
    words, method = request.removeprefix("-").split(" "), ""
    while (len(words) > 1 and words[0].isalpha()) or words[0].isupper():  # an HTTP API's line has two: GET ANY /pets
        method = method or words[0].replace("ANY", "")
        words = words[1:] or [""]
    url = _ABSOLUTE.match(words[0])
    path = (words[0][url.end() :] or "/") if url else words[0]
    return method, path.partition("?")[0]


def _ip_of_text(found: re.Match[str], _: str) -> str | None:
    ip = found[_IP]
    return host(ip) if ":" in ip or ip == "-" else ip


def _pattern(key: str, pattern: str) -> Callable[[str], str | None]:
    try:
        compiled = re.compile(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        raise InvalidValue("key", key, f"re: and a regular expression ({error})") from None
    group = 1 if compiled.groups else 0

    def search(line: str) -> str | None:
        found = compiled.search(line)
        return found[group] if found else None

    return search


def _header_of_text(name: str) -> _OfText:
    group = {"referer": 1, "user-agent": 2}.get(name.lower())
    if group is None:
        return lambda _found, _line: None

    def header_of(found: re.Match[str], _: str) -> str | None:
        headers = _HEADERS.match(found.string, found.end())
        return told(headers[group]) if headers else None

    return header_of


def _field_of_text(name: str) -> _OfText:
    text = {"ip": _IP, "user": _USER, "status": _STATUS, "size": _SIZE, "bytes": _SIZE, "request": _REQUEST}.get(name)
    if text is None:
        return lambda _found, _line: None
    return lambda found, _: told(found[text].rstrip())

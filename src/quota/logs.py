"""Access logs, line by line: combined and common format, JSON lines, gzip, standard input. No line is fatal."""

from __future__ import annotations

import gzip
import io
import json
import re
import sys
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any

from .clock import to_us
from .errors import InvalidValue

Row = re.Match[str] | dict[str, Any]
"""One request, as it was told: the match of a text line, or the fields of a JSON line."""

_CHUNK = 1 << 18
_LONGEST = 1 << 20
_QUOTED = r'"([^"\\]*+(?:\\.[^"\\]*+)*+)"'
_TEXT = re.compile(
    rf"(\S++) \S++ ([^\[]++)\[(\d\d/\w{{3}}/\d{{4}}):(\d\d:\d\d):([0-5]\d|60) ([+-]\d{{4}})\]"
    rf" {_QUOTED} (\d\d\d|-) (\d++|-)",
    re.ASCII,
)
_IP, _USER, _DAY, _MINUTE, _SECOND, _ZONE, _REQUEST, _STATUS, _SIZE = range(1, 10)
_HEADERS = re.compile(rf" {_QUOTED} {_QUOTED}")
_MONTHS = {"JanFebMarAprMayJunJulAugSepOctNovDec"[at : at + 3]: at // 3 + 1 for at in range(0, 36, 3)}
_SECONDS = {f"{second:02d}": second * 1_000_000 for second in range(61)}
_MINUTES = {f"{hour:02d}:{minute:02d}": (hour * 60 + minute) * 60_000_000 for hour in range(24) for minute in range(60)}
_EPOCH = re.compile(r"\d{9,19}(\.\d{1,9})?", re.ASCII)
_LOCAL = re.compile(r"(\d\d/\w{3}/\d{4}):(\d\d:\d\d):([0-5]\d|60) ([+-]\d{4})", re.ASCII)
_LAST_US = 253_402_214_400_000_000
ALIASES = {
    "time": ("time", "timestamp", "@timestamp", "ts", "datetime", "date", "time_local", "requestTimeEpoch", "msec"),
    "ip": ("ip", "remote_addr", "client_ip", "remote_ip", "clientip", "sourceIp", "client", "request.remote_ip"),
    "user": ("user", "remote_user", "username", "user_id"),
    "method": ("method", "request_method", "httpMethod", "verb", "request.method"),
    "path": ("path", "uri", "request_uri", "url", "resourcePath", "request.uri"),
    "bytes": ("bytes", "size", "body_bytes_sent", "bytes_sent", "responseLength"),
}
"""Where the fields of a JSON line are looked for: nginx, Caddy, API Gateway and others write them so."""


class LogFile:
    """The lines of an open log, unpacked when it is gzip (told by its first bytes). ``size`` is None for a pipe."""

    def __init__(self, name: str, raw: io.BufferedReader, size: int | None) -> None:
        self.name = name
        self.size = size
        self._raw = raw
        self._rest = b""

    @property
    def position(self) -> int:
        """Bytes of the file read so far, packed as they are."""
        return self._raw.tell()

    def __iter__(self) -> Iterator[str]:
        try:
            yield from self._lines()
        except (EOFError, OSError, zlib.error) as error:
            raise _unreadable(self.name, error) from None

    def _lines(self) -> Iterator[str]:
        packed = self._raw.peek(2)[:2] == b"\x1f\x8b"
        stream: Any = gzip.GzipFile(fileobj=self._raw) if packed else self._raw
        rest, first = b"", True
        while chunk := stream.read1(_CHUNK):
            if first:
                chunk, first = chunk.removeprefix(b"\xef\xbb\xbf"), False
            whole, found, end = chunk.rpartition(b"\n")
            if found:
                text = (rest + whole).decode("utf-8", "replace")
                yield from (text.replace("\r\n", "\n").removesuffix("\r") if "\r" in text else text).split("\n")
                rest = end
            else:
                rest = (rest + end)[:_LONGEST]  # a line without end is cut, not kept in memory
        if rest:
            yield rest.decode("utf-8", "replace")


def _unreadable(name: str, error: Exception) -> InvalidValue:
    reason = getattr(error, "strerror", None) or str(error)
    return InvalidValue("log", name, f"a log file that can be read ({reason})")


@contextmanager
def open_log(path: str) -> Iterator[LogFile]:
    """Open a log; ``-`` is standard input.

    Raises:
        InvalidValue: when there is no such file or it cannot be read; reading on raises it too (gzip cut short).
    """
    if path == "-":
        stdin: Any = sys.stdin.buffer
        yield LogFile(path, stdin if hasattr(stdin, "peek") else io.BufferedReader(stdin), None)
        return
    try:
        raw = Path(path).open("rb")  # noqa: SIM115 -- closed below, where its errors are not those of the caller's block
        size = Path(path).stat().st_size if raw.seekable() else None
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from None
    with raw:
        yield LogFile(path, raw, size)


def field_of(text: str) -> tuple[str, str]:
    """``time=when`` as a pair for ``Parser``'s ``fields``. Raises ``InvalidValue`` for anything else."""
    name, separator, where = text.partition("=")
    if not separator or not name or not where:
        raise InvalidValue("field", text, "NAME=WHERE, such as time=requestTimeEpoch or ip=client.address")
    return name, where


class Parser:
    """Lines to ``(time, client, row)``: microseconds since the epoch, who asked (None: nobody that the key names).

    ``key``: ``ip``, ``user``, ``path``, ``header:NAME``, ``field:NAME`` or ``re:PATTERN`` (its first group, on the
    whole line). A text line knows the headers Referer and User-Agent, a JSON line any field; ``a.b`` is field ``b``
    of object ``a``. ``fields`` says where a JSON line has ``time``, ``ip``, ``user``, ``method``, ``path``, ``bytes``
    or another unit, where it is not found by itself.

    Raises:
        InvalidValue: for a ``key`` that names no client.
    """

    def __init__(self, key: str = "ip", fields: Mapping[str, str] | None = None) -> None:
        self._names = {**ALIASES, **{name: (where,) for name, where in (fields or {}).items()}}
        self._of_text, self._of_json = self._clients(key)
        self._day, self._zone, self._day_us = "", "", 0
        self._stamp: tuple[object, int] = (object(), 0)

    def __call__(self, line: str) -> tuple[int, str | None, Row]:
        """The request of a line.

        Raises:
            ValueError: when it is no request in a known format.
        """
        found = _TEXT.match(line)
        if found is None:
            return self._json(line)
        day, zone = found[_DAY], found[_ZONE]
        if day != self._day or zone != self._zone:
            self._day_us = _midnight_us(day, zone)
            self._day, self._zone = day, zone
        try:
            now = self._day_us + _MINUTES[found[_MINUTE]] + _SECONDS[found[_SECOND]]
        except KeyError:
            raise ValueError(line) from None
        return now, self._of_text(found), found

    def _json(self, line: str) -> tuple[int, str | None, Row]:
        try:
            row = json.loads(line, parse_float=Decimal, parse_constant=_no_number)
        except RecursionError:
            raise ValueError(line) from None
        if not isinstance(row, dict):
            raise ValueError(line)  # noqa: TRY004 -- a line that is no request, whatever is wrong with it
        stamp = self._field(row, "time")
        if stamp != self._stamp[0]:
            self._stamp = (stamp, _instant_us(stamp))
        return self._stamp[1], self._of_json(row, line), row

    def _field(self, row: Mapping[str, Any], name: str) -> Any:
        for where in self._names.get(name, (name,)):
            value = row.get(where)
            if value is None and "." in where:
                value = _dig(row, where)
            if value is not None:
                return value
        return None

    def request(self, row: Row) -> tuple[str, str]:
        """Method and path of a request, without its query."""
        if isinstance(row, re.Match):
            method, _, rest = row[_REQUEST].partition(" ")
            path = rest.partition(" ")[0]
        else:
            method, path = (_told(self._field(row, name)) or "" for name in ("method", "path"))
            request = row.get("request")
            if not path and isinstance(request, str):
                method, _, rest = request.partition(" ")
                path = rest.partition(" ")[0]
        return method or "GET", path.partition("?")[0]

    def units(self, row: Row, unit: str) -> int:
        """How many of a unit the log says the request took: ``bytes``, of a JSON line any whole number; else 0."""
        if isinstance(row, re.Match):
            return int(row[_SIZE]) if unit == "bytes" and row[_SIZE] != "-" else 0
        value = self._field(row, unit)
        if isinstance(value, str) and value.isascii() and value.isdigit():
            value = int(value[:20])
        return value if type(value) is int and value > 0 else 0

    def _clients(self, key: str) -> tuple[_OfText, _OfJson]:
        """How a client is told from a text line's match, and from a JSON line."""
        kind, _, name = key.partition(":") if isinstance(key, str) else ("", "", "")
        if key == "path":
            return (lambda found: self.request(found)[1] or None), (lambda row, _: self.request(row)[1] or None)
        if key == "ip":
            return (lambda found: found[_IP]), (lambda row, _: _told(self._field(row, "ip")))
        if key == "user":
            return (lambda found: _told(found[_USER].rstrip())), (lambda row, _: _told(self._field(row, "user")))
        if kind == "re" and name:
            search = _pattern(key, name)
            return (lambda found: search(found.string)), (lambda _, line: search(line))
        if kind == "header" and name:
            return _header_of_text(name), (lambda row, _: _told(_header(row, name)))
        if kind == "field" and name:
            return _field_of_text(name), (lambda row, _: _told(self._field(row, name)))
        raise InvalidValue("key", key, "ip, user, path, header:NAME, field:NAME or re:PATTERN")


_OfText = Callable[[re.Match[str]], str | None]
_OfJson = Callable[[dict[str, Any], str], str | None]


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
        return lambda _: None

    def header(found: re.Match[str]) -> str | None:
        headers = _HEADERS.match(found.string, found.end())
        return _told(headers[group]) if headers else None

    return header


def _field_of_text(name: str) -> _OfText:
    text = {"ip": _IP, "user": _USER, "status": _STATUS, "size": _SIZE, "bytes": _SIZE, "request": _REQUEST}.get(name)
    if text is None:
        return lambda _: None
    return lambda found: _told(found[text].rstrip())


def _told(value: Any) -> str | None:
    """A field as a client's name; None where the log has none."""
    if isinstance(value, list) and value:
        value = value[0]
    if value is None or value in ("", "-") or isinstance(value, (dict, list, bool)):
        return None
    return str(value)


def _header(row: Mapping[str, Any], name: str) -> Any:
    """A header of a JSON line: in its ``headers``, or a field of its own, as ``User-Agent`` or ``http_user_agent``."""
    plain = name.lower().replace("-", "_")
    wanted = {plain, f"http_{plain}"}
    for place in (_dig(row, "headers"), _dig(row, "request.headers"), row):
        if isinstance(place, dict):
            for field, value in place.items():
                if field.lower().replace("-", "_") in wanted:
                    return value
    return None


def _dig(row: Any, where: str) -> Any:
    for name in where.split("."):
        row = row.get(name) if isinstance(row, dict) else None
    return row


def _no_number(constant: str) -> None:
    raise ValueError(constant)


def _midnight_us(day: str, zone: str) -> int:
    """``10/Oct/2000`` and ``-0700``. Zones do not change their offset within a line of such a log."""
    month = _MONTHS.get(day[3:6], 0)
    iso = f"{day[7:]}-{month:02d}-{day[:2]}T00:00:00{zone[:3]}:{zone[3:]}"
    return _in_range(to_us(datetime.fromisoformat(iso)))


def _instant_us(value: Any) -> int:
    """ISO 8601 (UTC when it has no offset), an access log's own form, or seconds, ms, us or ns since the epoch."""
    if isinstance(value, str):
        local = _LOCAL.fullmatch(value)
        if local and local[2] in _MINUTES:
            return _midnight_us(local[1], local[4]) + _MINUTES[local[2]] + _SECONDS[local[3]]
        if not _EPOCH.fullmatch(value):
            instant = datetime.fromisoformat(value)
            return _in_range(to_us(instant if instant.tzinfo else instant.replace(tzinfo=timezone.utc)))
        value = Decimal(value)
    if type(value) is not int and not isinstance(value, Decimal):
        raise ValueError(value)
    if not 0 <= value < 10**20:
        raise ValueError(value)
    for scale, most in ((1_000_000, 10**11), (1_000, 10**14), (1, 10**17)):
        if value < most:
            return _in_range(int(value * scale))
    return _in_range(int(value // 1_000))


def _in_range(instant_us: int) -> int:
    if not 0 <= instant_us < _LAST_US:
        raise ValueError(instant_us)
    return instant_us

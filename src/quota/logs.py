"""Access logs as rows: combined and common format, JSON lines, gzip, standard input. Nothing in a line is fatal."""

from __future__ import annotations

import gzip
import io
import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from .clock import to_us
from .errors import InvalidValue

Row = Mapping[str, Any]
"""One request: ``time`` in microseconds since the epoch, ``ip``, ``user``, ``path``, and what else the line tells."""

_COMBINED = re.compile(
    r'(\S+) \S+ (\S+) \[([^\]]+)\] "((?:[^"\\]|\\.)*)" (\d{3}|-) (\d+|-)'
    r'(?: "((?:[^"\\]|\\.)*)" "((?:[^"\\]|\\.)*)")?'
)
_MONTHS = {name: number for number, name in enumerate(["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"], 1)}
_ALIASES = {
    "time": ("time", "timestamp", "@timestamp", "ts", "datetime", "date"),
    "ip": ("ip", "remote_addr", "client_ip", "remote_ip", "client", "host"),
    "user": ("user", "remote_user", "username"),
    "path": ("path", "uri", "request_uri", "url"),
}
_HEADERS = {"referer": "referer", "user-agent": "agent"}


@contextmanager
def open_log(path: str) -> Iterator[Iterator[str]]:
    """The lines of a log file, unpacked when it is gzip (told by its first bytes); ``-`` is standard input.

    Raises:
        InvalidValue: when there is no such file, or it cannot be read.
    """
    if path == "-":
        yield _lines(sys.stdin.buffer)
        return
    try:
        with Path(path).open("rb") as raw:
            yield _lines(raw)
    except (OSError, EOFError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InvalidValue("log", path, f"a log file that can be read ({reason})") from None


def _lines(raw: Any) -> Iterator[str]:
    buffered = raw if hasattr(raw, "peek") else io.BufferedReader(raw)
    packed = buffered.peek(2)[:2] == b"\x1f\x8b"
    stream: Any = gzip.GzipFile(fileobj=buffered) if packed else buffered
    return io.TextIOWrapper(stream, "utf-8", errors="replace")


class Parser:
    """Lines to rows. A timestamp is worked out once for each minute of the log."""

    def __init__(self) -> None:
        self._minute = ("", 0)

    def __call__(self, line: str) -> Row:
        """The row of a line.

        Raises:
            ValueError: when it is no request in a known format.
        """
        if line.startswith("{"):
            return self._json(line)
        found = _COMBINED.match(line)
        if found is None:
            raise ValueError(line)
        ip, user, when, request, status, size, referer, agent = found.groups()
        method, _, rest = request.partition(" ")
        return {
            "time": self._time(when), "ip": ip, "user": None if user == "-" else user, "path": rest.split(" ", 1)[0],
            "method": method, "status": status, "size": 0 if size == "-" else int(size), "referer": referer,
            "agent": agent,
        }  # fmt: skip

    def _time(self, text: str) -> int:
        """``10/Oct/2000:13:55:36 -0700``."""
        minute = text[:17] + text[20:]
        if minute != self._minute[0]:
            day, month, rest = text.split("/", 2)
            zone = text[21:]
            iso = f"{rest[:4]}-{_MONTHS[month]:02d}-{int(day):02d}T{rest[5:10]}:00{zone[:3]}:{zone[3:]}"
            self._minute = (minute, to_us(datetime.fromisoformat(iso)))
        seconds = int(text[18:20])
        if not 0 <= seconds <= 60:
            raise ValueError(text)
        return self._minute[1] + seconds * 1_000_000

    def _json(self, line: str) -> Row:
        row: dict[str, Any] = json.loads(line)
        for field, names in _ALIASES.items():
            value = next((row[name] for name in names if row.get(name) is not None), None)
            row[field] = _instant(value) if field == "time" else value
        return row


def _instant(value: object) -> int:
    """ISO 8601 (UTC when it has no offset), or seconds or milliseconds since the epoch."""
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise ValueError(value)  # noqa: TRY004 -- a line that is no request, whatever is wrong with it
    if isinstance(value, str):
        instant = datetime.fromisoformat(value)
        return to_us(instant if instant.tzinfo else instant.replace(tzinfo=timezone.utc))
    micros = int(value * 1_000) if value > 10**11 else int(value * 1_000_000)
    if not 0 <= micros < 4 * 10**15:
        raise ValueError(value)
    return micros


def client_of(key: str) -> Callable[[Row, str], str | None]:
    """Who a row's client is: ``ip``, ``user``, ``path``, ``header:NAME``, ``field:NAME`` or ``re:PATTERN`` (its group).

    Raises:
        InvalidValue: for anything else.
    """
    kind, separator, name = key.partition(":")
    if kind == "re" and name:
        try:
            pattern = re.compile(name)
        except re.error as error:
            raise InvalidValue("key", key, f"re: and a regular expression ({error})") from None
        group = 1 if pattern.groups else 0

        def matched(row: Row, line: str) -> str | None:  # noqa: ARG001 -- one shape for all
            found = pattern.search(line)
            return found[group] if found else None

        return matched
    if kind in ("header", "field") and name:
        field = _HEADERS.get(name.lower(), name) if kind == "header" else name
    elif key in ("ip", "user", "path") and not separator:
        field = key
    else:
        raise InvalidValue("key", key, "ip, user, path, header:NAME, field:NAME or re:PATTERN")

    def named(row: Row, line: str) -> str | None:  # noqa: ARG001 -- one shape for all
        value = row.get(field)
        return None if value is None or value == "-" else str(value)

    return named

"""Where a log's line has what: the names that other programs give a field, addresses, instants and numbers."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import datetime, timezone
from decimal import Decimal
from functools import lru_cache
from ipaddress import ip_address
from typing import Any

from ..clock import to_us
from ..rule.limits import MAX_UNITS

ALIASES = {
    "time": (
        "time", "timestamp", "@timestamp", "ts", "datetime", "date", "time_local", "time_iso8601", "requestTimeEpoch",
        "requestTime", "msec", "StartUTC", "start_time", "started_at", "eventTime", "TimeGenerated", "receiveTimestamp",
        "requestContext.requestTimeEpoch", "requestContext.timeEpoch",
    ),
    "ip": (
        "ip", "client_ip", "clientip", "clientIp", "clientIP", "remote_addr", "remote_ip", "sourceIp", "client.ip",
        "client", "request.client_ip", "request.remote_ip", "request.remote_addr", "ClientHost", "ClientAddr",
        "httpRequest.remoteIp", "remoteIp", "source.ip", "client.address", "source.address", "properties.clientIp",
        "properties.clientIP", "properties.CIp", "CallerIpAddress", "callerIpAddress", "downstream_remote_address",
        "requestContext.identity.sourceIp", "requestContext.http.sourceIp", "identity.sourceIp", "c-ip", "remote_host",
        "remoteAddress", "remote_address", "x_forwarded_for", "http_x_forwarded_for", "x-forwarded-for",
    ),
    "user": (
        "user", "remote_user", "username", "user_id", "ClientUsername", "user.name", "properties.CsUsername",
        "cs-username",
    ),
    "method": (
        "method", "request_method", "httpMethod", "verb", "request.method", "RequestMethod",
        "httpRequest.requestMethod", "http.request.method", "properties.httpMethod", "properties.CsMethod", "cs-method",
        "requestContext.http.method",
    ),
    "path": (
        "resourcePath", "routeKey", "path", "uri", "request_uri", "url", "request.uri", "RequestPath",
        "httpRequest.requestUrl", "url.path", "url.original", "rawPath", "properties.requestUri",
        "properties.CsUriStem", "cs-uri-stem", "request",
    ),
    "host": (
        "host", "http_host", "request.host", "RequestHost", "domainName", "requestContext.domainName", "url.domain",
        "authority", ":authority", "server_name", "virtual_host", "vhost", "cs-host", "cs(host)", "x-host-header",
        "properties.CsHost",
    ),
    "bytes": (
        "bytes", "size", "body_bytes_sent", "bytes_sent", "responseLength", "DownstreamContentSize",
        "httpRequest.responseSize", "http.response.body.bytes", "http.response.bytes", "response.size",
        "properties.sentBytes", "properties.responseBytes", "properties.ScBytes", "sc-bytes",
    ),
}  # fmt: skip
"""Where the fields of a JSON line, or the columns of another form, are looked for, the likeliest first: nginx, Apache,
Caddy, Traefik, Envoy, Kong, Elastic's schema, API Gateway, Google's and Azure's load balancers, W3C."""

_EPOCH = re.compile(r"\d{9,19}(\.\d{1,9})?", re.ASCII)
_LOCAL = re.compile(r"(\d\d/\w{3}/\d{4}):(\d\d:\d\d):([0-5]\d|60) ([+-]\d{4})", re.ASCII)
_CLOCK = re.compile(r"\d\d:\d\d:\d\d(\.\d+)?", re.ASCII)
_NUMBER = re.compile(r"-?\d{1,30}(\.\d{1,30})?", re.ASCII)
_MONTHS = {"JanFebMarAprMayJunJulAugSepOctNovDec"[at : at + 3]: at // 3 + 1 for at in range(0, 36, 3)}
SECONDS = {f"{second:02d}": second * 1_000_000 for second in range(61)}
MINUTES = {f"{hour:02d}:{minute:02d}": (hour * 60 + minute) * 60_000_000 for hour in range(24) for minute in range(60)}
_LAST_US = 253_402_214_400_000_000
_LEAST_S, _MOST_S = 10**8, 42 * 10**8
_SCALES = ((1, 1_000_000), (10**3, 1_000), (10**6, 1), (10**9, Decimal("0.001")))
_EARLY_S = 200 * 86_400
EARLY_US = _EARLY_S * 1_000_000
"""Instants before it are doubted: numbers of seconds so small are mostly durations."""

Places = tuple[tuple[str, tuple[str, ...] | None], ...]


def places(names: Iterable[str]) -> Places:
    """The names, each with its parts where it may be inside another object (``a.b``)."""
    return tuple((name, tuple(name.split(".")) if "." in name else None) for name in names)


def values(row: Mapping[str, Any], where: Places) -> Iterable[Any]:
    """Return what stands in these places, but nulls."""
    for name, parts in where:
        value = row.get(name)
        if value is None and parts is not None:
            value = dig(row, parts)
        if value is not None:
            yield value


def dig(row: Any, parts: Iterable[str]) -> Any:
    """The field of an object in an object; None where there is none."""
    for name in parts:
        row = row.get(name) if isinstance(row, dict) else None
    return row


def told(value: Any) -> str | None:
    """A field as text, the first of a list; None where the log has none."""
    if isinstance(value, list) and value:
        value = value[0]
    if value is None or value in ("", "-") or isinstance(value, (dict, list, bool)):
        return None
    return str(value)


def first_told(row: Mapping[str, Any], where: Places) -> str | None:
    """The first of these places that says something."""
    for value in values(row, where):
        text = told(value)
        if text is not None:
            return text
    return None


def whole(value: Any) -> int | None:
    """A number of units; None where the log has none.

    Raises:
        ValueError: for what a ledger cannot count: a part of a unit, less than none, 2^53 and more, no number.
    """
    if value is None or value in ("", "-"):
        return None
    if isinstance(value, str) and _NUMBER.fullmatch(value):
        value = Decimal(value)
    if type(value) in (int, Decimal) and 0 <= value <= MAX_UNITS and value == int(value):
        return int(value)
    raise ValueError(value)


@lru_cache(1 << 14)
def address(text: str) -> str | None:
    """An IP address, the first of a list, without port and brackets; None for anything else."""
    bare = text.partition(",")[0].strip()
    if bare.startswith("["):
        bare = bare[1:].partition("]")[0]
    elif bare.count(":") == 1:
        bare = bare.partition(":")[0]
    try:
        ip_address(bare)
    except ValueError:
        return None
    return bare


def host(text: str | None) -> str | None:
    """Return who asked, by an address or a name: the first of a list, without the port, which is another each time."""
    if text is None or (":" not in text and "," not in text):
        return told(text)
    first = text.partition(",")[0].strip()
    name, _, port = first.rpartition(":")
    return address(text) or told(name if port.isdigit() and ":" not in name else first)


def header(row: Mapping[str, Any], name: str) -> str | None:
    """A header of a JSON line: in its ``headers``, or a field of its own, as ``User-Agent`` or ``http_user_agent``."""
    wanted = name.lower().replace("-", "_")
    forms = {wanted, f"http_{wanted}", f"cs({wanted})"}
    for place in (row.get("headers"), dig(row, ("request", "headers")), row):
        if isinstance(place, dict):
            for field, value in place.items():
                if field.lower().replace("-", "_") in forms:
                    return told(value)
    return None


def day_and_clock(row: Mapping[str, Any]) -> str | None:
    """``date`` and ``time`` of a row that has them apart, in UTC, as one."""
    day, clock = row.get("date"), row.get("time")
    if isinstance(day, str) and isinstance(clock, str) and _CLOCK.fullmatch(clock):
        return f"{day}T{clock}"
    return None


def midnight_us(day: str, zone: str) -> int:
    """``10/Oct/2000`` and ``-0700``. Zones do not change their offset within a line of such a log."""
    month = _MONTHS.get(day[3:6], 0)
    iso = f"{day[7:]}-{month:02d}-{day[:2]}T00:00:00{zone[:3]}:{zone[3:]}"
    return _in_range(to_us(datetime.fromisoformat(iso)))


def instant_us(value: Any) -> int:
    """ISO 8601 (UTC when it has no offset), an access log's own form, or s, ms, us or ns since 1970, of 1973 to 2103.

    Raises:
        ValueError: for anything else: a duration, a date without a time, digits that are a date.
    """
    if isinstance(value, str):
        local = _LOCAL.fullmatch(value)
        if local and local[2] in MINUTES:
            return midnight_us(local[1], local[4]) + MINUTES[local[2]] + SECONDS[local[3]]
        if not _EPOCH.fullmatch(value):
            instant = datetime.fromisoformat(value)
            if len(value) <= len("2026-04-09"):
                raise ValueError(value)
            return _in_range(to_us(instant if instant.tzinfo else instant.replace(tzinfo=timezone.utc)))
        value = Decimal(value)
    if type(value) is not int and not isinstance(value, Decimal):
        raise ValueError(value)
    for many, scale in _SCALES:
        if _LEAST_S * many <= value < _MOST_S * many:
            return int(value * scale)
    raise ValueError(value)


def early_us(value: Any) -> int | None:
    """An instant early in 1970, in whole seconds, as made-up logs have it; eight digits are a date."""
    return value * 1_000_000 if type(value) is int and 0 <= value < _EARLY_S else None


def _in_range(instant_us: int) -> int:
    if not 0 <= instant_us < _LAST_US:
        raise ValueError(instant_us)
    return instant_us

"""The URL or the driver's client that a caller names a store by, as it is checked and as errors show it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from inspect import iscoroutinefunction
from typing import TYPE_CHECKING

from ..errors import InvalidValue

if TYPE_CHECKING:
    from urllib.parse import SplitResult

_HIDDEN = r"(?i)((?:pass|pwd|secret|token|sslkey)[a-z_]*\s*=\s*)('(?:[^'\\]|\\.)*'?|[^\s&]*)"
_SCHEME = r"[A-Za-z][A-Za-z0-9+.-]*"


def shown_url(url: str) -> str:
    """A store's URL as errors show it: nothing of its user and password, nor of a password among its options."""
    scheme, separator, rest = url.partition("://")
    if not separator or not re.fullmatch(_SCHEME, scheme):
        return "****" if "=" in url or "@" in url else url
    if any("@" in found[2] for found in re.finditer(_HIDDEN, rest)):
        return f"{scheme}://****"  # where the one ends and the other begins, nobody knows
    _, at, rest = rest.rpartition("@")
    return f"{scheme}://{'****@' if at else ''}" + re.sub(_HIDDEN, r"\1****", rest)


def check_url(url: str, *, lone: bool = False) -> str:
    """The URL of a server, if a driver will find its user and password where they are meant to be.

    What should have been escaped in them is read as a host, a port, a path or an option, and what a driver then says
    of it would show it. ``lone``: also where the ``@`` behind them is not the only one.
    """
    scheme, separator, rest = url.partition("://")
    if not separator or not re.fullmatch(_SCHEME, scheme):
        return url
    authority, *behind = re.split("[/?#]", rest, maxsplit=1)
    user, _, hosts = authority.rpartition("@")
    ports = [host.rpartition("]")[2].partition(":")[2] for host in hosts.split(",")]
    stray = "@" in "".join(behind) and not (scheme.rpartition("+")[2] == "unix" and ":" not in authority and not user)
    if stray or "[" in user or (lone and "@" in user) or any(port and not port.isdigit() for port in ports):
        accepted = "a URL whose user, password and options are percent-encoded: '@' is %40, '/' %2F, '?' %3F, '#' %23"
        raise InvalidValue("store", shown_url(url), accepted)
    return url


def split_url(url: str) -> tuple[SplitResult, dict[str, str]]:
    """A URL without its query, and the query's options."""
    from urllib.parse import parse_qsl, urlsplit  # noqa: PLC0415 -- slow to load, and in memory there is no URL

    try:
        parts = urlsplit(url)
    except ValueError:
        raise InvalidValue("store", shown_url(url), "a URL") from None
    return parts._replace(query=""), dict(parse_qsl(parts.query, keep_blank_values=True))


def join_url(parts: SplitResult, options: Mapping[str, str]) -> str:
    """The URL again, with these options; ``geturl`` loses the slashes of one that names no host."""
    from urllib.parse import urlencode  # noqa: PLC0415 -- as above

    query = urlencode(options)
    return f"{parts.scheme}://{parts.netloc}{parts.path}{'?' if query else ''}{query}"


def check_client(client: object, method: str, wanted: str, *, awaited: bool) -> None:
    """Refuse a driver's client that a store could not use: a URL, a class, a connection, one of the other kind."""
    found = getattr(client, method, None)
    if isinstance(client, (str, type)) or not callable(found):
        value = shown_url(client) if isinstance(client, str) else client if isinstance(client, type) else type(client)
        raise InvalidValue("client", value, f"{wanted}; a URL is given as url=")
    if iscoroutinefunction(found) != awaited:
        raise InvalidValue("client", type(client), f"{wanted}, whose answers are {'' if awaited else 'not '}awaited")


def whole_option(options: dict[str, str], name: str) -> int:
    """Take one whole number out of a URL's options."""
    text = options.pop(name)
    if not text.isascii() or not text.isdigit() or len(text) > 9:
        raise InvalidValue(name, text, "a whole number in the store's URL")
    return int(text)


def seconds_option(options: dict[str, str], name: str) -> float:
    """Take one number of seconds, perhaps with a decimal point, out of a URL's options."""
    text = options.pop(name)
    whole, _, part = text.partition(".")
    if not text.isascii() or not (whole + part).isdigit() or len(text) > 9:
        raise InvalidValue(name, text, "seconds in the store's URL, as in 5 or 0.25")
    return float(text)

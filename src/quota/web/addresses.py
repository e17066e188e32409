"""The address that a request comes from, and callers without a key who are counted by it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Any

import attrs

from ..errors import InvalidValue, check_text
from ..key import Caller
from ..plan import UsagePlan

Networks = tuple[IPv4Network | IPv6Network, ...]
Proxies = int | Networks
Trusted = int | str | Iterable[str | IPv4Network | IPv6Network]
"""The setting ``trusted_proxies``."""

_VARIABLES = ("HTTP_X_FORWARDED_FOR", "HTTP_FORWARDED")
_TRANSLATED = IPv6Network("64:ff9b::/96")
_LONGEST = 8192
_MOST_HOPS = 64
_PORT = re.compile(r"(?P<v6>\[[^\]]*\])(:\d{1,5})?|(?P<v4>[^:]*)(:\d{1,5})?")
_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"  # noqa: S105 -- RFC 9110's
_PAIR = re.compile(rf'[ \t]*({_TOKEN})=({_TOKEN}|"(?:[^"\\]|\\.)*")[ \t]*([;,]|\Z)')
_EMPTY = re.compile(r"[ \t]*([;,]|\Z)")


def _plan_id(plan: UsagePlan | str) -> str:
    return plan.id if isinstance(plan, UsagePlan) else check_text("plan", plan)


def _function(_: Any, field: Any, value: object) -> None:
    if value is not None and not callable(value):
        raise InvalidValue(field.name, value, "a callable that returns a name, or None")


@attrs.frozen
class Anonymous:
    """Whoever presents no key is counted under ``plan`` (its id), by address: one of IPv6 by its network of 64 bits.

    ``by``: a callable that is given the request and returns the name to count by in place of the address, or a
    ``Caller`` to count under another plan; None for nobody, who is refused as one without a key is.
    """

    plan: str = attrs.field(converter=_plan_id)
    by: Callable[[Any], str | Caller | None] | None = attrs.field(default=None, validator=_function)


def check_proxies(trusted: Trusted) -> Proxies:
    """Return what the setting ``trusted_proxies`` says. Raises ``InvalidValue``."""
    if type(trusted) is int and 0 <= trusted <= _MOST_HOPS:
        return trusted
    accepted = f"how many proxies stand in front, 0 to {_MOST_HOPS}, or their networks, as in ['10.0.0.0/8']"
    several = (trusted,) if isinstance(trusted, str) else trusted
    if not isinstance(several, Iterable):
        raise InvalidValue("trusted_proxies", trusted, accepted)
    found = []
    for network in several:
        try:
            found.append(ip_network(network if isinstance(network, (IPv4Network, IPv6Network)) else str(network)))
        except ValueError:
            raise InvalidValue("trusted_proxies", network, accepted) from None
    return tuple(found)


def client_address(request: Mapping[str, Any], trusted_proxies: Trusted = 0) -> str | None:
    """The address of whoever sent a request (a WSGI ``environ`` or an ASGI ``scope``); None where it is not known.

    Without trusted proxies it is the connection's. A number n of them: what the nth proxy from here saw, by
    ``X-Forwarded-For`` or ``Forwarded`` (RFC 7239) read from the right; fewer entries than that: the leftmost one.
    Networks: the first entry from the right that is in none of them. Where a proxy is trusted and tells nothing, or
    both headers are there and disagree, or an entry that counts is no address, the address is not known: never a
    proxy's own in place of a client's. Ports, brackets and zones are left out, IPv4 within IPv6 is IPv4.
    """
    return address_of(request, check_proxies(trusted_proxies))


def address_of(request: Mapping[str, Any], proxies: Proxies) -> str | None:
    """``client_address``, with the setting checked before."""
    in_asgi = "type" in request
    if in_asgi:
        client = request.get("client")
        peer = client[0] if client else ""
        peer = "127.0.0.1" if peer == "testclient" else peer  # Starlette's TestClient
    else:
        peer = request.get("REMOTE_ADDR") or ""
    if not proxies:
        return normal(peer)
    if not isinstance(proxies, int) and not _inside(normal(peer), proxies):
        return normal(peer)
    forwarded_for, forwarded = _fields(request) if in_asgi else map(request.get, _VARIABLES)
    found = [_walk(hops, proxies) for hops in (_listed(forwarded_for), _elements(forwarded)) if hops is not None]
    return found[0] if found and found[0] == found[-1] else None


def _fields(scope: Mapping[str, Any]) -> list[str | None]:
    """Both headers of an ASGI scope, several lines of one joined by commas."""
    lines: dict[bytes, list[str]] = {b"x-forwarded-for": [], b"forwarded": []}
    for field, value in scope["headers"]:
        if field in lines:
            lines[field].append(value.decode("latin-1"))
    return [",".join(found) if found else None for found in lines.values()]


def _listed(field: str | None) -> Iterator[str] | None:
    """The entries of ``X-Forwarded-For``, from the right; what the client itself wrote on the left is never reached."""
    if field is None or not field.strip(" \t,"):
        return None
    return (entry for part in reversed(field[-_LONGEST:].split(",")) if (entry := part.strip(" \t")))


def _elements(field: str | None) -> Iterator[str] | None:
    """The ``for`` of each element of ``Forwarded``, from the right; nothing is read of what breaks its grammar."""
    if field is None or not field.strip(" \t,"):
        return None
    found: list[str] = [""]
    place = 0
    while place < len(field) <= _LONGEST:
        match = _PAIR.match(field, place)
        if match is not None and match[1].lower() == "for":
            value = match[2]
            found[-1] = re.sub(r"\\(.)", r"\1", value[1:-1]) if value[0] == '"' else value
        match = match or _EMPTY.match(field, place)
        if match is None:
            return iter(("",))
        place = match.end()
        if match[match.lastindex or 0] == ",":
            found.append("")
    return iter(found[::-1]) if len(field) <= _LONGEST else iter(("",))


def _walk(hops: Iterator[str], proxies: Proxies) -> str | None:
    """The entry that counts; None where it is no address."""
    address = None
    for number, hop in enumerate(hops, 1):
        address = normal(hop)
        if number == proxies or address is None or not (isinstance(proxies, int) or _inside(address, proxies)):
            break
    return address


@lru_cache(maxsize=4096)
def _inside(address: str | None, networks: Networks) -> bool:
    """Tell whether a proxy is one of those that are trusted.

    A connection without an address (a Unix socket) is local.
    """
    if address is None:
        return True
    found = ip_address(address)
    return any(found in network for network in networks)


@lru_cache(maxsize=4096)
def normal(text: str) -> str | None:
    """An address as everybody writes it: without port, brackets and zone, IPv4 where it is that; None of no address."""
    if len(text) > 100:
        return None
    text = text.strip('" \t')
    match = _PORT.fullmatch(text)
    text = match["v6"][1:-1] if match and match["v6"] else match["v4"] if match and match["v4"] else text
    try:
        found = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    if isinstance(found, IPv6Address) and found.ipv4_mapped is not None:
        found = found.ipv4_mapped
    return str(found)


@lru_cache(maxsize=4096)
def counted_by(address: str) -> str:
    """By what an address is counted: of IPv6 the network of 64 bits, which one subscriber has to itself.

    IPv4 that a translator sends over IPv6 (RFC 6052) is IPv4 again: its clients are not one network.
    """
    if ":" not in address:
        return address
    found = ip_address(address)
    translated = found in _TRANSLATED
    return str(IPv4Address(int(found) & 0xFFFF_FFFF) if translated else ip_network(f"{address}/64", strict=False))

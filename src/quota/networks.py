"""Networks that a key may be used from: CIDR blocks, and whether one contains an address."""

from __future__ import annotations

from functools import lru_cache

from .errors import InvalidValue


@lru_cache(maxsize=4096)
def _block(text: str) -> tuple[str, int, int, int]:
    """Return a network's text as it is kept, its family (4 or 6), and its first and last address."""
    from ipaddress import IPv4Network, ip_network  # noqa: PLC0415 -- slow to load, and most keys have no networks

    accepted = "an address or a CIDR block, as in 203.0.113.7, 10.0.0.0/8 or 2001:db8::/32"
    _, slash, length = text.partition("/")
    if "%" in text or (slash and not (length.isascii() and length.isdigit())):
        raise InvalidValue("networks", text, f"{accepted}, without a zone")
    try:
        found = ip_network(text, strict=False)
    except ValueError:
        raise InvalidValue("networks", text, accepted) from None
    try:
        ip_network(text)
    except ValueError:
        raise InvalidValue("networks", text, f"{found} for the network, or the address alone for one host") from None
    mapped = getattr(found.network_address, "ipv4_mapped", None)
    if mapped is not None and found.prefixlen >= 96:
        found = IPv4Network((mapped, found.prefixlen - 96))
    return str(found), found.version, int(found.network_address), int(found.broadcast_address)


@lru_cache(maxsize=4096)
def _contain(networks: tuple[str, ...], address: str) -> bool:
    from ipaddress import ip_address  # noqa: PLC0415 -- as above

    try:
        found = ip_address(address)
    except ValueError:
        return False
    found = getattr(found, "ipv4_mapped", None) or found
    blocks = [_block(network) for network in networks]
    return any(family == found.version and first <= int(found) <= last for _, family, first, last in blocks)


def network(text: str) -> str:
    """Return a network as it is kept: in its shortest form, an address alone with its length."""
    return _block(text)[0]


def contain(networks: tuple[str, ...], address: str | None) -> bool:
    """Tell whether one of a key's networks contains an address.

    An IPv4 address written as an IPv6 one (``::ffff:10.0.0.1``) is that IPv4 address; the zone of a link-local one
    (``fe80::1%eth0``) is not looked at. No address, or a text that is none (a socket's path), is in no network.
    """
    if address is not None and not isinstance(address, str):
        raise InvalidValue("address", type(address), "a str, as in '203.0.113.7' or '2001:db8::1', or None")
    return address is not None and _contain(networks, address)

"""Where a request presents its key, and how that place is hidden from the application."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from urllib.parse import quote, unquote

from ..errors import InvalidValue

UNKNOWN = "qk_" + "0" * 34
"""Stands for a presented key that none can be: its checksum is wrong, so it is refused without a look-up."""
_LONGEST = 512
_LONGEST_QUERY = 65_536
_STARS = "****"
POSSIBLE = re.compile(r"[!-~]{20,128}\Z")
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,64}\Z")
_PARAMETER = re.compile(r"\?[A-Za-z0-9._~-]{1,64}\Z")


def check_sources(key: str | Iterable[str]) -> tuple[str, ...]:
    """Where keys are looked for, in order: header names, in lower case, and query parameters written ``?name``.

    In the header ``authorization`` it is the token of the ``Bearer`` scheme. Raises ``InvalidValue``.
    """
    sources = (key,) if isinstance(key, str) else tuple(key) if isinstance(key, Iterable) else ()
    for source in sources:
        if not isinstance(source, str) or not (_TOKEN.match(source) or _PARAMETER.match(source)):
            raise InvalidValue("key", source, "the name of a header, or of a query parameter as in '?api_key'")
    if not sources:
        raise InvalidValue("key", key, "at least one header name, or query parameter as in '?api_key'")
    return tuple(source if source.startswith("?") else source.lower() for source in sources)


def find_key(header: Callable[[str], str | None], query: str, sources: Sequence[str]) -> tuple[str | None, str]:
    """The key that a request presents in the first of its sources that has one, and that source.

    ``header`` gives a header by its lower-case name, several lines joined by commas (RFC 9110, section 5.3): so what is
    sent twice is one unknown key. What no key can be (too short, too long, not visible ASCII) is ``UNKNOWN``, whatever
    its size. (None, "") when no source has one.
    """
    for source in sources:
        value = _parameter(query, source) if source[0] == "?" else header(source)
        if value and source == "authorization":
            value = bearer(value)
        if value and (POSSIBLE.match(value) or (value := _trimmed(value))):
            return value, source
    return None, ""


def _trimmed(value: str) -> str:
    """Of a value that is no key as it stands: the key without blanks around it, ``UNKNOWN``, or nothing if blank."""
    if len(value) <= _LONGEST:
        value = value.strip(" \t")
        return value if not value or POSSIBLE.match(value) else UNKNOWN
    return UNKNOWN


def bearer(value: str) -> str:
    """The token of ``Authorization: Bearer``; none of another scheme (RFC 6750, section 2.1)."""
    return value[7 : _LONGEST * 2].lstrip(" ") if value[:7].lower() == "bearer " else ""


def _parameter(query: str, source: str) -> str:
    """A query parameter; a plus sign stands for itself, as no key has blanks. Its name may be percent-encoded."""
    start = source[1:] + "="
    if start not in query and "%" not in query:
        return ""
    if start in query and len(query) > _LONGEST_QUERY:
        return UNKNOWN
    values = [part[len(name) :] for part in query.split("&") if (name := _beginning(part)) and _decoded(name) == start]
    if len(values) != 1 or len(values[0]) > _LONGEST:
        return UNKNOWN if values else ""
    return unquote(values[0])


def _beginning(part: str) -> str:
    """The name of a parameter as it is written, with its mark."""
    return part[: part.find("=") + 1]


def _decoded(name: str) -> str:
    """The name as frameworks read it; one that is too long for any of ours stays as it is."""
    return unquote(name) if "%" in name and len(name) <= 3 * 64 + 1 else name


def hidden(secret: str | None) -> str:
    """Return what logs may show of a secret: four asterisks and its last four characters, as API Gateway writes it."""
    return _STARS if secret is None or secret == UNKNOWN else _STARS + secret[-4:]


def hide_parameters(query: str, starts: Iterable[str], found: str = "", shown: str = "") -> str:
    """A query with the values of parameters hidden; ``starts`` are their names with ``=``.

    Of the one where the key was ``found``, ``shown`` is left: quoted, so that it ends where it ended.
    """
    hide = {start: _STARS for start in starts if start in query or "%" in query}
    if not hide:
        return query
    if found in hide:
        hide[found] = quote(shown, safe="*")
    parts = []
    for part in query.split("&"):
        name = _beginning(part)
        secret = hide.get(_decoded(name))
        parts.append(part if secret is None else name + secret)
    return "&".join(parts)

"""Requests of API Gateway's REST protocol, read within bounds, and answers to them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from .errors import Refused, bad_request, missing, not_in_enumeration, unreadable

MOST_BODY = 10 * 1024 * 1024
"""The longest body that is read: API Gateway's own bound, and room for a CSV of 10,000 keys."""

MOST_OPERATIONS = 1000
"""The most operations of a patch."""

_LENGTH = re.compile(r"[0-9]{1,15}")
_OPERATIONS = ("add", "remove", "move", "test", "replace", "copy")


class Operation(NamedTuple):
    """One operation of a patch; ``value`` is None where none is given."""

    op: str
    path: str
    value: str | None


class Call(NamedTuple):
    """A request whose signature holds."""

    method: str
    path: str
    query: list[tuple[str, str]]
    body: bytes

    def one(self, name: str) -> str | None:
        """Return a parameter of the query."""
        return next((value for field, value in self.query if field == name), None)

    def flag(self, name: str) -> bool:
        """Return whether a parameter of the query is ``true``."""
        return (self.one(name) or "").lower() == "true"

    def json(self) -> dict[str, Any]:
        """Return the body, an object. Raises ``Refused``."""
        if not self.body.strip():
            return {}
        try:
            data = json.loads(self.body.decode("utf-8"), parse_constant=_no_number)
        except (ValueError, RecursionError):
            raise unreadable("The request's body is no JSON") from None
        if not isinstance(data, dict):
            raise unreadable("The request's body must be a JSON object")
        return data

    def operations(self, of: str) -> list[Operation]:
        """Return the body's patch. ``of``: the input's name, for errors."""
        given = self.json().get("patchOperations")
        if given is None:
            return []
        if not isinstance(given, list) or not all(isinstance(one, dict) for one in given):
            raise unreadable("patchOperations must be a list of objects")
        if len(given) > MOST_OPERATIONS:
            raise bad_request(f"Too many patch operations: at most {MOST_OPERATIONS}")
        found = []
        for number, one in enumerate(given, 1):
            op, path = text_of(one, "op"), text_of(one, "path")
            if op is None:
                raise missing(f"{of}.patchOperations.{number}.member.op")
            if op not in _OPERATIONS:
                raise not_in_enumeration(brief(op), f"{of}.patchOperations.{number}.member.op", _OPERATIONS)
            found.append(Operation(op, path or "", text_of(one, "value")))
        return found


def read_body(environ: Mapping[str, Any]) -> bytes:
    """Return the body, whole and within bounds. Raises ``Refused``, having read no more than the bound."""
    too_long = Refused(413, "RequestEntityTooLargeException", f"The body is longer than {MOST_BODY} bytes")
    length = environ.get("CONTENT_LENGTH") or ""
    if length:
        if not _LENGTH.fullmatch(length):
            raise bad_request("Content-Length is no number")
        if int(length) > MOST_BODY:
            raise too_long
        size = int(length)
    else:
        size = MOST_BODY + 1 if environ.get("wsgi.input_terminated") else 0
    parts, left = [], size
    while left and (part := environ["wsgi.input"].read(left)):
        parts.append(part)
        left -= len(part)
    body = b"".join(parts)
    if len(body) > MOST_BODY:
        raise too_long
    if length and len(body) < size:
        raise bad_request("The body ended before its Content-Length")
    return body


def _no_number(text: str) -> float:
    raise ValueError(text)


def brief(value: object) -> str:
    """Return what a message may repeat of what came: printable and short."""
    text = str(value)
    text = "".join(c if c.isprintable() else "?" for c in text[:200])
    return text + ("..." if len(str(value)) > 200 else "")


def text_of(body: Mapping[str, Any], name: str) -> str | None:
    """Return a text of a body; None where it is left out or null."""
    value = body.get(name)
    if value is not None and not isinstance(value, str):
        raise unreadable(f"{name} must be a string")
    return value


def flag_of(body: Mapping[str, Any], name: str) -> bool | None:
    """Return a boolean of a body; None where it is left out or null."""
    value = body.get(name)
    if value is not None and type(value) is not bool:
        raise unreadable(f"{name} must be true or false")
    return value


def object_of(body: Mapping[str, Any], name: str) -> dict[str, Any] | None:
    """Return an object of a body; None where it is left out or null."""
    value = body.get(name)
    if value is not None and not isinstance(value, dict):
        raise unreadable(f"{name} must be an object")
    return value


def list_of(body: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    """Return a list of objects of a body; empty where it is left out or null."""
    value = body.get(name)
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
        raise unreadable(f"{name} must be a list of objects")
    return value


def texts_of(body: Mapping[str, Any], name: str) -> dict[str, str]:
    """Return a map of texts of a body; empty where it is left out or null."""
    found = object_of(body, name) or {}
    if not all(isinstance(value, str) for value in found.values()):
        raise unreadable(f"{name} must be a map of strings")
    return found

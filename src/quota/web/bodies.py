"""The body of a request, read before it is charged and handed on whole."""

from __future__ import annotations

import io
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]


class Rest(io.RawIOBase):
    """All that was read of a WSGI input, then what was not.

    ``left`` bytes of it, None where the input ends by itself.
    """

    def __init__(self, read: bytes, source: Any, left: int | None) -> None:
        super().__init__()
        self._read = memoryview(read)
        self._source = source
        self._left = left

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        most = len(buffer) if self._left is None or self._read else min(len(buffer), self._left)
        if self._read:
            found: Any = self._read[:most]
            self._read = self._read[most:]
        else:
            found = self._source.read(most) if most else b""
            self._left = None if self._left is None else self._left - len(found)
        buffer[: len(found)] = found
        return len(found)


def read_first(source: Any, most: int) -> bytes:
    """The first ``most`` bytes of an input, fewer where it ends before."""
    parts = []
    while most and (part := source.read(most)):
        parts.append(part)
        most -= len(part)
    return b"".join(parts)


def read_input(environ: MutableMapping[str, Any], most: int) -> bytes:
    """The first ``most`` bytes of a WSGI request's body; the application reads all of it from the beginning."""
    source, length = environ.get("wsgi.input"), environ.get("CONTENT_LENGTH") or ""
    left = int(length) if length.isascii() and length.isdigit() else None
    if source is None or left == 0 or (left is None and not environ.get("wsgi.input_terminated")):
        return b""  # PEP 3333: without a length there is no body, but where the server says that the input ends
    body = read_first(source, most if left is None else min(most, left))
    whole = len(body) < most or left == len(body)
    rest = None if left is None else left - len(body)
    environ["wsgi.input"] = io.BytesIO(body) if whole else io.BufferedReader(Rest(body, source, rest))
    return body


class Body:
    """An ASGI request's body: what was received of it is received again by the application."""

    def __init__(self, receive: Receive, most: int) -> None:
        self._receive = receive
        self._most = most
        self._messages: list[Message] = []

    async def read(self) -> bytes:
        """The first bytes, once."""
        size, more = 0, True
        while more and size < self._most:
            message = await self._receive()
            self._messages.append(message)
            size += len(message.get("body") or b"")
            more = message["type"] == "http.request" and message.get("more_body", False)
        return b"".join(message.get("body") or b"" for message in self._messages)[: self._most]

    async def receive(self) -> Message:
        """As the server's: first what was read here."""
        return self._messages.pop(0) if self._messages else await self._receive()

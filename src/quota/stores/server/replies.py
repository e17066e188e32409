"""All that a server says to a call on records, and what comes of a try."""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from typing import Any, NamedTuple


class Reply(IntEnum):
    """The reason why a call is tried again; the first two are a server's."""

    STALE = 0
    """The cached key is not what the server has."""
    WAIT = -1
    """Another writer has its turn."""
    OPENED = -2
    """A lane was opened that may serve the call."""
    LOST = -3
    """Another writer was faster."""


class Decided(NamedTuple):
    """The server decided, by a lane."""

    allowed: bool
    now: int
    readings: list[int]


class Skewed(NamedTuple):
    """The server's instant, which is too far from the call's."""

    now: int


class Records(NamedTuple):
    """All that there is, for the rule to decide on."""

    rows: Sequence[Any]


class Version(NamedTuple):
    """A record as it was found; a new one has none. ``turn``: of the writer whose turn it is."""

    number: Any = None
    charges: Any = None
    turn: Any = None


def parse_reply(reply: bytes | int | Sequence[Any]) -> Reply | Decided | Skewed | Records:
    """Tell an engine's replies apart: bytes are "allowed now reading...", a positive number is the server's instant."""
    if isinstance(reply, bytes):
        allowed, now, *readings = map(int, reply.split())
        return Decided(bool(allowed), now, readings)
    if isinstance(reply, int):
        return Skewed(reply) if reply > 0 else Reply(reply)
    return Records(reply)

"""Redis's protocol for the store: calls packed once, and what an engine's error means."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

import attrs
from redis.exceptions import AuthenticationError, BusyLoadingError, MaxConnectionsError, ResponseError

from ...errors import StoreBusy, StoreUnavailable
from ..server.changes import (
    ClearRecord,
    CopyRecord,
    DropText,
    IndexKey,
    MoveRecord,
    Mutation,
    PutText,
    Tell,
    UnindexKey,
    Untell,
)
from ..server.flow import NOTHING, UNKNOWN
from .scripts import Script


@attrs.frozen
class Call:
    """One command, packed: what comes after its name and script, and how many arguments it has in all."""

    script: Script | None
    tail: bytes
    count: int

    def packed(self, by_text: bool = False) -> bytes:  # noqa: FBT002 -- which of two forms
        if self.script is None:
            return b"*%d\r\n%b" % (self.count, self.tail)
        head = self.script.by_text if by_text else self.script.by_hash
        return b"*%d\r\n%b%b" % (self.count + 2, head, self.tail)


def pack(arguments: Iterable[str | bytes]) -> bytes:
    """Write arguments as Redis's protocol has them."""
    packed = []
    for argument in arguments:
        data = argument if isinstance(argument, bytes) else argument.encode()
        packed.append(b"$%d\r\n%b\r\n" % (len(data), data))
    return b"".join(packed)


def run(script: Script, keys: list[str], *arguments: str) -> Call:
    """Call a script on some keys."""
    return Call(script, pack([str(len(keys)), *keys, *arguments]), 1 + len(keys) + len(arguments))


def command(*arguments: str) -> Call:
    """Call a command of Redis's own."""
    return Call(None, pack(arguments), len(arguments))


def encoded(write: Mutation, at: Callable[[str, str], tuple[str, str]], key: Callable[[str], int]) -> list[Any]:
    """Write a mutation as ``commit.lua`` does it: a command, the place of its key, the rest of its arguments.

    ``at``: the key and the field of a part and a name. ``key``: the place of a key among those of the call.
    """
    match write:
        case IndexKey(name, id_):
            told = ["ZADD", key(at("lists", "")[0]), "0", f"{name}\n{id_}"]
        case UnindexKey(name, id_):
            told = ["ZREM", key(at("lists", "")[0]), f"{name}\n{id_}"]
        case PutText(part, name, text):
            told = ["HSET", key(at(part, name)[0]), at(part, name)[1], text]
        case DropText(part, name):
            told = ["HDEL", key(at(part, name)[0]), at(part, name)[1]]
        case ClearRecord(name):
            told = ["DEL", key(at("use", name)[0])]
        case CopyRecord(name, to):
            told = ["COPY", key(at("use", name)[0]), key(at("use", to)[0]), "REPLACE"]
        case Tell(instant, of, account, text, since):
            event = ["at", str(instant), "key", of or "", "account", account or "", "event", text]
            told = ["XADD", key(at("events", "")[0]), str(since), *event]
        case Untell(cursors):
            told = ["XDEL", key(at("events", "")[0]), *(f"0-{cursor}" for cursor in cursors)]
        case MoveRecord(name, to):
            told = ["RENAME", key(at("use", name)[0]), key(at("use", to)[0])]
    return told


ASKING = b"*1\r\n$6\r\nASKING\r\n"

_REFUSED = (ResponseError, AuthenticationError, BusyLoadingError)
"""All that a server answers in place of doing anything, unless the error comes from within a script."""

_WITHIN = re.compile(r"@user_script|script: ?[0-9a-f]{40}|Error running script")


def failure(error: BaseException, sent: bool) -> Exception:
    """Return what an engine's error means for the caller, and whether anything may have happened."""
    if isinstance(error, MaxConnectionsError):
        return StoreBusy(f"no connection to the server is free; {NOTHING}")
    refused = isinstance(error, _REFUSED) and not _WITHIN.search(str(error))
    known = NOTHING if refused or not sent else UNKNOWN
    return StoreUnavailable(f"{type(error).__name__}: {error}; {known}", reached=isinstance(error, ResponseError))

"""Redis's protocol for the store: calls packed once, and what an engine's error means."""

from __future__ import annotations

import re
from collections.abc import Iterable

import attrs
from redis.exceptions import AuthenticationError, BusyLoadingError, MaxConnectionsError, ResponseError

from ...errors import StoreBusy, StoreUnavailable
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

"""Redis's protocol for the store: calls packed once, what an engine's error means, and where a call goes after it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

import attrs
from redis.exceptions import (
    AskError,
    AuthenticationError,
    BusyLoadingError,
    MovedError,
    NoScriptError,
    ResponseError,
    TryAgainError,
)

from ...clock import monotonic
from ...errors import StoreUnavailable
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

Address = tuple[str, int]


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
    refused = isinstance(error, _REFUSED) and not _WITHIN.search(str(error))
    known = NOTHING if refused or not sent else UNKNOWN
    return StoreUnavailable(f"{type(error).__name__}: {error}; {known}", reached=isinstance(error, ResponseError))


class Unreached(Exception):
    """A node of a Cluster could not be asked, and nothing was sent. ``failure``: what the caller is told in the end."""

    def __init__(self, address: Address, failure: Exception) -> None:
        super().__init__(address)
        self.address = address
        self.failure = failure


class Route:
    """The node of a Cluster that serves a namespace, all in one slot. Any node says where to ask instead."""

    def __init__(self, client: Any) -> None:
        self._nodes = client.nodes_manager
        self._home: Address | None = None
        self._turn = 0

    def address(self) -> Address:
        """The node to ask first."""
        if self._home is None:
            nodes = list((self._nodes.nodes_cache or self._nodes.startup_nodes).values())
            node = nodes[self._turn % len(nodes)]
            return node.host, int(node.port)
        return self._home

    def told(self, error: AskError, asked: Address) -> Address:
        """Return the node that another one names for the slot; without a host it means itself."""
        host, port = self._nodes.remap_host_port(error.host or asked[0], error.port)
        if isinstance(error, MovedError):
            self._home = host, port
        return host, port

    def lost(self, address: Address) -> None:
        """A node broke off or cannot be reached: ask another one next time."""
        if address == self.address():
            self._home = None
            self._turn += 1


def failed(error: Exception, sent: bool, route: Route | None, address: Address | None) -> Exception:
    """Return what becomes of a call whose connection broke, or that had none."""
    told = failure(error, sent)
    if route is None or address is None:
        return told
    route.lost(address)
    return told if sent else Unreached(address, told)


class Resend:
    """A call that is sent again after answers which say that nothing ran, until its time is over.

    ``by_text``: with the script's text. ``at``: another node than the usual one, for this time (``ASKING``).
    """

    __slots__ = ("_deadline", "_patience", "_unreached", "at", "by_text")

    def __init__(self, timeout: float) -> None:
        self._deadline = monotonic() + timeout
        self._patience = 0.0
        self._unreached: set[Address] = set()
        self.at: Address | None = None
        self.by_text = False

    def after(self, error: Exception, route: Route | None, asked: Address | None) -> float:
        """Seconds to wait before it is sent again. Raises what the caller is told where it is not."""
        if isinstance(error, NoScriptError) and not self.by_text:
            self.by_text = True
            return 0.0
        self.at = None
        if route is not None and asked is not None:
            if isinstance(error, AskError):
                told = route.told(error, asked)
                self.at = None if isinstance(error, MovedError) else told
            elif isinstance(error, Unreached):
                self._unreached.add(error.address)
        elif not isinstance(error, TryAgainError):
            raise failure(error, sent=True) from error
        followed = isinstance(error, (AskError, TryAgainError, Unreached))
        lost = route is not None and (self.at or route.address()) in self._unreached
        if not followed or lost or monotonic() >= self._deadline:
            if isinstance(error, Unreached):
                raise error.failure from error.__cause__
            raise failure(error, sent=True) from error
        wait, self._patience = self._patience, min(2 * self._patience + 0.001, 0.03)
        return wait

"""Redis's protocol for the store: calls packed once, who sends them, and what an engine's error means."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Coroutine, Generator, Iterable
from typing import Any, Concatenate, ParamSpec, TypeVar

import attrs
from redis.exceptions import AuthenticationError, BusyLoadingError, MaxConnectionsError, ResponseError

from ..errors import StoreBusy, StoreUnavailable
from ._redis_script import Script

P = ParamSpec("P")
T = TypeVar("T")

NOTHING = "nothing was charged"
UNKNOWN = "the outcome is unknown: retry with a request_id"


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


Trip = Generator[Call, Any, T]
"""Steps that yield calls and are sent their replies."""


def pack(arguments: Iterable[str | bytes]) -> bytes:
    packed = []
    for argument in arguments:
        data = argument if isinstance(argument, bytes) else argument.encode()
        packed.append(b"$%d\r\n%b\r\n" % (len(data), data))
    return b"".join(packed)


def run(script: Script, keys: list[str], *arguments: str) -> Call:
    return Call(script, pack([str(len(keys)), *keys, *arguments]), 1 + len(keys) + len(arguments))


def plain(*arguments: str) -> Call:
    return Call(None, pack(arguments), len(arguments))


def to_json(data: object) -> str:
    return json.dumps(data, ensure_ascii=False, separators=(",", ":"))


def to_text(data: bytes | None) -> str | None:
    return None if data is None else data.decode()


_REFUSED = (ResponseError, AuthenticationError, BusyLoadingError)
"""What a server answers in place of doing anything."""


def failure(error: BaseException, sent: bool) -> Exception:
    """What an engine's error means for the caller, and whether anything may have happened."""
    if isinstance(error, MaxConnectionsError):
        return StoreBusy(f"no connection to the server is free; {NOTHING}")
    known = NOTHING if isinstance(error, _REFUSED) or not sent else UNKNOWN
    return StoreUnavailable(f"{type(error).__name__}: {error}; {known}")


def synchronous(steps: Callable[Concatenate[Any, P], Trip[T]]) -> Callable[Concatenate[Any, P], T]:
    """A method that sends each call of its steps and waits for the reply."""

    @functools.wraps(steps)
    def method(self: Any, /, *args: P.args, **kwargs: P.kwargs) -> T:
        trip = steps(self, *args, **kwargs)
        try:
            call = next(trip)
            while True:
                try:
                    reply = self._send(call)
                except (StoreBusy, StoreUnavailable) as error:
                    call = trip.throw(error)
                else:
                    call = trip.send(reply)
        except StopIteration as stop:
            return stop.value  # type: ignore[no-any-return] # what the steps return

    return method


def awaited(steps: Callable[Concatenate[Any, P], Trip[T]]) -> Callable[Concatenate[Any, P], Coroutine[Any, Any, T]]:
    """A coroutine method that awaits the reply to each call of its steps."""

    @functools.wraps(steps)
    async def method(self: Any, /, *args: P.args, **kwargs: P.kwargs) -> T:
        trip = steps(self, *args, **kwargs)
        try:
            call = next(trip)
            while True:
                try:
                    reply = await self._send(call)
                except (StoreBusy, StoreUnavailable) as error:
                    call = trip.throw(error)
                else:
                    call = trip.send(reply)
        except StopIteration as stop:
            return stop.value  # type: ignore[no-any-return] # what the steps return

    return method

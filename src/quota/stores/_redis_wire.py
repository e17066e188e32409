"""Redis's protocol for the store: calls packed once, who sends them, and what an engine's error means."""

from __future__ import annotations

import asyncio
import functools
import json
import threading
from collections.abc import Callable, Coroutine, Generator, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar

import attrs
from redis.exceptions import AuthenticationError, BusyLoadingError, MaxConnectionsError, ResponseError

from ..clock import pause
from ..errors import StoreBusy, StoreUnavailable
from ._redis_script import Script

P = ParamSpec("P")
T = TypeVar("T")
L = TypeVar("L")

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


@attrs.frozen
class Pause:
    """Let others go first, for so many seconds."""

    seconds: float


@attrs.frozen
class InLine:
    """Stand in line with this process's other writers of a record, until the steps end; ``StoreBusy`` after so long.

    Writers of one process would only get in each other's way on the server.
    """

    name: str
    seconds: float

    def busy(self) -> StoreBusy:
        return StoreBusy(f"{self.name} was contended for {self.seconds} s; {NOTHING}")


Trip = Generator[Call | Pause | InLine, Any, T]
"""Steps that yield calls and are sent their replies, or say that they wait."""


class Lines(Generic[L]):
    """A lock for each record that somebody stands in line for, and how many do."""

    def __init__(self, lock: Callable[[], L]) -> None:
        self._new = lock
        self._guard = threading.Lock()
        self._found: dict[str, tuple[L, list[None]]] = {}

    @contextmanager
    def place(self, name: str) -> Iterator[L]:
        with self._guard:
            lock, waiting = self._found.setdefault(name, (self._new(), []))
            waiting.append(None)
        try:
            yield lock
        finally:
            with self._guard:
                waiting.pop()
                if not waiting:
                    del self._found[name]


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

    def wait(self: Any, step: Pause | InLine, held: ExitStack) -> Any:
        if isinstance(step, Pause):
            return pause(step.seconds)
        lock = held.enter_context(self._lines.place(step.name))
        if not lock.acquire(timeout=step.seconds):
            raise step.busy()
        return held.callback(lock.release)

    @functools.wraps(steps)
    def method(self: Any, /, *args: P.args, **kwargs: P.kwargs) -> T:
        trip = steps(self, *args, **kwargs)
        with ExitStack() as held:
            try:
                call = next(trip)
                while True:
                    try:
                        reply = self._send(call) if isinstance(call, Call) else wait(self, call, held)
                    except (StoreBusy, StoreUnavailable) as error:
                        call = trip.throw(error)
                    else:
                        call = trip.send(reply)
            except StopIteration as stop:
                return stop.value  # type: ignore[no-any-return] # what the steps return

    return method


def awaited(steps: Callable[Concatenate[Any, P], Trip[T]]) -> Callable[Concatenate[Any, P], Coroutine[Any, Any, T]]:
    """A coroutine method that awaits the reply to each call of its steps."""

    async def wait(self: Any, step: Pause | InLine, held: ExitStack) -> Any:
        if isinstance(step, Pause):
            return await asyncio.sleep(step.seconds)
        lock = held.enter_context(self._lines.place(step.name))
        try:
            await asyncio.wait_for(lock.acquire(), step.seconds)
        except TimeoutError:
            raise step.busy() from None
        return held.callback(lock.release)

    @functools.wraps(steps)
    async def method(self: Any, /, *args: P.args, **kwargs: P.kwargs) -> T:
        trip = steps(self, *args, **kwargs)
        with ExitStack() as held:
            try:
                call = next(trip)
                while True:
                    try:
                        reply = await (self._send(call) if isinstance(call, Call) else wait(self, call, held))
                    except (StoreBusy, StoreUnavailable) as error:
                        call = trip.throw(error)
                    else:
                        call = trip.send(reply)
            except StopIteration as stop:
                return stop.value  # type: ignore[no-any-return] # what the steps return

    return method

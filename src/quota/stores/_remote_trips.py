"""How the stores on a server wait: steps that yield calls and are sent replies, driven synchronously or awaited."""

from __future__ import annotations

import asyncio
import functools
import json
import threading
from collections.abc import Callable, Coroutine, Generator, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar

import attrs

from ..clock import pause
from ..errors import InvalidValue, StoreBusy, StoreUnavailable
from ..store import COMMON, whole_option

P = ParamSpec("P")
T = TypeVar("T")
L = TypeVar("L")

NOTHING = "nothing was charged"
UNKNOWN = "the outcome is unknown: retry with a request_id"


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


Trip = Generator[Any, Any, T]
"""Steps that yield an engine's calls and are sent their replies, or say that they wait."""


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


def to_json(data: object) -> str:
    return json.dumps(data, ensure_ascii=False, separators=(",", ":"))


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
                        reply = wait(self, call, held) if isinstance(call, (Pause, InLine)) else self._send(call)
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
                        reply = await (
                            wait(self, call, held) if isinstance(call, (Pause, InLine)) else self._send(call)
                        )
                    except (StoreBusy, StoreUnavailable) as error:
                        call = trip.throw(error)
                    else:
                        call = trip.send(reply)
            except StopIteration as stop:
                return stop.value  # type: ignore[no-any-return] # what the steps return

    return method


def own_options(options: dict[str, str], *more: str) -> dict[str, Any]:
    """Take what is the store's own out of a URL's options; ``more``: further whole numbers."""
    own: dict[str, Any] = {name: whole_option(options, name) for name in ("timeout", *more, *COMMON) if name in options}
    if "namespace" in options:
        own["namespace"] = options.pop("namespace")
    if "check_clock" in options:
        text = options.pop("check_clock")
        if text not in ("true", "false"):
            raise InvalidValue("check_clock", text, "true or false in the store's URL")
        own["check_clock"] = text == "true"
    return own

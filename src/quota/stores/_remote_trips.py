"""How the stores on a server wait: steps that yield calls and are sent replies, driven synchronously or awaited."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Coroutine, Generator
from typing import Any, Concatenate, ParamSpec, TypeVar

from ..errors import InvalidValue, StoreBusy, StoreUnavailable
from ..store import COMMON, whole_option

P = ParamSpec("P")
T = TypeVar("T")

NOTHING = "nothing was charged"
UNKNOWN = "the outcome is unknown: retry with a request_id"

Trip = Generator[Any, Any, T]
"""Steps that yield an engine's calls and are sent their replies."""


def to_json(data: object) -> str:
    return json.dumps(data, ensure_ascii=False, separators=(",", ":"))


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

"""The way that the stores on a server wait.

Steps that yield calls and are sent replies, driven synchronously or awaited.
"""

from __future__ import annotations

import asyncio
import functools
import os
import threading
from collections.abc import Callable, Coroutine, Generator, Hashable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, TypeVar, overload

import attrs

from ...clock import pause
from ...errors import InvalidValue, StoreBusy, StoreUnavailable
from ..base import COMMON
from ..urls import seconds_option, whole_option

P = ParamSpec("P")
T = TypeVar("T")
L = TypeVar("L")

NOTHING = "nothing was charged"
UNKNOWN = "the outcome is unknown: retry with a request_id"


def none_came(broken: bool) -> Exception:
    """Return why a call had no connection in time: all are in use or, where the last one broke, the server is away.

    Threads in line for connections to a server that hangs must not pile up, each for the whole timeout.
    """
    if broken:
        return StoreUnavailable(f"no connection to the server came in time, and the last one broke; {NOTHING}")
    return StoreBusy(f"no connection to the server is free; {NOTHING}")


@attrs.frozen
class Pause:
    """Let others go first, for so many seconds."""

    seconds: float


@attrs.frozen
class JoinQueue:
    """Stand in line with this process's other writers of a record, until the steps end; ``StoreBusy`` after so long.

    Writers of one process would only get in each other's way on the server.
    """

    name: str
    seconds: float

    def busy(self) -> StoreBusy:
        return StoreBusy(f"{self.name} was contended for {self.seconds} s; {NOTHING}")


Flow = Generator[Any, Any, T]
"""Steps that yield an engine's calls and are sent their replies, or say that they wait."""


class QueueTicket:
    """One call's place in a line, if it stands in one. ``holds``: that it has the lock, or has asked for it."""

    __slots__ = ("holds", "lock", "name")

    def __init__(self) -> None:
        self.name: Hashable = None
        self.lock: Any = None
        self.holds = False


class _QueueState(Generic[L]):
    """The lines of one process, and what guards them."""

    __slots__ = ("found", "guard")

    def __init__(self) -> None:
        self.guard = threading.RLock()
        self.found: dict[Hashable, tuple[L, set[QueueTicket]]] = {}


class Queues(Generic[L]):
    """A lock for each record that somebody stands in line for, and who does.

    A signal handler may call the store in the middle of any of this, and an interrupt may end it. A forked child has
    lines of its own, since whoever stood in its parent's is not there to leave them. The process is asked for its
    number: not every fork tells Python.
    """

    def __init__(self, lock: Callable[[], L]) -> None:
        self._new = lock
        self._states: dict[int, _QueueState[L]] = {}

    def _state(self) -> _QueueState[L]:
        number = os.getpid()
        return self._states.get(number) or self._states.setdefault(number, _QueueState())

    def __len__(self) -> int:
        """Return how many lines there are in this process."""
        return len(self._state().found)

    def enter(self, ticket: QueueTicket, name: Hashable) -> L:
        """Have a place in the line of that name, whose lock is then to be waited for."""
        state = self._state()
        with state.guard:
            ticket.name = name
            ticket.lock, visits = state.found.setdefault(name, (self._new(), {ticket}))
            visits.add(ticket)
        return ticket.lock  # type: ignore[no-any-return] # an L

    def leave(self, ticket: QueueTicket) -> None:
        """Give the place back, and the lock; what was given back already, or never had, is no matter."""
        if ticket.name is None:
            return
        if ticket.holds:
            with suppress(RuntimeError):  # a thread's lock knows its owner: it was never had, or is given back
                ticket.lock.release()
            ticket.holds = False
        state = self._state()
        with state.guard:
            found = state.found.get(ticket.name)
            if found is not None:
                found[1].discard(ticket)
                if not found[1]:
                    state.found.pop(ticket.name, None)
            ticket.name = None


class operation(Generic[P, T]):  # noqa: N801 -- a decorator
    """An operation of a store, written once as steps. In a ``Synchronous`` or ``Awaited`` store it is a method."""

    def __init__(self, steps: Callable[Concatenate[Any, P], Flow[T]]) -> None:
        self.steps = steps
        self.__doc__ = steps.__doc__
        annotations = steps.__annotations__  # at run time they tell what the steps return in the end
        if annotations["return"].startswith("Flow["):
            annotations["return"] = annotations["return"][5:-1]

    @overload
    def __get__(self, store: None, kind: Any) -> operation[P, T]: ...
    @overload
    def __get__(self, store: Synchronous, kind: Any) -> Callable[P, T]: ...
    @overload
    def __get__(self, store: Awaited, kind: Any) -> Callable[P, Coroutine[Any, Any, T]]: ...
    def __get__(self, store: Any, kind: Any) -> Any:
        """Found only where neither of the two has put a method in its place."""
        return self

    if TYPE_CHECKING:  # pyright asks whether this, and not what it gives, is the method that a ledger's store needs

        def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Any: ...


def _drive(store: type, driver: Callable[[Any], Any]) -> None:
    for name in dir(store):
        found = getattr(store, name)
        if isinstance(found, operation):
            setattr(store, name, driver(found.steps))


class Synchronous:
    """A store whose operations send each call of their steps (``_send``) and wait for the reply.

    ``blocking``: an ``AsyncLedger`` asks in threads.
    """

    blocking = True
    _lock: Callable[[], Any] = threading.RLock

    def __init_subclass__(cls) -> None:
        _drive(cls, synchronous)


class Awaited:
    """A store whose operations are awaited, and await the reply to each call of their steps (``_send``)."""

    blocking = False
    _lock: Callable[[], Any] = asyncio.Lock

    def __init_subclass__(cls) -> None:
        _drive(cls, awaited)


def _wait(store: Any, step: Pause | JoinQueue, ticket: QueueTicket) -> Any:
    if isinstance(step, Pause):
        return pause(step.seconds)
    lock = store._queues.enter(ticket, step.name)
    ticket.holds = True  # before it is so: an interrupt may come as soon as it is
    if not lock.acquire(timeout=step.seconds):
        ticket.holds = False
        raise step.busy()
    return None


def synchronous(steps: Callable[Concatenate[Any, P], Flow[T]]) -> Callable[Concatenate[Any, P], T]:
    """A method that sends each call of its steps and waits for the reply."""

    @functools.wraps(steps)
    def method(self: Any, /, *args: P.args, **kwargs: P.kwargs) -> T:
        flow = steps(self, *args, **kwargs)
        ticket: QueueTicket | None = None
        try:
            call = next(flow)
            while True:
                try:
                    if isinstance(call, (Pause, JoinQueue)):
                        ticket = ticket or QueueTicket()
                        reply = _wait(self, call, ticket)
                    else:
                        reply = self._send(call)
                except (StoreBusy, StoreUnavailable) as error:
                    call = flow.throw(error)
                else:
                    call = flow.send(reply)
        except StopIteration as stop:
            return stop.value  # type: ignore[no-any-return] # what the steps return
        finally:
            if ticket is not None:
                try:
                    self._queues.leave(ticket)
                except BaseException:
                    self._queues.leave(ticket)  # an interrupt came in the middle of that
                    raise

    return method


async def _await(store: Any, step: Pause | JoinQueue, ticket: QueueTicket) -> Any:
    if isinstance(step, Pause):
        return await asyncio.sleep(step.seconds)
    # A line for each event loop: a lock of one cannot be waited for in another. Calls of several loops get past
    # each other as those of several processes do.
    lock = store._queues.enter(ticket, (asyncio.get_running_loop(), step.name))
    try:
        async with asyncio.timeout(step.seconds):  # wait_for of Python 3.11 may swallow a cancellation
            await lock.acquire()
            ticket.holds = True
    except TimeoutError:
        raise step.busy() from None
    return None


def awaited(steps: Callable[Concatenate[Any, P], Flow[T]]) -> Callable[Concatenate[Any, P], Coroutine[Any, Any, T]]:
    """A coroutine method that awaits the reply to each call of its steps."""

    @functools.wraps(steps)
    async def method(self: Any, /, *args: P.args, **kwargs: P.kwargs) -> T:
        flow = steps(self, *args, **kwargs)
        ticket: QueueTicket | None = None
        try:
            call = next(flow)
            while True:
                try:
                    if isinstance(call, (Pause, JoinQueue)):
                        ticket = ticket or QueueTicket()
                        reply = await _await(self, call, ticket)
                    else:
                        reply = await self._send(call)
                except (StoreBusy, StoreUnavailable) as error:
                    call = flow.throw(error)
                else:
                    call = flow.send(reply)
        except StopIteration as stop:
            return stop.value  # type: ignore[no-any-return] # what the steps return
        finally:
            if ticket is not None:
                self._queues.leave(ticket)

    return method


def own_options(options: dict[str, str], *more: str) -> dict[str, Any]:
    """Take what is the store's own out of a URL's options; ``more``: further whole numbers."""
    own: dict[str, Any] = {name: whole_option(options, name) for name in (*more, *COMMON) if name in options}
    if "timeout" in options:
        own["timeout"] = seconds_option(options, "timeout")
    if "namespace" in options:
        own["namespace"] = options.pop("namespace")
    if "check_clock" in options:
        text = options.pop("check_clock")
        if text not in ("true", "false"):
            raise InvalidValue("check_clock", text, "true or false in the store's URL")
        own["check_clock"] = text == "true"
    return own

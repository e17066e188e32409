"""Waiting until a call is admitted: within a deadline, first come, first served for each key of a process."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator
from contextlib import suppress
from datetime import timedelta
from functools import partial
from typing import Any, NamedTuple

from ..clock import MICROSECOND, Clock, monotonic, pause, system_clock
from ..decision import Decision
from ..errors import InvalidValue
from ..operations.request import refused
from ..process.forks import across_forks
from ..refusals import trying
from ..rule.limits import CompiledConcurrency
from .reservations.settling import QUEUES

_LONGEST = 366 * 86_400
_SOONEST, _LATEST = 0.01, 0.5
"""Seconds until a slot is asked for again that no call of this process gives back."""
_SLICE = 0.01
"""Seconds between looks at a clock that is not the system's, which may be moved by hand."""


def span_of(timeout: float | timedelta) -> float:
    """A timeout in seconds, checked."""
    seconds = timeout / MICROSECOND / 1e6 if isinstance(timeout, timedelta) else timeout
    if type(seconds) not in (int, float) or not 0 <= seconds <= _LONGEST:
        raise InvalidValue("timeout", timeout, "seconds or a timedelta, from zero to 366 days")
    return seconds


class Queues:
    """The calls that wait for a key, in order. A signal handler may come in the middle of any of it."""

    def __init__(self) -> None:
        self._found: dict[str, deque[Callable[[], object]]] = {}
        self._guard = threading.RLock()
        across_forks(self._guard)

    def __contains__(self, name: str) -> bool:
        return name in self._found

    def __len__(self) -> int:
        return len(self._found)

    def enter(self, name: str, wake: Callable[[], object]) -> bool:
        """Have a place; whether it is the first. ``wake`` is called once it is."""
        with self._guard:
            queue = self._found.setdefault(name, deque())
            queue.append(wake)
            return queue[0] is wake

    def leave(self, name: str, wake: Callable[[], object]) -> None:
        """Give the place up, and wake who is first then; whose event loop was closed is gone."""
        with self._guard:
            queue = self._found.get(name, deque())
            was_first = bool(queue) and queue[0] is wake
            with suppress(ValueError):
                queue.remove(wake)
            while queue and was_first:
                try:
                    queue[0]()
                    break
                except RuntimeError:
                    queue.popleft()
            if not queue:
                self._found.pop(name, None)

    def released(self) -> None:
        """Wake who is first for each key: a slot came back, which may be an account's."""
        with self._guard:
            for queue in list(self._found.values()):
                with suppress(RuntimeError):
                    queue[0]()


def queues_of(ledger: Any) -> Queues:
    """Those of a ledger's store, made when the first call waits."""
    found: Queues = QUEUES.get(ledger.store) or QUEUES.setdefault(ledger.store, Queues())
    return found


class Ask(NamedTuple):
    """Ask the ledger; ``peek``: only what it would answer."""

    peek: bool


class Turn(NamedTuple):
    """Wait to be the first in a queue, for so many seconds."""

    name: str
    seconds: float


class Sleep(NamedTuple):
    """Wait for so many seconds; ``slot``: or until a reservation is settled here."""

    seconds: float
    slot: bool = False


Waiting = Generator[Any, Any, Any]
"""Yields what is to be done, is sent what came of it, and returns the last answer."""


def decision_of(answer: Any) -> Decision:
    """The decision of an answer, which may be a reservation's."""
    return answer if isinstance(answer, Decision) else answer.decision


def wait(queues: Queues, clock: Clock, timeout: float | timedelta) -> Waiting:
    """The steps of one call that waits until it is admitted, or cannot be before its deadline."""
    seconds = span_of(timeout)
    end, latest = monotonic() + seconds, clock() + int(seconds * 1e6)

    def over(decision: Decision) -> bool:
        """Tell whether an answer is the last one: admitted, or never to be before the deadline."""
        retry_at, until = _instants(decision)
        return decision.allowed or retry_at is None or until > latest

    looked = bool(queues)
    answer = yield Ask(peek=looked)
    decision = decision_of(answer)
    subject = decision._details().key
    name = "" if subject is None else subject.id
    if looked and (over(decision) is not decision.allowed or name not in queues):
        looked, answer = False, (yield Ask(peek=False))  # nobody is before it, or it is refused whoever is
        decision = decision_of(answer)
    if not looked and over(decision):
        return answer
    first = yield Turn(name, end - monotonic())
    if not first or looked:
        answer, looked = (yield Ask(peek=False)), False
    poll = _SOONEST
    while first and not over(decision_of(answer)):
        retry_at, until = _instants(decision_of(answer))
        while (left := (until - clock()) / 1e6) > 0:
            left = min(left, end - monotonic(), left if clock is system_clock else _SLICE)
            if left <= 0:
                return answer
            yield Sleep(left)
        if until < retry_at:
            lapses = (retry_at - clock()) / 1e6
            left = min(poll, end - monotonic(), lapses if lapses > 0 else poll)  # a store's clock may be behind
            if left <= 0:
                return answer
            poll = _SOONEST if (yield Sleep(left, slot=True)) else min(2 * poll, _LATEST)
        answer = yield Ask(peek=False)
    return answer


def _instants(decision: Decision) -> tuple[Any, int]:
    """Return when a call is admitted if nobody else calls, and before when it cannot be, whatever slots come back."""
    outcome = decision._details().outcome
    if outcome.retry_at is None:
        return None, 0
    full = [s for s in outcome.states if s.refused and isinstance(s.limit, CompiledConcurrency)]
    if not full:
        return outcome.retry_at, outcome.retry_at
    others = [s.retry_at or outcome.retry_at for s in outcome.states if s.refused and s not in full]
    return outcome.retry_at, max(others, default=0)


def drive(queues: Queues, waiting: Waiting, ask: Callable[[], Any], peek: Callable[[], Any]) -> Any:
    """Do the steps, waiting in this thread."""
    turn, names = threading.Event(), []
    wake = turn.set
    try:
        step = next(waiting)
        while True:
            match step:
                case Ask(peek=looks):
                    turn.clear()
                    step = waiting.send(peek() if looks else ask())
                case Turn(name=name, seconds=seconds):
                    names.append(name)
                    step = waiting.send(queues.enter(name, wake) or turn.wait(max(0, seconds)))
                case Sleep(seconds=seconds, slot=slot):
                    step = waiting.send(turn.wait(seconds) if slot else pause(seconds))
    except StopIteration as stop:
        return stop.value
    finally:
        for name in names:
            queues.leave(name, wake)


async def drive_awaited(queues: Queues, waiting: Waiting, ask: Callable[[], Any], peek: Callable[[], Any]) -> Any:
    """Do the steps, awaited."""
    import asyncio  # noqa: PLC0415 -- a ledger that is not awaited never needs it

    turn, names, loop = asyncio.Event(), [], asyncio.get_running_loop()

    def wake() -> None:
        loop.call_soon_threadsafe(turn.set)

    async def within(seconds: float) -> bool:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await turn.wait()
        return turn.is_set()

    try:
        step = next(waiting)
        while True:
            match step:
                case Ask(peek=looks):
                    turn.clear()
                    step = waiting.send(await (peek() if looks else ask()))
                case Turn(name=name, seconds=seconds):
                    names.append(name)
                    step = waiting.send(queues.enter(name, wake) or await within(max(0, seconds)))
                case Sleep(seconds=seconds, slot=slot):
                    step = waiting.send(await (within if slot else asyncio.sleep)(seconds))
    except StopIteration as stop:
        return stop.value
    finally:
        for name in names:
            queues.leave(name, wake)


def until_admitted(ledger: Any, name: str, who: Any, cost: Any, timeout: Any, where: Any, **more: Any) -> Any:
    """Call a method of a ledger until it is admitted, within a timeout; ``where``: what ``peek`` is asked too.

    The class's own method: whoever watches the ledger's sees one call, however often it is tried.
    """
    queues, ask, peek = queues_of(ledger), partial(getattr(type(ledger), name), ledger), ledger.peek
    steps = wait(queues, ledger._steps._clock, timeout)
    with trying():
        answer = drive(queues, steps, lambda: ask(who, cost, **where, **more), lambda: peek(who, cost, **where))
    return _told(answer, where)


async def until_admitted_awaited(
    ledger: Any, name: str, who: Any, cost: Any, span: Any, where: Any, **more: Any
) -> Any:
    """The same, awaited."""
    queues, ask, peek = queues_of(ledger), partial(getattr(type(ledger), name), ledger), ledger.peek
    steps = wait(queues, ledger._steps._clock, span)
    with trying():
        answer = await drive_awaited(
            queues, steps, lambda: ask(who, cost, **where, **more), lambda: peek(who, cost, **where)
        )
    return _told(answer, where)


def _told(answer: Any, where: Any) -> Any:
    """Return the answer of a call that waited; of a refusal the logger is told once."""
    decision = decision_of(answer)
    if not decision.allowed:
        refused(decision, where["api"], where["route"])
    return answer

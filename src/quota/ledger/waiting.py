"""Waiting until a call is admitted: within a deadline, first come, first served for each key of a process.

A call comes twice into a line: by what was presented before it asks the store anything, since answers of a server come
in any order, and by its key once that is known. It leaves the first line as it has its place in the second.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator, Hashable
from contextlib import suppress
from datetime import timedelta
from functools import partial
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

from ..clock import MICROSECOND, monotonic, pause, system_clock
from ..decision import Decision
from ..errors import InvalidValue
from ..operations.request import refused
from ..process.home import Home
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
    """The calls that wait for a key, in order. A signal handler may come in the middle of any of it.

    A forked child has queues of its own: nobody is there to leave its parent's.
    """

    def __init__(self) -> None:
        self._begin()
        self._home = Home()

    def _begin(self) -> None:
        self._found: dict[Hashable, deque[Callable[[], object]]] = {}
        self._guard = threading.RLock()

    def __contains__(self, name: Hashable) -> bool:
        return name in self._found

    def __len__(self) -> int:
        self._home.check(self._begin)
        return len(self._found)

    def enter(self, name: Hashable, wake: Callable[[], object]) -> bool:
        """Have a place; whether it is the first. ``wake`` is called once it is."""
        self._home.check(self._begin)
        with self._guard:
            queue = self._found.setdefault(name, deque())
            queue.append(wake)
            return queue[0] is wake

    def leave(self, name: Hashable, wake: Callable[[], object]) -> None:
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
    """Those of a ledger's store, by key, made when the first call waits."""
    found: Queues = _of_store(QUEUES, ledger)
    return found


_ARRIVALS: WeakKeyDictionary[Any, Queues] = WeakKeyDictionary()
"""By store, the calls of which it is not known yet for which key they come, by what they present."""


def _of_store(queues: Any, ledger: Any) -> Any:
    return queues.get(ledger.store) or queues.setdefault(ledger.store, Queues())


def _presented(who: Any) -> int:
    """Name a secret, a key or a caller; two of one name only wait for each other's answer."""
    try:
        return hash(who)
    except TypeError:  # which the ledger refuses
        return 0


class Ask(NamedTuple):
    """Ask the ledger; ``peek``: only what it would answer."""

    peek: bool


class Turn(NamedTuple):
    """Wait to be the first in a queue, for so many seconds; a place in another is given up once it has one in this."""

    queues: Queues
    name: Hashable
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


def wait(ledger: Any, who: Any, timeout: float | timedelta) -> Waiting:
    """The steps of one call that waits until it is admitted, or cannot be before its deadline."""
    seconds, clock = span_of(timeout), ledger._steps._clock
    end, latest = monotonic() + seconds, clock() + int(seconds * 1e6)
    if not (yield Turn(_of_store(_ARRIVALS, ledger), _presented(who), seconds)):
        return (yield Ask(peek=False))
    answer, name, looked = yield from _arrive(queues_of(ledger), latest)
    if name is None:
        return answer
    first = yield Turn(queues_of(ledger), name, end - monotonic())
    if not first or looked:
        answer = yield Ask(peek=False)
    poll = _SOONEST
    while first and not _over(decision_of(answer), latest):
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


def _arrive(queues: Queues, latest: int) -> Waiting:
    """The first question of a call: its answer, for which key it is to wait, if it is, and whether it only looked."""
    looked = bool(queues)
    answer = yield Ask(peek=looked)
    decision = decision_of(answer)
    subject = decision._details().key
    name = "" if subject is None else subject.id
    if looked and (_over(decision, latest) is not decision.allowed or name not in queues):
        looked, answer = False, (yield Ask(peek=False))  # nobody is before it, or it is refused whoever is
        decision = decision_of(answer)
    return answer, None if not looked and _over(decision, latest) else name, looked


def _over(decision: Decision, latest: int) -> bool:
    """Tell whether an answer is the last one: admitted, or never to be before the deadline."""
    retry_at, until = _instants(decision)
    return decision.allowed or retry_at is None or until > latest


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


class _Places(list[Turn]):
    """The places of one call in lines, noted before they are had: an interrupt may come as soon as they are."""

    def move(self, turn: Turn, wake: Callable[[], object]) -> bool:
        """Have a place, and then no other one; whether it is the first."""
        self.append(turn)
        first = turn.queues.enter(turn.name, wake)
        for left in self[:-1]:
            left.queues.leave(left.name, wake)
        return first

    def leave(self, wake: Callable[[], object]) -> None:
        """Give up what was not given up before."""
        for place in self:
            place.queues.leave(place.name, wake)


def drive(waiting: Waiting, ask: Callable[[], Any], peek: Callable[[], Any]) -> Any:
    """Do the steps, waiting in this thread."""
    turn, places = threading.Event(), _Places()
    wake = turn.set
    try:
        step = next(waiting)
        while True:
            match step:
                case Ask(peek=looks):
                    turn.clear()
                    step = waiting.send(peek() if looks else ask())
                case Turn(seconds=seconds):
                    turn.clear()
                    step = waiting.send(places.move(step, wake) or turn.wait(max(0, seconds)))
                case Sleep(seconds=seconds, slot=slot):
                    step = waiting.send(turn.wait(seconds) if slot else pause(seconds))
    except StopIteration as stop:
        return stop.value
    finally:
        places.leave(wake)


async def drive_awaited(waiting: Waiting, ask: Callable[[], Any], peek: Callable[[], Any]) -> Any:
    """Do the steps, awaited."""
    import asyncio  # noqa: PLC0415 -- a ledger that is not awaited never needs it

    turn, places, loop = asyncio.Event(), _Places(), asyncio.get_running_loop()

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
                case Turn(seconds=seconds):
                    turn.clear()
                    step = waiting.send(places.move(step, wake) or await within(max(0, seconds)))
                case Sleep(seconds=seconds, slot=slot):
                    step = waiting.send(await (within if slot else asyncio.sleep)(seconds))
    except StopIteration as stop:
        return stop.value
    finally:
        places.leave(wake)


def until_admitted(ledger: Any, name: str, who: Any, cost: Any, timeout: Any, where: Any, **more: Any) -> Any:
    """Call a method of a ledger until it is admitted, within a timeout; ``where``: what ``peek`` is asked too.

    The class's own method: whoever watches the ledger's sees one call, however often it is tried.
    """
    ask, peek = partial(getattr(type(ledger), name), ledger), ledger.peek
    steps = wait(ledger, who, timeout)
    with trying():
        answer = drive(steps, lambda: ask(who, cost, **where, **more), lambda: peek(who, cost, **where))
    return _told(answer, where)


async def until_admitted_awaited(
    ledger: Any, name: str, who: Any, cost: Any, span: Any, where: Any, **more: Any
) -> Any:
    """The same, awaited."""
    ask, peek = partial(getattr(type(ledger), name), ledger), ledger.peek
    steps = wait(ledger, who, span)
    with trying():
        answer = await drive_awaited(steps, lambda: ask(who, cost, **where, **more), lambda: peek(who, cost, **where))
    return _told(answer, where)


def _told(answer: Any, where: Any) -> Any:
    """Return the answer of a call that waited; of a refusal the logger is told once."""
    decision = decision_of(answer)
    if not decision.allowed:
        refused(decision, where["api"], where["route"])
    return answer

"""One response whose slots and units are held: how much of it is to come, and who holds it longer while it lasts."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Iterable
from functools import cache
from queue import Empty, SimpleQueue
from typing import Any

from ...clock import monotonic
from ...decision import Decision
from ...process.forks import across_forks
from ...rule.limits import CompiledConcurrency
from ..gate import UNDECIDED, Gate, Held, log

_BODILESS = (204, 304)
SHARE = 3
"""A response that lasts is held longer each time that a third of its ``ttl`` is over."""
_NEVER = float("inf")
_SHORTEST = 0.05
"""Seconds: no ``ttl`` makes a busy thread."""


class Carried:
    """A response on its way. ``_left``: so many bytes of its body are to come, where that is known."""

    _left: int | None = None
    _over = False
    _status: int | None = None

    def __init__(self, gate: Gate, reservation: Held) -> None:
        self._gate = gate
        self._reservation: Any = reservation
        reservation._patient = False
        self._process = os.getpid()

    @property
    def span(self) -> float:
        """Seconds until it is to be held longer."""
        return max(float(self._gate.ttl / 1e6 / SHARE), _SHORTEST)

    @property
    def here(self) -> bool:
        """Tell a response of this process from what a fork has copied of its parent's."""
        return self._process == os.getpid()

    def starts(self, method: str, status: int, fields: Iterable[tuple[Any, Any]] = ()) -> bool:
        """Take note of a response's start; tell whether what is held goes back at once, since it failed.

        A failure is answered while it holds what it took only where that keeps its place in flight.
        """
        self._status = status
        lengths = [value for name, value in fields if name.lower() in ("content-length", b"content-length")]
        known = len(lengths) == 1 and lengths[0].isdigit()
        self._left = 0 if method == "HEAD" or status in _BODILESS else int(lengths[0]) if known else None
        gate, held = self._gate, self._reservation
        return gate.charge == "success" and not gate.success(status) and not _in_flight(held.decision)

    def ends(self, part: bytes) -> bool:
        """Count a part that is about to go out; tell whether the client has all of it then."""
        if self._left is None:
            return False
        self._left -= len(part)
        return self._left <= 0

    def outlived(self, error: Exception) -> bool:
        """Tell whether it is over with holding a response longer; where the store was away, the ledger told so."""
        if isinstance(error, UNDECIDED):
            return False
        if not self._over and not self._reservation.settled:
            log.warning("a response outlives what it holds, by its ttl: %r", error)
        return True


def _in_flight(decision: Decision) -> bool:
    """Tell whether a call has a place in flight."""
    return any(isinstance(state.limit, CompiledConcurrency) for state in decision._details().outcome.states)


class Renewals:
    """A thread that holds longer what responses hold, while there are any. A response that is dropped is settled here.

    One for each ``ttl``, whatever middleware they are of. Servers that let no thread of theirs run hold for one
    ``ttl``, and no longer.
    """

    def __init__(self) -> None:
        self._since: weakref.WeakKeyDictionary[Any, float] = weakref.WeakKeyDictionary()
        self._dropped: SimpleQueue[Any] = SimpleQueue()  # the only one that may be put to while an object is dropped
        self._thread: threading.Thread | None = None
        self._lock = threading.RLock()
        across_forks(self._lock)

    def add(self, exchange: Any) -> None:
        """Hold a response longer from now on, until it is settled."""
        with self._lock:
            self._since[exchange] = monotonic()
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(
                    target=self._run, args=(exchange.span / 2,), name="quota-renewals", daemon=True
                )
                self._thread.start()

    def remove(self, exchange: Any) -> None:
        """Leave a response that is settled alone."""
        with self._lock:
            self._since.pop(exchange, None)

    def drop(self, exchange: Any) -> None:
        """Have a response settled that nobody reads any more, and that nobody closed."""
        self._dropped.put(exchange)

    def _run(self, pause: float) -> None:
        while True:
            until = monotonic() + pause
            while (left := until - monotonic()) > 0:
                try:
                    self._dropped.get(timeout=left).settle()
                except Empty:
                    break
                except Exception:  # noqa: BLE001 -- the thread goes on
                    log.exception("a response that nobody closed could not be settled")
            self.round()
            with self._lock:
                if not self._since and self._dropped.empty():
                    self._thread = None
                    return

    def round(self) -> None:
        """Hold longer what has been held for a third of its ``ttl`` or more."""
        with self._lock:
            now = monotonic()
            late = [each for each, since in self._since.items() if each.here and now - since >= each.span]
        while late:
            exchange, since = late.pop(), monotonic()
            over = exchange.renew()
            with self._lock:
                if over is not None and exchange in self._since:
                    self._since[exchange] = _NEVER if over else since
            del exchange


@cache
def renewals(ttl: int) -> Renewals:  # noqa: ARG001 -- what is kept apart
    """Return the thread for responses that are held so long."""
    return Renewals()

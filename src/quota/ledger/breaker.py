"""A store that is away is asked once in a while, and meanwhile everybody is answered at once."""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable
from typing import Any

from ..clock import monotonic
from ..errors import StoreBusy, StoreUnavailable
from ..process.forks import across_forks

_IN_A_ROW = 3
_LONGEST_PROBE = 60.0
"""Seconds after which a call that asked is taken to be gone: a forked child has none of its parent's threads."""


class Breaker:
    """Opens after three calls in a row that could not ask the store; then one call in ``every`` seconds asks.

    A store that is busy, or that answers with an error, is not away. At most one call asks at a time while it is open:
    threads never pile up behind a server that hangs.
    """

    guarded = frozenset(("consume", "peek", "reserve", "lease", "renew"))
    """Operations that a store which leases asks another through this; what settles or administers is always asked."""

    def __init__(self, every: float) -> None:
        self.every = every
        self._failures = 0
        self._asks_at: float | None = None  # while it is open
        self._probe: float | None = None
        self._lock = threading.RLock()
        across_forks(self._lock)

    @property
    def open(self) -> bool:
        """Tell whether the store is taken to be away."""
        return self._asks_at is not None

    def enter(self) -> bool:
        """Tell whether this call finds out if an absent store is back.

        Raises ``StoreUnavailable`` where it need not ask.
        """
        if self._asks_at is None:
            return False
        with self._lock:
            now = monotonic()
            if self._asks_at is None:
                return False
            busy = self._probe is not None and now < self._probe + _LONGEST_PROBE
            if busy or now < self._asks_at:
                text = f"the store was away and is asked again every {self.every} s; nothing was charged"
                raise StoreUnavailable(text, asked=False)
            self._probe = now
            return True

    def leave(self, error: BaseException | None, *, probe: bool) -> None:
        """Return what came of a call that asked."""
        if error is None and not self._failures:
            return  # nearly always
        away = isinstance(error, StoreUnavailable) and not error.reached
        unknown = error is not None and (isinstance(error, StoreBusy) or not isinstance(error, Exception))
        said = ""
        with self._lock:
            if probe:
                self._probe = None
            if away:
                self._failures += 1
                if self._failures >= _IN_A_ROW:
                    said = "" if self.open else f"is away, asked again every {self.every} s: {error}"
                    self._asks_at = monotonic() + self.every
            elif not unknown:
                said = "answers again" if self.open else ""
                self._failures, self._asks_at = 0, None
        if said:
            import logging  # noqa: PLC0415 -- slow to load, and stores are seldom away

            logging.getLogger(__package__).warning("the store %s", said)

    def ask(self, function: Callable[..., Any], *args: Any) -> Any:
        """Ask the store, or raise ``StoreUnavailable`` at once."""
        probe = self.enter()
        try:
            answer = function(*args)
        except BaseException as error:
            self.leave(error, probe=probe)
            raise
        self.leave(None, probe=probe)
        return answer

    async def ask_awaited(self, function: Callable[..., Awaitable[Any]], *args: Any) -> Any:
        """The same, awaited."""
        probe = self.enter()
        try:
            answer = await function(*args)
        except BaseException as error:
            self.leave(error, probe=probe)
            raise
        self.leave(None, probe=probe)
        return answer

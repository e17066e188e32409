"""The memory store's outbox: so many events, numbered in the step that makes the change they tell of."""

from __future__ import annotations

import itertools
import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress

from ...event import Draft, Event, event
from ...process.atomic import Step, at_once
from ...process.forks import across_forks
from ...rule.limits import StoreOptions


class MemoryOutbox:
    """Events in the order of their numbers. Its lock is the last that a thread takes."""

    def __init__(self, most: int, options: StoreOptions) -> None:
        self._retention = options.retention
        self._lock = threading.RLock()
        self._found: deque[tuple[Draft, int]] = deque(maxlen=most)
        self._numbers = itertools.count(1)
        across_forks(self._lock)

    def at_once(self, steps: Sequence[Step], told: Sequence[Draft]) -> None:
        """Take steps and put down what they change, between which nobody looks."""
        if not told:
            at_once(*steps)
            return
        with self._lock:
            # Numbers are drawn in C as they are put down: what a signal handler changes comes before or after.
            at_once(*steps, (self._found.extend, zip(told, self._numbers, strict=False)))
            for entry in list(itertools.islice(self._found, 2)):
                if entry[0].at < told[-1].since(self._retention):
                    with suppress(ValueError):  # a signal handler was faster
                        self._found.remove(entry)

    def drop(self, which: Callable[[Event], bool]) -> bool:
        """Forget events; tell whether there were any."""
        with self._lock:
            found = [entry for entry in list(self._found) if which(event(entry[1], entry[0].plain()))]
            for entry in found:
                with suppress(ValueError):  # as above
                    self._found.remove(entry)
        return bool(found)

    def events(self, after: int, limit: int) -> list[Event]:
        """Tell of what came after a number."""
        with self._lock:
            found = list(self._found)
        later = (entry for entry in found if entry[1] > after)
        return [event(number, draft.plain()) for draft, number in itertools.islice(later, limit)]

"""An AsyncLedger that tests of the sync one can play with."""

import asyncio
from inspect import iscoroutinefunction

from quota import AsyncReservation, Decision


class Awaited:
    """An AsyncLedger driven step by step, so that the same machine can play with it."""

    def __init__(self, ledger):
        self._ledger, self._runner, self.store = ledger, asyncio.Runner(), ledger.store

    def close(self):
        if self._runner is not None:
            self._runner.run(self._ledger.aclose())
            self._runner.close()
            self._runner = None

    def __getattr__(self, name):
        def call(*args, **kwargs):
            return self._told(self._runner.run(getattr(self._ledger, name)(*args, **kwargs)))

        return call

    def _told(self, answer):
        """The answer, with what is to be awaited of it driven as well."""
        if isinstance(answer, list):
            return [self._told(one) for one in answer]
        if isinstance(answer, Decision) and answer.slot is not None:
            answer._slot = AwaitedReservation(answer.slot, self._runner)
        return AwaitedReservation(answer, self._runner) if isinstance(answer, AsyncReservation) else answer


class AwaitedReservation:
    """A reservation whose methods are awaited at once."""

    def __init__(self, reservation, runner):
        self._reservation, self._runner = reservation, runner

    def __bool__(self):
        return bool(self._reservation)

    def __getattr__(self, name):
        found = getattr(self._reservation, name)
        return (lambda *args: self._runner.run(found(*args))) if iscoroutinefunction(found) else found

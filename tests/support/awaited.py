"""An AsyncLedger that tests of the sync one can play with."""

import asyncio
from contextlib import suppress
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
            asked = getattr(self._ledger, name)(*args, **kwargs)
            if hasattr(asked, "__aiter__"):
                return self._told(asked)
            return self._driven(self._runner.run(asked))

        return call

    def _driven(self, answer):
        """The answer, with what is to be awaited of it driven as well."""
        if isinstance(answer, list):
            return [self._driven(one) for one in answer]
        if isinstance(answer, Decision) and answer.slot is not None:
            answer._slot = AwaitedReservation(answer.slot, self._runner)
        return AwaitedReservation(answer, self._runner) if isinstance(answer, AsyncReservation) else answer

    def _told(self, telling):
        async def following():
            return await anext(telling)

        with suppress(StopAsyncIteration):
            while True:
                yield self._runner.run(following())


class AwaitedReservation:
    """A reservation whose methods are awaited at once."""

    def __init__(self, reservation, runner):
        self._reservation, self._runner = reservation, runner

    def __bool__(self):
        return bool(self._reservation)

    def __getattr__(self, name):
        found = getattr(self._reservation, name)
        return (lambda *args: self._runner.run(found(*args))) if iscoroutinefunction(found) else found

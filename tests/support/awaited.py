"""An AsyncLedger that tests of the sync one can play with."""

import asyncio
from contextlib import suppress


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
            answer = self._runner.run(asked)
            return AwaitedReservation(answer, self._runner) if name == "reserve" else answer

        return call

    def _told(self, telling):
        async def following():
            return await anext(telling)

        with suppress(StopAsyncIteration):
            while True:
                yield self._runner.run(following())


class AwaitedReservation:
    """A reservation whose commit and cancel are awaited at once."""

    def __init__(self, reservation, runner):
        self._reservation, self._runner = reservation, runner
        self.id, self.decision, self._expires = reservation.id, reservation.decision, reservation._expires

    def __bool__(self):
        return bool(self._reservation)

    def commit(self, actual=None):
        return self._runner.run(self._reservation.commit(actual))

    def cancel(self):
        return self._runner.run(self._reservation.cancel())

"""An AsyncLedger that tests of the sync one can play with, and what tasks do to one."""

import asyncio
import threading
import time
from contextlib import suppress
from inspect import iscoroutinefunction

from quota import AsyncLedger, AsyncReservation, Decision, ManualClock, UsagePlan
from receipts import Receipt, check_receipts


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


async def tasks_tile(store, count):
    """Eight tasks that call on one key: how many units their receipts tile. No thread is started."""
    async with AsyncLedger(store, clock=ManualClock(1_773_144_000_000_000)) as ledger:
        await ledger.add_plan(UsagePlan("p", "1000000/day"))
        _, secret = await ledger.issue_key("k", "p")
        receipts = []

        async def work():
            for _ in range(count):
                invoked = time.monotonic()
                decision = await ledger.consume(secret, 2)
                receipts.append(Receipt(invoked, time.monotonic(), 2, decision.limits[0].used))

        threads = set(threading.enumerate())
        await asyncio.gather(*(work() for _ in range(8)))
        assert set(threading.enumerate()) <= threads
        return check_receipts(receipts)


async def cancelled_calls(ledger, secret, cost, rounds):
    """Calls that are cancelled anywhere on their way: how many came to their end, and how many did not."""
    done = unsure = 0
    for number in range(rounds):
        task = asyncio.ensure_future(ledger.consume(secret, cost, request_id=f"id{number}"))
        for _ in range(number % 12):
            await asyncio.sleep(0)
        if number % 12 == 11:
            await asyncio.wait([task])
        task.cancel()
        try:
            await task
            done += 1
        except asyncio.CancelledError:
            unsure += 1
    return done, unsure

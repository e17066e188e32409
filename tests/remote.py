"""What the tests of the stores on a server share."""

import asyncio
import random


class Awaited:
    """An AsyncLedger driven step by step, so that the same machine can play with it."""

    def __init__(self, ledger):
        self._ledger, self._runner, self.store = ledger, asyncio.Runner(), ledger.store

    def close(self):
        self._runner.run(self._ledger.aclose())
        self._runner.close()

    def __getattr__(self, name):
        def call(*args, **kwargs):
            answer = self._runner.run(getattr(self._ledger, name)(*args, **kwargs))
            return AwaitedReservation(answer, self._runner) if name == "reserve" else answer

        return call


class AwaitedReservation:
    """A reservation whose commit and cancel are awaited at once."""

    def __init__(self, reservation, runner):
        self._reservation, self._runner = reservation, runner
        self.decision, self._expires = reservation.decision, reservation._expires

    def __bool__(self):
        return bool(self._reservation)

    def commit(self, actual=None):
        return self._runner.run(self._reservation.commit(actual))

    def cancel(self):
        return self._runner.run(self._reservation.cancel())


class Calls:
    """What both ledgers are asked in one test: the same calls with the same clock."""

    def __init__(self, seed):
        self.random = random.Random(seed)

    def __iter__(self):
        pick = self.random
        for number in range(150):
            yield (
                pick.choice([0, 1, 700_000, 61_000_000, 3_600_000_000]),
                pick.choice(["consume", "consume", "consume", "peek", "reserve"]),
                pick.choice([1, 2, {"tokens": 3}]),
                pick.choice([None, "r"]),
                pick.choice([None, None, f"id{number % 7}"]),
            )

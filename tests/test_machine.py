"""The conformance machine over the memory store: by its fast path, by the general way alone, and awaited."""

import asyncio

import pytest
from hypothesis import settings

from quota import AsyncLedger
from quota.stores.memory import MemoryStore
from quota.testing import Machine, machine


class GeneralStore(MemoryStore):
    """The memory store without its fast path."""

    def _open_lane(self, request, seat, entry, party):
        pass


class Awaited:
    """An AsyncLedger driven step by step, so that the same machine can play with it."""

    def __init__(self, ledger):
        self._ledger = ledger
        self._runner = asyncio.Runner()
        self.store = ledger.store

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
        self.decision, self.id = reservation.decision, reservation.id
        self._expires = reservation._expires

    def __bool__(self):
        return bool(self._reservation)

    def commit(self, actual=None):
        return self._runner.run(self._reservation.commit(actual))

    def cancel(self):
        return self._runner.run(self._reservation.cancel())


class AsyncMachine(Machine):
    """The machine with every call awaited."""

    open = staticmethod(MemoryStore)

    def _ledger(self, store):
        return Awaited(AsyncLedger(store, clock=self.clock))


class ShortMemory(Machine):
    """One day of history and one stripe, so that records are pruned; limits that need no older readings."""

    open = staticmethod(lambda: MemoryStore(stripes=1, retention=1))
    focuses = ("odd windows", "toggled")


TestMemory = machine(MemoryStore).TestCase
TestMemory.settings = settings(stateful_step_count=40)
TestGeneral = machine(GeneralStore).TestCase
TestGeneral.settings = settings(stateful_step_count=40)
TestAwaited = AsyncMachine.TestCase
TestAwaited.settings = settings(stateful_step_count=25)
TestShortMemory = ShortMemory.TestCase
TestShortMemory.settings = settings(stateful_step_count=10)


@pytest.mark.slow
class TestMemoryAtLength(machine(MemoryStore).TestCase):
    """Many long histories."""

    settings = settings(max_examples=5_000, stateful_step_count=80)

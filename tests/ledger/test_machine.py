"""The conformance machine over the memory store: by its fast path, by the general way alone, and awaited."""

import pytest
from hypothesis import settings

from awaited import Awaited
from quota import AsyncLedger
from quota.stores.memory import MemoryStore
from quota.testing import Machine, machine


class GeneralStore(MemoryStore):
    """The memory store without its fast path: the rule is asked whatever is called."""

    def apply(self, request):
        return super().apply(request)

    def _bind(self, request, key_entry, entry, subject):
        pass


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

"""The conformance machine over the memory store: by its fast path, by the general way alone, and awaited."""

from types import SimpleNamespace

import pytest
from hypothesis import settings

from awaited import Awaited
from histories import GeneralStore
from quota import AsyncLedger, UsagePlan
from quota.stores.memory import MemoryStore
from quota.testing import Machine, machine


class AsyncMachine(Machine):
    """The machine with every call awaited."""

    open = staticmethod(MemoryStore)

    def _ledger(self, store):
        return Awaited(AsyncLedger(store, clock=self.clock))


class ShortMemory(Machine):
    """One day of history and one stripe, so that records are pruned; limits that need no older readings."""

    open = staticmethod(lambda: MemoryStore(stripes=1, retention=1))
    focuses = ("odd windows", "toggled")


HALF = settings().max_examples // 2
"""What the same machine finds in other ways through the same rule."""

TestMemory = machine(MemoryStore).TestCase
TestMemory.settings = settings(stateful_step_count=40)
TestGeneral = machine(GeneralStore).TestCase
TestGeneral.settings = settings(max_examples=HALF, stateful_step_count=40)
TestAwaited = AsyncMachine.TestCase
TestAwaited.settings = settings(max_examples=HALF, stateful_step_count=25)
TestShortMemory = ShortMemory.TestCase
TestShortMemory.settings = settings(stateful_step_count=10)


def test_a_refund_ends_with_the_retention_of_the_store():
    """The model believes in no other: it took 35 days for granted, which few histories showed."""
    drawn = iter(["toggled", UsagePlan("p", "9/month"), None])
    world = ShortMemory()
    world.begin(SimpleNamespace(draw=lambda _: next(drawn)))
    world.hammer("k1", known=False, times=1)
    assert world.taken
    world.tick([86_400_000_000])
    world.refund(0, None)
    world.everyone_stands_where_the_model_says()
    world.teardown()


@pytest.mark.slow
class TestMemoryAtLength(machine(MemoryStore).TestCase):
    """Many long histories."""

    settings = settings(max_examples=5_000, stateful_step_count=80)

"""The Redis store's connections, while close(), interrupts and signals come in the middle of calls."""

from __future__ import annotations

import asyncio
import itertools

import pytest
from redis.connection import Connection

from every_store import of_its_own
from interleavings import attempt, plant
from interrupts import from_elsewhere, interrupts
from quota import AsyncLedger, Ledger, ManualClock, UsagePlan
from quota.stores.redis import AsyncRedisStore, RedisStore
from quota.stores.redis import pools as _redis_pools
from quota.stores.redis import store as redis
from quota.stores.server import flow as _remote_trips
from servers import Valkey

NOON = 1_700_049_600_000_000
_numbers = itertools.count()


server = of_its_own(Valkey)


def opened(server, name):
    ledger = Ledger(RedisStore(url=server.url, namespace=name), clock=ManualClock(NOON))
    ledger.add_plan(UsagePlan("p", "100000/day"))
    return ledger, ledger.issue_key("k", "p", id="k").secret


def sockets(ledger):
    """The store's connections that are open."""
    pool = ledger.store.client.connection_pool
    return [found for found in (*pool._available_connections, *pool._in_use_connections) if found.is_connected]


class Between:
    """A call of the driver in which another thread does something, before it or after."""

    def __init__(self, real, act, after):
        self.real, self.act, self.after, self.done = real, act, after, False

    def __call__(self, *args, **options):
        if self.after:
            answer = self.real(*args, **options)
        if not self.done:
            self.done = True
            from_elsewhere(lambda: [self.act()])
        return answer if self.after else self.real(*args, **options)


def closed_beside(server, monkeypatch, where, after):
    """Close a store while a call of another thread is at one place; what the call found."""
    ledger, secret = opened(server, f"beside{next(_numbers)}")
    ledger.consume(secret)
    pool = ledger.store.client.connection_pool
    owner = pool if where in ("get_connection", "release") else sockets(ledger)[0]
    monkeypatch.setattr(owner, where, Between(getattr(owner, where), ledger.store.close, after))
    found = attempt(Exception, ledger.consume, secret)
    assert getattr(owner, where).done
    assert sockets(ledger) == [], "left open by close()"
    assert ledger.consume(secret).limits[0].used == found.limits[0].used + 1 == 3
    ledger.close()


PLACES = ["get_connection", "send_packed_command", "read_response", "release"]


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("where", PLACES)
def test_closing_beside_a_call_neither_fails_nor_leaves_its_connection_open(server, monkeypatch, where, after):
    """The call has its answer on the connection that it has, which is closed when it is done."""
    closed_beside(server, monkeypatch, where, after)


def test_planted_close_that_forgets_who_is_calling(server, monkeypatch):
    """It leaves a connection open."""
    plant(monkeypatch, RedisStore, "close", {"self._closes += 1": "pass"})
    with pytest.raises(AssertionError, match="left open"):
        closed_beside(server, monkeypatch, "read_response", after=False)


def interrupted(server, name):
    """Interrupt a call at each instant; how many there were. Each decision after one is its own call's."""
    ledger, secret = opened(server, name)
    used, instants = ledger.consume(secret).limits[0].used, 0
    while True:
        if not interrupts(instants + 1, [redis, _redis_pools, _remote_trips], ledger.consume, secret, 100):
            break
        instants += 1
        now = from_elsewhere(lambda: ledger.consume(secret)).limits[0].used
        assert now - used in range(1, 100 * instants + 2, 100), "an answer of another call"
        assert [key.id for key in ledger.list_keys()] == ["k"], "an answer of another call"
        used = now
    ledger.close()
    return instants


def test_an_interrupt_leaves_no_answer_for_another_call(server):
    """Whatever the interrupted one was told or not."""
    assert interrupted(server, "interrupted") > 10


def test_planted_answer_that_is_left_on_the_wire(server, monkeypatch):
    """A connection that goes back with an answer under way, in a driver that does not look, is found."""
    plant(monkeypatch, RedisStore, "_exchange", {"connection.disconnect()": "pass"})
    monkeypatch.setattr(Connection, "can_read", lambda *_, **__: False)
    with pytest.raises((AssertionError, AttributeError, ValueError, TypeError)):
        interrupted(server, "wire")


def test_closing_beside_awaited_calls_leaves_nothing_open(server):
    """They have their answers, and then their connections are closed."""

    async def tell():
        store = AsyncRedisStore(url=server.url, namespace="awaited")
        async with AsyncLedger(store, clock=ManualClock(NOON)) as ledger:
            for turns in range(12):
                await ledger.list_keys()
                calls = [asyncio.ensure_future(ledger.list_keys()) for _ in range(3)]
                for _ in range(turns):
                    await asyncio.sleep(0)
                await store.close()
                assert await asyncio.gather(*calls) == [[], [], []]
                pools = [fair.pool for own in store._pools._loops.values() for fair in own.pools.values()]
                found = [one for pool in pools for one in (*pool._available_connections, *pool._in_use_connections)]
                assert found
                assert turns == 0 or not [one for one in found if one.is_connected]

    asyncio.run(tell())

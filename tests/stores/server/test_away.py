"""A server that hangs, that is gone, or whose answers are lost: a thousand calls are quick, and the count is exact again."""

import asyncio
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import psutil
import psycopg_pool
import pytest
import redis
import redis.asyncio

from every_store import namespace
from quota import AsyncLedger, Ledger, StoreUnavailable, UsagePlan
from quota.stores.postgres import AsyncPostgresStore, PostgresStore
from quota.stores.redis import AsyncRedisStore, RedisStore
from servers import FaultProxy, Postgres, PostgresProxy, Valkey

KINDS = {
    "redis": (Valkey, FaultProxy, RedisStore, AsyncRedisStore),
    "postgres": (Postgres, PostgresProxy, PostgresStore, AsyncPostgresStore),
}
TIMEOUT, EVERY = 0.2, 0.3


@pytest.fixture(params=KINDS, scope="module")
def server(request):
    """A server of its own, which a test may stop."""
    found = KINDS[request.param][0]()
    yield request.param, found
    found.stop()


@pytest.fixture(params=["called", "awaited"])
def away(request, server):
    return Away(*server, awaited=request.param == "awaited")


class Away:
    """A ledger on a server that can be made to go away, and a client's calls of it."""

    def __init__(self, kind, server, *, awaited):
        self.kind, self.server, self.awaited = kind, server, awaited
        self.runner = asyncio.Runner() if awaited else None

    def open(self, on_unavailable, url=None, *, pool=None, **given):
        given |= {"url": url or self.server.url} if pool is None else {}
        store = KINDS[self.kind][3 if self.awaited else 2](
            pool, **given, namespace=namespace(), timeout=TIMEOUT, check_clock=False
        )
        ledger = (AsyncLedger if self.awaited else Ledger)(store, on_unavailable=on_unavailable, probe_every=EVERY)
        self.ledger = ledger
        self.do(ledger.add_plan(UsagePlan("p", "100000/day")))
        self.secret = self.do(ledger.issue_key("k", "p")).secret
        assert [self.consume() for _ in range(3)] == ["OK"] * 3

    def do(self, answer):
        return self.runner.run(answer) if self.awaited else answer

    def consume(self):
        try:
            return self.do(self.ledger.consume(self.secret)).reason.value
        except StoreUnavailable:
            return "raised"

    def used(self):
        """What is counted, once nothing more of what the server had received comes."""
        told = []
        while len(told) < 20 or len(set(told[-20:])) > 1:
            told.append(self.do(self.ledger.peek(self.secret)).limits[0].used - 1)
        return told[-1]

    def asks(self):
        """The requests that reach the store from now on."""
        store, asked = self.ledger.store, []
        apply = type(store).apply
        store.apply = lambda request: (asked.append(request), apply(store, request))[1]
        return asked

    def quick(self, expected):
        """Three calls find out; of the next thousand but those take 5 ms that ask, of which there are few."""
        assert [self.consume() for _ in range(3)] == [expected] * 3
        asked, took, began = self.asks(), [], time.perf_counter()

        async def run():
            for _ in range(1000):
                start = time.perf_counter()
                try:
                    answer = self.ledger.consume(self.secret)
                    told = ((await answer) if self.awaited else answer).reason.value
                except StoreUnavailable:
                    told = "raised"
                took.append(time.perf_counter() - start)
                assert told == expected

        asyncio.run(run()) if self.runner is None else self.runner.run(run())
        assert len(asked) <= 1 + (time.perf_counter() - began) / EVERY
        assert sorted(took)[980] < 0.005

    def back(self):
        """The next call that asks finds out. How many asked until one was answered."""
        deadline, asked = time.monotonic() + 30, self.asks()
        while self.consume() != "OK":
            assert time.monotonic() < deadline
        return len(asked)

    def close(self):
        self.do(self.ledger.aclose()) if self.awaited else self.ledger.close()
        if self.runner:
            self.runner.close()


@pytest.mark.spread(3)
@pytest.mark.parametrize(
    ("on_unavailable", "answered"),
    [("allow", "STORE_UNAVAILABLE"), ("deny", "STORE_UNAVAILABLE"), ("raise", "raised")],
)
def test_a_server_that_hangs(away, on_unavailable, answered):
    """Stopped by a signal in the middle of everything: exact when it goes on, with what it had received yet unanswered."""
    away.open(on_unavailable)
    before = away.used()
    stop(away, signal.SIGSTOP)
    try:
        away.quick(answered)
    finally:
        stop(away, signal.SIGCONT)
    asked = away.back()
    used = away.used()
    assert before + 1 <= used <= before + 3 + 10 + asked
    assert [away.consume() for _ in range(5)] == ["OK"] * 5
    assert away.used() == used + 5
    away.close()


def stop(away, how):
    """Every process of the server."""
    process = psutil.Process(away.server.process.pid)
    for one in [*process.children(recursive=True), process]:
        with suppress(psutil.NoSuchProcess):  # one of the server's own that ended just now
            one.send_signal(how)


def lent(away):
    """A pool or a client of the caller's, and what closes it."""
    if away.kind == "redis":
        driver = redis.asyncio if away.awaited else redis
        found = driver.Redis.from_pool(
            driver.BlockingConnectionPool(port=away.server.port, max_connections=2, socket_timeout=TIMEOUT)
        )
        return found, found.aclose if away.awaited else found.close

    async def opened():
        made = psycopg_pool.AsyncConnectionPool(away.server.url, min_size=1, max_size=2, open=False)
        await made.open()
        return made

    found = (
        away.do(opened())
        if away.awaited
        else psycopg_pool.ConnectionPool(away.server.url, min_size=1, max_size=2, open=True)
    )
    return found, found.close


@pytest.mark.parametrize("own", [True, False], ids=["own", "lent"])
def test_who_stands_in_line_behind_a_server_that_hangs(away, own):
    """Of twenty callers on two connections nobody goes on standing in line, to be told busy, once a connection broke.

    Who came as the first did may be told that before one breaks, and then asks once more.
    """
    pool, close = (None, None) if own else lent(away)
    if not own:
        away.open("deny", pool=pool)
    elif away.kind == "redis":
        away.open("deny", f"{away.server.url}?max_connections=2")
    else:
        away.open("deny", connections=2)
    stop(away, signal.SIGSTOP)
    began, asked = time.monotonic(), away.asks()

    def call():
        for _ in range(20):
            assert away.ledger.consume(away.secret).reason.value == "STORE_UNAVAILABLE"

    async def call_awaited():
        for _ in range(20):
            assert (await away.ledger.consume(away.secret)).reason.value == "STORE_UNAVAILABLE"

    async def all_awaited():
        await asyncio.gather(*(call_awaited() for _ in range(20)))

    try:
        if away.awaited:
            away.do(all_awaited())
        else:
            with ThreadPoolExecutor(20) as threads:
                for found in [threads.submit(call) for _ in range(20)]:
                    found.result()
    finally:
        stop(away, signal.SIGCONT)
    assert len(asked) <= 2 * 20 + 4 + (time.monotonic() - began) / EVERY
    away.back()
    if close:
        away.do(close())
    away.close()


def test_a_pool_of_the_callers_on_a_server_that_hangs(away):
    """It says only that it has no connection: that the server is away is found out all the same."""
    pool, close = lent(away)
    away.open("deny", pool=pool)
    before = away.used()
    stop(away, signal.SIGSTOP)
    try:
        away.quick("STORE_UNAVAILABLE")
    finally:
        stop(away, signal.SIGCONT)
    asked = away.back()
    assert before + 1 <= away.used() <= before + 4 + asked
    away.do(close())
    away.close()


@pytest.mark.spread(3)
def test_a_proxy_that_swallows_replies(away):
    """What was asked may have been counted; nothing is asked that could be, and all is exact when replies come through."""
    proxy = KINDS[away.kind][1](away.server.port)
    try:
        url = away.server.url.replace(str(away.server.port), str(proxy.port))
        away.open("deny", url)
        before = away.used()
        proxy.set("hang", times=10**6)
        away.quick("STORE_UNAVAILABLE")
        proxy.set("", times=0)
        asked = away.back()
        used = away.used()
        assert before + 1 <= used <= before + asked  # one that came too late for its caller is counted
        assert [away.consume() for _ in range(5)] == ["OK"] * 5
        assert away.used() == used + 5
        away.close()
    finally:
        proxy.close()


def test_a_server_that_is_gone(away):
    """Killed and started again: refused at once meanwhile."""
    away.open("deny")
    if away.kind == "redis":
        away.server.kill()
    else:
        away.server.end(signal.SIGINT)
    away.quick("STORE_UNAVAILABLE")
    away.server.start()
    if away.kind == "postgres":
        asked = away.back()
        assert 4 <= away.used() <= 3 + asked
    away.close()

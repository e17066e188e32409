"""Forks that Python is not told of (uWSGI's, a C library's): a child spends, answers and closes nothing of its parent's."""

import asyncio
import os
import signal
import threading

import pytest
from psycopg_pool import AsyncConnectionPool, ConnectionPool

from forked import bare_fork
from quota import AsyncLedger, Ledger, StoreUnavailable, UsagePlan
from quota.process import home as _forks
from quota.stores.postgres import AsyncPostgresStore, PostgresStore

LIMIT = 2000
CHILDREN = 4
PATIENCE = 60


@pytest.fixture
def sqlite(tmp_path):
    return f"sqlite:///{tmp_path / 'usage.db'}"


@pytest.fixture(params=["valkey", "postgres", "sqlite"])
def url(request):
    """Each shared store by its URL, in a namespace of its own."""
    found = request.getfixturevalue(request.param)
    return found if request.param == "sqlite" else f"{found.url}?namespace={request.node.name.partition('[')[0][:40]}"


def leased(url, share):
    return f"leased+{url}{'&' if '?' in url else '?'}share={share}"


def in_children(work, count=CHILDREN, fork=bare_fork):
    """What ``work`` gives in each of some children that are forked at once, in bytes; one that hangs is ended."""
    pipes = []
    for number in range(count):
        reading, writing = os.pipe()
        child = fork()
        if not child:
            try:
                signal.alarm(PATIENCE)
                os.write(writing, work(number))
            except BaseException as error:
                os.write(writing, repr(error).encode())
            finally:
                os._exit(0)
        os.close(writing)
        pipes.append((child, reading))
    told = []
    for child, reading in pipes:
        with os.fdopen(reading, "rb") as pipe:
            told.append(pipe.read().decode())
        os.waitpid(child, 0)
    return told


@pytest.mark.spread(4)
@pytest.mark.parametrize("share", [None, 0.005, 0.2])
def test_children_and_their_parent_admit_the_limit_and_no_more(url, share):
    """The parent has used the ledger, then four workers come of a bare fork: what all admit is the limit, or less."""
    with Ledger(url if share is None else leased(url, share)) as ledger:
        ledger.add_plan(UsagePlan("p", f"{LIMIT}/month", alerts=()))
        key, secret = ledger.issue_key("k", plan="p")
        admitted = sum(bool(ledger.consume(secret)) for _ in range(100))

        def work(number):
            count = sum(bool(ledger.consume(secret if number % 2 else key)) for _ in range(700))
            ledger.close()
            return b"%d" % count

        told = in_children(work)
        assert all(count.isdigit() for count in told), told
        admitted += sum(map(int, told)) + sum(bool(ledger.consume(secret)) for _ in range(LIMIT))
    with Ledger(url) as after:
        (row,) = after.usage(key)
    assert (admitted, row.used, row.leased) == (LIMIT, LIMIT, 0)


def test_a_parent_that_closes_takes_nothing_of_its_child_along(url):
    """The parent closes, another process comes, and the child goes on: all units are counted, whoever goes first."""
    first, second = os.pipe(), os.pipe()
    with Ledger(url) as ledger:
        ledger.add_plan(UsagePlan("p", f"{LIMIT}/month"))
        key, secret = ledger.issue_key("k", plan="p")
        for _ in range(10):
            assert ledger.consume(secret)

        def work(number):
            count = sum(bool(ledger.consume(secret)) for _ in range(10))
            os.write(first[1], b"+")
            os.read(second[0], 1)
            return b"%d" % (count + sum(bool(ledger.consume(secret)) for _ in range(10)))

        def meanwhile():
            os.read(first[0], 1)
            ledger.close()
            with Ledger(url) as other:
                assert other.usage(key)[0].used == 20
                assert all(other.consume(secret) for _ in range(10))
            os.write(second[1], b"+")

        thread = threading.Thread(target=meanwhile)
        told = in_children(work, 1, lambda: (child := bare_fork()) and (thread.start() or child))
        thread.join()
    for end in (*first, *second):
        os.close(end)
    with Ledger(url) as after:
        assert (told, after.usage(key)[0].used) == (["20"], 40)


def test_where_no_memory_is_wiped_the_process_is_asked_for_its_number(postgres, monkeypatch):
    """Without Linux's wiping a lease is of one process all the same."""
    monkeypatch.setattr(_forks, "_page", lambda: None)
    test_children_and_their_parent_admit_the_limit_and_no_more(f"{postgres.url}?namespace=numbers", 0.2)


def test_answers_are_the_callers_own(postgres):
    """Children at once on keys with room and without: each is told what is true of its key."""
    with Ledger(f"{postgres.url}?namespace=own") as ledger:
        ledger.add_plan(UsagePlan("full", "1/month"))
        ledger.add_plan(UsagePlan("free", "1000000/month"))
        keys = [ledger.issue_key(f"k{n}", plan=("full", "free")[n % 2]).key for n in range(4)]
        for key in keys:
            assert ledger.consume(key)

        def work(number):
            answers = [ledger.consume(keys[number]) for _ in range(150)]
            assert {answer.key.id for answer in answers} == {keys[number].id}
            return b"%d" % sum(map(bool, answers))

        assert in_children(work) == ["0", "150", "0", "150"]


@pytest.mark.spread(3)
@pytest.mark.parametrize("place", ["postgres", "sqlite"])
@pytest.mark.parametrize("kind", ["own", "leased"])
def test_a_child_goes_on_though_threads_were_busy(request, place, kind):
    """Whatever lock another thread had at the fork: the child spends, holds, refunds and looks, and waits for nobody.

    By Python's own fork: after another one beside threads that run, Python itself is stuck in the child.
    """
    found = request.getfixturevalue(place)
    url = found if place == "sqlite" else f"{found.url}?namespace=busy{kind}"
    stop = threading.Event()
    with Ledger(url if kind == "own" else leased(url, 0.05)) as ledger:
        ledger.add_plan(UsagePlan("p", "1000000/month", alerts=()))
        key, secret = ledger.issue_key("k", plan="p")

        def busy():
            while not stop.is_set():
                ledger.consume(secret)
                ledger.consume(key, 2)
                ledger.reserve(key, 1, ttl=10**9).cancel()

        threads = [threading.Thread(target=busy) for _ in range(3)]
        for thread in threads:
            thread.start()

        def work(number):
            ledger.refund(ledger.consume(secret))
            ledger.reserve(secret, 1, ttl=10**9).cancel()
            return b"%d" % ledger.peek(key).allowed

        told = []
        for _ in range(5):
            told += in_children(work, 2, os.fork)
        stop.set()
        for thread in threads:
            thread.join()
    assert told == ["1"] * 10


def test_a_pool_of_the_callers_is_of_the_process_that_opened_it(postgres):
    """A child that would send on its parent's connections is told so; one that opens the pool itself is served."""
    url, name = postgres.url, "lent"
    with ConnectionPool(url, min_size=1, open=True) as pool:
        ledger = Ledger(PostgresStore(pool, namespace=name))
        ledger.add_plan(UsagePlan("p", f"{LIMIT}/month"))
        key, secret = ledger.issue_key("k", plan="p")

        def work(number):
            with pytest.raises(StoreUnavailable, match="forked.*nothing was charged"):
                ledger.consume(secret)
            return b"told"

        assert in_children(work, 1) + in_children(work, 1, os.fork) == ["told"] * 2
    later = ConnectionPool(url, min_size=1, open=False)
    late = Ledger(PostgresStore(later, namespace=name))

    def opened(number):
        with later:
            return b"%d" % bool(late.consume(secret))

    assert in_children(opened, 2) == ["1", "1"]


@pytest.mark.parametrize("kind", ["own", "leased"])
@pytest.mark.parametrize("fork", [os.fork, bare_fork])
def test_awaited_in_a_child(postgres, fork, kind):
    """An AsyncLedger that was set up in a loop before the fork: each child has connections and leases of its own."""
    url = f"{postgres.url}?namespace=awaited{kind}{fork.__name__[:2]}"
    ledger = AsyncLedger(leased(url, 0.2) if kind == "leased" else url)

    async def begin():
        await ledger.add_plan(UsagePlan("p", "400/month", alerts=()))
        secret = (await ledger.issue_key("k", plan="p")).secret
        answers = [await ledger.consume(secret) for _ in range(50)]
        return secret, sum(map(bool, answers))

    async def spend(secret, calls):
        async with ledger:
            return sum([bool(await ledger.consume(secret)) for _ in range(calls)])

    secret, admitted = asyncio.run(begin())
    told = in_children(lambda number: b"%d" % asyncio.run(spend(secret, 120)), fork=fork)
    assert all(count.isdigit() for count in told), told
    assert admitted + sum(map(int, told)) + asyncio.run(spend(secret, 400)) == 400


def test_an_awaited_pool_of_the_callers_is_of_its_process(postgres):
    """As the blocking one: a child is told."""
    with asyncio.Runner() as runner:
        pool = AsyncConnectionPool(postgres.url, min_size=1, open=False)
        runner.run(pool.open())
        ledger = AsyncLedger(AsyncPostgresStore(pool, namespace="lent"))
        assert runner.run(ledger.list_plans()) is not None

        def work(number):
            with pytest.raises(StoreUnavailable, match="forked.*nothing was charged"):
                asyncio.run(ledger.list_plans())
            return b"told"

        assert in_children(work, 1, os.fork) == ["told"]
        runner.run(pool.close())

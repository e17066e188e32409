"""The PostgreSQL store behind poolers: PgBouncer itself, in transaction and in statement mode, and a stand-in for it."""

import asyncio
import itertools
import threading
import time
from datetime import datetime, timezone

import psycopg
import pytest
from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test
from psycopg_pool import AsyncConnectionPool, ConnectionPool

from awaited import Awaited
from every_store import of_its_own
from quota import AsyncLedger, Ledger, ManualClock, StoreUnavailable, UsagePlan
from quota.errors import StoreBusy
from quota.stores.postgres import AsyncPostgresStore, PostgresStore
from quota.testing import Machine, machine
from receipts import Receipt, check_receipts
from servers import Pooler, Postgres, poolers

START = int(datetime(2026, 3, 10, 12, tzinfo=timezone.utc).timestamp()) * 1_000_000
POOLERS = poolers()
_names = itertools.count()


def namespace():
    return f"pooled{next(_names)}"


server = of_its_own(Postgres)


@pytest.fixture(scope="module", params=list(POOLERS))
def pooler(request, server):
    found = POOLERS[request.param](server.port)
    yield found
    found.close()


@pytest.fixture
def url(pooler):
    return f"postgresql://quota@127.0.0.1:{pooler.port}/postgres"


def test_the_conformance_machine_behind_a_pooler(url):
    """Every history agrees with the model, awaited or not."""

    class AwaitedMachine(Machine):
        open = staticmethod(lambda: AsyncPostgresStore(url, namespace=namespace()))

        def _ledger(self, store):
            return Awaited(AsyncLedger(store, clock=self.clock))

    few = settings(max_examples=2, stateful_step_count=25)
    run_state_machine_as_test(machine(lambda: PostgresStore(url, namespace=namespace())), settings=few)
    run_state_machine_as_test(AwaitedMachine, settings=few)


def test_clients_share_sessions(url):
    """Ten clients that stay are served by three sessions at most: what is tested behind is a pooler."""
    clients = [psycopg.connect(url, autocommit=True) for _ in range(10)]
    assert len({client.execute("select pg_backend_pid()").fetchone()[0] for client in clients}) <= 3
    for client in clients:
        client.close()


def spend_in_threads(ledger, secret, threads=12, calls=10):
    """Receipts of threads that charge, some calls by a request id."""
    receipts, failed = [], []

    def work(number):
        try:
            for step in range(calls):
                invoked = time.monotonic()
                decision = ledger.consume(secret, 2, request_id=f"{number} {step}" if step % 3 else None)
                receipts.append(Receipt(invoked, time.monotonic(), 2, decision.limits[0].used))
        except BaseException as error:
            failed.append(error)

    workers = [threading.Thread(target=work, args=(number,)) for number in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not failed, failed
    return receipts


@pytest.mark.parametrize("pool", ["its own", "the caller's"])
def test_receipts_tile_behind_a_pooler(url, pool):
    """Twelve threads over the pooler's three sessions, then tasks, over the store's connections or a pool of the caller's."""
    clock, name, mine = ManualClock(START), namespace(), pool == "its own"
    found = url if mine else ConnectionPool(url, min_size=1, max_size=6, open=True)
    ledger = Ledger(PostgresStore(found, namespace=name), clock=clock)
    ledger.add_plan(UsagePlan("p", "1000000/day, 5000/s"))
    key, secret = ledger.issue_key("k", "p")
    assert check_receipts(spend_in_threads(ledger, secret)) == 240
    reservation = ledger.reserve(secret, 5, ttl=1_000_000)
    reservation.commit(3)
    ledger.close()
    if not mine:
        found.close()

    async def awaited():
        theirs = None if mine else AsyncConnectionPool(url, min_size=1, max_size=6, open=False)
        if theirs:
            await theirs.open()
        async with AsyncLedger(AsyncPostgresStore(theirs or url, namespace=name), clock=clock) as there:
            receipts = []

            async def work():
                for _ in range(10):
                    invoked = time.monotonic()
                    decision = await there.consume(secret)
                    receipts.append(Receipt(invoked, time.monotonic(), 1, decision.limits[0].used))

            await asyncio.gather(*(work() for _ in range(8)))
            reservation = await there.reserve(secret, 5, ttl=1_000_000)
            await reservation.commit(3)
        if theirs:
            await theirs.close()
        return check_receipts(receipts, 243)

    assert asyncio.run(awaited()) == 323
    with Ledger(PostgresStore(url, namespace=name), clock=clock) as after:
        assert after.usage(key)[0].used == 326


@pytest.mark.parametrize("spelling", ["utf8", "UTF8", "UTF-8", "utf_8", "Unicode"])
def test_utf8_by_any_of_its_names(url, spelling):
    """The caller's sessions may call it as PostgreSQL allows; a pooler tells their own spelling of it."""
    with ConnectionPool(url, kwargs={"client_encoding": spelling}, min_size=1, open=True) as pool:
        assert Ledger(PostgresStore(pool, namespace=namespace())).list_keys() == []


@pytest.mark.parametrize("encoding", ["latin1", "sql_ascii", "win1252"])
def test_other_encodings_are_refused(url, encoding):
    """A pool whose sessions speak anything else would garble names: it is told so."""
    with ConnectionPool(url, kwargs={"client_encoding": encoding}, min_size=1, open=True) as pool:
        with pytest.raises(StoreUnavailable, match=r"client_encoding.*UTF8.*nothing"):
            Ledger(PostgresStore(pool, namespace=namespace())).list_keys()


@pytest.fixture(params=[name for name in POOLERS if name != "stand-in"] or ["stand-in"])
def restless(request, server):
    """A pooler whose sessions live a second."""
    found = POOLERS[request.param](server.port, **({} if request.param == "stand-in" else {"server_lifetime": 1}))
    yield found
    found.close()


def kill_one(admin, restless):
    """End a session of the server's, or of the stand-in's, which has no others to go on with, its client's."""
    if isinstance(restless, Pooler):
        restless.set("cut")
        return [restless]
    query = "select pg_terminate_backend(pid) from pg_stat_activity where pid <> pg_backend_pid() and usename = 'quota'"
    return admin.execute(query + " and backend_type = 'client backend' limit 1").fetchall()


def test_what_is_acknowledged_is_counted_while_sessions_end(server, restless):
    """Sessions that live a second and are killed besides: counted is what was acknowledged, and unknown calls at most."""
    stop, killed, answers, unknown = threading.Event(), [], [], []
    url = f"postgresql://quota@127.0.0.1:{restless.port}/postgres"
    with Ledger(PostgresStore(url, namespace=namespace())) as ledger, server.connect() as admin:
        ledger.add_plan(UsagePlan("p", "1000000/day"))
        key, secret = ledger.issue_key("k", "p")

        def work():
            while not stop.is_set():
                try:
                    answers.append(bool(ledger.consume(secret)))
                except (StoreUnavailable, StoreBusy) as error:
                    unknown.append("unknown" in str(error))

        workers = [threading.Thread(target=work) for _ in range(4)]
        for worker in workers:
            worker.start()
        begun = time.monotonic()
        while len(killed) < 10 or time.monotonic() < begun + 2.5:
            done = len(answers)
            killed += kill_one(admin, restless)
            while len(answers) < done + 20:
                stop.wait(0.001)
        stop.set()
        for worker in workers:
            worker.join()
        used = ledger.usage(key)[0].used
    assert all(answers)
    assert len(answers) <= used <= len(answers) + sum(unknown)

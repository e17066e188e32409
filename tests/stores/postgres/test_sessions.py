"""What a session of PostgreSQL may be like, and where its connections come from: roles' settings, names, green threads."""

import asyncio
import itertools
import select
import socket

import pytest

from quota import AsyncLedger, Ledger, StoreUnavailable, UsagePlan
from quota.errors import InvalidValue
from quota.stores.postgres import AsyncPostgresStore, PostgresStore
from quota.stores.postgres import pool as _postgres_pool
from quota.stores.postgres.wire import READ, WRITE
from servers import poolers

_names = itertools.count()
POOLERS = poolers()
ADMITTED = 9  # of ten, one was held and committed


def namespace():
    return f"session{next(_names)}"


@pytest.fixture
def fussy(server):
    """A role whose sessions take NULL in an array for a word."""
    with server.connect() as admin:
        admin.execute(
            "drop role if exists fussy; create role fussy login superuser; alter role fussy set array_nulls = off"
        )
    return server.url.replace("quota@", "fussy@")


def story(ledger):
    """What writes first records, of a key alone and of an account, and reads them: admitted calls."""
    ledger.add_plan(UsagePlan("p", "10/day, 10/day by account as shared, 100/s"))
    one, secret = ledger.issue_key("a", plan="p")
    two = ledger.issue_key("b", plan="p", account=one.account).key
    ledger.reserve(secret, 2, ttl=10**8).commit(1)
    ledger.grant(one, "requests/day", 1)
    ledger.refund(ledger.consume(two))
    return [bool(ledger.consume(key)) for key in (secret, two) * 6]


def test_a_role_without_nulls_in_arrays_writes(server, fussy):
    """array_nulls=off makes NULL a word, which is no number: nothing that is sent has one."""
    with Ledger(PostgresStore(fussy, namespace=namespace())) as ledger:
        with Ledger(PostgresStore(server.url, namespace=namespace())) as plain:
            assert story(ledger) == story(plain)

    async def awaited():
        async with AsyncLedger(AsyncPostgresStore(fussy, namespace=namespace())) as ledger:
            await ledger.add_plan(UsagePlan("p", "2/day"))
            secret = (await ledger.issue_key("k", plan="p")).secret
            return [bool(await ledger.consume(secret)) for _ in range(3)]

    assert asyncio.run(awaited()) == [True, True, False]


@pytest.mark.parametrize("kind", [kind for kind in POOLERS if kind != "stand-in"] or ["stand-in"])
def test_nor_behind_a_pooler(server, kind):
    """The same where the sessions are a pooler's."""
    with server.connect() as admin:
        admin.execute("alter role quota set array_nulls = off")
        pooler = POOLERS[kind](server.port)
        url = f"postgresql://quota@127.0.0.1:{pooler.port}/postgres"
        try:
            with Ledger(PostgresStore(url, namespace=namespace())) as ledger:
                assert sum(story(ledger)) == ADMITTED
        finally:
            pooler.close()
            admin.execute("alter role quota reset array_nulls")


@pytest.mark.parametrize("name", ["information_schema", "pg_catalog", "pg_toast", "pg_mine", "pg_"])
def test_schemas_of_the_servers_own_are_refused(server, name):
    """A ledger among the server's tables is a slip: the error names the field and what is accepted."""
    for url in (f"{server.url}?namespace={name}", f"leased+{server.url}?namespace={name}"):
        with pytest.raises(InvalidValue, match=f"namespace.*{name}.*lower-case letters"):
            Ledger(url)


def test_names_that_only_look_like_the_servers_are_fine(server):
    """Only the very names are the server's."""
    for name in ("information_schema2", "pgx", "my_pg_x"):
        with Ledger(PostgresStore(server.url, namespace=name)) as ledger:
            assert ledger.list_plans() == []


def test_green_threads_without_poll(server, monkeypatch):
    """eventlet takes ``select.poll`` away: the store waits by ``select`` then, and bounds its waits as ever."""
    monkeypatch.delattr(select, "poll")
    with Ledger(PostgresStore(server.url, namespace=namespace(), timeout=1)) as ledger:
        assert sum(story(ledger)) == ADMITTED
        assert type(ledger.store._connections._rooms[0].link.poll) is _postgres_pool.Select
        key = ledger.issue_key("c", plan="p").key
        with server.connect() as admin:
            admin.execute("begin")
            admin.execute(f"lock table {ledger.store.namespace}.records")
            with pytest.raises(StoreUnavailable, match="did not answer within 1"):
                ledger.consume(key)


def test_select_tells_what_poll_would():
    """Readable, writable, both, neither, within the time that is given."""
    one, other = socket.socketpair()
    with one, other:
        waits = _postgres_pool.Select()
        waits.register(one.fileno(), READ)
        assert waits.poll(0) == waits.poll(1.5) == []
        waits.modify(one.fileno(), READ | WRITE)
        assert waits.poll(100) == [(one.fileno(), WRITE)]
        other.send(b"x")
        assert waits.poll(100) == [(one.fileno(), READ | WRITE)]
        waits.modify(one.fileno(), READ)
        assert waits.poll(100) == [(one.fileno(), READ)]


def test_a_cancel_is_never_swallowed(server):
    """A task that charges, holds and refunds ends when it is told to, whenever that is: on Python 3.11 too."""

    async def story():
        async with AsyncLedger(AsyncPostgresStore(server.url, namespace=namespace(), connections=2)) as ledger:
            await ledger.add_plan(UsagePlan("p", "1000000/day"))
            secret = (await ledger.issue_key("k", plan="p")).secret

            async def work():
                while True:
                    await ledger.refund(await ledger.consume(secret))

            for number in range(150):
                tasks = [asyncio.create_task(work()) for _ in range(4)]
                for _ in range(3 + number):
                    await asyncio.sleep(0)
                for task in tasks:
                    task.cancel()
                done, still = await asyncio.wait(tasks, timeout=10)
                assert not still and all(task.cancelled() for task in done)
            return ledger.store._connections

    connections = asyncio.run(story())
    assert (len(connections._turns._taken), len(connections._turns._line)) == (0, 0)

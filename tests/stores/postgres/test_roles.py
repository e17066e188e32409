"""What an administrator sets for the application's role: limits of time, of connections and of rights."""

from __future__ import annotations

import itertools
import threading

import psycopg
import pytest

from every_store import run_threads
from quota import Ledger, ManualClock, StoreBusy, StoreUnavailable, UsagePlan
from quota.stores.postgres import PostgresStore

NOON = 1_700_049_600_000_000
_names = itertools.count()


@pytest.fixture
def role(server):
    """A function that opens a ledger as a role with these settings, and the owner's ledger, key and secret."""
    name = f"role{next(_names)}"
    owner = Ledger(PostgresStore(server.url, namespace=name), clock=ManualClock(NOON))
    owner.add_plan(UsagePlan("p", "1000/day"))
    key, secret = owner.issue_key("k", plan="p")
    assert owner.consume(secret)
    opened = []

    def as_role(*settings, timeout=5.0):
        with server.connect() as admin:
            admin.execute(f"create role {name} login; grant usage on schema {name} to {name}")
            admin.execute(f"grant select, insert, update, delete on all tables in schema {name} to {name}")
            for setting in settings:
                admin.execute(f"alter role {name} {setting}")
        store = PostgresStore(server.url.replace("quota@", f"{name}@"), namespace=name, timeout=timeout, connections=4)
        opened.append(store)
        return Ledger(store, clock=ManualClock(NOON))

    yield as_role, owner, key, secret
    for store in (*opened, owner.store):
        store.close()


def locked(server, ledger):
    """A session that holds the row of the key."""
    other = psycopg.connect(server.url)
    other.execute(f"select from {ledger.store.namespace}.records for update")
    return other


@pytest.mark.parametrize("setting", ["set statement_timeout = '200ms'", "set lock_timeout = '200ms'"])
def test_a_statement_that_takes_too_long_charged_nothing(server, role, setting):
    """Whether it waits for a row or works: told, and the next call is served."""
    as_role, owner, _, secret = role
    ledger = as_role(setting)
    assert ledger.consume(secret).limits[0].used == 2
    with locked(server, ledger):
        with pytest.raises(StoreBusy if "lock" in setting else StoreUnavailable, match="nothing was charged"):
            ledger.consume(secret)
    assert ledger.consume(secret).limits[0].used == 3
    assert owner.peek(secret).limits[0].used == 4


def test_more_connections_than_a_role_may_have(server, role):
    """Four threads on two: who has none is told that nothing was charged, and the count is that of who was served."""
    as_role, owner, key, secret = role
    ledger = as_role("connection limit 2")
    served, told = [], []
    start = threading.Barrier(4)

    def work():
        start.wait()
        for _ in range(25):
            try:
                served.append(ledger.consume(secret).allowed)
            except (StoreUnavailable, StoreBusy) as error:
                told.append(str(error))

    run_threads([work] * 4)
    assert all("nothing was charged" in text for text in told)
    assert all(served)
    assert owner.usage(key)[0].used == 1 + len(served)


@pytest.mark.parametrize("setting", ["set default_transaction_read_only = on", "set default_transaction_isolation = 'serializable'",
                                     "set default_transaction_isolation = 'repeatable read'", "set default_transaction_deferrable = on",
                                     "set synchronous_commit = off", "set search_path = ''", "set row_security = off", "set timezone = 'Asia/Kolkata'",
                                     "set datestyle = 'German'", "set intervalstyle = 'iso_8601'", "set bytea_output = 'escape'", "set extra_float_digits = 0",
                                     "set standard_conforming_strings = off", "set jit = on", "set plan_cache_mode = 'force_generic_plan'"])  # fmt: skip
def test_whatever_a_role_s_sessions_are_like(role, setting):
    """A call is as exact as ever; where nothing may be written, it is told and a look is answered."""
    as_role, owner, key, secret = role
    ledger = as_role(setting)
    if "read_only" in setting:
        with pytest.raises(StoreUnavailable, match="nothing was charged"):
            ledger.consume(secret)
        assert ledger.peek(secret).allowed
        assert owner.usage(key)[0].used == 1
        return
    assert [ledger.consume(secret, request_id="x").limits[0].used for _ in range(2)] == [2, 2]
    with ledger.reserve(secret, 5, ttl=10**9) as held:
        held.commit(3)
    assert ledger.refund(ledger.consume(secret, 7)) == 7
    assert owner.usage(key)[0].used == 5


RIGHTS = {
    "records": ("select", "insert", "update"), "bodies": ("select", "insert", "update"), "remembered": ("select", "insert"),
    "directory": ("select",),
}  # fmt: skip


@pytest.mark.parametrize(("table", "right"), [(table, right) for table, rights in RIGHTS.items() for right in rights])
def test_a_right_that_is_missing_leaves_nothing_half_done(server, role, table, right):
    """Each call is done or is refused whole, and says that nothing was charged."""
    as_role, owner, key, secret = role
    ledger = as_role()
    with server.connect() as admin:
        admin.execute(f"revoke {right} on {ledger.store.namespace}.{table} from {ledger.store.namespace}")
    done = 1
    for call in (
        lambda: ledger.consume(secret, 10), lambda: ledger.consume(secret, 10, request_id="x"),
        lambda: ledger.reserve(secret, 10, ttl=10**9).commit(),
    ):  # fmt: skip
        before = owner.usage(key)[0].used
        try:
            call()
        except StoreUnavailable as error:
            assert "permission denied" in str(error)
            assert "nothing was charged" in str(error)
            assert owner.usage(key)[0].used == before
        else:
            done += 10
    assert owner.usage(key)[0].used == done
    assert owner.consume(secret).allowed


def test_a_session_that_an_administrator_ends(server, role):
    """In the middle of a hundred calls of two threads: what fails is repeated by its request id, once each."""
    as_role, owner, key, secret = role
    ledger = as_role()
    failed = []

    def work(thread):
        for number in range(50):
            while True:
                try:
                    ledger.consume(secret, request_id=f"{thread}-{number}")
                    break
                except (StoreUnavailable, StoreBusy) as error:
                    failed.append(str(error))

    threads = [threading.Thread(target=work, args=(at,)) for at in range(2)]
    for thread in threads:
        thread.start()
    with server.connect() as admin:
        for _ in range(20):
            admin.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity where usename = %s", [ledger.store.namespace]
            )
            threads[0].join(0.02)
    for thread in threads:
        thread.join()
    assert owner.usage(key)[0].used == 101
    assert failed
    assert all("nothing was charged" in text or "unknown" in text for text in failed)

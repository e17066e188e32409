"""What is the PostgreSQL store's own, against a real server: one query, its pages, its schema, its pools and its URL."""

import threading
import time
from datetime import datetime, timezone

import pytest
from psycopg_pool import ConnectionPool, NullConnectionPool

from every_store import below_accounts, ledger_with, namespace, run_threads, used
from quota import ClockSkew, Ledger, StoreBusy, StoreUnavailable, UsagePlan
from quota.cli import main
from quota.errors import InvalidValue
from quota.stores.memory import MemoryStore
from quota.stores.postgres import PostgresStore
from quota.stores.postgres import requests as _postgres_steps
from receipts import Receipt, check_receipts
from servers import Pooler

START = int(datetime(2026, 3, 10, 12, tzinfo=timezone.utc).timestamp()) * 1_000_000
DAY = 86_400_000_000


@pytest.fixture
def store(server):
    found = PostgresStore(server.url, namespace=namespace())
    yield found
    found.close()


# One round trip


@pytest.mark.parametrize("above", [0, 2])
def test_one_call_of_the_store_is_one_query_of_the_wire(server, clock, store, above):
    """Nothing is asked of the server beside the function's call: no BEGIN, no SET, no preparing. With accounts above, too."""
    ledger, key, secret = ledger_with(store, clock)
    secret = below_accounts(ledger, above) if above else secret
    pooler = Pooler(server.port, 1)
    there = Ledger(
        PostgresStore(f"postgresql://quota@127.0.0.1:{pooler.port}/postgres", namespace=store.namespace), clock=clock
    )
    for _ in range(3):
        there.consume(secret)
    before = len(pooler.commands)
    assert len(there.consume(secret).limits) == 1 + bool(above) + above
    (command,) = pooler.commands[before:]
    assert command.startswith(b"P") and command.endswith(b"S\0\0\0\4") and command.count(b".spend") == 1
    there.close()
    pooler.close()


def test_a_refusal_writes_nothing(admin, store, clock):
    """A call that is refused, or that only looks, needs no transaction number: it waits for no disk."""
    ledger, key, secret = ledger_with(store, clock, "3/day, 5/s burst 5")
    while ledger.consume(secret):
        pass
    before = admin.execute("select pg_current_xact_id()::text::bigint").fetchone()[0]
    for _ in range(5):
        assert not ledger.consume(secret)
        assert not ledger.peek(secret)
    assert admin.execute("select pg_current_xact_id()::text::bigint").fetchone()[0] == before + 1


def test_plain_charges_stay_in_their_page(admin, store, clock):
    """Charges update rows within their page: no index grows, and the table does not either."""
    ledger, key, secret = ledger_with(store, clock, "1000000/day, 1000000/s")
    for _ in range(300):
        ledger.consume(secret)
    name = f"{store.namespace}.records"
    admin.execute("select pg_stat_force_next_flush(), pg_stat_clear_snapshot()")
    assert admin.execute("select pg_relation_size(%s)", (name,)).fetchone()[0] <= 3 * 8192
    assert admin.execute("select pg_relation_size(%s)", (f"{name}_dead",)).fetchone()[0] <= 2 * 8192


# Numbers


def test_counts_beyond_a_bigint_are_exact(store, clock, monkeypatch):
    """Commits above their holds may pass what a column holds: such counts go on in the encoded record alone."""
    monkeypatch.setattr(_postgres_steps, "_WIDEST", 2**53)
    told = []
    for ledger in [Ledger(other, clock=clock) for other in (MemoryStore(), store)]:
        clock.set(START)
        ledger.add_plan(UsagePlan("p", "1000000/day, 9007199254740991 tokens/day, 1000 tokens/s burst 1000000"))
        secret = ledger.issue_key("k", "p", id="k").secret
        stream = []
        for _ in range(3):
            held = [ledger.reserve(secret, 2, ttl=60_000_000) for _ in range(2)]
            stream += [repr(one.commit({"tokens": 2**53 - 1, "requests": 1})) for one in held]
            stream += [repr(ledger.consume(secret, cost)) for cost in (1, {"tokens": 1}, 2)]
            clock.advance(DAY)
        stream.append(repr(ledger.usage("k", since=datetime(2026, 3, 1).date(), until=datetime(2026, 4, 1).date())))
        told.append(stream)
    assert told[0] == told[1]


# What is dead


def test_dead_records_and_remembered_are_pruned_bit_by_bit_behind_a_floor(admin, store, clock):
    """Years of keys that came once leave no rows behind; what they knew is not granted again to a clock set back."""
    ledger = Ledger(store, clock=clock)
    ledger.add_plan(UsagePlan("p", "10/minute, 5/day"))
    rows = []
    for number in range(40):
        _, secret = ledger.issue_key(f"k{number}", "p")
        assert ledger.consume(secret, request_id="once")
        assert ledger.consume(secret, request_id="twice")
        clock.advance(10 * DAY)
        rows.append([admin.execute(f"select count(*) from {store.namespace}.{table}").fetchone()[0]
                     for table in ("records", "bodies", "remembered")])  # fmt: skip
    assert max(rows[10:]) <= [6, 6, 4], rows
    clock.advance(-60 * DAY)
    with pytest.raises(ClockSkew):
        ledger.consume(ledger.issue_key("late", "p").secret)


# The schema


def test_ten_processes_make_the_schema_at_once(server):
    """Whoever is first makes it, the others wait for it, and all go on."""
    name = namespace()
    barrier = threading.Barrier(10)

    def work(number):
        store = PostgresStore(server.url, namespace=name)
        barrier.wait()
        ledger = Ledger(store)
        ledger.add_plan(UsagePlan("p", "1000/day"))
        assert ledger.consume(ledger.issue_key(f"k{number}", "p").secret)
        ledger.close()

    run_threads([lambda number=number: work(number) for number in range(10)])
    ledger = Ledger(PostgresStore(server.url, namespace=name))
    assert len(ledger.list_keys()) == 10
    ledger.close()


def test_a_newer_schema_is_refused_by_name(admin, server, store, clock):
    """What a later version made is neither misread nor migrated back: the error names both versions."""
    ledger, key, secret = ledger_with(store, clock)
    admin.execute(f"update {store.namespace}.directory set value = '7' where part = 'stamps' and name = '#'")
    other = PostgresStore(server.url, namespace=store.namespace)
    for call in (other.list_plans, other.migrate, lambda: Ledger(other, clock=clock).consume(secret)):
        with pytest.raises(StoreUnavailable, match=r"version 7.*knows 4"):
            call()
    other.close()


@pytest.mark.parametrize("version", [1, 2])
def test_a_schema_that_was_never_released_is_refused_by_name(admin, server, store, clock, version):
    """Its tables had other names: it is neither read nor brought over, and told how to go on."""
    ledger, key, secret = ledger_with(store, clock)
    admin.execute(f"update {store.namespace}.directory set value = '{version}' where part = 'stamps' and name = '#'")
    other = PostgresStore(server.url, namespace=store.namespace)
    for call in (other.list_plans, other.migrate, lambda: Ledger(other, clock=clock).consume(secret)):
        with pytest.raises(
            StoreUnavailable, match=rf"version {version}, which was never released.*name another schema"
        ):
            call()
    other.close()


def test_migrating_twice_keeps_everything(store, clock):
    """migrate() says the version, and changes nothing that is there."""
    ledger, key, secret = ledger_with(store, clock)
    ledger.consume(secret)
    assert (store.migrate(), store.migrate()) == (4, 4)
    assert ledger.consume(secret).limits[0].used == 2


def test_a_role_that_may_only_use_the_tables_is_enough(admin, server, store, clock):
    """Once an owner has migrated, a role without the right to create anything serves calls."""
    ledger, key, secret = ledger_with(store, clock)
    admin.execute(f"""create role app_{store.namespace} login; grant usage on schema {store.namespace} to app_{store.namespace};
        grant select, insert, update, delete on all tables in schema {store.namespace} to app_{store.namespace}""")
    other = PostgresStore(server.url.replace("quota@", f"app_{store.namespace}@"), namespace=store.namespace)
    assert Ledger(other, clock=clock).consume(secret).limits[0].used == 1
    other.close()
    admin.execute(f"revoke update on all tables in schema {store.namespace} from app_{store.namespace}")
    with pytest.raises(StoreUnavailable, match=r"permission denied.*nothing was charged"):
        Ledger(other, clock=clock).consume(secret)
    other.close()


def test_a_database_that_is_not_utf8_is_refused(admin, server):
    """Names in any script need UTF8: another encoding is named, and nothing is made."""
    admin.execute("create database latin encoding 'LATIN1' template template0")
    store = PostgresStore(server.url.replace("/postgres", "/latin"))
    with pytest.raises(StoreUnavailable, match="LATIN1.*UTF8"):
        store.list_keys(None, None, None, None, 0)
    store.close()


def test_any_isolation_level_will_do(server, clock):
    """Where the database defaults to stricter isolation, conflicts are retried: receipts tile and the total is exact."""
    url = f"{server.url}?options=-c%20default_transaction_isolation%3Dserializable"
    store = PostgresStore(url, namespace=namespace())
    ledger, key, secret = ledger_with(store, clock, "1000000/day, 1000000/year by account")
    ledger.issue_key("second", "p", account="k")
    receipts = []

    def work():
        for _ in range(12):
            invoked = time.monotonic()
            decision = ledger.consume(secret, 2)
            receipts.append(Receipt(invoked, time.monotonic(), 2, decision.limits[0].used))

    run_threads([work] * 4)
    assert check_receipts(receipts) == 4 * 12 * 2 == used(ledger, secret)
    store.close()


def test_the_command_line_migrates_checks_and_serves(admin, server, monkeypatch, capsys):
    """quota store migrate makes the schema; keys are issued on it; check finds what does not fit; a newer one is refused."""
    name = namespace()
    monkeypatch.setenv("QUOTA_STORE", f"{server.url}?namespace={name}")

    def quota(*arguments):
        status = main(list(arguments))
        said = capsys.readouterr()
        return status, said.out + said.err

    assert quota("store", "migrate", "--json")[1].split() == ["{", '"migrated":', "true,", '"version":', "4", "}"]
    assert quota("plan", "add", "p", "5/day")[0] == 0
    assert quota("key", "issue", "k", "--plan", "p")[0] == 0
    assert quota("store", "check") == (0, "1 plan, 1 key: all is well\n")
    admin.execute(f"delete from {name}.directory where part = 'keys'")
    status, said = quota("store", "check")
    assert (status, "which is no key" in said) == (3, True), said
    admin.execute(f"update {name}.directory set value = '9' where part = 'stamps' and name = '#'")
    status, said = quota("store", "migrate")
    assert (status, "version 9" in said) == (3, True), said


# How it is opened


def test_a_url_gives_its_options_to_the_store_and_the_rest_to_the_driver(server):
    """namespace, timeout, connections and the common options are the store's; the rest is libpq's; others are refused."""
    name = namespace()
    ledger = Ledger(
        f"{server.url}?namespace={name}&timeout=3&max_skew=60&request_ttl=10&retention=2&connections=4"
        "&application_name=a%20b"
    )
    store = ledger.store
    assert (store.namespace, store.timeout, store.options.max_skew, store.options.retention) == (name, 3, 60_000_000, 2)
    assert store.exact_across_failover
    assert ledger.list_keys() == []
    with server.connect() as admin:
        assert admin.execute("select count(*) from pg_stat_activity where application_name = 'a b'").fetchone()[0] == 1
    ledger.close()
    ledger.close()
    for query in ("timeout=x", "check_clock=maybe", "namespace=", "namespace=A", "namespace=pg_x", "namespace=a%3Bb",
                  "timeout=0", "nonsense=1", "connections=0"):  # fmt: skip
        with pytest.raises(InvalidValue):
            Ledger(f"{server.url}?{query}")
    with pytest.raises(InvalidValue) as caught:
        Ledger("postgresql://user:hunter2@host/db?nonsense=1")
    assert "hunter2" not in str(caught.value)
    Ledger("postgres:///here?namespace=x").close()


def test_a_pool_of_the_callers_is_used_and_stays_open(server, clock):
    """psycopg_pool's pools, whether their connections commit by themselves or not, and no matter how they prepare."""
    for kind, options in ((ConnectionPool, {}), (ConnectionPool, {"autocommit": True, "prepare_threshold": 0}),
                          (NullConnectionPool, {})):  # fmt: skip
        size = {"min_size": 1, "max_size": 2} if kind is ConnectionPool else {"max_size": 2}
        with kind(server.url, kwargs=options, open=True, **size) as pool:
            ledger, key, secret = ledger_with(PostgresStore(pool, namespace=namespace()), clock)
            for number in range(1, 4):
                assert ledger.consume(secret).limits[0].used == number
            ledger.close()
            with pool.connection() as connection:
                assert connection.execute("select 1").fetchone() == (1,)


def test_a_pool_without_a_free_connection_is_busy(server, clock):
    """Bounds on connections, the caller's pool's and the store's own, are an error of their own: nothing was charged."""
    with ConnectionPool(server.url, min_size=1, max_size=1, open=True) as pool:
        ledger = Ledger(PostgresStore(pool, namespace=namespace(), timeout=1), clock=clock)
        with pool.connection(), pytest.raises(StoreBusy, match="nothing was charged"):
            ledger.list_keys()
    store = PostgresStore(server.url, namespace=namespace(), timeout=1, connections=1)
    store._connections.take("a call", time.monotonic() + 1)
    with pytest.raises(StoreBusy, match="nothing was charged"):
        store.list_keys(None, None, None, None, 0)
    store._connections.give("a call")
    assert store.list_keys(None, None, None, None, 0) == []
    store.close()


def test_a_connection_in_another_encoding_is_refused(server, clock):
    """A pool whose sessions speak LATIN1 would garble names: it is told so."""
    with ConnectionPool(server.url, kwargs={"client_encoding": "latin1"}, min_size=1, open=True) as pool:
        with pytest.raises(StoreUnavailable, match=r"client_encoding.*UTF8.*nothing"):
            Ledger(PostgresStore(pool, namespace=namespace()), clock=clock).list_keys()

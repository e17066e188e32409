"""The PostgreSQL store when many call at once and when things break: the network, cancelled calls."""

import asyncio
import contextlib
import itertools
import threading
import time
from datetime import datetime, timezone

import pytest
import uvloop
from psycopg_pool import AsyncConnectionPool

from awaited import cancelled_calls, tasks_tile
from every_store import ledger_with, none_or_one_whole_effect, of_its_own, run_threads, used
from quota import AsyncLedger, Ledger, ManualClock, StoreBusy, StoreUnavailable, UsagePlan
from quota.operations.request import Request
from quota.stores.postgres import AsyncPostgresStore, PostgresStore
from quota.stores.postgres.schema import VERSION
from servers import Postgres, PostgresProxy, free_port

START = int(datetime(2026, 3, 10, 12, tzinfo=timezone.utc).timestamp()) * 1_000_000
LOOPS = pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
_names = itertools.count()


def namespace() -> str:
    return f"fault{next(_names)}"


server = of_its_own(Postgres)


@pytest.fixture
def store(server):
    found = PostgresStore(server.url, namespace=namespace())
    yield found
    found.close()


@pytest.fixture
def proxy(server):
    found = PostgresProxy(server.port)
    yield found
    found.close()


@pytest.fixture
def through(proxy, clock):
    """Opens a ledger whose store goes through the proxy, without a connection yet."""
    with contextlib.ExitStack() as opened:

        def open_(name, clock=clock, **options):
            url = f"postgresql://quota@127.0.0.1:{proxy.port}/postgres"
            return opened.enter_context(Ledger(PostgresStore(url, namespace=name, **options), clock=clock))

        yield open_


# Many at once


def test_keys_that_join_and_leave_an_account_lose_no_unit(server, store, clock):
    """While two keys are charged, a third joins their account and leaves it: every unit stays on the account."""
    for number in range(6):
        ledger = Ledger(store, clock=clock)
        ledger.add_plan(UsagePlan("p", "1000000/day by account"))
        account = f"team{number}"
        first = ledger.issue_key("first", "p", account=account).secret
        admitted = []

        def charge(secret=first, admitted=admitted):
            mine = Ledger(PostgresStore(server.url, namespace=store.namespace), clock=clock)
            admitted.extend(3 * bool(mine.consume(secret, 3)) for _ in range(10))
            mine.close()

        def join(account=account):
            for _ in range(3):
                ledger.remove_key(ledger.issue_key("guest", "p", account=account).key)

        run_threads([charge, charge, join])
        last = ledger.issue_key("last", "p", account=account).secret
        assert used(ledger, last) == sum(admitted) == 2 * 10 * 3


def test_the_directory_of_many_writers_is_whole(server, store, clock):
    """Keys issued, rotated, moved and removed at the same time by several processes' stores: nothing is half done."""
    ledger, key, secret = ledger_with(store, clock)
    ledger.add_plan(UsagePlan("q", "10/day"))

    def work(number):
        mine = Ledger(PostgresStore(server.url, namespace=store.namespace), clock=clock)
        for step in range(4):
            own, first = mine.issue_key("own", "p", account=f"team{step % 2}")
            _, second = mine.rotate_key(own)
            mine.associate(own, "q")
            assert (mine.consume(first).reason.value, bool(mine.consume(second))) == ("UNKNOWN_KEY", True)
            if step % 2:
                mine.remove_key(own)
        mine.close()

    run_threads([lambda number=number: work(number) for number in range(5)])
    assert len(ledger.list_keys()) == 1 + 5 * 2


# Waiting


def test_waiting_for_a_row_is_bounded(server, clock):
    """While another transaction holds the row, a call is busy within its timeout, never refused; nothing is charged."""
    store = PostgresStore(server.url, namespace=namespace(), timeout=1)
    ledger, key, secret = ledger_with(store, clock)
    ledger.consume(secret)
    with server.connect() as other:
        other.execute("begin")
        other.execute(f"select from {store.namespace}.records for update")
        for call in (lambda: ledger.consume(secret), lambda: ledger.reserve(secret, 1, ttl=10**6)):
            started = time.monotonic()
            with pytest.raises(StoreBusy, match="nothing"):
                call()
            assert time.monotonic() - started < 10
        assert used(ledger, secret) == 1
        other.execute("rollback")
    assert ledger.consume(secret).limits[0].used == 2
    store.close()


def test_waiting_for_a_turn_is_bounded(server, clock):
    """While another writer's turn does not end, a call is busy after the timeout, and nothing is charged."""
    store = PostgresStore(server.url, namespace=namespace(), timeout=1)
    ledger, key, secret = ledger_with(store, clock)
    ledger.consume(secret)
    with server.connect() as other:
        other.execute(f"update {store.namespace}.records set turn = 123, turn_until = 9e15")
        with pytest.raises(StoreBusy, match="nothing"):
            ledger.consume(secret)
        with pytest.raises(StoreBusy):
            ledger.reserve(secret, 1, ttl=1_000_000)
        assert used(ledger, secret) == 1
        other.execute(f"update {store.namespace}.records set turn_until = 1")
    assert ledger.reserve(secret, 1, ttl=1_000_000)
    store.close()


def test_a_turn_in_which_nothing_is_written_ends_at_once(server, store, clock):
    """A writer that took its turn and then refused leaves nobody waiting for the rest of it."""
    ledger, key, secret = ledger_with(store, clock, "3/day")
    ledger.consume(secret)
    copy = next(iter(store._copies._found.values()))
    request = Request("reserve", START, key_id=key.id, takes={"requests": 9}, id="x", ttl=1)
    steps = store._attempt(copy, request, 77)
    call = next(steps)
    with contextlib.suppress(StopIteration):
        while True:
            call = steps.send(store._send(call))
    with server.connect() as other:
        assert other.execute(f"select turn, turn_until from {store.namespace}.records").fetchall() == [(77, 0)]


# The network


@pytest.mark.parametrize("fault", ["drop_reply", "half"])
def test_a_lost_reply_is_unknown_and_a_request_id_makes_it_once(store, clock, proxy, through, fault):
    """The charge happened, the caller is told that nobody knows, and the retry finds it; rows alone are no reply."""
    direct, key, secret = ledger_with(store, clock, "100/day")
    ledger = through(store.namespace)
    ledger.consume(secret)
    for number in range(3):
        proxy.set(fault, only=b".spend")
        with pytest.raises(StoreUnavailable, match="unknown"):
            ledger.consume(secret, request_id=f"id{number}")
        again = ledger.consume(secret, request_id=f"id{number}")
        assert again.replayed
        assert used(direct, secret) == 2 + number


@pytest.mark.spread(2)
@pytest.mark.parametrize(
    ("fault", "nth"),
    # A server that is silent while one connects is given two seconds: once is enough.
    [*itertools.product(["cut", "drop_reply", "half"], range(8)), *(("hang", nth) for nth in range(1, 8))],
)
def test_a_fault_at_any_message_leaves_none_or_one_whole_effect(store, clock, proxy, through, fault, nth):
    """Whichever message of a reservation's first contact is hit, the state is that before it or that after it."""
    direct, key, secret = ledger_with(store, clock, "100/day, 100 tokens/day by account")
    ledger = through(store.namespace, timeout=0.15)
    none_or_one_whole_effect(direct, secret, proxy, fault, nth, ledger, lambda: through(store.namespace))


def test_a_silent_server_is_unavailable_within_the_timeout(store, clock, proxy, through):
    """A call ends when its timeout does, the next one makes a connection of its own."""
    direct, key, secret = ledger_with(store, clock)
    ledger = through(store.namespace, timeout=1)
    ledger.consume(secret)
    proxy.set("hang", only=b".spend")
    started = time.monotonic()
    with pytest.raises(StoreUnavailable, match="unknown"):
        ledger.consume(secret)
    assert time.monotonic() - started < 10
    assert ledger.consume(secret).limits[0].used == 2


def test_a_connection_that_died_idle_is_replaced_before_anything_is_sent(server, store, clock):
    """The server ended the session in between: the next call goes on another connection, and no outcome is unknown."""
    ledger, key, secret = ledger_with(store, clock)
    for number in range(1, 4):
        assert ledger.consume(secret).limits[0].used == number
        with server.connect() as other:
            ended = other.execute(
                "select pg_terminate_backend(pid, 5000) from pg_stat_activity"
                " where pid <> pg_backend_pid() and backend_type = 'client backend'"
            )
            assert ended.fetchall()


def test_a_backend_killed_while_it_waits_charged_nothing_and_is_unknown(server, store, clock):
    """The server ends the session in the middle of the function: the caller cannot know, and nothing is half done."""
    ledger, key, secret = ledger_with(store, clock, "100/day, 100/day by account as team")
    ledger.issue_key("second", "p", account="k")
    ledger.consume(secret)
    found = []

    def call():
        try:
            found.append(ledger.consume(secret, 5, request_id="x"))
        except StoreUnavailable as error:
            found.append(str(error))

    with server.connect() as other, server.connect() as watcher:
        other.execute("begin")
        other.execute(f"select from {store.namespace}.records where name like 'a:%' for update")
        worker = threading.Thread(target=call)
        worker.start()
        waiting = "select pid from pg_stat_activity where wait_event_type = 'Lock'"
        while not (pids := watcher.execute(waiting).fetchall()):
            pass
        watcher.execute("select pg_terminate_backend(%s)", pids[0])
        worker.join()
        other.execute("rollback")
    assert "unknown" in found[0]
    assert [s.used for s in ledger.peek(secret).limits] == [2, 2]
    assert ledger.consume(secret, 5, request_id="x").replayed is False


def test_an_unreachable_server_is_unavailable_and_nothing_was_charged(clock):
    """Nobody listens: the error says that nothing happened, and on_unavailable decides where it was asked to."""
    url = f"postgresql://quota@127.0.0.1:{free_port()}/postgres"
    for choice, allowed in (("deny", False), ("allow", True)):
        ledger = Ledger(url, clock=clock, on_unavailable=choice)
        decision = ledger.consume("any secret that nobody knows")
        assert (decision.allowed, decision.reason.value) == (allowed, "STORE_UNAVAILABLE")
    with pytest.raises(StoreUnavailable, match="nothing was charged"):
        Ledger(url, clock=clock).consume("any secret that nobody knows")


@pytest.mark.parametrize(
    ("code", "said"),
    [("40001", None), ("40P01", None), ("55P03", "nothing was charged"), ("53100", "nothing was charged"),
     ("57014", "nothing was charged")],
)  # fmt: skip
def test_a_server_that_declines_did_nothing(store, clock, proxy, through, code, said):
    """An ERROR undid everything: serialization failures and deadlocks are sent again, once each; others are told."""
    direct, key, secret = ledger_with(store, clock)
    ledger = through(store.namespace)
    ledger.consume(secret)
    body = b"SERROR\0VERROR\0C" + code.encode() + b"\0Mplanted\0\0"
    answer = b"E" + (len(body) + 4).to_bytes(4, "big") + body + b"Z\0\0\0\5I"
    proxy.set("answer", answer=answer, only=b".spend")
    if said is None:
        assert ledger.consume(secret).limits[0].used == 2
    else:
        with pytest.raises(StoreBusy if code == "55P03" else StoreUnavailable, match=said):
            ledger.consume(secret)
        assert ledger.consume(secret).limits[0].used == 2


def test_conflicts_without_end_are_busy(store, clock, proxy, through):
    """Serialization failures are retried within the timeout and no longer."""
    direct, key, secret = ledger_with(store, clock)
    ledger = through(store.namespace, timeout=1)
    ledger.consume(secret)
    body = b"SERROR\0VERROR\0C40001\0Mplanted\0\0"
    proxy.set("answer", answer=b"E" + (len(body) + 4).to_bytes(4, "big") + body + b"Z\0\0\0\5I", only=b".spend",
              times=10**9)  # fmt: skip
    with pytest.raises(StoreBusy, match="nothing"):
        ledger.consume(secret)
    assert used(direct, secret) == 1


def test_a_session_ended_under_way_is_unknown(store, clock, proxy, through):
    """FATAL may come after the commit: the outcome is unknown, though a code was given."""
    direct, key, secret = ledger_with(store, clock)
    ledger = through(store.namespace)
    ledger.consume(secret)
    body = b"SFATAL\0VFATAL\0C57P01\0Mterminating connection\0\0"
    proxy.set("answer", answer=b"E" + (len(body) + 4).to_bytes(4, "big") + body, only=b".spend")
    with pytest.raises(StoreUnavailable, match="unknown"):
        ledger.consume(secret)


def test_late_replies_of_skewed_clients_never_grant_too_much(store, proxy, through):
    """Replies held back, clocks apart, four clients at once: admitted is the limit, to the unit."""
    proxy.set("delay", delay=0.002)
    clocks = [ManualClock(START + skew * 1_000_000) for skew in (0, 5, -5, 2)]
    direct, key, secret = ledger_with(store, clocks[0], "40/day")
    ledgers = [through(store.namespace, clock) for clock in clocks]
    admitted = []
    run_threads([
        lambda ledger=ledger: admitted.extend(bool(ledger.consume(secret)) for _ in range(20)) for ledger in ledgers
    ])  # fmt: skip
    assert (len(admitted), sum(admitted)) == (80, 40)


def test_a_read_only_replica_is_unavailable(server, store, clock):
    """A replica answers a peek and says of a charge that nothing happened."""
    ledger, key, secret = ledger_with(store, clock)
    ledger.consume(secret)
    replica = Postgres(replica_of=server.port)
    try:
        there = Ledger(PostgresStore(replica.url, namespace=store.namespace), clock=clock)
        assert there.peek(secret).limits[0].used == 2
        for call in (lambda: there.consume(secret), lambda: there.disable_key(key)):
            with pytest.raises(StoreUnavailable, match=r"read-only.*nothing was charged"):
                call()
        there.close()
    finally:
        replica.stop()
    assert used(ledger, secret) == 1


# Asyncio


@LOOPS
def test_tasks_share_one_store_without_threads(server, loop):
    """Eight tasks over four connections, or over the caller's pool: receipts tile, on both loops, without a thread."""

    async def pooled():
        async with AsyncConnectionPool(server.url, min_size=1, max_size=3, open=False) as pool:
            return await tasks_tile(AsyncPostgresStore(pool, namespace=namespace()), 15)

    with asyncio.Runner(loop_factory=loop) as runner:
        four = AsyncPostgresStore(server.url, namespace=namespace(), connections=4)
        assert runner.run(tasks_tile(four, 15)) == 8 * 15 * 2
        assert runner.run(pooled()) == 8 * 15 * 2


async def cancelled(url, name, rounds=72):
    async with AsyncLedger(AsyncPostgresStore(url, namespace=name), clock=ManualClock(START)) as ledger:
        await ledger.add_plan(UsagePlan("p", "1000000/day, 1000000 tokens/day"))
        _, secret = await ledger.issue_key("k", "p")
        cost = {"requests": 3, "tokens": 7}
        await ledger.consume(secret, cost)
        done, unsure = await cancelled_calls(ledger, secret, cost, rounds)
        # Whatever was under way at a cancelled call's end is charged or not once its row is free.
        await ledger.store.change_key((await ledger.list_keys())[0].id, lambda key: key)
        replays = [(await ledger.consume(secret, cost, request_id=f"id{number}")).replayed for number in range(rounds)]
        status = (await ledger.peek(secret, {"requests": 1, "tokens": 1})).limits
        requests, tokens = (found.used - 1 for found in status)
        assert (requests, tokens) == ((rounds + 1) * 3, (rounds + 1) * 7)
        assert done <= sum(replays) <= done + unsure
        return done, unsure


@LOOPS
def test_a_cancelled_call_has_no_effect_or_one_whole_effect(server, loop):
    """Cancelled anywhere on its way, a call took all of its units or none, and a retry of its id takes the rest."""
    with asyncio.Runner(loop_factory=loop) as runner:
        done, unsure = runner.run(cancelled(server.url, namespace()))
    assert done
    assert unsure


def test_a_cancelled_wait_gives_its_connection_back(server, clock):
    """Calls cancelled while they wait for a row or for a connection leave the store able to serve."""

    async def play():
        name = namespace()
        async with AsyncLedger(AsyncPostgresStore(server.url, namespace=name, connections=2), clock=clock) as ledger:
            await ledger.add_plan(UsagePlan("p", "10/day"))
            _, secret = await ledger.issue_key("k", "p")
            await ledger.consume(secret)
            with server.connect() as other:
                other.execute("begin")
                other.execute(f"select from {name}.records for update")
                tasks = [asyncio.ensure_future(ledger.consume(secret)) for _ in range(5)]
                while other.execute("select count(*) from pg_locks where not granted").fetchone()[0] < 2:
                    await asyncio.sleep(0)
                for task in tasks:
                    task.cancel()
                assert {type(found) for found in await asyncio.gather(*tasks, return_exceptions=True)} == {
                    asyncio.CancelledError
                }
                other.execute("rollback")
            return [bool(await ledger.consume(secret)) for _ in range(4)]

    assert asyncio.run(play()) == [True] * 4


def test_the_asynchronous_store_says_what_failed(server, clock, proxy):
    """Lost replies, silence, a full store and an unreachable server, awaited."""

    async def tell():
        url = f"postgresql://quota@127.0.0.1:{proxy.port}/postgres"
        store = AsyncPostgresStore(url, namespace=namespace(), timeout=0.5, connections=1)
        async with AsyncLedger(store, clock=clock) as ledger:
            await ledger.add_plan(UsagePlan("p", "10/day"))
            key, secret = await ledger.issue_key("k", "p")
            await ledger.consume(secret)
            for fault in ("drop_reply", "hang", "half"):
                proxy.set(fault, only=b".spend")
                with pytest.raises(StoreUnavailable, match="unknown"):
                    await ledger.consume(secret, request_id=fault)
                assert await ledger.peek(secret)  # three in a row, and the store were taken to be away
            assert (await ledger.consume(secret, request_id="drop_reply")).replayed
            assert await store.migrate() == VERSION
            taken = await store._connections.take(time.monotonic() + 1)
            with pytest.raises(StoreBusy, match="nothing was charged"):
                await ledger.consume(secret)
            await store._connections.give(taken)
            assert await ledger.list_keys() == [key]
        async with AsyncLedger(f"postgresql://quota@127.0.0.1:{free_port()}/postgres", clock=clock) as lost:
            with pytest.raises(StoreUnavailable, match="nothing was charged"):
                await lost.consume(secret)

    asyncio.run(tell())

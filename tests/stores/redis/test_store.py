"""What is the Redis store's own, against a real Valkey: turns, faults of the network and the server, its URL."""

import asyncio
import contextlib
import json
import time
import warnings
from datetime import datetime, timezone
from functools import partial

import pytest
import redis
import redis.asyncio
import redis.asyncio.cluster
import uvloop

from awaited import cancelled_calls, tasks_tile
from every_store import below_accounts, ledger_with, namespace, none_or_one_whole_effect, run_threads, used
from quota import AsyncLedger, Ledger, ManualClock, StoreBusy, StoreUnavailable, UnknownKey, UsagePlan
from quota.errors import InvalidPlan, InvalidValue
from quota.operations.request import Request
from quota.stores import open_store
from quota.stores.redis import AsyncRedisStore, RedisStore
from servers import FaultProxy, Valkey, free_port

START = int(datetime(2026, 3, 10, 12, tzinfo=timezone.utc).timestamp()) * 1_000_000
DAY = 86_400_000_000


@pytest.fixture
def store(client):
    return RedisStore(client, namespace=namespace())


@pytest.fixture
def proxy(server):
    found = FaultProxy(server.port)
    yield found
    found.close()


def twin(ledger, clock):
    """Another process, as far as the store can tell."""
    return Ledger(RedisStore(ledger.store.client, namespace=ledger.store.namespace), clock=clock)


# Freshness


def test_what_a_disabled_key_used_is_not_read(store, clock, monkeypatch):
    """It is refused about as soon as a key that nobody has: its records are not decoded."""
    ledger, key, secret = ledger_with(store, clock)
    ledger.consume(secret)
    ledger.disable_key(key)
    ledger.consume(secret)
    monkeypatch.setattr(RedisStore, "_decode", None)
    assert ledger.consume(secret).reason.value == ledger.peek(secret).reason.value == "DISABLED_KEY"


# Exactly once


def test_a_remembered_goes_a_little_after_its_request_id(client, clock):
    """By itself: of a key that was forgotten and of one that is used again a day later too."""
    store = RedisStore(client, namespace=namespace())
    ledger, key, secret = ledger_with(store, clock)
    first = ledger.consume(secret, request_id="x")
    ledger.forget(key)
    second = ledger.consume(secret, request_id="x")
    clock.advance(DAY)
    third = ledger.consume(secret, request_id="x")
    assert [d.replayed for d in (first, second, third)] == [False] * 3
    (name,) = client.keys(f"{{{store.namespace}}}:req:*")
    assert 86_400_000 < client.pttl(name) <= 86_400_000 + 301_000


# Numbers


def test_integers_are_exact_or_refused_when_a_plan_is_made():
    """Whatever a double could not hold is refused when the plan is made, never found out by the script."""
    UsagePlan("p", f"{2**53 - 1}/day, {2**53 - 1}/s burst 9007199254")
    for text in (
        f"{2**53}/day",
        f"{2**53 - 1}/day overage 1",
        f"{2**53}/s",
        f"1/day burst {2**53 // 86_400_000_000 + 1}",
    ):
        with pytest.raises(InvalidPlan):
            UsagePlan("p", text)


# Many at once


def test_a_turn_in_which_nothing_is_written_ends_at_once(store, client, clock):
    """A writer that took its turn and then refused leaves nobody waiting for the rest of it."""
    ledger, key, secret = ledger_with(store, clock, "3/day")
    ledger.consume(secret)
    copy = next(iter(store._copies._found.values()))
    steps = store._attempt(copy, Request("reserve", START, key_id=key.id, takes={"requests": 9}, id="x", ttl=1), 77)
    call = next(steps)
    with contextlib.suppress(StopIteration):
        while True:
            call = steps.send(store._send(call))
    assert client.hget(f"{{{store.namespace}}}:use:k:{key.id}", "w") is None


def test_waiting_for_a_turn_is_bounded(client, clock):
    """While another writer's turn does not end, a call is busy after the timeout, never refused, and nothing is charged."""
    store = RedisStore(client, namespace=namespace(), timeout=0.05)
    ledger, key, secret = ledger_with(store, clock)
    ledger.consume(secret)
    record = f"{{{store.namespace}}}:use:k:{key.id}"
    client.hset(record, "w", f"123 {(time.time_ns() // 10**6) + 60_000}")
    with pytest.raises(StoreBusy, match="nothing"):
        ledger.consume(secret)
    with pytest.raises(StoreBusy):
        ledger.reserve(secret, 1, ttl=1_000_000)
    assert used(ledger, secret) == 1
    client.hset(record, "w", "123 1")
    assert ledger.reserve(secret, 1, ttl=1_000_000)


class Contended(RedisStore):
    """A store in whose way another writer gets, each time it has read records to decide on, so many times."""

    def __init__(self, client, rival, times, **options):
        super().__init__(client, **options)
        self.rival, self.times = rival, times

    def _send(self, call):
        reply = super()._send(call)
        if type(reply) is list and self.times and type(reply[0]) is list:
            self.times -= 1
            self.rival()
        return reply


@pytest.mark.parametrize("cost", [1, 50])
def test_a_turn_ends_with_the_call_that_took_it(store, client, clock, cost):
    """Whether the call that others got in the way of was admitted or refused, nobody waits for it any more."""
    ledger, key, secret = ledger_with(store, clock, "50/day")
    contended = Contended(client, lambda: ledger.consume(secret), 1, namespace=store.namespace)
    held = Ledger(contended, clock=clock).reserve(secret, cost, ttl=1_000_000)
    assert (bool(held), contended.times) == (cost == 1, 0)
    record = f"{{{store.namespace}}}:use:k:{key.id}"
    assert not client.hexists(record, "w")


@pytest.mark.parametrize("above", [0, 2])
def test_one_call_is_one_script(store, clock, above):
    """One trip to the server for a call, whether two accounts are above its key's own or none; a refusal likewise."""
    ledger, key, secret = ledger_with(store, clock, "9/day")
    secret = below_accounts(ledger, above) if above else secret
    for _ in range(3):
        ledger.consume(secret)
    sent, send = [], store._send
    store._send = lambda call: (sent.append(call), send(call))[1]
    assert len(ledger.consume(secret).limits) == 1 + bool(above) + above
    assert not ledger.consume(secret, 7)
    assert len(sent) == 2


def test_writers_of_one_process_stand_in_line(store, clock):
    """Sixteen threads that reserve and commit on one key: none loses to another, so each takes its four trips."""
    ledger, key, secret = ledger_with(store, clock, "1000000/day")
    ledger.reserve(secret, 1, ttl=60_000_000).commit()
    sent, send = [], store._send
    store._send = lambda call: (sent.append(call), send(call))[1]

    def work():
        for _ in range(5):
            ledger.reserve(secret, 5, ttl=60_000_000).commit(2)

    run_threads([work] * 16)
    assert len(sent) == 4 * 5 * 16
    assert used(ledger, secret) == 1 + 2 * 5 * 16
    assert len(store._queues) == 0


# The server


def test_a_script_flush_is_survived(client, clock):
    """The script is sent again, and the call is charged once."""
    ledger, key, secret = ledger_with(RedisStore(client, namespace=namespace()), clock)
    ledger.consume(secret)
    client.script_flush()
    assert ledger.consume(secret).limits[0].used == 2
    client.script_flush()
    assert used(ledger, secret) == 2


def test_a_server_that_forgets_refuses_everyone(clock):
    """Without persistence a restart loses keys, plans and counts: what is left is no key, never a fresh quota."""
    server = Valkey()
    try:
        with contextlib.closing(RedisStore(url=server.url)) as store:
            ledger, key, secret = ledger_with(store, clock)
            assert ledger.consume(secret)
            server.kill()
            server.start()
            assert ledger.consume(secret).reason.value == "UNKNOWN_KEY"
            with pytest.raises(UnknownKey):
                ledger.get_key(key)
            ledger.add_plan(UsagePlan("p", "10/day"))
            ledger.import_key(secret, "k", "p", id="k")
            assert ledger.consume(secret).limits[0].used == 1
    finally:
        server.stop()


def test_a_read_only_replica_is_unavailable(server, client, clock):
    """A replica answers a peek and says of a charge that nothing happened."""
    ledger, key, secret = ledger_with(RedisStore(client, namespace=namespace()), clock)
    ledger.consume(secret)
    replica = Valkey("--replicaof", "127.0.0.1", str(server.port))
    try:
        with replica.client() as other:
            deadline = time.monotonic() + 20
            while other.info("replication")["master_link_status"] != "up" and time.monotonic() < deadline:
                pass
            there = Ledger(RedisStore(other, namespace=ledger.store.namespace), clock=clock)
            assert there.peek(secret).limits[0].used == 2
            with pytest.raises(StoreUnavailable, match=r"(?i)read.?only.*nothing was charged"):
                there.consume(secret)
    finally:
        replica.stop()
    assert used(ledger, secret) == 1


def test_a_server_out_of_memory_is_unavailable(clock):
    """Nothing is charged while it has no memory; afterwards it goes on."""
    server = Valkey()
    try:
        with server.client() as client:
            ledger, key, secret = ledger_with(RedisStore(client, namespace=namespace()), clock)
            ledger.consume(secret)
            client.config_set("maxmemory", 1)
            for call in (
                lambda: ledger.consume(secret),
                lambda: ledger.consume(secret, request_id="x"),
                lambda: ledger.reserve(secret, 1, ttl=10**6),
                lambda: ledger.issue_key("more", "p"),
            ):
                with pytest.raises(StoreUnavailable, match="nothing was charged"):
                    call()
            client.config_set("maxmemory", 0)
            assert ledger.consume(secret, request_id="x").limits[0].used == 2
            assert [found.id for found in ledger.list_keys()] == ["k"]
    finally:
        server.stop()


def test_a_server_that_evicts_is_warned_about_once(server, clock):
    """A store says once that live windows may be thrown away; of noeviction it says nothing."""
    evicting = Valkey("--maxmemory", "200mb", "--maxmemory-policy", "allkeys-lru")
    try:
        with evicting.client() as client:
            ledger, key, secret = ledger_with(RedisStore(client, namespace=namespace()), clock)
            with pytest.warns(RuntimeWarning, match="allkeys-lru.*noeviction"):
                ledger.consume(secret)
            with warnings.catch_warnings(record=True) as found:
                ledger.consume(secret)
            assert found == []
    finally:
        evicting.stop()


def test_records_expire_late_and_the_directory_never(store, client, clock):
    """A record goes by itself after its windows and its history, no sooner; nothing else has an end but remembered requests."""
    ledger, key, secret = ledger_with(store, clock, "10/minute, 10/year by account")
    ledger.issue_key("second", "p", account="k")
    ledger.consume(secret, request_id="x")
    ledger.consume(secret)
    day_ms = 86_400_000
    lives = {name.decode().split(":")[1]: client.pttl(name) for name in client.keys(f"{{{store.namespace}}}:*")}
    assert {name for name, life in lives.items() if life == -1} == {
        "stamps",
        "events",
        "secrets",
        "keys",
        "lists",
        "accounts",
        "plans",
    }
    records = [client.pttl(name) / day_ms for name in client.keys(f"{{{store.namespace}}}:use:*")]
    year = 366 - 69.5 + 2 * 365
    assert min(records) == pytest.approx(35.5, abs=0.1)  # the rest of the day, then the history
    assert max(records) == pytest.approx(year, abs=2)


def test_a_bucket_outlives_its_last_write(store, client, clock):
    """A record stays until what a lane poured last is drained, also where a plan's burst grew in between."""
    ledger, key, secret = ledger_with(store, clock, "1/day burst 1000")
    record = f"{{{store.namespace}}}:use:k:{key.id}"
    ledger.consume(secret)
    ledger.consume(secret, 999)
    assert client.pttl(record) > 1000 * 86_400_000
    ledger.replace_plan(UsagePlan("p", "1/day burst 3000"))
    assert not ledger.consume(secret, 2001)
    ledger.consume(secret, 1000)
    ledger.consume(secret, 1000)
    assert client.pttl(record) > 3000 * 86_400_000


def test_another_format_is_refused(store, client, clock):
    """What a later version wrote, or one before the first release, is not misread: the error names both formats."""
    ledger, key, secret = ledger_with(store, clock)
    for other in ("3", "5"):
        client.hset(f"{{{store.namespace}}}:stamps", "#", other)
        with pytest.raises(StoreUnavailable, match=f"format {other}.*reads 4"):
            twin(ledger, clock).consume(secret)


# The network


def through(proxy, clock, name, **options):
    """A ledger whose store goes through the proxy, without a connection yet."""
    options = {"socket_timeout": 1, "retry": redis.retry.Retry(redis.backoff.NoBackoff(), 0), **options}
    return Ledger(RedisStore(redis.Redis(port=proxy.port, **options), namespace=name), clock=clock)


def test_a_lost_reply_is_unknown_and_a_request_id_makes_it_once(store, clock, proxy):
    """The charge happened, the caller is told that nobody knows, and the retry finds it."""
    direct, key, secret = ledger_with(store, clock, "100/day")
    ledger = through(proxy, clock, store.namespace)
    ledger.consume(secret)
    for number in range(3):
        proxy.set("drop_reply")
        with pytest.raises(StoreUnavailable, match="unknown"):
            ledger.consume(secret, request_id=f"id{number}")
        again = ledger.consume(secret, request_id=f"id{number}")
        assert again.replayed
        assert used(direct, secret) == 2 + number


def test_a_client_that_retries_does_not_charge_twice(store, clock, proxy):
    """redis-py's own retries are not used: a lost reply is told, not sent again."""
    direct, key, secret = ledger_with(store, clock)
    ledger = through(proxy, clock, store.namespace, retry=redis.retry.Retry(redis.backoff.NoBackoff(), 5))
    ledger.consume(secret)
    proxy.set("drop_reply")
    with pytest.raises(StoreUnavailable, match="unknown"):
        ledger.consume(secret)
    assert used(direct, secret) == 2


@pytest.mark.parametrize("fault", ["cut", "drop_reply", "hang"])
@pytest.mark.parametrize("nth", range(5))
def test_a_fault_at_any_call_leaves_none_or_one_whole_effect(store, clock, proxy, fault, nth):
    """Whichever command of a reservation's first contact is hit, the state is that before it or that after it."""
    direct, key, secret = ledger_with(store, clock, "100/day, 100 tokens/day by account")
    ledger = through(proxy, clock, store.namespace, socket_timeout=0.5)
    none_or_one_whole_effect(direct, secret, proxy, fault, nth, ledger, lambda: ledger)


def test_a_silent_server_is_unavailable_within_the_timeout(store, clock, proxy):
    """A call ends when the socket's timeout does, the next one finds a connection of its own."""
    direct, key, secret = ledger_with(store, clock)
    ledger = through(proxy, clock, store.namespace, socket_timeout=0.1)
    ledger.consume(secret)
    proxy.set("hang")
    started = time.monotonic()
    with pytest.raises(StoreUnavailable, match="unknown"):
        ledger.consume(secret)
    assert time.monotonic() - started < 2
    assert ledger.consume(secret).limits[0].used == 2


def test_an_unreachable_server_is_unavailable_and_nothing_was_charged(clock):
    """Nobody listens: the error says that nothing happened, and on_unavailable decides where it was asked to."""
    port = free_port()
    for choice, allowed in (("deny", False), ("allow", True)):
        ledger = Ledger(f"redis://127.0.0.1:{port}/0", clock=clock, on_unavailable=choice)
        decision = ledger.consume("any secret that nobody knows")
        assert (decision.allowed, decision.reason.value) == (allowed, "STORE_UNAVAILABLE")
    with pytest.raises(StoreUnavailable, match="nothing was charged"):
        Ledger(f"redis://127.0.0.1:{port}/0", clock=clock).consume("any secret that nobody knows")


@pytest.mark.parametrize(
    "answer",
    [b"-LOADING Redis is loading the dataset in memory\r\n", b"-MASTERDOWN Link with MASTER is down\r\n",
     b"-NOPERM this user has no permissions\r\n", b"-CLUSTERDOWN The cluster is down\r\n",
     b"-NOREPLICAS Not enough good replicas to write.\r\n", b"-MOVED 1 127.0.0.1:1\r\n"],
)  # fmt: skip
def test_a_server_that_declines_did_nothing(store, clock, proxy, answer):
    """An error in place of an answer is told as such: nothing was charged."""
    direct, key, secret = ledger_with(store, clock)
    ledger = through(proxy, clock, store.namespace)
    ledger.consume(secret)
    proxy.set("answer", answer=answer)
    with pytest.raises(StoreUnavailable, match="nothing was charged"):
        ledger.consume(secret)
    assert ledger.consume(secret).limits[0].used == 2


def test_late_replies_of_skewed_clients_never_grant_too_much(store, proxy):
    """Replies held back, clocks apart, four clients at once: admitted is the limit, to the unit."""
    proxy.set("delay", delay=0.002)
    clocks = [ManualClock(START + skew * 1_000_000) for skew in (0, 5, -5, 2)]
    direct, key, secret = ledger_with(store, clocks[0], "60/day")
    ledgers = [through(proxy, clock, store.namespace) for clock in clocks]
    admitted = []

    def work(ledger):
        admitted.extend(bool(ledger.consume(secret)) for _ in range(25))

    run_threads([partial(work, ledger) for ledger in ledgers])
    assert (len(admitted), sum(admitted)) == (100, 60)


def test_a_pool_without_a_free_connection_is_busy(server, clock):
    """The caller's own bound on connections is an error of its own, and nothing was charged."""
    pool = redis.ConnectionPool(port=server.port, max_connections=1)
    ledger = Ledger(RedisStore(redis.Redis(connection_pool=pool), namespace=namespace()), clock=clock)
    taken = pool.get_connection()
    with pytest.raises(StoreBusy, match="nothing was charged"):
        ledger.list_keys()
    pool.release(taken)
    assert ledger.list_keys() == []
    pool.disconnect()


# Asyncio


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def test_tasks_share_one_store_without_threads(server, loop):
    """Eight tasks: receipts tile, on asyncio and on uvloop, and no thread is started."""
    with asyncio.Runner(loop_factory=loop) as runner:
        store = AsyncRedisStore(url=server.url, namespace=namespace())
        assert runner.run(tasks_tile(store, 40)) == 8 * 40 * 2


async def cancelled(url, rounds=120):
    ledger = AsyncLedger(AsyncRedisStore(url=url, namespace=namespace()), clock=ManualClock(START))
    async with ledger:
        await ledger.add_plan(UsagePlan("p", "1000000/day, 1000000 tokens/day"))
        _, secret = await ledger.issue_key("k", "p")
        cost = {"requests": 3, "tokens": 7}
        await ledger.consume(secret, cost)
        done, unsure = await cancelled_calls(ledger, secret, cost, rounds)
        status = (await ledger.peek(secret, {"requests": 1, "tokens": 1})).limits
        requests, tokens = (found.used - 1 for found in status)
        assert requests % 3 == 0
        assert tokens * 3 == requests * 7
        assert done + 1 <= requests // 3 <= done + unsure + 1
        replays = [(await ledger.consume(secret, cost, request_id=f"id{number}")).replayed for number in range(rounds)]
        assert sum(replays) == requests // 3 - 1
        return done, unsure


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def test_a_cancelled_call_has_no_effect_or_one_whole_effect(server, loop):
    """Cancelled anywhere on its way, a call took all of its units or none, and a retry of its id takes the rest."""
    with asyncio.Runner(loop_factory=loop) as runner:
        done, unsure = runner.run(cancelled(server.url))
    assert done
    assert unsure


def test_the_asynchronous_store_says_what_failed(server, clock, proxy):
    """Lost replies, flushed scripts and an unreachable server, awaited."""

    async def tell():
        client = redis.asyncio.Redis(port=proxy.port, socket_timeout=1)
        ledger = AsyncLedger(AsyncRedisStore(client, namespace=namespace()), clock=clock)
        await ledger.add_plan(UsagePlan("p", "10/day"))
        key, secret = await ledger.issue_key("k", "p")
        await ledger.consume(secret)
        proxy.set("drop_reply")
        with pytest.raises(StoreUnavailable, match="unknown"):
            await ledger.consume(secret, request_id="x")
        assert (await ledger.consume(secret, request_id="x")).replayed
        await client.script_flush()
        assert (await ledger.consume(secret)).limits[0].used == 3
        proxy.set("answer", answer=b"-LOADING loading\r\n")
        with pytest.raises(StoreUnavailable, match="nothing was charged"):
            await ledger.consume(secret)
        assert await ledger.list_keys() == [key]
        await ledger.aclose()
        assert await client.ping()
        await client.aclose()
        async with AsyncLedger(f"redis://127.0.0.1:{free_port()}", clock=clock) as lost:
            with pytest.raises(StoreUnavailable, match="nothing was charged"):
                await lost.consume(secret)

    asyncio.run(tell())


# How it is opened


def test_a_url_gives_its_options_to_the_store_and_the_rest_to_the_driver(server):
    """namespace, timeout and the common options are the store's; socket_timeout is redis-py's; others are refused."""
    ledger = Ledger(f"{server.url}?namespace=a%20b&timeout=3&max_skew=60&request_ttl=10&retention=2&socket_timeout=7")
    store = ledger.store
    assert (store.namespace, store.timeout, store.options.max_skew, store.options.retention) == (
        "a b",
        3,
        60_000_000,
        2,
    )
    assert store.client.connection_pool.connection_kwargs["socket_timeout"] == 7
    assert not store.exact_across_failover
    ledger.close()
    ledger.close()
    for query in (
        "timeout=x",
        "check_clock=maybe",
        "namespace=",
        "namespace={a}",
        "timeout=0",
        "nonsense=1",
        "socket_timeout=x",
    ):
        with pytest.raises(InvalidValue):
            Ledger(f"{server.url}?{query}")


def test_a_client_of_the_callers_stays_open(client, clock):
    """Closing a ledger leaves the caller's client alone."""
    one, key, secret = ledger_with(RedisStore(client, namespace=namespace()), clock)
    assert one.consume(secret)
    one.close()
    assert client.ping()


@pytest.mark.parametrize("options", [{"decode_responses": True}, {"protocol": 2}, {"protocol": 3}], ids=str)
def test_any_client_will_do(server, clock, options):
    """Clients that decode, RESP2 and RESP3."""
    with server.client(**options) as client:
        ledger, key, secret = ledger_with(RedisStore(client, namespace=namespace()), clock)
        for number in range(1, 4):
            assert ledger.consume(secret).limits[0].used == number
        assert ledger.list_keys() == [key]


def test_a_cluster_serves_sync_and_async(clock):
    """All keys of a namespace are in one slot: every operation runs on a Cluster, by both kinds of client."""
    server = Valkey("--cluster-enabled", "yes", "--cluster-port", str(free_port()))
    try:
        with server.client() as plain:
            plain.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
            deadline = time.monotonic() + 20
            while (
                b"cluster_state:ok" not in _raw(plain.execute_command("CLUSTER INFO")) and time.monotonic() < deadline
            ):
                pass
        client = redis.RedisCluster("127.0.0.1", server.port)
        ledger, key, secret = ledger_with(RedisStore(client, namespace=namespace()), clock)
        ledger.issue_key("second", "p", account="k")
        assert ledger.consume(secret, 2, request_id="x").limits[0].used == 2
        ledger.refund(ledger.consume(secret))
        ledger.rotate_key(key, overlap=10**9)
        client.close()

        async def awaited():
            there = redis.asyncio.cluster.RedisCluster("127.0.0.1", server.port)
            mine = AsyncLedger(AsyncRedisStore(there, namespace=ledger.store.namespace), clock=clock)
            decision = await mine.consume(secret)
            await mine.remove_key(key)
            await there.aclose()
            return decision.limits[0].used

        assert asyncio.run(awaited()) == 3
    finally:
        server.stop()


def _raw(info):
    return info if isinstance(info, bytes) else json.dumps(info).replace('": "', ":").encode()


@pytest.mark.parametrize("prefix", ["", "leased+"])
def test_a_url_without_a_host_keeps_its_path_and_escapes(prefix):
    """``unix:///path``: the slashes are its own."""
    store = open_store(f"{prefix}unix:///tmp/nobody.sock?db=3&password=a%26b")
    arguments = getattr(store, "store", store).client.connection_pool.connection_kwargs
    assert (arguments["path"], arguments["db"], arguments["password"]) == ("/tmp/nobody.sock", 3, "a&b")

"""The Redis store against a real Valkey: the contract, one round trip, many processes, faults of the network and the server."""

import asyncio
import contextlib
import itertools
import json
import multiprocessing
import pickle
import random
import threading
import time
import warnings
from datetime import datetime, timezone

import pytest
import redis
import redis.asyncio
import redis.asyncio.cluster
import uvloop
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import run_state_machine_as_test

from awaited import Awaited
from quota import (
    AsyncLedger,
    ClockSkew,
    Ledger,
    ManualClock,
    PlanConflict,
    RequestMismatch,
    StoreBusy,
    StoreUnavailable,
    Throttle,
    UnknownKey,
    UnknownPlan,
    UsagePlan,
)
from quota.errors import InvalidPlan, InvalidValue
from quota.operations.request import Request
from quota.stores import open_store
from quota.stores.memory import MemoryStore
from quota.stores.redis import AsyncRedisStore, RedisStore
from quota.testing import Machine, machine
from receipts import Receipt, check_receipts
from remote import Calls
from servers import FaultProxy, Valkey, free_port

START = int(datetime(2026, 3, 10, 12, tzinfo=timezone.utc).timestamp()) * 1_000_000
DAY = 86_400_000_000
MONTH_AND_ACCOUNT = "1000000/month, 2000000/year by account as team"
_names = itertools.count()


def namespace() -> str:
    return f"test{next(_names)}"


@pytest.fixture(scope="module")
def server():
    found = Valkey("--repl-diskless-sync-delay", "0")
    yield found
    found.stop()


@pytest.fixture(scope="module")
def client(server):
    with server.client() as found:
        yield found


@pytest.fixture
def clock():
    return ManualClock(START)


@pytest.fixture
def store(client):
    return RedisStore(client, namespace=namespace())


@pytest.fixture
def proxy(server):
    found = FaultProxy(server.port)
    yield found
    found.close()


def ledger_with(store, clock, limits="10/day", **plan):
    """A ledger, a key and its secret on a plan of these limits."""
    ledger = Ledger(store, clock=clock)
    ledger.add_plan(UsagePlan("p", limits, **plan))
    key, secret = ledger.issue_key("k", "p", id="k")
    return ledger, key, secret


def twin(ledger, clock):
    """Another process, as far as the store can tell."""
    return Ledger(RedisStore(ledger.store.client, namespace=ledger.store.namespace), clock=clock)


def used(ledger, secret, limit=0):
    return ledger.peek(secret, 1).limits[limit].used - 1


# The contract


def test_the_conformance_machine_over_redis(client):
    """Every history agrees with the model, the store reopened now and then."""
    tried = machine(
        lambda: RedisStore(client, namespace=namespace()),
        lambda store: RedisStore(client, namespace=store.namespace),
    )
    run_state_machine_as_test(tried, settings=settings(max_examples=25, stateful_step_count=30))


@pytest.mark.slow
def test_the_conformance_machine_at_length(client):
    """Many long histories."""
    tried = machine(lambda: RedisStore(client, namespace=namespace()))
    run_state_machine_as_test(tried, settings=settings(max_examples=300, stateful_step_count=60))


def test_the_conformance_machine_awaited(server):
    """Every history agrees with the model over the asynchronous store too."""

    class AwaitedMachine(Machine):
        open = staticmethod(lambda: AsyncRedisStore(url=server.url, namespace=namespace()))

        def _ledger(self, store):
            return Awaited(AsyncLedger(store, clock=self.clock))

    run_state_machine_as_test(AwaitedMachine, settings=settings(max_examples=12, stateful_step_count=25))


def test_sync_and_async_decide_equally(server, client):
    """Equal inputs give equal streams of decisions, from a memory store, a Redis store and its asynchronous twin."""
    plan = UsagePlan(
        "p", "30/hour, 40 tokens/day, 5/s burst 9, 4 tokens/minute burst 20 as pace", routes={"r": "9/day"}
    )

    def told(call):
        try:
            decision = call()
        except RequestMismatch as error:
            return str(error)
        return repr(decision), decision.retry_at, decision.crossed, decision.replayed

    streams = []
    stores = [MemoryStore(), RedisStore(client, namespace=namespace())]
    for kind in ("memory", "redis", "async"):
        clock = ManualClock(START)
        if kind == "async":
            ledger = Awaited(AsyncLedger(AsyncRedisStore(url=server.url, namespace=namespace()), clock=clock))
        else:
            ledger = Ledger(stores.pop(0), clock=clock)
        ledger.add_plan(plan)
        _, secret = ledger.issue_key("k", "p")
        stream = []
        for step, op, cost, route, request_id in Calls(7):
            clock.advance(step)
            if op == "reserve":
                stream.append(told(lambda: ledger.reserve(secret, cost, ttl=5_000_000, route=route).decision))
            else:
                stream.append(told(lambda: getattr(ledger, op)(secret, cost, route=route, request_id=request_id)))
        streams.append(stream)
        ledger.close()
    assert streams[0] == streams[1] == streams[2]
    assert len({entry[0] for entry in streams[0]}) > 50


# One round trip


class Counting(RedisStore):
    """A store that counts what it sends."""

    sent = 0

    def _exchange(self, *args):
        self.sent += 1
        return super()._exchange(*args)


@pytest.mark.parametrize(
    "call",
    [
        lambda ledger, secret: ledger.consume(secret),
        lambda ledger, secret: ledger.consume(secret, 3),
        lambda ledger, secret: ledger.consume(secret, {"requests": 1, "tokens": 5}),
        lambda ledger, secret: ledger.consume(secret, route="r"),
        lambda ledger, secret: ledger.consume(secret, 10**9),
        lambda ledger, secret: ledger.consume(secret, request_id=f"id{time.monotonic_ns()}"),
        lambda ledger, secret: ledger.consume(secret, request_id="again"),
        lambda ledger, secret: ledger.peek(secret),
        lambda ledger, secret: ledger.consume(ledger.get_key_once),
        lambda ledger, secret: ledger.consume("nobody knows this secret"),
    ],
    ids=["plain", "cost", "units", "route", "refused", "request_id", "replay", "peek", "key", "unknown"],
)
@pytest.mark.parametrize("accounts", [1, 2])
def test_a_fresh_decision_takes_one_round_trip(client, clock, call, accounts):
    """Whatever is asked of a key and plan that have not changed, one call is sent, with one account record or two."""
    store = Counting(client, namespace=namespace())
    plan = UsagePlan(
        "p", "1000000/day, 2000000/month by account, 50000 tokens/day, 1000000/s", routes={"r": "500000/day"}
    )
    ledger = Ledger(store, clock=clock)
    ledger.add_plan(plan)
    for number in range(accounts):
        key, secret = ledger.issue_key(f"k{number}", "p", account="team")
    ledger.get_key_once = key
    for _ in range(2):
        call(ledger, secret)
    clock.advance(61_000_000)  # a new minute is no reason for a second trip
    before = store.sent
    call(ledger, secret)
    assert store.sent - before == 1


# Freshness


def test_what_a_disabled_key_used_is_not_read(store, clock, monkeypatch):
    """It is refused about as soon as a key that nobody has: its records are not decoded."""
    ledger, key, secret = ledger_with(store, clock)
    ledger.consume(secret)
    ledger.disable_key(key)
    ledger.consume(secret)
    monkeypatch.setattr(RedisStore, "_decode", None)
    assert ledger.consume(secret).reason.value == ledger.peek(secret).reason.value == "DISABLED_KEY"


def test_what_another_process_changes_binds_on_the_next_call(store, clock):
    """Disabling, rotation, another plan, a replaced plan, dissociation and removal are seen at once elsewhere."""
    here, key, secret = ledger_with(store, clock)
    there = twin(here, clock)
    assert there.consume(secret).limits[0].used == 1
    here.disable_key(key)
    assert there.consume(secret).reason.value == "DISABLED_KEY"
    here.enable_key(key)
    assert there.consume(secret).limits[0].used == 2
    _, fresh = here.rotate_key(key)
    assert there.consume(secret).reason.value == "UNKNOWN_KEY"
    assert there.consume(fresh).limits[0].used == 3
    here.replace_plan(UsagePlan("p", "4/day"))
    assert [bool(there.consume(fresh)) for _ in range(2)] == [True, False]
    here.add_plan(UsagePlan("q", "100/day"))
    here.associate(key, "q")
    assert there.consume(fresh).limits[0].limit == 100
    here.dissociate(key, "q")
    assert there.consume(fresh).reason.value == "NO_PLAN"
    here.remove_key(key)
    assert there.consume(fresh).reason.value == "UNKNOWN_KEY"


def test_a_plan_removed_and_added_again_has_no_keys(store, clock):
    """Removing a plan ends its associations for good, though keys are never looked through."""
    ledger, key, secret = ledger_with(store, clock)
    ledger.remove_plan("p")
    assert ledger.consume(secret).reason.value == "NO_PLAN"
    ledger.add_plan(UsagePlan("p", "10/day"))
    assert ledger.consume(secret).reason.value == "NO_PLAN"
    assert ledger.store.plans_of(key.id) == []
    ledger.associate(key, "p")
    assert ledger.consume(secret)


def test_a_plan_that_changes_its_api_takes_its_keys_along(store, clock):
    """As in memory; refused where a key has another plan for the new api."""
    ledger, key, secret = ledger_with(store, clock)
    ledger.replace_plan(UsagePlan("p", "10/day", api="b"))
    assert ledger.consume(secret).reason.value == "NO_PLAN"
    assert ledger.consume(secret, api="b")
    ledger.add_plan(UsagePlan("q", "10/day"))
    ledger.associate(key, "q")
    with pytest.raises(PlanConflict):
        ledger.replace_plan(UsagePlan("p", "10/day"))
    assert ledger.consume(secret, api="b").limits[0].used == 2


def test_the_directory_says_what_it_cannot_do(store, clock):
    """Unknown keys and plans, taken ids and secrets, conflicting plans."""
    ledger, key, secret = ledger_with(store, clock)
    with pytest.raises(PlanConflict):
        ledger.add_plan(UsagePlan("p", "11/day"))
    with pytest.raises(PlanConflict):
        ledger.issue_key("again", id="k")
    with pytest.raises(PlanConflict):
        ledger.import_key(secret, "thief")
    with pytest.raises(UnknownPlan):
        ledger.issue_key("lost", "nowhere")
    for call in (ledger.get_plan, ledger.remove_plan, lambda plan: ledger.associate(key, plan)):
        with pytest.raises(UnknownPlan):
            call("nowhere")
    for call in (ledger.get_key, ledger.remove_key, ledger.rotate_key, lambda id_: ledger.associate(id_, "p")):
        with pytest.raises(UnknownKey):
            call("nobody")
    with pytest.raises(UnknownKey):
        ledger.store.plans_of("nobody")
    ledger.dissociate(key, "p")
    with pytest.raises(PlanConflict):
        ledger.dissociate(key, "p")
    assert ledger.list_keys() == [key]
    assert [plan.id for plan in ledger.list_plans()] == ["p"]
    assert ledger.get_plan("p") == UsagePlan("p", "10/day")


def test_names_of_any_script_survive(store, clock):
    """Ids, routes, apis and request ids in any script come back as they went."""
    ledger = Ledger(store, clock=clock)
    plan = UsagePlan("план \U0001f600", "10/day", api="日本", routes={'a"b\\c': "5/day"})
    ledger.add_plan(plan)
    key, secret = ledger.issue_key("ключ", plan, id="clé: {1}", metadata={"ü": "ß"})
    assert (ledger.get_key(key), ledger.get_plan(plan)) == (key, plan)
    decision = ledger.consume(secret, api="日本", route='a"b\\c', request_id="é:1")
    again = ledger.consume(secret, api="日本", route='a"b\\c', request_id="é:1")
    assert (decision.allowed, again.id, again.replayed) == (True, decision.id, True)


# Exactly once


def test_a_request_id_counts_once(store, clock):
    """A retry gets the first answer, in this process and another, on the lane and off it, and is not charged."""
    ledger, key, secret = ledger_with(store, clock, "10/day, 5/s burst 20")
    there = twin(ledger, clock)
    for number in range(3):
        first = ledger.consume(secret, 2, request_id=f"id{number}")
        clock.advance(50_000)
        for other in (ledger, there):
            again = other.consume(secret, 2, request_id=f"id{number}")
            assert (again.replayed, again.id, again.at) == (True, first.id, first.at)
            assert [(s.name, s.used, s.remaining, s.resets_at) for s in again.limits] == [
                (s.name, s.used, s.remaining, s.resets_at) for s in first.limits
            ]
        with pytest.raises(RequestMismatch):
            ledger.consume(secret, 1, request_id=f"id{number}")
    assert used(ledger, secret) == 6
    assert ledger.refund(again) == 2
    with pytest.raises(RequestMismatch):
        there.consume(secret, 2, request_id="id2")


def test_a_request_id_ends_with_its_key_and_its_ttl(client, clock):
    """A forgotten key's requests are forgotten, and a day later the id may be used again."""
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


def test_a_decision_survives_a_pickle_and_refunds(store, clock):
    """A decision made by the script is a whole decision."""
    ledger, key, secret = ledger_with(store, clock)
    ledger.consume(secret)
    decision = pickle.loads(pickle.dumps(ledger.consume(secret, 3)))
    assert ledger.refund(decision, 2) == 2
    assert ledger.refund(decision) == 0
    assert used(ledger, secret) == 2


# Numbers


@settings(max_examples=60)
@given(
    limits=st.lists(
        st.one_of(
            st.tuples(st.integers(1, 2**53 - 1), st.sampled_from(["minute", "day", "year"])).map(lambda p: f"{p[0]}/{p[1]}"),
            st.tuples(st.sampled_from(["1", "0.5", "1/3", "999983", "12345.678"]), st.sampled_from(["second", "minute", "day"]))
            .map(lambda p: str(Throttle(p[0], p[1], burst=999))),
        ),
        min_size=1, max_size=2, unique_by=lambda text: "burst" in text or text.rpartition("/")[2],
    ),
    calls=st.lists(
        st.tuples(
            st.one_of(st.integers(1, 2**53 - 1), st.integers(1, 9_999)),
            st.sampled_from([0, 1, 333_333, 59_999_999, 60_000_000, 3_600_000_000, DAY, -1, -200_000_000]),
        ),
        min_size=1, max_size=12,
    ),
)  # fmt: skip
def test_numbers_up_to_2_53_are_exact(client, limits, calls):
    """Any costs, limits and rates: the script decides as memory does, to the last unit and microsecond."""
    clock = ManualClock(START)
    ledgers = [Ledger(store, clock=clock) for store in (MemoryStore(), RedisStore(client, namespace=namespace()))]
    secrets = []
    for ledger in ledgers:
        ledger.add_plan(UsagePlan("p", limits))
        secrets.append(ledger.issue_key("k", "p").secret)
    for cost, step in calls:
        clock.advance(step)
        told = []
        for ledger, secret in zip(ledgers, secrets, strict=True):
            try:
                decision = ledger.consume(secret, cost)
                told.append((repr(decision), decision.retry_at, decision.limits, decision.crossed))
            except ClockSkew as error:
                told.append(str(error))
        assert told[0] == told[1]


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


def test_levels_beyond_2_53_are_exact(store, clock):
    """A commit far above its hold fills a bucket beyond what a double holds: the rule goes on in Python."""
    told = []
    for ledger in [Ledger(other, clock=clock) for other in (MemoryStore(), store)]:
        clock.set(START)
        ledger.add_plan(UsagePlan("p", "1000/day, 9007199254740991 tokens/day, 1000/3 tokens/minute burst 40"))
        secret = ledger.issue_key("k", "p").secret
        stream = []
        for _ in range(3):
            stream.append(repr(ledger.reserve(secret, 1, ttl=10**6).commit({"requests": 1, "tokens": 2**52 - 7})))
            clock.advance(333_333)
            for cost in (1, {"tokens": 1}, 1):
                decision = ledger.consume(secret, cost)
                stream.append((repr(decision), decision.retry_at, decision.limits))
        told.append(stream)
    assert told[0] == told[1]


# Many at once


def spend(url, name, secret, skew, seed, count, results, done):
    """One process: random costs by a skewed clock; its receipts by key and by account. With ``done``, repeated until answered."""
    ledger = Ledger(RedisStore(url=url, namespace=name), clock=lambda: time.time_ns() // 1000 + skew)
    pick = random.Random(seed)
    found, retried = [], 0
    for number in range(count):
        cost = pick.randint(1, 5)
        invoked = time.monotonic()
        while True:
            try:
                decision = ledger.consume(secret, cost, request_id=f"{seed} {number}" if done else None)
                break
            except StoreUnavailable:
                retried += 1
        found.append((invoked, time.monotonic(), cost, [s.used for s in decision.limits], bool(decision)))
        if done:
            with done.get_lock():
                done.value += 1
    results.put((secret, found, retried))


def run_processes(server, name, secrets, count, breaking=None):
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    done = context.Value("i", 0) if breaking else None
    workers = [
        context.Process(
            target=spend,
            args=(server.url, name, secrets[number % len(secrets)], skew * 1_000_000, number, count, results, done),
        )
        for number, skew in enumerate((0, 5, -5, 2, -2, 4))
    ]
    for worker in workers:
        worker.start()
    if breaking:
        breaking(done)
    found = [results.get(timeout=60) for _ in workers]
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    return found


def account_of_two(client, name):
    ledger = Ledger(RedisStore(client, namespace=name))
    ledger.add_plan(UsagePlan("p", MONTH_AND_ACCOUNT))
    return ledger, [ledger.issue_key(f"k{number}", "p", account="team").secret for number in range(2)]


def check_account(ledger, secrets, found):
    """Receipts tile for each key and for the account, and the totals are theirs."""
    whole = []
    for secret in secrets:
        mine = [entry for owner, entries, _ in found if owner == secret for entry in entries]
        total = check_receipts([Receipt(a, b, cost, told[0]) for a, b, cost, told, _ in mine])
        assert total == sum(cost for _, _, cost, _, _ in mine) == used(ledger, secret)
        whole += mine
    assert check_receipts([Receipt(a, b, cost, told[1]) for a, b, cost, told, _ in whole]) == used(ledger, secret, 1)


def test_six_processes_with_skewed_clocks_are_exact(server, client):
    """Receipts tile for each key and for the account they share, though clocks differ by up to 10 seconds."""
    name = namespace()
    ledger, secrets = account_of_two(client, name)
    check_account(ledger, secrets, run_processes(server, name, secrets, 250))


def test_six_processes_lose_and_repeat_nothing_while_a_durable_server_is_killed():
    """Two kills under way, the append-only file synced at each write: retries by request id count once, nothing is lost."""
    server = Valkey(durable=True)
    try:
        with server.client() as client:
            name = namespace()
            ledger, secrets = account_of_two(client, name)

            def breaking(done):
                for reached in (60, 150):
                    while done.value < reached:
                        pass
                    server.kill()
                    server.start()

            found = run_processes(server, name, secrets, 60, breaking)
            assert sum(retried for _, _, retried in found) > 0
            check_account(ledger, secrets, found)
    finally:
        server.stop()


def test_six_processes_never_pass_a_limit(server, client):
    """What is admitted is the limit to the unit when all want more than there is."""
    name = namespace()
    ledger = Ledger(RedisStore(client, namespace=name))
    ledger.add_plan(UsagePlan("p", "1000/year"))
    _, secret = ledger.issue_key("k", "p")
    found = run_processes(server, name, [secret], 120)
    admitted = [entry for _, entries, _ in found for entry in entries if entry[4]]
    total = check_receipts([Receipt(a, b, cost, told[0]) for a, b, cost, told, _ in admitted])
    left = 1000 - total
    refused = [entry for _, entries, _ in found for entry in entries if not entry[4]]
    assert 0 <= left < 5
    assert refused
    assert all(cost > left for _, _, cost, told, _ in refused if told[0] == total)


def test_threads_share_one_store(store, clock):
    """Eight threads over one store and its pool: receipts tile."""
    ledger, key, secret = ledger_with(store, clock, "1000000/day")
    receipts = []

    def work():
        for _ in range(40):
            invoked = time.monotonic()
            decision = ledger.consume(secret, 2)
            receipts.append(Receipt(invoked, time.monotonic(), 2, decision.limits[0].used))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert check_receipts(receipts) == 8 * 40 * 2 == used(ledger, secret)


def test_writers_in_the_way_of_each_other_all_finish(store, clock):
    """Reservations, refunds and plain calls on one key from several stores: none is busy, the total is exact."""
    ledger, key, secret = ledger_with(store, clock, "1000000/day")

    def work(number):
        mine = twin(ledger, clock)
        for _ in range(15):
            if number % 3 == 0:
                mine.reserve(secret, 5, ttl=60_000_000).commit(2)
            elif number % 3 == 1:
                mine.refund(mine.consume(secret, 3), 1)
            else:
                mine.consume(secret, 1, request_id=f"{number} {time.monotonic_ns()}")

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert used(ledger, secret) == 2 * 15 * 2 + 2 * 15 * 2 + 2 * 15


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


def test_writers_of_one_process_stand_in_line(store, clock):
    """Sixteen threads that reserve and commit on one key: none loses to another, so each takes its four trips."""
    ledger, key, secret = ledger_with(store, clock, "1000000/day")
    ledger.reserve(secret, 1, ttl=60_000_000).commit()
    sent, send = [], store._send
    store._send = lambda call: (sent.append(call), send(call))[1]

    def work():
        for _ in range(5):
            ledger.reserve(secret, 5, ttl=60_000_000).commit(2)

    threads = [threading.Thread(target=work) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(sent) == 4 * 5 * 16
    assert used(ledger, secret) == 1 + 2 * 5 * 16
    assert len(store._lines) == 0


# The server


def test_a_script_flush_is_survived(client, clock):
    """The script is sent again, and the call is charged once."""
    ledger, key, secret = ledger_with(RedisStore(client, namespace=namespace()), clock)
    ledger.consume(secret)
    client.script_flush()
    assert ledger.consume(secret).limits[0].used == 2
    client.script_flush()
    assert used(ledger, secret) == 2


def test_a_durable_server_killed_loses_nothing_acknowledged(clock):
    """With the append-only file synced at each write, what was answered is there after SIGKILL; the store goes on."""
    server = Valkey(durable=True)
    try:
        with contextlib.closing(RedisStore(url=server.url)) as store:
            ledger, key, secret = ledger_with(store, clock, "1000000/day")
            for round_ in range(1, 3):
                acknowledged = threading.Semaphore(0)
                stopped = []

                def work():
                    try:
                        while True:
                            ledger.consume(secret)
                            acknowledged.release()
                    except StoreUnavailable as error:
                        stopped.append(str(error))

                worker = threading.Thread(target=work)
                before = used(ledger, secret)
                worker.start()
                for _ in range(50):
                    acknowledged.acquire()
                server.kill()
                worker.join()
                server.start()
                count = before + 50
                while acknowledged.acquire(blocking=False):
                    count += 1
                assert count <= used(ledger, secret) <= count + 1, (round_, stopped)
    finally:
        server.stop()


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
    """A record goes by itself after its windows and its history, no sooner; nothing else has an end but memos."""
    ledger, key, secret = ledger_with(store, clock, "10/minute, 10/year by account")
    ledger.issue_key("second", "p", account="k")
    ledger.consume(secret, request_id="x")
    ledger.consume(secret)
    day_ms = 86_400_000
    lives = {name.decode().split(":")[1]: client.pttl(name) for name in client.keys(f"{{{store.namespace}}}:*")}
    assert {name for name, life in lives.items() if life == -1} == {"stamps", "secrets", "keys", "accounts", "plans"}
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
    """What a later version wrote is not misread: the error names both formats."""
    ledger, key, secret = ledger_with(store, clock)
    client.hset(f"{{{store.namespace}}}:stamps", "#", "2")
    with pytest.raises(StoreUnavailable, match="format 2.*reads 1"):
        twin(ledger, clock).consume(secret)


# The clock


def test_a_system_clock_is_compared_with_the_servers(client, monkeypatch):
    """A wall clock further off than max_skew is an error in either direction, before anything is written."""
    store = RedisStore(client, namespace=namespace())
    ledger = Ledger(store)
    ledger.add_plan(UsagePlan("p", "10/day"))
    _, secret = ledger.issue_key("k", "p")
    assert ledger.consume(secret)
    now = time.time_ns()
    for off in (-3600, -301, 301, 3600):
        monkeypatch.setattr(time, "time_ns", lambda off=off: now + off * 10**9)
        with pytest.raises(ClockSkew):
            ledger.consume(secret)
    monkeypatch.setattr(time, "time_ns", lambda: now + 290 * 10**9)
    assert ledger.consume(secret)


def test_a_clock_of_the_callers_is_compared_only_when_asked(client):
    """Simulated time is not held against the server's unless check_clock says so."""
    store = RedisStore(client, namespace=namespace())
    ledger, key, secret = ledger_with(store, ManualClock(START))
    assert ledger.consume(secret)
    checked = Ledger(RedisStore(client, namespace=store.namespace, check_clock=True), clock=ManualClock(START))
    with pytest.raises(ClockSkew):
        checked.consume(secret)


@pytest.mark.parametrize("to", [START + 3_600_000_000, START - 3_600_000_000, 0, 4_070_908_800_000_000])
def test_a_clock_that_steps_grants_nothing(store, to):
    """After steps of an hour, to 1970 and to 2099 and back, no window was granted twice; the repair is forget."""
    clock = ManualClock(START)
    ledger, key, secret = ledger_with(store, clock, "3/day")
    assert [bool(ledger.consume(secret)) for _ in range(4)] == [True, True, True, False]
    clock.set(to)
    stepped = []
    for _ in range(4):
        try:
            stepped.append(bool(ledger.consume(secret)))
        except ClockSkew:
            stepped.append(None)
    new_window = to // DAY > START // DAY
    assert stepped.count(True) == (3 if new_window else 0)
    clock.set(START)
    if new_window:
        with pytest.raises(ClockSkew):
            ledger.consume(secret)
        ledger.forget(key)
        assert ledger.consume(secret)
    else:
        assert not ledger.consume(secret)


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
    ledger = through(proxy, clock, store.namespace, socket_timeout=0.05)
    outcome = None
    hits = itertools.count()
    inner = proxy._fault
    proxy._fault = lambda data: fault if next(hits) == nth else ""
    try:
        outcome = ledger.reserve(secret, {"requests": 2, "tokens": 3}, ttl=60_000_000, request_id="x")
    except StoreUnavailable as error:
        assert "unknown" in str(error) or "nothing was charged" in str(error)
    proxy._fault = inner
    counts = [s.used for s in direct.peek(secret, {"requests": 1, "tokens": 1}).limits]
    assert counts in ([1, 1], [3, 4])
    if outcome is not None:
        assert counts == [3, 4]
    retry = ledger.reserve(secret, {"requests": 2, "tokens": 3}, ttl=60_000_000, request_id="x")
    retry.commit()
    assert [s.used for s in direct.peek(secret, {"requests": 1, "tokens": 1}).limits] == [3, 4]


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

    threads = [threading.Thread(target=work, args=(ledger,)) for ledger in ledgers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
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


async def tasks_tile(url, count=40):
    ledger = AsyncLedger(AsyncRedisStore(url=url, namespace=namespace()), clock=ManualClock(START))
    async with ledger:
        await ledger.add_plan(UsagePlan("p", "1000000/day"))
        _, secret = await ledger.issue_key("k", "p")
        receipts = []

        async def work():
            for _ in range(count):
                invoked = time.monotonic()
                decision = await ledger.consume(secret, 2)
                receipts.append(Receipt(invoked, time.monotonic(), 2, decision.limits[0].used))

        threads = set(threading.enumerate())
        await asyncio.gather(*(work() for _ in range(8)))
        assert set(threading.enumerate()) <= threads
        return check_receipts(receipts)


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def test_tasks_share_one_store_without_threads(server, loop):
    """Eight tasks: receipts tile, on asyncio and on uvloop, and no thread is started."""
    with asyncio.Runner(loop_factory=loop) as runner:
        assert runner.run(tasks_tile(server.url)) == 8 * 40 * 2


async def cancelled(url, rounds=120):
    ledger = AsyncLedger(AsyncRedisStore(url=url, namespace=namespace()), clock=ManualClock(START))
    async with ledger:
        await ledger.add_plan(UsagePlan("p", "1000000/day, 1000000 tokens/day"))
        _, secret = await ledger.issue_key("k", "p")
        cost = {"requests": 3, "tokens": 7}
        await ledger.consume(secret, cost)
        done = unsure = 0
        for number in range(rounds):
            task = asyncio.ensure_future(ledger.consume(secret, cost, request_id=f"id{number}"))
            for _ in range(number % 12):
                await asyncio.sleep(0)
            if number % 12 == 11:
                await asyncio.wait([task])
            task.cancel()
            try:
                await task
                done += 1
            except asyncio.CancelledError:
                unsure += 1
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
    assert (store.namespace, store.timeout, store.terms.max_skew, store.terms.retention) == ("a b", 3, 60_000_000, 2)
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


def test_namespaces_share_a_server_and_a_client_stays_open(client, clock):
    """Two ledgers of two namespaces know nothing of each other; closing one leaves the caller's client alone."""
    one, key, secret = ledger_with(RedisStore(client, namespace=namespace()), clock)
    other, _, _ = ledger_with(RedisStore(client, namespace=namespace()), clock)
    assert one.consume(secret)
    assert other.consume(secret).reason.value == "UNKNOWN_KEY"
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


def test_secrets_are_not_stored(client, clock):
    """What is in Redis holds digests, never a secret."""
    store = RedisStore(client, namespace=namespace())
    ledger, key, secret = ledger_with(store, clock)
    ledger.consume(secret, request_id="x")
    stored = b"".join(client.dump(name) for name in client.keys(f"{{{store.namespace}}}:*"))
    assert secret.encode() not in stored
    assert secret[3:20].encode() not in stored


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

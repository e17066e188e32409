"""The Redis store on a Valkey Cluster of three, while the slot of its keys moves from node to node."""

from __future__ import annotations

import asyncio
import itertools
import random
import threading

import pytest
import redis
import redis.asyncio.cluster

from clusters import Cluster, slot_of, until
from every_store import of_its_own
from interleavings import plant
from quota import AsyncLedger, Ledger, ManualClock, StoreUnavailable, UsagePlan
from quota.stores.redis import AsyncRedisStore, RedisStore
from quota.stores.redis.requests import RedisSteps

NOON = 1_700_049_600_000_000
_names = itertools.count()


cluster = of_its_own(Cluster)


@pytest.fixture
def client(cluster):
    with cluster.client() as found:
        yield found


def opened(client, timeout=10.0):
    return Ledger(RedisStore(client, namespace=f"c{next(_names)}", timeout=timeout), clock=ManualClock(NOON))


def with_keys(ledger, count=1):
    ledger.add_plan(UsagePlan("p", "1000000/day, 1000000 tokens/day by account"))
    return [ledger.issue_key("k", "p", id=f"k{number}", account=f"team{number // 2}").secret for number in range(count)]


def used(ledger, key_id):
    return ledger.usage(key_id)[0].used


def moving(cluster, ledger):
    """The slot of a ledger begins to move: where it is, and where it goes."""
    slot = slot_of(ledger.store.namespace)
    to = (cluster.owner(slot) + 1) % 3
    return slot, cluster.begin(slot, to), to


WRITES = {
    "plain": lambda ledger, secret: ledger.consume(secret, 3),
    "reserve": lambda ledger, secret: ledger.reserve(secret, 3, ttl=10**9).commit(),
    "refund": lambda ledger, secret: ledger.refund(ledger.consume(secret, 7), 4),
    "grant": lambda ledger, secret: (ledger.grant("k0", "requests/day", 5), ledger.consume(secret, 3)),
    "set_remaining": lambda ledger, secret: (ledger.set_remaining("k0", "requests/day", 99), ledger.consume(secret, 3)),
    "disable": lambda ledger, secret: (ledger.disable_key("k0"), ledger.enable_key("k0"), ledger.consume(secret, 3)),
    "rotate": lambda ledger, _: ledger.consume(ledger.rotate_key("k0").secret, 3),
}
"""Calls that need no record which is not there yet."""
LATER = WRITES | {
    "forget": lambda ledger, secret: (ledger.forget("k0"), ledger.consume(secret, 10)),
    "remove": lambda ledger, secret: (ledger.remove_key("k1"), ledger.consume(secret, 3)),
    "join": lambda ledger, secret: (ledger.issue_key("j", "p", account="team0"), ledger.consume(secret, 3)),
    "request_id": lambda ledger, secret: [ledger.consume(secret, 3, request_id="x") for _ in range(2)],
}


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_a_key_of_a_moving_slot_is_written_and_keeps_its_count(cluster, client, write):
    """While nothing has moved yet each call is done where the keys are, and what was used stays used."""
    ledger = opened(client)
    secret = with_keys(ledger, 2)[0]
    ledger.consume(secret, 7)
    slot, source, _ = moving(cluster, ledger)
    try:
        write(ledger, secret)
        assert used(ledger, "k0") == 10
    finally:
        cluster.clients[source].execute_command("CLUSTER", "SETSLOT", slot, "STABLE")
    assert used(ledger, "k0") == 10


@pytest.mark.parametrize("write", LATER.values(), ids=LATER)
def test_a_slot_that_has_all_but_moved_is_followed(cluster, client, write):
    """All keys are at the new node, which does not own them yet (ASK), and then it does (MOVED)."""
    ledger = opened(client)
    secret = with_keys(ledger, 2)[0]
    ledger.consume(secret, 7)
    slot, source, to = moving(cluster, ledger)
    cluster.carry(source, to, cluster.keys(slot, source))
    done = threading.Timer(0.2, cluster.end, (slot, to))
    done.start()
    write(ledger, secret)
    done.join()
    assert used(ledger, "k0") == 10


def test_a_key_that_is_new_waits_until_its_slot_has_moved(cluster, client):
    """A call whose records are not there yet is answered neither here nor there: TRYAGAIN, within the timeout."""
    ledger, slow = opened(client), None
    secrets = with_keys(ledger, 2)
    slot, source, to = moving(cluster, ledger)
    cluster.carry(source, to, cluster.keys(slot, source)[:2])
    slow = Ledger(RedisStore(client, namespace=ledger.store.namespace, timeout=0.1), clock=ManualClock(NOON))
    with pytest.raises(StoreUnavailable, match="TryAgain.*nothing was charged"):
        slow.consume(secrets[0])
    rest = threading.Timer(0.2, lambda: (cluster.carry(source, to, cluster.keys(slot, source)), cluster.end(slot, to)))
    rest.start()
    assert ledger.consume(secrets[1], 5).allowed
    rest.join()
    assert (used(ledger, "k0"), used(ledger, "k1")) == (0, 5)


class Bill:
    """What a thread or task was told: of each key the units acknowledged, and those of calls that nobody knows of."""

    def __init__(self, keys):
        self.sure, self.unsure, self.refused = [0] * keys, [0] * keys, 0

    def note(self, number, units, error=None):
        if error is None:
            self.sure[number] += units
        elif "unknown" in str(error):
            self.unsure[number] += units
        else:
            self.refused += 1


def spend(ledger, secrets, seed, stop, bill):
    """One thread: calls of all kinds on all keys until it is told to stop."""
    pick = random.Random(seed)
    while not stop.is_set():
        number, units = pick.randrange(len(secrets)), pick.randint(1, 5)
        secret, kind = secrets[number], pick.choice(["plain", "plain", "id", "hold", "grant", "refund"])
        try:
            if kind == "hold":
                hold = ledger.reserve(secret, units, ttl=10**9)
                bill.note(number, units)
                units = 0
                hold.commit()
                continue
            if kind == "grant":
                ledger.grant(f"k{number}", "requests/day", 1)
            decision = ledger.consume(secret, units, request_id=str(pick.random()) if kind == "id" else None)
            bill.note(number, units)
            if kind == "refund":
                bill.note(number, -ledger.refund(decision))
        except StoreUnavailable as error:
            bill.note(number, units, error)


def moved_under_load(cluster, client, moves, keys=12, threads=5):
    """What five threads were told while a slot moved there and back, and what the ledger says afterwards."""
    ledger = opened(client)
    secrets = with_keys(ledger, keys)
    stop, bills = threading.Event(), [Bill(keys) for _ in range(threads)]
    ledgers = [Ledger(RedisStore(client, namespace=ledger.store.namespace, timeout=10), clock=ManualClock(NOON))
               for _ in range(threads)]  # fmt: skip
    workers = [
        threading.Thread(target=spend, args=(ledgers[number], secrets, number, stop, bills[number]))
        for number in range(threads)
    ]
    for worker in workers:
        worker.start()
    slot = slot_of(ledger.store.namespace)
    try:
        for number in range(moves):
            spent = sum(sum(bill.sure) for bill in bills)
            until(lambda spent=spent: sum(sum(bill.sure) for bill in bills) > spent + 100)
            cluster.move(slot, (cluster.owner(slot) + 1 + number % 2) % 3, at_once=5, pause=0.005)
    finally:
        stop.set()
        for worker in workers:
            worker.join()
    return bills, [used(ledger, f"k{number}") for number in range(keys)]


def check_bills(bills, found):
    """Nothing acknowledged is lost, nothing is charged but what nobody knows of, and each call was waited for."""
    for number, units in enumerate(found):
        sure, unsure = (sum(getattr(bill, kind)[number] for bill in bills) for kind in ("sure", "unsure"))
        assert sure <= units <= sure + unsure, "units lost or minted"
    assert sum(bill.refused for bill in bills) == 0
    assert sum(found) > 100


def test_a_slot_moves_there_and_back_under_load(cluster, client):
    """Four moves, five threads, all kinds of calls: every count is what was acknowledged."""
    check_bills(*moved_under_load(cluster, client, 4))


@pytest.mark.slow
def test_a_slot_moves_many_times_under_load(cluster, client):
    """The same, at length."""
    for _ in range(5):
        check_bills(*moved_under_load(cluster, client, 40, keys=30))


def test_planted_records_that_are_removed_and_written_again(cluster, client, monkeypatch):
    """Deleted first, as it once was: the count is gone, or the call fails."""
    plant(monkeypatch, RedisSteps, "_write", {"puts + rest": '[["DEL", 2]] + puts + rest'})
    ledger = opened(client)
    secret = with_keys(ledger, 2)[0]
    ledger.consume(secret, 7)
    slot, source, _ = moving(cluster, ledger)
    try:
        with pytest.raises(StoreUnavailable, match="unknown"):
            ledger.grant("k0", "requests/day", 5)
    finally:
        cluster.clients[source].execute_command("CLUSTER", "SETSLOT", slot, "STABLE")
    assert used(ledger, "k0") == 0


async def awaited_under_load(cluster, name, secrets, moves):
    """Five tasks over one client, which is first asked for a node that does not have the slot."""
    slot, bill, stop = slot_of(name), Bill(len(secrets)), asyncio.Event()
    client = redis.asyncio.cluster.RedisCluster("127.0.0.1", cluster.nodes[(cluster.owner(slot) + 1) % 3].port)
    ledger = AsyncLedger(AsyncRedisStore(client, namespace=name, timeout=10), clock=ManualClock(NOON))

    async def work(seed):
        pick = random.Random(seed)
        while not stop.is_set():
            number, units = pick.randrange(len(secrets)), pick.randint(1, 5)
            try:
                if pick.random() < 0.3:
                    await (await ledger.reserve(secrets[number], units, ttl=10**9)).commit()
                else:
                    await ledger.consume(secrets[number], units)
                bill.note(number, units)
            except StoreUnavailable as error:
                bill.note(number, units, error)

    tasks = [asyncio.ensure_future(work(seed)) for seed in range(5)]
    for number in range(moves):
        while sum(bill.sure) < 100 * (number + 1):
            await asyncio.sleep(0)
        await asyncio.to_thread(cluster.move, slot, (cluster.owner(slot) + 1 + number % 2) % 3, 5, 0.005)
    stop.set()
    await asyncio.gather(*tasks)
    await ledger.aclose()
    await client.aclose()
    return bill


@pytest.mark.filterwarnings("error")
def test_a_slot_moves_under_awaited_load(cluster, client):
    """Every count is what was acknowledged, over two event loops one after the other."""
    ledger = opened(client)
    secrets = with_keys(ledger, 6)
    bills = [asyncio.run(awaited_under_load(cluster, ledger.store.namespace, secrets, 2)) for _ in range(2)]
    check_bills(bills, [used(ledger, f"k{number}") for number in range(6)])


def test_a_node_that_is_gone_is_not_asked_again():
    """Where the node that was asked first cannot be reached any more, another one says where the slot is."""
    cluster = Cluster("--cluster-require-full-coverage", "no")
    try:
        with cluster.client() as client:
            ledger = opened(client)
            secret = with_keys(ledger)[0]
            slot = slot_of(ledger.store.namespace)
            to = (cluster.owner(slot) + 1) % 3
            cluster.move(slot, to)
            for gone in {0, 1, 2} - {to}:
                cluster.nodes[gone].kill()
            fresh = Ledger(RedisStore(client, namespace=ledger.store.namespace), clock=ManualClock(NOON))
            assert fresh.consume(secret, 7).limits[0].used == 7

            async def awaited():
                there = redis.asyncio.cluster.RedisCluster(
                    startup_nodes=[redis.asyncio.cluster.ClusterNode("127.0.0.1", node.port) for node in cluster.nodes]
                )
                mine = AsyncLedger(AsyncRedisStore(there, namespace=ledger.store.namespace), clock=ManualClock(NOON))
                decision = await mine.consume(secret)
                await mine.aclose()
                return decision.limits[0].used

            assert asyncio.run(awaited()) == 8
            cluster.nodes[to].kill()
            with pytest.raises(StoreUnavailable):
                ledger.consume(secret)
            with pytest.raises(StoreUnavailable, match="nothing was charged"):
                ledger.consume(secret)
    finally:
        cluster.stop()

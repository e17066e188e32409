"""The PostgreSQL store's connections, while threads, interrupts and signals come between any two of its steps."""

from __future__ import annotations

import asyncio
import itertools
import os
import sys
import threading
import weakref
from contextlib import suppress

import pytest
from psycopg import pq

from every_store import of_its_own
from interleavings import files, plant
from interrupts import from_elsewhere, in_the_middle, interrupts
from quota import AsyncLedger, Ledger, ManualClock, StoreBusy, UsagePlan
from quota.stores.postgres import AsyncPostgresStore, PostgresStore
from quota.stores.postgres import pool as _postgres_pool
from quota.stores.postgres import store as postgres
from quota.stores.postgres import wire as _postgres_wire
from quota.stores.postgres.pool import Connections
from quota.stores.server import flow as _remote_trips
from scheduler import Deadlock, Found, explore
from servers import Postgres

POOL = files("stores/postgres/pool", "stores/postgres/store", "process/lines")
SILENT, _ = os.pipe()
NOON = 1_700_049_600_000_000
pytestmark = pytest.mark.filterwarnings("ignore:.*was deleted while still open:ResourceWarning")


class Wire:
    """A connection to nowhere, by the names that the store uses of one; ``user``: the thread that waits on it."""

    status = pq.ConnStatus.OK
    transaction_status = pq.TransactionStatus.IDLE

    def __init__(self, begun):
        self.begun, self.user = begun, None
        self.socket = SILENT

    @property
    def pgconn(self):
        return self

    @property
    def closed(self):
        return self.status != pq.ConnStatus.OK

    def finish(self):
        assert self.user in (None, threading.get_ident()), "hung up under another thread"
        self.status, self.transaction_status = pq.ConnStatus.BAD, pq.TransactionStatus.UNKNOWN

    close = finish


class Office:
    """A store whose calls are answered at once; ``wires``: all that it opened."""

    patience = 0.2

    def __init__(self, most=1):
        self.ticks = itertools.count()
        self.wires = []  # who is forgotten is closed
        self.store = PostgresStore("host=nowhere", connections=most, timeout=self.patience)
        self.most = most

    def connect(self):
        wire = Wire(next(self.ticks))
        self.wires.append(weakref.ref(wire))
        assert len(self.open()) <= self.most
        return wire

    def open(self):
        wires = [wire() for wire in list(self.wires)]
        return [wire for wire in wires if wire is not None and not wire.closed]

    def call(self):
        return self.store._exchange(self)

    def close(self):
        begun = next(self.ticks)
        self.store.close()
        return begun


def follow(link, steps, deadline, timeout):
    """An exchange: a moment in which the connection is one thread's, and its answer is not there yet."""
    wire = link.connection
    assert not wire.closed
    assert wire.user is None, "two threads use one connection"
    assert wire.transaction_status == pq.TransactionStatus.IDLE, "an answer of another call"
    wire.user, wire.transaction_status = threading.get_ident(), pq.TransactionStatus.ACTIVE
    try:
        between()
        wire.transaction_status = pq.TransactionStatus.IDLE
    finally:
        wire.user = None
    return b"1"


def between():
    """Where others have their turn."""


@pytest.fixture(autouse=True)
def _wires(monkeypatch, request):
    if "server" in request.fixturenames:
        return
    monkeypatch.setattr(postgres, "follow", follow)
    monkeypatch.setattr(postgres, "checked", lambda link: link)
    monkeypatch.setattr(postgres, "exchange", lambda pgconn, office: office)
    monkeypatch.setattr(_postgres_pool.psycopg, "connect", lambda *_, **__: offices[-1].connect())


offices = []


def opened(most=1):
    offices[:] = [Office(most)]
    return offices[-1]


# Threads


def in_turn(most, **options):
    def check(office, results):
        assert results == [b"1"] * 3
        assert len(office.open()) == len(office.wires) <= most
        assert office.call() == b"1"

    def threads(office):
        return [office.call] * 3

    return explore(lambda: opened(most), threads, check, files=[*POOL, __file__], **options)


@pytest.mark.parametrize("most", [1, 2])
def test_a_connection_is_used_by_one_thread_at_a_time(most):
    """There are never more than so many, none is opened for nothing, and everybody has one in the end."""
    report = in_turn(most, limit=400)
    assert report.preempted > 300


def closed_beside(**options):
    def check(office, results):
        answer, begun = results
        assert answer == b"1"
        assert all(wire.begun > begun for wire in office.open()), "left open by close()"
        assert office.call() == b"1"

    def prepare():
        office = opened(2)
        office.call()
        return office

    return explore(prepare, lambda office: [office.call, office.close], check, files=[*POOL, __file__], **options)


def test_closing_beside_a_call_neither_fails_nor_leaves_its_connection_open():
    """The call is answered on the connection that it has, which is closed when it is done."""
    assert closed_beside().preempted > 50


# Interrupts and signals


def whole(office):
    """Whether all that may be open can be, and nothing else is."""
    gate = threading.Barrier(office.most, timeout=2)

    def hold():
        with suppress(StoreBusy, threading.BrokenBarrierError):
            office.call()

    holding = [threading.Thread(target=hold) for _ in range(office.most)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys.modules[__name__], "between", gate.wait)
        for thread in holding:
            thread.start()
        for thread in holding:
            thread.join()
    office.close()
    return not gate.broken and not office.open()


def interrupted(act, modules=(postgres, _postgres_pool, threading)):
    """Interrupt a call at each instant; how many there were."""
    instants = 0
    while True:
        office = opened(2)
        office.call()
        if not interrupts(instants + 1, [*modules, sys.modules[__name__]], act, office):
            return instants
        instants += 1
        assert from_elsewhere(lambda office=office: [whole(office)]) == [True], f"after {instants} calls"


def reopened(office):
    """A call that finds its connection ended by the server."""
    office.open()[0].status = pq.ConnStatus.BAD
    return office.call()


@pytest.mark.parametrize("act", [Office.call, reopened, Office.close])
def test_an_interrupt_loses_no_connection(act):
    """As many as before can be opened afterwards; one whose answer was not there yet is not used again."""
    assert interrupted(act) > 5


def test_a_signal_handler_has_another_connection_or_is_told_that_none_is_free():
    """It never has that of its thread's call, and waits for nothing that its thread must do."""
    for most in (1, 2):
        for other in (Office.call, Office.close):

            def handler(office, other=other):
                with suppress(StoreBusy):
                    other(office)

            def impatient(most=most):
                office = opened(most)
                office.store.timeout = 0.001
                return office

            modules = [postgres, _postgres_pool, sys.modules[__name__]]
            assert in_the_middle(modules, impatient, Office.call, handler) > 5
            assert whole(offices[-1])


PLANTED = {
    "an answer that is not there yet": (Connections, "give", {"not room.link.done()": "room.link.done()"}),
    "lent twice": (Connections, "_choose", {"free.user = user": "pass"}),
    "closed while it is used": (Connections, "close", {"if room.user is None:": "if True:"}),
    "left open by close": (Connections, "close", {"room.ends = True": "pass"}),
    "given back once": (PostgresStore, "_exchange", {"connections.give(user)  # an": "pass  # an"}),
    "known only when it is open": (
        Connections,
        "take",
        {
            "partial(self._choose, user)": "partial(self._choose, self)",
            "return link\n": "room.user = user\n    return link\n",
        },
    ),
}  # fmt: skip


@pytest.mark.spread(3)
@pytest.mark.parametrize("bug", PLANTED)
def test_planted_bugs_of_the_pool_are_found(monkeypatch, bug):
    """Each is seen by one of these."""
    plant(monkeypatch, *PLANTED[bug])
    monkeypatch.setattr(Office, "patience", 0.01)
    with pytest.raises((Found, Deadlock, AssertionError)):
        in_turn(1, limit=400)
        closed_beside()
        for act in (Office.call, reopened):
            interrupted(act)


# On a real one


server = of_its_own(Postgres)


@pytest.mark.parametrize("connections", [1, 2])
def test_an_interrupt_leaves_no_answer_for_another_call(server, connections):
    """Each decision after one is its own call's, whatever the interrupted one was told or not."""
    store = PostgresStore(server.url, namespace=f"race{connections}", connections=connections, timeout=2)
    ledger = Ledger(store, clock=ManualClock(NOON))
    ledger.add_plan(UsagePlan("p", "100000/day"))
    _, secret = ledger.issue_key("k", "p", id="k")
    used = ledger.consume(secret).limits[0].used
    instants = 0
    while True:
        if not interrupts(
            instants + 1, [postgres, _postgres_pool, _postgres_wire, _remote_trips], ledger.consume, secret, 100
        ):
            break
        instants += 1
        now = from_elsewhere(lambda: ledger.consume(secret)).limits[0].used
        assert now - used in range(1, 100 * instants + 2, 100)  # what was sent may be done late
        used = now
        assert [key.id for key in ledger.list_keys()] == ["k"]
    assert instants > 20
    ledger.close()


def test_closing_beside_awaited_calls_leaves_nothing_open(server):
    """A call that is under way has its answer, and then its connection is closed."""

    async def tell():
        store = AsyncPostgresStore(server.url, namespace="closing")
        async with AsyncLedger(store, clock=ManualClock(NOON)) as ledger:
            await ledger.list_keys()
            calls = [asyncio.ensure_future(ledger.list_keys()) for _ in range(3)]
            await asyncio.sleep(0)
            await store.close()
            assert await asyncio.gather(*calls) == [[], [], []]
            assert not store._connections._idle

    asyncio.run(tell())

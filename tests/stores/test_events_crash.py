"""The outbox and sudden ends: SIGKILL of who charges, and of the server, at any instant.

A charge that crosses a threshold and the event that tells of it are one: after each kill the count and the outbox agree.
"""

import os
import random
import signal
import threading
import time

import pytest

from every_store import namespace
from figures import tell
from quota import Ledger, ManualClock, UsagePlan
from quota.errors import StoreBusy, StoreUnavailable
from quota.stores.postgres import PostgresStore
from quota.stores.redis import RedisStore
from quota.stores.sqlite import SQLiteStore
from servers import Postgres, Valkey

START = 1_773_144_000_000_000
SHARES = tuple(range(1, 101))


def outbox(ledger):
    """All events, from the first one on."""
    events = []
    while page := ledger.events(after=events[-1].cursor if events else 0):
        events += page
    return events


def at_rest(ledger):
    """Events, and what each key has used: a server may yet be at the last call of who was killed."""
    while True:
        events = outbox(ledger)
        used = {key.id: ledger.status(key)[0] for key in ledger.list_keys()}
        if outbox(ledger) == events:
            return events, used


def agree(ledger):
    """Every share that a key's count has reached was told once, in its order, and no other; nobody else's is told."""
    events, used = at_rest(ledger)
    assert [event.cursor for event in events] == list(range(1, len(events) + 1))
    told = {}
    for event in events:
        told.setdefault(event.key, []).append(event.percent if event.kind == "limit.crossed" else event.kind)
    assert told.pop(None) == ["plan.added"]
    assert sorted(told) == sorted(used)
    reached = 0
    for key, found in told.items():
        due = [share for share in SHARES if 100 * used[key].used >= share * used[key].limit]
        assert found == ["key.issued", *due], (key, used[key])
        reached += len(due)
    return reached


def spend(ledger, end, pick):
    """Charge until somebody ends it, keys that are issued on the way: every call crosses a share."""
    first = True
    while True:
        try:
            key, secret = ledger.issue_key("k", "p")
            while ledger.consume(secret, pick.randint(7, 20)):
                if first:
                    os.write(end, b"x")
                    first = False
        except (StoreBusy, StoreUnavailable):
            return


def killed(open_store, pick, end_server=None):
    """A child that charges is killed, or its server is, at a random instant after the first charge."""
    out, into = os.pipe()
    seed = pick.random()
    pid = os.fork()
    if pid == 0:
        try:
            spend(Ledger(open_store(), clock=ManualClock(START)), into, random.Random(seed))
        finally:
            os._exit(0)
    os.close(into)
    assert os.read(out, 1) == b"x"
    os.close(out)
    until = time.monotonic() + pick.random() * 0.03
    while time.monotonic() < until:
        pass
    if end_server is not None:
        end_server()
        tell()
    os.kill(pid, signal.SIGKILL)
    tell()
    os.waitpid(pid, 0)


def killed_often(open_store, kills, end_server=None):
    """So many kills; with a server, each other time of it."""
    seed = random.randrange(10**9)
    pick = random.Random(seed)
    with Ledger(open_store(), clock=ManualClock(START)) as ledger:
        ledger.add_plan(UsagePlan("p", "700/day", alerts=SHARES))
    reached = 0
    for number in range(kills):
        killed(open_store, pick, end_server if number % 2 else None)
        if number % 10 in (0, 9) or number + 1 == kills:  # all that was told since is there then as well
            with Ledger(open_store(), clock=ManualClock(START)) as ledger:
                reached = agree(ledger)
    assert reached >= kills, seed  # every child was told of one admission, which crossed


KILLS = pytest.mark.parametrize("kills", [10, pytest.param(200, marks=pytest.mark.slow)])


@KILLS
def test_a_crossing_is_told_once_whatever_is_killed_on_sqlite(tmp_path, kills):
    """The process is killed."""
    killed_often(lambda: SQLiteStore(tmp_path / "usage.db", durability="normal", timeout=30), kills)


@KILLS
def test_a_crossing_is_told_once_whatever_is_killed_on_valkey(kills):
    """The process or the server, which has an append-only file, is killed."""
    server, name = Valkey(durable=True), namespace()

    def crash():
        server.kill()
        server.start()

    try:
        killed_often(lambda: RedisStore(url=server.url, namespace=name, timeout=30), kills, crash)
    finally:
        server.stop()


@KILLS
def test_a_crossing_is_told_once_whatever_is_killed_on_postgres(kills):
    """The process or the server is killed."""
    server, name = Postgres(), namespace()

    def crash():
        server.end(signal.SIGQUIT)
        server.start()

    try:
        killed_often(lambda: PostgresStore(server.url, namespace=name, timeout=30), kills, crash)
    finally:
        server.stop()


def test_a_reader_that_is_killed_goes_on_where_it_was(tmp_path):
    """It keeps the cursor of what it acted on, and the next one acts on all that came after it, and on nothing twice."""
    with Ledger(SQLiteStore(tmp_path / "usage.db", durability="normal")) as ledger:
        writer = threading.Thread(target=lambda: [ledger.add_plan(UsagePlan(f"p{n}", "1/day")) for n in range(40)])
        writer.start()
        acted, cursor = [], 0
        while len(acted) < 40:
            for event in ledger.events(after=cursor, limit=3):
                acted.append(event.plan)
                cursor = event.cursor
        writer.join()
    assert acted == [f"p{n}" for n in range(40)]

"""Leases in real processes on a real server, killed without warning: no unit too many, and none lost but what they held."""

import fcntl
import multiprocessing
import os
import random
import signal
import time

import pytest

from figures import tell
from quota import Ledger, UsagePlan
from quota.stores.leased import LeasedStore

LIMIT, SHARE, PROCESSES = 40_000, 0.015, 6
PLAN = UsagePlan("p", f"{LIMIT}/month", alerts=())
UNIT = b"+" * 8
"""A unit as a pipe tells it: so long that a process that nobody hears waits before it has used much."""


@pytest.fixture(params=["valkey", *(pytest.param(name, marks=pytest.mark.slow) for name in ("postgres", "sqlite"))])
def url(request, tmp_path):
    """Each shared store by its URL."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'usage.db'}"
    return request.getfixturevalue(request.param).url


def separate(url, namespace):
    return url if url.startswith("sqlite:") else f"{url}?namespace={namespace}"


def work(url, secret, pipe, calls, leave):
    """Consume until refused, telling through a pipe of every unit admitted before the next is asked for."""
    ledger = Ledger(LeasedStore(url, share=SHARE))
    for _ in range(calls):
        if not ledger.consume(secret):
            break
        os.write(pipe, UNIT)
    if leave:
        ledger.close()
    os._exit(0)


def start(url, secret, calls, leave=True):
    reading, writing = os.pipe()
    if hasattr(fcntl, "F_SETPIPE_SZ"):
        # Who is not heard for a while waits: with a pipe of 64 KiB, workers used up the whole limit and ended before
        # they were killed.
        fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4096)
    process = multiprocessing.get_context("fork").Process(target=work, args=(url, secret, writing, calls, leave))
    process.start()
    os.close(writing)
    return process, reading


def hear(reading, most=None):
    """How many units a process tells of, until it ends or has told of enough."""
    heard = 0
    while most is None or heard < most:
        data = os.read(reading, 65_536)
        if not data:
            break
        heard += len(data) // len(UNIT)
    return heard


def test_killed_processes_burn_at_most_their_leases(url):
    """SIGKILL in the middle, again and again: what was admitted never passes the limit, and what is lost is leased."""
    dice, url = random.Random(7), separate(url, "killed")
    with Ledger(url) as ledger:
        ledger.add_plan(PLAN)
        key, secret = ledger.issue_key("k", "p")
        admitted = spells = 0
        for _ in range(3):
            begun = time.monotonic()
            workers = [start(url, secret, LIMIT) for _ in range(PROCESSES)]
            for process, reading in workers:
                admitted += hear(reading, dice.randrange(200, 1500))
                os.kill(process.pid, signal.SIGKILL)
                tell()
            for process, reading in workers:
                process.join()
                admitted += hear(reading)
                os.close(reading)
            # Who is not heard of for four refreshes is taken for dead, and its part of the share is handed out again.
            spells += 1 + int((time.monotonic() - begun) / 4)
        (row,) = ledger.usage(key)
        assert admitted <= row.used <= LIMIT
        # A process may be killed between an admission and its word of it: one unit each.
        assert row.used - row.leased <= admitted + 3 * PROCESSES
        assert 0 < row.leased <= spells * SHARE * LIMIT + 3 * PROCESSES
        for process, reading in [start(url, secret, LIMIT) for _ in range(2)]:
            admitted += hear(reading)
            process.join()
            os.close(reading)
        (row,) = ledger.usage(key)
        assert row.used == LIMIT
        assert LIMIT - row.leased - 3 * PROCESSES <= admitted <= LIMIT


def test_processes_that_leave_burn_nothing(url):
    """Clean shutdowns: what the store counts is what was admitted."""
    url = separate(url, "left")
    with Ledger(url) as ledger:
        ledger.add_plan(PLAN)
        key, secret = ledger.issue_key("k", "p")
        workers = [start(url, secret, 3000) for _ in range(4)]
        admitted = 0
        for process, reading in workers:
            admitted += hear(reading)
            process.join()
            os.close(reading)
        (row,) = ledger.usage(key)
        assert (row.used, row.leased, admitted) == (12_000, 0, 12_000)


def test_a_forked_child_spends_nothing_of_its_parent(url):
    """The parent's lease is the parent's; the child takes its own, and both together stay exact."""
    url = separate(url, "forked")
    ledger = Ledger(LeasedStore(url, share=SHARE))
    ledger.add_plan(PLAN)
    key, secret = ledger.issue_key("k", "p")
    for _ in range(50):
        assert ledger.consume(secret)
    assert ledger.store._open
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        try:
            fresh = not ledger.store._open and not ledger.store.rooms
            taken = sum(bool(ledger.consume(secret)) for _ in range(100))
            ledger.store.close()
            os.write(writing, UNIT * (taken if fresh else 0))
        finally:
            os._exit(0)
    os.close(writing)
    heard = hear(reading)
    os.close(reading)
    os.waitpid(child, 0)
    for _ in range(50):
        assert ledger.consume(secret)
    ledger.close()
    with Ledger(url) as after:
        (row,) = after.usage(key)
    assert (heard, row.used, row.leased) == (100, 200, 0)

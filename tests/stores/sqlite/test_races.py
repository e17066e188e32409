"""The SQLite store's turns and connections, while interrupts and signals come between any two of its steps."""

from __future__ import annotations

import gc
import itertools
import os
import threading
import weakref
from contextlib import suppress

import pytest

from interleavings import attempt, files, plant
from interrupts import from_elsewhere, in_the_middle, interrupts
from quota import Ledger, ManualClock, StoreBusy, StoreUnavailable, UsagePlan
from quota.process.home import Home
from quota.stores.sqlite import SQLiteStore
from quota.stores.sqlite import connections as _sqlite_connections
from quota.stores.sqlite import fair_queue as _sqlite_queue
from quota.stores.sqlite import fork as _sqlite_fork
from quota.stores.sqlite import pool as _sqlite_pool
from quota.stores.sqlite import requests as _sqlite_steps
from quota.stores.sqlite.connections import Open, close_unused
from quota.stores.sqlite.fair_queue import TurnLock
from quota.stores.sqlite.pool import Pool
from scheduler import Found, explore

NOON = 1_700_049_600_000_000
TURNS = [_sqlite_queue, _sqlite_pool, _sqlite_connections]
MODULES = [*TURNS, _sqlite_steps, threading]
# An interrupt may come between ``sqlite3.connect`` and whoever was to close what it returned; from 3.13 on Python says so.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed database:ResourceWarning")
_numbers = itertools.count()
opened = []


@pytest.fixture(autouse=True)
def _closed():
    """What is collected is closed: not where interrupts are looked for."""
    gc.disable()
    try:
        yield
        for file in opened:
            file.close()
        opened.clear()
    finally:
        gc.enable()
        gc.collect()


class File:
    """A ledger on a file of its own; ``sure``: how many units were acknowledged."""

    def __init__(self, folder, warm=2, timeout=0.3):
        self.path = str(folder / f"{next(_numbers)}.db")
        store = SQLiteStore(self.path, durability="normal", timeout=20)
        self.ledger = Ledger(store, clock=ManualClock(NOON))
        self.ledger.add_plan(UsagePlan("p", "1000/day"))
        self.key, self.secret = self.ledger.issue_key("k", "p", id="k")
        self.acknowledged, self.remembered = [], None
        for _ in range(warm):
            self.consume()
        store._pool.timeout = timeout

    def consume(self):
        self.acknowledged += [1] * bool(self.ledger.consume(self.secret))
        return True

    def remember(self):
        self.remembered = self.ledger.consume(self.secret, request_id="r")
        return True

    @property
    def sure(self):
        return len(self.acknowledged) + bool(self.remembered)

    def peek(self):
        return self.ledger.peek(self.secret)

    def look(self):
        return self.ledger.list_keys()

    def close(self):
        self.ledger.close()
        return True

    def used(self):
        return self.ledger.peek(self.key).limits[0].used - 1

    def settled(self):
        """What is counted, once it was asked for in every way; after that, nothing is open."""
        before = self.used()
        self.consume()
        assert self.used() == before + 1
        self.ledger.close()
        folder, name = os.path.split(self.path)
        assert {file for file in os.listdir(folder) if file.startswith(name)} <= {name, f"{name}-turn"}
        return before


def interrupted(folder, act, modules=MODULES, **options):
    """Interrupt a call at each instant; how many there were."""
    instants = 0
    while True:
        file = File(folder, **options)
        opened.append(file)
        if not interrupts(instants + 1, modules, act, file):
            return instants
        instants += 1
        sure = file.sure
        (found,) = from_elsewhere(lambda file=file: [attempt(Exception, file.settled)])
        assert found in (sure, sure + 1), f"after {instants} calls: {found!r}"


@pytest.mark.spread(2)
@pytest.mark.parametrize("act", [File.consume, File.remember, File.peek, File.close])
def test_an_interrupt_loses_no_turn_and_no_connection(tmp_path, act):
    """Others go on at once, and all is closed when it is to be."""
    assert interrupted(tmp_path, act) > 5


def refused(file):
    """A call that is told of an error of its own, as the transaction is undone."""
    with pytest.raises(ValueError, match="planned"):
        file.ledger.store._pool.write(fail)
    return True


def fail(db):
    db.execute("UPDATE counts SET moving = x'00'")
    raise ValueError("planned")


def test_an_interrupt_while_an_error_is_undone_leaves_it_undone(tmp_path):
    """What the failed transaction did is never there, whoever comes next."""
    assert interrupted(tmp_path, refused) > 5


@pytest.mark.spread(5)
@pytest.mark.parametrize("other", [File.consume, File.remember, File.peek, File.close])
@pytest.mark.parametrize("act", [File.consume, File.remember])
def test_a_signal_handler_has_its_answer_or_is_told_that_the_store_is_busy(tmp_path, act, other):
    """In the middle of its thread's call it is never in that call's transaction: what was acknowledged, is counted."""
    seen = []

    def prepare():
        seen.append(File(tmp_path, timeout=0.05))
        return seen[-1]

    def handler(file):
        with suppress(StoreBusy):
            other(file)

    assert in_the_middle(MODULES, prepare, act, handler) > 5
    for file in seen:
        assert file.settled() == file.sure - 1


@pytest.mark.parametrize("where", ["parent", "child"])
def test_an_interrupt_in_a_fork_leaves_nobody_at_rest(tmp_path, monkeypatch, where):
    """At any instant before or after it: calls go on, as what follows a fork is called a second time."""

    alone = weakref.WeakSet()

    def fork(home):
        interrupt = None
        monkeypatch.setattr(_sqlite_fork, "_home", home)
        for step in (_sqlite_fork._before_fork, after, after):
            try:
                step()
            except KeyboardInterrupt as error:
                interrupt = error
        if interrupt:
            raise interrupt

    left_behind = []
    monkeypatch.setattr(_sqlite_pool, "_left_behind", left_behind)
    for module in (_sqlite_fork, _sqlite_pool):  # other tests' stores may live on, and each is brought to rest too
        monkeypatch.setattr(module, "everybody", alone)
    after = _sqlite_fork._after_fork if where == "parent" else _sqlite_fork._after_fork_in_child
    file = File(tmp_path, timeout=20)
    opened.append(file)
    instants, more = 0, True
    while more:
        home = Home()
        if where == "child":
            home.page, home.pid = None, 0
        assert from_elsewhere(file.consume)
        more = interrupts(instants + 1, [_sqlite_fork, *TURNS], fork, home)
        instants += more
        assert from_elsewhere(lambda: [file.peek(), file.consume()]), f"after {instants} calls"
    assert instants > 20
    assert _sqlite_fork._suspended == {}
    for db in left_behind:
        db.close()
    assert file.settled() == file.sure - 1


# Threads


class Counting(Pool):
    """Writes to no file: ``count`` stands for it."""

    def __init__(self, timeout):
        super().__init__("nowhere", timeout, "normal", lambda: None)
        self.count = [0]

    def _begin(self, deadline):
        return self

    def execute(self, statement):
        assert statement == "COMMIT"


def take_turns(**options):
    """Each counts what it reads plus one; one has no time to wait, and gives back what it has not."""

    def prepare():
        pool, hurried = Counting(5.0), Counting(0.0)
        hurried.turn, hurried.count = pool.turn, pool.count
        return pool, hurried

    def threads(state):
        pool, hurried = state

        def add(db):
            before = pool.count[0]
            assert pool.turn.mine()
            pool.count[0] = before + 1
            return 1

        def hurry():
            try:
                return hurried.write(add)
            except StoreBusy:
                return 0

        return [lambda: pool.write(add), lambda: pool.write(add), hurry]

    def check(state, results):
        pool, _ = state
        assert results[:2] == [1, 1]
        assert pool.count == [sum(results)]
        assert pool.turn.take(0.0)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_sqlite_pool, "monotonic", lambda: 1.0)
        return explore(
            prepare,
            threads,
            check,
            files=[*files("stores/sqlite/pool", "stores/sqlite/fair_queue"), __file__],
            **options,
        )


def test_turns_are_had_by_one_at_a_time_and_none_is_lost():
    """Whoever gives up at whatever instant."""
    assert take_turns(limit=600).preempted > 400


PLANTED = {
    "the turn of a thread, not of a call": (Pool, "write", {"if self.turn.mine():": "if False:"}),
    "given back by anybody": (TurnLock, "give", {"if self.mine():": "if True:"}),
    "whoever gave up goes on": (Pool, "_write", {"if not self.turn": "if None is self.turn"}),
    "given back once": (Pool, "_in_turn", {"self.turn.give()  # an": "pass  # an"}),
    "an open transaction is gone on with": (Pool, "_write", {"if writer is not None and writer.db.in_transaction:": "if False:"}),
    "read for ever": (Pool, "read", {"self._give_back(reading, sound=sound)  # an": "pass  # an"}),
    "closed for ever": (Pool, "close", {"self.resume()  # an": "pass  # an"}),
}  # fmt: skip


@pytest.mark.spread(7)
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # such as they are to cause
@pytest.mark.parametrize("bug", PLANTED)
def test_planted_bugs_of_turns_are_found(tmp_path, monkeypatch, bug):
    """Each is seen by one of these."""
    plant(monkeypatch, *PLANTED[bug])
    with pytest.raises((Found, AssertionError, RuntimeError)):
        take_turns(limit=300)
        for act in (File.consume, File.peek, File.look, File.close, refused):
            interrupted(tmp_path, act, TURNS, timeout=0.02)
        test_a_signal_handler_has_its_answer_or_is_told_that_the_store_is_busy(tmp_path, File.remember, File.consume)


@pytest.mark.parametrize("call", ["write", "read"])
def test_what_is_in_use_at_the_interpreter_s_exit_is_not_closed(tmp_path, call):
    """A thread may be in the middle of a call when the finalizers run: closed under it, it would crash the process."""
    file = File(tmp_path)
    file.peek()
    pool = file.ledger.store._pool

    def work(db):
        from_elsewhere(lambda: [close_unused(pool._open)])
        return db.execute("SELECT 1").fetchone()

    assert getattr(pool, call)(work) == (1,)
    assert file.settled() == file.sure - 1


def test_planted_close_under_a_thread_is_found(tmp_path, monkeypatch):
    """Whoever closes without a turn."""
    nobody_s = TurnLock()
    monkeypatch.setattr(
        Open, "turn", property(lambda kept: nobody_s, lambda kept, turn: vars(kept).update(turn=turn)), raising=False
    )
    with pytest.raises(StoreUnavailable, match="closed"):
        test_what_is_in_use_at_the_interpreter_s_exit_is_not_closed(tmp_path, "write")

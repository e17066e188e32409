"""A fork beside threads that use a ledger in memory: the child finds no lock taken, and nothing half done."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import select
import signal
import sys
import threading
import traceback
import warnings
from datetime import timedelta
from weakref import WeakValueDictionary

import pytest

from interrupts import from_elsewhere, interrupts
from quota import AsyncLedger, Ledger, StoreBusy, UsagePlan
from quota.process import forks
from quota.stores.memory import MemoryStore

HOUR = timedelta(hours=1)
FORKS = pytest.mark.parametrize("forks_made", [6, pytest.param(40, marks=pytest.mark.slow)])
MANY = 10**12
TAKES = {"requests": 3, "tokens": 3}


def forked(child, patience=30):
    """What went wrong in a child, as a text; nothing when all was well. One that hangs is killed."""
    ours, its = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # other threads are alive: that is what is tested
        pid = os.fork()
    if pid == 0:
        said = "it was left in the middle"
        try:
            child()
            said = ""
        except BaseException:
            said = traceback.format_exc()
        finally:
            os.write(its, said.encode())
            os._exit(0)
    os.close(its)
    ended, _, _ = select.select([ours], [], [], patience)
    if not ended:
        os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    said = os.read(ours, 60_000).decode() if ended else "it hangs"
    os.close(ours)
    return said


@contextlib.contextmanager
def busy(*calls):
    """Threads that make a call again and again, and are often switched between."""
    stop, begun = threading.Event(), threading.Barrier(len(calls) + 1)

    def work(call):
        begun.wait(60)
        while not stop.is_set():
            call()

    threads = [threading.Thread(target=work, args=(call,)) for call in calls]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        for thread in threads:
            thread.start()
        begun.wait(60)
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()
        sys.setswitchinterval(interval)


class Shop:
    """Two keys of one account, each of whose calls counts as many tokens as requests, and a key that is alone."""

    def __init__(self):
        self.ledger = Ledger(MemoryStore(stripes=2))
        limits = (
            f"{MANY}/year, {MANY} tokens/year, {MANY}/year by account as all, {MANY} tokens/year by account as both"
        )
        self.ledger.add_plan(UsagePlan("p", limits))
        self.ledger.add_plan(UsagePlan("alone", f"{MANY}/year, {10**9}/s burst {10**9}"))
        self.a, self.b = (self.ledger.issue_key(name, "p", id=name, account="x").key for name in "ab")
        self.c, self.secret = self.ledger.issue_key("c", "alone", id="c")
        self.turns = itertools.count()

    def beside(self):
        """What threads do meanwhile."""
        ledger = self.ledger
        return [
            lambda: ledger.consume(self.a, TAKES),
            lambda: ledger.reserve(self.b, TAKES, ttl=HOUR).cancel(),
            lambda: ledger.consume(self.secret).limits,
            lambda: ledger.replace_plan(
                UsagePlan("alone", f"{MANY + next(self.turns) % 2}/year, {10**9}/s burst {10**9}")
            ),
            lambda: ledger.remove_key(ledger.issue_key("d", "p", account="y").key),
        ]

    def check(self):
        """Tokens are as many as requests, and the account's are those of its keys: nothing is half done."""
        used = {}
        for key in (self.a, self.b):
            for status in self.ledger.peek(key, TAKES).limits:
                used.setdefault(status.name, []).append(status.used - 3)
        requests, tokens, everybody, both = used.values()
        assert requests == tokens, used
        assert everybody == both == [sum(requests)] * 2, used

    def go_on(self):
        """All that a child may do with what it inherited."""
        ledger = self.ledger
        self.check()
        for key in (self.a, self.b):
            assert ledger.consume(key, TAKES)
            ledger.reserve(key, TAKES, ttl=HOUR).commit()
            ledger.reserve(key, TAKES, ttl=HOUR).cancel()
            assert ledger.refund(ledger.consume(key, TAKES))
        assert asyncio.run(AsyncLedger(ledger.store).consume(self.a, TAKES))
        used = ledger.consume(self.secret).limits[0].used
        assert ledger.consume(self.secret).limits[0].used == used + 1
        ledger.replace_plan(UsagePlan("alone", "9/day by account"))
        key, secret = ledger.issue_key("new", "p", account="x")
        assert ledger.consume(secret, TAKES)
        ledger.rotate_key(key)
        assert {"a", "b", "c", key.id} <= {key.id for key in ledger.list_keys()}
        ledger.disable_key("a")
        ledger.remove_plan("p")


@FORKS
def test_a_child_goes_on_beside_busy_threads(forks_made):
    """Whatever other threads were in the middle of at many forks: the child can do all, and finds no half of anything."""
    shop = Shop()
    with busy(*shop.beside()):
        assert [forked(shop.go_on) for _ in range(forks_made)] == [""] * forks_made
    shop.check()


@FORKS
def test_an_answer_that_was_had_is_read_in_a_child(forks_made):
    """Decisions are worked out when they are read, which other threads do all the time."""
    shop = Shop()
    kept = [shop.ledger.consume(shop.secret) for _ in range(forks_made)]

    def read(decision):
        assert decision.id
        assert decision.limits[0].used > 0
        assert decision.headers()

    with busy(*[lambda: shop.ledger.consume(shop.secret).limits] * 3):
        assert [forked(lambda one=one: read(one)) for one in kept] == [""] * forks_made


@pytest.mark.parametrize("plant", [
    lambda patch: patch.setattr(forks, "_locks", WeakValueDictionary()), lambda patch: patch.setattr(forks, "_PATIENCE", 0),
], ids=["no lock is taken", "a lock that is taken is not waited for"])  # fmt: skip
def test_planted_forks_in_the_middle_are_found(monkeypatch, plant):
    """A child that inherits what others were in the middle of hangs, is told that they are, or counts by halves."""
    shop = Shop()
    plant(monkeypatch)  # behind it: the locks that it made are forgotten too
    with busy(*shop.beside()):
        assert any(forked(shop.go_on, patience=2) for _ in range(40))


def test_a_fork_waits_for_no_lock_for_ever(monkeypatch):
    """Whoever does not give a lock back delays a fork by a moment; what they were at is refused in the child, and told."""
    monkeypatch.setattr(forks, "_PATIENCE", 0.01)
    shop = Shop()
    stuck = shop.ledger.store._key_entry("a").stripe
    inside, go = threading.Event(), threading.Event()

    def hold():
        with stuck.exclusive():
            inside.set()
            assert go.wait(60)

    holder = threading.Thread(target=hold)
    holder.start()
    assert inside.wait(60)

    def child():
        with pytest.raises(StoreBusy):
            shop.ledger.consume(shop.a, TAKES)
        for stripe in shop.ledger.store._stripes:
            assert stripe.lock.acquire(blocking=False)

    try:
        assert forked(child) == ""
    finally:
        go.set()
        holder.join()
    assert shop.ledger.consume(shop.a, TAKES)
    assert from_elsewhere(lambda: shop.ledger.replace_plan(UsagePlan("p", "9/day")))


def test_a_fork_in_the_middle_of_a_call_of_its_own_thread():
    """As of a signal handler: the call goes on in parent and child, and gives back what it has."""
    shop = Shop()
    stripe = shop.ledger.store._key_entry("a").stripe
    here = os.getpid()
    with stripe.exclusive():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            pid = os.fork()
        owned = stripe.lock._is_owned() and stripe.busy
    good = owned and from_elsewhere(lambda: bool(shop.ledger.consume(shop.a, TAKES)))
    if os.getpid() != here:
        os._exit(0 if good else 1)
    assert good
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


@pytest.mark.parametrize("after", [forks._after_fork, forks._after_fork_in_child])
def test_an_interrupt_in_a_fork_leaves_no_lock_taken(monkeypatch, after):
    """At any instant before or after it: what was taken for it is given back, as what follows is called all the same."""
    monkeypatch.setattr(forks, "_locks", WeakValueDictionary())  # a shop's own: other tests' may be thousands
    shop = Shop()

    def fork():
        interrupt = None
        for step in (forks._before_fork, after, after):
            try:
                step()
            except KeyboardInterrupt as error:
                interrupt = error
        if interrupt:
            raise interrupt

    for instant in itertools.count(1):
        if not interrupts(instant, [forks], fork):
            break
        assert from_elsewhere(lambda: bool(shop.ledger.consume(shop.a, TAKES))), f"after {instant} calls"
        assert from_elsewhere(lambda: (shop.ledger.list_keys(),)), f"after {instant} calls"
    assert instant > 5
    fork()
    assert from_elsewhere(lambda: bool(shop.ledger.consume(shop.a, TAKES)))
    assert forks._taken == {}

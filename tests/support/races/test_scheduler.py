"""The scheduler's own tests: it finds what is planted, exhausts what is right, and replays what it found."""

from __future__ import annotations

import itertools
import threading
import time
from types import SimpleNamespace

import pytest

import scheduler
from scheduler import Deadlock, Found, Unsteady, explore, replay

HERE = [__file__]


class Counter:
    """A counter with a lock, and the ways to get it wrong."""

    def __init__(self):
        self.used = 0
        self.at = 0
        self.lock = threading.Lock()

    def right(self):
        with self.lock:
            self.used += 1
            return self.used

    def unlocked(self):
        self.used += 1

    def straight_line(self, cost=1):
        u = self.used
        self.used = u + cost

    def lock_replaced(self):
        with self.lock:
            u = self.used
            self.lock = threading.Lock()
            self.used = u + 1

    def check_then_act(self):
        if self.used < 1:
            with self.lock:
                self.used += 1

    def read_after(self):
        with self.lock:
            self.used += 1
        return self.used


def twice(method):
    """Two threads that call one method of a counter."""
    return lambda counter: [getattr(counter, method)] * 2


def counts_two(counter, results):
    assert counter.used == 2


def find(threads, check, setup=Counter, **options):
    """The finding, which must also come back when it is replayed."""
    with pytest.raises(Found) as found:
        explore(setup, threads, check, files=HERE, **options)
    with pytest.raises(type(found.value)) as again:
        replay(setup, threads, check, found.value.schedule, files=HERE)
    assert again.value.schedule == found.value.schedule
    assert str(found.value.schedule) in str(found.value)
    return found.value


def test_a_correct_counter_is_explored_to_exhaustion():
    """Nothing is found in a locked counter, though threads were switched midway and had to wait for the lock."""
    report = explore(Counter, twice("right"), counts_two, files=HERE, preemptions=2)
    assert report.schedules == report.preempted + 2 > 50
    assert 0 < report.blocked < report.preempted


@pytest.mark.parametrize("method", ["unlocked", "straight_line", "lock_replaced"])
def test_lost_updates_are_found(method):
    """A read-modify-write that another thread can enter loses an update, calls or loops in it or not."""
    found = find(twice(method), counts_two)
    assert found.where and all(__file__ in stop for stop in found.where)


def test_check_then_act_is_found():
    """A check outside of the lock that the action takes."""

    def never_above_one(counter, results):
        assert counter.used <= 1

    find(twice("check_then_act"), never_above_one)


def test_a_reading_after_the_lock_is_found():
    """An increment under the lock and its answer read behind it: totals are right, receipts are not."""
    explore(Counter, twice("read_after"), counts_two, files=HERE)

    def distinct(counter, results):
        assert sorted(results) == [1, 2]

    find(twice("read_after"), distinct)
    explore(Counter, twice("right"), distinct, files=HERE)


@pytest.mark.parametrize("careful", [False, True])
def test_a_stale_clock_is_found(careful):
    """A clock read before the lock moves the record back in time, unless the latest instant wins."""

    def setup():
        counter = Counter()
        counter.clock = itertools.count(1)
        counter.seen = []
        return counter

    def stamp(counter):
        now = next(counter.clock)
        with counter.lock:
            counter.at = max(now, counter.at) if careful else now
            counter.seen.append(counter.at)

    def threads(counter):
        return [lambda: stamp(counter), lambda: stamp(counter)]

    def forwards(counter, results):
        assert counter.seen == sorted(counter.seen)

    if careful:
        assert explore(setup, threads, forwards, files=HERE).preempted > 10
    else:
        find(threads, forwards, setup)


def locks(order):
    def both(state):
        def cross(first, second):
            with first, second:
                state.crossed += 1

        return [lambda: cross(state.a, state.b), lambda: cross(*((state.a, state.b)[::order]))]

    return both


def two_locks():
    return SimpleNamespace(a=threading.Lock(), b=threading.RLock(), crossed=0)


def both_crossed(state, results):
    assert state.crossed == 2


def test_a_deadlock_by_lock_order_is_reported():
    """Two locks taken in two orders end in a report instead of a hang; in one order they do not."""
    found = find(locks(-1), both_crossed, two_locks)
    assert isinstance(found, Deadlock)
    assert "thread 0 waits for a lock of thread 1" in str(found)
    assert "thread 1 waits for a lock of thread 0" in str(found)
    assert explore(two_locks, locks(1), both_crossed, files=HERE, preemptions=2).blocked > 10


def test_a_lock_that_is_never_released_is_a_deadlock():
    """A thread that ends with a lock in its hands leaves the other one waiting."""
    found = find(twice("acquire"), lambda lock, results: None, lambda: threading.Lock())
    assert isinstance(found, Deadlock)


def test_a_wait_with_a_timeout_ends():
    """A bounded wait for a lock that nobody gives back is over, and a trial does not wait at all."""

    def bounded(lock):
        def take():
            return lock.acquire(timeout=5), lock.acquire(blocking=False), lock.locked()

        return [take, take]

    def once(lock, results):
        assert sorted(results) == [(False, False, True), (True, False, True)]

    started = time.monotonic()
    assert explore(lambda: threading.Lock(), bounded, once, files=HERE).blocked
    assert time.monotonic() - started < 5


def test_conditions_and_events_work():
    """What the standard library builds of locks is cooperative too."""

    def setup():
        return SimpleNamespace(ready=threading.Event(), items=[], room=threading.Condition())

    def threads(state):
        def give():
            with state.room:
                state.items.append(1)
                state.room.notify()
            state.ready.set()

        def take():
            with state.room:
                while not state.items:
                    state.room.wait()
                state.items.pop()
            return state.ready.wait()

        return [give, take]

    def given(state, results):
        assert results == [None, True]
        assert not state.items

    report = explore(setup, threads, given, files=HERE, preemptions=2)
    assert report.blocked > 10


def switches(text):
    return sum(a != b for a, b in itertools.pairwise(text))


@pytest.mark.parametrize("preemptions", [0, 1, 2, 3])
def test_two_threads_are_interleaved_in_every_way(preemptions):
    """The orders seen are exactly those that a count of switches allows: nothing is left out, nothing invented."""
    seen = set()

    def threads(log):
        def three(name):
            log.append(name)
            log.append(name)
            log.append(name)

        return [lambda: three("A"), lambda: three("B")]

    explore(list, threads, lambda log, results: seen.add("".join(log)), files=HERE, preemptions=preemptions)
    allowed = {"".join(way) for way in itertools.permutations("AAABBB")}
    # One switch comes for nothing, when the first thread has ended.
    assert seen == {way for way in allowed if switches(way) <= preemptions + 1}


def test_three_threads_are_interleaved_in_every_way():
    """Three threads of one step each reach all six orders unforced; of two steps, all that two preemptions reach."""

    def threads(steps):
        def go(log, name):
            for _ in range(steps):
                log.append(name)

        return lambda log: [lambda: go(log, "A"), lambda: go(log, "B"), lambda: go(log, "C")]

    seen = set()
    explore(list, threads(1), lambda log, results: seen.add("".join(log)), files=HERE, preemptions=0)
    assert len(seen) == 6
    seen.clear()
    explore(list, threads(2), lambda log, results: seen.add("".join(log)), files=HERE, preemptions=2)
    allowed = {"".join(way) for way in itertools.permutations("AABBCC")}
    assert {way for way in allowed if switches(way) <= 4} <= seen <= allowed


def test_samples_are_drawn_with_a_seed():
    """A limit draws that many schedules, the same for the same seed, and finds what is planted."""

    def drawn(seed):
        ways = []
        report = explore(
            Counter, twice("straight_line"), lambda counter, _: ways.append(counter.used), files=HERE,
            preemptions=2, limit=60, seed=seed,
        )  # fmt: skip
        assert 60 <= report.schedules == len(ways) < 60 + 2 * scheduler.SHARE
        return ways

    assert drawn(1) == drawn(1) != drawn(2)
    assert set(drawn(3)) == {1, 2}
    find(twice("straight_line"), counts_two, preemptions=2, limit=200, seed=7)


def test_only_the_named_files_are_preempted():
    """Code outside of ``files`` runs without a switch, so a race in it is not seen."""
    report = explore(Counter, twice("straight_line"), counts_two, files=[scheduler, scheduler.locks, "/nowhere"])
    assert report == (2, 0, 0)


def test_an_exception_in_a_thread_is_a_finding():
    """What a thread raises is reported with its schedule, and only there."""

    def threads(counter):
        def grow():
            counter.used += 1

        def read():
            if not counter.used:
                return 1 // (1 - counter.used)
            return 1

        return [grow, read]

    found = find(threads, lambda counter, results: None)
    assert "ZeroDivisionError" in str(found)


def test_what_is_not_deterministic_is_told():
    """A thread whose path depends on earlier schedules cannot be explored, and says so."""
    runs = itertools.count()

    def threads(counter):
        def wander():
            for _ in range(20 - min(20, next(runs))):
                counter.unlocked()

        return [wander, lambda: None]

    with pytest.raises(Unsteady):
        explore(Counter, threads, lambda counter, results: None, files=HERE)


TOTAL = 0


def test_globals_that_are_rebound_are_shared():
    """A count in a global is lost like any other."""

    def setup():
        global TOTAL
        TOTAL = 0

    def threads(state):
        def grow():
            global TOTAL
            TOTAL += 1

        return [grow, grow]

    def counted(state, results):
        assert TOTAL == 2

    find(threads, counted, setup)


LAZY = threading.Lock()


def test_the_locks_of_a_module_are_cooperative_too():
    """A lock made when its module was imported does not hang a schedule, and is there again afterwards."""
    before = LAZY, threading.Lock, threading.RLock

    def threads(counter):
        def grow():
            with LAZY:
                counter.unlocked()

        return [grow, grow]

    assert explore(Counter, threads, counts_two, files=HERE).blocked > 0
    assert (LAZY, threading.Lock, threading.RLock) == before


def test_hundreds_of_schedules_a_second():
    """Two short calls are explored at hundreds of schedules a second, by a wide margin."""
    started = time.process_time()
    report = explore(Counter, twice("right"), counts_two, files=HERE, preemptions=2)
    assert report.schedules / (time.process_time() - started) > 300

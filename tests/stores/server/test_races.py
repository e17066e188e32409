"""What the stores on a server keep in the process, while threads and signals come between any two of its steps."""

from __future__ import annotations

import threading

import pytest

from interleavings import files, plant
from interrupts import from_elsewhere, in_the_middle, interrupts
from quota.errors import StoreBusy
from quota.stores.server import flow as _remote_trips
from quota.stores.server.cache import KeyCache
from quota.stores.server.flow import JoinQueue, Queues, synchronous
from scheduler import Found, explore

# KeyCache of directory entries


def crowded():
    """No room for a second copy."""
    copies = KeyCache(most=1)
    copies.put("first", "1")
    return copies


def makes_room(preemptions=1):
    def check(copies, results):
        assert results == [None, None]
        assert len(copies._found) <= 2

    def threads(copies):
        return [lambda: copies.put("a", "2"), lambda: copies.put("b", "3")]

    return explore(crowded, threads, check, files=files("stores/server/cache"), preemptions=preemptions)


@pytest.mark.parametrize("preemptions", [1, 2])
def test_threads_that_make_room_for_their_copies_never_fail(preemptions):
    """Each drops the oldest while the other one does."""
    assert makes_room(preemptions).preempted > 5


def test_planted_copies_that_another_thread_forgot(monkeypatch):
    """Who takes an oldest copy for granted is found."""
    plant(monkeypatch, KeyCache, "drop", {"self._found.pop(ref, None)": "del self._found[ref]"})
    with pytest.raises(Found, match="KeyError"):
        makes_room()


# Writers that stand in line


class Desk:
    """A store whose every call stands in line for one record; ``within``: who was there at the same time."""

    def __init__(self):
        self.locks = []
        self._queues = Queues(self.new_lock)
        self.within, self.most, self.served = 0, 0, 0

    def new_lock(self):
        self.locks.append(threading.RLock())
        return self.locks[-1]

    def _serve(self):
        yield JoinQueue("k:1", 0.05)
        self.within += 1
        self.most = max(self.most, self.within)
        try:
            yield "call"
        finally:
            self.within -= 1
        self.served += 1

    def _send(self, call):
        return call

    serve = synchronous(_serve)


TRIPS = files("stores/server/flow")


def stand_in_line(files=(*TRIPS, __file__), **options):
    def check(desk, results):
        assert (desk.most, desk.served, len(desk._queues)) == (1, 3, 0)

    return explore(Desk, lambda desk: [lambda: (desk.serve(), desk.serve()), desk.serve], check, files=files, **options)


def test_writers_of_one_record_are_served_one_at_a_time():
    """Whatever the order in which they come, and nothing is kept of a line in which nobody stands."""
    report = stand_in_line()
    assert report.blocked > 10


def test_planted_line_that_is_gone_too_soon(monkeypatch):
    """A line that is taken away while somebody stands in it lets the next one past."""
    plant(monkeypatch, Queues, "leave", {"if not found[1]:": "if True:"})
    with pytest.raises(Found):
        stand_in_line(preemptions=2, files=[__file__])


def interrupted_in_line():
    """Interrupt a call at each instant; how many there were."""
    instants = 0
    while True:
        desk = Desk()
        if not interrupts(instants + 1, [_remote_trips], desk.serve):
            return instants
        instants += 1
        assert all(from_elsewhere(lambda lock=lock: (lock.acquire(blocking=False),)) == (True,) for lock in desk.locks)
        assert len(desk._queues) == 0


def test_an_interrupt_leaves_no_line_behind():
    """Neither a lock that is taken nor a place that nobody stands in."""
    assert interrupted_in_line() > 5


def test_a_signal_handler_is_served_in_line_or_told_so():
    """It never waits for what its own thread is in the middle of."""

    def handler(desk):
        try:
            desk.serve()
        except StoreBusy:
            desk.served += 1

    def check(desk):
        desk.serve()
        return desk

    assert in_the_middle([_remote_trips], Desk, check, handler) > 5

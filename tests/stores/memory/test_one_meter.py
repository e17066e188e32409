"""What the headrooms of the memory store do beside deciding: waiting for locks, sharing values."""

import threading

import pytest

from quota import Ledger, ManualClock, UsagePlan
from quota.process import locks as _locks

NOON = 1_700_049_600_000_000


@pytest.mark.parametrize("tries", [0, 3, 100])
def test_a_lock_that_is_held_is_waited_for(monkeypatch, tries):
    """Whether its holder lets go while others try or only after they block, the lock is had in the end, and once."""
    lock = threading.RLock()
    tried, held, order = threading.Event(), threading.Event(), []

    def pause(seconds):
        tried.set()

    def hold():
        with lock:
            held.set()
            tried.wait(0.05 if tries == 0 else 20)
            order.append("holder")

    monkeypatch.setattr(_locks, "TRIES", tries)
    monkeypatch.setattr(_locks, "pause", pause)
    holder = threading.Thread(target=hold)
    holder.start()
    held.wait(20)
    _locks.wait_for(lock)
    order.append("waiter")
    assert lock._is_owned()
    lock.release()
    holder.join(20)
    assert order == ["holder", "waiter"]


def test_an_operation_under_way_is_let_through(monkeypatch):
    """Who comes to a stripe that is busy lets the others run, for so many turns and no more."""
    stripe = _locks.Exclusive()
    stripe.busy = True
    pauses = []

    def pause(seconds):
        pauses.append(seconds)
        stripe.busy = len(pauses) < 15

    monkeypatch.setattr(_locks, "pause", pause)
    stripe.let_through()
    assert pauses == [0] * 10 + [0.000_05] * 5
    pauses.clear()
    monkeypatch.setattr(_locks, "pause", pauses.append)
    stripe.busy = True
    stripe.let_through()
    assert len(pauses) == _locks.TRIES


def test_keys_of_one_plan_share_what_is_equal():
    """A million keys in the same window do not keep a million equal numbers."""
    ledger = Ledger(clock=ManualClock(NOON + 1))
    ledger.add_plan(UsagePlan("p", "1000000/day, 70000000/month"))
    keys = [ledger.issue_key(name, "p", id=name).key for name in ("a", "b")]
    for key in keys:
        ledger.consume(key, 1000)
    first, second = (ledger.store.rooms[key.id] for key in keys)
    for name in ("until", "span", "soft", "shape"):
        assert getattr(first, name) is getattr(second, name), name
    assert first is not second


def test_a_minute_that_another_thread_began_is_not_begun_again():
    """Two threads find the minute over; the second leaves the call to the general path, which is right whatever is due."""
    clock = ManualClock(NOON)
    ledger = Ledger(clock=clock)
    ledger.add_plan(UsagePlan("p", "9/day"))
    key, secret = ledger.issue_key("k", "p", id="k")
    ledger.consume(secret)
    room = ledger.store.rooms["k"]
    clock.advance(60_000_000)
    assert room.turn(clock())
    assert not room.turn(clock())
    assert ledger.consume(secret).limits[0].used == 2
    assert not room.turn(clock() + 86_400_000_000)
    ledger.disable_key(key)
    assert not room.turn(clock() + 60_000_000)


class Interrupted:
    """A lock whose taking is interrupted, before it is taken or right after."""

    def __init__(self, lock, late):
        self.lock, self.late = lock, late
        self._is_owned, self.release = lock._is_owned, lock.release

    def acquire(self, blocking=True):
        if self.late:
            self.lock.acquire(blocking)
        raise KeyboardInterrupt


@pytest.mark.parametrize("late", [False, True])
def test_an_interrupt_while_the_lock_is_taken(late):
    """The lock is given back if it was taken, and only then, and nothing is counted."""
    ledger = Ledger(clock=ManualClock(NOON))
    ledger.add_plan(UsagePlan("p", "9/day"))
    _, secret = ledger.issue_key("k", "p", id="k")
    ledger.consume(secret)
    room = ledger.store.rooms["k"]
    lock = room.lock
    room.lock = Interrupted(lock, late)
    with pytest.raises(KeyboardInterrupt):
        ledger.consume(secret)
    assert not lock._is_owned()
    room.lock = lock
    assert ledger.consume(secret).limits[0].used == 2


def test_an_account_that_lies_dead_is_forgotten_as_a_key_is():
    """The record of keys that shared an account goes with theirs."""
    clock = ManualClock(NOON)
    ledger = Ledger("memory://?stripes=1", clock=clock)
    ledger.add_plan(UsagePlan("p", "9/day by account"))
    for name in ("a", "b"):
        ledger.consume(ledger.issue_key(name, "p", id=name, account="joint").key)
    other = ledger.issue_key("other", "p", id="other").key
    account = ledger.store._key_entry("a").account
    assert account.record is not None
    clock.advance(400 * 86_400_000_000)
    for _ in range(8):
        ledger.consume(other, request_id=str(clock()))
        clock.advance(1)
    assert account.record is None
    assert ledger.consume(ledger.get_key("a")).limits[0].used == 1

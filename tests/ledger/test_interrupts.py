"""An interrupt at any instant at which Python may deliver one leaves no lock taken, and a count that is whole."""

from __future__ import annotations

import contextlib
import signal
import sys

import pytest

from interleavings import plant
from interrupts import from_elsewhere, in_the_middle, interrupts
from quota import Ledger, ManualClock, StoreBusy, UsagePlan
from quota import decision as decisions
from quota.operations import compiled as _compiled
from quota.operations import headroom as _headroom
from quota.process import atomic as _atomic
from quota.process import locks as _locks
from quota.stores.leased import LeasedStore
from quota.stores.leased import flow as _leased_steps
from quota.stores.leased import holder as _leased_lease_holder
from quota.stores.leased import index as _leased_index
from quota.stores.leased import lane as _leased_lane
from quota.stores.leased import store as leased
from quota.stores.leased.flow import Leasing
from quota.stores.leased.holder import HeldLease
from quota.stores.memory import MemoryStore
from quota.stores.memory import binding as _binding
from quota.stores.memory import one_meter as _one_meter
from quota.stores.memory import retries as _retries
from quota.stores.memory import store as memory

NOON = 1_700_049_600_000_000
MODULES = sys.modules[Ledger.__module__], _locks, _one_meter, _retries, _binding, memory
HEADROOM = *MODULES, _headroom, _compiled, _atomic
LEASING = (
    sys.modules[Ledger.__module__],
    leased,
    _leased_lease_holder,
    _leased_index,
    _leased_lane,
    _one_meter,
    _leased_steps,
    contextlib,
)


THROTTLED = "1000/day, 100/s burst 100"


def opened(limits=THROTTLED):
    clock = ManualClock(NOON)
    ledger = Ledger(clock=clock)
    ledger.add_plan(UsagePlan("p", limits))
    key, secret = ledger.issue_key("k", "p", id="k")
    ledger.consume(secret)
    return ledger, clock, key, secret


@pytest.mark.spread(5)
@pytest.mark.parametrize("before", [[], [{"request_id": "q"}]], ids=["plain", "named before"])
@pytest.mark.parametrize("options", [{}, {"request_id": "r"}, {"route": "/r"}], ids=["fast", "named", "route"])
@pytest.mark.parametrize("later", [1, 60_000_000], ids=["same minute", "next minute"])
@pytest.mark.parametrize("limits", [THROTTLED, "1000/day"])
def test_an_interrupt_leaves_no_lock_taken(limits, options, before, later):
    """Interrupted after each call that consume makes in turn: others go on, and nothing is half counted."""
    instants = 0
    while True:
        ledger, clock, key, secret = opened(limits)
        for earlier in before:
            ledger.consume(secret, **earlier)
        clock.advance(later)
        if not interrupts(instants + 1, MODULES, ledger.consume, secret, **options):
            break
        instants += 1
        used = from_elsewhere(lambda: ledger.peek(key).limits[0].used) - len(before) - 1
        assert used in (1, 2)
        again = from_elsewhere(lambda: ledger.consume(secret, **options))
        assert again.replayed == (used == 2 and "request_id" in options)
        assert again.limits[0].used == used + len(before) + (not again.replayed)
    assert instants > 5


def test_an_interrupt_between_two_ids_of_one_instant():
    """What is remembered until the same instant is put in its place among them."""
    test_an_interrupt_leaves_no_lock_taken("1000/day", {"request_id": "r"}, [{"request_id": "q"}], 0)


@pytest.mark.parametrize(("later", "change"), [
    (0, {'"at", now), *record': '"at", now)); at_once(*record'}),
    (1, {"    own.total = total\n": "    room.good(now)\n    own.total = total\n"}),
], ids=["at once", "later"])  # fmt: skip
def test_a_call_by_an_id_that_is_written_in_two_goes_is_found(monkeypatch, later, change):
    """Counted, and then remembered; or the other way round."""
    plant(monkeypatch, _retries, "_alone", change)
    with pytest.raises(AssertionError):
        test_an_interrupt_leaves_no_lock_taken("1000/day", {"request_id": "r"}, [{"request_id": "q"}], later)


@pytest.mark.parametrize("which", [0, 1], ids=["the same", "another"])
def test_a_signal_handler_reads_a_decision_while_one_is_worked_out(which):
    """Nothing waits for itself, and a decision has one id whoever asked for it first."""
    told = []

    def prepare():
        ledger, _, _, secret = opened()
        mine = [ledger.consume(secret) for _ in range(2)]
        told.append((mine, []))
        return told[-1]

    def read(world):
        world[1].append(world[0][0].id)

    def handler(world):
        world[1].append(world[0][which].id)

    assert in_the_middle([decisions], prepare, lambda world: read(world) or True, handler) > 5
    for mine, ids in told[:-1]:
        assert [decision.limits[0].used for decision in mine] == [2, 3]
        assert set(ids) == {mine[0].id, mine[which].id}


def team(later=0):
    """Two keys of one account whose calls are served by headrooms, and what each call costs."""
    clock = ManualClock(NOON)
    ledger = Ledger(clock=clock)
    limits = "1000/day, 1000 tokens/day by account as budget, 100/s burst 100, 900/minute burst 900 as slow"
    ledger.add_plan(UsagePlan("p", limits))
    keys = [ledger.issue_key(name, "p", id=name, account="x").key for name in ("a", "b")]
    for key in keys * 3:
        ledger.consume(key, BOTH)
    assert all(type(ledger.peek(key, BOTH)) is _headroom.Told for key in keys)
    clock.advance(later)
    return ledger, *keys


BOTH = {"requests": 1, "tokens": 5}


@pytest.mark.parametrize("method", ["consume", "peek"])
@pytest.mark.parametrize("later", [0, 60_000_000], ids=["same minute", "next minute"])
def test_an_interrupt_of_a_headroom_s_call_leaves_no_lock_taken(method, later):
    """All of its limits have counted it, or none, and others go on."""
    instants = 0
    while True:
        ledger, one, other = team(later)
        if not interrupts(instants + 1, HEADROOM, getattr(ledger, method), one, BOTH):
            break
        instants += 1
        mine, budget, *_ = (status.used for status in from_elsewhere(lambda: ledger.peek(one, BOTH)).limits)
        assert (mine, budget) in [(4, 35), (5, 40)][: 1 + (method == "consume")], f"after {instants} calls"
        assert from_elsewhere(lambda: ledger.consume(other, BOTH)).limits[1].used == budget
        assert from_elsewhere(lambda: type(ledger.peek(other, BOTH))) is _headroom.Told
    assert instants > 10


@pytest.mark.parametrize("later", [0, 60_000_000], ids=["same minute", "next minute"])
def test_a_signal_handler_calls_in_the_middle_of_a_headroom_s_call(later):
    """It is told that the store is busy, or is served before or after the call: each that was admitted is counted."""
    told = []

    def prepare():
        told.append([])
        return *team(later), told[-1]

    def call(world):
        ledger, one, _, said = world
        said.append(ledger.consume(one, BOTH))
        said.append(ledger.peek(one, BOTH))
        return said

    def handler(world):
        ledger, one, other, said = world
        for key in (one, other):
            with contextlib.suppress(StoreBusy):
                said.append(ledger.consume(key, BOTH))

    worlds = []
    assert in_the_middle(HEADROOM, lambda: worlds.append(prepare()) or worlds[-1], call, handler) > 10
    for ledger, one, _, said in worlds:
        taken = [decision for decision in said if decision._details().metered]
        assert ledger.peek(one, BOTH).limits[1].used == 30 + 5 * (len(taken) + 1)
    assert {len(said) for said in told} == {2, 4}, "a handler was told that the store is busy, and it was served"


def consume(ledger, secret):
    ledger.consume(secret)


def reserve(ledger, secret):
    ledger.reserve(secret, 1, ttl=60_000_000)


def close(ledger, secret):
    ledger.close()


def disable(ledger, secret):
    ledger.disable_key("k")


class Counting(MemoryStore):
    """Counts how often it is asked."""

    asked = 0

    def apply(self, request):
        self.asked += 1
        return super().apply(request)


def interrupted(limits, calls, later, then, op=consume):
    """Interrupt an operation after some calls at each instant in turn, make more calls, and close; how many instants."""
    instants = 0
    while True:
        clock, shared = ManualClock(NOON), Counting()
        ledger = Ledger(LeasedStore(shared, share=1), clock=clock)
        ledger.add_plan(UsagePlan("p", limits))
        key, secret = ledger.issue_key("k", "p", id="k")
        assert all(ledger.consume(secret) for _ in range(calls))
        clock.advance(later)
        if not interrupts(instants + 1, LEASING, op, ledger, secret):
            break
        instants += 1
        if op is disable:
            from_elsewhere(lambda: ledger.enable_key("k"))
        asked = shared.asked
        assert from_elsewhere(lambda: all(ledger.consume(secret) for _ in range(then)))
        assert op is close or shared.asked - asked < 10, "no leases are taken any more"
        ledger.close()
        (row,) = Ledger(shared, clock=clock).usage(key)
        assert row.used - calls - then in (0, 1), f"after {instants} calls"
        assert row.leased == 0, f"after {instants} calls"
    return instants


@pytest.mark.spread(9)
@pytest.mark.parametrize(
    ("calls", "later"), [(1, 0), (2, 0), (16, 0), (17, 0), (18, 0), (3, 1_000_000), (18, 1_000_000), (3, 60_000_000)]
)
@pytest.mark.parametrize("limits", ["9000/day", "9000/day, 1000/s burst 1000, 900/minute burst 900 as slow"])
def test_an_interrupt_burns_nothing_that_is_leased(limits, calls, later):
    """The same of a process that leases, while it spends, takes a lease, has spent one, and renews it."""
    assert interrupted(limits, calls, later, 40 * (calls % 2)) > 5


@pytest.mark.spread(3)
@pytest.mark.parametrize("op", [reserve, disable, close])
@pytest.mark.parametrize("then", [0, 40])
def test_an_interrupt_burns_nothing_that_is_given_back(op, then):
    """The same while what is held is settled."""
    assert interrupted("9000/day", 3, 0, then, op) > 5


PLANTED = {
    "closed before it is known what was used": (HeldLease, "close", {"if self.open:": "if self.open:\n        self.due, self.open = True, False"}),
    "a lease that is not owed until it is filled": (HeldLease, "answered", {"self.due = granted": "self.due = False"}),
    "an outcome taken for known": (Leasing, "_lease_request", {"lease.doubt = True": "pass"}),
}  # fmt: skip


@pytest.mark.parametrize("bug", PLANTED)
def test_planted_bugs_of_interrupted_leases_are_found(monkeypatch, bug):
    """Each is seen at one of these instants."""
    plant(monkeypatch, *PLANTED[bug])
    with pytest.raises(AssertionError, match=r"after \d+ calls"):
        for calls in (1, 17):
            interrupted("9000/day", calls, 0, 0)


def test_a_signal_handler_is_told_that_the_store_is_busy(monkeypatch):
    """A handler that asks in the middle of its own thread's call gets an error, not a deadlock or a wrong count."""
    ledger, _, key, secret = opened()
    told = []

    def handler(signum, frame):
        for who in (secret, key):
            try:
                told.append(ledger.consume(who))
            except StoreBusy as error:
                told.append(error)

    perform = memory.perform

    def interrupted(*args):
        signal.raise_signal(signal.SIGUSR1)
        return perform(*args)

    before = signal.signal(signal.SIGUSR1, handler)
    try:
        monkeypatch.setattr(memory, "perform", interrupted)
        assert ledger.consume(secret, request_id="r").limits[0].used == 2
    finally:
        signal.signal(signal.SIGUSR1, before)
    monkeypatch.undo()
    assert [type(answer) for answer in told] == [StoreBusy, StoreBusy]
    assert ledger.consume(secret).limits[0].used == 3


def test_a_signal_handler_is_told_that_a_lease_is_being_asked_for():
    """The same in the middle of a call that asks the shared store."""
    told, asked = [], []

    class Interrupted(MemoryStore):
        def apply(self, request):
            asked.append(request.op)
            if request.op == "lease":
                signal.raise_signal(signal.SIGUSR1)
            return super().apply(request)

    ledger = Ledger(LeasedStore(Interrupted(), share=1), clock=ManualClock(NOON))
    ledger.add_plan(UsagePlan("p", "9000/day"))
    _, secret = ledger.issue_key("k", "p", id="k")

    def handler(signum, frame):
        for call in (lambda: ledger.consume(secret), lambda: ledger.disable_key("k"), ledger.close):
            try:
                told.append(call())
            except StoreBusy as error:
                told.append(error)

    before = signal.signal(signal.SIGUSR1, handler)
    try:
        assert [ledger.consume(secret).limits[0].used for _ in range(3)] == [1, 2, 3]
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert [type(answer) for answer in told] == [StoreBusy] * 3
    assert asked == ["consume", "lease"], "the third call was not spent from the lease"

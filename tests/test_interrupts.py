"""An interrupt at any instant at which Python may deliver one leaves no lock taken, and a count that is whole."""

from __future__ import annotations

import opcode
import signal
import sys
import threading

import pytest

from quota import Ledger, ManualClock, StoreBusy, UsagePlan
from quota.stores import _lane, memory

NOON = 1_700_049_600_000_000
FILES = {sys.modules[Ledger.__module__].__file__, _lane.__file__, memory.__file__}


class Interrupting:
    """Raises KeyboardInterrupt at the n-th instant: after a call has returned, where signals are looked for."""

    def __init__(self, at):
        self.left = at
        self.before = {}

    def __call__(self, frame, event, arg):
        if frame.f_code.co_filename not in FILES:
            return None
        frame.f_trace_opcodes = True
        return self.step

    def step(self, frame, event, arg):
        if event == "opcode":
            previous = self.before.get(frame)
            self.before[frame] = opcode.opname[frame.f_code.co_code[frame.f_lasti]]
            if previous == "CALL":
                self.left -= 1
                if self.left == 0:
                    raise KeyboardInterrupt
        return self.step


def opened():
    clock = ManualClock(NOON)
    ledger = Ledger(clock=clock)
    ledger.add_plan(UsagePlan("p", "1000/day, 100/s burst 100"))
    key, secret = ledger.issue_key("k", "p", id="k")
    ledger.consume(secret)
    return ledger, clock, key, secret


def from_elsewhere(call):
    """What a call returns in another thread; a lock that stayed taken fails."""
    found = []
    thread = threading.Thread(target=lambda: found.append(call()), daemon=True)
    thread.start()
    thread.join(20)
    assert found, "a lock stayed taken"
    return found[0]


@pytest.mark.parametrize("options", [{}, {"request_id": "r"}, {"route": "/r"}], ids=["fast", "general", "route"])
@pytest.mark.parametrize("later", [0, 60_000_000], ids=["same minute", "next minute"])
def test_an_interrupt_leaves_no_lock_taken(options, later):
    """Interrupted after each call that consume makes in turn: others go on, and nothing is half counted."""
    instants = 0
    while True:
        ledger, clock, key, secret = opened()
        clock.advance(later)
        trace = sys.gettrace()
        sys.settrace(Interrupting(instants + 1))
        try:
            ledger.consume(secret, **options)
        except KeyboardInterrupt:
            instants += 1
        else:
            break
        finally:
            sys.settrace(trace)
        used = from_elsewhere(lambda: ledger.peek(key).limits[0].used) - 1
        assert used in (1, 2)
        assert from_elsewhere(lambda: ledger.consume(secret)).limits[0].used == used + 1
    assert instants > 5


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

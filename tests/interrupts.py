"""Interrupts and signal handlers at every instant at which Python may deliver one."""

from __future__ import annotations

import dis
import opcode
import sys
import threading
from functools import cache


@cache
def handler(code, offset):
    """Where an exception that is raised at an opcode is handled."""
    spans = dis._parse_exception_table(code)
    return next((span.target for span in spans if span.start <= offset < span.end), None)


class Interrupting:
    """Raises KeyboardInterrupt at the n-th instant: after a call has returned, where signals are looked for.

    Or calls ``handler`` there, as a signal's would be.
    """

    def __init__(self, at, modules, handler=None):
        self.left = at
        self.handler = handler
        self.before = {}
        self.files = {module.__file__ for module in modules}

    def __call__(self, frame, event, arg):
        if frame.f_code.co_filename not in self.files:
            return None
        frame.f_trace_opcodes = True
        return self.step

    def step(self, frame, event, arg):
        if event == "opcode":
            called = self.before.get(frame)
            is_call = opcode.opname[frame.f_code.co_code[frame.f_lasti]] == "CALL"
            self.before[frame] = frame.f_lasti if is_call else None
            # Python raises where the call is, this one opcode later: where a ``with`` ends in between, they differ.
            if called is not None and handler(frame.f_code, called) == handler(frame.f_code, frame.f_lasti):
                self.left -= 1
                if self.left == 0:
                    if self.handler is None:
                        raise KeyboardInterrupt
                    self.handler()
        return self.step


def interrupts(at, modules, call, *args, **options):
    """Whether a call has an ``at``-th instant, at which it was interrupted; else it has come to its end."""
    tracer = Interrupting(at, modules)
    trace = sys.gettrace()
    sys.settrace(tracer)
    try:
        call(*args, **options)
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(trace)
        tracer.before.clear()  # frames, and what they hold
    return False


def from_elsewhere(call):
    """What a call returns in another thread; a lock that stayed taken fails."""
    found = []
    thread = threading.Thread(target=lambda: found.append(call()), daemon=True)
    thread.start()
    thread.join(20)
    assert found, "a lock stayed taken, or the thread raised"
    return found[0]


def in_the_middle(modules, prepare, call, handler):
    """Call ``handler`` in the middle of a call of its thread, at each instant in turn; how many there were.

    Both are given what ``prepare`` made. Whoever waits for a lock of their own thread's fails.
    """
    instants = 0
    while True:
        world = prepare()
        tracer = Interrupting(instants + 1, modules, lambda world=world: handler(world))

        def run(world=world, tracer=tracer):
            sys.settrace(tracer)
            try:
                return call(world)
            finally:
                sys.settrace(None)

        from_elsewhere(run)
        if tracer.left > 0:
            return instants
        instants += 1

"""Interrupts and signal handlers at every instant at which Python may deliver one."""

from __future__ import annotations

import dis
import sys
import threading
from functools import cache

BREAKS = {"CALL", "CALL_FUNCTION_EX", "CALL_KW", "JUMP_BACKWARD"}
"""Behind these CPython looks for signals, and where a function is entered or goes on after a ``yield``."""


@cache
def handler(code, offset):
    """Where an exception that is raised at an opcode is handled."""
    spans = dis._parse_exception_table(code)
    return next((span.target for span in spans if span.start <= offset < span.end), None)


class Places(dict):
    """By a code's identity: the code, the offsets behind which signals are looked for, those at which frames go on.

    Prefixes are taken for their opcodes. Inside an ``await`` or ``yield from`` no signals are looked for.
    """

    def of(self, code):
        found = self.get(id(code))
        if found is None:
            breaks, entries, prefixes = set(), {}, []
            for instruction in dis.get_instructions(code):
                if instruction.opname == "EXTENDED_ARG":
                    prefixes.append(instruction.offset)
                    continue
                if instruction.opname in BREAKS:
                    breaks |= {instruction.offset, *prefixes}
                elif instruction.opname == "RESUME":
                    entries[instruction.offset] = instruction.arg & 3 < 2
                prefixes.clear()
            found = self[id(code)] = code, breaks, entries
        return found


PLACES = Places()


class Interrupting:
    """Raises KeyboardInterrupt at the n-th instant at which signals are looked for in the code of some modules.

    Or calls ``handler`` there, as a signal's would be. As a context manager it traces the thread that enters it.
    """

    def __init__(self, at, modules, handler=None):
        self.left = at
        self.handler = handler
        self.before = {}
        self.files = {module.__file__ for module in modules}

    def instant(self):
        self.left -= 1
        if self.left == 0:
            if self.handler is None:
                raise KeyboardInterrupt
            self.handler()

    def entered(self, code, offset):
        """A frame begins, or goes on after a ``yield``; not where an exception is thrown into it."""
        if PLACES.of(code)[2].get(offset):
            self.instant()

    def opcode(self, frame, code, offset):
        """An opcode is about to be executed."""
        behind = self.before.get(frame)
        self.before[frame] = offset if offset in PLACES.of(code)[1] else None
        # Python raises where the call is, this one opcode later: where a ``with`` ends in between, they differ.
        if behind is not None and handler(code, behind) == handler(code, offset):
            self.instant()


class Settrace(Interrupting):
    """By ``sys.settrace``, on CPython 3.11."""

    def __call__(self, frame, event, arg):
        if frame.f_code.co_filename not in self.files:
            return None
        frame.f_trace_opcodes = True
        self.entered(frame.f_code, frame.f_lasti)
        return self.step

    def step(self, frame, event, arg):
        if event == "opcode":
            self.opcode(frame, frame.f_code, frame.f_lasti)
        return self.step

    def __enter__(self):
        self.trace = sys.gettrace()
        sys.settrace(self)

    def __exit__(self, *_):
        sys.settrace(self.trace)
        self.before.clear()  # frames, and what they hold


class Monitoring(Interrupting):
    """By ``sys.monitoring``, from 3.12 on, where opcodes are traced only in frames that begin later."""

    TOOL = 3

    def start(self, code, offset):
        monitoring = sys.monitoring
        if code.co_filename not in self.files:
            return monitoring.DISABLE
        if threading.get_ident() == self.thread:
            if id(code) not in self.codes:
                self.codes[id(code)] = code
                monitoring.set_local_events(self.TOOL, code, monitoring.events.INSTRUCTION)
            self.entered(code, offset)
        return None

    def step(self, code, offset):
        if threading.get_ident() == self.thread and offset not in PLACES.of(code)[2]:
            self.opcode(sys._getframe(1), code, offset)

    def __enter__(self):
        monitoring, events = sys.monitoring, sys.monitoring.events
        self.thread, self.codes = threading.get_ident(), {}
        self.calls = {events.PY_START: self.start, events.PY_RESUME: self.start, events.INSTRUCTION: self.step}
        monitoring.use_tool_id(self.TOOL, "interrupts")
        for event, call in self.calls.items():
            monitoring.register_callback(self.TOOL, event, call)
        monitoring.restart_events()
        monitoring.set_events(self.TOOL, events.PY_START | events.PY_RESUME)

    def __exit__(self, *_):
        monitoring = sys.monitoring
        monitoring.set_events(self.TOOL, 0)
        for code in self.codes.values():
            monitoring.set_local_events(self.TOOL, code, 0)
        for event in self.calls:
            monitoring.register_callback(self.TOOL, event, None)
        monitoring.free_tool_id(self.TOOL)
        self.before.clear()  # frames, and what they hold


Tracer = Settrace if sys.version_info < (3, 12) else Monitoring


def interrupts(at, modules, call, *args, **options):
    """Whether a call has an ``at``-th instant, at which it was interrupted; else it has come to its end."""
    try:
        with Tracer(at, modules):
            call(*args, **options)
    except KeyboardInterrupt:
        return True
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
        tracer = Tracer(instants + 1, modules, lambda world=world: handler(world))

        def run(world=world, tracer=tracer):
            with tracer:
                return call(world)

        from_elsewhere(run)
        if tracer.left > 0:
            return instants
        instants += 1

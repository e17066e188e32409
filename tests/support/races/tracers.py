"""How ``scheduler`` sees opcodes go by: with ``sys.settrace`` on CPython 3.11, ``sys.monitoring`` from 3.12 on.

Either tells a run's ``opcode`` of each in a file that can be preempted, before it is executed, in the thread that
executes it.
"""

from __future__ import annotations

import dis
import sys
from collections.abc import Callable
from types import CodeType, FrameType
from typing import Any

from locks import preemptible


class Files(dict[str, bool]):
    """By file name, whether a thread can be preempted in its code."""

    def __init__(self, prefixes: tuple[str, ...]) -> None:
        self.prefixes = prefixes

    def __missing__(self, file: str) -> bool:
        self[file] = preemptible(file, self.prefixes)
        return self[file]


class Settrace:
    """Where a run is not ``full``, opcodes are looked at only in the activations where it stops: ten times as fast."""

    def __init__(self, prefixes: tuple[str, ...]) -> None:
        self.files = Files(prefixes)

    def open(self) -> None:
        """Nothing is to be done for all threads."""

    def close(self) -> None:
        """As ``open``."""

    def attach(self, run: Any, me: int) -> None:
        """From now on in this thread, which is the run's ``me``."""
        stops = [stop for stop in run.node.stops if stop.thread == me]
        if run.full:
            sys.settrace(self._counting(run, me))
        elif stops:
            sys.settrace(self._seeking(run, stops))

    def detach(self) -> None:
        sys.settrace(None)

    def _seeking(self, run: Any, stops: list[Any]) -> Callable[..., Any]:
        due = {(stop.activation, stop.step) for stop in stops}
        activations = {stop.activation for stop in stops}
        files, left, count = self.files, len(stops), 0

        def on_call(frame: FrameType, event: str, arg: object) -> Any:
            nonlocal count
            if not files[frame.f_code.co_filename]:
                return None
            count += 1
            if count not in activations:
                if frame.f_trace is not None:  # a generator that comes back
                    frame.f_trace = None
                return None
            return _opcodes_only(frame, local(count))

        def local(activation: int) -> Callable[..., Any]:
            step = 0

            def on_opcode(frame: FrameType, event: str, arg: object) -> Any:
                nonlocal step, left
                if event == "opcode":
                    step += 1
                    if (activation, step) in due:
                        left -= 1
                        if not left:
                            sys.settrace(None)
                        run.stop(frame.f_code, frame.f_lasti)
                return on_opcode

            return on_opcode

        return on_call

    def _counting(self, run: Any, me: int) -> Callable[..., Any]:
        files, opcode, count = self.files, run.opcode, 0

        def on_call(frame: FrameType, event: str, arg: object) -> Any:
            nonlocal count
            if not files[frame.f_code.co_filename]:
                return None
            count += 1
            return _opcodes_only(frame, local(count))

        def local(activation: int) -> Callable[..., Any]:
            step = 0

            def on_opcode(frame: FrameType, event: str, arg: object) -> Any:
                nonlocal step
                if event == "opcode":
                    step += 1
                    opcode(me, frame.f_code, frame.f_lasti, activation, step)
                return on_opcode

            return on_opcode

        return on_call


def _opcodes_only(frame: FrameType, tracer: Callable[..., Any]) -> Callable[..., Any]:
    frame.f_trace = tracer
    frame.f_trace_lines = False
    frame.f_trace_opcodes = True
    return tracer


class Monitoring:
    """From 3.12 on, where turning ``settrace`` on and off in several threads crashes the interpreter."""

    TOOL = 4

    def __init__(self, prefixes: tuple[str, ...]) -> None:
        self.files = Files(prefixes)
        self.run: Any = None
        self.begins: dict[int, tuple[CodeType, int]] = {}

    def open(self) -> None:
        """Ask for the opcodes of each function of these files when it first runs."""
        monitoring = sys.monitoring  # type: ignore[attr-defined]
        monitoring.use_tool_id(self.TOOL, "scheduler")
        monitoring.register_callback(self.TOOL, monitoring.events.PY_START, self._on_start)
        monitoring.register_callback(self.TOOL, monitoring.events.INSTRUCTION, self._on_opcode)
        monitoring.set_events(self.TOOL, monitoring.events.PY_START)
        monitoring.restart_events()

    def close(self) -> None:
        monitoring = sys.monitoring  # type: ignore[attr-defined]
        monitoring.set_events(self.TOOL, 0)
        for code, _ in self.begins.values():
            monitoring.set_local_events(self.TOOL, code, 0)
        for event in (monitoring.events.PY_START, monitoring.events.INSTRUCTION):
            monitoring.register_callback(self.TOOL, event, None)
        monitoring.free_tool_id(self.TOOL)

    def attach(self, run: Any, me: int) -> None:
        """Threads are told apart by whose turn it is."""
        self.run = run

    def detach(self) -> None:
        """As ``attach``."""

    def _on_start(self, code: CodeType, offset: int) -> Any:
        monitoring = sys.monitoring  # type: ignore[attr-defined]
        if self.files[code.co_filename]:
            # The first activation is seen from behind its RESUME on, so all are.
            begin = next(i.offset for i in dis.get_instructions(code) if i.opname.endswith("RESUME"))
            self.begins[id(code)] = code, begin
            monitoring.set_local_events(self.TOOL, code, monitoring.events.INSTRUCTION)
        return monitoring.DISABLE

    def _on_opcode(self, code: CodeType, offset: int) -> Any:
        run = self.run
        if run is not None and run.active and offset > self.begins[id(code)][1]:
            run.opcode(run.current, code, offset)


Tracer = Settrace if sys.version_info < (3, 12) else Monitoring

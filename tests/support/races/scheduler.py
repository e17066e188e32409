"""A deterministic scheduler of threads at the granularity of opcodes, for finding races by enumeration.

``explore`` runs real threads one at a time (``sys.settrace``, opcode events) and switches between them at every opcode
that may touch shared state. Exhaustive up to a number of preemptions, or sampled with a seed. A finding carries its
schedule, a literal list of (thread, opcodes to run), that ``replay`` runs again.

A switch before an opcode that only moves values about the running frame (``LOCAL``) is the same as a switch before the
next one that does not, so those are left out, and so are readings of globals that no ``global`` statement of these files
rebinds; nothing else is. Locks made in ``setup`` and in the threads, and those
in the globals of the traced modules, are cooperative: blocking on a held one lets its owner run.
"""

from __future__ import annotations

import contextlib
import dis
import gc
import itertools
import random
import re
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any, NamedTuple

import locks
import tracers
from locks import Abort, Lock, cooperative, raw_lock
from tracers import Tracer

LOCAL = {
    "BUILD_LIST", "BUILD_MAP", "BUILD_SLICE", "BUILD_TUPLE", "CACHE", "CALL_INTRINSIC_1", "COPY", "COPY_FREE_VARS",
    "END_FOR", "EXTENDED_ARG", "IS_OP", "JUMP_BACKWARD", "JUMP_BACKWARD_NO_INTERRUPT", "JUMP_FORWARD", "KW_NAMES",
    "LOAD_CLOSURE", "LOAD_CONST", "LOAD_FAST", "LOAD_FAST_AND_CLEAR", "LOAD_FAST_CHECK", "LOAD_FAST_LOAD_FAST",
    "MAKE_CELL", "MAKE_FUNCTION", "NOP", "POP_JUMP_BACKWARD_IF_NONE", "POP_JUMP_BACKWARD_IF_NOT_NONE",
    "POP_JUMP_FORWARD_IF_NONE", "POP_JUMP_FORWARD_IF_NOT_NONE", "POP_JUMP_IF_NONE", "POP_JUMP_IF_NOT_NONE", "POP_TOP",
    "PRECALL", "PUSH_NULL", "RESUME", "RETURN_CONST", "RETURN_GENERATOR", "RETURN_VALUE", "SET_FUNCTION_ATTRIBUTE",
    "STORE_FAST", "STORE_FAST_LOAD_FAST", "STORE_FAST_STORE_FAST", "SWAP", "YIELD_VALUE",
}  # fmt: skip
_BOOLS = {"COMPARE_OP", "CONTAINS_OP", "IS_OP", "TO_BOOL"}  # what they leave on the stack is nobody else's
_GLOBAL = re.compile(r"^\s*global ([\w, ]+)", re.MULTILINE)
PATIENCE = 60.0  # seconds until a schedule counts as hung: a loop that only another thread could end
SHARE = 8  # schedules sampled below one point of the first preemption, which costs a traced run to expand

locks.OWN |= {__file__, str(tracers.__file__)}

Schedule = list[tuple[int, int]]
"""(thread, how many traced opcodes it runs): what a finding reports and ``replay`` takes."""


class Report(NamedTuple):
    """How many schedules ran, in how many a thread was really switched away from midway, in how many one had to wait."""

    schedules: int
    preempted: int
    blocked: int


class Found(AssertionError):
    """A schedule that breaks ``check``, or in which a thread raised. ``schedule`` replays it, ``where`` names the stops."""

    def __init__(self, what: str, schedule: Schedule, where: list[str]) -> None:
        stops = "".join(f"\n  {stop}" for stop in where)
        super().__init__(f"{what}\nschedule = {schedule}{stops}")
        self.schedule = schedule
        self.where = where


class Deadlock(Found):
    """A schedule in which every unfinished thread waits for a lock."""


class Unsteady(Exception):
    """The same schedule took another path: ``setup`` or a thread depends on something that the scheduler cannot hold."""


class _Stop(NamedTuple):
    """Before a thread's ``count``-th traced opcode, which is the ``step``-th of its ``activation``-th traced frame."""

    thread: int
    count: int
    activation: int
    step: int
    code: CodeType
    offset: int


class _Node(NamedTuple):
    """What to run: threads in ``orders[0]`` until ``stops[0]``, then in ``orders[1]``, and so on. ``prefix``: the
    same up to the last stop as a literal, by which two ways to one schedule are known to be one.
    """

    orders: tuple[tuple[int, ...], ...]
    stops: tuple[_Stop, ...] = ()
    prefix: tuple[tuple[int, int], ...] = ()


class _Worker:
    """A thread that runs what it is given whenever it has the turn; kept for all schedules of an exploration."""

    def __init__(self) -> None:
        self.turn = raw_lock()
        self.turn.acquire()
        self.task: Callable[[], None] | None = None
        threading.Thread(target=self._loop, daemon=True).start()

    def _loop(self) -> None:
        while True:
            self.turn.acquire()
            if self.task is None:
                return
            self.task()


class _Run:
    """One schedule. ``full`` traces every opcode: for its literal, and for the points at which a child may stop."""

    def __init__(self, engine: _Engine, node: _Node, full: bool, literal: Schedule | None = None) -> None:
        self.engine, self.node, self.full, self.literal = engine, node, full or literal is not None, literal
        self.order = node.orders[0]
        self.reached, self.last = 0, len(node.stops)
        self.current = self.order[0]
        self.active = self.aborting = self.hit_lock = False
        self.stuck: list[str] = []
        self.segments: list[list[int]] = [[self.current, 0]]
        self.where: list[str] = []
        self.points: list[tuple[_Stop, list[int], list[int], tuple[tuple[int, int], ...]]] = []
        self.fresh = True  # no opcode since this thread was given the turn
        self.used = 0  # of the current segment of the literal

    def execute(self, tasks: list[Callable[[], Any]]) -> list[Any]:
        """Run the threads to their end; what they returned. An exception of one is raised here."""
        n = len(tasks)
        self.counts = [0] * n
        self.finished = [False] * n
        self.waits: list[Lock | None] = [None] * n
        self.patient: set[int] = set()  # waiting with a timeout
        self.results: list[Any] = [None] * n
        self.errors: list[BaseException] = []
        self.done = raw_lock()
        self.done.acquire()
        for i, task in enumerate(tasks):
            self.engine.workers[i].task = lambda i=i, task=task: self._thread(i, task)
        if self.literal:
            self.current = self.literal[0][0]
            self.segments = [[self.current, 0]]
        locks.running, self.active = self, True
        try:
            self.engine.workers[self.current].turn.release()
            if not self.done.acquire(timeout=PATIENCE):
                raise RuntimeError(f"hung: {self.segments} {self.where}")
        finally:
            locks.running, self.active = None, False
        if self.errors and not self.stuck:
            raise self.errors[0]
        if not self.stuck and self.reached < self.last:
            stop = self.node.stops[self.reached]
            raise Unsteady(f"never came to {_place(stop.code, stop.offset)}")
        return self.results

    def _thread(self, me: int, task: Callable[[], Any]) -> None:
        try:
            if not self.aborting:
                self.engine.tracer.attach(self, me)
                self.results[me] = task()
        except Abort:
            pass
        except BaseException as error:
            self.errors.append(error)
        finally:
            self.engine.tracer.detach()
        self.finished[me] = True
        following = self._next(None)
        if following is None and not all(self.finished):
            self._give_up()
        if self.aborting:
            following = next((i for i, ended in enumerate(self.finished) if not ended), None)
        if following is None:
            self.done.release()
        else:
            self._pass_to(following)

    def _pass_to(self, thread: int) -> None:
        self.current = thread
        self.fresh = True
        self.segments.append([thread, 0])
        self.engine.workers[thread].turn.release()

    def _switch(self, thread: int) -> None:
        me = self.current
        self._pass_to(thread)
        self.engine.workers[me].turn.acquire()
        if self.aborting:
            raise Abort

    def _free(self, thread: int) -> bool:
        lock = self.waits[thread]
        return not self.finished[thread] and (lock is None or lock.owner is None)

    def _next(self, waiting_for: Lock | None) -> int | None:
        """Who goes on when the current thread cannot: the literal's next, the owner of the lock, the next in order."""
        if self.literal:
            self.literal, self.used = self.literal[1:], 0
            if self.literal and self._free(self.literal[0][0]):
                return self.literal[0][0]
        lock, seen = waiting_for, set()
        while lock is not None and lock.owner is not None and lock.owner >= 0 and lock.owner not in seen:
            if self._free(lock.owner):
                return lock.owner
            seen.add(lock.owner)
            lock = self.waits[lock.owner]
        free = (thread for thread in self.order if self._free(thread))
        return next(free, next((thread for thread in self.order if thread in self.patient), None))

    def wait(self, lock: Lock, patient: bool) -> bool:
        """Let others run until a lock is free; False when only a timeout can end the wait and it has one."""
        me, self.hit_lock = self.current, True
        if self.aborting:
            raise Abort
        if patient:
            self.patient.add(me)
        while lock.owner is not None:
            self.waits[me] = lock
            following = self._next(lock)
            if following == me:
                break
            if following is None:
                self._give_up()
                raise Abort
            self._switch(following)
        self.waits[me] = None
        self.patient.discard(me)
        self.fresh = False
        return lock.owner is None

    def _give_up(self) -> None:
        if not self.aborting:
            self.aborting = True
            self.stuck = [
                f"thread {i} waits for a lock of {'nobody' if not lock or lock.owner is None else f'thread {lock.owner}'}"
                for i, lock in enumerate(self.waits) if not self.finished[i]
            ]  # fmt: skip

    def stop(self, code: CodeType, offset: int) -> None:
        """Preempt: the next order takes over."""
        stop = self.node.stops[self.reached]
        if code is not stop.code or offset != stop.offset:
            self.errors.append(Unsteady(f"{_place(stop.code, stop.offset)} was {_place(code, offset)}"))
            self.aborting = True
            raise Abort
        self.reached += 1
        self.order = self.node.orders[self.reached]
        self.where.append(f"thread {stop.thread} stops before {_place(code, offset)}")
        self._switch(next(thread for thread in self.order if self._free(thread)))

    def opcode(self, me: int, code: CodeType, offset: int, activation: int = 0, step: int = 0) -> None:
        """An opcode of thread ``me`` is about to be executed: stop where it should, note where a child could stop."""
        count = self.counts[me] = self.counts[me] + 1
        if self.literal:
            self._by_literal(code, offset)
        elif self.reached < self.last:
            stop = self.node.stops[self.reached]
            if stop.count == count and stop.thread == me:
                self.stop(code, offset)
        elif self.full and not self.fresh and offset in self.engine.shared(code):
            self._note(_Stop(me, count, activation, step, code, offset))
        self.fresh = False
        self.segments[-1][1] += 1

    def _note(self, stop: _Stop) -> None:
        free = [thread for thread in self.order if thread != stop.thread and self._free(thread)]
        if free:
            left = [thread for thread in self.order if not self.finished[thread]]
            self.points.append((stop, free, left, tuple((thread, count) for thread, count in self.segments)))

    def _by_literal(self, code: CodeType, offset: int) -> None:
        assert self.literal is not None
        if self.used >= self.literal[0][1] and len(self.literal) > 1:
            me = self.current
            following = self._next(None)
            if following is not None and following != me:
                self.where.append(f"thread {me} stops before {_place(code, offset)}")
                self._switch(following)
        self.used += 1

    def children(self) -> Iterator[_Node]:
        """Every run that is this one up to a point after its last stop, and goes on in another order there."""
        for stop, free, left, prefix in self.points:
            for order in itertools.permutations(left):
                if order[0] in free:
                    yield _Node((*self.node.orders, order), (*self.node.stops, stop), prefix)


@contextlib.contextmanager
def uncollected() -> Iterator[None]:
    """Collect no garbage: when a removed key in a circle is gone, which weak mappings tell, must not go by chance."""
    gc.collect(1)
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


class _Engine:
    """What stays the same over the schedules of one exploration."""

    def __init__(self, setup: Callable[[], Any], threads: Any, check: Any, files: Iterable[str | ModuleType]) -> None:
        self.setup, self.threads, self.check = setup, threads, check
        self.prefixes = tuple(file if isinstance(file, str) else _file(file) for file in files)
        self.workers: list[_Worker] = []
        self.schedules = self.preempted = self.blocked = 0
        self.tracer = Tracer(self.prefixes)
        self.rebound = _rebound(self.prefixes)
        self._shared: dict[int, tuple[CodeType, set[int]]] = {}

    def shared(self, code: CodeType) -> set[int]:
        """The offsets of the opcodes that may touch more than their own frame."""
        _, offsets = self._shared.get(id(code), (code, None))
        if offsets is None:
            offsets, before = set(), ""
            for instruction in dis.get_instructions(code):
                name = instruction.opname
                tests_bool = name.startswith("POP_JUMP") and before in _BOOLS and not instruction.is_jump_target
                is_fixed = name == "LOAD_GLOBAL" and instruction.argval not in self.rebound
                if name not in LOCAL and not tests_bool and not is_fixed:
                    offsets.add(instruction.offset)
                before = name if name not in ("CACHE", "EXTENDED_ARG") else before
            self._shared[id(code)] = code, offsets
        return offsets

    @contextlib.contextmanager
    def opened(self) -> Iterator[int]:
        """Workers and cooperative locks for as long as this lasts; the number of threads."""
        with cooperative(self.prefixes):
            n = len(self.threads(self.setup()))
        self.workers = [_Worker() for _ in range(n)]
        self.tracer.open()
        try:
            with cooperative(self.prefixes):
                yield n
        finally:
            self.tracer.close()
            for worker in self.workers:
                worker.task = None
                worker.turn.release()

    def run(self, node: _Node, full: bool, literal: Schedule | None = None) -> _Run:
        """Run one schedule and check it; raises ``Found``."""
        try:
            with uncollected():
                state = self.setup()
                run = _Run(self, node, full, literal)
                results = run.execute(self.threads(state))
            if not run.stuck:
                self.check(state, results)
        except Unsteady:
            raise
        except Exception as error:
            if not run.full:
                self.run(node, full=True)
                raise Unsteady(f"found once and not again: {error!r}") from error
            what = f"{type(error).__name__}: {error}"
            raise Found(what, [(thread, count) for thread, count in run.segments], run.where) from error
        if run.stuck:
            if not run.full:
                self.run(node, full=True)
            raise Deadlock("; ".join(run.stuck), [(thread, count) for thread, count in run.segments], run.where)
        self.schedules += 1
        self.preempted += run.reached > 0
        self.blocked += run.hit_lock
        return run

    def exhaust(self, node: _Node, budget: int, seen: set[Any]) -> None:
        key = node.prefix, node.orders[-1]
        if key in seen:
            return
        seen.add(key)
        run = self.run(node, full=budget > 0)
        if budget:
            for child in run.children():
                self.exhaust(child, budget - 1, seen)

    def sample(self, roots: list[_Node], budget: int, limit: int, rng: random.Random) -> None:
        expanded = [list(self.run(root, full=True).children()) for root in roots]
        expanded = [children for children in expanded if children]
        while expanded and self.schedules < limit:
            node = rng.choice(rng.choice(expanded))
            for _ in range(budget - 1):
                children = list(self.run(node, full=True).children())
                if not children:
                    break
                for child in rng.sample(children, min(SHARE, len(children)) - 1):
                    self.run(child, full=False)
                node = rng.choice(children)
            self.run(node, full=False)


def explore(
    setup: Callable[[], Any],
    threads: Callable[[Any], list[Callable[[], Any]]],
    check: Callable[[Any, list[Any]], None],
    *,
    files: Iterable[str | ModuleType],
    preemptions: int = 1,
    limit: int | None = None,
    seed: int | None = None,
) -> Report:
    """Run ``threads(setup())`` under every schedule with up to ``preemptions`` switches that nothing forced.

    ``files``: the modules (or prefixes of file names) in whose code a thread can be preempted. ``check(state,
    results)`` asserts what must hold afterwards; ``results`` is what each thread returned. ``limit``: run about so many
    schedules, chosen with ``seed``, in place of all.

    Raises:
        Found: ``check`` or a thread raised; carries the schedule, for ``replay``.
        Deadlock: every thread waits.
        Unsteady: the same schedule did not do the same twice.
    """
    engine = _Engine(setup, threads, check, files)
    with engine.opened() as n:
        roots = [_Node((order,)) for order in itertools.permutations(range(n))]
        if limit is None:
            seen: set[Any] = set()
            for root in roots:
                engine.exhaust(root, preemptions, seen)
        else:
            engine.sample(roots, preemptions, limit, random.Random(seed))
    return Report(engine.schedules, engine.preempted, engine.blocked)


def replay(
    setup: Callable[[], Any],
    threads: Callable[[Any], list[Callable[[], Any]]],
    check: Callable[[Any, list[Any]], None],
    schedule: Schedule,
    *,
    files: Iterable[str | ModuleType],
) -> None:
    """Run one schedule as a finding reported it; raises what ``explore`` raised if it is still there."""
    engine = _Engine(setup, threads, check, files)
    with engine.opened() as n:
        engine.run(_Node((tuple(range(n)),)), full=True, literal=list(schedule))


def _file(module: ModuleType) -> str:
    file = str(module.__file__)
    return file.removesuffix("__init__.py") if hasattr(module, "__path__") else file


def _rebound(prefixes: tuple[str, ...]) -> set[str]:
    """The names that a ``global`` statement of the loaded modules names."""
    files = {getattr(module, "__file__", None) or "" for module in list(sys.modules.values())}
    texts = [Path(file).read_text(encoding="utf-8") for file in files if locks.preemptible(file, prefixes)]
    return {name.strip() for text in texts for names in _GLOBAL.findall(text) for name in names.split(",")}


def _place(code: CodeType, offset: int) -> str:
    starts = [(start, line) for start, _, line in code.co_lines() if line and start <= offset]
    return f"{code.co_filename}:{starts[-1][1] if starts else 0} ({code.co_name}+{offset})"

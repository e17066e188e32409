"""What the fast path's tricks are worth, each alone: the plain way of writing it over the way it is written.

*Lock*: `with lock` over a try-acquire and a release, with the handler that gives the lock back after an interrupt; both
on the lock that knows its owner. *Decision*: a class with an `__init__` over one without, both filled in. *Fast path*: the
same call on the general path (a `request_id` of None and a cost by unit take it) over the fast one. *Routes*: a call on
a route with a quota of its own, which the general path serves, over one on a route without.
"""

from __future__ import annotations

import threading
import time
from typing import Any

from benchmarks.measure import Loop, interleave, ratios
from benchmarks.memory import HUGE, ONE
from benchmarks.services import loop, opened
from quota.operations.headroom import Told

TITLE = "In memory: what tricks are worth"


def locked_with() -> Loop:
    lock = threading.RLock()

    def run(times: int) -> None:
        for _ in range(times):
            with lock:
                pass

    return run


def locked_trying() -> Loop:
    lock = threading.RLock()

    def run(times: int) -> None:
        for _ in range(times):
            try:
                if not lock.acquire(False):
                    lock.acquire()
                lock.release()
            except BaseException:
                if lock._is_owned():
                    lock.release()
                raise

    return run


class Plain:
    """A decision as one would write it."""

    __slots__ = ("_cost", "_frame", "_now", "_total", "allowed")

    def __init__(self, allowed: bool, frame: object, now: int, cost: int, total: int) -> None:
        self.allowed = allowed
        self._frame = frame
        self._now = now
        self._cost = cost
        self._total = total


def made_plainly() -> Loop:
    def run(times: int) -> None:
        for _ in range(times):
            Plain(True, run, times, 1, times)

    return run


def made_quickly() -> Loop:
    def run(times: int) -> None:
        for _ in range(times):
            decision: Any = Told()
            decision.allowed = True
            decision._room = run
            decision._now = times
            decision._amounts = 1
            decision._found = times

    return run


def measure(rounds: int) -> dict[str, Any]:
    """Each trick's plain twin over it."""
    plain, key, _ = opened(ONE)
    routed, routed_key, _ = opened(ONE, routes={"/reports": f"{HUGE}/hour"})
    timings = interleave(
        {
            "with lock": locked_with(),
            "try-acquire": locked_trying(),
            "decision with __init__": made_plainly(),
            "decision without": made_quickly(),
            "call on the general path": loop(plain, key, {"requests": 1}),
            "call on the fast path": loop(plain, key),
            "call on a route with a quota": loop(routed, routed_key, route="/reports"),
            "call on a route without": loop(routed, routed_key, route="/items"),
        },
        rounds,
        clock=time.process_time_ns,
    )
    of = {
        "lock: with / try-acquire": ("with lock", "try-acquire"),
        "decision: with __init__ / without": ("decision with __init__", "decision without"),
        "general path / fast path": ("call on the general path", "call on the fast path"),
        "route with a quota / route without": ("call on a route with a quota", "call on a route without"),
    }
    return {"timings": timings, "ratios": ratios(timings, of)}

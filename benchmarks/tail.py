"""The tail: every call of a hot key timed by itself, garbage collection on, as multiples of the median call.

`perf_counter_ns` around each call is part of each figure, and so is whatever else the machine does meanwhile; the floor
loop timed the same way in the same run tells how much of a tail that alone makes. p50, p99 and p99.9 of 50,000 calls a
round.
"""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter_ns
from typing import Any

from benchmarks.measure import Timing, spread
from benchmarks.memory import ONE, THREE, floor
from quota import Ledger, UsagePlan

TITLE = "In memory: the tail"
CALLS = 50_000


def each(call: Callable[[Any], object], who: Any) -> list[int]:
    """What every single call took, shortest first."""
    taken = []
    for _ in range(CALLS):
        start = perf_counter_ns()
        call(who)
        taken.append(perf_counter_ns() - start)
    return sorted(taken)


def opened(limits: str) -> tuple[Callable[[Any], object], Any]:
    ledger = Ledger()
    ledger.add_plan(UsagePlan("p", limits))
    for number in range(1000):  # neighbours, so that there is something to be pruned
        ledger.consume(ledger.issue_key(str(number), "p").key)
    return ledger.consume, ledger.issue_key("hot", "p").secret


def measure(rounds: int) -> dict[str, Any]:
    """p99 and p99.9 over p50."""
    contenders = {"floor": (floor(), "key"), "one limit": opened(ONE), "three limits": opened(THREE)}
    timings = {name: Timing(f"{name}, median call", []) for name in contenders}
    found: dict[str, list[float]] = {}
    for _ in range(rounds):
        for name, (call, who) in contenders.items():
            taken = each(call, who)
            middle = taken[CALLS // 2]
            timings[name].rounds.append(middle)
            found.setdefault(f"{name}: p99 / median", []).append(taken[CALLS * 99 // 100] / middle)
            found.setdefault(f"{name}: p99.9 / median", []).append(taken[CALLS * 999 // 1000] / middle)
    return {"timings": timings, "ratios": {name: spread(values) for name, values in found.items()}}

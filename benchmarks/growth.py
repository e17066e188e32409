"""What grows with what is kept, and may not: open reservations, remembered requests, days of history.

The same calls on a key of which much is kept, against a key of which little is, in processor time; and bytes in memory
(``tracemalloc``) of one remembered request, its id of 36 characters included, and of one day of a quota's history.
"""

from __future__ import annotations

import gc
import time
import tracemalloc
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from benchmarks.measure import Loop, interleave, ratios, spread
from benchmarks.memory import HUGE
from quota import Ledger, ManualClock, UsagePlan
from quota.stores.memory import MemoryStore

TITLE = "In memory: what is kept of a key"
NOON = 1_773_144_000_000_000
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
MANY, FEW, MEMOS, DAYS = 10_000, 10, 100_000, 35
MEMO, DAY_OF_QUOTA = 600, 60  # bytes: what the project allows


def opened(limits: str) -> tuple[Ledger, ManualClock, Any]:
    """A ledger with one key, its clock, and the key."""
    clock = ManualClock(NOON)
    ledger = Ledger(MemoryStore(request_ttl=10**8), clock=clock)
    ledger.add_plan(UsagePlan("p", limits))
    return ledger, clock, ledger.issue_key("bench", "p").key


def settling(open_ones: int) -> Loop:
    """The loop of a reservation that is made and committed, beside so many that are open."""
    ledger, _, key = opened(f"{HUGE}/day")
    for _ in range(open_ones):
        ledger.reserve(key, 1, ttl=HOUR)

    def run(times: int) -> None:
        for _ in range(times):
            ledger.reserve(key, 1, ttl=HOUR).commit()

    return run


def rolling(memos: int) -> Loop:
    """The loop of a window's first call, with so many requests remembered."""
    ledger, clock, key = opened(f"{HUGE}/minute")
    for number in range(memos):
        ledger.consume(key, request_id=str(number))

    def run(times: int) -> None:
        for _ in range(times):
            clock.advance(timedelta(minutes=1))
            ledger.consume(key)

    return run


def bytes_of(count: int, act: Callable[[int], object]) -> float:
    """Bytes that each of so many acts leaves behind."""
    act(0)
    gc.collect()
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    for number in range(1, count + 1):
        act(number)
    gc.collect()
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return (after - before) / count


def weights() -> dict[str, float]:
    """Bytes of a remembered request, and of a day of a quota that is used daily."""
    ledger, clock, key = opened(f"{HUGE}/month")
    used, days, other = opened(f"{HUGE}/day")

    def remembered(number: int) -> None:
        clock.advance(timedelta(microseconds=3))
        ledger.consume(key, request_id=f"{number:036d}")

    def lived(number: int) -> None:
        used.consume(other, 7)
        days.advance(DAY)

    return {"memo": bytes_of(4 * MANY, remembered), "day": bytes_of(DAYS, lived)}


def measure(rounds: int) -> dict[str, Any]:
    """Growth, as ratios; bytes, as parts of what is allowed."""
    few, many = f"window rolls, {FEW} requests remembered", f"window rolls, {MEMOS:,} requests remembered"
    contenders = {
        "reserve + commit, 1 open": settling(1),
        f"reserve + commit, {MANY:,} open": settling(MANY),
        few: rolling(FEW),
        many: rolling(MEMOS),
    }
    timings = interleave(contenders, rounds, clock=time.process_time_ns)
    found = ratios(
        timings,
        {
            f"reserve + commit: {MANY:,} open / 1": (f"reserve + commit, {MANY:,} open", "reserve + commit, 1 open"),
            f"a window rolls: {MEMOS:,} requests remembered / {FEW}": (many, few),
        },
    )
    weight = weights()
    found[f"a remembered request: bytes / {MEMO}"] = spread([weight["memo"] / MEMO])
    found[f"a day of a quota's history: bytes / {DAY_OF_QUOTA}"] = spread([weight["day"] / DAY_OF_QUOTA])
    return {"timings": timings, "ratios": found}

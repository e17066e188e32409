"""Threads on one ledger: what all of them get done together, of what one thread gets done, in one run.

Wall time, threads that do nothing but `consume`, the interpreter's own switch interval (5 ms). *Many keys*: each thread
goes round a hundred keys of its own; *one key*: all share it; *one team*: each has a key of its
own, of one account whose tokens they share. The floor loop under one plain `with lock` is measured
beside, on one key: that is what a naive ledger would get. CPython runs one thread at a time, so 1.00 is all there is.
"""

from __future__ import annotations

import itertools
import statistics
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from benchmarks.measure import Timing, ratio, spread
from benchmarks.memory import HUGE, ONE, floor
from quota import Ledger, UsagePlan

TITLE = "In memory: threads"
SECONDS = 0.6
BATCH = 20
BOTH = {"requests": 1, "tokens": 5}


def together(works: list[Callable[[], object]], seconds: float) -> list[int]:
    """How many batches each of these gets done at once."""
    done = [0] * len(works)
    stop = threading.Event()
    start = threading.Barrier(len(works) + 1)

    def run(number: int, work: Callable[[], object]) -> None:
        start.wait()
        count = 0
        while not stop.is_set():
            work()
            count += 1
        done[number] = count

    threads = [threading.Thread(target=run, args=item) for item in enumerate(works)]
    for thread in threads:
        thread.start()
    start.wait()
    time.sleep(seconds)
    stop.set()
    for thread in threads:
        thread.join()
    return done


def batch(call: Callable[[Any], object], who: list[Any]) -> Callable[[], None]:
    """Twenty calls, on the keys in turn."""
    around = itertools.cycle(who)

    def work() -> None:
        for key in itertools.islice(around, BATCH):
            call(key)

    return work


def measure(rounds: int) -> dict[str, Any]:
    """Throughput of 1 to 8 threads as shares of one thread's, and how evenly they share."""
    ledger = Ledger()
    ledger.add_plan(UsagePlan("p", ONE))
    ledger.add_plan(UsagePlan("team", f"{ONE}, {HUGE} tokens/month by account as budget"))
    keys = [ledger.issue_key(str(number), "p").key for number in range(800)]
    team = [ledger.issue_key(f"mate {number}", "team", account="team").key for number in range(8)]
    for key in team * 3:
        ledger.consume(key, BOTH)
    naive = floor()
    works: dict[str, list[Callable[[], object]]] = {}
    for count in (1, 2, 4, 8):
        own = [keys[100 * number : 100 * number + 100] for number in range(count)]
        works[f"{count} on many keys"] = [batch(ledger.consume, some) for some in own]
        works[f"{count} on one team"] = [batch(partial(ledger.consume, cost=BOTH), [key]) for key in team[:count]]
        works[f"{count} on one key"] = [batch(ledger.consume, keys[:1]) for _ in range(count)]
    works["floor, 1 on one key"] = [batch(naive, ["key"])]
    works["floor, 8 on one key"] = [batch(naive, ["key"]) for _ in range(8)]
    timings = {name: Timing(name, []) for name in works}
    shares: list[float] = []
    for _ in range(max(3, rounds // 3)):
        for name, work in works.items():
            done = together(work, SECONDS)
            timings[name].rounds.append(SECONDS * 1e9 / (sum(done) * BATCH))
            if name == "8 on one key":
                shares.append(min(done) / max(done))
    found = {
        f"{name}: throughput, of one thread's": ratio(timings[f"1 on {kind}"], timings[name])
        for kind in ("many keys", "one key", "one team")
        for name in (f"{count} on {kind}" for count in (2, 4, 8))
    }
    found["8 on one key: slowest thread, of the fastest"] = spread(shares)
    found["floor with a plain lock, 8 on one key: throughput, of one thread's"] = ratio(
        timings["floor, 1 on one key"], timings["floor, 8 on one key"]
    )
    return {
        "timings": timings,
        "ratios": found,
        "facts": [f"{statistics.median(shares):.2f} is the slowest of eight threads' share of the fastest's calls."],
    }


if __name__ == "__main__":
    from benchmarks.measure import report

    sys.exit(report(measure(int(sys.argv[1]) if len(sys.argv) > 1 else 9), {}))

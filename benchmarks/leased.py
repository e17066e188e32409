"""``consume`` from a lease against ``consume`` in memory, and what leases ask of the shared store.

The shared store of the timings is a memory store: what is timed is spending, with the asking that a limit of that size
brings. The counts of central operations are of eight holders that ask in turn, drawn from a fixed seed, with all clocks
alike, each holder calling 1000 times a second, until all of a limit is used.

The hot root: eight processes on one SQLite file, each with a key of a team of its own below one company, whose record all
their calls are counted on. Without leases each call writes it; with them one in many does. Time on the wall, a call.
"""

from __future__ import annotations

import multiprocessing
import random
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.measure import Loop, Timing, calls, interleave, ratio
from quota import Ledger, ManualClock, UsagePlan
from quota.stores.leased import LeasedStore
from quota.stores.memory import MemoryStore

HUGE = 10**12
PLANS = {
    "one limit": f"{HUGE}/day",
    "three limits": f"{HUGE}/day, {HUGE}/month, 100000000/s burst 100000000",
}


class Counted(MemoryStore):
    """The shared store, counting what it is asked."""

    asked = 0

    def apply(self, request: Any) -> Any:
        self.asked += 1
        return super().apply(request)


def consuming(store: Any, limits: str, *, secret: bool, refused: bool = False) -> Loop:
    """The loop around ``consume``, warmed up."""
    ledger = Ledger(store)
    ledger.add_plan(UsagePlan("p", limits))
    key, presented = ledger.issue_key("bench", "p")
    who: Any = presented if secret else key
    for _ in range(1000):
        ledger.consume(who)
    if refused:
        ledger.set_remaining(key, "requests/day", 0)
        ledger.consume(who)
    return calls(ledger.consume, who)


def drain(limit: int, holders: int, *, per_second: int = 1000, seed: int = 1) -> dict[str, float]:
    """Use all of a limit from several holders; central operations per unit, and where refusals began."""
    dice, clock, shared = random.Random(seed), ManualClock(1_773_144_000_000_000), Counted()
    ledgers = [Ledger(LeasedStore(shared), clock=clock) for _ in range(holders)]
    ledgers[0].add_plan(UsagePlan("p", f"{limit}/day"))
    _, secret = ledgers[0].issue_key("k", "p")
    used, first = 0, None
    shared.asked = 0
    for _ in range(3 * limit):
        if dice.choice(ledgers).consume(secret):
            used += 1
        elif first is None:
            first = used
        clock.advance(1_000_000 // (per_second * holders))
        if used == limit:
            break
    return {"central operations per unit": shared.asked / used, "first refusal at": (first or used) / limit,
            "used": used / limit}  # fmt: skip


PROCESSES = 8
HOT = {"hot root, each call writes": ("sqlite", 100), "hot root, leased": ("leased+sqlite", 2_000)}
"""Schemes of stores, and how many calls each process makes."""


def below(url: str, secret: str, count: int, ready: Any) -> None:
    """One process below the root: so many calls once all are ready."""
    with Ledger(url) as ledger:
        ledger.consume(secret)
        ready.wait()
        for _ in range(count):
            if not ledger.consume(secret):
                raise AssertionError("the root is larger than that")
        ready.wait()


def hot_root(scheme: str, count: int) -> float:
    """Return nanoseconds for each call of eight processes below one root."""
    with tempfile.TemporaryDirectory() as folder:
        url = f"{scheme}:///{Path(folder) / 'hot.db'}?durability=normal"
        with Ledger(url) as ledger:
            ledger.add_plan(UsagePlan("p", f"{HUGE}/day"))
            ledger.add_account("root")
            ledger.associate("root", "p")
            secrets = []
            for number in range(PROCESSES):
                ledger.add_account(f"team {number}", parent="root")
                secrets.append(ledger.issue_key(f"k{number}", "p", account=f"team {number}").secret)
        context = multiprocessing.get_context("spawn")
        ready = context.Barrier(PROCESSES + 1)
        workers = [context.Process(target=below, args=(url, secret, count, ready)) for secret in secrets]
        for worker in workers:
            worker.start()
        ready.wait(120)
        begun = time.perf_counter_ns()
        ready.wait(600)
        took = time.perf_counter_ns() - begun
        for worker in workers:
            worker.join()
        return took / (count * PROCESSES)


def measure(rounds: int) -> dict[str, Any]:
    """The figures of the leased store, as ratios."""
    contenders: dict[str, Loop] = {}
    of = {}
    for name, limits in PLANS.items():
        for secret in (False, True):
            who = f"{name}, {'secret' if secret else 'known key'}"
            contenders[f"memory, {who}"] = consuming(MemoryStore(), limits, secret=secret)
            contenders[f"leased, {who}"] = consuming(LeasedStore(MemoryStore()), limits, secret=secret)
            of[f"memory's time / leased's, {who}"] = (f"memory, {who}", f"leased, {who}")
    timings = interleave(contenders, rounds)
    hot: dict[str, list[float]] = {name: [] for name in HOT}
    for _ in range(min(rounds, 5)):
        for name, (scheme, count) in HOT.items():
            hot[name].append(hot_root(scheme, count))
    timings |= {name: Timing(name, values) for name, values in hot.items()}
    of[f"hot root, {PROCESSES} processes: each call writes / leased"] = tuple(HOT)  # type: ignore[assignment] # two
    return {
        "timings": timings,
        "ratios": {name: ratio(timings[one], timings[other]) for name, (one, other) in of.items()},
        "counts": {f"{limit}, {holders} holders": drain(limit, holders)
                   for limit, holders in ((100_000, 8), (100_000, 2), (10_000, 8), (1_000_000, 8))},
    }  # fmt: skip


def main() -> None:
    """Print the figures."""
    found = measure(21)
    for name, value in found["ratios"].items():
        print(f"{name:55} {value}")
    for name, counts in found["counts"].items():
        print(f"limit {name:24} " + ", ".join(f"{what} {value:.5f}" for what, value in counts.items()))


if __name__ == "__main__":
    main()

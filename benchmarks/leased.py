"""``consume`` from a lease against ``consume`` in memory, and what leases ask of the shared store.

The shared store of the timings is a memory store: what is timed is spending, with the asking that a limit of that size
brings. The counts of central operations are of eight holders that ask in turn, drawn from a fixed seed, with all clocks
alike, each holder calling 1000 times a second, until all of a limit is used.
"""

from __future__ import annotations

import random
from typing import Any

from benchmarks.measure import Loop, calls, interleave, ratio
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

"""Many keys: what a call costs and what a key weighs when there are a hundred thousand, and a million.

Keys are presented in an order shuffled once. A million of anything falls out of the processor's caches, so the floor
loop is measured on as many slots in the same process, and what it loses is taken off: the ratio is (ours on many keys
less the floor's loss) over ours on one key. Each size is a process of its own. *Bytes a key*: how much the process grew
for each key that was issued on a plan of one quota and used once by its secret: directory, counts and fast path, all of
it resident memory, before any day's history.
"""

from __future__ import annotations

import gc
import json
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.measure import Ratio, Timing, spread
from benchmarks.memory import HUGE, ONE
from quota import Ledger, UsagePlan

TITLE = "In memory: many keys"
SIZES = (100_000, 1_000_000)
CALLS = 50_000
WEIGHT = 1536  # bytes: what the project allows a key


def resident() -> int:
    """Bytes of this process in memory (Linux; elsewhere the peak so far)."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096
    except OSError:
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def many_floors(names: list[str]) -> Any:
    """The floor loop on as many slots."""
    import threading

    lock = threading.Lock()
    counts = {name: [0, HUGE] for name in names}

    def hit(key: str) -> bool:
        with lock:
            slot = counts[key]
            used = slot[0] + 1
            if used > slot[1]:
                return False
            slot[0] = used
            return True

    return hit


def once(call: Any, who: list[Any], some: list[int]) -> float:
    """Nanoseconds a call, on these keys in this order."""
    chosen = [who[index] for index in some]
    start = time.process_time_ns()
    for one in chosen:
        call(one)
    return (time.process_time_ns() - start) / len(chosen)


def child(count: int, rounds: int) -> dict[str, Any]:
    """One size, in a process of its own."""
    gc.disable()  # nothing here is garbage; what a full collection of so many objects takes is its own matter
    ledger = Ledger()
    ledger.add_plan(UsagePlan("p", ONE))
    for number in range(64):
        ledger.consume(ledger.issue_key(f"warm {number}", "p").secret)
    before = resident()
    for number in range(count):
        ledger.consume(ledger.issue_key(f"client {number}", "p").secret)
    weight = (resident() - before) / count
    keys = ledger.list_keys()
    random.Random(1).shuffle(keys)
    names = [f"client {number}" for number in range(count)]
    random.Random(2).shuffle(names)
    floor = many_floors(names)
    for key in keys:
        ledger.consume(key)
    for name in names:
        floor(name)
    found: dict[str, list[float]] = {"hot": [], "many": [], "floor hot": [], "floor many": []}
    draw = random.Random(3)
    for _ in range(rounds):
        some = [draw.randrange(count) for _ in range(CALLS)]
        hot = [some[0]] * CALLS
        found["many"].append(once(ledger.consume, keys, some))
        found["hot"].append(once(ledger.consume, keys, hot))
        found["floor many"].append(once(floor, names, some))
        found["floor hot"].append(once(floor, names, hot))
    return {"weight": weight, "found": found}


def measure(rounds: int) -> dict[str, Any]:
    """Cost and weight of many keys, against one hot key and against what is allowed."""
    sizes = SIZES if rounds > 5 else SIZES[:1]
    timings: dict[str, Timing] = {}
    ratios: dict[str, Ratio] = {}
    for count in sizes:
        code = "import json, sys; from benchmarks.keys import child; print(json.dumps(child(*map(int, sys.argv[1:]))))"
        run = subprocess.run(
            [sys.executable, "-c", code, str(count), str(rounds)],
            check=True, capture_output=True, text=True, cwd=Path(__file__).parents[1],
        )  # fmt: skip
        told = json.loads(run.stdout)
        found = told["found"]
        for name, values in found.items():
            timings[f"{count:,}: {name}"] = Timing(name, values)
        pairs = list(zip(found["many"], found["hot"], found["floor many"], found["floor hot"], strict=True))
        ratios[f"{count:,} keys: many / hot, less what the floor loses"] = spread(
            [(many - (floor_many - floor_hot)) / hot for many, hot, floor_many, floor_hot in pairs]
        )
        ratios[f"{count:,} slots: floor, many / hot"] = spread([pair[2] / pair[3] for pair in pairs])
        ratios[f"{count:,} keys: bytes a key / 1.5 KB"] = spread([told["weight"] / WEIGHT])
    return {"timings": timings, "ratios": ratios}

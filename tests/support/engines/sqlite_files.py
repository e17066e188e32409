"""What the tests of the SQLite store share: ledgers on a file, processes that spend from it, an awaited ledger."""

from __future__ import annotations

import multiprocessing
import random
import sqlite3
import threading
import time
from datetime import datetime, timezone

from quota import Ledger, UsagePlan, system_clock
from quota.stores.sqlite import SQLiteStore
from receipts import Change, Denial, Receipt

START = int(datetime(2026, 3, 10, 12, tzinfo=timezone.utc).timestamp()) * 1_000_000
DAY = 86_400_000_000
SPAWN = multiprocessing.get_context("spawn")
"""Children that begin anew: nothing is inherited but what they are told."""


def ledger_on(path, clock=system_clock, limits="10/day", durability="normal", *, timeout=5.0, **plan):
    """A ledger, a key and its secret on a plan of these limits."""
    ledger = Ledger(SQLiteStore(path, durability=durability, timeout=timeout), clock=clock)
    ledger.add_plan(UsagePlan("p", limits, **plan))
    key, secret = ledger.issue_key("k", "p", id="k")
    return ledger, key, secret


def reopened(ledger, clock=system_clock, **options):
    """A ledger of its own on the same file: another process, as far as the store can tell."""
    return Ledger(SQLiteStore(ledger.store.path, **{"durability": "normal", **options}), clock=clock)


def used(ledger, secret, limit=0):
    decision = ledger.peek(secret, 1)
    return decision.limits[limit].used - decision.allowed


def whole(path):
    """What SQLite itself says of a file; ``ok`` when nothing is wrong."""
    db = sqlite3.connect(path)
    try:
        return db.execute("PRAGMA integrity_check").fetchone()[0]
    finally:
        db.close()


def spend(path, secret, costs, durability="normal", stop_after=None):
    """Consume these costs: the receipts and the denials. ``secret`` may be a function that says it anew for each."""
    receipts, denials = [], []
    with Ledger(SQLiteStore(path, durability=durability, timeout=30)) as ledger:
        for cost in costs:
            presented = secret() if callable(secret) else secret
            invoked = time.monotonic()
            decision = ledger.consume(presented, cost)
            returned = time.monotonic()
            if decision:
                receipts.append(Receipt(invoked, returned, cost, decision.limits[0].used))
            elif decision.violated:
                denials.append(Denial(invoked, returned, cost))
                if stop_after and len(denials) >= stop_after:
                    break
    return receipts, denials


def spend_in_threads(path, secrets, threads, seed, calls, results, start):
    """In a process of its own: several threads share one store. Each presents one secret after the other."""
    with Ledger(SQLiteStore(path, durability="normal", timeout=30)) as ledger:
        found = []

        def go(number):
            pick = random.Random(seed * 100 + number)
            for _ in range(calls):
                cost, secret = pick.randint(1, 5), pick.choice(secrets)
                invoked = time.monotonic()
                decision = ledger.consume(secret, cost)
                returned = time.monotonic()
                if decision:
                    found.append(Receipt(invoked, returned, cost, decision.limits[0].used))
                elif decision.violated:
                    found.append(Denial(invoked, returned, cost))

        workers = [threading.Thread(target=go, args=(number,)) for number in range(threads)]
        start.wait(60)
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    results.put(found)


def storm(path, secrets, processes, threads, calls, meanwhile=lambda: None):
    """So many processes of so many threads at once: receipts, denials, and what was done meanwhile."""
    results, start = SPAWN.Queue(), SPAWN.Barrier(processes + 1)
    workers = [
        SPAWN.Process(target=spend_in_threads, args=(path, secrets, threads, seed, calls, results, start))
        for seed in range(processes)
    ]
    for worker in workers:
        worker.start()
    start.wait(60)
    done = meanwhile()
    found = [entry for _ in workers for entry in results.get(timeout=120)]
    for worker in workers:
        worker.join(30)
        assert worker.exitcode == 0
    return [e for e in found if isinstance(e, Receipt)], [e for e in found if isinstance(e, Denial)], done


def changed(call, limit):
    """Do it, and tell it as a change of the limit."""
    invoked = time.monotonic()
    call()
    return Change(invoked, time.monotonic(), limit)

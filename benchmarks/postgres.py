"""``consume`` on PostgreSQL against a bare guarded ``UPDATE ... RETURNING``, durable, on one server on loopback.

``python -m benchmarks.postgres [rounds]``. *bare* is the statement by psycopg's own cursor, prepared by the driver, on
a table of one row: the least that a durable guarded increment costs. *two trips* locks the row and updates it, as a
rule in Python would. ``fsync`` and ``synchronous_commit`` are on for all of them, as they are by default. Beside the time
that passes, which is the disk's where that is slow, stands the processor's: this process's and the server's together.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import psycopg

from benchmarks.measure import Loop, calls, interleave, ratio
from quota import AsyncLedger, Ledger, UsagePlan
from quota.stores.postgres import AsyncPostgresStore, PostgresStore
from servers import Postgres

HUGE = 10**12
PLANS = {
    "one limit": f"{HUGE}/day",
    "three limits": f"{HUGE}/day, {HUGE}/month, {10**8}/s burst {10**8}",
    "an account": f"{HUGE}/day, {HUGE}/day by account as team",
    "refused": f"1/year, {HUGE}/month",
}
GUARDED = "UPDATE bare SET used = used + %s WHERE name = %s AND used + %s <= %s RETURNING used"
MARKS = {"bare / one limit": 0.6, "bare / three limits": 0.6}
"""How much at least: the bare statement's time over ours."""


def bare(connection: psycopg.Connection) -> Loop:
    """The least that a durable guarded increment costs."""
    connection.execute("CREATE TABLE bare (name text PRIMARY KEY, used bigint NOT NULL) WITH (fillfactor = 50)")
    connection.execute("INSERT INTO bare VALUES ('k', 0), ('two', 0)")
    return calls(lambda: connection.execute(GUARDED, (1, "k", 1, HUGE)).fetchone())


def two_trips(connection: psycopg.Connection) -> Loop:
    """Lock, decide here, write: what the function saves."""

    def call() -> None:
        with connection.transaction():
            (used,) = connection.execute("SELECT used FROM bare WHERE name = %s FOR UPDATE", ("two",)).fetchone()
            if used + 1 <= HUGE:
                connection.execute("UPDATE bare SET used = %s WHERE name = %s", (used + 1, "two"))

    return calls(call)


def ours(url: str, opened: ExitStack, name: str) -> Loop:
    """``Ledger.consume`` by a presented secret."""
    ledger = opened.enter_context(Ledger(PostgresStore(url, namespace="bench")))
    ledger.add_plan(UsagePlan(name, PLANS[name]))
    _, secret = ledger.issue_key("k", name, account=name)
    if name == "an account":
        ledger.issue_key("another", name, account=name)
    for _ in range(3):
        ledger.consume(secret)
    return calls(lambda: ledger.consume(secret))


def awaited(url: str, opened: ExitStack) -> dict[str, Loop]:
    """The same, awaited on asyncio."""
    runner = opened.enter_context(asyncio.Runner())
    ledger = AsyncLedger(AsyncPostgresStore(url, namespace="bench"))
    opened.callback(lambda: runner.run(ledger.aclose()))
    _, secret = runner.run(ledger.issue_key("awaited", "one limit"))
    connection = runner.run(psycopg.AsyncConnection.connect(url, autocommit=True))
    opened.callback(lambda: runner.run(connection.close()))

    async def plain(times: int) -> None:
        for _ in range(times):
            await (await connection.execute(GUARDED, (1, "k", 1, HUGE))).fetchone()

    async def consume(times: int) -> None:
        for _ in range(times):
            await ledger.consume(secret)

    return {
        "bare, awaited": lambda times: runner.run(plain(times)),
        "quota, one limit, awaited": lambda times: runner.run(consume(times)),
    }


def busy(connection: psycopg.Connection) -> Callable[[], int]:
    """A clock of the processor's nanoseconds, of this process and of all its connections' there."""
    found = connection.execute("SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend'").fetchall()
    served = [Path(f"/proc/{pid}/schedstat") for (pid,) in found]
    return lambda: time.process_time_ns() + sum(int(path.read_text().split()[0]) for path in served)


def measure(rounds: int) -> dict[str, Any]:
    """Every figure of the PostgreSQL store, as ratios."""
    with ExitStack() as opened:
        server = Postgres(disk=True)
        opened.callback(server.stop)
        connection = opened.enter_context(closing(server.connect()))
        contenders = {
            "bare": bare(connection),
            "two trips": two_trips(connection),
            **{f"quota, {name}": ours(server.url, opened, name) for name in PLANS},
            **awaited(server.url, opened),
        }
        timings = interleave(contenders, rounds, round_ms=40)
        own = {name: contenders[name] for name in ("bare", "quota, one limit", "quota, three limits")}
        worked = interleave(own, rounds, round_ms=40, clock=busy(connection))
    of = {
        **{f"bare / {name}": ("bare", f"quota, {name}") for name in PLANS},
        "bare / two trips": ("bare", "two trips"),
        "bare / one limit, awaited": ("bare, awaited", "quota, one limit, awaited"),
    }
    return {
        "timings": timings,
        "ratios": {name: ratio(timings[one], timings[other]) for name, (one, other) in of.items()}
        | {
            f"processor time: bare / {name}": ratio(worked["bare"], worked[f"quota, {name}"])
            for name in ("one limit", "three limits")
        },
    }


if __name__ == "__main__":
    from benchmarks.measure import report

    sys.exit(report(measure(int(sys.argv[1]) if len(sys.argv) > 1 else 31), MARKS))

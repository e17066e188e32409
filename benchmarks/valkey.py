"""``consume`` on Redis against a bare guarded increment and against its peers, on one Valkey on loopback.

``python -m benchmarks.valkey [rounds]``. *bare* is one ``EVALSHA`` of the shortest script that increments below a
limit. limits runs its fixed window on RedisStorage (a bare bool; with window stats for the same information),
throttled-py its fixed windows. Everybody has one connection; nobody's limit is reached.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from contextlib import ExitStack, closing
from typing import Any

import redis.asyncio

from benchmarks.measure import Loop, calls, interleave, ratio
from quota import AsyncLedger, Ledger, UsagePlan
from quota.stores.redis import AsyncRedisStore, RedisStore
from servers import Valkey

GUARDED = """
local used = tonumber(redis.call('GET', KEYS[1]) or '0')
if used + ARGV[1] > tonumber(ARGV[2]) then return {0, used} end
used = redis.call('INCRBY', KEYS[1], ARGV[1])
if used == tonumber(ARGV[1]) then redis.call('EXPIRE', KEYS[1], ARGV[3]) end
return {1, used}
"""
HUGE = 10**12
ONE = f"{HUGE}/day"
THREE = f"{HUGE}/day, {HUGE}/month, {10**8}/s burst {10**8}"
MARKS = {
    "bare / one limit": 0.6,
    "bare / three limits": 0.5,
    "limits + stats / one limit, limits read": 1.5,
    "limits' three hits / three limits": 1.0,
    "throttled-py's three / three limits": 1.0,
}
"""How much at least: the other's time over ours."""


def bare(client: Any) -> Callable[[], object]:
    """The least that a guarded increment costs."""
    sha = client.script_load(GUARDED)
    return lambda: client.evalsha(sha, 1, "bare", 1, HUGE, 86400)


def ours(client: Any, limits: str, namespace: str) -> Callable[[], Any]:
    """``Ledger.consume`` by a presented secret."""
    ledger = Ledger(RedisStore(client, namespace=namespace))
    ledger.add_plan(UsagePlan("p", limits))
    _, secret = ledger.issue_key("k", "p")
    return lambda: ledger.consume(secret)


def peers(server: Valkey) -> dict[str, Loop]:
    """limits and throttled-py, each in its fastest documented way."""
    import throttled
    from limits import parse, storage, strategies

    window = strategies.FixedWindowRateLimiter(storage.RedisStorage(server.url))
    items = [parse(f"1000000000/{every}") for every in ("day", "month", "hour")]
    store = throttled.RedisStore(server=server.url)
    three = [
        throttled.Throttled(key=f"t{number}", using="fixed_window", quota=quota, store=store)
        for number, quota in enumerate((throttled.per_day(HUGE), throttled.per_week(HUGE), throttled.per_hour(HUGE)))
    ]

    def with_stats() -> object:
        return window.hit(items[0], "k"), window.get_window_stats(items[0], "k")

    def three_hits() -> object:
        return [window.hit(item, "k") for item in items]

    return {
        "limits": calls(lambda: window.hit(items[0], "k")),
        "limits + stats": calls(with_stats),
        "limits, three hits": calls(three_hits),
        "throttled-py, three fixed windows": calls(lambda: [one.limit() for one in three]),
    }


def awaiting(run: Callable[[Awaitable[Any]], Any], call: Callable[[], Awaitable[Any]]) -> Loop:
    """A loop that awaits one call after another."""

    async def times_(times: int) -> None:
        for _ in range(times):
            await call()

    return lambda times: run(times_(times))


def asynchronous(server: Valkey, opened: ExitStack) -> dict[str, Loop]:
    """The same, awaited on asyncio."""
    runner = opened.enter_context(asyncio.Runner())
    client = redis.asyncio.Redis(port=server.port)
    opened.callback(lambda: runner.run(client.aclose()))
    ledger = AsyncLedger(AsyncRedisStore(client, namespace="async"))
    runner.run(ledger.add_plan(UsagePlan("p", ONE)))
    _, secret = runner.run(ledger.issue_key("k", "p"))
    sha = runner.run(client.script_load(GUARDED))
    return {
        "bare, awaited": awaiting(runner.run, lambda: client.evalsha(sha, 1, "bare", 1, HUGE, 86400)),
        "quota, one limit, awaited": awaiting(runner.run, lambda: ledger.consume(secret)),
    }


def measure(rounds: int) -> dict[str, Any]:
    """Every figure of the Redis store, as ratios."""
    server = Valkey()
    with ExitStack() as opened:
        opened.callback(server.stop)
        client = opened.enter_context(closing(server.client()))
        told = ours(client, ONE, "told")
        timings = interleave(
            {
                "bare": calls(bare(client)),
                "quota, one limit": calls(ours(client, ONE, "one")),
                "quota, one limit, limits read": calls(lambda: told().limits),
                "quota, three limits": calls(ours(client, THREE, "three")),
                **peers(server),
                **asynchronous(server, opened),
            },
            rounds,
        )
    of = {
        "bare / one limit": ("bare", "quota, one limit"),
        "bare / three limits": ("bare", "quota, three limits"),
        "bare / one limit, awaited": ("bare, awaited", "quota, one limit, awaited"),
        "limits / one limit": ("limits", "quota, one limit"),
        "limits + stats / one limit, limits read": ("limits + stats", "quota, one limit, limits read"),
        "limits' three hits / three limits": ("limits, three hits", "quota, three limits"),
        "throttled-py's three / three limits": ("throttled-py, three fixed windows", "quota, three limits"),
    }
    return {
        "timings": timings,
        "ratios": {name: ratio(timings[one], timings[other]) for name, (one, other) in of.items()},
    }


if __name__ == "__main__":
    from benchmarks.measure import report

    sys.exit(report(measure(int(sys.argv[1]) if len(sys.argv) > 1 else 31), MARKS))

"""Redis: consume against a bare guarded increment and against peers, as ratios of interleaved rounds in one run.

    python benchmarks/bench_redis.py [seconds per round]

The server is a Valkey of its own on loopback. Rounds of all contestants alternate, so that what slows the machine down
slows all of them; the ratio is of medians. Exits with 1 where a bar of the project is missed.
"""

# ruff: noqa: E402, I001 -- the path comes first

from __future__ import annotations

import asyncio
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1] / name) for name in ("src", "tests")]

import limits
import limits.storage
import limits.strategies
import redis
import throttled
from servers import Valkey

from quota import AsyncLedger, Ledger, UsagePlan
from quota.stores.redis import AsyncRedisStore, RedisStore

ROUNDS = 9
GUARDED = """
local used = tonumber(redis.call('GET', KEYS[1]) or '0')
if used + ARGV[1] > tonumber(ARGV[2]) then return {0, used} end
used = redis.call('INCRBY', KEYS[1], ARGV[1])
if used == tonumber(ARGV[1]) then redis.call('EXPIRE', KEYS[1], ARGV[3]) end
return {1, used}
"""
MANY = 10**12
ONE = f"{MANY}/day"
THREE = f"{MANY}/day, {MANY}/month, {10**8}/s burst {10**8}"


def bare(server: Valkey) -> Callable[[], object]:
    client = server.client()
    sha = client.script_load(GUARDED)
    return lambda: client.evalsha(sha, 1, "bare", 1, MANY, 86400)


def ours(server: Valkey, plan: str, namespace: str) -> Callable[[], object]:
    ledger = Ledger(RedisStore(server.client(), namespace=namespace))
    ledger.add_plan(UsagePlan("p", plan))
    _, secret = ledger.issue_key("k", "p")
    return lambda: ledger.consume(secret)


def ours_told(server: Valkey, plan: str, namespace: str) -> Callable[[], object]:
    call = ours(server, plan, namespace)
    return lambda: call().limits


def peer_limits(server: Valkey, items: list[str], *, stats: bool) -> Callable[[], object]:
    strategy = limits.strategies.FixedWindowRateLimiter(limits.storage.RedisStorage(server.url))
    parsed = [limits.parse(item) for item in items]

    def call() -> None:
        for item in parsed:
            strategy.hit(item, "k")
            if stats:
                strategy.get_window_stats(item, "k")

    return call


def peer_throttled(server: Valkey, count: int) -> Callable[[], object]:
    store = throttled.RedisStore(server=server.url)
    quotas = [throttled.per_day(MANY), throttled.per_week(MANY), throttled.per_hour(MANY)][:count]
    all_of = [
        throttled.Throttled(key=f"t{i}", using="fixed_window", quota=quota, store=store)
        for i, quota in enumerate(quotas)
    ]

    def call() -> None:
        for one in all_of:
            one.limit()

    return call


def rate(call: Callable[[], object], seconds: float) -> float:
    count, start = 0, time.perf_counter()
    end = start + seconds
    while time.perf_counter() < end:
        for _ in range(20):
            call()
        count += 20
    return count / (time.perf_counter() - start)


async def rate_async(server: Valkey, seconds: float) -> tuple[float, float]:
    """(ours, bare), each one call at a time on redis.asyncio."""
    client = redis.asyncio.Redis(port=server.port)
    ledger = AsyncLedger(AsyncRedisStore(client, namespace="async"))
    await ledger.add_plan(UsagePlan("p", ONE))
    _, secret = await ledger.issue_key("k", "p")
    sha = await client.script_load(GUARDED)
    found: dict[str, list[float]] = {"ours": [], "bare": []}
    for _ in range(ROUNDS):
        for name in found:
            count, start = 0, time.perf_counter()
            while time.perf_counter() < start + seconds:
                for _ in range(20):
                    if name == "ours":
                        await ledger.consume(secret)
                    else:
                        await client.evalsha(sha, 1, "bare", 1, MANY, 86400)
                count += 20
            found[name].append(count / (time.perf_counter() - start))
    await client.aclose()
    return statistics.median(found["ours"]), statistics.median(found["bare"])


def main() -> int:
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 0.3
    server = Valkey()
    try:
        windows = ["1000000000/day", "1000000000/month", "1000000000/hour"]
        calls = {
            "bare EVALSHA, guarded increment": bare(server),
            "quota, 1 limit": ours(server, ONE, "one"),
            "quota, 1 limit, decision.limits read": ours_told(server, ONE, "told"),
            "quota, 3 limits": ours(server, THREE, "three"),
            "limits, hit": peer_limits(server, windows[:1], stats=False),
            "limits, hit + window stats": peer_limits(server, windows[:1], stats=True),
            "limits, 3 hits": peer_limits(server, windows, stats=False),
            "throttled-py, 3 fixed windows": peer_throttled(server, 3),
        }
        for call in calls.values():
            rate(call, 0.05)
        rounds = [{name: rate(call, seconds) for name, call in calls.items()} for _ in range(ROUNDS)]
        speed = {name: statistics.median(found[name] for found in rounds) for name in calls}
        floor = speed["bare EVALSHA, guarded increment"]
        for name, value in speed.items():
            print(f"{name:40} {value:9,.0f}/s   {value / floor:5.2f} of bare")
        mine, plain = asyncio.run(rate_async(server, seconds))
        print(f"{'async: quota, 1 limit':40} {mine:9,.0f}/s   {mine / plain:5.2f} of bare ({plain:,.0f}/s)")
        bars = [
            ("1 limit, of a bare EVALSHA", speed["quota, 1 limit"] / floor, 0.6),
            ("3 limits, of a bare EVALSHA", speed["quota, 3 limits"] / floor, 0.5),
            (
                "same information as limits",
                speed["quota, 1 limit, decision.limits read"] / speed["limits, hit + window stats"],
                1.5,
            ),
            ("3 limits, of limits", speed["quota, 3 limits"] / speed["limits, 3 hits"], 1.0),
            ("3 limits, of throttled-py", speed["quota, 3 limits"] / speed["throttled-py, 3 fixed windows"], 1.0),
        ]
        for name, found, bar in bars:
            print(f"{name:40} {found:9.2f}   bar {bar}   {'ok' if found >= bar else 'MISSED'}")
        return int(any(found < bar for _, found, bar in bars))
    finally:
        server.stop()


if __name__ == "__main__":
    sys.exit(main())

"""``consume`` in memory against the floor and against its peers, each peer in its fastest documented way.

The *floor* is a hand-written function call that does lock, dict get, compare, store. *floor + SHA-256* hashes a presented
secret first. *whole job by hand* hashes, looks up, checks a window and builds a small decision object, with nothing
general about it. limits runs its fixed window on MemoryStorage (a bare bool; with window stats for the same information);
throttled-py its fixed window and token bucket with the store's eviction out of reach; PyrateLimiter its in-memory GCRA bucket,
not blocking; token-bucket and limitra their memory storages. Nobody's limit is reached except where it says refused.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from hashlib import sha256
from typing import Any

from benchmarks.measure import Loop, calls, interleave, ratio
from quota import Ledger, UsagePlan

HUGE = 10**12


def floor() -> Callable[[str], bool]:
    """A function call that does lock, dict get, compare, store."""
    lock = threading.Lock()
    counts = {"key": [0, HUGE]}

    def hit(key: str) -> bool:
        with lock:
            slot = counts[key]
            used = slot[0] + 1
            if used > slot[1]:
                return False
            slot[0] = used
            return True

    return hit


def hashed_floor() -> Callable[[str], bool]:
    """The floor behind a SHA-256 of what was presented."""
    lock = threading.Lock()
    counts = {sha256(b"secret").digest(): [0, HUGE]}

    def hit(secret: str) -> bool:
        digest = sha256(secret.encode()).digest()
        with lock:
            slot = counts[digest]
            used = slot[0] + 1
            if used > slot[1]:
                return False
            slot[0] = used
            return True

    return hit


class HandMade:
    """The whole job for one plan, written by hand: hash, look up, window, count, answer."""

    class Answer:
        """What it returns."""

        __slots__ = ("allowed", "now", "used")

    def __init__(self) -> None:
        self.lock = threading.Lock()
        day = time.time_ns() // 1000 // 86_400_000_000
        self.slots = {sha256(b"secret").digest(): [0, HUGE, day * 86_400_000_000, (day + 1) * 86_400_000_000, True]}

    def hit(self, secret: str) -> HandMade.Answer:
        now = time.time_ns() // 1000
        digest = sha256(secret.encode()).digest()
        answer = HandMade.Answer()
        with self.lock:
            slot = self.slots[digest]
            if now >= slot[3]:
                slot[0], slot[2], slot[3] = 0, slot[3], slot[3] + 86_400_000_000
            used = slot[0] + 1
            answer.allowed = bool(slot[4]) and used <= slot[1]
            if answer.allowed:
                slot[0] = used
        answer.now, answer.used = now, used
        return answer


def ours(limits: str, *, secret: bool, cost: int = 1, name: str = "p") -> Callable[[], object]:
    """``Ledger.consume`` on a plan, by a presented secret or a key authenticated already."""
    ledger = Ledger()
    ledger.add_plan(UsagePlan(name, limits))
    key, presented = ledger.issue_key("bench", name)
    who: Any = presented if secret else key
    ledger.consume(who)
    ledger.consume(who)
    consume = ledger.consume
    if cost == 1:
        return lambda: consume(who)
    return lambda: consume(who, cost)


def consuming(limits: str, *, secret: bool) -> Loop:
    """The loop around ``consume`` on a plan."""
    ledger = Ledger()
    ledger.add_plan(UsagePlan("p", limits))
    key, presented = ledger.issue_key("bench", "p")
    who: Any = presented if secret else key
    ledger.consume(who)
    ledger.consume(who)
    return calls(ledger.consume, who)


ONE = f"{HUGE}/day"
THREE = f"{HUGE}/day, {HUGE}/month, 100000000/s burst 100000000"
REFUSED = f"2/day, {HUGE}/month, 100000000/s burst 100000000"


def peers() -> dict[str, Loop]:
    """Every peer's loop, one limit."""
    return {**_limits(), **_throttled(), **_pyrate(), **_small_ones()}


def _limits() -> dict[str, Loop]:
    from limits import parse, storage, strategies

    window = strategies.FixedWindowRateLimiter(storage.MemoryStorage())
    one = parse(f"{HUGE}/day")
    three = [parse(f"{HUGE}/day"), parse(f"{HUGE}/month"), parse("100000000/second")]

    def with_stats(key: str) -> object:
        return window.hit(one, key), window.get_window_stats(one, key)

    def three_hits(key: str) -> bool:
        return all([window.hit(item, key) for item in three])  # noqa: C419 -- a generator would stop at a refusal

    def hit(times: int) -> None:
        function = window.hit
        for _ in range(times):
            function(one, "key")

    return {
        "limits": hit,
        "limits + stats": calls(with_stats, "key"),
        "limits, three limits": calls(three_hits, "key"),
    }


def _throttled() -> dict[str, Loop]:
    from throttled import RateLimiterType, Throttled, per_day, store

    found = {}
    for name, using in (("fixed", RateLimiterType.FIXED_WINDOW.value), ("token", RateLimiterType.TOKEN_BUCKET.value)):
        keep = store.MemoryStore(options={"MAX_SIZE": 10**7})
        throttle = Throttled(using=using, quota=per_day(10**9), store=keep)
        found[f"throttled-py {name}"] = calls(throttle.limit, "key")
    return found


def _pyrate() -> dict[str, Loop]:
    from pyrate_limiter import GCRA, Duration, InMemoryStateStore, Limiter, Rate, StateBucket

    def bucket(count: int) -> Loop:
        rates = [Rate(10**9, Duration.DAY), Rate(10**10, Duration.WEEK * 4), Rate(10**8, Duration.SECOND)][:count]
        rates = sorted(rates, key=lambda rate: rate.interval)
        limiter = Limiter(StateBucket(rates, algorithm=GCRA(), store=InMemoryStateStore()))

        def loop(times: int) -> None:
            acquire = limiter.try_acquire
            for _ in range(times):
                acquire("key", blocking=False)

        return loop

    return {"PyrateLimiter": bucket(1), "PyrateLimiter, three limits": bucket(3)}


def _small_ones() -> dict[str, Loop]:
    import limitra
    import token_bucket

    bucket = token_bucket.Limiter(10**9, 10**9, token_bucket.MemoryStorage())
    fixed = limitra.FixedWindowRateLimiter(capacity=10**12, fill_rate=1 / 86_400)
    return {"token-bucket": calls(bucket.consume, "key"), "limitra": calls(fixed.allow_request, "key")}


def measure(rounds: int) -> dict[str, Any]:
    """Every figure of the memory store, as ratios."""
    contenders: dict[str, Loop] = {
        "floor": calls(floor(), "key"),
        "floor + SHA-256": calls(hashed_floor(), "secret"),
        "whole job by hand": calls(HandMade().hit, "secret"),
        "quota, known key": consuming(ONE, secret=False),
        "quota, secret": consuming(ONE, secret=True),
        "quota, three limits, secret": consuming(THREE, secret=True),
        "quota, throttle alone, known key": consuming("100000000/s burst 100000000", secret=False),
        "quota, quota and throttle, known key": consuming(f"{HUGE}/day, 100000000/s burst 100000000", secret=False),
        "quota, refused, three limits, secret": consuming(REFUSED, secret=True),
        **peers(),
    }
    timings = interleave(contenders, rounds)
    of = {
        "known key / floor": ("quota, known key", "floor"),
        "limits / known key": ("limits", "quota, known key"),
        "limits + stats / known key": ("limits + stats", "quota, known key"),
        "limitra / known key": ("limitra", "quota, known key"),
        "secret / floor + SHA-256": ("quota, secret", "floor + SHA-256"),
        "secret / whole job by hand": ("quota, secret", "whole job by hand"),
        "limits / secret": ("limits", "quota, secret"),
        "limits' three hits / three limits, secret": ("limits, three limits", "quota, three limits, secret"),
        "PyrateLimiter's three / three limits, secret": ("PyrateLimiter, three limits", "quota, three limits, secret"),
        "refused / admitted, three limits": ("quota, refused, three limits, secret", "quota, three limits, secret"),
        "throttled-py / known key": ("throttled-py fixed", "quota, known key"),
        "token-bucket / known key": ("token-bucket", "quota, known key"),
        "PyrateLimiter / known key": ("PyrateLimiter", "quota, known key"),
    }
    return {
        "timings": timings,
        "ratios": {name: ratio(timings[one], timings[other]) for name, (one, other) in of.items()},
    }

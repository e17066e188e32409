"""One decision in memory, against hand-written floors and against peers.

The *floor* is a hand-written function call that does lock, dict get, compare, store, its lock taken with `with`; beside
it stands the same with the fastest lock known, a try-acquire. *floor + SHA-256* hashes a presented secret first. *Whole
job by hand* hashes, looks up, checks a window and builds a small decision object, with nothing general about it.

Peers, each called as a service would for one client, in its fastest documented way: **limits** `FixedWindowRateLimiter`
(its fastest strategy) on `MemoryStorage`, items parsed beforehand; `hit` gives a bare bool, `get_window_stats` tells
what a decision of quota can. **throttled-py** fixed window and token bucket on a `MemoryStore` so large that nothing is evicted,
one object kept and called with a key. **PyrateLimiter** `GCRA` on its `InMemoryStateStore`, which its manual calls the
fast one for large limits, not blocking, one bucket with all rates. **token-bucket** and **limitra** (fixed window) on
their memory storages; token-bucket takes no lock, so it is not exact under threads. Nobody's limit is reached, except
where it says refused. All of this is processor time, and nothing else runs in the process.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from hashlib import sha256
from typing import Any

from benchmarks.measure import Loop, calls, interleave, ratios
from quota import Ledger, UsagePlan

TITLE = "In memory"
VERSIONS = ("limits", "throttled-py", "pyrate-limiter", "token-bucket", "limitra")
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


def trying_floor() -> Callable[[str], bool]:
    """The floor with the cheapest lock: try first, block only when it is taken."""
    lock = threading.Lock()
    counts = {"key": [0, HUGE]}

    def hit(key: str) -> bool:
        if not lock.acquire(False):
            lock.acquire()
        try:
            slot = counts[key]
            used = slot[0] + 1
            if used > slot[1]:
                return False
            slot[0] = used
            return True
        finally:
            lock.release()

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


def consuming(limits: str, *, secret: bool) -> Loop:
    """The loop around ``consume`` on a plan, by a presented secret or a key that the caller has authenticated."""
    ledger = Ledger()
    ledger.add_plan(UsagePlan("p", limits))
    key, presented = ledger.issue_key("bench", "p")
    who: Any = presented if secret else key
    ledger.consume(who)
    ledger.consume(who)
    return calls(ledger.consume, who)


ONE = f"{HUGE}/day"
THROTTLE = "100000000/s burst 100000000"
THREE = f"{HUGE}/day, {HUGE}/month, {THROTTLE}"
REFUSED = f"2/day, {HUGE}/month, {THROTTLE}"


def _limits() -> dict[str, Loop]:
    from limits import parse, storage, strategies

    window = strategies.FixedWindowRateLimiter(storage.MemoryStorage())
    one = parse(f"{HUGE}/day")
    three = [parse(f"{HUGE}/day"), parse(f"{HUGE}/month"), parse("100000000/second")]

    def with_stats(key: str) -> object:
        return window.hit(one, key), window.get_window_stats(one, key)

    def three_hits(key: str) -> bool:
        return all([window.hit(item, key) for item in three])  # noqa: C419 -- a generator would stop at a refusal

    return {
        "limits": calls(window.hit, one, "key"),
        "limits + stats": calls(with_stats, "key"),
        "limits, three hits": calls(three_hits, "key"),
    }


def _throttled() -> dict[str, Loop]:
    from throttled import RateLimiterType, Throttled, per_day, store

    found = {}
    for name, using in (
        ("fixed window", RateLimiterType.FIXED_WINDOW.value),
        ("token bucket", RateLimiterType.TOKEN_BUCKET.value),
    ):
        keep = store.MemoryStore(options={"MAX_SIZE": 10**7})
        throttle = Throttled(using=using, quota=per_day(10**9), store=keep)
        found[f"throttled-py, {name}"] = calls(throttle.limit, "key")
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

    return {"PyrateLimiter": bucket(1), "PyrateLimiter, three rates": bucket(3)}


def _small_ones() -> dict[str, Loop]:
    import limitra
    import token_bucket

    bucket = token_bucket.Limiter(10**9, 10**9, token_bucket.MemoryStorage())
    fixed = limitra.FixedWindowRateLimiter(capacity=10**12, fill_rate=1 / 86_400)
    return {"token-bucket": calls(bucket.consume, "key"), "limitra": calls(fixed.allow_request, "key")}


def measure(rounds: int) -> dict[str, Any]:
    """Every figure of one hot key in memory, as ratios."""
    contenders: dict[str, Loop] = {
        "floor": calls(floor(), "key"),
        "floor, try-acquire": calls(trying_floor(), "key"),
        "floor + SHA-256": calls(hashed_floor(), "secret"),
        "whole job by hand": calls(HandMade().hit, "secret"),
        "quota, known key": consuming(ONE, secret=False),
        "quota, secret": consuming(ONE, secret=True),
        "quota, throttle alone, known key": consuming(THROTTLE, secret=False),
        "quota, quota and throttle, known key": consuming(f"{ONE}, {THROTTLE}", secret=False),
        "quota, three limits, secret": consuming(THREE, secret=True),
        "quota, refused, three limits, secret": consuming(REFUSED, secret=True),
        **_limits(),
        **_throttled(),
        **_pyrate(),
        **_small_ones(),
    }
    timings = interleave(contenders, rounds, clock=time.process_time_ns)
    known, secret, three = "quota, known key", "quota, secret", "quota, three limits, secret"
    of = {
        "known key / floor": (known, "floor"),
        "known key / floor with try-acquire": (known, "floor, try-acquire"),
        "secret / floor + SHA-256": (secret, "floor + SHA-256"),
        "secret / whole job by hand": (secret, "whole job by hand"),
        "throttle alone / known key": ("quota, throttle alone, known key", known),
        "quota and throttle / known key": ("quota, quota and throttle, known key", known),
        "refused / admitted, three limits": ("quota, refused, three limits, secret", three),
        "limits / known key": ("limits", known),
        "limits + stats / known key": ("limits + stats", known),
        "limits / secret": ("limits", secret),
        "limits' three hits / three limits, secret": ("limits, three hits", three),
        "throttled-py / known key": ("throttled-py, fixed window", known),
        "PyrateLimiter / known key": ("PyrateLimiter", known),
        "PyrateLimiter's three rates / three limits, secret": ("PyrateLimiter, three rates", three),
        "limitra / known key": ("limitra", known),
        "token-bucket / known key": ("token-bucket", known),
    }
    return {"timings": timings, "ratios": ratios(timings, of)}

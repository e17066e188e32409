"""The calls that services make besides the plainest one, against the same floor and against limits doing as many hits.

Weighted and several units, routes with and without limits of their own, an api, two keys on one account, a request id
(the retry of a call is exactly once), reading the answer. limits: `FixedWindowRateLimiter` on `MemoryStorage`, a hit for
each limit, then `get_window_stats` where the answer is read; its hits are neither atomic nor authenticated.
"""

from __future__ import annotations

import itertools
import time
from contextlib import suppress
from typing import Any

from benchmarks.measure import Loop, calls, interleave, ratios
from benchmarks.memory import HUGE, ONE, floor
from quota import AsyncLedger, Ledger, ManualClock, UsagePlan

TITLE = "In memory: the calls of services"
VERSIONS = ("limits",)
TWO = {
    "cost by unit, two units", "two units with a throttle", "several throttles", "route with a quota of its own",
    "refused on that route", "team: own requests, shared tokens", "AsyncLedger, team", "two accounts above, each with a plan",
}  # fmt: skip
"""The calls that limits would make two hits for, at least."""


def opened(limits: str, **plan: Any) -> tuple[Ledger, Any, str]:
    """A ledger with one key on one plan."""
    ledger = Ledger()
    ledger.add_plan(UsagePlan("p", limits, **plan))
    key, secret = ledger.issue_key("bench", "p", id="bench")
    return ledger, key, secret


def loop(ledger: Ledger, who: Any, cost: Any = 1, **options: Any) -> Loop:
    """The loop around ``consume`` with more than a key."""
    consume = ledger.consume
    if options:

        def run(times: int) -> None:
            for _ in range(times):
                consume(who, cost, **options)
    else:

        def run(times: int) -> None:
            for _ in range(times):
                consume(who, cost)

    run(3)
    return run


def with_ids() -> Loop:
    ledger, key, _ = opened(ONE)
    names = map(str, itertools.count())

    def run(times: int) -> None:
        for _ in range(times):
            ledger.consume(key, request_id=next(names))

    return run


def retrying() -> Loop:
    ledger, key, _ = opened(ONE)
    for _ in range(2):
        ledger.consume(key, request_id="again")
    ledger.consume(key, 1, request_id="last")
    return loop(ledger, key, request_id="last")


def reading(read: Any) -> Loop:
    ledger, key, _ = opened(ONE)

    def run(times: int) -> None:
        for _ in range(times):
            read(ledger.consume(key))

    return run


def team(limits: str) -> tuple[Ledger, Any]:
    """A ledger with two keys on one account, and one of them."""
    ledger, key, _ = opened(limits)
    ledger.issue_key("second", "p", account="bench")
    return ledger, key


def company(above: int) -> tuple[Ledger, Any]:
    """A ledger with a key whose account and those above it, so many in all, have plans of their own; and the key."""
    ledger, parent = opened(ONE)[0], None
    ledger.add_plan(UsagePlan("a", f"{HUGE}/day"))
    for number in range(above):
        ledger.add_account(f"a{number}", parent=parent)
        parent = f"a{number}"
        ledger.associate(parent, "a")
    return ledger, ledger.issue_key("below", "p", account=parent).key


def awaited(ledger: Ledger, who: Any, *cost: Any) -> Loop:
    """The loop of a coroutine around ``AsyncLedger.consume`` on the same store, driven by hand: no event loop's time."""
    consume = AsyncLedger(ledger.store).consume

    async def calling(times: int) -> None:
        for _ in range(times):
            await consume(who, *cost)

    def run(times: int) -> None:
        with suppress(StopIteration):
            calling(times).send(None)

    run(3)
    return run


def minutes() -> Loop:
    """The loop of a key that calls once a minute: each call is the first of its minute."""
    clock = ManualClock(1_773_144_000_000_000)
    ledger = Ledger(clock=clock)
    ledger.add_plan(UsagePlan("p", f"{ONE}, {HUGE} tokens/month"))
    key = ledger.issue_key("bench", "p").key
    consume, advance, both = ledger.consume, clock.advance, {"requests": 1, "tokens": 5}

    def run(times: int) -> None:
        for _ in range(times):
            advance(60_000_000)
            consume(key, both)

    run(3)
    return run


def _limits() -> dict[str, Loop]:
    from limits import parse, storage, strategies

    window = strategies.FixedWindowRateLimiter(storage.MemoryStorage())
    one, two = parse(ONE), parse(f"{HUGE}/month")

    def both(key: str) -> bool:
        return window.hit(one, key) and window.hit(two, key, "tokens", cost=5)

    def stats(key: str) -> object:
        window.hit(one, key)
        return window.get_window_stats(one, key)

    return {
        "limits, one hit": calls(window.hit, one, "key"),
        "limits, two hits": calls(both, "key"),
        "limits, hit + stats": calls(stats, "key"),
    }


def measure(rounds: int) -> dict[str, Any]:
    """Every figure off the plainest path, as ratios."""
    plain, key, secret = opened(ONE)
    routed, routed_key, _ = opened(ONE, routes={"/reports": f"{HUGE}/hour"})
    governed, governed_key, _ = opened(ONE, api="shop")
    several, several_key, _ = opened(ONE, apis=("shop", "maps", "search"))
    tokens, tokens_key, _ = opened(f"{ONE}, {HUGE} tokens/month")
    burst = f"{10**8}/s burst {10**8}"
    filled, filled_key, _ = opened(f"{ONE}, {HUGE} tokens/month, {burst}")
    throttled, throttled_key, _ = opened(f"{ONE}, {burst}, {10**9}/minute burst {10**9} as slow")
    joint, joint_key = team(f"{ONE} by account")
    mates, mates_key = team(f"{ONE}, {HUGE} tokens/month by account as budget")
    both = {"requests": 1, "tokens": 5}
    full, full_key, _ = opened("2/day", routes={"/reports": f"{HUGE}/hour"})
    contenders: dict[str, Loop] = {
        "floor": calls(floor(), "key"),
        "known key": calls(plain.consume, key),
        "cost of 3": loop(plain, key, 3),
        "cost by unit, one unit": loop(plain, key, {"requests": 1}),
        "cost by unit, two units": loop(tokens, tokens_key, both),
        "two units with a throttle": loop(filled, filled_key, both),
        "several throttles": loop(throttled, throttled_key),
        "route without limits of its own": loop(plain, key, route="/items"),
        "the same by secret": loop(plain, secret, route="/items"),
        "route with a quota of its own": loop(routed, routed_key, route="/reports"),
        "refused on that route": loop(full, full_key, route="/reports"),
        "api": loop(governed, governed_key, api="shop"),
        "an api of three": loop(several, several_key, api="maps"),
        "two keys on one account": loop(joint, joint_key),
        "team: own requests, shared tokens": loop(mates, mates_key, both),
        "two accounts above, each with a plan": loop(*company(2)),
        "request id": with_ids(),
        "its retry": retrying(),
        "peek": calls(plain.peek, key),
        "unknown secret": calls(plain.consume, "a-foreign-secret-nobody-has"),
        "AsyncLedger, known key": awaited(plain, key),
        "AsyncLedger, team": awaited(mates, mates_key, both),
        "first call of a minute": minutes(),
        "decision.limits read": reading(lambda decision: decision.limits),
        "decision.headers() read": reading(lambda decision: decision.headers()),
        **_limits(),
    }
    timings = interleave(contenders, rounds, clock=time.process_time_ns)
    ours = [name for name in contenders if name != "floor" and not name.startswith("limits, ")]
    of = {f"{name} / floor": (name, "floor") for name in ours}
    of |= {f"limits / {name}": ("limits, two hits" if name in TWO else "limits, one hit", name) for name in ours}
    of["limits / decision.limits read"] = ("limits, hit + stats", "decision.limits read")
    of["limits / decision.headers() read"] = ("limits, hit + stats", "decision.headers() read")
    return {"timings": timings, "ratios": ratios(timings, of)}

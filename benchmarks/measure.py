"""Interleaved timing: contenders take turns in short rounds, so a noisy machine slows all of them alike."""

from __future__ import annotations

import gc
import statistics
from collections.abc import Callable, Sequence
from time import perf_counter_ns
from typing import Any, NamedTuple

Loop = Callable[[int], object]
"""Does its work so many times."""


class Timing(NamedTuple):
    """Nanoseconds for one call in each round."""

    name: str
    rounds: list[float]

    @property
    def median(self) -> float:
        return statistics.median(self.rounds)


class Ratio(NamedTuple):
    """One contender's figure over another's, paired round by round: median and the middle half."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.low:.2f}-{self.high:.2f})"


def calls(function: Callable[..., object], *args: object) -> Loop:
    """A loop around one call, with as little around it as Python allows."""
    if not args:

        def loop(times: int) -> None:
            for _ in range(times):
                function()
    elif len(args) == 1:
        (only,) = args

        def loop(times: int) -> None:
            for _ in range(times):
                function(only)
    else:

        def loop(times: int) -> None:
            for _ in range(times):
                function(*args)

    return loop


def interleave(
    contenders: dict[str, Loop], rounds: int = 15, round_ms: float = 12, clock: Callable[[], int] = perf_counter_ns
) -> dict[str, Timing]:
    """Time each contender in turn, ``rounds`` times over, each for about ``round_ms``.

    ``clock``: ``time.process_time_ns`` where nothing waits, so that other processes do not count.
    """
    counts = {}
    for name, loop in contenders.items():
        loop(50)
        times = 200
        while True:
            start = clock()
            loop(times)
            spent = clock() - start
            if spent > 1e6 * round_ms / 4:
                break
            times *= 2
        counts[name] = max(20, int(times * round_ms * 1e6 / spent))
    timings: dict[str, Timing] = {name: Timing(name, []) for name in contenders}
    gc.collect()
    enabled = gc.isenabled()
    gc.disable()
    try:
        for _ in range(rounds):
            for name, loop in contenders.items():
                start = clock()
                loop(counts[name])
                timings[name].rounds.append((clock() - start) / counts[name])
    finally:
        if enabled:
            gc.enable()
    return timings


def spread(values: Sequence[float]) -> Ratio:
    """The median and the middle half of what was found."""
    found = sorted(values)
    quarter = len(found) // 4
    return Ratio(statistics.median(found), found[quarter], found[-1 - quarter])


def ratio(one: Timing, other: Timing) -> Ratio:
    """``one``'s time as a multiple of ``other``'s."""
    return spread([a / b for a, b in zip(one.rounds, other.rounds, strict=True)])


def ratios(timings: dict[str, Timing], of: dict[str, tuple[str, str]]) -> dict[str, Ratio]:
    """Ratios by name, each of two contenders."""
    return {name: ratio(timings[one], timings[other]) for name, (one, other) in of.items()}


def report(found: dict[str, Any], marks: dict[str, float]) -> int:
    """Print what was measured beside its marks; 1 where a mark is missed."""
    for timing in found["timings"].values():
        print(f"{timing.name:45} {timing.median / 1000:9.1f} us")
    missed = 0
    for name, value in found["ratios"].items():
        mark = marks.get(name)
        verdict = "" if mark is None else f"  at least {mark}: {'ok' if value.median >= mark else 'MISSED'}"
        missed |= mark is not None and value.median < mark
        print(f"{name:45} {value!s:>20}{verdict}")
    return int(missed)

"""Measure and report, or hold the code to its budget.

    python -m benchmarks [--quick] [--only SECTION ...] [--put] [--check]

Every figure is a ratio of medians of paired rounds in one run. Without ``--check`` and ``--only``, and not ``--quick``, it writes
RESULTS.md and results.svg beside this file; with ``--put`` it puts the sections of ``--only`` in RESULTS.md and leaves the
others. ``--check`` compares with budget.toml: a figure beyond its budget by more
than the tolerance is taken again, once, with three times the rounds, and that one stands. Exits with 1 where one does
not hold.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import sys
import time
import tomllib
from pathlib import Path
from types import ModuleType
from typing import Any

from benchmarks.measure import Ratio
from benchmarks.report import put, table, title_of, write

HERE = Path(__file__).parent
SECTIONS = (
    "memory", "services", "tricks", "threads", "keys", "growth", "tail", "startup", "web", "sqlite", "valkey", "postgres", "leased",
    "directory", "slots", "metrics",
)  # fmt: skip
ROUNDS, QUICK = 21, 5


def sections(only: list[str]) -> list[tuple[str, ModuleType]]:
    """The sections that there are, in order; those asked for, if any are."""
    unknown = set(only) - set(SECTIONS)
    if unknown:
        sys.exit(f"no section {', '.join(sorted(unknown))}; there are {', '.join(SECTIONS)}")
    return [
        (name, importlib.import_module(f"benchmarks.{name}"))
        for name in SECTIONS
        if (not only or name in only) and importlib.util.find_spec(f"benchmarks.{name}")
    ]


def taken(name: str, section: ModuleType, rounds: int) -> dict[str, Any]:
    """One section's figures."""
    print(f"{name}: {rounds} rounds ...", end="", file=sys.stderr, flush=True)
    start = time.monotonic()
    found = section.measure(rounds)
    print(f" {time.monotonic() - start:.0f} s", file=sys.stderr)
    return found


def holds(found: Ratio | None, budget: dict[str, float], tolerance: float) -> bool:
    """Whether a median is within its budget, give or take the tolerance."""
    if found is None:
        return False
    most, least = budget.get("at_most", float("inf")), budget.get("at_least", 0.0)
    return least * (1 - tolerance) <= found.median <= most * (1 + tolerance)


def check(chosen: list[tuple[str, ModuleType]], rounds: int) -> int:
    """Hold every figure that has a budget to it."""
    budgets = tomllib.loads((HERE / "budget.toml").read_text())
    tolerance = budgets.pop("tolerance")
    broken = 0
    for name, section in chosen:
        wanted = budgets.get(name, {})
        if not wanted:
            continue
        ratios = taken(name, section, rounds)["ratios"]
        doubtful = [key for key, budget in wanted.items() if not holds(ratios.get(key), budget, tolerance)]
        if doubtful:
            print(f"{name}: taken again for {', '.join(doubtful)}", file=sys.stderr)
            again = taken(name, section, 3 * rounds)["ratios"]
            ratios |= {key: again[key] for key in doubtful if key in again}
        for key, budget in wanted.items():
            kept = holds(ratios.get(key), budget, tolerance)
            broken += not kept
            bound = ", ".join(f"{side.replace('_', ' ')} {value}" for side, value in budget.items() if side != "mark")
            print(f"{'ok    ' if kept else 'BROKEN'} {name}: {key}: {ratios.get(key, 'not measured')}, {bound}")
    print(f"{broken} beyond budget (tolerance {tolerance:.0%})" if broken else "every budget holds")
    return 1 if broken else 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help=f"{QUICK} rounds instead of {ROUNDS}, no million keys")
    parser.add_argument("--only", action="append", default=[], metavar="SECTION", help=", ".join(SECTIONS))
    parser.add_argument("--check", action="store_true", help="hold the code to budget.toml")
    parser.add_argument("--put", action="store_true", help="put the sections of --only in RESULTS.md")
    options = parser.parse_args()
    if options.put and (options.quick or options.check or not options.only):
        parser.error("--put is for whole runs of the sections that --only names")
    rounds = QUICK if options.quick else ROUNDS
    chosen = sections(options.only)
    if options.check:
        return check(chosen, rounds)
    found = {}
    for name, section in chosen:
        found[name] = section, taken(name, section, rounds)
        print(table(name, *found[name]))
    if options.put:
        put(found, [title_of(name, section) for name, section in sections([])], rounds)
    elif not options.quick and not options.only:
        write(found, rounds)
    return 0


if __name__ == "__main__":
    sys.exit(main())

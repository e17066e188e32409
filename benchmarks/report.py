"""RESULTS.md and its picture, from what the sections measured."""

from __future__ import annotations

import os
import platform
import re
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import ModuleType
from typing import Any

from benchmarks.picture import draw

HERE = Path(__file__).parent

HEAD = """# Results

Written by `make bench` (`python -m benchmarks`); do not edit. A section may be of another run than the next one
(`--only SECTION --put`). Every figure is a ratio of two things measured in turn, round by
round, in one run, and what slowed one round down slowed all of it. Ratios are medians with the middle half of the rounds in brackets; times are medians and only for
orientation. `make check-bench` holds the code to [budget.toml](budget.toml), with a tolerance of {tolerance:.0%}; a figure beyond that
is taken again, once, with three times the rounds, and that one stands.

![One decision of a hot key, as multiples of a hand-written floor](results.svg)

{machine}

"""


def table(name: str, section: ModuleType, found: dict[str, Any]) -> str:
    """One section as Markdown: what it is, its ratios against their marks, its times."""
    budgets = tomllib.loads((HERE / "budget.toml").read_text()).get(name, {})
    lines = [f"## {title_of(name, section)}", "", (section.__doc__ or "").strip(), ""]
    versions = [f"{package} {_version(package)}" for package in getattr(section, "VERSIONS", ())]
    if versions:
        lines += [f"Versions: {', '.join(versions)}.", ""]
    lines += ["| ratio | found | budget | mark |", "|---|---|---|---|"]
    for key, value in found["ratios"].items():
        budget = budgets.get(key, {})
        sides = (("at_most", "at most"), ("at_least", "at least"))
        bound = ", ".join(f"{word} {budget[side]}" for side, word in sides if side in budget)
        lines.append(f"| {key} | {value} | {bound} | {budget.get('mark', '')} |")
    lines += ["", "| what | time (median) |", "|---|---|"]
    lines += [f"| {timing.name} | {_time(timing.median)} |" for timing in found["timings"].values()]
    for fact in found.get("facts", ()):
        lines += ["", fact]
    return "\n".join([*lines, ""])


def write(found: dict[str, tuple[ModuleType, dict[str, Any]]], rounds: int) -> None:
    """RESULTS.md and results.svg."""
    tolerance = tomllib.loads((HERE / "budget.toml").read_text())["tolerance"]
    body = "\n".join(table(name, *one) for name, one in found.items())
    (HERE / "RESULTS.md").write_text(
        HEAD.format(tolerance=tolerance, machine=_machine(rounds)) + body + "\n" + (HERE / "history.md").read_text()
    )
    if "memory" in found:
        draw(found["memory"][1]["timings"], HERE / "results.svg")
    print(f"wrote {HERE / 'RESULTS.md'}", file=sys.stderr)


def put(found: dict[str, tuple[ModuleType, dict[str, Any]]], titles: list[str], rounds: int) -> None:
    """Put these sections in RESULTS.md in place of what it has of them, and leave the others. ``titles``: of all, in order."""
    file = HERE / "RESULTS.md"
    parts = re.split(r"^(?=## )", file.read_text(), flags=re.MULTILINE)
    for name, (section, figures) in found.items():
        facts = [*figures.get("facts", ()), f"In a run of its own: {_machine(rounds)}"]
        title, text = title_of(name, section), table(name, section, {**figures, "facts": facts}) + "\n"
        places = {part.partition("\n")[0][3:]: at for at, part in enumerate(parts)}
        if title in places:
            parts[places[title]] = text
        else:  # before the first section that comes after it, at the latest before what was taken out
            later = [places[other] for other in titles[titles.index(title) + 1 :] if other in places]
            parts.insert(min(later, default=len(parts) - 1), text)
    file.write_text("".join(parts))
    print(f"put {', '.join(found)} in {file}", file=sys.stderr)


def title_of(name: str, section: ModuleType) -> str:
    """The heading of a section."""
    return str(getattr(section, "TITLE", name.capitalize()))


def _machine(rounds: int) -> str:
    """Where and how often it was measured."""
    machine = f"{_processor()}, {os.cpu_count()} processors, {platform.system()} {platform.release()}; "
    python = f"{platform.python_implementation()} {platform.python_version()}"
    return f"{machine}{python}; quota {version('quota')}; {rounds} rounds."


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "(not installed)"


def _time(nanoseconds: float) -> str:
    for unit, size in (("s", 1e9), ("ms", 1e6), ("us", 1e3)):
        if nanoseconds >= size:
            return f"{nanoseconds / size:.2f} {unit}"
    return f"{nanoseconds:.0f} ns"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())

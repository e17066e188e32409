"""``quota replay`` on a long log made from the sample, each replay a process of its own, as people run it.

    python -m benchmarks.replay [LINES] [ROUNDS]       lines for each second of one core (user and system), peak memory

The sample's two days come over and over, each line for 57 clients in its place: however many lines, 1,539 clients. A
core's second counts, not the clock's, so that others on the machine disturb little; the best of ROUNDS is told.
"""

from __future__ import annotations

import gzip
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from datetime import datetime, timedelta
from itertools import count, islice
from pathlib import Path
from typing import Any, NamedTuple

import quota

SAMPLE = Path(quota.__file__).parent / "replay" / "sample.log"
ALIKE = 57
PLANS = ("300/day", "100/day, 1/s burst 10")
_LINE = re.compile(r"(\S+)( .*?\[)([^ \]]+)( .*)")
_FORM = "%d/%b/%Y:%H:%M:%S"


class Run(NamedTuple):
    """What a replay said and took."""

    report: dict[str, Any]
    cpu_s: float
    peak_mb: float

    @property
    def rate(self) -> float:
        return self.report["total"] / self.cpu_s


def from_sample(lines: int) -> Iterator[str]:
    """So many lines of a log."""
    found = [m.groups() for m in map(_LINE.fullmatch, SAMPLE.read_text("utf-8").splitlines()) if m]
    base = [(client, before, datetime.strptime(when, _FORM), rest) for client, before, when, rest in found]
    return islice(_stretches(base), lines)


def _stretches(base: list[tuple[str, str, datetime, str]]) -> Iterator[str]:
    for stretch in count():
        for client, before, when, rest in base:
            stamp = f"{when + timedelta(days=2 * stretch):{_FORM}}"
            for alike in range(ALIKE):
                yield f"{client}.{alike}{before}{stamp}{rest}\n"


def write(folder: Path, lines: int) -> tuple[Path, Path]:
    """The log, and the same packed."""
    log, packed = folder / f"{lines}.log", folder / f"{lines}.log.gz"
    with log.open("w", encoding="utf-8") as file:
        file.writelines(from_sample(lines))
    with log.open("rb") as plain, gzip.open(packed, "wb", 6) as file:
        shutil.copyfileobj(plain, file)
    return log, packed


def replay(log: Path, plan: str) -> Run:
    """``quota replay LOG --plan PLAN --json`` in a process, and what it used."""
    out = log.with_suffix(".json")
    with out.open("wb") as file:
        command = [sys.executable, "-m", "quota", "replay", str(log), "--plan", plan, "--json"]
        process = subprocess.Popen(command, stdout=file)
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{command} ended in {process.returncode}")
    (report,) = json.loads(out.read_text("utf-8"))["reports"]
    peak = used.ru_maxrss / (1 << 20 if sys.platform == "darwin" else 1 << 10)
    return Run(report, used.ru_utime + used.ru_stime, peak)


def main() -> None:
    given = [int(text) for text in sys.argv[1:]]
    lines, rounds = (*given, *(1_000_000, 3)[len(given) :])
    with tempfile.TemporaryDirectory() as folder:
        logs = write(Path(folder), lines)
        for plan in PLANS:
            for log in logs:
                runs = [replay(log, plan) for _ in range(rounds)]
                best = max(runs, key=lambda run: run.rate)
                print(
                    f"{plan:24} {'gzip' if log.suffix == '.gz' else 'plain':6}{best.rate:>10,.0f} lines/s"
                    f"{best.peak_mb:>8.0f} MB   {best.report['clients']:,} clients, {best.report['refused']:,} refused"
                )


if __name__ == "__main__":
    main()

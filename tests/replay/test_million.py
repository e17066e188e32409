"""A long log, made from the sample: what is found is the sample's, and memory is bounded by the clients, gzip included."""

from __future__ import annotations

import subprocess
import sys

import pytest
from benchmarks.replay import ALIKE, SAMPLE, from_sample, write
from benchmarks.replay import replay as process

import paths
from quota import UsagePlan
from quota.replay import replay

ROOT = paths.ROOT
sys.path.append(str(ROOT))

PLAN = "100/day, 1/s burst 10"


def test_the_long_log_is_the_sample_over_and_over():
    """Every client in its place does what the sample's does, each two days anew."""
    (once,) = replay(SAMPLE.read_text().splitlines(), [UsagePlan("p", PLAN)])
    (twice,) = replay([line.rstrip("\n") for line in from_sample(2 * ALIKE * 589)], [UsagePlan("p", PLAN)])
    assert (twice.allowed, twice.refused) == (2 * ALIKE * once.allowed, 2 * ALIKE * once.refused)
    assert len(twice.clients) == ALIKE * len(once.clients)


@pytest.mark.slow
def test_a_million_lines(tmp_path):
    """Ten times the lines take no more memory than a half more, packed or not, and the figures are the same.

    The rate stands in docs/cli.md with its command; here it is held to half, as machines that run tests are busy.
    """
    short, _ = write(tmp_path, 100_000)
    log, packed = write(tmp_path, 1_000_000)
    few, many, unpacked = process(short, "300/day"), process(log, "300/day"), process(packed, "300/day")
    assert many.report == unpacked.report
    assert many.report["total"] == 1_000_000
    assert many.report["clients"] == few.report["clients"] == 27 * ALIKE
    assert max(many.peak_mb, unpacked.peak_mb) < 1.5 * few.peak_mb
    assert min(many.rate, unpacked.rate) > 50_000


def test_the_benchmark_runs():
    """On a small log."""
    command = [sys.executable, "-m", "benchmarks.replay", "2000", "1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.count("lines/s") == 4

"""Measured claims: every figure is a ratio of medians of paired runs in one process. ``python -m benchmarks``."""

import sys
from pathlib import Path

# The servers are the tests' own; pytest finds them by name, and so do the measurements.
sys.path.append(str(Path(__file__).resolve().parents[1] / "tests" / "support" / "engines"))

"""Measured claims: every figure is a ratio of medians of paired runs in one process. ``python -m benchmarks``."""

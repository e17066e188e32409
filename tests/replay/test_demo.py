"""The mission's walk-through, row by row, as the demo shows it."""

import subprocess
import sys
import time

from quota import UsagePlan
from quota.replay.demo import REPLAYED, SAMPLE, Walk, main, sample_report, table
from traffic import figures

EXPECTED = [
    ("1", "created", "0"),
    ("2", "created", "0"),
    ("3", "associated", "0"),
    ("4-6", "200 allowed", "1"),
    ("7", "999 allowed", "1000"),
    ("8", "429 QUOTA_EXCEEDED", "1000"),
    ("", "403 MISSING_KEY", "1000"),
    ("", "403 UNKNOWN_KEY", "1000"),
    ("", "403 DISABLED_KEY", "1000"),
    ("", "403 EXPIRED_KEY", "1000"),
    ("", "403 NO_PLAN", "1000"),
    ("", "200 allowed", "1001"),
    ("", "429 QUOTA_EXCEEDED", "1001"),
    ("", "999 remain", "1001"),
    ("", "2000 remain", "0"),
    ("", "200 allowed", "1"),
]


def test_the_mission_step_by_step():
    """Every row of the table, on the real library."""
    assert [(step, answer, usage) for step, _, answer, usage in Walk().rows()] == EXPECTED


def test_the_rows_are_computed():
    """A ledger that refuses everything shows another table: nothing is written down beforehand."""
    walk = Walk()
    walk.ledger.add_plan(UsagePlan("PlanB", "1/day"))
    real = walk.ledger.add_plan
    walk.ledger.add_plan = lambda plan: real(UsagePlan(plan.id, "3/day"))
    assert [row[2:] for row in walk.rows()][4:6] == [("2 allowed", "3"), ("429 QUOTA_EXCEEDED", "3")]


def test_the_sample_s_figures_are_those_of_a_plain_script():
    """Of the plan that the demo replays it under."""
    assert REPLAYED == "100/day, 1/s burst 10"
    expected = figures(SAMPLE.read_text().splitlines(), 100, 1, 10)
    report = sample_report()
    assert (report.by_limit, report.allowed) == (expected["by_limit"], expected["allowed"].total())
    assert report.malformed == 2
    assert set(report.by_limit) == {"throttle", "requests/day"}


def test_the_demo_ends_by_replaying_traffic(capsys):
    """The table first, then the replay of the sample, within two seconds."""
    began = time.perf_counter()
    main()
    assert time.perf_counter() - began < 2
    out = capsys.readouterr().out
    for line in table(Walk().rows()):
        assert line in out
    assert out.index("429 QUOTA_EXCEEDED") < out.index("plan 100/day, 1/second burst 10") < out.index("malformed")


def test_python_m_quota_demo_runs():
    """As make demo runs it, with or without the extra."""
    bare = "import quota.__main__ as m; m.find_spec = lambda name: None; m.main(['demo'])"
    for command in (["-m", "quota", "demo"], ["-c", bare]):
        done = subprocess.run([sys.executable, *command], capture_output=True, text=True, check=True)
        assert "Key123" in done.stdout
        assert not done.stderr

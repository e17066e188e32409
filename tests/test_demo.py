"""The mission's walk-through, row by row, as the demo shows it."""

import subprocess
import sys

from quota.demo import Walk, main, sample_log

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
    ("", "nothing used", "0"),
    ("", "200 allowed", "1"),
]


def test_the_mission_step_by_step():
    """Every row of the table, on the real library."""
    assert [(step, answer, usage) for step, _, answer, usage in Walk().rows()] == EXPECTED


def test_the_demo_ends_by_replaying_traffic(capsys):
    """The table first, then the replay of the sample."""
    main()
    out = capsys.readouterr().out
    assert "429 QUOTA_EXCEEDED" in out
    assert "plan 300/day, 2/second burst 20" in out
    assert len(list(sample_log())) == 1_200


def test_python_m_quota_demo_runs():
    """As make demo runs it."""
    done = subprocess.run([sys.executable, "-m", "quota", "demo"], capture_output=True, text=True, check=True)
    assert "Key123" in done.stdout
    assert not done.stderr

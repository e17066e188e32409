"""Users freeze time in tests of their own: the default clock sees it."""

import sqlite3
import subprocess
import sys
import textwrap
import threading
import time
from contextlib import closing

import pytest
from freezegun import freeze_time

from quota import Ledger, StoreBusy, UsagePlan
from quota.clock import monotonic


def test_periods_reset_under_frozen_time_with_the_default_clock():
    """A ledger made before, during or after the freeze follows the frozen clock."""
    with freeze_time("2026-03-10 23:59:59") as frozen:
        ledger = Ledger()
        ledger.add_plan(UsagePlan("p", "2/day"))
        key, secret = ledger.issue_key("k", "p")
        assert [bool(ledger.consume(secret)) for _ in range(3)] == [True, True, False]
        frozen.tick(1)
        assert [bool(ledger.consume(key)) for _ in range(3)] == [True, True, False]
        assert ledger.usage(key)[-1].day.isoformat() == "2026-03-11"


@pytest.fixture
def locked(tmp_path):
    """The URL of a SQLite store that somebody else writes to for good, and a secret of a key in it."""
    url = f"sqlite:///{tmp_path}/usage.db?timeout=1"
    with Ledger(url) as ledger:
        ledger.add_plan(UsagePlan("p", "5/day"))
        secret = ledger.issue_key("k", plan="p").secret
        ledger.consume(secret)
    with closing(sqlite3.connect(tmp_path / "usage.db", isolation_level=None)) as other, other:
        other.execute("begin immediate")
        yield url, secret
        other.rollback()


def is_busy_in_time(url, secret):
    """Each call of one thread and of several is told ``StoreBusy`` in the second that was stated, by real time."""
    ledger = Ledger(url)
    told = []

    def ask():
        try:
            ledger.consume(secret)
        except StoreBusy:
            told.append(monotonic() - began)

    threads = [threading.Thread(target=ask, daemon=True) for _ in range(3)]
    began = monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(told) == 3, "the others wait for ever"
    assert min(told) > 0.9
    ledger.close()


def test_a_locked_file_is_busy_in_time_under_frozen_time(locked):
    """The deadline comes by real time, whatever the frozen clock shows."""
    with freeze_time("2030-03-10"):
        is_busy_in_time(*locked)


def test_a_locked_file_is_busy_in_time_when_the_module_s_functions_are_replaced(locked, monkeypatch):
    """As other tools freeze time: in the module ``time`` itself."""
    for name, value in (
        ("time", 1.9e9),
        ("monotonic", 5.0),
        ("perf_counter", 5.0),
        ("time_ns", 1_900_000_000_000_000_000),
    ):
        monkeypatch.setattr(time, name, lambda value=value: value)
    is_busy_in_time(*locked)


def test_a_package_that_is_imported_under_frozen_time(locked):
    """Its deadlines come too; a program of its own, as this one has imported it."""
    program = """
        import sys
        from freezegun import freeze_time
        with freeze_time("2030-03-10"):
            from quota import Ledger, StoreBusy
            try:
                Ledger(sys.argv[1]).consume(sys.argv[2])
            except StoreBusy:
                print("busy")
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program), *locked], capture_output=True, text=True, timeout=60
    )
    assert done.stdout == "busy\n", done.stderr

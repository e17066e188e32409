"""Several changes of the directory in one transaction: all of them, or none."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from quota import Ledger, PlanConflict, StoreBusy, StoreUnavailable, UsagePlan
from quota.stores.sqlite import SQLiteStore

DAY = UsagePlan("day", "10/day")
KILLED = """
import os, signal, sys
from quota import Ledger, UsagePlan
ledger = Ledger(sys.argv[1])

def work(store):
    with Ledger(store) as inner:
        inner.add_plan(UsagePlan("day", "10/day"))
        inner.update_key("old", name="new")
        inner.associate("old", "day")
        inner.issue_key("k", "day")
        os.kill(os.getpid(), signal.SIGKILL)

ledger.store.in_one_step(work)
"""


@pytest.fixture
def ledger(tmp_path):
    with Ledger(f"sqlite:///{tmp_path}/x.db") as ledger:
        ledger.issue_key("old", id="old")
        yield ledger


def directory(ledger):
    return ledger.list_plans(), [(key.name, ledger.list_plans(key)) for key in ledger.list_keys()], len(ledger.events())


def test_it_is_there_at_once_and_what_it_returns_is_returned(ledger):
    """Nobody sees a part of it, though the step itself does; the store takes no other change in the middle of it."""
    before = directory(ledger)

    def work(store):
        inner = Ledger(store)
        inner.add_plan(DAY)
        inner.associate("old", "day")
        assert [key.id for key in inner.list_keys(plan="day")] == ["old"]
        assert directory(ledger) == before
        with pytest.raises(StoreBusy):
            ledger.add_plan(DAY)
        return "answer"

    assert ledger.store.in_one_step(work) == "answer"
    assert directory(ledger)[:2] == ([DAY], [("old", [DAY])])
    assert ledger.store.check() == []


def test_what_it_raises_undoes_all_of_it(ledger):
    """Events too; and the store goes on."""
    before = directory(ledger)

    def work(store):
        inner = Ledger(store)
        inner.add_plan(DAY)
        inner.issue_key("k", "day")
        inner.remove_key("old")
        raise StoreUnavailable("now", reached=True)

    with pytest.raises(StoreUnavailable, match="now"):
        ledger.store.in_one_step(work)
    assert directory(ledger) == before
    ledger.add_plan(DAY)


def test_a_part_that_is_refused_is_undone_alone(ledger):
    """Of two keys the first is added before the second is refused: neither stays, and all else does."""
    taken, _ = ledger.issue_key("taken", id="taken")

    def work(store):
        inner = Ledger(store)
        inner.add_plan(DAY)
        fresh, _ = Ledger().issue_key("fresh", id="fresh")
        with pytest.raises(PlanConflict):
            store.add_keys([(fresh, []), (taken, [])])
        inner.associate("taken", "day")

    ledger.store.in_one_step(work)
    assert directory(ledger)[:2] == ([DAY], [("old", []), ("taken", [DAY])])


def test_a_crash_undoes_all_of_it(ledger):
    """``kill -9`` right before its end."""
    before = directory(ledger)
    assert isinstance(ledger.store, SQLiteStore)
    url = f"sqlite:///{ledger.store.path}"
    assert subprocess.run([sys.executable, "-c", KILLED, url], check=False).returncode == -signal.SIGKILL
    assert directory(ledger) == before

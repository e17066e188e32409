"""Keys with dates, overrides, networks and scopes stay on the compiled path: calls that the rule decides are counted."""

from datetime import datetime, timedelta, timezone

import pytest

from quota import Ledger, ManualClock, UsagePlan
from quota.stores.memory import MemoryStore
from quota.stores.sqlite import SQLiteStore

START = datetime(2026, 3, 10, 12, tzinfo=timezone.utc)


def counting(kind):
    """A kind of store that counts the calls that its compiled path leaves to the rule."""

    class Counting(kind):
        asked = 0

        def apply(self, request):
            self.asked += request.op == "consume"
            return super().apply(request)

    return Counting


@pytest.fixture(params=["memory", "sqlite"])
def store(request, tmp_path):
    made = (
        counting(MemoryStore)()
        if request.param == "memory"
        else counting(SQLiteStore)(tmp_path / "q.db", durability="normal")
    )
    yield made
    made.close()


@pytest.mark.parametrize("limits", ["100000/day", "100000/day, 9000/s burst 9000, 100000/month by account"])
def test_few_calls_are_general(store, limits):
    """A handful of three hundred, before its date and behind it; the plan in force is the right one at each."""
    clock = ManualClock(START)
    ledger = Ledger(store, clock=clock)
    ledger.add_plan(UsagePlan("p", limits))
    ledger.add_plan(UsagePlan("q", limits.replace("100000/day", "90000/day")))
    key, secret = ledger.issue_key("k", "p", id="k", networks=["10.0.0.0/8"], scopes=["read"])
    at = START + timedelta(seconds=100)
    ledger.associate(key, "q", at=at)
    ledger.override_limit(key, "requests/day", 95_000, until=START + timedelta(seconds=50))
    found = []
    for _ in range(300):
        found.append(ledger.consume(secret, address="10.1.2.3", scope="read").limits[0].limit)
        clock.advance(timedelta(milliseconds=500))
    assert found == [95_000] * 100 + [100_000] * 100 + [90_000] * 100
    assert store.asked <= 24

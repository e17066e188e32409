"""Lists and reports over very many keys hold a page of them at a time."""

import gc
import tracemalloc

import pytest

from every_store import Stores
from quota import UsagePlan
from quota.cli.keys.billing import _fullest


def filled(stores, clock, count):
    """A ledger with so many keys, ten to an account, each of them used once."""
    ledger = stores.ledger(clock)
    ledger.add_plan(UsagePlan("p", "1000/month, 100000 tokens/month by account"))
    for account in range(0, count, 10):
        for key, _ in ledger.issue_keys([f"client {number}" for number in range(10)], "p", account=f"team {account}"):
            assert ledger.consume(key, {"requests": 1, "tokens": 100})
    return ledger


def pages(ledger):
    """The number of keys that pages of them tell."""
    count, after = 0, None
    while page := ledger.list_keys(after=after, limit=500):
        count, after = count + len(page), page[-1]
    return count


def peaks(ledger, count):
    """The bytes that each way through all keys holds at most, each seen to tell them all."""
    found = {}
    ways = {
        "pages": (count, lambda: pages(ledger)),
        "top": (count, lambda: sum(1 for one in _fullest(ledger, None) if one)),
        "key": (2 * count, lambda: sum(1 for _ in ledger.usage_report("2026-03-01", "2026-03-31"))),
        "account": (count // 5, lambda: sum(1 for _ in ledger.usage_report("2026-03-01", "2026-03-31", by="account"))),
        "plan": (2, lambda: sum(1 for _ in ledger.usage_report("2026-03-01", "2026-03-31", by="plan"))),
    }
    for way, (told, job) in ways.items():
        gc.collect()
        tracemalloc.start()
        assert job() == told, way
        found[way] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    return found


def bounded(kind, few, many, clock, find):
    """Many keys take no more memory to go through than a few pages of them."""
    some, all_ = (Stores(kind, find) for _ in range(2))
    try:
        small, large = peaks(filled(some, clock, few), few), peaks(filled(all_, clock, many), many)
    finally:
        some.close()
        all_.close()
    assert all(large[way] < 1.5 * small[way] + 500_000 for way in large), (small, large)
    assert max(large.values()) < 16_000_000, large


def test_memory_is_bounded(clock, request):
    """On SQLite: eleven hundred keys as five hundred and ten, which are more than a page of them."""
    bounded("sqlite", 510, 1_100, clock, request.getfixturevalue)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sqlite", "postgres", "redis"])
def test_memory_is_bounded_over_a_hundred_thousand_keys(clock, request, kind):
    """On each engine: a hundred thousand as a thousand."""
    bounded(kind, 1_000, 100_000, clock, request.getfixturevalue)

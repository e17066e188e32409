"""``quota.metrics`` over every store."""

from __future__ import annotations

import pytest
from prometheus_client import CollectorRegistry

from every_store import ALL, Stores, used
from quota import Ledger, ManualClock
from quota.metrics import instrument


@pytest.mark.parametrize("kind", ALL)
def test_on_every_store(kind, request):
    """The same figures, and the seconds of the store that was asked, by operation; with leases of the one behind."""
    registry, stores = CollectorRegistry(), Stores(kind, request.getfixturevalue)
    try:
        ledger, _, secret = stores.with_key(ManualClock(10**15), "2/day")
        instrument(ledger._ledger if stores.awaited else ledger, registry)
        for _ in range(3):
            ledger.consume(secret)
        ledger.reserve(secret, 1, ttl=1_000_000)
        plan = {"plan": "p", "api": ""}
        assert registry.get_sample_value("quota_decisions_total", plan | {"reason": "OK"}) == 2
        assert registry.get_sample_value("quota_decisions_total", plan | {"reason": "QUOTA_EXCEEDED"}) == 2
        assert registry.get_sample_value("quota_units_total", {"plan": "p", "unit": "requests"}) == 2
        assert registry.get_sample_value("quota_store_seconds_count", {"operation": "reserve"}) == 1
        assert registry.get_sample_value("quota_store_seconds_sum", {"operation": "reserve"}) > 0
    finally:
        stores.close()


@pytest.mark.parametrize("kind", [kind for kind in ALL if kind.startswith("leased")])
def test_units_on_lease(kind, request):
    """A busy key's process has taken more than it spent; what it gives back is on lease no more."""
    registry, stores = CollectorRegistry(), Stores(kind, request.getfixturevalue)
    clock = ManualClock(10**15)
    try:
        ledger, _, secret = stores.with_key(clock, "1000000/day")
        instrument(ledger, registry)
        for _ in range(40):
            assert ledger.consume(secret)
        left = registry.get_sample_value("quota_leased_units", {"unit": "requests"})
        behind = Ledger(ledger.store.store, clock=clock)
        assert 0 < left == used(behind, secret) - 40
        ledger.usage("k")
        assert used(behind, secret) == 40
        assert not registry.get_sample_value("quota_leased_units", {"unit": "requests"})
    finally:
        stores.close()

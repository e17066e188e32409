"""``quota.metrics`` over every store."""

from __future__ import annotations

import pytest
from prometheus_client import CollectorRegistry

from every_store import ALL, Stores
from quota import ManualClock
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

"""What a store on a server keeps in its process of the keys that it was asked about."""

import pytest

from every_store import SERVERS


@pytest.mark.parametrize("stores", SERVERS, indirect=True)
def test_keys_that_reports_ask_about_are_not_kept(stores, clock):
    """Whoever looks at all keys holds none of them; a key that is called is kept, and looked at by its copy."""
    ledger, key, secret = stores.with_key(clock)
    for number in range(3):
        ledger.issue_key(f"other {number}", "p")
    found = ledger.store._copies._found
    for other in ledger.list_keys():
        ledger.status(other)
        ledger.usage(other)
        ledger.list_plans(other)
        ledger.list_reservations(other)
    assert list(ledger.usage_report("2026-03-01", "2026-03-31")) == []
    assert len(found) == 0
    assert ledger.consume(secret)
    assert len(found) == 1
    ledger.disable_key(key)
    assert ledger.status(key)[0].used == 1
    assert ledger.list_plans(key)[0].id == "p"
    assert not ledger.consume(secret)

"""Users freeze time in tests of their own: the default clock sees it."""

from freezegun import freeze_time

from quota import Ledger, UsagePlan


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

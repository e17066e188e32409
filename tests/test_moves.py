"""What a change of plan does to throttles, case by case; tests/test_toggling.py looks for a case that mints."""

import pytest

from quota import Ledger, ManualClock, UsagePlan

START = 1_773_144_030_000_000


def made(*plans, keys=1, **options):
    """A ledger with these plans, and keys on the first."""
    ledger = Ledger(clock=ManualClock(START))
    for plan in plans:
        ledger.add_plan(plan)
    return ledger, [ledger.issue_key(f"k{n}", plans[0].id, id=f"k{n}", **options).key for n in range(keys)]


def room(ledger, key, route=None):
    """How many units the throttles let through at once, found by taking them one by one."""
    count = 0
    while ledger.consume(key, route=route):
        count += 1
    return count


def test_a_route_that_has_no_throttle_for_a_while_has_the_same_one_again():
    """Under the other plan neither the route nor the plan has one: nobody takes its bucket over."""
    ledger, (key,) = made(
        UsagePlan("one", "99/day", routes={"a": "1/s burst 5"}), UsagePlan("two", "99/day", routes={"b": "1/s burst 5"})
    )
    assert [bool(ledger.consume(key, 3, route="a")), bool(ledger.consume(key, 2, route="b"))] == [True, True]
    ledger.associate(key, "two")
    assert room(ledger, key, route="b") == 5
    ledger.associate(key, "one")
    assert room(ledger, key, route="a") == 2

"""Every history of a small world: all sequences of so many operations, no randomness, against a log summed from scratch."""

from itertools import product

import pytest

from quota import Ledger, ManualClock, UsagePlan

DAY = 86_400_000_000
START = 1_767_225_600_000_000 - 1  # one microsecond before a day and a year begin


@pytest.mark.parametrize(
    ("steps", "at_least"), [(4, 2_000), pytest.param(5, 10_000, marks=pytest.mark.slow)], ids=["four", "five"]
)
def test_every_sequence_of_operations_is_decided_as_the_log_says(steps, at_least):
    """Limits 1 and 2 on two keys, costs 1 and 2, a day's boundary: every history of four steps; of five at length."""
    operations = [("consume", key, cost) for key in (0, 1) for cost in (1, 2)]
    operations += [("tick", 1, 0), ("plan", 1, 0), ("plan", 2, 0)]
    histories = 0
    for history in product(operations, repeat=steps):
        if sum(step[0] == "plan" for step in history) > 2:
            continue
        histories += 1
        _play(history)
    assert histories > at_least


def _play(history):
    clock = ManualClock(START)
    ledger = Ledger(clock=clock)
    limit = 1
    ledger.add_plan(UsagePlan("p", f"{limit}/day"))
    keys = [ledger.issue_key(name, "p").key for name in ("a", "b")]
    log = []
    for what, which, cost in history:
        if what == "tick":
            clock.advance(which)
        elif what == "plan":
            limit = which
            ledger.replace_plan(UsagePlan("p", f"{limit}/day"))
        else:
            now = clock()
            used = sum(units for at, key, units in log if key == which and at // DAY == now // DAY)
            decision = ledger.consume(keys[which], cost)
            assert bool(decision) == (used + cost <= limit), history
            if decision:
                log.append((now, which, cost))
                used += cost
            assert decision.limits[0].used == used, history
            assert decision.limits[0].remaining == max(0, limit - used), history

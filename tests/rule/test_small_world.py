"""Every history of a small world: all sequences of so many operations, no randomness, against a log summed from scratch."""

from itertools import product

import pytest

from quota import Ledger, ManualClock, ReservationClosed, UsagePlan
from quota.stores.memory import MemoryStore

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
    ledger = Ledger(MemoryStore(stripes=1), clock=clock)  # quick to make
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


@pytest.mark.parametrize(
    ("steps", "at_least"), [(4, 2_000), pytest.param(5, 16_000, marks=pytest.mark.slow)], ids=["four", "five"]
)
def test_every_sequence_of_open_renew_lapse_and_close_is_decided_as_the_log_says(steps, at_least):
    """One slot, two holders, and half of a slot's time: every history."""
    histories = [*product([*product(("open", "renew", "close"), (0, 1)), ("tick", None)], repeat=steps)]
    assert len(histories) > at_least
    for history in histories:
        _play_slots(history)


def _play_slots(history):
    clock = ManualClock(START + 1)
    ledger = Ledger(MemoryStore(stripes=1), clock=clock)  # quick to make
    ledger.add_plan(UsagePlan("p", "1 concurrent, 99/year"))
    key = ledger.issue_key("a", "p").key
    handles, ends, spent = {}, {}, 0
    for what, who in history:
        holder = next((other for other, end in ends.items() if clock() < end), None)
        if what == "tick":
            clock.advance(1)
        elif what == "open":
            held = ledger.reserve(key, 2, ttl=2)
            assert bool(held) == (holder is None), history
            if held:
                handles[who], ends[who] = held, clock() + 2
        elif who not in handles:
            continue
        elif what == "renew" and who == holder:
            handles[who].extend(2)
            ends[who] = clock() + 2
        elif what == "renew":
            with pytest.raises(ReservationClosed):
                handles[who].extend(2)
        else:
            handles.pop(who).commit(1)
            ends.pop(who)
            spent += 1
        in_flight = sum(clock() < end for end in ends.values())
        assert [status.used for status in ledger.status(key)] == [in_flight, spent + 2 * in_flight], history

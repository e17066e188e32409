"""The receipts checker's own tests: planted histories fail it, right ones do not."""

from __future__ import annotations

import random

import pytest

from receipts import Change, Denial, Receipt, check_ceiling, check_receipts, justify_denials

ONE_BY_ONE = [Receipt(0, 1, 1, 1), Receipt(2, 3, 2, 3), Receipt(4, 5, 1, 4)]


def test_receipts_in_order_tile():
    """Calls one after the other, and calls that overlap in any order, tile up to their total."""
    assert check_receipts([]) == 0
    assert check_receipts(ONE_BY_ONE) == 4
    assert check_receipts([Receipt(0, 9, 2, 5), Receipt(1, 8, 3, 3), Receipt(2, 7, 1, 6)]) == 6
    assert check_receipts([Receipt(0, 1, 1, 8)], start=7) == 8


@pytest.mark.parametrize(
    ("history", "why"),
    [
        ([Receipt(0, 1, 1, 1), Receipt(0, 1, 1, 1)], "overlap"),
        ([Receipt(0, 1, 1, 1), Receipt(0, 1, 1, 3)], "hole"),
        ([Receipt(0, 1, 2, 2), Receipt(0, 1, 2, 3)], "overlap"),
        ([Receipt(0, 1, 1, 2)], "hole"),
        ([Receipt(0, 1, 0, 0)], "for nothing"),
        ([Receipt(0, 1, 1, 2), Receipt(2, 3, 1, 1)], "real time"),
        ([Receipt(4, 5, 1, 1), Receipt(0, 3, 1, 2)], "real time"),
        ([Receipt(6, 9, 1, 1), Receipt(0, 9, 1, 2), Receipt(0, 5, 1, 3)], "real time"),
    ],
    ids=["lost update", "lost receipt", "partly lost", "counted before", "free", "late", "before it was called", "far"],
)
def test_planted_histories_fail(history, why):
    """Lost updates, holes, receipts for nothing, and orders that real time forbids are told apart."""
    for shuffled in (history, history[::-1]):
        with pytest.raises(AssertionError, match=why):
            check_receipts(shuffled)


def test_an_increment_read_back_late_fails():
    """Two calls that both read the total behind the lock: the total is right, the receipts overlap."""
    with pytest.raises(AssertionError, match="hole or overlap"):
        check_receipts([Receipt(0, 3, 1, 2), Receipt(1, 2, 1, 2)])


def test_denials_at_the_limit_are_justified():
    """A denial is right once what was used leaves no room for its cost, also by calls still in flight."""
    assert justify_denials(ONE_BY_ONE, [Denial(6, 7, 1)], 4) == 1
    assert justify_denials(ONE_BY_ONE, [Denial(6, 7, 3), Denial(0, 1, 7)], 6) == 2
    # A denial may have seen a call that was in flight, and came to nothing before it returned.
    assert justify_denials(ONE_BY_ONE, [Denial(3, 5, 1)], 4) == 1
    assert justify_denials([], [Denial(0, 1, 1)], 3, start=3) == 1
    assert justify_denials([], [], 0) == 0


@pytest.mark.parametrize(
    ("denial", "limit"),
    [
        (Denial(6, 7, 1), 5),
        (Denial(6, 7, 2), 6),
        (Denial(2, 4, 1), 4),
        (Denial(0, 1, 4), 5),
        (Denial(-2, -1, 1), 4),
    ],
    ids=["room for one", "room for two", "too early", "before the second", "before all"],
)
def test_denials_without_a_cause_fail(denial, limit):
    """A denial while there was room, or before what would have justified it was called, is caught."""
    with pytest.raises(AssertionError, match="for no reason"):
        justify_denials(ONE_BY_ONE, [denial], limit)


def test_a_later_call_cannot_justify_through_one_that_came_after():
    """A receipt in flight counts only with all receipts before it in their order."""
    history = [Receipt(5, 6, 1, 1), Receipt(0, 7, 1, 2)]
    assert check_receipts(history) == 2
    with pytest.raises(AssertionError, match="for no reason"):
        justify_denials(history, [Denial(1, 2, 1)], 1)
    assert justify_denials(history, [Denial(1, 6, 1)], 1) == 1


def test_limits_that_change_bind_from_their_call_on():
    """A denial needs a cause under some limit in force during it, an admission room under one."""
    changes = [Change(0, 0, 10), Change(10, 12, 3), Change(20, 22, 10)]
    before = [Receipt(1, 2, 3, 3)]
    justify_denials(before, [Denial(11, 13, 1), Denial(13, 14, 1), Denial(13, 21, 1), Denial(21, 23, 1)], changes)
    for invoked, returned in ((3, 9), (23, 24)):
        with pytest.raises(AssertionError, match="for no reason"):
            justify_denials(before, [Denial(invoked, returned, 1)], changes)
    for invoked, returned in ((3, 9), (11, 30), (11, 15), (13, 21), (21, 30), (30, 31)):
        check_ceiling([Receipt(invoked, returned, 1, 4)], changes)
    for used, invoked, returned in ((4, 12, 20), (4, 13, 19), (11, 0, 40)):
        with pytest.raises(AssertionError, match="above the limit"):
            check_ceiling([Receipt(invoked, returned, 1, used)], changes)
    # A long call, but the count before its own was not reached until the limit had changed.
    check_ceiling([Receipt(5, 15, 3, 3), Receipt(5, 15, 1, 4)], changes)
    with pytest.raises(AssertionError, match="above the limit"):
        check_ceiling([Receipt(13, 14, 3, 3), Receipt(5, 15, 1, 4)], changes)
    with pytest.raises(AssertionError, match="above the limit"):
        check_ceiling([Receipt(5, 25, 1, 4), Receipt(13, 14, 3, 5)], changes)


def simulated(rng, limit, flaw=""):
    """Calls that overlap at random and count correctly, but for a flaw: every one of them once at a random instant."""
    calls = []
    for number in range(60):
        acts = number + rng.random()
        calls.append((acts, acts - rng.random() * 5, acts + rng.random() * 5, rng.randint(1, 4)))
    receipts, denials, used = [], [], 0
    lie = rng.randrange(5, 15)
    for number, (_, invoked, returned, cost) in enumerate(sorted(calls)):
        wrong = number == lie and flaw
        if wrong == "denied" or used + cost > limit:
            denials.append(Denial(invoked, returned, cost))
        else:
            used += 0 if wrong == "lost" else cost
            receipts.append(Receipt(invoked, returned, cost, used))
    return receipts, denials


def test_simulated_histories_pass_and_their_flaws_do_not():
    """Two hundred random linearizable histories pass; one lost update or one invented denial in each is caught."""
    for seed in range(200):
        receipts, denials = simulated(random.Random(seed), 100)
        assert 96 < check_receipts(receipts) <= 100
        assert justify_denials(receipts, denials, 100) == len(denials) > 0
        check_ceiling(receipts, 100)
        receipts, _ = simulated(random.Random(seed), 100, "lost")
        with pytest.raises(AssertionError, match="hole or overlap"):
            check_receipts(receipts)
        receipts, denials = simulated(random.Random(seed), 100, "denied")
        with pytest.raises(AssertionError, match="for no reason"):
            justify_denials(receipts, denials, 100)

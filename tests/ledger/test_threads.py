"""Real threads, switching a million times a second: receipts tile, denials have a cause, nothing is lost or minted.

``test_interleavings`` enumerates pairs of calls; here are many threads and long histories, whatever the interpreter
makes of them.
"""

from __future__ import annotations

import random
import sys
import threading
import time
from bisect import bisect_right
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest

from quota import Ledger, ManualClock, Quota, Reason, RequestMismatch, ReservationClosed, UsagePlan
from receipts import Change, Denial, Receipt, check_ceiling, check_receipts, justify_denials

NOON = 1_700_049_600_000_000
THREADS = 4
ENOUGH = 20  # calls that met; the first round has hundreds where the machine is free
ROUNDS = 60

now = time.perf_counter_ns


@pytest.fixture(autouse=True)
def _switching():
    """Switch threads as often as the interpreter can, and put its pace back."""
    pace = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(pace)


def together(*jobs):
    """Run jobs at once, each in a thread with a random generator of its own; what they returned."""
    start = threading.Barrier(len(jobs))

    def run(number, job):
        start.wait()
        return job(random.Random(number))

    with ThreadPoolExecutor(len(jobs)) as pool:
        futures = [pool.submit(run, number, job) for number, job in enumerate(jobs)]
        return [future.result() for future in futures]


def collisions(spans):
    """How many calls were under way when the next one began."""
    ordered = sorted(spans)
    return sum(following[0] < before[1] for before, following in zip(ordered, ordered[1:], strict=False))


def until_they_collide(one_round):
    """Repeat a round until calls did run at once: what never met has shown nothing."""
    met = 0
    for _ in range(ROUNDS):
        met += collisions(one_round())
        if met >= ENOUGH:
            return
    pytest.fail(f"only {met} calls met")


def open_ledger(*limits, alerts=(80, 100), **more):
    """A ledger whose clock stands still, with one key on ``PlanA``: (ledger, key, secret)."""
    ledger = Ledger(clock=ManualClock(NOON))
    ledger.add_plan(UsagePlan("PlanA", limits if len(limits) > 1 else limits[0], alerts=alerts, **more))
    return ledger, *ledger.issue_key("Key123", plan="PlanA", id="Key123")


def used(ledger, key, limit=0):
    """What a limit has counted: a peek tells what it would be after one more, where one more is allowed."""
    decision = ledger.peek(key)
    return decision.limits[limit].used - bool(decision)


def spender(call, receipts, denials, *, calls, costs=(1, 1, 1, 2, 3), limit=0):
    """A job that calls with random costs and keeps what it was told; receipts are of the limit at an index."""

    def job(rng):
        for _ in range(calls):
            cost = rng.choice(costs)
            begun = now()
            decision = call(rng, cost)
            ended = now()
            if decision:
                receipts.append(Receipt(begun, ended, cost, decision.limits[limit].used))
            else:
                denials.append((Denial(begun, ended, cost), decision))

    return job


def check(receipts, denials, limit):
    """The history as a whole; what was used in the end."""
    total = check_receipts(receipts)
    check_ceiling(receipts, limit)
    assert {decision.reason for _, decision in denials} <= {Reason.QUOTA_EXCEEDED}
    assert justify_denials(receipts, [denial for denial, _ in denials], limit) == len(denials)
    return total


def spans(*histories):
    return [tuple(record[:2]) for history in histories for record in history]


@pytest.mark.parametrize("limits", ["5000/day", "5000/day, 9000/month, 9000/s burst 9000"])
@pytest.mark.parametrize("general", [False, True], ids=["fast path", "general path"])
def test_one_key(limits, general):
    """Four threads spend one key's quota with random costs: to the last unit and never beyond."""

    def one_round():
        ledger, key, secret = open_ledger(limits)
        receipts, denials = [], []

        def call(rng, cost):
            return ledger.consume(secret, {"requests": cost} if general else cost, route="any" if general else None)

        together(*[spender(call, receipts, denials, calls=1200) for _ in range(THREADS)])
        total = check(receipts, denials, 5000)
        assert total == 5000
        assert denials
        assert used(ledger, key) == total
        return spans(receipts)

    until_they_collide(one_round)


def test_several_keys_of_one_account():
    """Keys that share an account tile its count together, and each its own, all or nothing across both."""

    def one_round():
        plan = Quota(2000, "day", by="account"), Quota(900, "day", name="own")
        ledger, key, secret = open_ledger(*plan)
        keys = {key.id: (key, secret)}
        for number in range(2):
            keys[f"k{number}"] = tuple(ledger.issue_key("more", plan="PlanA", id=f"k{number}", account="Key123"))
        joint, own, denials = [], {id_: [] for id_ in keys}, []

        def job(rng):
            for _ in range(500):
                id_, cost = rng.choice(list(keys)), rng.choice((1, 2, 3))
                presented = keys[id_][rng.randrange(2)]
                begun = now()
                decision = ledger.consume(presented, cost)
                ended = now()
                if decision:
                    account, alone = decision.limits
                    joint.append(Receipt(begun, ended, cost, account.used))
                    own[id_].append(Receipt(begun, ended, cost, alone.used))
                else:
                    denials.append((Denial(begun, ended, cost), decision.violated, id_))

        together(*[job] * THREADS)
        total = check_receipts(joint)
        check_ceiling(joint, 2000)
        assert total == 2000
        assert sum(check_receipts(receipts) for receipts in own.values()) == total
        for receipts in own.values():
            check_ceiling(receipts, 900)
        justify_denials(joint, [denial for denial, violated, _ in denials if "requests/day" in violated], 2000)
        for id_, receipts in own.items():
            justify_denials(
                receipts, [denial for denial, violated, who in denials if "own" in violated and who == id_], 900
            )
        assert denials
        assert used(ledger, key) == total
        return spans(joint)

    until_they_collide(one_round)


def test_plans_that_change_midway():
    """Limits go up and down under load: each call meets one that was in force, and the count is never lost."""

    def one_round():
        ledger, key, secret = open_ledger("100/day")
        changes, receipts, denials = [Change(0, 0, 100)], [], []

        def call(rng, cost):
            return ledger.consume(rng.choice((secret, key)), cost)

        def operator(rng):
            for turn in range(100):
                limit = 100 + 25 * turn - rng.choice((0, 60))
                plan = UsagePlan("PlanA" if turn % 3 else "PlanB", f"{limit}/day")
                begun = now()
                ledger.replace_plan(plan)
                if turn % 3 < 2:
                    ledger.associate(key, plan)
                changes.append(Change(begun, now(), limit))

        together(operator, *[spender(call, receipts, denials, calls=1000) for _ in range(THREADS - 1)])
        assert used(ledger, key) == check(receipts, denials, changes)
        return spans(receipts)

    until_they_collide(one_round)


@pytest.mark.parametrize("overlap", [0, 1])
def test_rotations_midway(overlap):
    """Each secret is good until its rotation, without overlap, and never after it; the count goes on under the next."""

    def one_round():
        ledger, key, secret = open_ledger("9000/day")
        issued, receipts, refused, over = [(0, 0, secret)], [], [], threading.Event()

        def operator(rng):
            for _ in range(100):
                begun = now()
                fresh = ledger.rotate_key(key, timedelta(hours=overlap)).secret
                issued.append((begun, now(), fresh))
                for _ in range(rng.randrange(5)):
                    ledger.peek(fresh)
            over.set()

        def caller(rng):
            for turn in range(1001):
                if turn == 1000:  # a thousand calls may all have come between one rotation and the word of it
                    over.wait(60)
                number = max(0, len(issued) - 1 - (rng.random() < 0.3 and turn < 1000))
                begun = now()
                decision = ledger.consume(issued[number][2])
                ended = now()
                if decision:
                    receipts.append(Receipt(begun, ended, 1, decision.limits[0].used))
                    assert overlap or number + 1 >= len(issued) or begun <= issued[number + 1][1]
                else:
                    refused.append((number, begun, ended, decision.reason))

        together(operator, *[caller] * (THREADS - 1))
        for number, _, ended, reason in refused:
            assert reason is Reason.UNKNOWN_KEY
            assert not overlap
            assert number + 1 < len(issued), "the newest secret was refused"
            assert issued[number + 1][0] <= ended, "a secret was refused before its rotation began"
        assert used(ledger, key) == check_receipts(receipts) > 0
        assert ledger.get_key(key).secrets[0].hint
        return spans(receipts)

    until_they_collide(one_round)


def test_a_key_that_is_disabled_and_enabled():
    """A call that lies between a switch off and the next switch on is refused, one between on and off is not."""

    def one_round():
        ledger, key, secret = open_ledger("9000/day")
        switches, receipts, refused = [(0, 0, True)], [], []

        def operator(rng):
            for turn in range(200):
                begun = now()
                (ledger.enable_key if turn % 2 else ledger.disable_key)(key)
                switches.append((begun, now(), bool(turn % 2)))

        def call(rng, cost):
            return ledger.consume(secret, cost)

        together(operator, *[spender(call, receipts, refused, calls=1000) for _ in range(THREADS - 1)])

        def settled(begun, ended):
            """On or off, where no switch was under way during a call; else None."""
            before = bisect_right([switch[1] for switch in switches], begun) - 1
            after = switches[before + 1][0] if before + 1 < len(switches) else ended + 1
            return switches[before][2] if after > ended else None

        for receipt in receipts:
            assert settled(receipt.invoked, receipt.returned) is not False
        for denial, decision in refused:
            assert decision.reason is Reason.DISABLED_KEY
            assert settled(denial.invoked, denial.returned) is not True
        assert used(ledger, key) == check_receipts(receipts)
        return spans(receipts, [denial for denial, _ in refused])

    until_they_collide(one_round)


def test_reservations_and_refunds():
    """Held, committed, cancelled, lapsed, refunded twice at once: what is used in the end is what was kept."""

    def one_round():
        ledger, key, secret = open_ledger("100000/day")
        calls, gifts = [], []

        def job(rng):
            kept = 0
            for _ in range(250):
                begun = now()
                cost = rng.randint(1, 5)
                if rng.random() < 0.5:
                    decision = ledger.consume(secret, cost)
                    gifts.append(decision)
                    kept += cost
                else:
                    held = ledger.reserve(key, cost, ttl=timedelta(hours=1))
                    end = rng.randrange(3)
                    if end == 0:
                        held.cancel()
                    elif end == 1:
                        kept += held.commit(rng.randint(1, 7)).cost
                    else:
                        with held:
                            pass
                    with pytest.raises(ReservationClosed):
                        held.commit()
                if gifts and rng.random() < 0.5:
                    kept -= ledger.refund(rng.choice(gifts))
                calls.append((begun, now()))
            return kept

        kept = sum(together(*[job] * THREADS))
        assert used(ledger, key) == kept
        back = sum(ledger.refund(decision) for decision in gifts)
        assert back > 0
        assert used(ledger, key) == kept - back
        return calls

    until_they_collide(one_round)


def test_request_ids_are_charged_once():
    """Every thread sends the same requests: each is charged once, and all are told the same."""

    def one_round():
        ledger, key, secret = open_ledger("50000/day")
        calls = []

        def job(rng):
            told = {}
            for number in rng.sample(range(400), 400):
                begun = now()
                decision = ledger.consume(secret, 1 + number % 3, request_id=f"r{number}")
                calls.append((begun, now()))
                told[number] = decision.id, decision.limits[0].used, decision.replayed
                with pytest.raises(RequestMismatch):
                    ledger.consume(secret, 7, request_id=f"r{number}")
            return told

        answers = together(*[job] * THREADS)
        for number in range(400):
            assert len({told[number][:2] for told in answers}) == 1
            assert sorted(told[number][2] for told in answers) == [False] + [True] * (THREADS - 1)
        assert used(ledger, key) == sum(1 + number % 3 for number in range(400))
        return calls

    until_they_collide(one_round)


def test_throttles_on_a_moving_clock():
    """While the clock moves, over any span at most the burst and what drained are admitted."""

    def one_round():
        clock = ManualClock(NOON)
        ledger = Ledger(clock=clock)
        ledger.add_plan(UsagePlan("PlanA", "1000/s burst 20, 100000/day"))
        key, secret = ledger.issue_key("Key123", plan="PlanA")
        admitted, calls = [], []

        def ticker(rng):
            for _ in range(1500):
                clock.advance(rng.choice((100, 500, 1400)))
                ledger.peek(key)

        def caller(rng):
            for _ in range(1200):
                before = clock()
                begun = now()
                decision = ledger.consume(rng.choice((secret, key)))
                calls.append((begun, now()))
                if decision:
                    admitted.append((before, clock()))
                else:
                    assert decision.reason is Reason.THROTTLED

        together(ticker, *[caller] * (THREADS - 1))
        starts, ends = sorted(a for a, _ in admitted), sorted(b for _, b in admitted)
        for since in starts[:: max(1, len(starts) // 20)]:
            for until in ends[:: max(1, len(ends) // 20)]:
                within = sum(since <= a and b <= until for a, b in admitted)
                assert within <= 20 + (until - since) // 1000 or until < since
        assert used(ledger, key, 1) == len(admitted) >= 20
        return calls

    until_they_collide(one_round)


def test_keys_come_and_go_beside_others():
    """Threads that add, move, count and remove keys of their own do not disturb each other, nor a key they share."""

    def one_round():
        ledger, shared, secret = open_ledger("100000/day")
        ledger.add_plan(UsagePlan("PlanB", "3/day"))
        receipts, turns = [], []

        def job(rng):
            for turn in range(60):
                entered = now()
                name = f"{threading.get_ident()}-{turn}"
                key, own = ledger.issue_key(name, plan="PlanA", id=name, account=rng.choice((None, name + "-account")))
                assert [ledger.consume(own).limits[0].used for _ in range(2)] == [1, 2]
                ledger.associate(key, "PlanB")
                assert [bool(ledger.consume(own)) for _ in range(2)] == [True, False]
                begun = now()
                decision = ledger.consume(secret)
                receipts.append(Receipt(begun, now(), 1, decision.limits[0].used))
                ledger.remove_key(key)
                assert ledger.consume(own).reason is Reason.UNKNOWN_KEY
                turns.append((entered, now()))

        together(*[job] * THREADS)
        assert check_receipts(receipts) == 60 * THREADS
        assert ledger.list_keys() == [ledger.get_key(shared)]
        return turns

    until_they_collide(one_round)

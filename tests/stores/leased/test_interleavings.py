"""Two calls at once in one process that leases, switched between at every opcode; as ``test_interleavings``.

The shared store is asked for one thing at a time and is not switched away from: what it does is its own tests' matter.
"""

from __future__ import annotations

import asyncio

import pytest

from interleavings import (
    DAY,
    MINUTE,
    NOON,
    OLD,
    Scenarios,
    World,
    files,
    grant,
    plant,
    raise_the_limit,
    rotate_at_once,
)  # fmt: skip
from quota import AsyncLedger, Ledger, ManualClock, Reason, UsagePlan
from quota.stores.leased import AsyncLeasedStore, LeasedStore
from quota.stores.leased import flow as _leased_steps
from quota.stores.leased.flow import Leasing
from quota.stores.leased.holder import HeldLease
from quota.stores.memory import MemoryStore
from quota.stores.memory.one_meter import OneMeter

LEASED = files(
    "ledger/sync",
    "operations/headroom",
    "process/locks",
    "stores/memory/one_meter",
    *(f"stores/leased/{part}" for part in ("store", "holder", "index", "lane", "flow")),
)
"""All of this process that a leased call passes through and threads share."""
ASKING = files("stores/leased/store", "stores/leased/flow")
"""Of these, what asks the shared store: few enough places for two preemptions."""
LEASE = 4


@pytest.fixture(autouse=True)
def _small_leases(monkeypatch):
    """The first lease covers four calls, so that a scenario comes to its end soon."""
    monkeypatch.setattr(_leased_steps, "FIRST", LEASE)


class LeasedWorld(World):
    """A process that leases and what it counts; ``operator``: another one, which has no leases."""

    def __init__(self, limits, **options):
        self.shared = MemoryStore(stripes=1)
        super().__init__(limits, **options)
        self.operator = Ledger(self.shared, clock=self.clock)

    def store(self, stripes):  # noqa: ARG002 -- the shared store has its own
        return LeasedStore(self.shared, share=1)

    def counted(self):
        """What the shared store counts today, and how much of it is out on lease."""
        rows = self.operator.usage("Key123")
        return sum(row.used for row in rows), sum(row.leased for row in rows)

    def revoke(self, call, *args):
        """Do what no admission may come after, not even of a call that was under way."""
        call(*args)
        self.last = self.admitted()

    def admitted(self):
        """What was spent for sure: nothing of it is held when this is asked."""
        used, leased = self.counted()
        assert leased == 0
        return used

    def settle(self, start=0):
        """After a clean shutdown all that is counted was admitted, in an order that real time allows."""
        self.ledger.close()
        total = super().settle(start)
        assert self.counted() == (total, 0)
        return total

    def leaves(self, total):
        """After a clean shutdown so much is counted, and nothing is out."""
        self.ledger.close()
        assert self.counted() == (total, 0)

    def used(self):
        decision = self.operator.peek(self.key)
        return decision.limits[0].used - bool(decision)


scenario = Scenarios(LeasedWorld, LEASED)


@scenario("100/day")
def first_calls(w):
    """The first calls of a key: before there is a lease, and while one is taken."""

    def check(first, second):
        assert w.settle() == 4

    return [lambda: (w.consume(), w.consume()), lambda: (w.consume(), w.consume())], check


@scenario("100/day", warm=LEASE)
def the_last_of_a_lease(w):
    """One unit of a lease is left: one of two calls has it, the other one another lease's."""

    def check(first, second):
        assert first
        assert second
        assert w.settle() == LEASE + 2

    return [w.consume, w.consume], check


@scenario("100/day", warm=LEASE + 1)
def nothing_is_left_of_a_lease(w):
    """Both find it used up: both are served, and nothing is burned."""

    def check(first, second):
        assert first
        assert second
        assert w.settle() == LEASE + 3

    return [w.consume, w.consume], check


@scenario("100/day, 1000/s burst 1000, 900/minute burst 900 as slow", warm=LEASE)
def the_last_of_a_lease_on_the_general_path(w):
    """The same where the plan is none for the fast path."""
    return the_last_of_a_lease(w)


@scenario("12/day", warm=2)
def the_last_units_of_a_limit(w):
    """Eleven calls for ten units, from leases and one by one."""

    def check(first, second):
        assert w.settle() == 12

    return [lambda: [w.consume() for _ in range(9)], lambda: (w.consume(), w.consume())], check


@scenario("100/day", warm=2)
def a_peek_and_a_call(w):
    """Who peeks changes nothing."""

    def check(first, second):
        assert first.allowed
        assert first.limits[0].used in (3, 4)
        assert w.settle() == 3

    return [lambda: w.ledger.peek(OLD), w.consume], check


@scenario("100/day", warm=2)
def a_secret_and_its_key(w):
    """Two leases of one count."""

    def check(first, second):
        assert all(first)
        assert all(second)
        w.leaves(6)

    return [
        lambda: (w.ledger.consume(OLD), w.ledger.consume(OLD)),
        lambda: (w.ledger.consume(w.key), w.ledger.consume(w.key)),
    ], check


@scenario("100/day", warm=2)
def at_a_refresh(w):
    """A refresh is due: one renews, the other one waits or finds it done; a call that read the clock before is served."""

    def later():
        w.clock.advance(1_000_000)
        return w.consume()

    def check(first, second):
        assert all(first)
        assert second
        assert w.settle() == 5

    return [lambda: (w.consume(), w.consume()), later], check


@scenario("100/day", warm=3)
def the_next_window(w):
    """Midnight between two readings of the clock: each unit is counted in the window that its decision names."""
    w.clock.advance(DAY // 2 - MINUTE)
    w.ledger.consume(OLD)
    w.ledger.consume(OLD)

    def tomorrow():
        w.clock.advance(2 * MINUTE)
        return w.ledger.consume(OLD), w.ledger.consume(OLD)

    def check(first, second):
        assert first
        assert all(second)
        w.ledger.close()
        new = sum(decision.at.day == second[0].at.day for decision in (first, *second))
        assert w.used() == new >= 2
        assert w.counted() == (8, 0)

    return [lambda: w.ledger.consume(OLD), tomorrow], check


@scenario("100/day", warm=2)
def given_back_for_idleness(w):
    """What was idle for long is given back while it is asked for again."""
    w.clock.advance(3_000_000)

    def check(first, second):
        assert all(first)
        assert w.settle() == 4

    return [lambda: (w.consume(), w.consume()), w.ledger.store.tend], check


@scenario("100/day", warm=2)
def closed_under_a_call(w):
    """A clean shutdown burns nothing, of calls that were under way neither."""

    def check(first, second):
        assert all(first)
        assert w.counted() == (4, 0)

    return [lambda: (w.consume(), w.consume()), w.ledger.close], check


@scenario("100/day", warm=2)
def more_keys_than_are_remembered(w):
    """A key that is forgotten to make room while it is asked for loses nothing."""
    w.ledger.store._most_keys = 1
    return a_secret_and_its_key(w)


@scenario("100/day", warm=1)
def closed_under_the_first_lease(w):
    """The same while no lease is held."""

    def check(first, second):
        assert first
        assert w.counted() == (2, 0)

    return [w.consume, w.ledger.close], check


# what this process changes binds at once


scenario("100/day", warm=1)(rotate_at_once)
scenario("2/day", warm=2)(raise_the_limit)
scenario("2/day", warm=2)(grant)


@scenario("100/day", warm=2)
def disable(w):
    """A call that begins after the key was disabled here is refused."""

    def stop():
        w.revoke(w.ledger.disable_key, "Key123")
        return w.consume(), w.consume(w.key)

    def check(first, second):
        assert [decision.reason for decision in second] == [Reason.DISABLED_KEY] * 2
        assert {decision.reason for decision in first} <= {Reason.OK, Reason.DISABLED_KEY}
        w.ledger.enable_key("Key123")
        assert w.settle() == w.last == 2 + sum(map(bool, first))

    return [lambda: (w.consume(), w.consume()), stop], check


@scenario("100/day", warm=1)
def disable_while_a_lease_is_taken(w):
    """The same before there is a lease."""

    def stop():
        w.revoke(w.ledger.disable_key, "Key123")
        return w.consume()

    def check(first, second):
        assert second.reason is Reason.DISABLED_KEY
        w.ledger.enable_key("Key123")
        assert w.settle() == w.last == 1 + sum(map(bool, first))

    return [lambda: (w.consume(), w.consume()), stop], check


@scenario("100/day", warm=1)
def lower_the_limit(w):
    """A plan that is replaced here binds on the next call."""

    def lower():
        w.change(2, w.ledger.replace_plan, UsagePlan("PlanA", "2/day", alerts=()))
        return w.consume()

    def check(first, second):
        assert w.settle() == max(2, 1 + sum(map(bool, first)))

    return [lambda: (w.consume(), w.consume(), w.consume()), lower], check


@scenario("100/day", warm=1)
def set_remaining(w):
    """Exactly what is set to remain is admitted from then on."""

    def less():
        w.set = w.ledger.set_remaining("Key123", "requests/day", 1)
        return w.consume(), w.consume()

    def check(first, second):
        after = sum(map(bool, second)) + sum(decision.limits[0].used > w.set.used for decision in first if decision)
        assert after == 1
        w.leaves(1 + sum(map(bool, (*first, *second))))

    return [lambda: (w.consume(), w.consume(), w.consume()), less], check


@scenario("100/day", warm=1)
def forget(w):
    """Counts that are forgotten begin at zero; each call that was under way counts on the old ones or the new."""

    def drop():
        w.ledger.forget("Key123")
        return w.ledger.consume(OLD)

    def check(first, second):
        w.ledger.close()
        used, leased = w.counted()
        assert leased == 0
        assert 1 <= used <= 3
        numbers = sorted(decision.limits[0].used for decision in (*first, second))
        assert numbers == sorted([*range(2, 5 - used), *range(1, used + 1)])

    return [lambda: (w.ledger.consume(OLD), w.ledger.consume(OLD)), drop], check


@scenario("100/day", warm=1)
def remove(w):
    """A key that is removed here admits nothing from then on."""

    def drop():
        w.ledger.remove_key("Key123")
        return w.consume(), w.consume(w.key)

    def check(first, second):
        assert [decision.reason for decision in second] == [Reason.UNKNOWN_KEY] * 2

    return [lambda: (w.consume(), w.consume()), drop], check


# what the store decides at once


@scenario("10/day", warm=2)
def a_reservation_and_a_call(w):
    """What is held is not there for others, and what is on lease here is given back for it."""

    def check(held, taken):
        assert taken or held
        w.leaves(2 + 8 * bool(held) + bool(taken))

    return [lambda: w.ledger.reserve(OLD, 8, ttl=MINUTE), w.consume], check


@scenario("100/day", warm=2)
def refund_twice(w):
    """Of two refunds of a leased unit one gives back."""
    decision = w.ledger.consume(OLD)

    def check(*given):
        assert sorted(given) == [0, 1]
        w.leaves(2)

    return [lambda: w.ledger.refund(decision), lambda: w.ledger.refund(decision)], check


@scenario("100/day", warm=2)
def refund_and_take(w):
    """A refund gives back beside calls from the lease."""
    decision = w.ledger.consume(OLD)

    def check(given, taken):
        assert given == 1
        assert all(taken)
        w.leaves(4)

    return [lambda: w.ledger.refund(decision), lambda: (w.ledger.consume(OLD), w.ledger.consume(OLD))], check


@scenario("100/day", warm=2)
def an_id_and_a_call(w):
    """A call with an id goes to the store at once, beside one from the lease."""

    def check(first, second):
        assert first
        assert all(second)
        assert w.ledger.consume(OLD, request_id="r").id == first.id
        w.leaves(5)

    return [
        lambda: w.ledger.consume(OLD, request_id="r"),
        lambda: (w.ledger.consume(OLD), w.ledger.consume(OLD)),
    ], check


# the same, awaited


class Awaited:
    """A shared store that is awaited: others have their turn before it acts and before its answer is there."""

    exact_across_failover = True
    blocking = False

    def __init__(self, store):
        self.store = store

    def use_clock(self, clock):
        pass

    async def apply(self, request):
        await asyncio.sleep(0)
        answer = self.store.apply(request)
        await asyncio.sleep(0)
        return answer

    def __getattr__(self, name):
        async def call(*args):
            await asyncio.sleep(0)
            answer = getattr(self.store, name)(*args)
            await asyncio.sleep(0)
            return answer

        return call


async def overtaken(change, turns, calls=3):
    """Some calls, and a change that begins after some turns of the loop: (what was admitted, the store, by the change).

    ``by the change``: what the shared store counted, and had on lease, when the change had been made.
    """
    shared, clock = MemoryStore(), ManualClock(NOON)
    operator = Ledger(shared, clock=clock)
    ledger = AsyncLedger(AsyncLeasedStore(Awaited(shared), share=1), clock=clock)
    await ledger.add_plan(UsagePlan("PlanA", "100/day", alerts=()))
    await ledger.import_key(OLD, "Key123", "PlanA", id="Key123")
    assert await ledger.consume(OLD)

    def counted():
        return [(row.used, row.leased) for row in operator.usage("Key123")]

    async def consume():
        return [await ledger.consume(OLD) for _ in range(calls)]

    async def later():
        for _ in range(turns):
            await asyncio.sleep(0)
        await change(ledger)
        return counted()

    decisions, by_then = await asyncio.gather(consume(), later())
    await ledger.aclose()
    return sum(map(bool, decisions)), by_then, counted()


BINDING = {
    "disable": lambda ledger: ledger.disable_key("Key123"),
    "rotate": lambda ledger: ledger.rotate_key("Key123"),
    "dissociate": lambda ledger: ledger.dissociate("Key123", "PlanA"),
    "lower": lambda ledger: ledger.replace_plan(UsagePlan("PlanA", "1/day", alerts=())),
    "none remaining": lambda ledger: ledger.set_remaining("Key123", "requests/day", 0),
    "close": lambda ledger: ledger.aclose(),
}


@pytest.mark.spread(5)
@pytest.mark.parametrize("turns", range(16))
@pytest.mark.parametrize("name", BINDING)
def test_no_lease_overtakes_a_change(name, turns):
    """What this process changed binds when it has, whatever was being asked for: no unit is held then, none is spent."""
    admitted, by_then, after = asyncio.run(overtaken(BINDING[name], turns))
    ((used, leased),) = by_then
    assert leased == 0
    assert after == [(1 + admitted, 0)]
    assert name == "close" or used == 1 + admitted


def test_planted_lease_that_overtakes(monkeypatch):
    """It is seen where nobody waits for what is being asked for; but ``close`` finds that something is owed."""
    plant(
        monkeypatch,
        AsyncLeasedStore,
        "_leaseless",
        {"for lease_holder in self._hold_off(me):": "for lease_holder in self._hold_off(me)[:0]:"},
    )
    for name in ("disable", "rotate", "lower"):  # others ask the store first, and what was asked for is there by then
        with pytest.raises(AssertionError):
            for turns in range(16):
                test_no_lease_overtakes_a_change(name, turns)


@pytest.mark.spread(9)
@pytest.mark.parametrize("name", scenario)
def test_interleavings_with_one_preemption(name):
    """A hundred of them, others at each run."""
    report = scenario.run(name, limit=100)
    assert report.preempted > min(report.schedules, 100) - 25


@pytest.mark.slow
@pytest.mark.parametrize("name", scenario)
def test_every_interleaving_with_one_preemption(name):
    """Exhaustive."""
    report = scenario.run(name)
    assert report.preempted == report.schedules - 2 > 50


@pytest.mark.slow
@pytest.mark.parametrize("where", [LEASED, ASKING], ids=["anywhere", "asking"])
@pytest.mark.parametrize("name", scenario)
def test_interleavings_with_two_preemptions(name, where):
    """Three thousand of them, drawn with a seed."""
    report = scenario.run(name, preemptions=2, limit=3000, seed=len(name), files=where)
    assert report.preempted > min(report.schedules, 3000) - 100


TWICE = {"preemptions": 2, "limit": 6000, "seed": 1, "files": ASKING}
PLANTED = {
    "no lock on the fast path": (
        (OneMeter, "take", {
            "if not lock.acquire(False):": "if False:",
            "lock.release()\n        except": "pass\n        except",
        }),
        ["the_last_of_a_lease"],
    ),
    "spent beside the lock": (
        (Leasing, "_local", {"with lease_holder.stripe.exclusive():": "if True:"}),
        ["the_last_of_a_lease_on_the_general_path"],
    ),
    "two ask at once": (
        (LeasedStore, "apply", {"with lease_holder.gate:": "if True:"}),
        ["nothing_is_left_of_a_lease"],
    ),
    "given back while it is asked for": (
        (LeasedStore, "_settle", {", lease_holder.gate:": ":"}),
        ["a_reservation_and_a_call", "refund_and_take", "an_id_and_a_call"],
    ),
    "a lease asked for is not waited for": (
        (LeasedStore, "_leaseless", {"for lease_holder in self._hold_off(me):": "for lease_holder in self._hold_off(me)[:0]:"}),
        [
            "disable_while_a_lease_is_taken", "rotate_at_once", "lower_the_limit", "remove",
            "closed_under_the_first_lease", "set_remaining", "forget",
        ],
    ),
    "leases are taken while others wait for none": (
        (Leasing, "_lease_request", {"bool(self._off) or self._closed\n": "False\n"}),
        ["disable_while_a_lease_is_taken", "forget"], TWICE,
    ),
    "seen too late by who waits": (
        (Leasing, "_lease_request", {
            "self._asking.add(lease_holder)": "off = bool(self._off) or self._closed; self._asking.add(lease_holder)",
            "        off = bool(self._off) or self._closed\n": "",
        }),
        ["forget"], TWICE,
    ),
    "a refusal of before is kept": (
        (Leasing, "_take", {"self._refresh_us, epoch)": "self._refresh_us, self._epoch)"}),
        ["grant"],
    ),
    "a lane left open": (
        (HeldLease, "close", {"self.lane.until = 0": "pass"}),
        ["disable", "closed_under_a_call"],
    ),
}  # fmt: skip


@pytest.mark.spread(9)
@pytest.mark.parametrize(("what", "name"), [(what, name) for what, (_, names, *_) in PLANTED.items() for name in names])
def test_planted_races_are_found(monkeypatch, what, name):
    """A process with one mistake is caught by exploring the same scenario, and by replaying what was found."""
    mistake, _, *options = PLANTED[what]
    plant(monkeypatch, *mistake)
    scenario.caught(name, **dict(*options))

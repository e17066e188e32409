"""The leased store: the contract, what is exact and when, what a lease delays, what goes to the store at once."""

import asyncio
import pickle
import random
import threading
from collections import Counter
from contextlib import suppress
from datetime import datetime, timezone

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import rule

from awaited import Awaited
from every_store import run_threads
from quota import AsyncLedger, Ledger, ManualClock, PlanConflict, Quota, StoreUnavailable, UsagePlan, system_clock
from quota.clock import MICROSECOND
from quota.errors import InvalidValue
from quota.stores import open_store
from quota.stores.leased import AsyncLeasedStore, LeasedStore
from quota.stores.memory import MemoryStore
from quota.testing import Machine
from quota.testing.strategies import APIS, KEY_IDS, REQUEST_IDS, ROUTES, STEPS, TTLS
from servers import Valkey

START = 1_773_144_000_000_000
SECOND = 1_000_000


class SmallLimits(Machine):
    """Limits too small to lease, those of a key's own too: a throttle whose burst is twelve is leased."""

    open = staticmethod(lambda: LeasedStore(MemoryStore()))

    @rule(
        id_=KEY_IDS, which=st.integers(0, 5), value=st.sampled_from([None, 0, 2, 3, 8]), api=APIS, route=ROUTES,
        lasts=st.sampled_from([None, 1, 20_000_000, 3_600_000_000]),
    )  # fmt: skip
    def override(self, id_, which, value, api, route, lasts):
        Machine.override(self, id_, which, value, api, route, lasts)


TestSmallLimits = SmallLimits.TestCase
TestSmallLimits.settings = settings(stateful_step_count=40)


class OneHolder(Machine):
    """Limits large enough to lease: one process alone must answer as though there were no leases.

    Each key is always presented in the same way, on one route plan and in one unit: what it holds otherwise is another
    lease, and leased units count as used to all but their holder. The clock only goes on: what is not needed goes back
    at whatever call comes next, and the record has then been changed at that instant, so that a clock that is stepped
    back is told so sooner than the model thinks.
    """

    open = staticmethod(lambda: LeasedStore(MemoryStore(), share=0.5))
    scale = 50

    def _replace(self, plan):
        large = [
            Quota(limit.limit * self.scale, limit.period, name=limit.name, overage=limit.overage)
            for limit in plan.limits if isinstance(limit, Quota)
        ]  # fmt: skip
        names = {limit.name: limit for limit in large}
        super()._replace(UsagePlan(plan.id, list(names.values()), api=plan.api, alerts=plan.alerts))

    @rule(id_=KEY_IDS, cost=st.sampled_from([None, {"requests": 1}, {"requests": 3}]), api=APIS, request_id=REQUEST_IDS)
    def consume(self, id_, cost, api, request_id):
        Machine.consume(self, id_, cost, api, None, request_id)

    @rule(id_=KEY_IDS, cost=st.sampled_from([None, {"requests": 1}, {"requests": 3}]), api=APIS, ttl=TTLS)
    def keep_slot(self, id_, cost, api, ttl):
        Machine.keep_slot(self, id_, cost, api, None, ttl)

    @rule(id_=KEY_IDS, times=st.integers(1, 60))
    def hammer(self, id_, times):
        Machine.hammer(self, id_, times, known=False)

    @rule(steps=st.lists(STEPS, min_size=1, max_size=2))
    def tick(self, steps):
        Machine.tick(self, [abs(step) for step in steps])

    def every_unit_taken_is_used_or_held_or_was_given_back(self):
        """Not held here, where leased units count as used until they are back: the simulation keeps those books."""


TestOneHolder = OneHolder.TestCase
TestOneHolder.settings = settings(stateful_step_count=40)

TestOneHolderOfLittle = type(
    "Little", (OneHolder,), {"open": staticmethod(lambda: LeasedStore(MemoryStore(), share=1)), "scale": 1}
).TestCase
TestOneHolderOfLittle.settings = settings(max_examples=settings().max_examples // 2, stateful_step_count=40)


class AsyncOneHolder(OneHolder):
    """The same, awaited: with leases filled ahead of need."""

    open = staticmethod(lambda: AsyncLeasedStore(MemoryStore(), share=0.5, refresh=1000))

    def _ledger(self, store):
        return Awaited(AsyncLedger(store, clock=self.clock))


TestAsyncSmallLimits = type(
    "Small", (AsyncOneHolder,), {"open": staticmethod(lambda: AsyncLeasedStore(MemoryStore()))}
).TestCase
TestAsyncSmallLimits.settings = settings(max_examples=settings().max_examples // 2, stateful_step_count=25)


class Counting:
    """A shared store that counts what it is asked, and can be out of reach."""

    exact_across_failover = True

    def __init__(self, store=None):
        self.store = store or MemoryStore()
        self.asked = Counter()
        self.down = False
        self.closed = False

    def apply(self, request):
        if self.down:
            raise StoreUnavailable("out of reach; nothing was charged")
        self.asked[request.op] += 1
        return self.store.apply(request)

    def close(self):
        self.closed = True

    def __getattr__(self, name):
        return getattr(self.store, name)


class AsyncCounting(Counting):
    """The same, awaited, each call after the loop had its turn."""

    async def apply(self, request):
        await asyncio.sleep(0)
        answer = super().apply(request)
        await asyncio.sleep(0)
        return answer

    async def close(self):
        self.closed = True


@pytest.fixture
def clock():
    return ManualClock(START)


@pytest.fixture
def shared():
    return Counting()


def holder(shared, clock, limits="100000/day", alerts=(), **options):
    """A process: its ledger, with a key and its secret on a plan that is there already or is made."""
    ledger = Ledger(LeasedStore(shared, **options), clock=clock)
    ledger.add_plan(UsagePlan("p", limits, alerts=alerts))
    try:
        ledger.import_key("a-secret-that-everybody-knows", "k", "p", id="k")
    except PlanConflict:
        pass
    return ledger


SECRET = "a-secret-that-everybody-knows"


def consume(ledger, times, *args, **kwargs):
    return sum(bool(ledger.consume(SECRET, *args, **kwargs)) for _ in range(times))


def stands(shared, clock):
    """(used, leased) today, as the shared store tells."""
    (row,) = Ledger(shared, clock=clock).usage("k")
    return row.used, row.leased


def test_spending_asks_nothing(shared, clock):
    """A busy key is spent from leases: the store is asked once in hundreds of calls."""
    ledger = holder(shared, clock)
    assert consume(ledger, 20) == 20
    shared.asked.clear()
    assert consume(ledger, 480) == 480
    assert sum(shared.asked.values()) <= 3
    used, leased = stands(shared, clock)
    assert used - leased <= 500 <= used


def test_a_seldom_used_key_takes_no_lease(shared, clock):
    """One call a minute is one plain call of the store a minute."""
    ledger = holder(shared, clock)
    for _ in range(10):
        assert consume(ledger, 1) == 1
        clock.advance(60 * SECOND)
    assert shared.asked == {"consume": 10}


def test_small_limits_are_handed_out_one_by_one(shared, clock):
    """Where a lease would be too small, every call is a call of the store, and few more than that."""
    one, two = holder(shared, clock, "500/day"), holder(shared, clock, "500/day")
    assert consume(one, 300) + consume(two, 300) == 500
    assert stands(shared, clock) == (500, 0)
    assert sum(shared.asked.values()) <= 620


@pytest.mark.parametrize("seed", range(3))
def test_few_central_operations_and_no_early_refusal(shared, clock, seed):
    """100,000 units by eight holders of unequal speed: at most 0.05 operations a unit; none refused before 99.5 %."""
    dice, limit = random.Random(seed), 100_000
    holders = [holder(shared, clock) for _ in range(8)]
    weights = [1, 1, 2, 3, 5, 8, 13, 21]
    used, first = 0, None
    shared.asked.clear()
    while used < limit:
        for ledger in dice.choices(holders, weights, k=200):
            if ledger.consume(SECRET):
                used += 1
            elif first is None:
                first = used
        clock.advance(20_000)
    assert used == limit
    assert first >= 0.995 * limit
    assert sum(shared.asked.values()) <= 0.05 * limit
    for ledger in holders:
        ledger.close()
    assert stands(shared, clock) == (limit, 0)


def test_a_refusal_is_provisional_while_units_are_leased(shared, clock):
    """Another holder has units left: come back at the next refresh. None has: the window's end."""
    one, two = holder(shared, clock, share=0.5), holder(shared, clock, share=0.5)
    assert consume(one, 5000) == 5000
    while two.consume(SECRET):
        pass
    refused = two.consume(SECRET)
    used, leased = stands(shared, clock)
    assert (used, refused.reason.value) == (100_000, "QUOTA_EXCEEDED")
    assert leased > 0
    assert refused.retry_at == two.peek(SECRET).retry_at == datetime.fromtimestamp(START / 1e6 + 1, timezone.utc)
    shared.asked.clear()
    assert consume(two, 50) == 0
    assert not shared.asked  # until then the answer is known here
    assert two.reserve(SECRET, 1, ttl=SECOND).decision.retry_at == refused.retry_at
    assert two.consume(SECRET, request_id="r").retry_at == refused.retry_at
    while one.consume(SECRET):
        pass
    clock.advance(SECOND)
    final = two.consume(SECRET)
    assert stands(shared, clock) == (100_000, 0)
    assert final.retry_at == final.limits[0].resets_at


def test_units_given_back_are_there_at_the_next_refresh(shared, clock):
    """What an idle holder gives back is admitted elsewhere when the refused come back."""
    one, two = holder(shared, clock, share=0.5), holder(shared, clock, share=0.5)
    consume(one, 5000)
    while two.consume(SECRET):
        pass
    clock.advance(2 * SECOND)
    one.store.tend()
    assert stands(shared, clock)[1] == 0
    assert two.consume(SECRET)


def test_each_alert_is_told_once(shared, clock):
    """By the call that crosses it: leases stop short of a threshold."""
    holders = [holder(shared, clock, "10000/day", alerts=(50, 80, 100), share=0.05) for _ in range(4)]
    told, used = [], 0
    dice = random.Random(5)
    while used < 10_000:
        decision = dice.choice(holders).consume(SECRET)
        used += bool(decision)
        told += [(percent, used) for _, percent in decision.crossed]
        clock.advance(1000)
    assert [percent for percent, _ in told] == [50, 80, 100]
    assert all(percent * 100 - 500 <= at <= percent * 100 for percent, at in told)


@pytest.mark.parametrize("seed", range(5))
def test_throttles_keep_their_bound(shared, clock, seed):
    """Over any interval: admitted <= burst + rate x t + what was out on lease when it began."""
    dice = random.Random(seed)
    holders = [holder(shared, clock, "400/s burst 2000", share=0.5) for _ in range(3)]
    events = []
    for _ in range(3000):
        out = (
            sum(take.units for lease in (record_of(shared).leases or {}).values() for take in lease.takes)
            if events
            else 0
        )
        if dice.choice(holders).consume(SECRET):
            events.append((clock(), out))
        clock.advance(dice.choice([0, 0, 500, 1500, 200_000 if dice.random() < 0.02 else 0]))
    assert len(events) > 2000
    for i in range(0, len(events), 7):
        start, out = events[i]
        for j in range(i, len(events), 5):
            assert j - i + 1 <= 2000 + 400 * (events[j][0] - start) / SECOND + out + 1


def record_of(shared):
    return shared.store.rooms["k"].key_entry.record


def test_a_throttled_refusal_is_the_stores(shared, clock):
    """``retry_at`` of a throttle is exact: what was leased of it was poured for good."""
    ledger = holder(shared, clock, "1000/s burst 1000")
    assert consume(ledger, 1200) == 1000
    refused = ledger.consume(SECRET, 5)
    assert refused.reason.value == "THROTTLED"
    clock.set(refused.retry_at - MICROSECOND)
    assert not ledger.consume(SECRET, 5)
    clock.set(refused.retry_at)
    assert ledger.consume(SECRET, 5)


def test_usage_tells_leased_from_spent(shared, clock):
    """Leased units count as used until they are given back; ``leased`` says how many of them there are."""
    ledger = holder(shared, clock)
    consume(ledger, 100)
    used, leased = stands(shared, clock)
    assert used > 100
    assert 0 < leased < used
    (row,) = ledger.usage("k")  # its own process settles first
    assert (row.used, row.leased, row.remaining) == (100, 0, 99_900)


def test_closing_burns_nothing(shared, clock):
    """All that was not spent goes back, a lease that was not spent at all included."""
    ledger = holder(shared, clock)
    consume(ledger, 100)
    shared.down = True
    clock.advance(61 * SECOND)
    consume(ledger, 1)
    shared.down = False
    ledger.close()
    ledger.close()
    assert shared.closed
    assert stands(shared, clock) == (101, 0)


def test_a_lease_closed_unspent_is_given_back(shared, clock):
    """Its renewal was refused and the store was lost right then: the units are still owed."""
    ledger = holder(shared, clock)
    consume(ledger, 18)  # a lease of 64, hardly used
    clock.advance(SECOND)
    real, calls = shared.store.apply, []

    def apply(request):
        calls.append(request.op)
        if request.op != "renew":
            raise StoreUnavailable("cut; nothing was charged")
        return real(request)

    shared.store.apply = apply
    with pytest.raises(StoreUnavailable):
        ledger.consume(SECRET)
    shared.store.apply = real
    ledger.close()
    assert calls == ["renew", "lease"]
    assert stands(shared, clock) == (18, 0)


def test_spending_goes_on_without_the_store(shared, clock):
    """What is held is spent while the store is out of reach, over refreshes and minutes, and then ``StoreUnavailable``."""
    ledger = holder(shared, clock)
    consume(ledger, 100)
    _, leased = stands(shared, clock)
    shared.down = True
    spent = 0
    with pytest.raises(StoreUnavailable):
        for _ in range(1000):
            spent += bool(ledger.consume(SECRET))
            clock.advance(SECOND // 2)
    assert 100 < spent + 100 <= 100 + leased
    shared.down = False
    while True:
        with suppress(StoreUnavailable):  # until the next call asks
            assert ledger.consume(SECRET)
            break
    ledger.close()
    assert stands(shared, clock) == (101 + spent, 0)


def test_a_refund_of_a_leased_unit_counts_once(shared, clock):
    """Whether its lease was settled by then or not, here or elsewhere, before or after a minute turned."""
    one, two = holder(shared, clock), holder(shared, clock)
    decisions = [one.consume(SECRET) for _ in range(200)]
    assert (two.refund(decisions[150]), two.refund(decisions[150]), one.refund(decisions[150])) == (1, 0, 0)
    assert (one.refund(decisions[151]), two.refund(decisions[151])) == (1, 0)
    clock.advance(90 * SECOND)
    assert two.refund(pickle.loads(pickle.dumps(decisions[152]))) == 1
    one.close()
    assert stands(shared, clock) == (197, 0)
    one.replace_plan(UsagePlan("p", "100000/day, 1000/minute as new"))
    assert [status.used for status in two.peek(SECRET).limits] == [198, 1]


def test_what_others_change_binds_within_one_refresh(shared, clock):
    """A key disabled, a plan lowered, a key moved: at most one refresh later, by the holder's own clock."""
    operator = Ledger(shared, clock=clock)
    ledger = holder(shared, clock, refresh=0.25)
    consume(ledger, 100)
    operator.disable_key("k")
    assert ledger.consume(SECRET)
    clock.advance(SECOND // 4)
    assert ledger.consume(SECRET).reason.value == "DISABLED_KEY"
    operator.enable_key("k")
    consume(ledger, 50)
    operator.replace_plan(UsagePlan("p", "100/day"))
    clock.advance(SECOND // 4)
    assert ledger.consume(SECRET).reason.value == "QUOTA_EXCEEDED"
    operator.rotate_key("k")
    clock.advance(SECOND // 4)
    assert ledger.consume(SECRET).reason.value == "UNKNOWN_KEY"


def test_what_this_process_changes_binds_at_once(shared, clock):
    """Its own leases are settled first."""
    ledger = holder(shared, clock)
    consume(ledger, 100)
    ledger.disable_key("k")
    assert not ledger.consume(SECRET)
    ledger.enable_key("k")
    consume(ledger, 100)
    ledger.replace_plan(UsagePlan("p", "150/day"))
    assert not ledger.consume(SECRET)
    assert ledger.grant("k", "requests/day", 10).remaining == 0
    assert ledger.set_remaining("k", "requests/day", 7).remaining == 7
    assert consume(ledger, 10) == 7


def test_other_units_and_routes_and_accounts(shared, clock):
    """All are leased, by the slower way; exact all the same."""
    ledger = Ledger(LeasedStore(shared), clock=clock)
    ledger.add_plan(UsagePlan("p", "100000/day, 5000000 tokens/day, 200000/day by account as team",
                              routes={"r": "90000/day as route"}))  # fmt: skip
    for id_ in ("k", "l"):
        ledger.import_key(f"the-secret-of-the-key-{id_}", id_, "p", id=id_, account="team")
    for _ in range(300):
        for id_ in ("k", "l"):
            assert ledger.consume(f"the-secret-of-the-key-{id_}", {"requests": 1, "tokens": 50}, route="r")
            assert ledger.consume(f"the-secret-of-the-key-{id_}")
    assert sum(shared.asked.values()) < 120
    ledger.close()
    rows = {row.limit: (row.used, row.leased) for row in Ledger(shared, clock=clock).usage("k")}
    assert rows == {"requests/day": (600, 0), "tokens/day": (15_000, 0), "team": (1200, 0), "route": (300, 0)}


def test_idle_leases_go_back_in_the_background(shared):
    """Asked for, a thread gives them back; ``close`` ends it."""
    gave = threading.Event()
    real = shared.store.apply

    def apply(request):
        answer = real(request)
        if request.op == "return":
            gave.set()
        return answer

    shared.store.apply = apply
    ledger = holder(shared, system_clock, refresh=0.02, background=True)
    consume(ledger, 100)
    assert gave.wait(20)
    ledger.close()
    assert stands(shared, system_clock) == (100, 0)
    assert not any(thread.name == "quota-leases" for thread in threading.enumerate())


def test_no_thread_unless_asked_for(shared, clock):
    """Idle leases of other keys go back with the calls that ask the store anyway."""
    ledger = holder(shared, clock)
    ledger.import_key("another-secret-for-another-key", "other", "p")
    threads = threading.active_count()
    consume(ledger, 100)
    clock.advance(3 * SECOND)
    ledger.consume("another-secret-for-another-key")
    assert stands(shared, clock) == (100, 0)
    assert threading.active_count() == threads


def test_leases_of_a_process_that_crashes_again_and_again(shared, clock):
    """The record stays small, and what is burned is what was leased."""
    for _ in range(400):
        consume(holder(shared, clock, "10000000/month"), 3)
        clock.advance(60 * SECOND)
    assert len(record_of(shared).leases) <= 260
    rows = Ledger(shared, clock=clock).usage("k")
    assert sum(row.used for row in rows) <= 400 * 17 + 400


def test_lease_holders_that_hold_nothing_are_forgotten(shared, clock):
    """A process sees any number of keys; what it keeps of them is bounded."""
    ledger = holder(shared, clock, most_keys=100)
    for number in range(300):
        assert not ledger.consume(f"{SECRET}-{number}")
    assert len(ledger.store._lease_holders) <= 200


def test_threads_share_a_lease(shared):
    """Many threads on one key: exact, and few operations."""
    ledger = holder(shared, system_clock, "20000/day")
    counts = []
    run_threads([lambda: counts.append(consume(ledger, 3000))] * 8)
    assert sum(counts) == 20_000
    ledger.close()
    assert stands(shared, system_clock) == (20_000, 0)


def suspensions(coroutine):
    """How often a coroutine gives the loop its turn."""
    count = 0
    try:
        while True:
            coroutine.send(None)
            count += 1
    except StopIteration:
        return count


def test_spending_never_suspends(clock):
    """From a lease the answer is there at once; what comes next is fetched meanwhile by a task of the loop."""

    async def story():
        shared = AsyncCounting()
        ledger = AsyncLedger(AsyncLeasedStore(shared), clock=clock)
        await ledger.add_plan(UsagePlan("p", "100000/day", alerts=()))
        await ledger.import_key(SECRET, "k", "p", id="k")
        for _ in range(40):
            assert await ledger.consume(SECRET)
            await asyncio.sleep(0)
        waited = 0
        for _ in range(5000):
            waited += suspensions(ledger.consume(SECRET))
            for _ in range(5):
                await asyncio.sleep(0)
            clock.advance(500)
        asked = sum(shared.asked.values())
        await ledger.aclose()
        rows = await AsyncLedger(shared, clock=clock).usage("k")
        return waited, asked, (rows[0].used, rows[0].leased), shared.closed

    waited, asked, counted, closed = asyncio.run(story())
    assert waited == 0
    assert asked < 250
    assert (counted, closed) == ((5040, 0), True)


def test_idle_leases_go_back_by_the_loop():
    """While something is held a task looks after it, once per refresh; then there is none."""

    async def story():
        shared = AsyncCounting()
        ledger = AsyncLedger(AsyncLeasedStore(shared, refresh=0.01))
        await ledger.add_plan(UsagePlan("p", "100000/day", alerts=()))
        await ledger.import_key(SECRET, "k", "p", id="k")
        for _ in range(100):
            await ledger.consume(SECRET)
        while ledger.store._open:
            await asyncio.sleep(0)
        (row,) = await AsyncLedger(shared).usage("k")
        await ledger.aclose()
        return row.used, row.leased

    assert asyncio.run(story()) == (100, 0)


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_cancelled_while_asking(clock, turns):
    """Before the store acts, after it did, or when all is done. The outcome is unknown, as for a lost answer: the next call finds out, and nothing is counted twice."""

    async def story():
        shared = AsyncCounting()
        ledger = AsyncLedger(AsyncLeasedStore(shared), clock=clock)
        await ledger.add_plan(UsagePlan("p", "100000/day", alerts=()))
        await ledger.import_key(SECRET, "k", "p", id="k")
        assert await ledger.consume(SECRET)
        task = asyncio.ensure_future(ledger.consume(SECRET))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        for _ in range(100):
            assert await ledger.consume(SECRET)
        await ledger.aclose()
        (row,) = await AsyncLedger(shared, clock=clock).usage("k")
        return row.used - (not task.cancelled()), row.leased

    assert asyncio.run(story()) == (101, 0)


def test_urls():
    """``leased+`` before a store's URL, with options of its own; nonsense is refused."""
    store = open_store("leased+memory://?share=0.1&refresh=0.5&stripes=3")
    assert (store.share, store.refresh, len(store.store._stripes)) == (0.1, 0.5, 3)
    assert isinstance(open_store("leased+memory://", asynchronous=True), AsyncLeasedStore)
    for url in ("leased+memory://?share=much", "leased+nothing://", "leased://", "leased+memory://?share=2"):
        with pytest.raises(InvalidValue):
            open_store(url)
    with pytest.raises(InvalidValue):
        LeasedStore(MemoryStore(), refresh=0)


def test_over_a_real_server():
    """Valkey behind, awaited and not, in two processes' worth of stores at once."""
    server = Valkey()
    try:
        with Ledger(LeasedStore(server.url)) as ledger:
            ledger.add_plan(UsagePlan("p", "20000/day", alerts=()))
            ledger.import_key(SECRET, "k", "p", id="k")

            async def story():
                async with AsyncLedger(f"leased+{server.url}") as other:
                    return sum([bool(await other.consume(SECRET)) for _ in range(3000)])

            assert consume(ledger, 3000) + asyncio.run(story()) == 6000
        with Ledger(server.url) as after:
            (row,) = after.usage("k")
            assert (row.used, row.leased) == (6000, 0)
    finally:
        server.stop()


def test_an_answer_lost_until_its_window_was_over(shared, clock):
    """The lease is not handed out any more; the store is lost once more before it is given back; closing still does."""
    ledger = holder(shared, clock, "100000/minute")
    consume(ledger, 1)
    real, lost = shared.store.apply, []

    def apply(request):
        if len(lost) == 2:
            raise StoreUnavailable("cut; nothing was charged")
        answer = real(request)
        lost.append(answer)
        if len(lost) == 1:
            raise StoreUnavailable("the outcome is unknown")
        return answer

    shared.store.apply = apply
    with pytest.raises(StoreUnavailable):
        ledger.consume(SECRET)
    clock.advance(60 * SECOND)
    with pytest.raises(StoreUnavailable):
        ledger.consume(SECRET)
    assert (lost[0].units, lost[1].units, lost[1].decision) == ({"requests": 16}, {}, None)
    shared.store.apply = real
    ledger.close()
    (lease,) = record_of(shared).leases.values()
    assert (lease.takes, record_of(shared).meters[0].total) == ((), 1)


def test_a_clock_stepped_back_asks_again(shared, clock):
    """How long ago the store was asked is not known any more: what others changed binds at once, and for good."""
    ledger = holder(shared, clock)
    consume(ledger, 100)
    Ledger(shared, clock=clock).disable_key("k")
    clock.advance(-2 * SECOND)
    assert ledger.consume(SECRET).reason.value == "DISABLED_KEY"
    clock.advance(2 * SECOND)
    assert ledger.consume(SECRET).reason.value == "DISABLED_KEY"


KEPT_OUT = {
    "address": lambda ledger: ledger.consume(SECRET, address="192.0.2.1"),
    "scope": lambda ledger: ledger.consume(SECRET, address="10.0.0.1", scope="write"),
    "disabled": lambda ledger: (ledger.disable_key("k"), ledger.consume(SECRET), ledger.enable_key("k"))[1],
}


@pytest.mark.parametrize("why", KEPT_OUT)
def test_a_call_that_its_key_keeps_out_leaves_nothing_in_doubt(shared, clock, why):
    """Its answer is known: taken for lost, the next refusal changed the record, and the one behind it moved its time."""
    ledger = holder(shared, clock, "1/day")
    ledger.update_key("k", networks=["10.0.0.0/8"], scopes=["read"])
    first = ledger.consume(SECRET, address="10.0.0.1")
    assert KEPT_OUT[why](ledger).status == 403
    before = record_of(shared).encode()
    for _ in range(3):
        assert ledger.consume(SECRET, address="10.0.0.1").reason.value == "QUOTA_EXCEEDED"
        clock.advance(300 * SECOND)
    assert record_of(shared).encode() == before
    clock.advance(-900 * SECOND)
    assert ledger.refund(first) == 1

"""Waiting until a call is admitted: never past the deadline, never too early, in order, and not at all where it is vain."""

import asyncio
import threading
from datetime import timedelta
from functools import partial
from time import monotonic

import pytest

from forked import FORKS, in_child
from interleavings import plant
from quota import AsyncLedger, Caller, InvalidValue, Ledger, ManualClock, Reason, UsagePlan
from quota.ledger import waiting
from quota.ledger.waiting import Queues, queues_of

START = 1_773_144_000_000_000  # 2026-03-10 12:00 UTC


def made(limits="20/s burst 1", **options):
    """A ledger by the system's clock, and a secret on a plan of these limits."""
    ledger = Ledger(**options)
    ledger.add_plan(UsagePlan("p", limits))
    return ledger, ledger.issue_key("k", "p").secret


def awaited(limits="20/s burst 1"):
    """The same, awaited."""

    async def make():
        ledger = AsyncLedger()
        await ledger.add_plan(UsagePlan("p", limits))
        return ledger, (await ledger.issue_key("k", "p")).secret

    return asyncio.run(make())


def waited(kind, *args, limits="20/s burst 1", op="acquire", before=1, **more):
    """What a call is answered after others took what there was, and the seconds that it took."""
    ledger, secret = made(limits) if kind == "sync" else awaited(limits)
    if kind == "sync":
        began = monotonic()
        for _ in range(before):
            ledger.consume(secret)
        return getattr(ledger, op)(secret, *args, **more), monotonic() - began

    async def run():
        began = monotonic()
        for _ in range(before):
            await ledger.consume(secret)
        return await getattr(ledger, op)(secret, *args, **more), monotonic() - began

    return asyncio.run(run())


@pytest.fixture(params=["sync", "async"])
def kind(request):
    return request.param


def test_it_waits_until_it_is_admitted(kind):
    """A twentieth of a second, not less, for a throttle of twenty a second; a reservation alike."""
    decision, took = waited(kind, timeout=5)
    assert decision.allowed and 0.04 <= took < 2
    held, took = waited(kind, 1, op="reserve", timeout=timedelta(seconds=5), ttl=10**6)
    assert held.decision.allowed and held.id and 0.04 <= took < 2
    decision, took = waited(kind, timeout=7200, before=0, limits="1/hour")
    assert decision.allowed and took < 60


def test_it_refuses_at_once_what_cannot_be_admitted_by_then(kind):
    """Beyond the deadline, a cost that never fits, no key: the usual refusal, with no wait."""
    decision, took = waited(kind, timeout=3, limits="1/day")
    assert (decision.reason, took < 0.5) == (Reason.QUOTA_EXCEEDED, True)
    decision, took = waited(kind, 5, timeout=100)
    assert (decision.reason, took < 0.5) == (Reason.COST_TOO_LARGE, True)
    decision, took = waited(kind, timeout=0)
    assert (decision.reason, took < 0.5) == (Reason.THROTTLED, True)
    ledger, _ = made()
    assert ledger.acquire("a secret that nobody has", timeout=100).reason is Reason.UNKNOWN_KEY
    assert ledger.acquire(None, timeout=100).reason is Reason.MISSING_KEY
    held, took = waited(kind, 1, op="reserve", timeout=1, ttl=10**6, limits="1/day")
    assert (bool(held), took < 0.5) == (False, True)


def test_never_past_the_deadline(kind):
    """Where others take what comes back, the answer is there at the deadline; where the clock stands still, too."""
    ledger, secret = made("3/s burst 1")
    ledger.consume(secret)
    stop = threading.Event()

    def take():
        while not stop.is_set():
            ledger.consume(secret)

    other = threading.Thread(target=take)
    other.start()
    try:
        began = monotonic()
        ledger.acquire(secret, timeout=0.5)
        took = monotonic() - began
    finally:
        stop.set()
        other.join()
    assert took < 1.5
    frozen, secret = made(clock=ManualClock(START))
    frozen.consume(secret)
    began = monotonic()
    assert not frozen.acquire(secret, timeout=0.2)
    assert 0.19 < monotonic() - began < 1.2


def test_a_clock_that_is_moved_by_hand_is_seen():
    """Who waits by such a clock is admitted soon after it reaches the instant, and not before."""
    clock = ManualClock(START)
    ledger, secret = made("1/minute burst 1", clock=clock)
    ledger.consume(secret)
    found = []
    waiting = threading.Thread(target=lambda: found.append(ledger.acquire(secret, timeout=100)))
    waiting.start()
    while not len(queues_of(ledger)):
        pass
    clock.advance(59_999_999)
    waiting.join(0.1)
    assert found == []
    clock.advance(1)
    waiting.join(30)
    assert found[0].allowed and found[0].at.timestamp() * 1_000_000 == clock()
    assert len(queues_of(ledger)) == 0


def in_order(count, limits, timeout=30):
    """The order in which threads that came one after another were served, and how many queues are left."""
    ledger, secret = made(limits)
    ledger.consume(secret)
    served, threads = [], []
    queues = queues_of(ledger)

    def wait(number):
        if ledger.acquire(secret, timeout=timeout):
            served.append(number)

    ledger.consume(secret)
    for number in range(count):
        before = sum(map(len, queues._found.values()))
        threads.append(threading.Thread(target=wait, args=(number,)))
        threads[-1].start()
        while sum(map(len, queues._found.values())) == before and threads[-1].is_alive():
            pass
    for thread in threads:
        thread.join(60)
    return served, len(queues)


def test_eight_threads_are_served_in_order():
    """First come, first served, and nobody is left in a queue."""
    assert in_order(8, "10/s burst 1") == (list(range(8)), 0)


def test_two_hundred_tasks_are_served_in_order():
    """Also those who come while others wait, though there is room for them at that instant."""
    ledger, secret = awaited("400/s burst 1")
    served = []

    async def wait(number):
        assert await ledger.acquire(secret, timeout=60)
        served.append(number)

    async def run():
        await asyncio.gather(*map(wait, range(200)))

    asyncio.run(run())
    assert served == list(range(200))
    assert len(queues_of(ledger)) == 0


@pytest.mark.parametrize("fork", FORKS.values(), ids=FORKS)
def test_a_forked_child_waits_behind_nobody_of_its_parents(fork):
    """Who stood in its parent's lines is not there to leave them: the child's calls have lines of their own."""
    ledger, secret = made("20/s burst 1")
    key = ledger.consume(secret).key
    queues = queues_of(ledger)
    assert ledger.acquire(secret, timeout=60)  # both lines are there now, and in each is somebody
    assert queues.enter(key.id, gone := lambda: None)
    assert waiting._ARRIVALS[ledger.store].enter(waiting._presented(secret), gone)

    def child():
        return [bool(ledger.acquire(secret, timeout=60)) for _ in range(2)], len(queues)

    assert in_child(fork, child) == "([True, True], 0)"
    assert (len(queues), key.id in queues) == (1, True)


def test_keys_wait_apart():
    """Who waits for one key's limits holds nobody up who has another."""
    ledger, secret = made("1/hour burst 1")
    ledger.consume(secret)
    ledger.add_plan(UsagePlan("fast", "1000/s"))
    other = ledger.issue_key("other", "fast").secret
    waiting = threading.Thread(target=ledger.acquire, args=(secret,), kwargs={"timeout": 1})
    ledger.replace_plan(UsagePlan("p", "2/s burst 1"))
    waiting.start()
    began = monotonic()
    assert all(ledger.acquire(other, timeout=5) for _ in range(10))
    assert monotonic() - began < 0.5
    waiting.join()
    assert ledger.acquire(Caller("fast", "203.0.113.7"), timeout=1)


def test_a_task_that_is_cancelled_gives_its_place_up():
    """The next one is served; a loop that was closed with tasks in it holds nobody up."""
    ledger, secret = awaited("10/s burst 1")

    async def run():
        await ledger.consume(secret)
        tasks = [asyncio.create_task(ledger.acquire(secret, timeout=30)) for _ in range(3)]
        await asyncio.sleep(0)
        tasks[0].cancel()
        tasks[1].cancel()
        assert await tasks[2]

    asyncio.run(run())
    assert len(queues_of(ledger)) == 0
    loop = asyncio.new_event_loop()
    queues, woken = Queues(), []
    first, gone = (lambda: None), (lambda: loop.call_soon_threadsafe(print))
    assert queues.enter("k", first) and not queues.enter("k", gone)
    assert not queues.enter("k", lambda: woken.append(1))
    loop.close()
    queues.leave("k", first)
    assert woken == [1]


def asked(ledger):
    """Count what a ledger asks its store, by operation."""
    apply, ops = ledger.store.apply, []
    ledger.store.apply = lambda request: ops.append(request.op) or apply(request)
    return ops


def test_a_slot_that_is_released_here_is_had_at_once(kind):
    """Whatever the released reservation's expiry, and long before the slot would be asked for again; a reservation alike."""
    ledger, secret = made("1 concurrent") if kind == "sync" else awaited("1 concurrent")
    plain = ledger if kind == "sync" else Ledger(ledger.store)

    def run(op, *args, **more):
        return (
            asyncio.run(getattr(ledger, op)(secret, *args, **more))
            if kind == "async"
            else getattr(ledger, op)(secret, *args, **more)
        )

    for op, args, more in (("acquire", (), {}), ("reserve", (1,), {"ttl": 10**6})):
        held, found = plain.reserve(secret, 1, ttl=3600 * 10**6), []
        waiting = threading.Thread(target=lambda: found.append(run(op, *args, timeout=60, **more)))
        ops = asked(ledger)
        waiting.start()
        while len(ops) < 6:  # by now half a second lies between two of them
            pass
        began = monotonic()
        held.cancel()
        waiting.join(30)
        assert found[0] and monotonic() - began < 0.25
        del ledger.store.apply
        if op == "reserve":
            plain.reservation(found[0].id).cancel()
    assert len(queues_of(ledger)) == 0


def test_a_slot_that_is_released_elsewhere_is_asked_for_again(kind, tmp_path):
    """By another process, that is by another store: within half a second, first after 10 milliseconds."""
    url = f"sqlite:///{tmp_path}/quota.db"
    with Ledger(url) as ledger, Ledger(url) as elsewhere:
        ledger.add_plan(UsagePlan("p", "1 concurrent"))
        secret = ledger.issue_key("k", "p").secret
        held, found = elsewhere.reserve(secret, 1, ttl=3600 * 10**6), []

        async def wait():
            async with AsyncLedger(url) as waiting:
                return await waiting.acquire(secret, timeout=60)

        acquire = (lambda: ledger.acquire(secret, timeout=60)) if kind == "sync" else (lambda: asyncio.run(wait()))
        waiting = threading.Thread(target=lambda: found.append(acquire()))
        waiting.start()
        waiting.join(0.1)
        assert found == []
        held.commit()
        waiting.join(30)
        assert found[0]


def test_a_slot_is_waited_for_until_the_deadline_and_no_longer(kind):
    """Though the slot lapses in an hour it is waited for; refused at the deadline, after few questions. What else refuses does at once."""
    for limits, before, low, high, reason in (
        ("1 concurrent", 0, 0.29, 2, Reason.CONCURRENCY_EXCEEDED), ("0 concurrent", 0, 0, 0.2, Reason.CONCURRENCY_EXCEEDED),
        ("1 concurrent, 1/day", 0, 0, 0.2, Reason.QUOTA_EXCEEDED), ("1 concurrent, 2/hour burst 1", 0, 0, 0.2, Reason.CONCURRENCY_EXCEEDED),
    ):  # fmt: skip
        ledger, secret = made(limits) if kind == "sync" else awaited(limits)
        Ledger(ledger.store).reserve(secret, 1, ttl=3600 * 10**6)
        ops = asked(ledger)
        began = monotonic()
        answer = ledger.acquire(secret, timeout=0.3)
        decision = answer if kind == "sync" else asyncio.run(answer)
        assert low <= monotonic() - began < high, limits
        assert (decision.allowed, decision.reason, len(ops) < 12) == (False, reason, True)


def test_a_throttle_beside_a_slot_is_waited_for_first():
    """Asked again when the throttle lets it through, and not before: nothing is asked in vain."""
    ledger, secret = made("1 concurrent, 5/s burst 1")
    held = ledger.reserve(secret, 1, ttl=3600 * 10**6)
    ops = asked(ledger)
    threading.Timer(0.1, held.cancel).start()
    assert ledger.acquire(secret, timeout=30)
    assert ops.count("consume") <= 4


def test_a_slot_that_lapses_is_had_then():
    """By nobody's doing: at its very instant, though the next question was to come later."""
    ledger, secret = made("1 concurrent")
    began = monotonic()
    ledger.reserve(secret, 1, ttl=150_000)
    assert ledger.acquire(secret, timeout=30)
    assert 0.15 <= monotonic() - began < 1


def test_slots_are_had_in_order():
    """First come, first served, where one slot goes from hand to hand."""
    ledger, secret = made("1 concurrent")
    held, served, threads, queues = ledger.reserve(secret, 1, ttl=10**8), [], [], queues_of(ledger)

    def wait(number):
        with ledger.reserve(secret, 1, ttl=10**8, timeout=60):
            served.append(number)

    for number in range(6):
        threads.append(threading.Thread(target=wait, args=(number,)))
        threads[-1].start()
        while sum(map(len, list(queues._found.values()))) <= number:
            pass
    held.cancel()
    for thread in threads:
        thread.join(60)
    assert (served, len(queues)) == (list(range(6)), 0)


@pytest.mark.parametrize("timeout", [-1, float("inf"), float("nan"), "1", None, True, timedelta(-1), timedelta(367)])
def test_timeout(timeout):
    """Seconds or a timedelta, or an error that says so, before anything is charged."""
    ledger, secret = made()
    for call in (
        lambda: ledger.acquire(secret, timeout=timeout),
        lambda: ledger.reserve(secret, 1, ttl=1, timeout=timeout),
    ):
        with pytest.raises(InvalidValue, match="timeout"):
            call()
    assert ledger.consume(secret)


def turns():
    """Who of four is told to be first on coming, who is woken as they leave one after another, how many queues stay."""
    queues, woken = Queues(), []
    wakes = [partial(woken.append, number) for number in range(4)]
    first = [queues.enter("k", wake) for wake in wakes]
    for wake in wakes:
        queues.leave("k", wake)
    return first, woken, len(queues)


def test_turns():
    """The first goes at once, and each wakes the next one."""
    assert turns() == ([True, False, False, False], [1, 2, 3], 0)


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("enter", "return queue[0] is wake", "return True"),
        ("leave", "queue[0]()\n", "queue[-1]()\n"),
        ("leave", "self._found.pop(name, None)", "pass"),
    ],
)
def test_planted_queues(monkeypatch, name, old, new):
    """Everybody first, the last one woken, and a queue that stays, are seen."""
    plant(monkeypatch, Queues, name, {old: new})
    assert turns() != ([True, False, False, False], [1, 2, 3], 0)


def test_planted_release(monkeypatch):
    """A released slot that wakes nobody is had when it is asked for again, which is seen."""
    ledger, secret = made("1 concurrent")
    monkeypatch.setattr(Queues, "released", lambda self: None)
    held, ops, began = ledger.reserve(secret, 1, ttl=3600 * 10**6), asked(ledger), []

    def release():
        while len(ops) < 6:
            pass
        began.append(monotonic())
        held.cancel()

    releasing = threading.Thread(target=release)
    releasing.start()
    assert ledger.acquire(secret, timeout=60)
    assert monotonic() - began[0] > 0.25
    releasing.join()

"""The leased store where it is used in unusual but legal ways, and what it says of wrong ones."""

import asyncio
import os
import signal
import threading
from datetime import datetime, timedelta, timezone

import pytest

from quota import AsyncLedger, Ledger, ManualClock, StoreUnavailable, UsagePlan
from quota.errors import InvalidValue
from quota.stores import open_store
from quota.stores.leased import AsyncLeasedStore, LeasedStore
from quota.stores.memory import MemoryStore

START = 1_773_144_000_000_000
SECOND = 1_000_000


@pytest.fixture
def clock():
    return ManualClock(START)


@pytest.fixture
def shared():
    return MemoryStore()


@pytest.fixture
def operator(shared, clock):
    """Another process, which has no leases; a key ``k`` is on a plan of it."""
    ledger = Ledger(shared, clock=clock)
    ledger.add_plan(UsagePlan("p", "100000/day", alerts=()))
    ledger.import_key("a-secret-that-everybody-knows", "k", "p", id="k")
    return ledger


SECRET = "a-secret-that-everybody-knows"


def stands(operator, key="k"):
    return [(row.used, row.leased) for row in operator.usage(key)]


def spend(ledger, times, secret=SECRET):
    return sum(bool(ledger.consume(secret)) for _ in range(times))


class Behind:
    """The shared store, with something done on the way to it."""

    exact_across_failover, blocking = True, False

    def __init__(self, shared, **done):
        self._shared = shared
        vars(self).update(done)

    def __getattr__(self, name):
        return getattr(self._shared, name)

    def close(self):
        pass


class Awaited(MemoryStore):
    """A store whose answers are coroutines."""

    async def apply(self, request):
        return super().apply(request)


def test_what_is_awaited_is_for_the_ledger_that_awaits():
    """A coroutine is truthy: in the wrong place it would let every call in."""
    with pytest.raises(InvalidValue, match="not awaited"):
        Ledger(AsyncLeasedStore(MemoryStore()))
    with pytest.raises(InvalidValue, match="not awaited"):
        LeasedStore(Awaited())


def test_a_store_that_blocks_does_so_in_threads(tmp_path):
    """An ``AsyncLedger`` on the store for the other ledger keeps its loop running."""
    assert LeasedStore(f"sqlite:///{tmp_path / 'usage.db'}").blocking
    assert not LeasedStore(MemoryStore()).blocking


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"store": None}, "store: None"), ({"store": MemoryStore}, "store: "), ({"refresh": 0}, "refresh: 0"),
        ({"refresh": "1"}, "refresh: '1'"), ({"share": 1.5}, "share: 1.5"), ({"share": True}, "share: True"),
        ({"most_keys": 0}, "most_keys: 0"), ({"most_keys": 1.5}, "most_keys: 1.5"), ({"background": "yes"}, "background: 'yes'"),
    ],
)  # fmt: skip
def test_options_that_are_none(options, told):
    """The error names the option and what was given."""
    for kind in (LeasedStore, AsyncLeasedStore) if "background" not in options else (LeasedStore,):
        with pytest.raises(InvalidValue, match=told):
            kind(**{"store": MemoryStore(), **options})


def test_urls(tmp_path):
    """What is behind ``leased+`` is passed on as it is; errors tell no password."""
    path = tmp_path / "a b.db"
    assert Ledger(open_store(f"leased+sqlite:///{path}?durability=normal&most_keys=9")).list_plans() == []
    assert path.exists()
    for name in ("refresh", "share", "most_keys"):
        with pytest.raises(InvalidValue, match=f"{name}: 'abc'") as told:
            open_store(f"leased+redis://localhost/0?password=hunter2&{name}=abc")
        assert "hunter2" not in str(told.value)


def test_an_overlap_that_is_made_elsewhere_ends_on_its_microsecond(operator, shared, clock):
    """The next refresh tells when the secret ends: it is not spent a refresh longer."""
    ledger = Ledger(LeasedStore(shared, refresh=10), clock=clock)
    assert spend(ledger, 40) == 40
    operator.rotate_key("k", overlap=timedelta(seconds=11))
    clock.advance(10 * SECOND)
    assert spend(ledger, 20) == 20
    clock.advance(SECOND - 1)
    assert ledger.consume(SECRET)
    clock.advance(1)
    assert ledger.consume(SECRET).reason.value in ("EXPIRED_KEY", "UNKNOWN_KEY")


def test_limits_stand_as_of_the_last_refresh(operator, shared, clock):
    """A lease that is spent on after a refresh tells what others used before it."""
    ledger = Ledger(LeasedStore(shared, share=0.5), clock=clock)
    assert spend(ledger, 70) == 70
    operator.consume(operator.get_key("k"), 5000)
    clock.advance(SECOND)
    assert ledger.consume(SECRET).limits[0].used == 5071
    assert stands(operator)[0][1] > 1, "it was not the old lease that was spent"


def test_a_refusal_is_final_where_one_quota_is_spent_for_good(shared, clock):
    """Units of another quota may come back, but not of this one."""
    operator = Ledger(shared, clock=clock)
    operator.add_plan(UsagePlan("p", "100/day as own, 1000/day by account as team", alerts=()))
    operator.add_plan(UsagePlan("q", "1000/day by account as team", alerts=()))
    a, b = (operator.issue_key(id_, plan, id=id_, account="t") for id_, plan in (("a", "p"), ("b", "q")))
    one, two = (Ledger(LeasedStore(shared, share=0.1), clock=clock) for _ in range(2))
    assert operator.consume(a.secret, 100)
    assert spend(two, 30, b.secret) == 30
    operator.consume(b.secret, operator.peek(b.secret).limits[0].remaining + 1)
    assert operator.usage("b")[0].leased > 0
    refused = one.consume(a.secret)
    assert refused.retry_at == one.peek(a.secret).retry_at == refused.limits[0].resets_at


def test_a_lost_lease_goes_back_though_its_secret_is_gone(operator, shared, clock):
    """The key is known since its first call, whatever became of what was presented."""

    def losing(request):
        answer = shared.apply(request)
        if request.op == "lease" and answer.units:
            raise StoreUnavailable("the answer is lost")
        return answer

    ledger = Ledger(LeasedStore(Behind(shared, apply=losing)), clock=clock)
    assert ledger.consume(SECRET)
    with pytest.raises(StoreUnavailable):
        ledger.consume(SECRET)
    operator.rotate_key("k")
    ledger.close()
    assert stands(operator) == [(1, 0)]


def test_a_store_that_is_down_is_asked_once_per_refresh(operator, shared, clock):
    """What is held is spent on meanwhile, by tasks too."""
    down, asked = [], []

    def line(request):
        if down:
            asked.append(request.op)
            raise StoreUnavailable("out of reach")
        return shared.apply(request)

    async def story():
        ledger = AsyncLedger(AsyncLeasedStore(Behind(shared, apply=line), share=0.5), clock=clock)
        for _ in range(30):
            await ledger.consume(SECRET)
            await asyncio.sleep(0)
        down.append(True)
        for _ in range(40):
            assert await ledger.consume(SECRET)
            await asyncio.sleep(0)
            clock.advance(SECOND // 10)
        down.clear()
        await ledger.aclose()

    asyncio.run(story())
    assert len(asked) <= 10  # four seconds: a renewal and a lease ahead in each
    assert stands(operator) == [(70, 0)]


@pytest.mark.parametrize("what", ["close", "disable", "forget", "consume"])
def test_a_child_that_is_forked_while_another_thread_asks(operator, shared, clock, what):
    """It holds nothing, waits for nobody, and leases for itself."""
    under_way, go_on = threading.Event(), threading.Event()

    def slow(request):
        if request.op == "lease" and threading.current_thread() is not threading.main_thread():
            under_way.set()
            assert go_on.wait(20)
        return shared.apply(request)

    ledger = Ledger(LeasedStore(Behind(shared, apply=slow)), clock=clock)
    assert ledger.consume(SECRET)
    asking = threading.Thread(target=lambda: ledger.consume(SECRET), daemon=True)
    asking.start()
    assert under_way.wait(20)
    child = os.fork()
    if not child:
        signal.alarm(10)
        calls = {
            "close": ledger.close, "disable": lambda: ledger.disable_key("k"), "forget": lambda: ledger.forget("k"),
            "consume": lambda: spend(ledger, 40),
        }  # fmt: skip
        calls[what]()
        leased = bool(spend(ledger, 3) and ledger.store.rooms)
        os._exit(0 if leased == (what in ("consume", "forget")) else 1)
    go_on.set()
    asking.join(20)
    assert os.waitpid(child, 0)[1] == 0


def test_a_child_that_is_forked_during_a_change_leases(operator, shared, clock):
    """What was held off in its parent is not held off in it."""
    found = []

    def forking(*_):
        found.append(os.fork())
        if not found[0]:
            spend(ledger, 40)
            os._exit(0 if ledger.store.rooms else 1)

    ledger = Ledger(LeasedStore(Behind(shared, put_plan=forking)), clock=clock)
    ledger.replace_plan(UsagePlan("p", "90000/day", alerts=()))
    assert os.waitpid(found[0], 0)[1] == 0


def test_what_is_refused_until_the_next_refresh_says_so(operator, shared, clock):
    """A refusal that is not final tells when to come back."""
    one, two = (Ledger(LeasedStore(shared, share=0.5), clock=clock) for _ in range(2))
    assert spend(one, 70) == 70
    operator.consume(operator.get_key("k"), operator.peek(operator.get_key("k")).limits[0].remaining + 1)
    refused = two.consume(SECRET)
    assert refused.retry_at == datetime.fromtimestamp(START / 1e6 + 1, timezone.utc)
    assert refused.headers()["Retry-After"] == "1"


def test_counts_forgotten_elsewhere_keep_what_is_out_on_lease(operator, shared, clock):
    """It may be spent yet, so no unit of the limit is admitted twice."""
    operator.replace_plan(UsagePlan("p", "2000/day", alerts=()))
    one, two = (Ledger(LeasedStore(shared, share=0.3), clock=clock) for _ in range(2))
    assert spend(one, 100) == 100
    leased = stands(operator)[0][1]
    two.forget("k")
    assert stands(operator) == [(leased, leased)]
    admitted = 0
    for ledger in (one, two, one):
        admitted += spend(ledger, 3000)
        clock.advance(SECOND)
    one.close()
    two.close()
    assert admitted <= 2000
    assert stands(operator)[0] in ((admitted, 0), (2000, 0))
    assert admitted > 2000 - leased


def test_a_plan_that_is_back_by_the_next_refresh(operator, shared, clock):
    """An equal plan is the same plan, whatever stood there meanwhile: what is held is spent on, buckets too."""
    plan = UsagePlan("p", "100000/day, 5000/s burst 5000", alerts=())
    operator.replace_plan(plan)
    ledger = Ledger(LeasedStore(shared, share=0.5), clock=clock)
    assert spend(ledger, 70) == 70
    operator.replace_plan(UsagePlan("p", "7/day"))
    operator.replace_plan(UsagePlan("p", "100000/day, 5000/s burst 5000", alerts=()))
    clock.advance(SECOND)
    assert ledger.consume(SECRET).limits[1].used == 1
    assert stands(operator)[0][1] > 1, "it was not the old lease that was spent"

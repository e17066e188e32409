"""What stays in memory of keys, accounts and plans that are gone: nothing that grows with them."""

import gc
from datetime import datetime, timedelta, timezone

import pytest

from quota import Ledger, ManualClock, UsagePlan
from quota.operations.shape import Shape
from quota.stores.memory import MemoryStore
from quota.stores.memory.entries import AccountEntry, KeyEntry, KeyPlans

START = datetime(2026, 3, 1, tzinfo=timezone.utc)


@pytest.fixture(autouse=True)
def made_here():
    """Only what a test makes is looked through: what others left, or the suite itself, is much, and not the question."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


def alive(kind):
    gc.collect()
    return sum(type(found) is kind for found in gc.get_objects())


@pytest.fixture
def clock():
    return ManualClock(START)


@pytest.fixture
def ledger(clock):
    found = Ledger(MemoryStore(stripes=2), clock=clock)
    found.add_plan(UsagePlan("p", "10/day, 20/day by account as all"))
    return found


STAY = 64
"""So many that some are in each of the two stripes: which one a key is in is a matter of its random id."""


def goes_on(ledger, clock):
    """Two years in which some keys are used, so that every record is looked over."""
    keys = [ledger.issue_key("stays", "p").key for _ in range(STAY)]
    for n in range(700):
        clock.advance(timedelta(days=1, minutes=7))
        assert ledger.consume(keys[n % len(keys)])


CUSTOMERS = {
    "never called": lambda ledger, keys: None,
    "called": lambda ledger, keys: [ledger.consume(key) for key in keys],
    "held": lambda ledger, keys: [ledger.reserve(key, 1, ttl=timedelta(hours=1)) for key in keys],
    "called once": lambda ledger, keys: ledger.consume(keys[0], request_id="x"),
}


@pytest.mark.spread(5)
@pytest.mark.parametrize("own", [False, True], ids=["an account of its own name", "of a key's name"])
@pytest.mark.parametrize("many", [1, 2, 3])
@pytest.mark.parametrize("used", CUSTOMERS)
def test_an_account_whose_keys_are_gone_is_forgotten(ledger, clock, used, many, own):
    """Its counts while a window is open, and then all of it, however many keys it had and whether they were used."""
    before = alive(AccountEntry), alive(KeyEntry)
    for n in range(30):
        ids = [f"{n}-{number}" for number in range(many)]
        account = ids[0] if own else f"customer-{n}"
        keys = [ledger.issue_key(name, "p", id=name, account=account).key for name in ids]
        CUSTOMERS[used](ledger, keys)
        for key in keys:
            ledger.remove_key(key)
    del keys
    goes_on(ledger, clock)
    assert (alive(AccountEntry), alive(KeyEntry) - STAY) == before


def test_an_account_without_keys_keeps_its_count_while_it_matters(ledger, clock):
    """A key that joins it again finds what was used; once all of that is over, it begins anew."""
    first = ledger.issue_key("first", "p", account="x").key
    ledger.consume(first, 9)
    ledger.remove_key(first)
    again = ledger.issue_key("again", "p", account="x").key
    assert [status.used for status in ledger.consume(again).limits] == [1, 10]
    ledger.remove_key(again)
    goes_on(ledger, clock)
    late = ledger.issue_key("late", "p", account="x").key
    assert [status.used for status in ledger.consume(late).limits] == [1, 1]


def test_keys_that_come_and_go_leave_nothing_behind_keys_that_stay(ledger):
    """Many are issued, used once and removed beside as many that are served by the fast path all along."""
    stay = [ledger.issue_key("stays", "p").key for _ in range(200)]
    for key in stay:
        ledger.consume(key)
    for _ in range(3000):
        key = ledger.issue_key("goes", "p").key
        ledger.consume(key)
        ledger.remove_key(key)
    assert alive(KeyEntry) < 3 * len(stay)


@pytest.mark.parametrize("many", [1, 2])
def test_customers_that_come_and_go_one_after_another_leave_nothing(ledger, clock, many):
    """Each day one with an account of its own, called and removed, and nobody stays: forgotten as fast as they come."""
    before = alive(AccountEntry)
    for n in range(800):
        keys = [ledger.issue_key("goes", "p", account=f"customer-{n}").key for _ in range(many)]
        for key in keys:
            ledger.consume(key)
            ledger.remove_key(key)
        clock.advance(timedelta(days=1))
    assert alive(AccountEntry) - before < 120  # 35 days of history, two windows, and until they are looked at


def test_plans_that_come_and_go_leave_nothing(ledger):
    """A plan for each customer, of an api of its own or not, and keys that are moved from one to the next."""
    key = ledger.issue_key("k", "p").key
    before = alive(KeyPlans), alive(Shape), alive(UsagePlan)
    for n in range(50):
        ledger.add_plan(UsagePlan(f"p{n}", f"{n + 5}/day", api="" if n % 2 else f"api{n}"))
        ledger.associate(key, f"p{n}")
        ledger.consume(key, api="" if n % 2 else f"api{n}")
        ledger.replace_plan(UsagePlan(f"p{n}", f"{n + 5}/day", api=f"another{n}"))
        ledger.remove_plan(f"p{n}")
    ledger.associate(key, "p")
    ledger.consume(key)
    assert (alive(KeyPlans), alive(Shape), alive(UsagePlan)) <= tuple(count + 2 for count in before)

"""What stays in a SQLite file of keys and accounts that are gone: nothing that grows with them."""

from datetime import timedelta

import pytest

from quota import Ledger, ManualClock, UsagePlan
from quota.stores.sqlite import SQLiteStore
from sqlite_files import START

CUSTOMERS = {
    "never called": lambda ledger, keys: None,
    "called": lambda ledger, keys: [ledger.consume(key) for key in keys],
    "held": lambda ledger, keys: [ledger.reserve(key, 1, ttl=timedelta(hours=1)) for key in keys],
    "called once": lambda ledger, keys: ledger.consume(keys[0], request_id="x"),
}


def rows(ledger):
    """How many rows each table has."""
    tables = "ledger plans keys digests key_plans accounts counts records remembered".split()

    def count(db):
        return {table: db.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in tables}

    return ledger.store._pool.read(count)


@pytest.fixture
def clock():
    return ManualClock(START)


@pytest.fixture
def ledger(tmp_path, clock):
    with Ledger(SQLiteStore(tmp_path / "usage.db", durability="normal"), clock=clock) as found:
        found.add_plan(UsagePlan("p", "10/day, 20/day by account as all"))
        yield found


@pytest.mark.parametrize("own", [False, True], ids=["an account of its own name", "of a key's name"])
@pytest.mark.parametrize("many", [1, 3])
@pytest.mark.parametrize("used", CUSTOMERS)
def test_an_account_whose_keys_are_gone_is_forgotten(ledger, clock, used, many, own):
    """Its counts while a window is open, and then all of it, however many keys it had and whether they were used."""
    stays = ledger.issue_key("stays", "p").key
    ledger.consume(stays)
    before = rows(ledger)
    for n in range(5):
        names = [f"{n}-{number}" for number in range(many)]
        account = names[0] if own else f"customer-{n}"
        keys = [ledger.issue_key(name, "p", id=name, account=account).key for name in names]
        CUSTOMERS[used](ledger, keys)
        for key in keys:
            ledger.remove_key(key)
    for _ in range(45):
        clock.advance(timedelta(days=1))
        ledger.consume(stays)
    assert rows(ledger) == before


def test_an_account_without_keys_keeps_its_count_while_it_matters(ledger, clock):
    """A key that joins it again finds what was used; once all of that is over, it begins anew."""
    used = []
    for days in (0, 45):
        stays = ledger.issue_key("stays", "p").key
        for _ in range(days):
            clock.advance(timedelta(days=1))
            ledger.consume(stays)
        for cost in (9, 1):
            key = ledger.issue_key("joins", "p", account="x").key
            used.append([status.used for status in ledger.consume(key, cost).limits])
            ledger.remove_key(key)
    assert used == [[9, 9], [1, 10], [9, 9], [1, 10]]

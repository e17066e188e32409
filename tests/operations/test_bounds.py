"""How much may be kept of one key or account, on every store: what is beyond raises, and nothing has happened."""

from datetime import timedelta

import pytest

import paths
from quota import InvalidCost, Ledger, ManualClock, UsagePlan
from quota.errors import InvalidValue
from quota.operations import request as bounds
from quota.operations.request import MOST_UNITS
from quota.stores import open_store
from quota.stores.leased import LeasedStore
from quota.stores.memory import MemoryStore
from servers import Postgres, Valkey

NOON = 1_700_049_600_000_000
HOUR = timedelta(hours=1)


@pytest.fixture(scope="module")
def servers():
    """Servers that were started for whoever asked; each store is in a namespace of its own."""
    found = {}
    yield lambda kind: found[kind] if kind in found else found.setdefault(kind, kind())
    for server in found.values():
        server.stop()


STORES = {
    "memory": lambda folder, servers: MemoryStore(stripes=1),
    "leased": lambda folder, servers: LeasedStore(MemoryStore(), share=0.5),
    "sqlite": lambda folder, servers: open_store(f"sqlite:///{folder}/usage.db?durability=normal"),
    "redis": lambda folder, servers: open_store(f"{servers(Valkey).url}?namespace={folder.name[-40:]}"),
    "postgres": lambda folder, servers: open_store(f"{servers(Postgres).url}?namespace={folder.name[-40:]}"),
}


@pytest.fixture
def clock():
    return ManualClock(NOON)


@pytest.fixture(params=STORES)
def ledger(request, tmp_path_factory, servers, clock):
    folder = tmp_path_factory.mktemp("bounds")
    with Ledger(STORES[request.param](folder, servers), clock=clock) as found:
        found.add_plan(UsagePlan("p", "1000000/day, 1000000 tokens/day by account as budget"))
        yield found


def different(many, first=0):
    """A cost of so many units that no plan limits."""
    return {f"unit{first + number}": 1 for number in range(many)}


def fill(ledger, key):
    """Count as many units as may be, beside those of the plan."""
    many = MOST_UNITS - 2
    ledger.consume(key, {"requests": 1, "tokens": 1})
    for first in range(0, many, 16):
        assert ledger.consume(key, {"requests": 1, **different(min(15, many - first), first)})
        assert ledger.consume(key, different(min(16, many - first), first))


@pytest.mark.parametrize("shared", [False, True])
def test_a_record_counts_so_many_units(ledger, shared):
    """One unit more is an error that names it, whoever asks; what is counted already, and what a plan limits, goes on."""
    account = "team" if shared else None
    key, other = (ledger.issue_key(name, "p", id=name, account=account).key for name in ("k", "l"))
    fill(ledger, key)
    before = ledger.usage(key), [status.used for status in ledger.peek(key).limits]
    for call in (
        lambda: ledger.consume(key, {"requests": 5, "another": 1}), lambda: ledger.peek(key, {"another": 1}),
        lambda: ledger.reserve(key, {"another": 1}, ttl=HOUR), lambda: ledger.consume(key, {"another": 1}, request_id="x"),
    ):  # fmt: skip
        with pytest.raises(InvalidCost, match=r"cost: 'another' is not accepted; expected one of the 256 units"):
            call()
    assert (ledger.usage(key), [status.used for status in ledger.peek(key).limits]) == before
    for takes in ({"requests": 1, "unit0": 1}, {"tokens": 1}, {"requests": 1, "another": 0}, different(16, 100)):
        assert ledger.consume(key, takes)
    ledger.replace_plan(UsagePlan("p", "1000000/day, 9 another/day"))
    assert [status.used for status in ledger.consume(key, {"another": 4}).limits] == [
        len(range(0, MOST_UNITS - 2, 16)) + 3,
        4,
    ]
    assert bool(ledger.consume(other, {"yet-another": 1})) if not shared else True


def test_a_commit_counts_no_more_units(ledger):
    """The hold stays as it is and may be committed by what may be counted."""
    key = ledger.issue_key("k", "p").key
    held = ledger.reserve(key, {"requests": 2, "tokens": 5}, ttl=HOUR)
    fill(ledger, key)
    with pytest.raises(InvalidCost, match=r"actual: 'another' is not accepted"):
        held.commit({"requests": 1, "another": 2})
    decision = held.commit({"requests": 1, "tokens": 7})
    assert decision.limits[1].used == 8


def test_each_api_has_units_of_its_own(ledger):
    """Units of another plan's api are counted apart, and bounded apart."""
    key = ledger.issue_key("k", "p").key
    ledger.add_plan(UsagePlan("q", "9/day", api="shop"))
    ledger.associate(key, "q")
    fill(ledger, key)
    assert ledger.consume(key, different(16, 300), api="shop")


@pytest.mark.parametrize("shared", [False, True])
def test_a_record_holds_so_many_reservations(ledger, clock, monkeypatch, shared):
    """One more is an error while they are open or lapsed within a day; settling one, or waiting, makes room."""
    monkeypatch.setattr(bounds, "MOST_HOLDS", 7)
    account = "team" if shared else None
    keys = [ledger.issue_key(name, "p", id=name, account=account).key for name in ("k", "l")]
    held = [ledger.reserve(keys[n % 2 if shared else 0], 1, ttl=HOUR) for n in range(7)]
    before = [ledger.usage(key) for key in keys]
    for _ in range(2):
        with pytest.raises(InvalidValue, match="reservations: 7 is not accepted; expected fewer than 7"):
            ledger.reserve(keys[0], 1, ttl=HOUR)
    assert [ledger.usage(key) for key in keys] == before
    assert ledger.consume(keys[0])
    held.pop().commit()
    assert ledger.reserve(keys[0], 1, ttl=HOUR)
    clock.advance(timedelta(hours=25) - timedelta(microseconds=1))
    with pytest.raises(InvalidValue, match="reservations"):
        ledger.reserve(keys[0], 1, ttl=HOUR)
    clock.advance(1)
    assert ledger.reserve(keys[0], 1, ttl=HOUR)


def test_a_key_has_so_many_secrets(ledger, monkeypatch):
    """One more at the same time is an error, and the key has those it had; a shorter overlap is always to be had."""
    monkeypatch.setattr(bounds, "MOST_SECRETS", 12)
    key, secret = ledger.issue_key("k", "p")
    secrets = [secret, *(ledger.rotate_key(key, timedelta(days=30)).secret for _ in range(11))]
    before = ledger.get_key(key.id)
    assert len(before.secrets) == 12
    with pytest.raises(InvalidValue, match=r"overlap: .* at most 12 secrets"):
        ledger.rotate_key(key, timedelta(days=30))
    assert ledger.get_key(key.id) == before
    assert all(ledger.consume(one) for one in secrets)
    last = ledger.rotate_key(key).secret
    assert [bool(ledger.consume(one)) for one in (*secrets[-3:], last)] == [False] * 3 + [True]
    assert len(ledger.rotate_key(key, HOUR).key.secrets) == 2


def test_the_bounds_are_those_that_are_told():
    """A key may be rotated often with an overlap; docs/promises.md has the numbers."""
    ledger = Ledger()
    key = ledger.issue_key("k").key
    for _ in range(255):
        key = ledger.rotate_key(key, HOUR).key
    with pytest.raises(InvalidValue, match="at most 256 secrets"):
        ledger.rotate_key(key, HOUR)
    told = " ".join((paths.ROOT / "docs" / "promises.md").read_text("utf-8").split())
    assert f"at most {bounds.MOST_UNITS} different units in an api are counted" in told
    assert f"{bounds.MOST_HOLDS:,} reservations" in told
    assert f"at most {bounds.MOST_SECRETS} secrets" in told

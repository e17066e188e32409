"""Stores by URL, and the options that all of them take."""

import pytest

from quota import Ledger
from quota.errors import InvalidValue
from quota.stores import open_store
from quota.stores.base import make_options, tell_clock
from quota.stores.memory import MemoryStore
from quota.stores.postgres import PostgresStore
from quota.stores.redis import RedisStore
from quota.stores.sqlite import SQLiteStore
from quota.stores.urls import split_url, whole_option


def test_a_url_opens_a_store_with_its_options():
    """Seconds and days, as the constructor takes them."""
    store = open_store("memory://?stripes=2&max_skew=1&request_ttl=60&retention=3")
    assert isinstance(store, MemoryStore)
    assert (store.options.max_skew, store.options.request_ttl, store.options.retention) == (1_000_000, 60_000_000, 3)
    assert isinstance(Ledger("memory://").store, MemoryStore)
    assert isinstance(open_store("MEMORY://", asynchronous=True), MemoryStore)


@pytest.mark.parametrize("url", [
    "", "memory", "mysql://x", "memory://host", "memory:///path", "memory://?nonsense=1", "memory://?stripes=0",
    "memory://?stripes=-1", "memory://?stripes=x", "memory://?stripes=", "memory://?stripes=1234567890",
    "memory://?retention=1.5", "memory://[x",
])  # fmt: skip
def test_a_url_that_names_no_store(url):
    """A clear error, with what would be accepted."""
    with pytest.raises(InvalidValue) as raised:
        open_store(url)
    assert raised.value.accepted


def test_a_password_is_not_shown():
    """A URL of no store is told without what stands before its host."""
    with pytest.raises(InvalidValue) as raised:
        open_store("mysql://user:hunter2@host/db")
    assert "hunter2" not in str(raised.value)


@pytest.mark.parametrize(("field", "value"), [
    ("max_skew", -1), ("max_skew", "1"), ("max_skew", True), ("max_skew", float("nan")), ("max_skew", 10**9),
    ("request_ttl", None), ("request_ttl", float("inf")), ("retention", 1.5), ("retention", -1), ("retention", True),
])  # fmt: skip
def test_terms_that_cannot_be_meant(field, value):
    """Each names its field."""
    with pytest.raises(InvalidValue) as raised:
        make_options(**{field: value})
    assert raised.value.field == field
    with pytest.raises(InvalidValue):
        MemoryStore(**{field: value})


@pytest.mark.parametrize(("make", "most"), [
    (lambda value: make_options(max_skew=value), "10^9"), (lambda value: SQLiteStore("usage.db", timeout=value), "1000000"),
    (lambda value: RedisStore(url="redis://127.0.0.1:1", timeout=value), "1000000"), (lambda value: PostgresStore(timeout=value), "1000000"),
])  # fmt: skip
def test_what_is_too_large_is_told_how_large_it_may_be(make, most):
    """Not that it must be above zero, which it is."""
    for value in (10**9, float("inf")):
        with pytest.raises(InvalidValue) as raised:
            make(value)
        assert raised.value.accepted.endswith(f"below {most}")


def test_fractions_of_seconds_are_fine():
    """Seconds may be floats; they become whole microseconds."""
    assert make_options(max_skew=0.25).max_skew == 250_000


@pytest.mark.parametrize("stripes", [0, -1, True, 1.0, "1", 2**63])
def test_stripes_are_a_number_of_locks(stripes):
    """At least one, and no more than memory can be asked for."""
    with pytest.raises(InvalidValue, match="stripes"):
        MemoryStore(stripes=stripes)


def test_a_query_is_taken_apart():
    """Options, empty ones too, apart from the rest of the URL."""
    parts, options = split_url("redis://h:1/0?a=1&b=&c=%20x")
    assert (parts.geturl(), options) == ("redis://h:1/0", {"a": "1", "b": "", "c": " x"})
    assert whole_option(options, "a") == 1
    assert options == {"b": "", "c": " x"}


def test_a_store_that_asks_is_told_the_clock():
    """Others are not bothered."""
    told = []

    class Asking(MemoryStore):
        def use_clock(self, clock):
            told.append(clock)

    clock = int
    tell_clock(MemoryStore(), clock)
    tell_clock(Asking(), clock)
    Ledger(Asking(), clock=clock)
    assert told == [clock, clock]

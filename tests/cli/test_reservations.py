"""quota reservation: an operator sees what is in flight, settles it, and frees a slot that is stuck."""

from datetime import timedelta

import pytest

from commands import Quota


@pytest.fixture
def quota():
    return Quota()


@pytest.fixture
def held(quota):
    """Two reservations of a key, one of them spent of."""
    assert quota("plan", "add", "gold", "2 concurrent, 100/day") == 0
    assert quota("key", "issue", "Ada", "--plan", "gold", "--id", "k", "--account", "team") == 0
    key = quota.ledger.get_key("k")
    first, second = (quota.ledger.reserve(key, 5, ttl=timedelta(hours=number), route="r") for number in (1, 2))
    first.spend(2)
    return first, second


def test_what_is_in_flight_is_listed_and_shown(quota, held):
    """For people and for programs; by the key's name, or its account's id."""
    first, second = held
    assert quota("reservation", "list", "Ada") == 0
    one, other = quota.out.splitlines()
    assert one.startswith(f"{first.id}: key k on r, holds 3 requests, spent 2 requests, lapses ")
    assert other.startswith(f"{second.id}: key k on r, holds 5 requests, spent nothing, lapses ")
    listed = quota.json("reservation", "list", "team")["reservations"]
    assert [row["id"] for row in listed] == [first.id, second.id]
    assert quota.json("reservation", "show", first.id) == listed[0]


def test_it_is_settled(quota, held):
    """Committed, cancelled, or held longer; one that is closed, or no id at all, is told."""
    first, second = held
    assert quota("reservation", "extend", first.id, str(3 * 3600)) == 0
    assert quota.json("reservation", "list", "k")["reservations"][1]["id"] == first.id
    assert quota("reservation", "commit", first.id, "--actual", "1") == 2
    assert "at least the 2 requests that were spent" in quota.err
    assert quota("reservation", "commit", first.id, "--actual", "4") == 0
    assert quota("reservation", "cancel", second.id) == 0
    assert quota.out == f"{second.id} is cancelled\n"
    assert quota("reservation", "cancel", second.id) == 2
    assert "is closed" in quota.err
    assert quota("reservation", "show", "nothing") == 2
    assert quota("reservation", "list", "k") == 0
    assert quota.out == "nothing is in flight\n"
    assert quota.json("usage", "k")["limits"][1]["used"] == 4

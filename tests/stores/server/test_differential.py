"""What servers decide by themselves beside the rule alone: whatever happens to both, they answer and keep the same."""

import pytest

from every_store import namespace
from histories import GeneralStore, in_memory, live, on_a_server
from quota.stores import open_store


@pytest.fixture(params=["valkey", "postgres"], ids=["redis", "postgres"])
def new(request):
    """A function that opens a store in a namespace of its own, on a real server."""
    server = request.getfixturevalue(request.param)
    return lambda: open_store(f"{server.url}?namespace={namespace()}")


def there_and_here(new, seed):
    store = new()
    try:
        return live(seed, (store, on_a_server), (GeneralStore(), in_memory), steps=60, remembered=False)
    finally:
        store.close()


def test_servers_answer_and_keep_what_the_rule_does(new):
    """Random histories: answers, usage, and what is on the server, with the readings of minutes and hours."""
    assert sum(there_and_here(new, seed) for seed in range(4)) > 50


@pytest.mark.slow
@pytest.mark.parametrize("first", range(0, 600, 100))
def test_servers_at_length(new, first):
    """Hundreds of histories on each server."""
    for seed in range(first, first + 100):
        there_and_here(new, 1_000_000 + seed)

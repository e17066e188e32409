"""The SQLite store's plain charges beside the rule alone: whatever happens to both, they answer and keep the same."""

import pytest

from histories import GeneralStore, in_memory, in_sqlite, live
from quota.stores.sqlite import SQLiteStore


def plain_and_general(folder, seed):
    store = SQLiteStore(folder / f"{seed}.db", durability="normal")
    try:
        return live(seed, (store, in_sqlite), (GeneralStore(), in_memory), remembered=False)
    finally:
        store.close()


def test_plain_charges_answer_and_keep_what_the_rule_does(tmp_path):
    """Random histories: answers, usage, and what is in the file, with the readings of minutes and hours."""
    assert sum(plain_and_general(tmp_path, seed) for seed in range(7)) > 140


@pytest.mark.slow
@pytest.mark.parametrize("first", range(0, 1000, 100))
def test_plain_charges_at_length(tmp_path, first):
    """A thousand histories."""
    for seed in range(first, first + 100):
        plain_and_general(tmp_path, 1_000_000 + seed)

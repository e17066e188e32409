"""Five slots, four processes with clocks that differ, kills at any instant: a referee outside never sees a sixth."""

import random

import pytest

import quota
import referee
from every_store import namespace
from planting import plant

KILLS = pytest.mark.parametrize("kills", [4, pytest.param(100, marks=pytest.mark.slow)])


def place(request, store):
    """A URL of a place of its own on a store."""
    if store == "sqlite":
        return f"sqlite:///{request.getfixturevalue('tmp_path')}/{namespace()}.db?durability=normal&timeout=30"
    return f"{request.getfixturevalue(store).url}?timeout=30&namespace={namespace()}"


@KILLS
@pytest.mark.parametrize("store", ["sqlite", "valkey", "postgres"])
def test_never_a_sixth_whoever_is_killed(request, tmp_path, store, kills):
    """All five are in use and more are wanted; after the last kill all are free within the time that slots are held."""
    seen = referee.play(quota, place(request, store), tmp_path, kills, random.randrange(10**9))
    wanted = {("open", True), ("open", False), ("renew", True), ("renew", "closed"), ("commit", True), ("spend", True)}
    assert wanted <= seen.keys(), seen


RESERVATIONS = "operations/reservations.py"
PLANTED = {
    "freed by a caller's clock, sqlite": (
        "stores/sqlite/requests.py", "None if self._lapse_clock is None else self._lapse_clock()", "None"),
    "freed by a caller's clock, valkey": (
        "stores/redis/requests.py", "int(server_now) if self._lapse_here else None", "None"),
    "freed by a caller's clock, postgres": (
        "stores/postgres/requests.py", "server_now if self._lapse_here else None", "None"),
    "a renewal revives what lapsed": (
        RESERVATIONS, "or any(hold is not None and not hold.still_open for hold in holds)", "",
        "hold._replace(until=until)", "hold._replace(until=until, still_open=True)"),
    "freed twice": (RESERVATIONS, "if found is not None and found.still_open:", "if found is not None:"),
    "a cancel returns what was spent": (
        RESERVATIONS, "            record.give_back(found.taken_at, found.takes)",
        "            for at, part in ((found.taken_at, found.takes), *found.spent):\n                record.give_back(at, part)"),
    "never freed": ("rule/record.py", "for hold in self.holds.ripe(now):", "for hold in ():"),
    "another process unseen": ("stores/sqlite/requests.py", "not copy.fresh(db)", "not copy"),
}  # fmt: skip
"""Each on the store that it names, else in a file."""


@pytest.mark.spread(2)
@pytest.mark.parametrize(
    "what", [pytest.param(what, marks=[pytest.mark.slow] * what.endswith(("valkey", "postgres"))) for what in PLANTED]
)
def test_planted_bugs_are_seen(request, tmp_path, what):
    """By the referee's verdict."""
    package, *_ = plant(tmp_path, f"referee{[*PLANTED].index(what)}", *PLANTED[what])
    store = what.partition(", ")[2] or "sqlite"
    with pytest.raises(referee.Fault):  # mostly at once, but nothing says when a process comes to what is planted
        for round_ in range(10):
            (tmp_path / str(round_)).mkdir()
            referee.play(package, place(request, store), tmp_path / str(round_), 2, random.randrange(10**9))

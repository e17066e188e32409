"""Leases of several units, routes, accounts and plans: every meter's books balance after every step; planted bugs fall."""

import pytest

from simulation_leases import caught, plant
from simulation_route_plans import World, simulate

LEASES, LEASE_HOLDER, INDEX = "rule/leases.py", "stores/leased/holder.py", "stores/leased/index.py"

BUGS = {
    "an account's units are not given back": [(
        LEASES, "for record in subject.records():\n        lease = record.leases.get", "for record in subject.records()[:1]:\n        lease = record.leases.get")],
    "a lease is remembered of the key alone": [(
        LEASES, "for record in subject.records():\n        leases, burned", "for record in subject.records()[:1]:\n        leases, burned")],
    "one unit's lease is taken to cover all": [(LEASE_HOLDER, "        return all(\n            unit in self.units", "        return any(\n            unit in self.units")],
    "only one unit is spent": [(
        LEASE_HOLDER, "                self.spent[unit].total += units\n", "                self.spent[unit].total += units\n                break\n")],
    "routes share a lease": [(INDEX, "place = (ref, request.api, request.route, kind)", "place = (ref, request.api, None, kind)")],
    "what was used is told of one unit": [(LEASE_HOLDER, "for unit, meter in self.spent.items() if meter.total}", "for unit, meter in list(self.spent.items())[:1] if meter.total}")],
}  # fmt: skip


@pytest.mark.spread(2)
@pytest.mark.parametrize("bug", BUGS)
def test_the_books_show(bug, tmp_path):
    """One planted bug, seen within some histories."""
    package = plant(tmp_path, f"route_plans{list(BUGS).index(bug)}", BUGS[bug])
    assert caught(simulate, package, range(100)) is not None


@pytest.mark.spread(4)
@pytest.mark.parametrize("part", range(12))
def test_histories(part):
    """Every unit of every meter is accounted for after every step of every history."""
    for seed in range(part * 4, part * 4 + 4):
        simulate(seed, awaited=seed % 3 == 0)


@pytest.mark.slow
@pytest.mark.parametrize("part", range(20))
def test_many_histories(part):
    """As above, four thousand times."""
    for seed in range(10_000 + part * 200, 10_000 + part * 200 + 200):
        simulate(seed, awaited=seed % 3 == 0)


def test_a_seed_replays():
    """The same seed does the same things to the same end."""
    for seed in range(2):
        one, other = (simulate(seed) for _ in range(2))
        assert (one.log, one.books, one.asked) == (other.log, other.books, other.asked)


def test_a_failure_tells_its_seed(monkeypatch):
    """What fails can be run again."""
    monkeypatch.setattr(World, "do_burst", lambda self: self.note("b", None, self.operator.consume(None)))
    with pytest.raises(AssertionError, match=r"seed 3, after \d+ steps"):
        simulate(3)

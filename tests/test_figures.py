"""The page of figures tells no more than what the tests do."""

import pytest

import figures

PAGE = figures.PAGE.read_text("utf-8")


def test_the_page_is_of_the_tests_as_they_are(request):
    """Where all tests were collected, as in a whole run; ``make figures`` writes it anew."""
    collected = request.config.pluginmanager.get_plugin("figures")
    told = figures.numbers(PAGE)
    assert set(told) >= {row.what for row in figures.ROWS}
    assert not collected.whole() or figures.stale(told, collected.items) == []


def test_mutants_are_of_the_sources_as_they_are():
    """Their number is known to mutmut alone; how many lines they were made of is told beside it."""
    (told,) = [what for what in figures.numbers(PAGE) if what.startswith("mutants of ")]
    lines = int(told.split()[2].replace(",", ""))
    assert 0.9 < lines / figures.mutated_lines() < 1.1


KILLED = "tests/stores/sqlite/test_crash.py::test_killed_again_and_again_nothing_acknowledged_is_lost"
ITEMS = [(KILLED, {"kills": 5, "durability": "full"}), (KILLED, {"kills": 15, "durability": "full"})]


@pytest.mark.parametrize(("told", "stale"), [(40, False), (37, False), (41, True), (20, True), (None, True)])
def test_a_planted_figure_is_seen(told, stale):
    """One above what there is, far below it, or none."""
    (row,) = [row for row in figures.ROWS if figures.count(ITEMS, row)]
    found = figures.stale({} if told is None else {row.what: told}, ITEMS, [row])
    assert found == [row.what] * stale


def test_a_kill_that_does_not_happen_is_seen():
    """As many as its row says, else the test that tells of them fails."""
    with pytest.raises(AssertionError, match="is counted 10 times .*: 0 happened"):
        figures.check(*ITEMS[0])
    figures.tell(10)
    figures.check(*ITEMS[0])


def test_a_row_of_the_table_is_read_as_it_was_written():
    """Rounded down, to two digits."""
    table = figures.written(ITEMS, 3219)
    told = figures.numbers(figures.BEGIN + table + figures.END)
    assert sorted(told.values())[-2:] == [40, 3200]

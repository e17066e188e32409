"""The page of figures, ``docs/figures.md``: ``make figures`` writes its table from the tests as they are collected.

A row counts the instances of the tests that its pattern finds; one with ``each`` what happens within an instance, which
says so (``tell``) as it happens: conftest fails a test in which something else happened than its row says.
"""

from __future__ import annotations

import inspect
import re
import sys
import tomllib
from collections.abc import Callable, Iterator
from typing import NamedTuple

import pytest

import paths

PAGE = paths.ROOT / "docs" / "figures.md"
BEGIN, END = "<!-- written by `make figures` -->\n\n", "\n\n<!-- the end of what it writes -->"
_HAPPENED = [0]


class Row(NamedTuple):
    """All that is counted together: tests by the ends of their ids without parameters, and how often in each."""

    what: str
    tests: dict[str, Callable[..., int] | None]
    files: str


ROWS = [
    Row("bugs planted into copies of the library, each found", {
        r"tests/(ledger|operations|process|rule|stores|web)/.*::test_(\w*planted(?!_words)\w*|\w*_catch(es)?|the_books_show|caught)": None,
    }, "tests/ledger tests/process tests/rule tests/stores tests/web"),
    Row("inputs that cannot be meant, each refused by an error that says why", {
        r"tests/.*::test_\w*(cannot_(be|do)|invalid|wrong_use|bad_settings|mistakes_name|garbled_text|what_is_no|not_of_the_grammar|what_is_said|no_json|hostile)\w*": None,
    }, ""),
    Row("faults of disks, networks and servers, each in a test of its own", {
        r"tests/stores/(sqlite|postgres)/test_faults\.py::\w+": None,
        r"tests/stores/.*::test_\w*(fault_at_any|forbidden_command|lost_reply|silent_server|that_hangs|unreachable)\w*": None,
    }, "tests/stores"),
    Row("processes and servers killed (SIGKILL, or an immediate stop) while they count", {
        r"tests/stores/sqlite/test_crash\.py::test_killed_again_\w+": lambda kills: 2 * kills,
        r"tests/stores/sqlite/test_crash\.py::test_killed_five_hundred_\w+": lambda: 500,
        r"tests/stores/sqlite/test_crash\.py::test_killed_inside_\w+": lambda: 1,
        r"tests/stores/test_referee\.py::test_never_a_sixth_\w+": lambda kills: kills + 4,
        r"tests/stores/test_events_crash\.py::\w+_killed_on_sqlite": lambda kills: kills,
        r"tests/stores/test_events_crash\.py::\w+_killed_on_(valkey|postgres)": lambda kills: kills + kills // 2,
        r"tests/stores/leased/test_processes\.py::test_killed_\w+": lambda: 18,
    }, "tests/stores/sqlite/test_crash.py tests/stores/test_referee.py tests/stores/test_events_crash.py tests/stores/leased/test_processes.py"),
    Row("power losses at places of a recorded history, whatever was not synced gone or torn", {
        r"tests/stores/sqlite/test_crash\.py::\w+_(power_loss|nothing_else)": lambda: 100,
    }, "tests/stores/sqlite/test_crash.py"),
    Row("random histories in which every unit is accounted for after every step (beside what Hypothesis finds, new in each run)", {
        r"tests/stores/leased/test_simulation\.py::test_histories": lambda: 5,
        r"tests/stores/leased/test_simulation\.py::test_histories_that_failed_once": lambda: 1,
        r"tests/stores/leased/test_simulation\.py::test_crowded_histories": lambda: 5,
        r"tests/stores/leased/test_simulation\.py::test_many_crowded_histories": lambda: 200,
        r"tests/stores/leased/test_simulation\.py::test_many_histories": lambda: 250,
        r"tests/stores/leased/test_route_plans\.py::test_histories": lambda: 4,
        r"tests/stores/leased/test_route_plans\.py::test_many_histories": lambda: 200,
        r"tests/stores/test_account_plans\.py::test_a_thousand_random_trees": lambda: 50,
    }, "tests/stores/leased/test_simulation.py tests/stores/leased/test_route_plans.py tests/stores/test_account_plans.py"),
    Row("explorations of two calls at once, switched between at every opcode", {
        r"tests/.*interleavings\.py::test_(every_interleaving|interleavings_with|no_lease_overtakes)\w*": None,
    }, "tests/ledger/test_interleavings.py tests/stores/leased/test_interleavings.py"),
    Row("changes interrupted by an exception at one instant after another, each whole or undone", {
        r"tests/ledger/test_interrupted_changes\.py::test_all_or_nothing\w*": None,
    }, "tests/ledger/test_interrupted_changes.py"),
]  # fmt: skip


def tell(happened: int = 1) -> None:
    """Say that something happened that a row counts."""
    _HAPPENED[0] += happened


def wanted(test: str, parameters: dict[str, object]) -> int | None:
    """How often the rows say that something happens in a test; None where they count the test itself, or not at all."""
    for row in ROWS:
        for pattern, each in row.tests.items():
            if each is not None and re.fullmatch(pattern, test):
                return each(**{name: parameters[name] for name in inspect.signature(each).parameters})
    return None


def check(test: str, parameters: dict[str, object]) -> None:
    """Raise ``AssertionError`` where something else happened in a test than its row counts."""
    due = wanted(test, parameters)
    assert due in (None, _HAPPENED[0]), (
        f"{test} is counted {due} times in tests/support/figures.py: {_HAPPENED[0]} happened"
    )


def count(items: list[tuple[str, dict[str, object]]], row: Row) -> int:
    """Count what a row tells of, in tests with their parameters."""
    found = 0
    for test, parameters in items:
        if any(re.fullmatch(pattern, test) for pattern in row.tests):
            due = wanted(test, parameters)
            found += 1 if due is None else due
    return found


def rounded(number: int) -> int:
    """A number's first two digits, so that the page is not stale with each test that joins."""
    step = 10 ** max(0, len(str(number)) - 2)
    return number // step * step


def written(items: list[tuple[str, dict[str, object]]], mutants: int) -> str:
    """The table."""
    lines = ["| at least | | again |", "|---|---|---|"]
    for row in ROWS:
        again = f"`make test TESTS=\"-m '' {row.files}\"`" if row.files else "`make test`"
        lines.append(f"| {rounded(count(items, row)):,} | {row.what} | {again} |")
    lines.append(f"| {rounded(mutants):,} | mutants of {mutated_lines():,} lines (the rule, periods, limits, plans), "
                 f"made one at a time: a survivor that is not argued in place fails it | `make mutate` |")  # fmt: skip
    return "\n".join(lines)


def numbers(page: str) -> dict[str, int]:
    """What the page tells, by what it tells of."""
    found = re.findall(r"^\| ([\d,]+) \| (.+?) \| `", page[page.index(BEGIN) : page.index(END)], re.MULTILINE)
    return {what: int(number.replace(",", "")) for number, what in found}


def stale(told: dict[str, int], items: list[tuple[str, dict[str, object]]], rows: list[Row] = ROWS) -> list[str]:
    """Rows that tell of more than there is, or of less than nine tenths of it."""
    found = {row.what: count(items, row) for row in rows}
    return [what for what, real in found.items() if not 0.9 * real - 1 <= told.get(what, -9) <= real]


def mutated() -> list[str]:
    """The files that mutants are made of."""
    return tomllib.loads((paths.ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["mutmut"]["only_mutate"]


def mutated_lines() -> int:
    return sum(len((paths.ROOT / file).read_text("utf-8").splitlines()) for file in mutated())


def mutants() -> int:
    """How many mutants there are."""
    from mutmut.mutation.file_mutation import mutate_file_contents

    sources = {file: (paths.ROOT / file).read_text("utf-8") for file in mutated()}
    return sum(len(mutate_file_contents(file, source).mutant_names) for file, source in sources.items())


class Collected:
    """A plugin that keeps what pytest collects, before any of it is left out, and checks what happens in each test."""

    def __init__(self) -> None:
        self.items: list[tuple[str, dict[str, object]]] = []

    def pytest_itemcollected(self, item: pytest.Item) -> None:
        self.items.append(_named(item))

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Iterator[None]:
        _HAPPENED[0] = 0
        yield
        check(*_named(item))

    def whole(self) -> bool:
        """Tell whether every file of the tests was collected."""
        files = {test.partition("::")[0] for test, _ in self.items}
        return files >= {str(file.relative_to(paths.ROOT)) for file in paths.TESTS.rglob("test_*.py")}


def _named(item: pytest.Item) -> tuple[str, dict[str, object]]:
    """The id of a collected test without its parameters, and those."""
    return item.nodeid.partition("[")[0], getattr(getattr(item, "callspec", None), "params", {})


def main() -> None:
    """Write the table into the page."""
    collected = Collected()
    if pytest.main(["--collect-only", "-qqq", "-m", "", str(paths.TESTS)], [collected]):
        sys.exit("the tests cannot be collected")
    page = PAGE.read_text("utf-8")
    table = written(collected.items, mutants())
    PAGE.write_text(page[: page.index(BEGIN)] + BEGIN + table + page[page.index(END) :], "utf-8")
    sys.stdout.write(table + "\n")


if __name__ == "__main__":
    main()

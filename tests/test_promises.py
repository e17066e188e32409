"""What is promised, and what is known of API Gateway, is held by tests that are there."""

from __future__ import annotations

import re

import pytest

import paths
from witnesses import rows, unheld

TABLES = {
    "promises": paths.ROOT / "docs" / "promises.md",
    "JSON": paths.ROOT / "docs" / "reference" / "json.md",
    "API Gateway's facts": paths.ROOT / "tests" / "aws" / "control" / "README.md",
}


@pytest.mark.parametrize("table", TABLES)
def test_every_row_has_its_witnesses(table):
    """Each names a test at least, and each that it names is there."""
    text = TABLES[table].read_text("utf-8")
    assert len(list(rows(text))) >= 5
    assert list(unheld(text)) == []


def promised(readme):
    """What the README's section of promises puts in bold, without its full stop."""
    section = re.search(r"^## What is promised\n(.*?)^## ", readme, re.MULTILINE | re.DOTALL)[1]
    return [bold.rstrip(".,") for bold in re.findall(r"^- \*\*(.+?)\*\*", section, re.MULTILINE)]


def test_every_promise_of_the_readme_is_a_row():
    """By the words that the README has in bold; a planted one is missed."""
    named = {cells[0] for cells in rows(TABLES["promises"].read_text("utf-8"))}
    readme = (paths.ROOT / "README.md").read_text("utf-8")
    assert len(promised(readme)) >= 9
    assert set(promised(readme)) - named == set()
    assert promised("## What is promised\n\n- **No rain.** Ever.\n\n## More\n") == ["No rain"]
    assert "No rain" not in named


@pytest.mark.parametrize("row", ["| a | |", "| a | `test_promises.py` |", "| a | `test_promises.py::test_gone` |", "| a | `gone.py::test_a` |",
                                 "| a | `test_promises.py::test_planted_rows_are_seen`, `test_promises.py::test_gone` |"])  # fmt: skip
def test_planted_rows_are_seen(row):
    """Without a witness, or with one that is gone, also beside one that is there."""
    head = "| promise | witnesses |\n|---|---|\n"
    assert [cells for cells, _ in unheld(head + row)] == ["a"]
    assert list(unheld(head + "| a | `test_promises.py::test_planted_rows_are_seen` |")) == []

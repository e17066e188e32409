"""What is promised, and what is known of API Gateway, is held by tests that are there."""

from __future__ import annotations

import pytest

import paths
from witnesses import rows, unheld

TABLES = {
    "API Gateway's facts": paths.ROOT / "tests" / "aws" / "control" / "README.md",
}


@pytest.mark.parametrize("table", TABLES)
def test_every_row_has_its_witnesses(table):
    """Each names a test at least, and each that it names is there."""
    text = TABLES[table].read_text("utf-8")
    assert len(list(rows(text))) > 10
    assert list(unheld(text)) == []


@pytest.mark.parametrize("row", ["| a | |", "| a | `test_promises.py` |", "| a | `test_promises.py::test_gone` |", "| a | `gone.py::test_a` |",
                                 "| a | `test_promises.py::test_planted_rows_are_seen`, `test_promises.py::test_gone` |"])  # fmt: skip
def test_planted_rows_are_seen(row):
    """Without a witness, or with one that is gone, also beside one that is there."""
    head = "| promise | witnesses |\n|---|---|\n"
    assert [cells for cells, _ in unheld(head + row)] == ["a"]
    assert list(unheld(head + "| a | `test_promises.py::test_planted_rows_are_seen` |")) == []

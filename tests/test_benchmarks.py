"""Benchmarks beside what they measure: figures that are put in a report, and memory that is each job's own."""

from types import SimpleNamespace

import pytest
from benchmarks import directory, report
from benchmarks.measure import Ratio, Timing

from quota import Ledger

TITLES = ["First", "Second", "Third", "Fourth"]
FIGURES = {"ratios": {"of these": Ratio(2.0, 1.0, 3.0)}, "timings": {"this": Timing("this one", [5e6])}}


@pytest.fixture
def results(tmp_path, monkeypatch):
    """A report with two of four sections."""
    monkeypatch.setattr(report, "HERE", tmp_path)
    (tmp_path / "budget.toml").write_text('[second]\n"of these" = { at_most = 2.5 }\n')
    file = tmp_path / "RESULTS.md"
    file.write_text("# Results\n\nHead.\n\n## First\n\nOne.\n\n## Third\n\nOld.\n\n## What was taken out\n\nEnd.\n")
    return file


@pytest.mark.parametrize(
    ("title", "before", "after"),
    [
        ("Third", "# Results\n\nHead.\n\n## First\n\nOne.\n\n", "## What was taken out\n\nEnd.\n"),
        ("Second", "# Results\n\nHead.\n\n## First\n\nOne.\n\n", "## Third\n\nOld.\n\n## What was taken out\n\nEnd.\n"),
        ("Fourth", "# Results\n\nHead.\n\n## First\n\nOne.\n\n## Third\n\nOld.\n\n", "## What was taken out\n\nEnd.\n"),
    ],
)
def test_a_section_is_put_in_the_report_and_the_others_stay(results, title, before, after):
    """In place of what there was of it, or where it comes; put again, nothing else changes."""
    section = SimpleNamespace(TITLE=title, __doc__="What it is.")
    for _ in range(2):
        report.put({title.lower(): (section, FIGURES)}, TITLES, 21)
        text = results.read_text()
        assert text.startswith(before)
        assert text.endswith(after)
        own = text.removeprefix(before).removesuffix(after)
        assert own.startswith(f"## {title}\n\nWhat it is.\n")
        assert "| this one | 5.00 ms |" in own
        assert own.count("## ") == own.count("In a run of its own: ") == 1


def test_a_job_over_all_keys_is_measured_in_a_process_of_its_own(tmp_path):
    """What it holds is told by itself, and not what this process, or a job before it, held."""
    url = f"sqlite:///{tmp_path}/q.db?durability=normal"
    with Ledger(url) as ledger:
        directory.fill(ledger, 20)
        names = list(directory.jobs(ledger))
    assert names[0] == "list_keys, in pages"
    found = directory.in_a_process(url, names[0])
    assert 0 < found["peak"] < 2_000_000
    assert len(found["times"]) == directory.TIMES

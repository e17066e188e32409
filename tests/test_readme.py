"""Every Python block of the README and the tour runs, and every ``# ->`` says what really comes out."""

import pytest

import django_site  # noqa: F401 -- sets Django up: the README puts a plan in front of a project
import paths
from documents import play

ROOT = paths.ROOT


@pytest.mark.parametrize(("page", "least"), [("README.md", 13), ("docs/tour.md", 30)])
def test_the_page_is_true(page, least):
    """Its blocks run in order, and each result that it shows is the result."""
    assert play((ROOT / page).read_text("utf-8"), {"__name__": "readme"}) > least


def test_the_readme_is_read_in_one_sitting():
    """About 250 lines; what is more stands in the documents, and is linked."""
    assert len((ROOT / "README.md").read_text("utf-8").splitlines()) <= 260


def test_a_false_readme_is_caught():
    """A result that differs fails, as does a block that raises or does not raise."""
    for lie in ("1 + 1  # -> 3", "1 / 0", "1 + 1  # raises InvalidPlan"):
        with pytest.raises((AssertionError, ZeroDivisionError, pytest.fail.Exception)):
            play(f"```python\n{lie}\n```", {})

"""The documents and the examples are true."""

from __future__ import annotations

import re
import runpy
import subprocess
import sys

import pytest

import paths
from documents import play
from web import wsgi


@pytest.mark.parametrize("page", ["aws", "usage-page"])
def test_every_block_runs(page):
    """In order, in one namespace."""
    text = (paths.ROOT / "docs" / f"{page}.md").read_text("utf-8")
    assert "```python" in text
    play(text, {"__name__": "docs"})


def test_the_example_by_boto3():
    """Two calls are admitted, and its usage says so."""
    done = subprocess.run(
        [sys.executable, paths.ROOT / "examples" / "control_plane" / "main.py"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith("[True, True, False]\n")
    assert "[[2, 0]]" in done.stdout


def test_the_page_beside_flask():
    """The application is limited, the page beside it is not."""
    names = runpy.run_path(str(paths.ROOT / "examples" / "usage_page" / "main.py"))
    key = [("x-api-key", names["secret"])]
    assert wsgi(names["app"], path="/pets", headers=key).status == 200
    assert wsgi(names["app"], path="/pets").status == 403
    assert b'"used": 1' in wsgi(names["app"], path="/usage", headers=key).body


def test_the_terraform_file_names_what_there_is():
    """Its credentials are those that its comment makes, its resources those of the control plane."""
    text = (paths.ROOT / "examples" / "control_plane" / "main.tf").read_text("utf-8")
    assert set(re.findall(r'resource "(\w+)"', text)) == {
        "aws_api_gateway_usage_plan",
        "aws_api_gateway_api_key",
        "aws_api_gateway_usage_plan_key",
    }
    for name in ("access_key", "secret_key"):
        value = re.search(rf'{name} += "([^"]+)"', text)[1]
        assert text.count(value) == 2


def test_every_example_says_what_it_is():
    """Each has a folder, a program and a README of a few lines that says how to start it."""
    folders = [path for path in (paths.ROOT / "examples").iterdir() if path.name != "__pycache__"]
    assert len(folders) >= 2
    for folder in folders:
        told = (folder / "README.md").read_text("utf-8")
        assert f"examples/{folder.name}/" in told
        assert len(told.splitlines()) <= 12
        assert list(folder.glob("*.py"))

"""The distributions: the source one runs its own tests, the wheel is the library and nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import venv
import zipfile
from email.parser import Parser

import pytest

import paths

ROOT = paths.ROOT
LEFT_OUT = {"__pycache__"}
HELD = [
    "tests/test_readme.py",
    "tests/web/test_docs.py",
    "tests/cli/test_docs.py",
    "tests/test_house.py",
    "tests/ledger/test_ledger.py",
]
"""What reads the documents and the sources, and the plainest tests of the library."""


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The folder of both, made from this one."""
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-d", folder], cwd=ROOT, check=True, capture_output=True
    )
    return folder


def only(folder, pattern):
    (found,) = folder.glob(pattern)
    return found


def sources(*folders):
    """The files of these folders, by their paths in the repository."""
    paths = [path for folder in folders for path in (ROOT / folder).rglob("*")]
    return {path.relative_to(ROOT).as_posix() for path in paths if path.is_file() and LEFT_OUT.isdisjoint(path.parts)}


def test_the_source_distribution_is_whole(built):
    """Everything that builds, tests and explains the library is in it."""
    with tarfile.open(only(built, "*.tar.gz")) as archive:
        held = {name.partition("/")[2] for name in archive.getnames()}
    alone = {
        "CHANGELOG.md",
        "CONTRIBUTING.md",
        "LICENSE",
        "Makefile",
        "README.md",
        "SECURITY.md",
        "pyproject.toml",
        "PKG-INFO",
    }
    assert (sources("src", "tests", "docs", "benchmarks") | alone) - held == set()


def test_the_wheel_is_the_library(built):
    """The package as it is here, its licence and types; the README is its description."""
    with zipfile.ZipFile(only(built, "*.whl")) as archive:
        held = set(archive.namelist())
        (info,) = {name.partition("/")[0] for name in held if ".dist-info/" in name}
        told = Parser().parsestr(archive.read(f"{info}/METADATA").decode())
    assert {f"src/{name}" for name in held if not name.startswith(info)} == sources("src")
    assert {
        "quota/py.typed",
        "quota/replay/sample.log",
        "quota/stores/redis/decide.lua",
        "quota/stores/postgres/decide.sql",
        f"{info}/licenses/LICENSE",
    } <= held
    assert told.get_payload().strip() == (ROOT / "README.md").read_text("utf-8").strip()
    assert told["Requires-Python"] == ">=3.11"
    assert told["License-Expression"] == "MIT"


def environment():
    """What a shell has, without what would point at this tree."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "PYTEST", "COV"))}


@pytest.mark.slow
def test_the_source_distribution_runs_its_tests(built, tmp_path):
    """Unpacked elsewhere: every test file is collected, and those pass that read what was packed."""
    with tarfile.open(only(built, "*.tar.gz")) as archive:
        archive.extractall(tmp_path, filter="data")
    clone = only(tmp_path, "quota-*")
    for arguments in (["--collect-only"], HELD):
        done = subprocess.run([sys.executable, "-m", "pytest", "-q", *arguments], cwd=clone, env=environment(),
                              capture_output=True, text=True)  # fmt: skip
        assert done.returncode == 0, done.stdout[-4_000:]


@pytest.mark.slow
def test_the_wheel_works_where_it_is_installed(built, tmp_path):
    """With what it asks for alone: the demo, and a log replayed by the command that it installs."""
    venv.create(tmp_path / "venv", with_pip=True)
    bin_ = tmp_path / "venv" / "bin"
    install = [bin_ / "python", "-m", "pip", "install", "-q", only(built, "*.whl")]
    subprocess.run(install, check=True, capture_output=True)
    for command in (["demo"], ["replay", str(ROOT / "src" / "quota" / "replay" / "sample.log"), "--plan", "100/day"]):
        done = subprocess.run(
            [bin_ / "quota", *command], cwd=tmp_path, env=environment(), capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout

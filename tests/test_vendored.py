"""The folder copied under another name passes the suite where nothing is installed but attrs and the tests' tools."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
TOOLS = {"pytest": "pytest", "hypothesis": "hypothesis", "dateutil": "python-dateutil", "whenever": "whenever",
         "http_sf": "http-sf", "freezegun": "freezegun"}  # fmt: skip
ELSEWHERE = {
    "test_house": "reads the repository",
    "test_fields_docs": "reads the repository",
    "test_readme": "reads the repository",
    "test_api_docs": "reads the repository",
    "test_typing": "reads the repository, and needs FastAPI",
    "test_vendored": "is this",
    "test_planted": "copies and renames the library itself",
    "test_cli_sqlite": "needs typer",
    "test_sqlite_faults": "starts interpreters that know the library by its name",
}
LONG = {
    "test_interleavings", "test_interrupted_changes", "test_interrupts", "test_leased", "test_leased_corners", "test_leased_courses", "test_leased_interleavings", "test_leased_processes", "test_leased_simulation", "test_scheduler",
    "test_small_world", "test_sqlite", "test_sqlite_crash", "test_sqlite_faults", "test_sqlite_planted",
    "test_lease_operations", "test_replay", "test_replay_million", "test_sqlite_processes", "test_suggest",
    "test_threads", "test_toggling", "test_web", "test_sqlite_races", "test_redis_races", "test_postgres_races",
    "test_remote_races",
}  # fmt: skip
"""What takes its time on any copy alike: left to the slow run."""
CORE = {"test_http", "test_key", "test_machine", "test_period", "test_small_world"}
ALONE = '''
from importlib.util import find_spec

from quota import Ledger


def test_alone():
    """Nothing but attrs is there, and what is tested is the copy."""
    for name in ("redis", "psycopg", "typer", "rich", "matplotlib", "fastapi", "starlette", "quo" "ta"):
        assert find_spec(name) is None, name
    assert Ledger.__module__ == "myapp.metering.ledger"
'''


def install(folder, *names):
    """An environment with these distributions and what they require, markers obeyed, and nothing else: its Python."""
    venv.create(folder, symlinks=os.name == "posix", with_pip=False)
    place = Path(sysconfig.get_path("purelib", "venv", {"base": str(folder)}))
    wanted, seen = list(names), set()
    while wanted:
        name = wanted.pop()
        if name in seen:
            continue
        seen.add(name)
        found = metadata.distribution(name)
        for top in {file.parts[0] for file in found.files} - {"..", "__pycache__"}:
            if not (place / top).exists():
                (place / top).symlink_to(Path(found.locate_file(top)).resolve())
        needs = map(Requirement, found.requires or ())
        wanted += [need.name for need in needs if need.marker is None or need.marker.evaluate({"extra": ""})]
    return Path(sysconfig.get_path("scripts", "venv", {"base": str(folder)})) / "python"


def imported(path):
    """The names of the top-level modules that a test file, or a helper that it imports, imports."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module.partition(".")[0])
    helpers = [path.with_name(f"{name}.py") for name in names if path.with_name(f"{name}.py").exists()]
    return names.union(*map(imported, helpers))


def chosen():
    """The test files of the library that need only attrs and the tools."""
    helpers = {path.stem for path in (ROOT / "tests").glob("*.py")}
    allowed = sys.stdlib_module_names | TOOLS.keys() | helpers | {"attrs", "quota"}
    for path in sorted((ROOT / "tests").glob("test_*.py")):
        names = imported(path)
        if path.stem not in ELSEWHERE and "quota" in names and names <= allowed:
            yield path


def renamed(source):
    """A test's source that says the copy's name wherever it said the library's, in what it makes others run too."""
    source = re.sub(r"\bfrom quota(?=[.\s])", "from myapp.metering", source)
    source = re.sub(r"\bimport quota(?=\.)", "import myapp.metering", source)
    source = re.sub(r"\bimport quota\b(?! as)", "import myapp.metering as quota", source)
    source = re.sub(r"""(["']-m["'],\s*["'])quota\b""", r"\1myapp.metering", source)
    return re.sub(r"""\b(import_module|setattr|patch|find_spec)\((["'])quota\b""", r"\1(\2myapp.metering", source)


@pytest.fixture
def copy(tmp_path):
    """An application that took the folder in: ``myapp/metering``, its tests beside it, and an environment of its own."""
    shutil.copytree(
        ROOT / "src" / "quota", tmp_path / "app" / "myapp" / "metering", ignore=shutil.ignore_patterns("__pycache__")
    )
    shutil.copy(ROOT / "pyproject.toml", tmp_path / "app")
    tests = tmp_path / "app" / "tests"
    tests.mkdir()
    for path in (ROOT / "tests").glob("*.py"):
        if not path.stem.startswith("test_"):
            (tests / path.name).write_text(renamed(path.read_text("utf-8")), "utf-8")
    for path in chosen():
        (tests / path.name).write_text(renamed(path.read_text("utf-8")), "utf-8")
    (tests / "test_alone.py").write_text(renamed(ALONE), "utf-8")
    return tmp_path


def run(copy, *arguments):
    """Pytest's answer in the application and its environment."""
    python = install(copy / "venv", "attrs", *TOOLS.values())
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "PYTEST", "COV"))}
    env = kept | {"PYTHONDONTWRITEBYTECODE": "1", "QUOTA_PROFILE": "smoke"}
    command = [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments]
    return subprocess.run(command, cwd=copy / "app", env=env, check=False, capture_output=True, text=True)


@pytest.mark.parametrize("left", [LONG, pytest.param(set(), marks=pytest.mark.slow)], ids=["quick", "whole"])
def test_passes(copy, left):
    """Copied as ``myapp/metering``, the library passes its tests with attrs alone."""
    assert CORE <= {path.stem for path in chosen()}
    done = run(copy, *(f"--ignore=tests/{name}.py" for name in left))
    assert done.returncode == 0, done.stdout[-6_000:] + done.stderr
    assert int(re.search(r"(\d+) passed", done.stdout)[1]) > 200


@pytest.mark.parametrize("planted", ["from quota.errors import QuotaError", "import redis"])
def test_notices(copy, planted):
    """A copy that says its old name, or that needs more than attrs, does not pass."""
    plan = copy / "app" / "myapp" / "metering" / "plan.py"
    source = plan.read_text("utf-8")
    assert "\nimport attrs\n" in source
    plan.write_text(source.replace("\nimport attrs\n", f"\nimport attrs\n{planted}\n"), "utf-8")
    done = run(copy, "tests/test_alone.py")
    assert done.returncode != 0
    assert "ModuleNotFoundError" in done.stdout

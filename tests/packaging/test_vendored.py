"""The folder copied under another name passes the suite where nothing is installed but attrs and the tests' tools."""

from __future__ import annotations

import ast
import functools
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

import paths

ROOT = paths.ROOT
HELPERS = {path.stem: path for path in (paths.TESTS / "support").rglob("*.py") if not path.stem.startswith("test_")}
TOOLS = {"pytest": "pytest", "hypothesis": "hypothesis", "dateutil": "python-dateutil", "whenever": "whenever",
         "http_sf": "http-sf", "freezegun": "freezegun"}  # fmt: skip
ELSEWHERE = {
    "test_house": "reads the repository",
    "test_fields_docs": "reads the repository",
    "test_readme": "reads the repository",
    "test_docs_api": "reads the repository",
    "test_docs_howto": "reads the repository",
    "aws/control/test_documents": "reads the repository",
    "test_typing": "reads the repository, and needs FastAPI",
    "packaging/test_vendored": "is this",
    "ledger/test_planted": "copies and renames the library itself",
    "web/test_slots": "copies and renames the library itself",
    "cli/test_sqlite": "needs typer",
    "stores/sqlite/test_faults": "starts interpreters that know the library by its name",
}
LONG = {
    "ledger/test_interleavings", "ledger/test_interrupted_changes", "ledger/test_interrupts", "stores/leased/test_store", "stores/leased/test_corners", "stores/leased/test_route_plans", "stores/leased/test_interleavings", "stores/leased/test_processes", "stores/leased/test_simulation", "support/races/test_scheduler",
    "rule/test_small_world", "stores/sqlite/test_store", "stores/sqlite/test_crash", "stores/sqlite/test_faults", "stores/sqlite/test_planted",
    "operations/test_leases", "replay/test_run", "replay/test_million", "stores/sqlite/test_processes", "replay/test_suggest",
    "ledger/test_threads", "rule/test_toggling", "web/test_web", "stores/sqlite/test_races", "stores/redis/test_races", "stores/postgres/test_races",
    "stores/server/test_races", "stores/server/test_forks", "stores/memory/test_bounded", "stores/memory/test_differential",
    "stores/sqlite/test_bounded", "stores/sqlite/test_differential", "process/test_forks", "replay/test_demo", "replay/test_log_files",
    "aws/test_limits", "aws/test_read_write", "ledger/test_acquire", "test_frozen", "rule/test_kept", "web/test_addresses",
    "replay/test_logs", "replay/test_logs_forms", "test_limit_text", "test_period", "web/test_asgi", "web/test_gate", "web/test_wsgi",
}  # fmt: skip
"""What takes its time on any copy alike: left to the slow run."""
DRIVEN = {"quota.stores.redis": "redis", "quota.stores.postgres": "psycopg"}
"""Parts of the library that need a driver."""
SERVED = {"valkey": "redis", "postgres": "psycopg"}
"""Fixtures that do, asked for as an argument or by their name."""
CORE = {"test_headers", "test_key", "ledger/test_machine", "test_period", "rule/test_small_world"}
ALONE = '''
from importlib.util import find_spec

from quota import Ledger


def test_alone():
    """Nothing but attrs is there, and what is tested is the copy."""
    for name in ("redis", "psycopg", "typer", "rich", "matplotlib", "fastapi", "starlette", "quo" "ta"):
        assert find_spec(name) is None, name
    assert Ledger.__module__ == "myapp.metering.ledger.sync"
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


@functools.cache
def imported(path):
    """The names of the top-level modules that a test file, or a helper that it imports, imports."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(DRIVEN.get(node.module, node.module.partition(".")[0]))
        elif isinstance(node, ast.Constant | ast.arg):
            names |= {SERVED[name] for name in [getattr(node, "value", getattr(node, "arg", None))] if name in SERVED}
    return names.union(*(imported(HELPERS[name]) for name in names & HELPERS.keys()))


def named(path):
    """A test file as the tables here name it."""
    return path.relative_to(paths.TESTS).with_suffix("").as_posix()


def chosen():
    """The test files of the library that need only attrs and the tools."""
    allowed = sys.stdlib_module_names | TOOLS.keys() | HELPERS.keys() | {"attrs", "quota"}
    for path in sorted(paths.TESTS.rglob("test_*.py")):
        names = imported(path)
        for folder in path.relative_to(paths.TESTS).parents:
            conftest = paths.TESTS / folder / "conftest.py"
            if folder.name and conftest.exists():
                names |= imported(conftest)
        if named(path) not in ELSEWHERE and "quota" in names and names <= allowed:
            yield path


def renamed(source):
    """A test's source that says the copy's name wherever it said the library's, in what it makes others run too."""
    source = re.sub(r"\bfrom quota(?=[.\s])", "from myapp.metering", source)
    source = re.sub(r"\bimport quota(?=\.)", "import myapp.metering", source)
    source = re.sub(r"\bimport quota\b(?! as)", "import myapp.metering as quota", source)
    source = re.sub(r"""(["']-m["'],\s*["'])quota\b""", r"\1myapp.metering", source)
    source = re.sub(r"""(["'])quota\.(decisions|ledger|web)\1""", r"\1myapp.metering.\2\1", source)  # loggers
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
    files = list(chosen())
    # A folder without a test that is taken along may set up what needs more than the tools.
    inhabited = {folder for path in files for folder in path.parents}
    conftests = [path for path in paths.TESTS.rglob("conftest.py") if path.parent in inhabited]
    for path in [*conftests, *HELPERS.values(), *files]:
        mine = tests / path.relative_to(paths.TESTS)
        mine.parent.mkdir(parents=True, exist_ok=True)
        mine.write_text(renamed(path.read_text("utf-8")), "utf-8")
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
    assert CORE <= {named(path) for path in chosen()}
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

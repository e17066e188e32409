"""Bugs planted in copies of the package, and what must catch them: short histories, else the conformance machine."""

import importlib
import shutil
import sys

from hypothesis import Phase, settings
from hypothesis.stateful import run_state_machine_as_test

import paths
import scenarios
import scenarios_accounts
import scenarios_apis
import scenarios_billing
import scenarios_fast
import scenarios_holders

PACKAGE = paths.PACKAGE

SCENARIOS = {
    **scenarios_accounts.SCENARIOS, **scenarios.SCENARIOS, **scenarios_fast.SCENARIOS, **scenarios_holders.SCENARIOS,
    **scenarios_billing.SCENARIOS, **scenarios_apis.SCENARIOS,
}  # fmt: skip


def plant(folder, number, file, *pieces):
    """The package with a piece of its source replaced (or several, where two guard the same), under another name."""
    name = f"planted{number}"
    shutil.copytree(PACKAGE, folder / name, ignore=shutil.ignore_patterns("cli", "*.pyc.*"))  # with its compiled files
    path = folder / name / file
    source = path.read_text()
    for old, new in zip(pieces[::2], pieces[1::2], strict=True):
        assert source.count(old) >= 1, f"{file} no longer has {old!r}"
        source = source.replace(old, new)
    path.write_text(source)
    sys.path.insert(0, str(folder))
    try:
        package = importlib.import_module(name)
        return package, importlib.import_module(f"{name}.testing"), importlib.import_module(f"{name}.stores.memory")
    finally:
        sys.path.remove(str(folder))


def run(testing, memory, examples):
    """The machine, deterministic, stopping at the first failure."""
    run_state_machine_as_test(
        testing.machine(memory.MemoryStore),
        settings=settings(
            max_examples=examples, stateful_step_count=40, derandomize=True, database=None, phases=[Phase.generate],
            print_blob=False, report_multiple_bugs=False,
        ),
    )  # fmt: skip


def caught_by(package, testing, memory, examples=300):
    """The first thing that fails on a package: a scenario, else the machine; None when all is well."""
    for name, scenario in SCENARIOS.items():
        try:
            scenario(package)
        except Exception:
            return name
    try:
        run(testing, memory, examples)
    except Exception:
        return "the machine"
    return None

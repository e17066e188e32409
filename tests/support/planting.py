"""Bugs planted in copies of the package, and what must catch them: short histories, else the conformance machine."""

import importlib
import sys

from hypothesis import Phase, settings
from hypothesis.stateful import run_state_machine_as_test

import scenarios
import scenarios_accounts
import scenarios_apis
import scenarios_billing
import scenarios_fast
import scenarios_holders
from copies import copied

SCENARIOS = {
    **scenarios_accounts.SCENARIOS, **scenarios.SCENARIOS, **scenarios_fast.SCENARIOS, **scenarios_holders.SCENARIOS,
    **scenarios_billing.SCENARIOS, **scenarios_apis.SCENARIOS,
}  # fmt: skip


def plant(folder, number, file, *pieces):
    """The package with a piece of its source replaced (or several, where two guard the same), under another name."""
    name = f"planted{number}"
    copied(folder, name, *[(file, *pair) for pair in zip(pieces[::2], pieces[1::2], strict=True)], once=False)
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

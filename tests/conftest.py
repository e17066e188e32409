"""Hypothesis profiles, chosen by QUOTA_PROFILE: dev while editing, push in CI, nightly for campaigns, smoke for copies.

None is derandomized: each run looks somewhere new. What fails is printed so that it can be run again, and is then kept
as an ``@example``.

Of the cases of one test, the default run takes a part where the rest says the same of another place:

- of those that are marked ``spread(n)``, every n-th, beginning with the first, or with the one told: ``spread(3, 1)``;
- else, of kinds of stores, memory, SQLite, and each server in one colour (plain, awaited or leased) by turns.

The others are marked slow: ``make test-slow`` runs them. ``spread(1)`` keeps all.
"""

import gc
import os
import signal
import sys
import zlib
from collections import defaultdict

import pytest
from hypothesis import HealthCheck, settings

import figures

# Compiled once, not by each of the processes that tests start, whatever is set outside.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# A shell has what it runs in the background ignore Ctrl-C, and so would the programs that tests start, to stop them by it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# A loaded machine is slow, which is no bug of the code under test.
_COMMON = {"deadline": None, "print_blob": True, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("smoke", max_examples=5, database=None, **_COMMON)
settings.register_profile("dev", max_examples=50, **_COMMON)
settings.register_profile("push", max_examples=300, **_COMMON)
settings.register_profile("nightly", max_examples=20_000, **_COMMON)
settings.load_profile(os.environ.get("QUOTA_PROFILE", "dev"))


# What is collected stays to the end: the garbage collector looks for none while it is made, nor at it in any test.
gc.disable()


def pytest_collection_finish():
    """Collect garbage from here on, of what tests make."""
    gc.freeze()
    gc.enable()


def pytest_configure(config):
    """Keep what is collected for the page of figures, and hold each test to what the page tells of it."""
    config.pluginmanager.register(figures.Collected(), "figures")


COLOURS = {f"{colour}{engine}" for colour in ("", "awaited ", "leased ") for engine in ("sqlite", "redis", "postgres")}


def in_another_colour(cases):
    """The cases of a test that say of a server what another case says of it in another colour."""
    engines = defaultdict(lambda: defaultdict(list))
    for item in cases:
        for kind in COLOURS & {value for value in item.callspec.params.values() if isinstance(value, str)}:
            engines[kind.rpartition(" ")[2]][kind].append(item)
    turn = zlib.crc32(cases[0].originalname.encode())
    for at, (engine, kinds) in enumerate(sorted(engines.items())):
        kept = engine if engine == "sqlite" and engine in kinds else sorted(kinds)[(turn + at) % len(kinds)]
        yield from (item for kind, found in kinds.items() if kind != kept for item in found)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Mark slow what the default run leaves out."""
    tests = defaultdict(list)
    for item in items:
        if hasattr(item, "callspec"):
            tests[item.path, item.originalname].append(item)
    for cases in tests.values():
        spread = cases[0].get_closest_marker("spread")
        every, first = (*spread.args, 0)[:2] if spread else (1, 0)
        left = [item for at, item in enumerate(cases) if at % every != first] if spread else in_another_colour(cases)
        for item in left if len(cases) > 1 else ():  # one that is asked for by its id is run
            item.add_marker(pytest.mark.slow)

"""Servers that tests share, one of each for a whole run or worker of one; every kind of store on them, by its name.

What a test does to a server beyond its own namespace it puts back, or does to a server of its own.
"""

import pytest

from quota import ManualClock

START = 1_773_144_000_000_000  # 2026-03-10 12:00 UTC


@pytest.fixture(scope="session")
def valkey():
    """A Valkey server whose replicas begin at once."""
    from servers import Valkey  # not where no driver is installed: those tests need none

    found = Valkey("--repl-diskless-sync-delay", "0")
    yield found
    found.stop()


@pytest.fixture(scope="session")
def postgres():
    """A PostgreSQL server."""
    from servers import Postgres

    found = Postgres()
    yield found
    found.stop()


@pytest.fixture
def clock():
    return ManualClock(START)


@pytest.fixture
def stores(request):
    """Stores of the kind that a test names."""
    from every_store import Stores

    found = Stores(request.param, request.getfixturevalue)
    yield found
    found.close()

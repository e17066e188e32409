"""The server that tests of the PostgreSQL store share, by the name that they know it by."""

import pytest


@pytest.fixture(scope="session")
def server(postgres):
    return postgres


@pytest.fixture
def admin(server):
    with server.connect() as found:
        yield found

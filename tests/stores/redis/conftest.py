"""The server that tests of the Redis store share, by the name that they know it by."""

import pytest


@pytest.fixture(scope="session")
def server(valkey):
    return valkey


@pytest.fixture(scope="session")
def client(server):
    with server.client() as found:
        yield found

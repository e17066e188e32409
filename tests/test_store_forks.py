"""Forks that Python is not told of (uWSGI's, a C library's): a child spends, answers and closes nothing of its parent's."""

import ctypes
import os

import pytest

from quota import Ledger, UsagePlan
from servers import Postgres, Valkey

LIMIT = 2000
CHILDREN = 4


@pytest.fixture(scope="module")
def valkey():
    found = Valkey()
    yield found.url
    found.stop()


@pytest.fixture(scope="module")
def postgres():
    found = Postgres()
    yield found.url
    found.stop()


@pytest.fixture
def sqlite(tmp_path):
    return f"sqlite:///{tmp_path / 'usage.db'}"


@pytest.fixture(params=["valkey", "postgres", "sqlite"])
def url(request):
    """Each shared store by its URL, in a namespace of its own."""
    found = request.getfixturevalue(request.param)
    return found if request.param == "sqlite" else f"{found}?namespace={request.node.name.partition('[')[0][:40]}"


def leased(url, share):
    return f"leased+{url}{'&' if '?' in url else '?'}share={share}"


def bare_fork():
    """libc's own: none of Python's hooks run."""
    return ctypes.PyDLL(None).fork()


def in_children(work, count=CHILDREN):
    """What ``work`` gives in each of some children that are forked at once, in bytes."""
    pipes = []
    for number in range(count):
        reading, writing = os.pipe()
        child = bare_fork()
        if not child:
            try:
                os.write(writing, work(number))
            except BaseException as error:
                os.write(writing, repr(error).encode())
            finally:
                os._exit(0)
        os.close(writing)
        pipes.append((child, reading))
    told = []
    for child, reading in pipes:
        with os.fdopen(reading, "rb") as pipe:
            told.append(pipe.read().decode())
        os.waitpid(child, 0)
    return told


@pytest.mark.parametrize("share", [None, 0.005, 0.2])
def test_children_and_their_parent_admit_the_limit_and_no_more(url, share):
    """The parent has used the ledger, then four workers come of a bare fork: what all admit is the limit, or less."""
    with Ledger(url if share is None else leased(url, share)) as ledger:
        ledger.add_plan(UsagePlan("p", f"{LIMIT}/month", alerts=()))
        key, secret = ledger.issue_key("k", plan="p")
        admitted = sum(bool(ledger.consume(secret)) for _ in range(100))

        def work(number):
            count = sum(bool(ledger.consume(secret if number % 2 else key)) for _ in range(700))
            ledger.close()
            return b"%d" % count

        told = in_children(work)
        assert all(count.isdigit() for count in told), told
        admitted += sum(map(int, told)) + sum(bool(ledger.consume(secret)) for _ in range(LIMIT))
    with Ledger(url) as after:
        (row,) = after.usage(key)
    assert (admitted, row.used, row.leased) == (LIMIT, LIMIT, 0)

"""A SQLite file of several users: who may not write what lies beside it is told by name."""

import os
import shutil
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path

import pytest

import unprivileged
from quota import Ledger, StoreUnavailable, UsagePlan
from quota.stores.sqlite import SQLiteStore


@contextmanager
def somebody():
    """An ordinary user: of root one without its rights, else whoever it is."""
    if os.geteuid() != 0:
        yield os.geteuid()
        return
    os.seteuid(12_345)
    try:
        yield 12_345
    finally:
        os.seteuid(0)


@pytest.fixture
def file():
    """A store's file that an ordinary user owns, with a key ``k`` in it."""
    folder = Path(tempfile.mkdtemp(prefix="quota-owners-", dir=unprivileged.place()))  # where others can reach it
    with somebody() as user:
        pass
    os.chown(folder, user, -1)
    with somebody(), Ledger(SQLiteStore(folder / "usage.db")) as ledger:
        ledger.add_plan(UsagePlan("p", "5/day"))
        assert ledger.consume(ledger.issue_key("k", plan="p", id="k").key)
    yield folder / "usage.db"
    shutil.rmtree(folder)


def test_files_of_another_user_beside_the_store_are_named(file):
    """What a reader left, and what to do about it; once they are gone the owner goes on."""
    read = "import os, sqlite3, sys; sqlite3.connect(sys.argv[1]).execute('SELECT count(*) FROM keys').fetchall(); os._exit(0)"
    subprocess.run([sys.executable, "-c", read, file], check=True, timeout=60)
    beside = [Path(f"{file}-wal"), Path(f"{file}-shm")]
    for left in beside:
        left.chmod(0o444)
    with somebody(), Ledger(SQLiteStore(file)) as ledger, pytest.raises(StoreUnavailable) as raised:
        ledger.consume(ledger.get_key("k"))
    assert f"may not write {beside[1]}" in str(raised.value).replace(f"{beside[0]}, ", "")
    assert "one user should own the file and what lies beside it; nothing was charged" in str(raised.value)
    for left in beside:
        left.unlink(missing_ok=True)
    with somebody(), Ledger(SQLiteStore(file)) as ledger:
        assert ledger.consume(ledger.get_key("k")).limits[0].used == 2


def test_a_file_that_is_read_only_is_named_first(file):
    """What SQLite makes beside it has its rights."""
    with somebody():
        file.chmod(0o444)
        with Ledger(SQLiteStore(file)) as ledger, pytest.raises(StoreUnavailable) as raised:
            ledger.consume(ledger.get_key("k"))
    assert f"may not write {file}" in str(raised.value)

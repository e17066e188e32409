"""Faults of the SQLite store: full, read-only, removed and foreign files, schemas, exceptions inside, zones that change."""

import math
import os
import resource
import shutil
import sqlite3
import struct
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest

import unprivileged
from every_store import run_threads
from quota import Ledger, RequestMismatch, StoreBusy, StoreUnavailable, UsagePlan
from quota.stores.sqlite import SQLiteStore
from quota.stores.sqlite import connections as _sqlite_connections
from quota.stores.sqlite import requests as _sqlite_steps
from quota.stores.sqlite import schema as _sqlite_schema
from sqlite_files import SPAWN, ledger_on, reopened, used, whole

NOBODY = 65534


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "usage.db")


def unavailable(call, *words):
    """The call says which file it is about, that nothing was charged, and these words."""
    with pytest.raises(StoreUnavailable) as caught:
        call()
    told = str(caught.value)
    assert "nothing was charged" in told
    for word in words:
        assert word in told, told


# F7: the disk and the file


def test_a_full_database_charges_nothing_and_works_once_there_is_room(path):
    """SQLite's own limit of pages: a typed error that names the file; then all goes on."""
    ledger, _, secret = ledger_on(path)
    ledger.consume(secret)
    db = ledger.store._pool._open.writer.db
    (pages,) = db.execute("PRAGMA page_count").fetchone()
    db.execute(f"PRAGMA max_page_count = {pages}")
    issued = []

    def fill():
        for number in range(2000):
            issued.append(ledger.issue_key(f"k{number}", "p", metadata={"x": "y" * 3000}))

    unavailable(fill, path, "full")
    assert len(ledger.list_keys()) == len(issued) + 1
    assert ledger.consume(secret).limits[0].used == 2
    assert ledger.issue_key("after", "p")
    ledger.close()
    assert whole(path) == "ok"


def test_a_commit_that_the_disk_refuses_is_undone_and_known(path):
    """No byte more may be written, as on a full disk: the admission never was, whatever was written of it before."""
    ledger, _, secret = ledger_on(path, limits="1000/year")
    for number in range(5):
        ledger.consume(secret, request_id=f"r{number}")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (os.path.getsize(path + "-wal") + 100, hard))
    try:
        for _ in range(3):
            unavailable(lambda: ledger.consume(secret), path)
            unavailable(lambda: ledger.consume(secret, 2, request_id="r9"), path)
        assert used(ledger, secret) == 5
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert ledger.consume(secret, 2, request_id="r9").limits[0].used == 7
    assert reopened(ledger).consume(secret).limits[0].used == 8
    ledger.close()
    assert whole(path) == "ok"


READ_ONLY = """
import os, sys
from quota import Ledger, StoreUnavailable
ledger = Ledger("sqlite:///" + sys.argv[1])
if os.getuid() == 0:
    os.setgid({nobody}); os.setuid({nobody})
for call in (lambda: ledger.consume(sys.argv[2]), lambda: ledger.issue_key("x"), lambda: ledger.list_keys()):
    try:
        call()
    except StoreUnavailable as error:
        print(error)
"""


def test_a_file_that_may_not_be_written_is_unavailable(tmp_path):
    """By its permissions, or its folder's: each call says so by name; the owner goes on."""
    with tempfile.TemporaryDirectory(dir=unprivileged.place()) as folder:
        path = os.path.join(folder, "usage.db")
        ledger, _, secret = ledger_on(path)
        ledger.close()
        os.chmod(path, 0o444)
        os.chmod(folder, 0o555)
        code = READ_ONLY.format(nobody=NOBODY)
        environment = {**os.environ, "PYTHONPATH": str(Path(sys.modules["quota"].__file__).parents[1])}
        told = subprocess.run(
            [sys.executable, "-c", code, path, secret], capture_output=True, text=True, env=environment
        )
        assert told.returncode == 0, told.stderr
        lines = told.stdout.splitlines()
        assert len(lines) >= 2
        assert all(path in line and "nothing was charged" in line for line in lines)
        os.chmod(folder, 0o755)
        os.chmod(path, 0o644)
        assert ledger.consume(secret)
        ledger.close()


def test_what_is_no_ledger_is_refused_and_left_alone(tmp_path):
    """A folder, no database, somebody else's database, a folder that is not there: named, and not a byte changed."""
    text = tmp_path / "text"
    text.write_text("Not a database at all. " * 100)
    other = tmp_path / "other.db"
    with closing(sqlite3.connect(other)) as db, db:
        db.execute("CREATE TABLE keys (id)")
    db.close()
    before = {file: file.read_bytes() for file in (text, other)}
    for place, word in (
        (tmp_path, "a directory"), (text, "not a SQLite database"), (other, "something else"),
        (tmp_path / "nowhere" / "x.db", "not there"),
    ):  # fmt: skip
        ledger = Ledger(SQLiteStore(place))
        unavailable(lambda: ledger.add_plan(UsagePlan("p", "1/day")), str(place), word)
        unavailable(lambda: ledger.list_plans(), str(place), word)
        ledger.close()
    assert before == {file: file.read_bytes() for file in (text, other)}
    text.unlink()
    with Ledger(SQLiteStore(text)) as ledger:
        assert ledger.add_plan(UsagePlan("p", "1/day"))


def test_an_empty_file_becomes_a_ledger(path):
    """As ``touch`` or a temporary file leaves it."""
    Path(path).touch()
    ledger, _, secret = ledger_on(path)
    assert ledger.consume(secret)
    ledger.close()


def test_a_removed_file_is_unavailable_until_it_is_back(path, tmp_path):
    """Nothing is counted into nowhere, and no empty ledger takes its place; put back, it goes on where it was."""
    ledger, _, secret = ledger_on(path)
    ledger.consume(secret)
    ledger.close()
    shutil.copy(path, tmp_path / "copy.db")
    assert ledger.consume(secret).limits[0].used == 2
    for end in ("", "-wal", "-shm"):
        os.unlink(path + end)
    time_is_up(ledger)
    for _ in range(2):
        unavailable(lambda: ledger.consume(secret), path, "removed")
        unavailable(lambda: ledger.peek(secret), path, "removed")
    assert not os.path.exists(path)
    os.rename(tmp_path / "copy.db", path)
    assert ledger.consume(secret).limits[0].used == 2
    assert used(ledger, secret) == 2
    ledger.close()
    assert whole(path) == "ok"


def time_is_up(ledger):
    """As after the ten milliseconds for which a process does not look at its file's name again."""
    ledger.store._pool._time_ends = 0.0


def test_a_file_that_another_took_the_place_of_is_looked_at_anew(path, tmp_path):
    """A backup moved over a live file: the next call is on the new one."""
    ledger, _, secret = ledger_on(path)
    ledger.consume(secret, 3)
    ledger.store.backup(tmp_path / "copy.db")
    ledger.consume(secret, 3)
    for end in ("-wal", "-shm"):
        os.unlink(path + end)
    os.rename(tmp_path / "copy.db", path)
    time_is_up(ledger)
    assert ledger.consume(secret).limits[0].used == 4
    assert used(ledger, secret) == 4
    ledger.close()
    assert whole(path) == "ok"


def test_a_damaged_file_is_unavailable(path):
    """A typed error, not a wrong answer."""
    ledger, _, secret = ledger_on(path, limits="1000/day")
    for number in range(50):
        ledger.issue_key(f"k{number}", "p", metadata={"x": "y" * 500})
    ledger.close()
    data = bytearray(Path(path).read_bytes())
    data[4096:] = b"\xa5" * (len(data) - 4096)
    Path(path).write_bytes(data)
    unavailable(lambda: ledger.consume(secret), path, "damaged")
    ledger.close()


def exclusive(path, pipe):
    """Have the file for oneself, readers included, as SQLite does while it recovers one."""
    db = sqlite3.connect(path, isolation_level=None)
    db.execute("PRAGMA locking_mode = EXCLUSIVE")
    db.execute("BEGIN EXCLUSIVE")
    pipe.send("held")
    pipe.recv()
    db.close()


def test_a_file_that_another_has_for_itself_is_busy(path):
    """Opening and reading wait as writing does, and no longer."""
    ledger, _, secret = ledger_on(path, timeout=0.2)
    ledger.consume(secret)
    ledger.close()
    here, there = SPAWN.Pipe()
    other = SPAWN.Process(target=exclusive, args=(path, there))
    other.start()
    assert here.recv() == "held"
    for call in (lambda: ledger.peek(secret), lambda: ledger.consume(secret), ledger.list_keys):
        before = time.monotonic()
        with pytest.raises(StoreBusy, match=r"usage\.db"):
            call()
        assert time.monotonic() - before < 1
    here.send("go")
    other.join()
    assert ledger.consume(secret).limits[0].used == 2
    ledger.close()


# F9: exceptions inside


class Planned(Exception):
    pass


@pytest.mark.parametrize("error", [Planned, KeyboardInterrupt, MemoryError])
@pytest.mark.parametrize("where", ["perform", "keep", "prune", "pack"])
def test_an_exception_inside_a_decision_undoes_it_all(path, monkeypatch, error, where):
    """F9: after the rule has charged the records: rolled back, the turn given on, and no copy remembers it."""
    ledger, _, secret = ledger_on(path, limits="100/year, 5/s burst 90")
    for _ in range(2):
        ledger.consume(secret)
    request_id = None if where == "pack" else "r"
    real = getattr(_sqlite_steps, where)

    def fail(*args):
        real(*args)
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(_sqlite_steps, where, fail)
        with pytest.raises(error):
            ledger.consume(secret, 10, request_id=request_id)
        if where == "perform":
            with pytest.raises(error):
                ledger.reserve(secret, 10, ttl=10**9)
    found = []
    thread = threading.Thread(target=lambda: found.append(ledger.consume(secret, 10, request_id=request_id)))
    thread.start()
    thread.join()
    assert (found[0].limits[0].used, found[0].replayed) == (12, False)
    assert reopened(ledger).consume(secret).limits[0].used == 13
    ledger.close()


@pytest.mark.parametrize("statement", ["COMMIT", "UPDATE"])
def test_an_exception_while_committing_is_not_an_answer(path, monkeypatch, statement):
    """A signal's exception that comes up as the last statement returns: it was committed, and the next call knows."""
    ledger, _, secret = ledger_on(path)
    ledger.consume(secret)
    pool = ledger.store._pool
    pool._time_ends = 0.0 if statement == "COMMIT" else math.inf
    writer = pool._open.writer
    db = writer.db

    class Interrupted:
        def __getattr__(self, name):
            return getattr(db, name)

        def execute(self, sql, *args):
            answer = db.execute(sql, *args)
            if sql.startswith(statement):
                raise KeyboardInterrupt
            return answer

    pool._open.writer = writer._replace(db=Interrupted())
    with pytest.raises(KeyboardInterrupt):
        ledger.consume(secret)
    pool._open.writer = writer
    assert ledger.consume(secret).limits[0].used == 3
    ledger.close()


def test_an_error_of_the_callers_changes_nothing_and_costs_no_copy(path):
    """A refused request id: rolled back, and the other calls go on."""
    ledger, _, secret = ledger_on(path)
    ledger.consume(secret, 2, request_id="r")
    for _ in range(3):
        with pytest.raises(RequestMismatch):
            ledger.consume(secret, 3, request_id="r")
    assert ledger.consume(secret).limits[0].used == 3
    ledger.close()


def test_threads_that_wait_for_a_stuck_one_are_busy(path):
    """A thread that has the turn for longer than the timeout: the others are told, and go on later."""
    ledger, _, secret = ledger_on(path, timeout=0.2)
    inside, go = threading.Event(), threading.Event()

    def stuck(db):
        inside.set()
        assert go.wait(30)

    thread = threading.Thread(target=ledger.store._pool.write, args=(stuck,))
    thread.start()
    assert inside.wait(30)
    with pytest.raises(StoreBusy, match="threads"):
        ledger.consume(secret)
    assert used(ledger, secret) == 0
    go.set()
    thread.join()
    assert ledger.consume(secret)
    ledger.close()


# F15: schemas


def test_a_newer_schema_is_refused_by_its_number(path):
    """And not touched."""
    ledger, _, secret = ledger_on(path)
    ledger.close()
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("PRAGMA user_version = 99")
    db.close()
    before = Path(path).read_bytes()
    unavailable(lambda: ledger.consume(secret), path, "99", "6")
    unavailable(ledger.list_plans, path, "99")
    assert Path(path).read_bytes() == before
    ledger.close()


@pytest.mark.parametrize("version", [1, 2])
def test_a_schema_that_was_never_released_is_refused_by_its_number(path, version):
    """Its tables had other names: it is neither read nor touched."""
    ledger, _, secret = ledger_on(path)
    ledger.close()
    with closing(sqlite3.connect(path)) as db, db:
        db.execute(f"PRAGMA user_version = {version}")
    db.close()
    before = Path(path).read_bytes()
    unavailable(lambda: ledger.consume(secret), path, f"version {version}, which was never released")
    unavailable(ledger.store.migrate, path, f"version {version}, which was never released")
    assert Path(path).read_bytes() == before
    ledger.close()


def test_an_older_schema_is_brought_up_to_date_and_older_processes_are_told(path, monkeypatch):
    """A newer quota migrates the file once, with all that is in it; a process of the old one refuses at its next call."""
    old, _, secret = ledger_on(path)
    old.consume(secret, 4)

    def second(db):
        db.execute("ALTER TABLE keys ADD COLUMN note TEXT")

    steps = _sqlite_schema.STEPS
    newer = (*steps, second)
    for module in (_sqlite_schema, _sqlite_connections):
        monkeypatch.setattr(module, "STEPS", newer)
    from quota.stores.sqlite import directory as _sqlite_directory

    monkeypatch.setattr(_sqlite_directory, "STEPS", newer)
    new = reopened(old)
    assert new.store.migrate() == len(newer)
    assert new.store.migrate() == len(newer)
    assert new.consume(secret).limits[0].used == 5
    for module in (_sqlite_schema, _sqlite_connections, _sqlite_directory):
        monkeypatch.setattr(module, "STEPS", steps)
    unavailable(lambda: old.consume(secret), path, f"version {len(newer)}")
    unavailable(lambda: old.peek(secret), path, f"version {len(newer)}")
    new.close()
    old.close()


def test_a_migration_that_fails_leaves_the_file_as_it_was(path, monkeypatch):
    """All of its steps or none."""
    ledger, _, secret = ledger_on(path)
    ledger.close()

    def broken(db):
        db.execute("CREATE TABLE notes (note TEXT)")
        db.execute("INSERT INTO nowhere VALUES (1)")

    steps = _sqlite_schema.STEPS
    monkeypatch.setattr(_sqlite_schema, "STEPS", (*steps, broken))
    monkeypatch.setattr(_sqlite_connections, "STEPS", (*steps, broken))
    unavailable(lambda: ledger.consume(secret), path, "nowhere")
    monkeypatch.setattr(_sqlite_schema, "STEPS", steps)
    monkeypatch.setattr(_sqlite_connections, "STEPS", steps)
    assert ledger.consume(secret)
    assert ledger.store.check() == []
    ledger.close()


def test_two_that_make_the_file_at_once_make_one(path):
    """Threads with stores of their own on a file that is not there yet."""

    def begin(number):
        with Ledger(SQLiteStore(path, durability="normal")) as ledger:
            ledger.issue_key(f"k{number}", id=f"k{number}")

    run_threads([partial(begin, number) for number in range(8)])
    with Ledger(SQLiteStore(path)) as ledger:
        assert len(ledger.list_keys()) == 8


# F14: time zone rules


def zone_file(folder, hours):
    """A zone of a fixed offset, as compiled rules: ``Area/Place``."""
    block = (
        struct.pack(">4sc15x6l", b"TZif", b"2", 0, 0, 0, 0, 1, 4) + struct.pack(">lbb", hours * 3600, 0, 0) + b"ABC\0"
    )
    place = Path(folder, "Area", "Place")
    place.parent.mkdir(parents=True)
    place.write_bytes(block + block + f"\n<+{hours:02}>-{hours}\n".encode())


RUN = """
import sys
from datetime import datetime, timezone
from quota import Ledger, ManualClock, UsagePlan
path, hour, cost, secret = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
clock = ManualClock(datetime(2026, 3, 10, tzinfo=timezone.utc))
clock.advance(hour * 3_600_000_000)
with Ledger("sqlite:///" + path, clock=clock) as ledger:
    ledger.replace_plan(UsagePlan("p", "10/day in Area/Place"))
    if not ledger.list_keys():
        ledger.import_key(secret, "k", "p")
    decision = ledger.consume(secret, cost)
    (status,) = decision.limits
    print(decision.allowed, status.used, status.resets_at.hour)
"""


def test_a_zone_whose_rules_change_between_runs_splits_no_window(path, tmp_path):
    """F14: what was used carries into the window that the new rules make of now; nothing is granted twice."""
    folders = []
    for hours in (1, 5, 1):
        folders.append(str(tmp_path / f"zones{len(folders)}"))
        zone_file(folders[-1], hours)
    source = str(Path(sys.modules["quota"].__file__).parents[1])

    def run(folder, hour, cost):
        environment = {**os.environ, "PYTHONTZPATH": folder, "PYTHONPATH": source}
        command = [
            sys.executable,
            "-c",
            RUN,
            path,
            str(hour),
            str(cost),
            "a secret of twenty characters".replace(" ", "-"),
        ]
        told = subprocess.run(command, capture_output=True, text=True, env=environment, check=True).stdout.split()
        return told[0] == "True", int(told[1]), int(told[2])

    assert run(folders[0], 12, 7) == (True, 7, 23)
    assert run(folders[1], 13, 4) == (False, 7, 19)
    assert run(folders[1], 13, 3) == (True, 10, 19)
    assert run(folders[2], 14, 1) == (False, 10, 23)
    assert run(folders[2], 22, 1) == (False, 10, 23)
    assert run(folders[2], 23, 10) == (True, 10, 23)
    assert run(folders[1], 23, 1)[0] is False

"""What is the SQLite store's own: its lanes, what is bounded, its file, backup, its URL."""

import itertools
import os
import re
import sqlite3
import threading
from contextlib import closing
from datetime import timedelta

import pytest
from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test

import paths
from quota import ClockSkew, Ledger, Quota, StoreUnavailable, Throttle, UsagePlan
from quota.errors import InvalidValue
from quota.stores.sqlite import SQLiteStore
from quota.testing import machine
from sqlite_files import DAY, START, ledger_on, used, whole


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "usage.db")


def test_two_stores_on_one_file_are_one_ledger(tmp_path):
    """The conformance machine, each call through another of two stores that see nothing of each other but the file."""
    names = itertools.count()

    class TakingTurns:
        exact_across_failover = True

        def __init__(self):
            path = tmp_path / f"{next(names)}.db"
            self._turns = itertools.cycle([SQLiteStore(path, durability="normal") for _ in range(2)])

        def __getattr__(self, name):
            return getattr(next(self._turns), name)

        def close(self):
            for _ in range(2):
                next(self._turns).close()

    run_state_machine_as_test(machine(TakingTurns), settings=settings(max_examples=12, stateful_step_count=30))


def test_a_lane_decides_as_the_rule_does(tmp_path, clock):
    """Plain calls, with and without a lane, of several units, throttles, accounts and routes: the same decisions."""
    plan = UsagePlan(
        "p",
        [Quota(70, "day"), Quota(90, "month", by="account"), Quota(300, "day", unit="tokens"), Throttle(3, burst=12)],
        routes={"r": [Quota(20, "hour"), Throttle(2, burst=5)]},
        alerts=(),
    )

    class WithoutLanes(SQLiteStore):
        def _perform(self, db, request, copy):
            result = super()._perform(db, request, copy)
            copy.rooms = ()
            return result

    streams = []
    for kind in (SQLiteStore, WithoutLanes):
        clock.set(START)
        with Ledger(kind(tmp_path / f"{kind.__name__}.db", durability="normal"), clock=clock) as ledger:
            ledger.add_plan(plan)
            _, mine = ledger.issue_key("k", "p", account="team")
            _, other = ledger.issue_key("l", "p", account="team")
            stream = []
            for number in range(150):
                clock.advance([0, 300_000, 1, 900_000][number % 4])
                cost = [1, 2, {"requests": 1, "tokens": 5}, {"tokens": 9}][number * 3 % 4]
                decision = ledger.consume(other if number % 5 == 2 else mine, cost, route=[None, "r"][number % 2])
                stream.append((repr(decision), decision.retry_at, decision.violated, decision.headers(), decision.cost))
            streams.append(stream)
    assert streams[0] == streams[1]
    assert len({entry[2] for entry in streams[0]}) > 4


# What is remembered, and for how long


def rows(store, table):
    with closing(sqlite3.connect(store.path)) as db, db:
        (count,) = db.execute(f"SELECT count(*) FROM {table}").fetchone()
    db.close()
    return count


def test_remembered_go_bit_by_bit(path, clock):
    """Remembered requests and refunds end; each call looks at two old ones, so none pays for all."""
    ledger, _, secret = ledger_on(path, clock, "100000/day")
    for number in range(30):
        decision = ledger.consume(secret, request_id=f"old{number}")
        if number % 3 == 0:
            ledger.refund(decision)
    assert rows(ledger.store, "remembered") == 40
    clock.advance(60 * DAY)
    for number in range(25):
        ledger.consume(secret, request_id=f"new{number}")
    assert rows(ledger.store, "remembered") == 25
    ledger.close()


def test_a_request_id_does_not_rewrite_what_is_remembered(path, clock):
    """A thousand remembered requests are rows of their own: the record stays as small as it was."""
    ledger, _, secret = ledger_on(path, clock, "100000/day")
    sizes = []
    for number in range(1000):
        ledger.consume(secret, request_id=f"id{number}")
        if number in (1, 999):
            with closing(sqlite3.connect(path)) as db, db:
                sizes.append(db.execute("SELECT length(body) FROM records").fetchone()[0])
            db.close()
    assert sizes[0] == sizes[1]
    ledger.close()


def test_dead_records_go_bit_by_bit_behind_a_floor(path, clock):
    """Two windows and the history's retention after their last use counts go; a call from before is refused an answer."""
    ledger, _, secret = ledger_on(path, clock, "10/day")
    keys = [ledger.issue_key(f"k{number}", "p") for number in range(20)]
    for _, other in keys:
        ledger.consume(other)
    assert rows(ledger.store, "records") == 20
    clock.advance(36 * DAY)
    ledger.consume(secret)
    assert rows(ledger.store, "records") > 1
    clock.advance(5 * DAY)
    for _ in range(12):
        clock.advance(DAY)
        ledger.consume(secret)
    assert rows(ledger.store, "records") == rows(ledger.store, "counts") == 1
    clock.set(START)
    with pytest.raises(ClockSkew):
        ledger.consume(keys[0].secret)
    ledger.close()


def test_prune_drops_all_that_is_dead_at_once_and_nothing_else(path, clock):
    """By the ledger's clock; what is alive stays, and a held reservation keeps its record."""
    ledger, _, secret = ledger_on(path, clock, "10/day")
    for number in range(600):
        _, other = ledger.issue_key(f"k{number}", "p")
        ledger.consume(other)
    hold = ledger.reserve(secret, 2, ttl=timedelta(days=100))
    assert ledger.store.prune() == 0
    clock.advance(50 * DAY)
    assert ledger.store.prune() == 600
    assert ledger.store.prune() == 0
    assert rows(ledger.store, "records") == 1
    hold.commit(3)
    assert ledger.store.check() == []
    ledger.close()


# The file


def test_a_damaged_file_has_no_backup(path, tmp_path):
    """A copy of what is damaged would be found out when it is needed."""
    ledger, *_ = ledger_on(path)
    ledger.close()
    with open(path, "r+b") as file:
        file.seek(4096)
        file.write(b"\xaa" * (5 * 4096))
    with pytest.raises(StoreUnavailable, match="damaged"):
        SQLiteStore(path).backup(tmp_path / "copy.db")
    assert not any(name.startswith("copy") for name in os.listdir(tmp_path))


def test_a_backup_while_running_is_one_moment(path, tmp_path):
    """Taken under fire it opens whole, holds what a moment held, is one file, and never replaces another."""
    ledger, key, secret = ledger_on(path, limits="1000000/day")
    stop = threading.Event()

    def spend():
        while not stop.is_set():
            ledger.consume(secret)

    spender = threading.Thread(target=spend)
    spender.start()
    try:
        while used(ledger, secret) < 50:
            pass
        before = used(ledger, secret)
        ledger.store.backup(tmp_path / "copy.db")
        after = used(ledger, secret)
    finally:
        stop.set()
        spender.join()
    assert sorted(os.listdir(tmp_path)) == ["copy.db", "usage.db", "usage.db-shm", "usage.db-turn", "usage.db-wal"]
    assert whole(tmp_path / "copy.db") == "ok"
    with Ledger(SQLiteStore(tmp_path / "copy.db")) as copy:
        assert before <= used(copy, secret) <= after
        assert copy.list_keys() == [key]
    with pytest.raises(InvalidValue):
        ledger.store.backup(tmp_path / "copy.db")
    with pytest.raises(StoreUnavailable, match="no backup was made"):
        ledger.store.backup(tmp_path / "nowhere" / "copy.db")
    ledger.close()


def test_check_finds_what_is_wrong(path):
    """Tables that do not agree, records that cannot be read."""
    ledger, _, secret = ledger_on(path)
    ledger.consume(secret)
    assert ledger.store.check() == []
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("UPDATE counts SET moving = x'00'")
        db.execute("DELETE FROM digests")
        db.execute("INSERT INTO digests VALUES (x'00', 77)")
        db.execute("INSERT INTO counts VALUES (78, 1, x'00')")
        db.execute("INSERT INTO key_plans VALUES (79, '', 1, '')")
    db.close()
    found = ledger.store.check()
    assert len(found) == 6, found
    ledger.close()


def test_a_url_says_which_file_and_how(tmp_path, monkeypatch):
    """Three slashes before a relative path, four before an absolute one; options in the query; nothing else."""
    monkeypatch.chdir(tmp_path)
    with Ledger("sqlite:///usage.db?durability=normal&timeout=2&retention=3") as ledger:
        assert ledger.store.path == str(tmp_path / "usage.db")
        assert (ledger.store._pool.timeout, ledger.store.options.retention) == (2, 3)
        monkeypatch.chdir("/")
        ledger.add_plan(UsagePlan("p", "1/day"))
    with Ledger(f"sqlite:///{tmp_path}/usage.db") as ledger:
        assert ledger.get_plan("p")
    for url in (
        "sqlite://usage.db", "sqlite:///", "sqlite:///a#b", "sqlite:///:memory:", "sqlite:///a?durability=none",
        "sqlite:///a?namespace=x", "sqlite:///a?timeout=soon", "sqlite:usage.db",
    ):  # fmt: skip
        with pytest.raises(InvalidValue):
            Ledger(url)
    for options in ({"timeout": -1}, {"timeout": "5"}, {"durability": "off"}, {"max_skew": -1}):
        with pytest.raises(InvalidValue):
            SQLiteStore("x.db", **options)
    for odd in (":memory:", "", "a\0b", b"bytes"):
        with pytest.raises(InvalidValue):
            SQLiteStore(odd)
    assert os.listdir(tmp_path) == ["usage.db"] or sorted(os.listdir(tmp_path)) == ["usage.db", "usage.db-turn"]


def test_a_store_that_is_closed_leaves_one_file_and_opens_again(path, clock):
    """Closing twice is fine; a later call opens anew; nothing stays open but while it is used."""
    ledger, _, secret = ledger_on(path, clock)
    ledger.close()
    ledger.close()
    assert not os.path.exists(path + "-wal")
    assert ledger.consume(secret)
    ledger.close()
    assert not os.path.exists(path + "-wal")


def open_files(path):
    """How many of this process's files are the store's."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        try:
            found.append(os.readlink(f"/proc/self/fd/{name}"))
        except OSError:
            continue
    return sum(name.startswith(path) for name in found)


def test_threads_that_come_and_go_leave_nothing_open(path):
    """A thousand threads, one after the other and some at once: connections are lent, not kept by who used them."""
    ledger, _, secret = ledger_on(path, limits="1000000/day")
    used(ledger, secret)
    ledger.consume(secret)
    before = open_files(path)
    for _ in range(125):
        threads = [
            threading.Thread(target=(lambda: ledger.peek(secret)) if number % 2 else (lambda: ledger.consume(secret)))
            for number in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    # At most four idle readers beyond what was open: database, log, shared memory.
    assert open_files(path) <= before + 3 * 4
    assert used(ledger, secret) == 1 + 125 * 4
    ledger.close()
    assert open_files(path) == 0


def test_a_store_that_nobody_holds_any_more_closes_itself(path):
    """Without close() too, and without a warning."""
    import gc

    ledger, _, secret = ledger_on(path)
    ledger.consume(secret)
    assert open_files(path)
    del ledger
    gc.collect()
    assert open_files(path) == 0


def test_no_statement_numbers_its_placeholders():
    """Python 3.12.1 takes ``?1`` for a name, and warns of each such call that gives a sequence."""
    sources = [path.read_text("utf-8") for path in (paths.PACKAGE / "stores" / "sqlite").iterdir() if path.is_file()]
    assert len(sources) > 10
    assert not any(re.search(r"\?[\d{]", source) for source in sources)

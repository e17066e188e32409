"""The SQLite store: the contract, freshness across connections, the directory, what is bounded, backup, its URL."""

import itertools
import os
import sqlite3
import threading
from datetime import date, timedelta
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test

from awaited import Awaited
from quota import (
    AsyncLedger,
    ClockSkew,
    Ledger,
    ManualClock,
    PlanConflict,
    Quota,
    RequestMismatch,
    StoreUnavailable,
    Throttle,
    UnknownKey,
    UnknownPlan,
    UsagePlan,
)
from quota.errors import InvalidValue
from quota.stores.memory import MemoryStore
from quota.stores.sqlite import SQLiteStore
from quota.testing import Machine, machine
from sqlite_files import DAY, START, ledger_on, reopened, used, whole


@pytest.fixture
def clock():
    return ManualClock(START)


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "usage.db")


# The contract


def stores(folder):
    """Functions that open a store on a new file, and that close one and open its file again."""
    names = itertools.count()

    def again(store):
        store.close()
        return SQLiteStore(store.path, durability="normal")

    return lambda: SQLiteStore(folder / f"{next(names)}.db", durability="normal"), again


def test_the_conformance_machine_over_sqlite(tmp_path):
    """Every history agrees with the model, the file closed and opened again now and then."""
    run_state_machine_as_test(machine(*stores(tmp_path)), settings=settings(max_examples=20, stateful_step_count=30))


@pytest.mark.slow
def test_the_conformance_machine_at_length(tmp_path):
    """Many long histories."""
    run_state_machine_as_test(machine(*stores(tmp_path)), settings=settings(max_examples=500, stateful_step_count=60))


def test_the_conformance_machine_awaited(tmp_path):
    """Every history agrees with the model through AsyncLedger too, which asks in threads."""
    fresh, _ = stores(tmp_path)

    class AwaitedMachine(Machine):
        open = staticmethod(fresh)

        def _ledger(self, store):
            return Awaited(AsyncLedger(store, clock=self.clock))

    run_state_machine_as_test(AwaitedMachine, settings=settings(max_examples=8, stateful_step_count=25))


def test_two_stores_on_one_file_are_one_ledger(tmp_path):
    """The machine again, each call through another of two stores that see nothing of each other but the file."""
    fresh, _ = stores(tmp_path)

    class TakingTurns:
        exact_across_failover = True

        def __init__(self):
            first = fresh()
            self._turns = itertools.cycle([first, SQLiteStore(first.path, durability="normal")])

        def __getattr__(self, name):
            return getattr(next(self._turns), name)

        def close(self):
            for _ in range(2):
                next(self._turns).close()

    run_state_machine_as_test(machine(TakingTurns), settings=settings(max_examples=12, stateful_step_count=30))


def test_sync_async_and_memory_decide_equally(tmp_path, clock):
    """Equal inputs give equal streams of decisions."""
    plan = UsagePlan(
        "p", "30/hour, 40 tokens/day, 5/s burst 9, 4 tokens/minute burst 20 as pace", routes={"r": "9/day"}
    )
    streams = []
    for kind in ("memory", "sqlite", "async"):
        clock.set(START)
        store = MemoryStore() if kind == "memory" else SQLiteStore(tmp_path / f"{kind}.db", durability="normal")
        ledger = Awaited(AsyncLedger(store, clock=clock)) if kind == "async" else Ledger(store, clock=clock)
        ledger.add_plan(plan)
        _, secret = ledger.issue_key("k", "p")
        stream = []
        for number in range(120):
            clock.advance([0, 1, 700_000, 61_000_000, 3_600_000_000][number * 7 % 5])
            cost, route = [1, 2, {"tokens": 3}][number % 3], [None, None, "r"][number * 5 % 3]
            if number % 11 == 3:
                decision = ledger.reserve(secret, cost, ttl=5_000_000, route=route).decision
            else:
                request_id = f"id{number}" if number % 6 == 1 else None
                decision = ledger.consume(secret, cost, route=route, request_id=request_id)
            stream.append((repr(decision), decision.retry_at, decision.crossed, decision.headers()))
        streams.append(stream)
        ledger.close()
    assert streams[0] == streams[1] == streams[2]
    assert len({entry[0] for entry in streams[0]}) > 50


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
            copy.lanes.clear()
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


def test_a_decision_of_a_lane_is_one_decision(path):
    """It is told in full when asked, keeps its id, survives a pickle, and is refunded once."""
    import pickle

    ledger, _, secret = ledger_on(path)
    ledger.consume(secret)
    decision = ledger.consume(secret, 3)
    assert decision.id == decision.id
    twin = pickle.loads(pickle.dumps(decision))
    assert (twin.id, twin.limits, twin.cost) == (decision.id, decision.limits, 3)
    assert ledger.refund(twin) == 3
    assert ledger.refund(decision) == 0
    assert used(ledger, secret) == 1
    ledger.close()


# Freshness


def test_what_another_process_changes_binds_on_the_next_call(path, clock):
    """Disabling, rotation, another plan, a replaced plan, dissociation and removal are seen at once elsewhere."""
    here, key, secret = ledger_on(path, clock)
    there = reopened(here, clock)
    assert there.consume(secret).limits[0].used == 1
    here.disable_key(key)
    assert there.consume(secret).reason.value == "DISABLED_KEY"
    here.enable_key(key)
    assert there.consume(secret).limits[0].used == 2
    _, fresh = here.rotate_key(key)
    assert there.consume(secret).reason.value == "UNKNOWN_KEY"
    assert there.consume(fresh).limits[0].used == 3
    here.replace_plan(UsagePlan("p", "4/day"))
    assert [bool(there.consume(fresh)) for _ in range(2)] == [True, False]
    here.add_plan(UsagePlan("q", "100/day"))
    here.associate(key, "q")
    assert there.consume(fresh).limits[0].limit == 100
    here.dissociate(key, "q")
    assert there.consume(fresh).reason.value == "NO_PLAN"
    here.remove_key(key)
    assert there.consume(fresh).reason.value == "UNKNOWN_KEY"
    here.close()
    there.close()


def test_what_another_process_counts_is_seen_on_the_next_call(path, clock):
    """Charges by turns, by secret and by key, in two processes' copies: each sees all before it."""
    here, key, secret = ledger_on(path, clock, "1000/day, 500/s burst 300")
    there = reopened(here, clock)
    for number in range(0, 60, 4):
        assert here.consume(secret).limits[0].used == number + 1
        assert there.consume(secret).limits[0].used == number + 2
        assert there.consume(key).limits[0].used == number + 3
        assert here.consume(key).limits[1].used == number + 4
    here.close()
    there.close()


def test_a_key_removed_and_made_again_starts_anew_elsewhere(path, clock):
    """Neither its counts nor its memos come back, though another process had it in its copies."""
    here, _, secret = ledger_on(path, clock)
    there = reopened(here, clock)
    there.consume(secret, 5, request_id="once")
    here.remove_key("k")
    here.import_key(secret, "k", "p", id="k")
    assert there.consume(secret, 5, request_id="once").limits[0].used == 5
    assert not there.consume(secret, 6)
    here.close()
    there.close()


def test_a_second_key_splits_an_account_elsewhere_too(path, clock):
    """A copy of the account's only key sees that it is shared from the next call on."""
    here = Ledger(SQLiteStore(path, durability="normal"), clock=clock)
    here.add_plan(UsagePlan("p", "10/day by account, 100/month"))
    first, secret = here.issue_key("first", "p", account="team")
    there = reopened(here, clock)
    for _ in range(3):
        there.consume(secret)
    _, other = here.issue_key("second", "p", account="team")
    assert here.consume(other, 4).limits[0].used == 7
    assert there.consume(secret, 3).limits[0].used == 10
    assert not there.consume(secret)
    here.remove_key(first)
    assert here.peek(other).limits[0].used == 10
    here.close()
    there.close()


# The directory


def test_a_plan_removed_and_added_again_has_no_keys(path, clock):
    """Removing a plan ends its associations for good, though keys are never looked through."""
    ledger, key, secret = ledger_on(path, clock)
    ledger.consume(secret)
    ledger.remove_plan("p")
    assert ledger.consume(secret).reason.value == "NO_PLAN"
    ledger.add_plan(UsagePlan("p", "10/day"))
    assert ledger.consume(secret).reason.value == "NO_PLAN"
    assert ledger.store.plans_of(key.id) == []
    ledger.associate(key, "p")
    assert ledger.consume(secret).limits[0].used == 2
    ledger.close()


def test_a_plan_that_changes_its_api_takes_its_keys_along(path, clock):
    """As in memory; refused where a key has another plan for the new api, and not where that plan is gone."""
    ledger, key, secret = ledger_on(path, clock)
    ledger.replace_plan(UsagePlan("p", "10/day", api="b"))
    assert ledger.consume(secret).reason.value == "NO_PLAN"
    assert ledger.consume(secret, api="b")
    ledger.add_plan(UsagePlan("q", "10/day"))
    ledger.associate(key, "q")
    with pytest.raises(PlanConflict):
        ledger.replace_plan(UsagePlan("p", "10/day"))
    assert ledger.consume(secret, api="b").limits[0].used == 2
    ledger.remove_plan("q")
    ledger.replace_plan(UsagePlan("p", "10/day"))
    assert ledger.consume(secret)
    ledger.close()


def test_the_directory_says_what_it_cannot_do(path, clock):
    """Unknown keys and plans, taken ids and secrets, conflicting plans; and nothing of it changed anything."""
    ledger, key, secret = ledger_on(path, clock)
    ledger.add_plan(UsagePlan("p", "10/day"))
    for error, call in (
        (PlanConflict, lambda: ledger.add_plan(UsagePlan("p", "11/day"))),
        (PlanConflict, lambda: ledger.issue_key("again", id="k")),
        (PlanConflict, lambda: ledger.import_key(secret, "thief")),
        (UnknownPlan, lambda: ledger.issue_key("x", "nothing")),
        (UnknownPlan, lambda: ledger.get_plan("nothing")),
        (UnknownPlan, lambda: ledger.remove_plan("nothing")),
        (UnknownPlan, lambda: ledger.associate(key, "nothing")),
        (UnknownKey, lambda: ledger.associate("nobody", "p")),
        (UnknownKey, lambda: ledger.get_key("nobody")),
        (UnknownKey, lambda: ledger.rotate_key("nobody")),
        (UnknownKey, lambda: ledger.remove_key("nobody")),
        (UnknownKey, lambda: ledger.list_plans("nobody")),
        (UnknownKey, lambda: ledger.usage("nobody")),
        (UnknownKey, lambda: ledger.forget("nobody")),
    ):
        with pytest.raises(error):
            call()
    ledger.dissociate(key, "p")
    with pytest.raises(PlanConflict):
        ledger.dissociate(key, "p")
    assert [found.id for found in ledger.list_keys()] == ["k"]
    assert ledger.store.check() == []
    ledger.close()


def test_names_of_any_script_survive(path, clock):
    """Keys, plans, apis, routes and metadata keep every character."""
    ledger = Ledger(SQLiteStore(path, durability="normal"), clock=clock)
    plan = ledger.add_plan(UsagePlan("Tarif Ω/1", "5/day as été", api="ünï", routes={"/p/{ø}": "3/day"}))
    key, secret = ledger.issue_key("Zoë 'x'; DROP TABLE keys", plan, id="ключ", metadata={"ш": "✓ \U0001f511"})
    ledger.close()
    again = reopened(ledger, clock)
    assert again.list_keys() == [key]
    assert again.list_plans(key) == [plan]
    assert again.consume(secret, api="ünï", route="/p/{ø}").limits[1].used == 1
    again.close()


def test_secrets_are_not_stored(path):
    """The file and its log hold no secret, presented or issued."""
    ledger, _, secret = ledger_on(path)
    ledger.consume(secret, request_id="x")
    held = b"".join(Path(path + end).read_bytes() for end in ("", "-wal"))
    assert b'"digest' in held or b"digests" in held
    assert secret.encode() not in held
    assert secret[-20:].encode() not in held
    ledger.close()


# What is remembered, and for how long


def test_a_request_id_counts_once(path, clock):
    """In any process; with other parameters or refunded it is a mismatch; after its time it is a new call."""
    here, _, secret = ledger_on(path, clock)
    there = reopened(here, clock)
    first = here.consume(secret, 2, request_id="r")
    again = there.consume(secret, 2, request_id="r")
    assert (again.replayed, again.id, again.limits) == (True, first.id, first.limits)
    with pytest.raises(RequestMismatch):
        there.consume(secret, 3, request_id="r")
    here.refund(first)
    with pytest.raises(RequestMismatch):
        there.consume(secret, 2, request_id="r")
    clock.advance(DAY)
    assert not here.consume(secret, 3, request_id="r").replayed
    assert there.consume(secret, 3, request_id="r").replayed
    here.close()
    there.close()


def rows(store, table):
    with sqlite3.connect(store.path) as db:
        (count,) = db.execute(f"SELECT count(*) FROM {table}").fetchone()
    db.close()
    return count


def test_memos_go_bit_by_bit(path, clock):
    """Remembered requests and refunds end; each call looks at two old ones, so none pays for all."""
    ledger, _, secret = ledger_on(path, clock, "100000/day")
    for number in range(30):
        decision = ledger.consume(secret, request_id=f"old{number}")
        if number % 3 == 0:
            ledger.refund(decision)
    assert rows(ledger.store, "memos") == 40
    clock.advance(60 * DAY)
    for number in range(25):
        ledger.consume(secret, request_id=f"new{number}")
    assert rows(ledger.store, "memos") == 25
    ledger.close()


def test_a_request_id_does_not_rewrite_what_is_remembered(path, clock):
    """A thousand remembered requests are rows of their own: the record stays as small as it was."""
    ledger, _, secret = ledger_on(path, clock, "100000/day")
    sizes = []
    for number in range(1000):
        ledger.consume(secret, request_id=f"id{number}")
        if number in (1, 999):
            with sqlite3.connect(path) as db:
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


def test_history_is_kept_as_long_as_it_was_asked_for(path, clock):
    """Days older than the retention go, the others are told."""
    store = SQLiteStore(path, durability="normal", retention=5)
    ledger = Ledger(store, clock=clock)
    ledger.add_plan(UsagePlan("p", "100/day"))
    key, secret = ledger.issue_key("k", "p")
    for number in range(20):
        ledger.consume(secret, number + 1)
        clock.advance(DAY)
    told = ledger.usage(key)
    assert [record.used for record in told] == [16, 17, 18, 19, 20, 0]
    assert told[0].day == date(2026, 3, 25)
    ledger.close()


@pytest.mark.parametrize(
    ("limits", "cost", "calls"),
    [
        (f"{2**53 - 1}/year", 2**53 - 1, [True, False]),
        (f"{2**53 - 1}/day, {2**53 - 1}/month", 2**52, [True, False]),
        (Throttle("1/3", burst=10**8), 10**8, [True, False]),
    ],
)
def test_numbers_up_to_2_53_are_exact(path, clock, limits, cost, calls):
    """The largest limits, costs and levels there can be; a commit may pass them all."""
    ledger, _, secret = ledger_on(path, clock, limits)
    hold = ledger.reserve(secret, 1, ttl=10)
    hold.cancel()
    clock.advance(4_000_000)
    assert [bool(ledger.consume(secret, cost)) for _ in calls] == calls
    clock.advance(400 * DAY)
    hold = ledger.reserve(secret, 1, ttl=1000)
    hold.commit(2**53 - 1)
    assert reopened(ledger, clock).peek(secret).limits[0].used >= 2**53 - 1
    ledger.close()


def test_levels_beyond_64_bits_are_kept(path, clock):
    """A commit may pour more into a bucket than SQLite's integers hold."""
    ledger, _, secret = ledger_on(path, clock, Throttle("1/7", "day", burst=1000))
    ledger.reserve(secret, 1, ttl=1000).commit(2**53 - 1)
    clock.advance(1)
    here = ledger.peek(secret).limits
    ledger.close()
    again = reopened(ledger, clock)
    assert again.peek(secret).limits == here
    assert here[0].used == 2**53 - 1
    again.close()


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
    with sqlite3.connect(path) as db:
        db.execute("UPDATE counts SET moving = x'00'")
        db.execute("DELETE FROM digests")
        db.execute("INSERT INTO digests VALUES (x'00', 77)")
        db.execute("INSERT INTO counts VALUES (78, 1, x'00')")
        db.execute("INSERT INTO seats VALUES (79, '', 1)")
    db.close()
    found = ledger.store.check()
    assert len(found) == 6, found
    ledger.close()


def test_a_url_says_which_file_and_how(tmp_path, monkeypatch):
    """Three slashes before a relative path, four before an absolute one; options in the query; nothing else."""
    monkeypatch.chdir(tmp_path)
    with Ledger("sqlite:///usage.db?durability=normal&timeout=2&retention=3") as ledger:
        assert ledger.store.path == str(tmp_path / "usage.db")
        assert (ledger.store._pool.timeout, ledger.store.terms.retention) == (2, 3)
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

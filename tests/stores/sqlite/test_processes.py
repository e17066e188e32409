"""The SQLite store shared by many processes and threads: exact to the unit, fair, bounded, and right across a fork."""

import fcntl
import os
import random
import signal
import sqlite3
import sys
import threading
import time
import warnings

import pytest

from quota import Ledger, StoreBusy, UsagePlan
from quota.stores.sqlite import SQLiteStore
from quota.stores.sqlite import connections as _sqlite_connections
from quota.stores.sqlite import pool as _sqlite_pool
from quota.stores.sqlite.fair_queue import ProcessQueue, pause
from receipts import Change, check_ceiling, check_receipts, justify_denials
from sqlite_files import SPAWN, changed, ledger_on, reopened, spend, storm, used, whole


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "usage.db")


# Exact


def test_eight_processes_of_four_threads_are_exact(path):
    """Random costs against a limit of 5,000: receipts tile, every denial has a cause, the total is exact."""
    ledger, key, secret = ledger_on(path, limits="5000/year")
    receipts, denials, _ = storm(path, [secret], processes=8, threads=4, calls=80)
    total = check_receipts(receipts)
    justify_denials(receipts, denials, 5000)
    assert denials
    assert total > 4995
    assert used(ledger, secret) == total
    assert sum(record.used for record in ledger.usage(key)) == total
    ledger.close()
    assert whole(path) == "ok"


def test_a_plan_change_and_a_rotation_in_the_middle_stay_exact(path):
    """The limit goes down and up and the secret changes under fire: receipts tile, each below a limit of its time."""
    ledger, key, secret = ledger_on(path, limits="5000/year")
    issued = [secret]

    def meanwhile():
        changes = [Change(0, 0, 5000)]
        while used(ledger, issued[-1]) < 800:
            pause(0.002)
        changes.append(changed(lambda: ledger.replace_plan(UsagePlan("p", "1200/year")), 1200))
        issued.append(ledger.rotate_key(key, overlap=60_000_000).secret)
        while used(ledger, issued[-1]) < 1190:
            pause(0.002)
        changes.append(changed(lambda: ledger.replace_plan(UsagePlan("p", "5000/year")), 5000))
        issued.append(ledger.rotate_key(key).secret)
        return changes, time.monotonic()

    # The threads know the first secret and, as a client that was told late, nothing else.
    receipts, denials, (changes, rotated) = storm(path, [secret], 8, 4, 80, meanwhile)
    total = check_receipts(receipts)
    check_ceiling(receipts, changes)
    justify_denials(receipts, denials, changes)
    assert total >= 1190
    assert used(ledger, issued[-1]) == total
    assert all(receipt.invoked < rotated for receipt in receipts), "an old secret was admitted after its rotation"
    assert ledger.consume(issued[-1]).limits[0].used == total + 1
    assert ledger.consume(issued[0]).reason.value == "UNKNOWN_KEY"
    ledger.close()
    assert whole(path) == "ok"


def test_two_keys_of_one_account_in_two_processes_are_exact(path):
    """A limit by account, spent from both sides, ends at the unit."""
    ledger = Ledger(SQLiteStore(path, durability="normal"))
    ledger.add_plan(UsagePlan("p", "700/year by account"))
    secrets = [ledger.issue_key(f"k{number}", "p", account="team").secret for number in range(3)]
    receipts, denials, _ = storm(path, secrets, processes=4, threads=2, calls=100)
    assert check_receipts(receipts) > 695
    justify_denials(receipts, denials, 700)
    ledger.close()


def test_threads_of_one_store_are_exact_at_any_switch_interval(path):
    """Many threads, switched as often as can be: receipts tile."""
    ledger, _, secret = ledger_on(path, limits="2000/year")
    found = []
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [
            threading.Thread(target=lambda seed=seed: found.append(spend(path, secret, costs(seed))))
            for seed in range(3)
        ] + [
            threading.Thread(target=lambda seed=seed: found.append(share(ledger, secret, costs(seed))))
            for seed in range(5)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    receipts = [receipt for mine, _ in found for receipt in mine]
    assert check_receipts(receipts) > 1995
    justify_denials(receipts, [denial for _, mine in found for denial in mine], 2000)
    ledger.close()


def costs(seed):
    pick = random.Random(seed)
    return [pick.randint(1, 5) for _ in range(120)]


def share(ledger, secret, amounts):
    from receipts import Denial, Receipt

    receipts, denials = [], []
    for cost in amounts:
        invoked = time.monotonic()
        decision = ledger.consume(secret, cost)
        returned = time.monotonic()
        if decision:
            receipts.append(Receipt(invoked, returned, cost, decision.limits[0].used))
        else:
            denials.append(Denial(invoked, returned, cost))
    return receipts, denials


def disable_and_say(path, pipe):
    with Ledger(SQLiteStore(path, durability="normal")) as ledger:
        for call in (ledger.disable_key, ledger.enable_key) * 20:
            pipe.recv()
            call("k")
            pipe.send("done")


def test_another_process_binds_on_the_very_next_call(path):
    """A process that has charged a moment ago refuses right after another process disabled the key, forty times."""
    ledger, _, secret = ledger_on(path, limits="1000/year")
    here, there = SPAWN.Pipe()
    other = SPAWN.Process(target=disable_and_say, args=(path, there))
    other.start()
    for allowed in (True, False) * 20:
        assert bool(ledger.consume(secret)) is allowed
        here.send("go")
        assert here.recv() == "done"
    other.join()
    ledger.close()


# Fair and bounded


def hammer(path, secret, durability, seconds, results, start):
    with Ledger(SQLiteStore(path, durability=durability)) as ledger:
        ledger.consume(secret)
        start.wait(60)
        count, worst, last = 0, 0.0, time.monotonic()
        end = last + seconds
        while last < end:
            ledger.consume(secret)
            count, now = count + 1, time.monotonic()
            worst, last = max(worst, now - last), now
    results.put((count, worst))


@pytest.mark.parametrize("durability", ["full", "normal"])
def test_four_processes_share_fairly_and_nobody_waits_a_second(path, durability):
    """None below half its fair share, no wait above a second. SQLite's own busy handler starved one of four."""
    ledger, _, _ = ledger_on(path, limits="1000000000/year", durability=durability)
    secrets = [ledger.issue_key(f"k{number}", "p").secret for number in range(4)]
    ledger.close()
    results, start = SPAWN.Queue(), SPAWN.Barrier(4)
    workers = [SPAWN.Process(target=hammer, args=(path, secret, durability, 1.5, results, start)) for secret in secrets]
    for worker in workers:
        worker.start()
    found = [results.get(timeout=60) for _ in workers]
    for worker in workers:
        worker.join()
    total = sum(count for count, _ in found)
    assert min(count for count, _ in found) >= total / 4 / 2, found
    assert max(worst for _, worst in found) < 1.0, found


def hold(path, pipe):
    """Hold the write lock, as a stopped writer would."""
    db = sqlite3.connect(path, isolation_level=None)
    db.execute("BEGIN IMMEDIATE")
    pipe.send("held")
    pipe.recv()
    db.execute("ROLLBACK")
    db.close()
    pipe.send("released")


def test_a_file_that_is_locked_for_longer_than_the_timeout_is_busy(path):
    """F6: ``StoreBusy``, not a denial, within the timeout; nothing was charged; peeks go on; it works afterwards."""
    ledger, _, secret = ledger_on(path, timeout=0.3)
    ledger.consume(secret)
    here, there = SPAWN.Pipe()
    other = SPAWN.Process(target=hold, args=(path, there))
    other.start()
    assert here.recv() == "held"
    before = time.monotonic()
    for call in (lambda: ledger.consume(secret), lambda: ledger.disable_key("k")):
        with pytest.raises(StoreBusy, match=r"usage\.db"):
            call()
    assert 0.6 <= time.monotonic() - before < 1.5
    assert used(ledger, secret) == 1
    assert Ledger(ledger.store, on_unavailable="deny").consume(secret).reason.value == "STORE_UNAVAILABLE"
    here.send("release")
    assert here.recv() == "released"
    assert ledger.consume(secret).limits[0].used == 2
    other.join()
    ledger.close()


def stand(path, pipe):
    """Be the next in line, and never go."""
    line = ProcessQueue(path + "-turn")
    assert line.enter()
    pipe.send("next")
    pipe.recv()


@pytest.mark.parametrize("how", [signal.SIGSTOP, signal.SIGKILL])
def test_a_next_that_is_stopped_or_dead_does_not_stop_the_rest(path, how):
    """The line is for fairness alone: who finds it stuck goes on within the second."""
    ledger, _, secret = ledger_on(path)
    ledger.consume(secret)
    here, there = SPAWN.Pipe()
    other = SPAWN.Process(target=stand, args=(path, there))
    other.start()
    assert here.recv() == "next"
    os.kill(other.pid, how)
    try:
        before = time.monotonic()
        pause(0.02)  # beyond this process's own time
        assert ledger.consume(secret)
        assert time.monotonic() - before < 1
    finally:
        os.kill(other.pid, signal.SIGKILL)
        other.join()
    ledger.close()


def test_without_flock_the_store_is_exact_all_the_same(path, monkeypatch):
    """Where there is no flock, or no place for its file, SQLite's lock alone decides."""
    from quota.stores.sqlite import fair_queue as _sqlite_queue

    monkeypatch.setattr(_sqlite_queue, "fcntl", None)
    ledger, _, secret = ledger_on(path, limits="150/year")
    other = reopened(ledger)
    results = []
    threads = [
        threading.Thread(target=lambda one=one: results.append(sum(bool(one.consume(secret)) for _ in range(100))))
        for one in (ledger, other)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(results) == 150
    assert not os.path.exists(path + "-turn")
    ledger.close()
    other.close()


def test_a_line_without_a_place_lets_everybody_through(tmp_path):
    """A folder that cannot be written to costs fairness, not the call."""
    line = ProcessQueue(str(tmp_path / "nowhere" / "x"))
    assert line.enter()
    line.leave()
    line.close()


def test_the_line_is_dropped_by_the_kernel(tmp_path):
    """Two descriptions of one line: one is the next until it leaves."""
    one, other = ProcessQueue(str(tmp_path / "turn")), ProcessQueue(str(tmp_path / "turn"))
    assert one.enter()
    assert not other.enter()
    one.leave()
    assert other.enter()
    other.close()
    assert one.enter()
    one.close()
    assert fcntl


def test_threads_take_turns_and_give_up_in_time(path):
    """A deadline ends a wait; nobody gives or closes what another has; all who waited have their turn."""
    ledger, _, _ = ledger_on(path)
    pool, told = ledger.store._pool, []
    inside, go = threading.Event(), threading.Event()

    def slow(db):
        inside.set()
        assert go.wait(30)
        told.append("first")

    def wait(name):
        pool.write(lambda db: told.append(name))

    threads = [threading.Thread(target=pool.write, args=(slow,))]
    threads[0].start()
    assert inside.wait(30)
    for name in "abc":
        threads.append(threading.Thread(target=wait, args=(name,)))
        threads[-1].start()
    pool.timeout, patience = 0.05, pool.timeout
    before = time.monotonic()
    with pytest.raises(StoreBusy, match="other threads were first for 0.05 s"):
        wait("late")
    pool.turn.give()
    ledger.close()
    assert 0.1 <= time.monotonic() - before < 2
    pool.timeout = patience
    assert told == []
    go.set()
    for thread in threads:
        thread.join()
    assert told[0] == "first"
    assert sorted(told[1:]) == ["a", "b", "c"]
    wait("again")
    ledger.close()


def test_a_thread_that_waits_is_not_overtaken_for_ever(path):
    """A thread in a tight loop must let one that waits have the turn."""
    ledger, _, _ = ledger_on(path)
    pool, stop, got = ledger.store._pool, threading.Event(), []

    def loop():
        while not stop.is_set():
            pool.write(lambda db: pause(0.0001))

    thread = threading.Thread(target=loop)
    thread.start()
    for _ in range(20):
        pool.write(lambda db: got.append(True))
    stop.set()
    thread.join()
    assert len(got) == 20
    ledger.close()


def peek_until(path, secret, end, results):
    with Ledger(SQLiteStore(path, durability="normal")) as ledger:
        assert ledger.peek(secret)
        results.put("at work")
        while not end.is_set():
            assert ledger.peek(secret)


def test_readers_that_overlap_for_ever_do_not_make_the_log_grow(path, monkeypatch):
    """SQLite begins its log anew when nobody reads it: with somebody always reading it is cut all the same."""
    monkeypatch.setattr(_sqlite_pool, "LONG_LOG", 200_000)
    monkeypatch.setattr(_sqlite_connections, "LONG_LOG", 200_000)
    # Its length is looked at whenever a process begins its time: in ten milliseconds a fast one writes two million bytes.
    monkeypatch.setattr(_sqlite_pool, "_TIME", 0.001)
    ledger, _, secret = ledger_on(path, limits="1000000/year")
    end, results = SPAWN.Event(), SPAWN.Queue()
    readers = [SPAWN.Process(target=peek_until, args=(path, secret, end, results)) for _ in range(3)]
    for reader in readers:
        reader.start()
    assert [results.get(timeout=60) for _ in readers] == ["at work"] * 3
    sizes = []
    for _ in range(1500):
        ledger.consume(secret)
        sizes.append(os.path.getsize(path + "-wal"))
    end.set()
    for reader in readers:
        reader.join()
        assert reader.exitcode == 0
    # Fifteen hundred charges write six million bytes.
    assert max(sizes) < 2_000_000, max(sizes)
    assert used(ledger, secret) == 1500
    ledger.close()
    assert whole(path) == "ok"


# Forks


def forked(child):
    """What a child returned, as an exit status."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # other threads may be alive: that is what is tested
        pid = os.fork()
    if pid == 0:
        status = 99
        try:
            status = child()
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_nothing_is_lost_across_a_fork(path):
    """F8: parent and child go on with connections of their own; what each admits is there, whoever closes first.

    With a connection that was open at the fork, SQLite in the child takes the parent's locks for its own: what it
    writes is lost once the parent closes. So none is open at a fork.
    """
    ledger, _, secret = ledger_on(path, limits="100/year")
    ledger.consume(secret)
    ready, done = os.pipe(), os.pipe()

    def child():
        first = ledger.consume(secret).limits[0].used
        os.write(ready[1], b"x")
        os.read(done[0], 1)
        return first + ledger.consume(secret).limits[0].used

    def parent():
        os.read(ready[0], 1)
        ledger.store.close()
        os.write(done[1], b"x")

    closer = threading.Thread(target=parent)
    closer.start()
    assert forked(child) == 2 + 3
    closer.join()
    assert ledger.consume(secret).limits[0].used == 4
    assert reopened(ledger).consume(secret).limits[0].used == 5
    for end in (*ready, *done):
        os.close(end)
    ledger.close()
    assert whole(path) == "ok"


def test_a_child_inherits_no_handle_and_no_turn(path):
    """F8: at the fork nothing is open, though threads were in the middle of calls; both sides go on."""
    ledger, _, secret = ledger_on(path, limits="1000000/year")
    stop = threading.Event()

    def busy(call):
        while not stop.is_set():
            call()

    threads = [
        threading.Thread(target=busy, args=(call,))
        for call in (lambda: ledger.consume(secret), lambda: ledger.consume(secret), lambda: ledger.peek(secret))
    ]
    for thread in threads:
        thread.start()

    def child():
        held = 0
        for name in os.listdir("/proc/self/fd"):
            try:
                held += os.readlink(f"/proc/self/fd/{name}").startswith(path)
            except OSError:
                continue
        return held or (0 if ledger.consume(secret) and ledger.peek(secret) else 50)

    try:
        assert [forked(child) for _ in range(10)] == [0] * 10
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    count = used(ledger, secret)
    assert ledger.consume(secret).limits[0].used == count + 1
    ledger.close()


def test_a_fork_in_the_middle_of_its_own_thread_s_call_leaves_that_call_whole(path):
    """As a signal handler's: the call goes on in the parent with its turn and its connection, and others wait for it."""
    ledger, _, secret = ledger_on(path)
    ledger.consume(secret)
    told = []

    def work(db):
        assert forked(lambda: 0) == 0
        late = threading.Thread(target=lambda: told.append(ledger.consume(secret).limits[0].used))
        late.start()
        pause(0.01)
        assert told == []
        db.execute("UPDATE ledger SET floor = floor")
        return late

    ledger.store._pool.write(work).join()
    assert told == [2]
    ledger.close()


def test_a_fork_does_not_wait_for_ever(path, monkeypatch):
    """A writer that will not come to rest delays a fork by the timeout at most; the child still has its own."""
    ledger, _, secret = ledger_on(path, timeout=0.2)
    ledger.consume(secret)
    inside, go = threading.Event(), threading.Event()

    def slow(db):
        inside.set()
        assert go.wait(30)

    thread = threading.Thread(target=ledger.store._pool.write, args=(slow,))
    thread.start()
    assert inside.wait(30)

    def child():
        return 0 if reopened(ledger, timeout=0.1).peek(secret) else 1

    before = time.monotonic()
    assert forked(child) == 0
    assert time.monotonic() - before < 2
    go.set()
    thread.join()
    assert ledger.consume(secret).limits[0].used == 2
    ledger.close()


def leave_in_the_middle(path, secret):
    ledger = Ledger(SQLiteStore(path, durability="normal"))
    threads = [
        threading.Thread(target=lambda: [ledger.consume(secret) for _ in range(10**6)], daemon=True) for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    while used(ledger, secret) < 100:
        pause(0.001)


def test_an_interpreter_that_exits_in_the_middle_of_calls_just_exits(path):
    """F8: daemon threads in the middle of charges, no close(): no hang, no damage, and no thread of the store's own."""
    before = threading.active_count()
    ledger, _, secret = ledger_on(path, limits="1000000/year")
    assert threading.active_count() == before
    child = SPAWN.Process(target=leave_in_the_middle, args=(path, secret))
    child.start()
    child.join(30)
    assert child.exitcode == 0
    count = used(ledger, secret)
    assert count >= 100
    assert ledger.consume(secret).limits[0].used == count + 1
    ledger.close()
    assert whole(path) == "ok"

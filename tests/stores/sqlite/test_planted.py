"""Bugs planted into a copy of the SQLite store: each must be caught by a short history, and none in the store as it is.

What is planted is special to this store: transactions, copies, stamps, turns, forks, pruning. The rule's own bugs are
in ``test_planted.py``, which the conformance machine finds over every store.
"""

import gc
import importlib
import os
import sqlite3
import threading
from contextlib import closing

import pytest

from copies import copied
from powerloss import Nothing, Recorder, after_power_loss

START = 1_773_144_000_000_000
DAY = 86_400_000_000

BUGS = {
    "a transaction that begins to write only when it writes": (
        "stores/sqlite/connections.py", '"BEGIN IMMEDIATE")\n    except', '"BEGIN")\n    except'),
    "a stale copy of a key is trusted": ("stores/sqlite/requests.py", "row[0] != one.version or ", ""),
    "a stale copy of a plan is trusted": ("stores/sqlite/requests.py", " or row[2] != self.plans", ""),
    "what others counted is not taken over": ("stores/sqlite/requests.py", "if row[1] != one.moving:", "if False:"),
    "a swap trusts a stale copy of a key": ("stores/sqlite/requests.py", "WHERE subject = ? AND version = ? AND moving", "WHERE subject = ? AND ? AND moving"),
    "a swap trusts a stale copy of a plan": ("stores/sqlite/requests.py", "AND (SELECT plans FROM ledger) = ?", "AND ?"),
    "a swap overwrites what others counted": ("stores/sqlite/requests.py", "AND moving = ? AND", "AND ? IS NOT NULL AND"),
    "a swap that was in vain stays in the copy": (
        "stores/sqlite/requests.py", "            unpack(one.record, one.moving)  # type: ignore[arg-type] # a record", "            pass  # a record"),
    "a swap in vain is an answer": ("stores/sqlite/requests.py", "if done == len(moved):", "if done >= 0:"),
    "a swap leaves the account out": ("stores/sqlite/requests.py", "IN ({', '.join('?' * count)})", "IN (?{', NULL + ?' * (count - 1)})"),
    "a swap writes one count to both": ("stores/sqlite/requests.py", "new += one.subject, moving", "new += one.subject, moved[0]"),
    "a swap trusts a stale copy of an account": (
        "stores/sqlite/requests.py", '["subject = ? AND version = ? AND moving = ?"] * count',
        '["subject = ? AND version = ? AND moving = ?"] + ["subject = ? AND ? NOTNULL AND moving = ?"] * (count - 1)'),
    "a swap overwrites what others counted on the account": (
        "stores/sqlite/requests.py", '["subject = ? AND version = ? AND moving = ?"] * count',
        '["subject = ? AND version = ? AND moving = ?"] + ["subject = ? AND version = ? AND ? NOTNULL"] * (count - 1)'),
    "a swap for both trusts a stale copy of a key": (
        "stores/sqlite/requests.py", '["subject = ? AND version = ? AND moving = ?"] * count',
        '["subject = ? AND ? NOTNULL AND moving = ?"] + ["subject = ? AND version = ? AND moving = ?"] * (count - 1)'),
    "a swap for both trusts a stale copy of a plan": ("stores/sqlite/requests.py", "WHERE plans = ? AND (", "WHERE ? NOTNULL AND ("),
    "a headroom remembers no request id": (
        "stores/sqlite/requests.py", 'if request.op == "consume" and request.request_id is None and barring is None',
        'if request.op == "consume" and barring is None'),
    "a headroom asks for no network": ("stores/sqlite/requests.py", " or barred(room.key, address, scope)", ""),
    "a headroom asks for no network in a transaction": ("stores/sqlite/requests.py", " and barring is None", ""),
    "a refusal or a look by a stale copy": ("stores/sqlite/requests.py", "return decision if self._stands(db) else None", "return decision"),
    "a look takes another file for its own": ("stores/sqlite/pool.py", " or (patience <= 0 and writer.moved(self.path))", ""),
    "contention is taken for a broken file": ("stores/sqlite/schema.py", "return _code(error) in _BUSY", "return False"),
    "an undone transaction stays open": ("stores/sqlite/pool.py", 'writer.db.execute("ROLLBACK")', "pass"),
    "an undone charge stays in the copy": ("stores/sqlite/requests.py", "self.rooms.pop(self._at_work, None)", "pass"),
    "an error commits what was done so far": ("stores/sqlite/pool.py", 'writer.db.execute("ROLLBACK")', 'writer.db.execute("COMMIT")'),
    "the turn is kept after an error": ("stores/sqlite/pool.py", "            try:\n                self.turn.give()\n            except",
                                        "            try:\n                pass\n            except"),
    "full is as lazy as normal": ("stores/sqlite/connections.py", "synchronous = {durability}", "synchronous = NORMAL"),
    "connections cross a fork": ("stores/sqlite/fork.py", "os.register_at_fork(before=_before_fork)", "pass"),
    "a second key does not tell the first one's copies": ("stores/sqlite/accounts.py", "            touch(db, member)\n", ""),
    "a removed key leaves its remembered requests": ("stores/sqlite/records.py", '("counts", "records", "remembered")', '("counts", "records")'),
    "a plan that comes back has its old keys": ("stores/sqlite/directory.py", "new_number() if row is None else row[0]", "1"),
    "what is pruned leaves no floor": ("stores/sqlite/records.py", "SET floor = max(floor, ?)", "SET floor = min(floor, ?)"),
    "what is alive is pruned": ("stores/sqlite/records.py", "if dead_at + options.max_skew > now:", "if False:"),
    "a record outlives its remembered requests' time by none": ("stores/sqlite/records.py", "dead_at = max(dead_at, remembered or 0)", "pass"),
    "a headroom that another thread overtook counts": ("stores/sqlite/requests.py", "if room not in self.rooms or", "if"),
    "a copy that another thread spoilt counts": (
        "stores/sqlite/requests.py", " or self.decisions.rooms.get(self.ref) is not self", ""),
    "headrooms outlive what the rule changed": ("stores/sqlite/requests.py", "            copy.rooms = ()\n", "            pass\n"),
    "a refusal settles the copy": ("stores/sqlite/requests.py", "[one.record.copy() for one in copy.found]", "[one.record for one in copy.found]"),
    "a removed file is made anew": ("stores/sqlite/pool.py", "if self._opened and not there:", "if False:"),
    "a newer file is read as though it were ours": ("stores/sqlite/schema.py", "if version > len(STEPS):", "if False:"),
    "a migration is not told to who is there": ("stores/sqlite/directory.py", "if version != len(STEPS):", "if False:"),
}  # fmt: skip


class World:
    """A package, and a folder for its files."""

    def __init__(self, name, folder, slice_s):
        self.quota = importlib.import_module(name)
        self.module = {
            part: importlib.import_module(f"{name}.stores.{part}")
            for part in (
                "base",
                "sqlite.store",
                "sqlite.pool",
                "sqlite.connections",
                "sqlite.requests",
                "sqlite.schema",
            )
        }
        self.slice = self.module["sqlite.pool"]._TIME
        self.module["sqlite.pool"]._TIME = slice_s
        self.folder = folder
        self.clock = self.quota.ManualClock(START)
        self.opened = []
        self.count = 0

    def ledger(self, path=None, durability="normal", timeout=0.3):
        store = self.module["sqlite.store"].SQLiteStore(path or self.path(), durability=durability, timeout=timeout)
        self.opened.append(self.quota.Ledger(store, clock=self.clock))
        return self.opened[-1]

    def path(self):
        self.count += 1
        return os.path.join(self.folder, f"{self.count}.db")

    def with_key(self, limits="100/day", **options):
        ledger = self.ledger(**options)
        ledger.add_plan(self.quota.UsagePlan("p", limits))
        return ledger, ledger.issue_key("k", "p", id="k").secret

    def close(self):
        self.module["sqlite.pool"]._TIME = self.slice
        for ledger in self.opened:
            try:
                ledger.close()
            except Exception:
                continue


def count(decision):
    return decision.limits[0].used


def elsewhere(call, *args):
    """What it answers or raises in another thread."""
    answers = []

    def run():
        try:
            answers.append(call(*args))
        except Exception as error:
            answers.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if isinstance(answers[0], Exception):
        raise answers[0]
    return answers[0]


def alone(world):
    """Inside a decision nobody else can write; afterwards everybody can."""
    here, secret = world.with_key()
    there = world.ledger(here.store.path, timeout=0.05)
    steps, busy = world.module["sqlite.requests"], []
    real = steps.perform

    def look(*args):
        try:
            there.store._pool.write(lambda db: None)
        except world.quota.StoreBusy:
            busy.append(True)
        return real(*args)

    steps.perform = look
    try:
        here.consume(secret)
    finally:
        steps.perform = real
    assert busy
    assert count(there.consume(secret)) == 2


def bound(world):
    """What one process changes, the next call of another knows; what one counts, the other sees."""
    here, secret = world.with_key()
    there = world.ledger(here.store.path)
    for number in range(1, 9):
        assert count((here if number % 2 else there).consume(secret)) == number
    here.disable_key("k")
    assert not there.consume(secret)
    here.enable_key("k")
    here.replace_plan(world.quota.UsagePlan("p", "9/day"))
    assert [bool(there.consume(secret)) for _ in range(2)] == [True, False]
    here.remove_plan("p")
    here.add_plan(world.quota.UsagePlan("p", "99/day"))
    assert there.consume(secret).reason.value == "NO_PLAN"


def joined(world):
    """A second key makes the first one's count the account's, for every process."""
    here = world.ledger()
    there = world.ledger(here.store.path)
    here.add_plan(world.quota.UsagePlan("p", "10/day by account"))
    secret = here.issue_key("one", "p", account="team").secret
    for _ in range(3):
        there.consume(secret)
    other = here.issue_key("two", "p", account="team").secret
    assert count(there.consume(secret)) == 4
    assert count(here.consume(other)) == 5
    assert [count(there.consume(secret)) for _ in range(2)] == [6, 7]
    assert count(here.consume(other)) == 8


def teamed(world):
    """Of a key and its account: what another process changes on either, or of their plan, binds at once."""
    here = world.ledger()
    there = world.ledger(here.store.path)
    here.add_plan(world.quota.UsagePlan("p", "20/day, 100/day by account as team"))
    secret, other = [here.issue_key(name, "p", account="team", id=name).secret for name in ("one", "two")]
    for number in range(1, 8):
        assert [s.used for s in (there if number % 3 else here).consume(secret).limits] == [number, number]
    here.consume(other)
    assert [s.used for s in there.consume(secret).limits] == [8, 9]
    for key, limit in (("one", "requests/day"), ("two", "team")):
        here.set_remaining(key, limit, 0)
        assert not there.consume(secret)
        here.set_remaining(key, limit, 9)
        assert there.consume(secret)
    here.replace_plan(world.quota.UsagePlan("p", "5/day, 100/day by account as team"))
    assert not there.consume(secret)
    assert not there.peek(secret)


def fenced(world):
    """A key is used from its networks alone, however often it was."""
    here, _ = world.with_key()
    secret = here.issue_key("near", "p", networks=("10.0.0.0/8",)).secret
    for _ in range(3):
        assert here.consume(secret, address="10.1.1.1")
    assert here.consume(secret, address="11.1.1.1").reason.value == "ADDRESS_NOT_ALLOWED"
    assert here.peek(secret).reason.value == "ADDRESS_NOT_ALLOWED"
    assert count(here.consume(secret, address="10.1.1.1")) == 4


def overtaken(world):
    """Another thread is first: it changes a record, or is interrupted in the middle of a charge."""
    here, secret = world.with_key()
    for _ in range(3):
        here.consume(secret)
    pool, steps = here.store._pool, world.module["sqlite.requests"]
    swap, pack = pool.swap, steps.pack

    def fail(record):
        steps.pack = pack
        raise MemoryError

    def interrupted():
        steps.pack = fail
        try:
            here.consume(secret, 5)
        except MemoryError:
            return

    for first, used in ((lambda: here.consume(secret, request_id="r"), 5), (interrupted, 6)):

        def later(*args, first=first, **options):
            pool.swap = swap
            elsewhere(first)
            return swap(*args, **options)

        here.consume(secret, 1) if used == 6 else None
        pool.swap = later
        assert count(here.consume(secret)) == used + (used == 6)


def undone(world):
    """An exception after the rule has charged: nothing was, for anybody; the turn is free."""
    here, secret = world.with_key()
    steps = world.module["sqlite.requests"]
    for _ in range(2):
        here.consume(secret)
    for name in ("pack", "prune"):
        real = getattr(steps, name)

        def fail(*args, real=real):
            real(*args)
            raise MemoryError

        setattr(steps, name, fail)
        try:
            here.consume(secret, 5, request_id=None if name == "pack" else "r")
        except MemoryError:
            pass
        finally:
            setattr(steps, name, real)
        assert count(elsewhere(here.consume, secret)) == (3 if name == "pack" else 4)


def contended(world):
    """A file that somebody else writes to: busy, neither broken nor refused."""
    here, secret = world.with_key(timeout=0.05)
    here.consume(secret)
    with closing(sqlite3.connect(here.store.path, isolation_level=None)) as db:
        db.execute("BEGIN IMMEDIATE")
        try:
            here.consume(secret)
        except world.quota.StoreBusy:
            pass
        else:
            raise AssertionError("not busy")
        finally:
            db.rollback()
        assert [count(here.consume(secret)) for _ in range(2)] == [2, 3]
        here.store._pool.timeout = 20
        db.execute("BEGIN IMMEDIATE")
        pool = world.module["sqlite.pool"]
        real, pool.pause = pool.pause, lambda seconds: db.rollback()
        try:
            assert count(here.consume(secret)) == 4
        finally:
            pool.pause = real


def powerless(world):
    """A power loss after any acknowledgement loses none."""
    recorder, opened = Recorder(), world.module["sqlite.connections"]
    real, opened.connect = opened.connect, recorder.connect
    try:
        here, secret = world.with_key(limits="1000/day", durability="full")
        said = []
        for _ in range(20):
            here.consume(secret)
            said.append(len(recorder.log))
        here.close()
    finally:
        opened.connect = real
    name = os.path.basename(here.store.path)
    for number, place in list(enumerate(said, 1))[::8]:
        folder = os.path.join(world.folder, f"left{world.count}-{number}")
        os.mkdir(folder)
        after_power_loss(recorder.log[:place], folder, Nothing())
        assert count(world.ledger(os.path.join(folder, name)).consume(secret)) == number + 1


def forked(world):
    """A child's charges are there after the parent has closed the file."""
    here, secret = world.with_key()
    here.consume(secret)
    ready, done = os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            here.consume(secret)
            os.write(ready[1], b"x")
            os.read(done[0], 1)
            here.consume(secret)
        finally:
            os._exit(0)
    os.read(ready[0], 1)
    here.close()
    os.write(done[1], b"x")
    os.waitpid(pid, 0)
    for end in (*ready, *done):
        os.close(end)
    assert count(world.ledger(here.store.path).consume(secret)) == 4


def removed(world):
    """A key that is removed and made again remembers nothing, and nothing of that stays in the file."""
    here, secret = world.with_key()
    here.consume(secret, 5, request_id="once")
    here.remove_key("k")
    with closing(sqlite3.connect(here.store.path)) as db:
        assert db.execute("SELECT count(*) FROM remembered").fetchone() == (0,)
    here.import_key(secret, "k", "p", id="k")
    assert not here.consume(secret, 5, request_id="once").replayed


def pruned(world):
    """The dead go, behind a floor; the living stay."""
    here, secret = world.with_key("100/year")
    other = here.issue_key("other", "p", id="o").secret
    here.consume(other)
    world.clock.advance(340 * DAY)
    for _ in range(3):
        here.consume(secret)
        here.consume(other, request_id=f"r{world.clock()}")
        world.clock.advance(DAY)
    memory = world.ledger(timeout=0.3)
    memory.store.options = world.module["base"].make_options(request_ttl=9 * 366 * 86_400)
    memory.add_plan(world.quota.UsagePlan("p", "1/minute"))
    kept = memory.issue_key("k", "p").secret
    memory.consume(kept, request_id="once")
    world.clock.advance(120_000_000)
    memory.consume(kept)
    # Counted in the lane alone, whose charges never touch when the record would be dead.
    quick = world.ledger()
    quick.add_plan(world.quota.UsagePlan("p", "100000/day"))
    lively = quick.issue_key("k", "p").secret
    start = world.clock()
    world.clock.advance(200 * DAY)
    assert memory.consume(kept, request_id="once").replayed
    memory.store.prune()
    assert memory.consume(kept, request_id="once").replayed
    quick.consume(lively, 7)
    quick.store._pool.write(lambda db: db.execute("UPDATE records SET dead_at = 1"))
    quick.store.prune()
    assert count(quick.consume(lively)) == 8
    world.clock.advance(2000 * DAY)
    assert here.store.prune() >= 2
    world.clock.set(start)
    try:
        here.consume(other)
    except world.quota.ClockSkew:
        return
    raise AssertionError("a call from before what is remembered was answered")


def laned(world):
    """Plain calls in lanes, beside the same calls in memory: quotas, throttles, changes of plan, refused windows."""
    plan = world.quota.UsagePlan("p", "30/hour, 200/day, 2/s burst 6", alerts=(50,))
    streams = []
    for ledger in (world.ledger(), world.quota.Ledger(clock=world.clock)):
        world.clock.set(START)
        ledger.add_plan(plan)
        key, secret = ledger.issue_key("k", "p", id="k")
        stream = []
        for number in range(140):
            world.clock.advance([0, 400_000, 1, 21_000_000, 500_000][number % 5])
            if number % 23 == 22:
                ledger.replace_plan(world.quota.UsagePlan("p", f"35/hour, 2/s burst 6, 9/minute as m{number}"))
            if number == 80:
                ledger.replace_plan(world.quota.UsagePlan("p", "35/hour, 2/s burst 6", alerts=()))
            if number in (85, 88):
                ledger.grant("k", "requests/hour", 7)
            presented = key if number % 4 else secret
            decision = ledger.consume(presented, number % 3 + 1)
            stream.append((repr(decision), decision.crossed, decision.retry_at))
            if number in (40, 70):
                ledger.refund(decision)
        streams.append(stream)
    assert streams[0] == streams[1]


def refused(world):
    """A refusal changes nothing, of the copy neither: a grant outlives one from a clock that was ahead."""
    here, secret = world.with_key("10/day")
    here.consume(secret, 8)
    here.grant("k", "requests/day", 5)
    here.consume(secret)
    world.clock.advance(DAY)
    assert not here.consume(secret, 100)
    world.clock.advance(-DAY)
    assert count(here.consume(secret, 5, request_id="by the rule, in no lane")) == 14


def gone(world):
    """A file that is removed while in use is not begun anew."""
    here, secret = world.with_key()
    for end in ("", "-wal", "-shm"):
        os.unlink(here.store.path + end)
    here.store._pool._time_ends = 0.0
    try:
        here.consume(secret)
    except world.quota.StoreUnavailable:
        pass
    assert not os.path.exists(here.store.path)
    there, known = world.with_key()
    there.consume(known)
    for end in ("", "-wal", "-shm"):
        os.unlink(there.store.path + end)
    try:
        there.peek(known)
    except world.quota.StoreUnavailable:
        return
    raise AssertionError("what is no more was looked at")


def versions(world):
    """A newer file is refused by its number, when it is opened and when it becomes so in use."""
    here, secret = world.with_key()
    here.consume(secret)
    with closing(sqlite3.connect(here.store.path)) as db, db:
        db.execute("PRAGMA user_version = 9")
        db.execute("UPDATE ledger SET plans = 5")
    db.close()
    for ledger in (here, world.ledger(here.store.path)):
        try:
            ledger.consume(secret)
        except world.quota.StoreUnavailable as error:
            assert "9" in str(error)
        else:
            raise AssertionError("a newer schema was used")


HISTORIES = [
    alone, bound, joined, teamed, fenced, overtaken, undone, contended, forked, removed, pruned, laned, refused, gone, versions, powerless,
]  # fmt: skip


SLICES = {"in line for every call": -1.0, "always in its own time": 1e9}


def caught_by(name, folder):
    """The first history that goes wrong; None when all is well."""
    for told, slice_s in SLICES.items():
        world = World(name, str(folder), slice_s)
        world.count = 1000 * list(SLICES).index(told)
        try:
            for history in HISTORIES:
                try:
                    history(world)
                except Exception as error:
                    return f"{history.__name__}, {told}: {error!r}"
        finally:
            world.close()
    return None


@pytest.mark.spread(6)
@pytest.mark.filterwarnings("ignore:unclosed database:ResourceWarning")
@pytest.mark.parametrize("bug", BUGS)
def test_a_planted_bug_is_caught(bug, tmp_path, monkeypatch):
    """One bug of a kind that only this store can have, seen."""
    name = f"planted_sqlite{list(BUGS).index(bug)}"
    copied(tmp_path, name, BUGS[bug])
    monkeypatch.syspath_prepend(tmp_path)
    assert caught_by(name, tmp_path)
    gc.collect()  # here, and not in another test: what a history that was broken off left open


def test_nothing_is_caught_in_the_store_as_it_is(tmp_path):
    """Nothing planted, nothing caught: the bugs above are what fails."""
    assert caught_by("quota", tmp_path) is None

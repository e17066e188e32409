"""The PostgreSQL store against a real server: the contract, one round trip, freshness, exactly once, numbers, clocks, pruning."""

import itertools
import pickle
import threading
import time
from datetime import datetime, timezone

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import run_state_machine_as_test
from psycopg_pool import ConnectionPool, NullConnectionPool

from awaited import Awaited
from quota import (
    AsyncLedger,
    ClockSkew,
    Ledger,
    ManualClock,
    PlanConflict,
    RequestMismatch,
    StoreBusy,
    StoreUnavailable,
    Throttle,
    UnknownKey,
    UnknownPlan,
    UsagePlan,
)
from quota.cli import main
from quota.errors import InvalidValue
from quota.stores.memory import MemoryStore
from quota.stores.postgres import AsyncPostgresStore, PostgresStore
from quota.stores.postgres import requests as _postgres_steps
from quota.testing import Machine, machine
from receipts import Receipt, check_receipts
from remote import Calls
from servers import Pooler, Postgres

START = int(datetime(2026, 3, 10, 12, tzinfo=timezone.utc).timestamp()) * 1_000_000
DAY = 86_400_000_000
_names = itertools.count()


def namespace() -> str:
    return f"test{next(_names)}"


@pytest.fixture(scope="module")
def server():
    found = Postgres()
    yield found
    found.stop()


@pytest.fixture(scope="module")
def admin(server):
    with server.connect() as found:
        yield found


@pytest.fixture
def clock():
    return ManualClock(START)


@pytest.fixture
def store(server):
    found = PostgresStore(server.url, namespace=namespace())
    yield found
    found.close()


def ledger_with(store, clock, limits="10/day", **plan):
    """A ledger, a key and its secret on a plan of these limits."""
    ledger = Ledger(store, clock=clock)
    ledger.add_plan(UsagePlan("p", limits, **plan))
    key, secret = ledger.issue_key("k", "p", id="k")
    return ledger, key, secret


@pytest.fixture
def twin(server):
    """Makes another process, as far as the store can tell."""
    made = []

    def make(ledger, clock):
        made.append(Ledger(PostgresStore(server.url, namespace=ledger.store.namespace), clock=clock))
        return made[-1]

    yield make
    for ledger in made:
        ledger.close()


def used(ledger, secret, limit=0):
    return ledger.peek(secret, 1).limits[limit].used - 1


# The contract


def test_the_conformance_machine_over_postgres(server):
    """Every history agrees with the model, the store closed and reopened now and then."""
    opened = []

    def open_(name=None):
        opened.append(PostgresStore(server.url, namespace=name or namespace()))
        return opened[-1]

    def reopened(store):
        store.close()
        return open_(store.namespace)

    run_state_machine_as_test(machine(open_, reopened), settings=settings(max_examples=8, stateful_step_count=30))
    for store in opened:  # a reservation of a store that was closed opens a connection again
        store.close()


def awaited_machine(server):
    class AwaitedMachine(Machine):
        open = staticmethod(lambda: AsyncPostgresStore(server.url, namespace=namespace()))

        def _ledger(self, store):
            return Awaited(AsyncLedger(store, clock=self.clock))

    return AwaitedMachine


def test_the_conformance_machine_awaited(server):
    """Every history agrees with the model over the asynchronous store too."""
    run_state_machine_as_test(awaited_machine(server), settings=settings(max_examples=6, stateful_step_count=25))


@pytest.mark.slow
def test_the_conformance_machine_at_length(server):
    """Many long histories, of both stores."""
    tried = machine(lambda: PostgresStore(server.url, namespace=namespace()))
    run_state_machine_as_test(tried, settings=settings(max_examples=300, stateful_step_count=60))
    run_state_machine_as_test(awaited_machine(server), settings=settings(max_examples=100, stateful_step_count=40))


def test_sync_and_async_decide_equally(server):
    """Equal inputs give equal streams of decisions, from a memory store, a PostgreSQL store and its asynchronous twin."""
    plan = UsagePlan(
        "p", "30/hour, 40 tokens/day, 5/s burst 9, 4 tokens/minute burst 20 as pace", routes={"r": "9/day"}
    )

    def told(call):
        try:
            decision = call()
        except RequestMismatch as error:
            return str(error)
        return repr(decision), decision.retry_at, decision.crossed, decision.replayed

    streams = []
    for kind in ("memory", "sync", "async"):
        clock = ManualClock(START)
        if kind == "async":
            ledger = Awaited(AsyncLedger(AsyncPostgresStore(server.url, namespace=namespace()), clock=clock))
        else:
            own = MemoryStore() if kind == "memory" else PostgresStore(server.url, namespace=namespace())
            ledger = Ledger(own, clock=clock)
        ledger.add_plan(plan)
        _, secret = ledger.issue_key("k", "p")
        stream = []
        for step, op, cost, route, request_id in Calls(7):
            clock.advance(step)
            if op == "reserve":
                stream.append(told(lambda: ledger.reserve(secret, cost, ttl=5_000_000, route=route).decision))
            else:
                stream.append(told(lambda: getattr(ledger, op)(secret, cost, route=route, request_id=request_id)))
        streams.append(stream)
        ledger.close()
    assert streams[0] == streams[1] == streams[2]
    assert len({entry[0] for entry in streams[0]}) > 50


# One round trip


class Counting(PostgresStore):
    """A store that counts what it sends."""

    sent = 0

    def _exchange(self, call):
        self.sent += 1
        return super()._exchange(call)


@pytest.mark.parametrize("accounts", [1, 2])
def test_a_fresh_decision_takes_one_round_trip(server, clock, accounts):
    """Whatever is asked of a key and plan that have not changed, one call is sent, with one account record or two."""
    store = Counting(server.url, namespace=namespace())
    plan = UsagePlan(
        "p", "1000000/day, 2000000/month by account, 50000 tokens/day, 1000000/s", routes={"r": "500000/day"}
    )
    ledger = Ledger(store, clock=clock)
    ledger.add_plan(plan)
    for number in range(accounts):
        key, secret = ledger.issue_key(f"k{number}", "p", account="team")
    calls = [
        lambda: ledger.consume(secret),
        lambda: ledger.consume(secret, 3),
        lambda: ledger.consume(secret, {"requests": 1, "tokens": 5}),
        lambda: ledger.consume(secret, route="r"),
        lambda: ledger.consume(secret, 10**9),
        lambda: ledger.consume(secret, request_id=f"id{time.monotonic_ns()}"),
        lambda: ledger.consume(secret, request_id="again"),
        lambda: ledger.peek(secret),
        lambda: ledger.consume(key),
        lambda: ledger.consume("nobody knows this secret"),
    ]
    for number, call in enumerate(calls):
        for _ in range(2):
            call()
        clock.advance(61_000_000)  # a new minute is no reason for a second trip
        before = store.sent
        call()
        assert (number, store.sent - before) == (number, 1)
    ledger.close()


def test_one_call_of_the_store_is_one_query_of_the_wire(server, clock, store):
    """Nothing is asked of the server beside the function's call: no BEGIN, no SET, no preparing."""
    ledger, key, secret = ledger_with(store, clock)
    pooler = Pooler(server.port, 1)
    there = Ledger(
        PostgresStore(f"postgresql://quota@127.0.0.1:{pooler.port}/postgres", namespace=store.namespace), clock=clock
    )
    for _ in range(3):
        there.consume(secret)
    before = len(pooler.commands)
    there.consume(secret)
    (command,) = pooler.commands[before:]
    assert command.startswith(b"P") and command.endswith(b"S\0\0\0\4") and command.count(b"spend(") == 1
    there.close()
    pooler.close()


def test_a_refusal_writes_nothing(admin, store, clock):
    """A call that is refused, or that only looks, needs no transaction number: it waits for no disk."""
    ledger, key, secret = ledger_with(store, clock, "3/day, 5/s burst 5")
    while ledger.consume(secret):
        pass
    before = admin.execute("select pg_current_xact_id()::text::bigint").fetchone()[0]
    for _ in range(5):
        assert not ledger.consume(secret)
        assert not ledger.peek(secret)
    assert admin.execute("select pg_current_xact_id()::text::bigint").fetchone()[0] == before + 1


def test_plain_charges_stay_in_their_page(admin, store, clock):
    """Charges update rows within their page: no index grows, and the table does not either."""
    ledger, key, secret = ledger_with(store, clock, "1000000/day, 1000000/s")
    for _ in range(300):
        ledger.consume(secret)
    name = f"{store.namespace}.records"
    admin.execute("select pg_stat_force_next_flush(), pg_stat_clear_snapshot()")
    assert admin.execute("select pg_relation_size(%s)", (name,)).fetchone()[0] <= 3 * 8192
    assert admin.execute("select pg_relation_size(%s)", (f"{name}_dead",)).fetchone()[0] <= 2 * 8192


# Freshness


def test_what_another_process_changes_binds_on_the_next_call(store, clock, twin):
    """Disabling, rotation, another plan, a replaced plan, dissociation and removal are seen at once elsewhere."""
    here, key, secret = ledger_with(store, clock)
    there = twin(here, clock)
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


def test_a_second_key_takes_the_accounts_count_along(store, clock, twin):
    """What the first key used is the account's from the moment that a second one joins, in every process."""
    here, key, secret = ledger_with(store, clock, "10/day, 20/day by account as team")
    there = twin(here, clock)
    assert there.consume(secret, 4)
    _, other = here.issue_key("second", "p", account="k")
    assert [s.used for s in there.consume(other).limits] == [1, 5]
    assert [s.used for s in there.consume(secret).limits] == [5, 6]
    here.remove_key(key)
    assert [s.used for s in there.consume(other).limits] == [2, 7]


def test_the_directory_says_what_it_cannot_do(store, clock):
    """Unknown keys and plans, taken ids and secrets, conflicting plans; a plan that moves takes its keys along."""
    ledger, key, secret = ledger_with(store, clock)
    with pytest.raises(PlanConflict):
        ledger.add_plan(UsagePlan("p", "11/day"))
    with pytest.raises(PlanConflict):
        ledger.issue_key("again", id="k")
    with pytest.raises(PlanConflict):
        ledger.import_key(secret, "thief")
    with pytest.raises(UnknownPlan):
        ledger.issue_key("lost", "nowhere")
    for call in (ledger.get_plan, ledger.remove_plan, lambda plan: ledger.associate(key, plan)):
        with pytest.raises(UnknownPlan):
            call("nowhere")
    for call in (ledger.get_key, ledger.remove_key, ledger.rotate_key, lambda id_: ledger.associate(id_, "p")):
        with pytest.raises(UnknownKey):
            call("nobody")
    with pytest.raises(UnknownKey):
        ledger.store.plans_of("nobody")
    assert ledger.list_keys() == [key]
    assert [plan.id for plan in ledger.list_plans()] == ["p"]
    ledger.replace_plan(UsagePlan("p", "10/day", api="b"))
    assert (ledger.consume(secret).reason.value, bool(ledger.consume(secret, api="b"))) == ("NO_PLAN", True)
    ledger.remove_plan("p")
    ledger.add_plan(UsagePlan("p", "10/day"))
    assert ledger.store.plans_of(key.id) == []
    with pytest.raises(PlanConflict):
        ledger.dissociate(key, "p")


def test_names_of_any_script_survive(store, clock):
    """Ids, routes, apis and request ids in any script, with quotes and backslashes, come back as they went."""
    ledger = Ledger(store, clock=clock)
    plan = UsagePlan("план \U0001f600", "10/day", api="日本", routes={'a"b\\c': "5/day"})
    ledger.add_plan(plan)
    key, secret = ledger.issue_key("ключ", plan, id='clé: {1,"2\\"}', metadata={"ü": "ß"})
    ledger.issue_key("second", plan, account=key.account)
    assert (ledger.get_key(key), ledger.get_plan(plan)) == (key, plan)
    decision = ledger.consume(secret, api="日本", route='a"b\\c', request_id="é:1")
    again = ledger.consume(secret, api="日本", route='a"b\\c', request_id="é:1")
    assert (decision.allowed, again.id, again.replayed) == (True, decision.id, True)
    assert [status.used for status in ledger.consume(secret, api="日本", route='a"b\\c').limits] == [2, 2]


# Exactly once


def test_a_request_id_counts_once(store, clock, twin):
    """A retry gets the first answer, in this process and another, on the lane and off it, and is not charged."""
    ledger, key, secret = ledger_with(store, clock, "10/day, 5/s burst 20")
    there = twin(ledger, clock)
    for number in range(3):
        first = ledger.consume(secret, 2, request_id=f"id{number}")
        clock.advance(50_000)
        for other in (ledger, there):
            again = other.consume(secret, 2, request_id=f"id{number}")
            assert (again.replayed, again.id, again.at) == (True, first.id, first.at)
            assert [(s.name, s.used, s.remaining, s.resets_at) for s in again.limits] == [
                (s.name, s.used, s.remaining, s.resets_at) for s in first.limits
            ]
        with pytest.raises(RequestMismatch):
            ledger.consume(secret, 1, request_id=f"id{number}")
    assert used(ledger, secret) == 6
    assert ledger.refund(again) == 2
    with pytest.raises(RequestMismatch):
        there.consume(secret, 2, request_id="id2")


def test_a_request_id_sent_by_many_at_once_counts_once(store, clock, twin):
    """Eight threads send the same request ids at the same time: each is charged once."""
    ledger, key, secret = ledger_with(store, clock, "1000000/day, 1000000/year by account")
    ledger.consume(secret)
    replayed = []

    def work(mine):
        replayed.extend(mine.consume(secret, 3, request_id=f"id{number}").replayed for number in range(15))

    run_threads([lambda mine=twin(ledger, clock): work(mine) for _ in range(8)])
    assert (replayed.count(False), used(ledger, secret)) == (15, 1 + 15 * 3)


def run_threads(jobs):
    """Run jobs at the same time; what one raises is raised here."""
    raised = []

    def run(job):
        try:
            job()
        except BaseException as error:
            raised.append(error)

    threads = [threading.Thread(target=run, args=(job,)) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert raised == []


def test_a_request_id_ends_with_its_key_and_its_ttl(store, clock):
    """A forgotten key's requests are forgotten, and a day later the id may be used again."""
    ledger, key, secret = ledger_with(store, clock)
    first = ledger.consume(secret, request_id="x")
    ledger.forget(key)
    second = ledger.consume(secret, request_id="x")
    clock.advance(DAY)
    third = ledger.consume(secret, request_id="x")
    assert [d.replayed for d in (first, second, third)] == [False] * 3


def test_a_decision_survives_a_pickle_and_refunds(store, clock):
    """A decision made by the function is a whole decision."""
    ledger, key, secret = ledger_with(store, clock)
    ledger.consume(secret)
    decision = pickle.loads(pickle.dumps(ledger.consume(secret, 3)))
    assert ledger.refund(decision, 2) == 2
    assert ledger.refund(decision) == 0
    assert used(ledger, secret) == 2


# Numbers


@settings(max_examples=15)
@given(
    limits=st.lists(
        st.one_of(
            st.tuples(st.integers(1, 2**53 - 1), st.sampled_from(["minute", "day", "year"])).map(lambda p: f"{p[0]}/{p[1]}"),
            st.tuples(st.sampled_from(["1", "0.5", "1/3", "999983", "12345.678", 2**53 - 1]), st.sampled_from(["second", "minute", "day"]))
            .map(lambda p: str(Throttle(p[0], p[1], burst=999))),
        ),
        min_size=1, max_size=2, unique_by=lambda text: "burst" in text or text.rpartition("/")[2],
    ),
    calls=st.lists(
        st.tuples(
            st.one_of(st.integers(1, 2**53 - 1), st.integers(1, 9_999)),
            st.sampled_from([0, 1, 333_333, 59_999_999, 60_000_000, 3_600_000_000, DAY, -1, -200_000_000]),
            st.sampled_from([False, False, True]),
        ),
        min_size=1, max_size=12,
    ),
)  # fmt: skip
def test_numbers_up_to_2_53_are_exact(server, limits, calls):
    """Any costs, limits and rates, held and recorded above the hold: the function decides as memory does, to the last unit."""
    clock = ManualClock(START)
    store = PostgresStore(server.url, namespace=namespace())
    ledgers = [Ledger(other, clock=clock) for other in (MemoryStore(), store)]
    secrets = []
    for ledger in ledgers:
        ledger.add_plan(UsagePlan("p", limits))
        secrets.append(ledger.issue_key("k", "p").secret)
    for cost, step, record in calls:
        clock.advance(step)
        told = []
        for ledger, secret in zip(ledgers, secrets, strict=True):
            try:
                decision = ledger.consume(secret, cost)
                told.append((repr(decision), decision.retry_at, decision.limits, decision.crossed))
                if record and (held := ledger.reserve(secret, 1, ttl=1_000_000)):
                    told.append((repr(held.commit(cost)), ledger.peek(secret).limits))
            except ClockSkew as error:
                told.append(str(error))
        assert told[: len(told) // 2] == told[len(told) // 2 :]
    store.close()


def test_counts_beyond_a_bigint_are_exact(store, clock, monkeypatch):
    """Commits above their holds may pass what a column holds: such counts go on in the encoded record alone."""
    monkeypatch.setattr(_postgres_steps, "_WIDEST", 2**53)
    told = []
    for ledger in [Ledger(other, clock=clock) for other in (MemoryStore(), store)]:
        clock.set(START)
        ledger.add_plan(UsagePlan("p", "1000000/day, 9007199254740991 tokens/day, 1000 tokens/s burst 1000000"))
        secret = ledger.issue_key("k", "p", id="k").secret
        stream = []
        for _ in range(3):
            held = [ledger.reserve(secret, 2, ttl=60_000_000) for _ in range(2)]
            stream += [repr(one.commit({"tokens": 2**53 - 1, "requests": 1})) for one in held]
            stream += [repr(ledger.consume(secret, cost)) for cost in (1, {"tokens": 1}, 2)]
            clock.advance(DAY)
        stream.append(repr(ledger.usage("k", since=datetime(2026, 3, 1).date(), until=datetime(2026, 4, 1).date())))
        told.append(stream)
    assert told[0] == told[1]


# Clocks


def test_a_system_clock_is_compared_with_the_servers(store, monkeypatch):
    """A wall clock further off than max_skew is an error in either direction, before anything is written."""
    ledger = Ledger(store)
    ledger.add_plan(UsagePlan("p", "10/day"))
    _, secret = ledger.issue_key("k", "p")
    _, fresh = ledger.issue_key("l", "p")
    assert ledger.consume(secret)
    now = time.time_ns()
    for off in (-3600, -301, 301, 3600):
        monkeypatch.setattr(time, "time_ns", lambda off=off: now + off * 10**9)
        for presented in (secret, fresh):
            with pytest.raises(ClockSkew):
                ledger.consume(presented)
    monkeypatch.setattr(time, "time_ns", lambda: now + 290 * 10**9)
    assert ledger.consume(secret)


def test_a_clock_of_the_callers_is_compared_only_when_asked(server, store):
    """Simulated time is not held against the server's unless check_clock says so."""
    ledger, key, secret = ledger_with(store, ManualClock(START))
    assert ledger.consume(secret)
    other = PostgresStore(server.url, namespace=store.namespace, check_clock=True)
    with pytest.raises(ClockSkew):
        Ledger(other, clock=ManualClock(START)).consume(secret)
    other.close()


@pytest.mark.parametrize("to", [START + 3_600_000_000, START - 3_600_000_000, 0, 4_070_908_800_000_000])
def test_a_clock_that_steps_grants_nothing(store, to):
    """After steps of an hour, to 1970 and to 2099 and back, no window was granted twice; the repair is forget."""
    clock = ManualClock(START)
    ledger, key, secret = ledger_with(store, clock, "3/day")
    assert [bool(ledger.consume(secret)) for _ in range(4)] == [True, True, True, False]
    clock.set(to)
    stepped = []
    for _ in range(4):
        try:
            stepped.append(bool(ledger.consume(secret)))
        except ClockSkew:
            stepped.append(None)
    new_window = to // DAY > START // DAY
    assert stepped.count(True) == (3 if new_window else 0)
    clock.set(START)
    if new_window:
        with pytest.raises(ClockSkew):
            ledger.consume(secret)
        ledger.forget(key)
        assert ledger.consume(secret)
    else:
        assert not ledger.consume(secret)


# What is dead


def test_dead_records_and_memos_are_pruned_bit_by_bit_behind_a_floor(admin, store, clock):
    """Years of keys that came once leave no rows behind; what they knew is not granted again to a clock set back."""
    ledger = Ledger(store, clock=clock)
    ledger.add_plan(UsagePlan("p", "10/minute, 5/day"))
    rows = []
    for number in range(40):
        _, secret = ledger.issue_key(f"k{number}", "p")
        assert ledger.consume(secret, request_id="once")
        assert ledger.consume(secret, request_id="twice")
        clock.advance(10 * DAY)
        rows.append([admin.execute(f"select count(*) from {store.namespace}.{table}").fetchone()[0]
                     for table in ("records", "bodies", "memos")])  # fmt: skip
    assert max(rows[10:]) <= [6, 6, 4], rows
    clock.advance(-60 * DAY)
    with pytest.raises(ClockSkew):
        ledger.consume(ledger.issue_key("late", "p").secret)


def test_what_still_matters_is_never_pruned(admin, store, clock):
    """A yearly window outlives its quiet months while others are pruned around it."""
    ledger, key, secret = ledger_with(store, clock, "10/year")
    assert ledger.consume(secret, 7)
    ledger.add_plan(UsagePlan("q", "10/minute"))
    for number in range(12):
        clock.advance(20 * DAY)
        assert ledger.consume(ledger.issue_key(f"k{number}", "q").secret)
    assert used(ledger, secret) == 7


# The schema


def test_ten_processes_make_the_schema_at_once(server):
    """Whoever is first makes it, the others wait for it, and all go on."""
    name = namespace()
    barrier = threading.Barrier(10)

    def work(number):
        store = PostgresStore(server.url, namespace=name)
        barrier.wait()
        ledger = Ledger(store)
        ledger.add_plan(UsagePlan("p", "1000/day"))
        assert ledger.consume(ledger.issue_key(f"k{number}", "p").secret)
        ledger.close()

    run_threads([lambda number=number: work(number) for number in range(10)])
    ledger = Ledger(PostgresStore(server.url, namespace=name))
    assert len(ledger.list_keys()) == 10
    ledger.close()


def test_a_newer_schema_is_refused_by_name(admin, server, store, clock):
    """What a later version made is neither misread nor migrated back: the error names both versions."""
    ledger, key, secret = ledger_with(store, clock)
    admin.execute(f"update {store.namespace}.directory set value = '7' where part = 'stamps' and name = '#'")
    other = PostgresStore(server.url, namespace=store.namespace)
    for call in (other.list_keys, other.migrate, lambda: Ledger(other, clock=clock).consume(secret)):
        with pytest.raises(StoreUnavailable, match=r"version 7.*knows 1"):
            call()
    other.close()


def test_migrating_twice_keeps_everything(store, clock):
    """migrate() says the version, changes nothing that is there, and brings an older schema up to date."""
    ledger, key, secret = ledger_with(store, clock)
    ledger.consume(secret)
    assert (store.migrate(), store.migrate()) == (1, 1)
    assert ledger.consume(secret).limits[0].used == 2


def test_a_role_that_may_only_use_the_tables_is_enough(admin, server, store, clock):
    """Once an owner has migrated, a role without the right to create anything serves calls."""
    ledger, key, secret = ledger_with(store, clock)
    admin.execute(f"""create role app_{store.namespace} login; grant usage on schema {store.namespace} to app_{store.namespace};
        grant select, insert, update, delete on all tables in schema {store.namespace} to app_{store.namespace}""")
    other = PostgresStore(server.url.replace("quota@", f"app_{store.namespace}@"), namespace=store.namespace)
    assert Ledger(other, clock=clock).consume(secret).limits[0].used == 1
    other.close()
    admin.execute(f"revoke update on all tables in schema {store.namespace} from app_{store.namespace}")
    with pytest.raises(StoreUnavailable, match=r"permission denied.*nothing was charged"):
        Ledger(other, clock=clock).consume(secret)
    other.close()


def test_a_database_that_is_not_utf8_is_refused(admin, server):
    """Names in any script need UTF8: another encoding is named, and nothing is made."""
    admin.execute("create database latin encoding 'LATIN1' template template0")
    store = PostgresStore(server.url.replace("/postgres", "/latin"))
    with pytest.raises(StoreUnavailable, match="LATIN1.*UTF8"):
        store.list_keys()
    store.close()


def test_any_isolation_level_will_do(server, clock):
    """Where the database defaults to stricter isolation, conflicts are retried: receipts tile and the total is exact."""
    url = f"{server.url}?options=-c%20default_transaction_isolation%3Dserializable"
    store = PostgresStore(url, namespace=namespace())
    ledger, key, secret = ledger_with(store, clock, "1000000/day, 1000000/year by account")
    ledger.issue_key("second", "p", account="k")
    receipts = []

    def work():
        for _ in range(12):
            invoked = time.monotonic()
            decision = ledger.consume(secret, 2)
            receipts.append(Receipt(invoked, time.monotonic(), 2, decision.limits[0].used))

    run_threads([work] * 4)
    assert check_receipts(receipts) == 4 * 12 * 2 == used(ledger, secret)
    store.close()


def test_the_command_line_migrates_checks_and_serves(admin, server, monkeypatch, capsys):
    """quota store migrate makes the schema; keys are issued on it; check finds what does not fit; a newer one is refused."""
    name = namespace()
    monkeypatch.setenv("QUOTA_STORE", f"{server.url}?namespace={name}")

    def quota(*arguments):
        status = main(list(arguments))
        said = capsys.readouterr()
        return status, said.out + said.err

    assert quota("store", "migrate", "--json")[1].split() == ["{", '"migrated":', "true,", '"version":', "1", "}"]
    assert quota("plan", "add", "p", "5/day")[0] == 0
    assert quota("key", "issue", "k", "--plan", "p")[0] == 0
    assert quota("store", "check") == (0, "1 plans, 1 keys: all is well\n")
    admin.execute(f"delete from {name}.directory where part = 'keys'")
    status, said = quota("store", "check")
    assert (status, "which is no key" in said) == (3, True), said
    admin.execute(f"update {name}.directory set value = '9' where part = 'stamps' and name = '#'")
    status, said = quota("store", "migrate")
    assert (status, "version 9" in said) == (3, True), said


# How it is opened


def test_a_url_gives_its_options_to_the_store_and_the_rest_to_the_driver(server):
    """namespace, timeout, connections and the common options are the store's; the rest is libpq's; others are refused."""
    name = namespace()
    ledger = Ledger(
        f"{server.url}?namespace={name}&timeout=3&max_skew=60&request_ttl=10&retention=2&connections=4"
        "&application_name=a%20b"
    )
    store = ledger.store
    assert (store.namespace, store.timeout, store.terms.max_skew, store.terms.retention) == (name, 3, 60_000_000, 2)
    assert store.exact_across_failover
    assert ledger.list_keys() == []
    with server.connect() as admin:
        assert admin.execute("select count(*) from pg_stat_activity where application_name = 'a b'").fetchone()[0] == 1
    ledger.close()
    ledger.close()
    for query in ("timeout=x", "check_clock=maybe", "namespace=", "namespace=A", "namespace=pg_x", "namespace=a%3Bb",
                  "timeout=0", "nonsense=1", "connections=0"):  # fmt: skip
        with pytest.raises(InvalidValue):
            Ledger(f"{server.url}?{query}")
    with pytest.raises(InvalidValue) as caught:
        Ledger("postgresql://user:hunter2@host/db?nonsense=1")
    assert "hunter2" not in str(caught.value)
    Ledger("postgres:///here?namespace=x").close()


def test_a_pool_of_the_callers_is_used_and_stays_open(server, clock):
    """psycopg_pool's pools, whether their connections commit by themselves or not, and no matter how they prepare."""
    for kind, options in ((ConnectionPool, {}), (ConnectionPool, {"autocommit": True, "prepare_threshold": 0}),
                          (NullConnectionPool, {})):  # fmt: skip
        size = {"min_size": 1, "max_size": 2} if kind is ConnectionPool else {"max_size": 2}
        with kind(server.url, kwargs=options, open=True, **size) as pool:
            ledger, key, secret = ledger_with(PostgresStore(pool, namespace=namespace()), clock)
            for number in range(1, 4):
                assert ledger.consume(secret).limits[0].used == number
            ledger.close()
            with pool.connection() as connection:
                assert connection.execute("select 1").fetchone() == (1,)


def test_a_pool_without_a_free_connection_is_busy(server, clock):
    """Bounds on connections, the caller's pool's and the store's own, are an error of their own: nothing was charged."""
    with ConnectionPool(server.url, min_size=1, max_size=1, open=True) as pool:
        ledger = Ledger(PostgresStore(pool, namespace=namespace(), timeout=1), clock=clock)
        with pool.connection(), pytest.raises(StoreBusy, match="nothing was charged"):
            ledger.list_keys()
    store = PostgresStore(server.url, namespace=namespace(), timeout=1, connections=1)
    store._connections.take("a call", time.monotonic() + 1)
    with pytest.raises(StoreBusy, match="nothing was charged"):
        store.list_keys()
    store._connections.give("a call")
    assert store.list_keys() == []
    store.close()


def test_a_connection_in_another_encoding_is_refused(server, clock):
    """A pool whose sessions speak LATIN1 would garble names: it is told so."""
    with ConnectionPool(server.url, kwargs={"client_encoding": "latin1"}, min_size=1, open=True) as pool:
        with pytest.raises(StoreUnavailable, match=r"client_encoding.*UTF8.*nothing"):
            Ledger(PostgresStore(pool, namespace=namespace()), clock=clock).list_keys()


def test_namespaces_share_a_database(store, server, clock):
    """Two ledgers of two namespaces know nothing of each other."""
    one, key, secret = ledger_with(store, clock)
    other = PostgresStore(server.url, namespace=namespace())
    ledger_with(other, clock)
    assert one.consume(secret)
    assert Ledger(other, clock=clock).consume(secret).reason.value == "UNKNOWN_KEY"
    other.close()


def test_secrets_are_not_stored(admin, store, clock):
    """What is in the database holds digests, never a secret."""
    ledger, key, secret = ledger_with(store, clock)
    ledger.consume(secret, request_id="x")
    stored = ""
    for table in ("directory", "records", "bodies", "memos"):
        stored += str(admin.execute(f"select t::text from {store.namespace}.{table} t").fetchall())
    assert secret not in stored
    assert secret[3:20] not in stored
    assert "k" in stored

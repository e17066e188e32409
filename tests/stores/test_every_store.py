"""What holds whatever the store is: in memory, on a file, on a server, called or awaited, behind leases where they fit."""

import itertools
import pickle
import time
from datetime import date, datetime, timezone
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import run_state_machine_as_test

from every_store import ALL, EXACT, SERVERS, SYNC, run_threads, used
from quota import (
    ClockSkew,
    InvalidValue,
    Ledger,
    ManualClock,
    PlanConflict,
    RequestMismatch,
    Throttle,
    UnknownKey,
    UnknownPlan,
    UsagePlan,
)
from quota.stores.memory import MemoryStore
from quota.testing import Machine
from receipts import Receipt, check_receipts
from remote import Calls

START = 1_773_144_000_000_000  # 2026-03-10 12:00 UTC
DAY = 86_400_000_000


def over(*kinds):
    """The test once for each of these kinds of store."""
    return pytest.mark.parametrize("stores", kinds, indirect=True)


# The contract


def machine_over(stores):
    """The conformance machine; a store that is called is closed and opened again now and then."""

    class Tried(Machine):
        open = staticmethod(stores.open)
        reopen = None if stores.awaited or stores.leased else staticmethod(stores.reopened)

        def _ledger(self, store):
            return stores.over(store, clock=self.clock)

    return Tried


HISTORIES = {
    "sqlite": (10, 30, 500), "redis": (10, 30, 300), "postgres": (5, 30, 300),
    "awaited sqlite": (5, 25, 100), "awaited redis": (5, 25, 100), "awaited postgres": (4, 25, 100),
}  # fmt: skip
"""How many, of how many steps; how many at length. In memory: ``ledger/test_machine.py``."""


@pytest.mark.spread(1)
@over(*HISTORIES)
def test_the_conformance_machine(stores):
    """Every history agrees with the model."""
    many, steps, _ = HISTORIES[stores.kind]
    run_state_machine_as_test(machine_over(stores), settings=settings(max_examples=many, stateful_step_count=steps))


@pytest.mark.slow
@over(*HISTORIES)
def test_the_conformance_machine_at_length(stores):
    """Many long histories."""
    many, steps = HISTORIES[stores.kind][2], 40 if stores.awaited else 60
    run_state_machine_as_test(machine_over(stores), settings=settings(max_examples=many, stateful_step_count=steps))


def stream(ledger, clock):
    """What a ledger answers to the same calls by the same clock."""

    def told(call):
        try:
            decision = call()
        except RequestMismatch as error:
            return str(error)
        return repr(decision), decision.retry_at, decision.crossed, decision.replayed, decision.headers()

    limits = "30/hour, 40 tokens/day, 5/s burst 9, 4 tokens/minute burst 20 as pace"
    ledger.add_plan(UsagePlan("p", limits, routes={"r": "9/day"}))
    _, secret = ledger.issue_key("k", "p")
    found = []
    for step, op, cost, route, request_id in Calls(7):
        clock.advance(step)
        if op == "reserve":
            found.append(told(lambda: ledger.reserve(secret, cost, ttl=5_000_000, route=route).decision))
        else:
            found.append(told(lambda: getattr(ledger, op)(secret, cost, route=route, request_id=request_id)))
    return found


@over(*EXACT[1:])
def test_stores_decide_equally(stores):
    """Equal inputs give the stream of decisions that a ledger in memory gives."""
    told = []
    for ledger in (Ledger, stores.ledger):
        clock = ManualClock(START)
        told.append(stream(ledger(clock=clock), clock))
    assert told[0] == told[1]
    assert len({entry[0] for entry in told[0]}) > 50


@pytest.mark.parametrize("own", [False, True], ids=["plan's limits", "own limits"])
@pytest.mark.parametrize("accounts", [1, 2])
@over(*SERVERS)
def test_a_fresh_decision_takes_one_round_trip(stores, clock, accounts, own, monkeypatch):
    """Whatever is asked of a key and plan that have not changed, one call is sent, with one account record or two."""
    store, sent = stores.open(), []
    exchange = type(store)._exchange
    monkeypatch.setattr(type(store), "_exchange", lambda self, *args: (sent.append(args), exchange(self, *args))[1])
    limits = "1000000/day, 2000000/month by account, 50000 tokens/day, 1000000/s"
    ledger = stores.over(store, clock=clock)
    ledger.add_plan(UsagePlan("p", limits, routes={"r": "500000/day"}))
    for number in range(accounts):
        key, secret = ledger.issue_key(f"k{number}", "p", account="team")
    if own:
        ledger.override_limit(key, "requests/day", 900_000, until=datetime(2026, 4, 30, tzinfo=timezone.utc))
        ledger.override_limit("team", "requests/month", 1_500_000)
    calls = {
        "plain": lambda: ledger.consume(secret),
        "cost": lambda: ledger.consume(secret, 3),
        "units": lambda: ledger.consume(secret, {"requests": 1, "tokens": 5}),
        "route": lambda: ledger.consume(secret, route="r"),
        "refused": lambda: ledger.consume(secret, 10**9),
        "request_id": lambda: ledger.consume(secret, request_id=f"id{time.monotonic_ns()}"),
        "replay": lambda: ledger.consume(secret, request_id="again"),
        "peek": lambda: ledger.peek(secret),
        "key": lambda: ledger.consume(key),
        "unknown": lambda: ledger.consume("nobody knows this secret"),
    }
    for name, call in calls.items():
        for _ in range(2):
            call()
        clock.advance(61_000_000)  # a new minute is no reason for a second trip
        sent.clear()
        call()
        assert (name, len(sent)) == (name, 1)


@over(*SERVERS)
def test_a_threshold_costs_the_one_call_that_crosses_it(stores, clock, monkeypatch):
    """A second round trip, twice in a window; the calls before and after it take one, and so does a refusal."""
    store, sent = stores.open(), []
    exchange = type(store)._exchange
    monkeypatch.setattr(type(store), "_exchange", lambda self, *args: (sent.append(args), exchange(self, *args))[1])
    ledger = stores.over(store, clock=clock)
    ledger.add_plan(UsagePlan("p", "10/day"))
    key, secret = ledger.issue_key("k", "p")
    trips = []
    for _ in range(11):
        sent.clear()
        ledger.consume(secret)
        trips.append(len(sent))
    assert trips[1:] == [1, 1, 1, 1, 1, 1, 2, 1, 2, 1]
    assert [event.percent for event in ledger.events() if event.kind == "limit.crossed"] == [80, 100]


# Freshness


@over(*EXACT)
def test_what_another_process_changes_binds_on_the_next_call(stores, clock):
    """Disabling, rotation, another plan, a replaced plan, dissociation and removal are seen at once elsewhere."""
    here, key, secret = stores.with_key(clock)
    there = stores.ledger(clock, here)
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


@over(*EXACT)
def test_what_another_process_counts_is_seen_on_the_next_call(stores, clock):
    """Charges by turns, by secret and by key, in two processes' copies: each sees all before it."""
    here, key, secret = stores.with_key(clock, "1000/day, 500/s burst 300")
    there = stores.ledger(clock, here)
    for number in range(0, 60, 4):
        assert here.consume(secret).limits[0].used == number + 1
        assert there.consume(secret).limits[0].used == number + 2
        assert there.consume(key).limits[0].used == number + 3
        assert here.consume(key).limits[1].used == number + 4


@over(*ALL)
def test_a_key_removed_and_made_again_starts_anew_elsewhere(stores, clock):
    """Neither its counts nor its remembered requests come back, though another process had it in its copies."""
    here, _, secret = stores.with_key(clock)
    there = stores.ledger(clock, here)
    there.consume(secret, 5, request_id="once")
    here.remove_key("k")
    here.import_key(secret, "k", "p", id="k")
    assert there.consume(secret, 5, request_id="once").limits[0].used == 5
    assert not there.consume(secret, 6)


@over(*ALL)
def test_a_second_key_takes_the_accounts_count_along(stores, clock):
    """What the first key used is the account's from the moment that a second one joins, in every process."""
    here, key, secret = stores.with_key(clock, "10/day, 20/day by account as team")
    there = stores.ledger(clock, here)
    assert there.consume(secret, 4)
    _, other = here.issue_key("second", "p", account="k")
    assert [s.used for s in there.consume(other).limits] == [1, 5]
    assert [s.used for s in there.consume(secret).limits] == [5, 6]
    here.remove_key(key)
    assert [s.used for s in there.consume(other).limits] == [2, 7]


@over(*ALL)
def test_a_second_key_splits_an_account_elsewhere_too(stores, clock):
    """A copy of the account's only key sees that it is shared from the next call on."""
    here = stores.ledger(clock)
    here.add_plan(UsagePlan("p", "10/day by account, 100/month"))
    first, secret = here.issue_key("first", "p", account="team")
    there = stores.ledger(clock, here)
    for _ in range(3):
        there.consume(secret)
    _, other = here.issue_key("second", "p", account="team")
    assert here.consume(other, 4).limits[0].used == 7
    assert there.consume(secret, 3).limits[0].used == 10
    assert not there.consume(secret)
    here.remove_key(first)
    assert here.peek(other).limits[0].used == 10


# The directory


@pytest.mark.parametrize("called", [0, 1], ids=["never called", "called"])
@over(*ALL)
def test_a_plan_removed_and_added_again_has_no_keys(stores, clock, called):
    """Removing a plan ends its associations for good, though keys are never looked through."""
    ledger, key, secret = stores.with_key(clock)
    for _ in range(called):
        ledger.consume(secret)
    ledger.remove_plan("p")
    assert ledger.consume(secret).reason.value == "NO_PLAN"
    ledger.add_plan(UsagePlan("p", "10/day"))
    assert ledger.consume(secret).reason.value == "NO_PLAN"
    assert ledger.list_plans(key.id) == []
    with pytest.raises(PlanConflict):
        ledger.dissociate(key, "p")
    ledger.associate(key, "p")
    assert ledger.consume(secret).limits[0].used == 1 + called


@over(*ALL)
def test_a_plan_is_replaced_and_removed_if_it_is_what_was_expected(stores, clock):
    """Another by now, it stays as it is, with its keys; gone, it is unknown."""
    ledger, key, secret = stores.with_key(clock)
    old, new = ledger.get_plan("p"), UsagePlan("p", "11/day")
    ledger.replace_plan(new)
    for change in (
        lambda: ledger.replace_plan(UsagePlan("p", "12/day"), expected=old),
        lambda: ledger.remove_plan("p", expected=old),
    ):
        with pytest.raises(PlanConflict, match="changed meanwhile"):
            change()
    assert ledger.list_plans(key) == [new]
    assert ledger.consume(secret)
    ledger.remove_plan(new, expected=new)
    assert ledger.list_plans() == []
    for change in (lambda: ledger.replace_plan(old, expected=new), lambda: ledger.remove_plan("p", expected=new)):
        with pytest.raises(UnknownPlan):
            change()
    with pytest.raises(InvalidValue):
        ledger.remove_plan("p", expected="p")


@over(*ALL)
def test_a_plan_that_changes_its_api_takes_its_keys_along(stores, clock):
    """Refused where a key has another plan for the new api, and not where that plan is gone."""
    ledger, key, secret = stores.with_key(clock)
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


@over(*ALL)
def test_the_directory_says_what_it_cannot_do(stores, clock):
    """Unknown keys and plans, taken ids and secrets, conflicting plans; and nothing of it changed anything."""
    ledger, key, secret = stores.with_key(clock)
    ledger.add_plan(UsagePlan("p", "10/day"))
    for error, call in (
        (PlanConflict, lambda: ledger.add_plan(UsagePlan("p", "11/day"))),
        (PlanConflict, lambda: ledger.issue_key("again", id="k")),
        (PlanConflict, lambda: ledger.import_key(secret, "thief")),
        (UnknownPlan, lambda: ledger.issue_key("lost", "nowhere")),
        (UnknownPlan, lambda: ledger.get_plan("nowhere")),
        (UnknownPlan, lambda: ledger.remove_plan("nowhere")),
        (UnknownPlan, lambda: ledger.associate(key, "nowhere")),
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
    assert ledger.list_keys() == [key]
    assert [plan.id for plan in ledger.list_plans()] == ["p"]
    ledger.dissociate(key, "p")
    with pytest.raises(PlanConflict):
        ledger.dissociate(key, "p")
    assert ledger.list_keys() == [key]
    assert ledger.list_plans() == [ledger.get_plan("p")] == [UsagePlan("p", "10/day")]
    if stores.kind in ("sqlite", "postgres"):
        assert ledger.store.check() == []


NAMES = {
    "quotes": (UsagePlan("план \U0001f600", "10/day", api="日本", routes={'a"b\\c': "5/day"}), "ключ", 'clé: {1,"2\\"}', {"ü": "ß"}, "é:1"),
    "braces": (UsagePlan("план \U0001f600", "10/day", api="日本", routes={'a"b\\c': "5/day"}), "ключ", "clé: {1}", {"ü": "ß"}, "é:1"),
    "SQL": (UsagePlan("Tarif Ω/1", "5/day as été", api="ünï", routes={"/p/{ø}": "3/day"}), "Zoë 'x'; DROP TABLE keys", "ключ", {"ш": "✓ \U0001f511"}, "'"),
}  # fmt: skip


@pytest.mark.parametrize("names", NAMES)
@over(*ALL)
def test_names_of_any_script_survive(stores, clock, names):
    """Ids, names, metadata, routes, apis and request ids in any script, with quotes, come back as they went."""
    plan, name, id_, metadata, request_id = NAMES[names]
    ledger = stores.ledger(clock)
    ledger.add_plan(plan)
    key, secret = ledger.issue_key(name, plan, id=id_, metadata=metadata)
    again = stores.ledger(clock, ledger)
    for mine in (ledger, again):
        assert (mine.get_key(key), mine.get_plan(plan)) == (key, plan)
        assert (mine.list_keys(), mine.list_plans(key)) == ([key], [plan])
    ledger.issue_key("second", plan, account=key.account)
    where = {"api": plan.api, "route": next(iter(plan.routes))}
    first, second = (mine.consume(secret, request_id=request_id, **where) for mine in (ledger, again))
    assert (first.allowed, first.limits[1].used) == (True, 1)
    assert (second.id, second.replayed) == (first.id, True)
    assert [status.used for status in again.consume(secret, **where).limits] == [2, 2]


@over(*SYNC[1:])
def test_secrets_are_not_stored(stores, clock, request):
    """What is in a store holds digests, never a secret, presented or issued."""
    ledger, _, secret = stores.with_key(clock)
    ledger.consume(secret, request_id="x")
    store = ledger.store
    if stores.kind == "sqlite":
        held = b"".join(Path(store.path + end).read_bytes() for end in ("", "-wal"))
        assert b'"digest' in held or b"digests" in held
    elif stores.kind == "redis":
        with request.getfixturevalue("valkey").client() as client:
            held = b"".join(client.dump(name) for name in client.keys(f"{{{store.namespace}}}:*"))
    else:
        with request.getfixturevalue("postgres").connect() as admin:
            tables = ("directory", "records", "bodies", "remembered")
            held = str(
                [admin.execute(f"select t::text from {store.namespace}.{t} t").fetchall() for t in tables]
            ).encode()
    assert b"k" in held
    for part in (secret, secret[3:20], secret[-20:]):
        assert part.encode() not in held


@over(*SERVERS)
def test_namespaces_share_a_server(stores, clock):
    """Two ledgers of two namespaces know nothing of each other."""
    one, _, secret = stores.with_key(clock)
    other, _, _ = stores.with_key(clock)
    assert one.consume(secret)
    assert other.consume(secret).reason.value == "UNKNOWN_KEY"


# Exactly once


@over(*ALL)
def test_a_request_id_counts_once(stores, clock):
    """A retry gets the first answer, in this process and another, on the lane and off it, and is not charged."""
    ledger, _, secret = stores.with_key(clock, "10/day, 5/s burst 20")
    there = stores.ledger(clock, ledger)
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


@over(*ALL)
def test_a_request_id_is_another_call_s_after_its_time(stores, clock):
    """In any process; with other parameters or refunded it is a mismatch until then."""
    here, _, secret = stores.with_key(clock)
    there = stores.ledger(clock, here)
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


@over(*ALL)
def test_a_request_id_ends_with_its_key_and_its_ttl(stores, clock):
    """A forgotten key's requests are forgotten, and a day later the id may be used again."""
    ledger, key, secret = stores.with_key(clock)
    first = ledger.consume(secret, request_id="x")
    ledger.forget(key)
    second = ledger.consume(secret, request_id="x")
    clock.advance(DAY)
    third = ledger.consume(secret, request_id="x")
    assert [d.replayed for d in (first, second, third)] == [False] * 3


@over(*SYNC)
def test_a_request_id_sent_by_many_at_once_counts_once(stores, clock):
    """Eight threads send the same request ids at the same time: each is charged once."""
    ledger, _, secret = stores.with_key(clock, "1000000/day, 1000000/year by account")
    ledger.consume(secret)
    replayed = []

    def work(mine):
        replayed.extend(mine.consume(secret, 3, request_id=f"id{number}").replayed for number in range(15))

    run_threads([lambda mine=stores.ledger(clock, ledger): work(mine) for _ in range(8)])
    assert (replayed.count(False), used(ledger, secret)) == (15, 1 + 15 * 3)


@pytest.mark.parametrize(("part", "given_back"), [((2,), 2), ((), 3)], ids=["a part", "whole"])
@over(*ALL)
def test_a_decision_survives_a_pickle_and_is_refunded_once(stores, clock, part, given_back):
    """Made by a lane, a script or a function it is a whole decision: told in full, with one id."""
    ledger, _, secret = stores.with_key(clock)
    ledger.consume(secret)
    decision = ledger.consume(secret, 3)
    assert decision.id == decision.id
    twin = pickle.loads(pickle.dumps(decision))
    assert (twin.id, twin.limits, twin.cost) == (decision.id, decision.limits, 3)
    assert ledger.refund(twin, *part) == given_back
    assert ledger.refund(decision) == 0
    assert used(ledger, secret) == 4 - given_back


# Numbers


@over("sqlite", "redis", "postgres")
def test_numbers_up_to_2_53_are_exact(stores):
    """Any costs, limits and rates, held and recorded above the hold: decided as in memory, to the last unit."""

    @settings(max_examples={"redis": 60}.get(stores.kind, 15))
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
    def agree(limits, calls):
        clock = ManualClock(START)
        ledgers = [Ledger(MemoryStore(), clock=clock), stores.ledger(clock)]
        secrets = []
        for ledger in ledgers:
            ledger.add_plan(UsagePlan("p", limits))
            secrets.append(ledger.issue_key("k", "p", id="k").secret)
        for cost, step, record in calls:
            clock.advance(step)
            told = []
            for ledger, secret in zip(ledgers, secrets, strict=True):
                told.append([])
                try:
                    decision = ledger.consume(secret, cost)
                    told[-1].append((repr(decision), decision.retry_at, decision.limits, decision.crossed))
                    if record and (held := ledger.reserve(secret, 1, ttl=1_000_000)):
                        told[-1].append((repr(held.commit(cost)), ledger.peek(secret).limits))
                except ClockSkew as error:
                    told[-1].append(str(error))
            assert told[0] == told[1]
        ledgers[1].close()

    agree()


@pytest.mark.parametrize(
    ("limits", "cost", "calls"),
    [
        (f"{2**53 - 1}/year", 2**53 - 1, [True, False]),
        (f"{2**53 - 1}/day, {2**53 - 1}/month", 2**52, [True, False]),
        (Throttle("1/3", burst=10**8), 10**8, [True, False]),
    ],
    ids=["year", "day and month", "throttle"],
)
@over(*EXACT)
def test_the_largest_numbers_are_exact(stores, clock, limits, cost, calls):
    """The largest limits, costs and levels there can be; a commit may pass them all."""
    ledger, _, secret = stores.with_key(clock, limits)
    hold = ledger.reserve(secret, 1, ttl=10)
    hold.cancel()
    clock.advance(4_000_000)
    assert [bool(ledger.consume(secret, cost)) for _ in calls] == calls
    clock.advance(400 * DAY)
    hold = ledger.reserve(secret, 1, ttl=1000)
    hold.commit(2**53 - 1)
    assert stores.ledger(clock, ledger).peek(secret).limits[0].used >= 2**53 - 1


@over(*EXACT)
def test_levels_beyond_64_bits_are_kept(stores, clock):
    """A commit may pour more into a bucket than the integers of SQLite and PostgreSQL hold."""
    ledger, _, secret = stores.with_key(clock, Throttle("1/7", "day", burst=1000))
    ledger.reserve(secret, 1, ttl=1000).commit(2**53 - 1)
    clock.advance(1)
    here = ledger.peek(secret).limits
    assert stores.ledger(clock, ledger).peek(secret).limits == here
    assert here[0].used == 2**53 - 1


@over(*EXACT[1:])
def test_levels_beyond_2_53_are_exact(stores, clock):
    """A commit far above its hold fills a bucket beyond what a double holds: decided as in memory."""
    told = []
    for ledger in (Ledger(clock=clock), stores.ledger(clock)):
        clock.set(START)
        ledger.add_plan(UsagePlan("p", "1000/day, 9007199254740991 tokens/day, 1000/3 tokens/minute burst 40"))
        secret = ledger.issue_key("k", "p", id="k").secret
        found = []
        for _ in range(3):
            found.append(repr(ledger.reserve(secret, 1, ttl=10**6).commit({"requests": 1, "tokens": 2**52 - 7})))
            clock.advance(333_333)
            for cost in (1, {"tokens": 1}, 1):
                decision = ledger.consume(secret, cost)
                found.append((repr(decision), decision.retry_at, decision.limits))
        told.append(found)
    assert told[0] == told[1]


# Many at once


@over(*SYNC)
def test_threads_share_one_store(stores, clock):
    """Eight threads over one store and its connections: receipts tile."""
    ledger, _, secret = stores.with_key(clock, "1000000/day")
    receipts = []

    def work():
        for _ in range(40):
            invoked = time.monotonic()
            decision = ledger.consume(secret, 2)
            receipts.append(Receipt(invoked, time.monotonic(), 2, decision.limits[0].used))

    run_threads([work] * 8)
    assert check_receipts(receipts) == 8 * 40 * 2 == used(ledger, secret)


@over(*SYNC)
def test_writers_in_the_way_of_each_other_all_finish(stores, clock):
    """Reservations, refunds and plain calls on one key from several stores: none is busy, the total is exact."""
    ledger, _, secret = stores.with_key(clock, "1000000/day")
    ids = itertools.count()

    def work(mine, number):
        for _ in range(15):
            if number % 3 == 0:
                mine.reserve(secret, 5, ttl=60_000_000).commit(2)
            elif number % 3 == 1:
                mine.refund(mine.consume(secret, 3), 1)
            else:
                mine.consume(secret, 1, request_id=f"{number} {next(ids)}")

    run_threads([lambda mine=stores.ledger(clock, ledger), n=n: work(mine, n) for n in range(6)])
    assert used(ledger, secret) == 2 * 15 * 2 + 2 * 15 * 2 + 2 * 15


# Clocks


@over(*SERVERS)
def test_a_system_clock_is_compared_with_the_servers(stores, monkeypatch):
    """A wall clock further off than max_skew is an error in either direction, before anything is written."""
    ledger = stores.over(stores.open())
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


@over(*SERVERS)
def test_a_clock_of_the_callers_is_compared_only_when_asked(stores, clock):
    """Simulated time is not held against the server's unless check_clock says so."""
    ledger, _, secret = stores.with_key(clock)
    assert ledger.consume(secret)
    with pytest.raises(ClockSkew):
        stores.ledger(ManualClock(START), ledger, check_clock=True).consume(secret)


@pytest.mark.parametrize("to", [START + 3_600_000_000, START - 3_600_000_000, 0, 4_070_908_800_000_000])
@over(*ALL)
def test_a_clock_that_steps_grants_nothing(stores, clock, to):
    """After steps of an hour, to 1970 and to 2099 and back, no window was granted twice; the repair is forget."""
    ledger, key, secret = stores.with_key(clock, "3/day")
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


# What is kept, and for how long


@over(*ALL)
def test_what_still_matters_is_never_pruned(stores, clock):
    """A yearly window outlives its quiet months while others are pruned around it."""
    ledger, _, secret = stores.with_key(clock, "10/year")
    assert ledger.consume(secret, 7)
    ledger.add_plan(UsagePlan("q", "10/minute"))
    for number in range(12):
        clock.advance(20 * DAY)
        assert ledger.consume(ledger.issue_key(f"k{number}", "q").secret)
    assert used(ledger, secret) == 7


@over(*EXACT)
def test_history_is_kept_as_long_as_it_was_asked_for(stores, clock):
    """Days older than the retention go, the others are told."""
    ledger = stores.ledger(clock, retention=5)
    ledger.add_plan(UsagePlan("p", "100/day"))
    key, secret = ledger.issue_key("k", "p")
    for number in range(20):
        ledger.consume(secret, number + 1)
        clock.advance(DAY)
    told = ledger.usage(key)
    assert [record.used for record in told] == [16, 17, 18, 19, 20, 0]
    assert told[0].day == date(2026, 3, 25)


@over(*ALL)
def test_routes_of_many_names(stores):
    """``ANY`` and ``/*`` are one limit on every store, asked again and again, and the decision names it."""
    routes, costs = {"ANY /files/*": "7/day as files"}, {"GET /export": 3}
    ledger, _, secret = stores.with_key(ManualClock(START), "99/day", routes=routes, costs=costs)
    found = [ledger.consume(secret, route=f"{'GET' if n % 2 else 'PUT'} /files/{n % 3}") for n in range(12)]
    assert sum(map(bool, found)) == 7
    assert {decision.route for decision in found if decision} == {"ANY /files/*"}
    assert found[-1].violated == ("files",) and found[-1].route == "ANY /files/*"
    assert [ledger.consume(secret, route="GET /export").route for _ in range(4)] == ["GET /export"] * 4
    assert [ledger.consume(secret, route="GET /none").route for _ in range(2)] == [None, None]
    first, again = [ledger.consume(secret, route="GET /export", request_id="one") for _ in range(2)]
    assert (first.route, again.route, again.replayed) == ("GET /export", "GET /export", True)
    held = ledger.reserve(secret, 1, ttl=10**9, route="GET /export")
    assert held.decision.route == held.commit().route == "GET /export"

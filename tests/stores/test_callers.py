"""Callers without a key: counted by the same rule under a plan, in no directory, forgotten when their windows are over."""

import pickle
import threading
from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from every_store import ALL, EXACT, run_threads
from interleavings import plant
from quota import Caller, InvalidValue, Ledger, ManualClock, Reason, UnknownKey, UsagePlan
from quota.stores.memory import MemoryStore
from quota.stores.memory.callers import Callers
from remote import Calls

START = 1_773_144_000_000_000  # 2026-03-10 12:00 UTC
HOUR, DAY = 3_600_000_000, 86_400_000_000
ADDRESS = "203.0.113.7"


def over(*kinds):
    """The test once for each of these kinds of store."""
    return pytest.mark.parametrize("stores", kinds, indirect=True)


def with_plan(stores, clock, limits="3/day", **options):
    """A ledger with a plan for callers."""
    ledger = stores.ledger(clock, **options)
    ledger.add_plan(UsagePlan("free", limits))
    return ledger


@over(*ALL)
def test_each_caller_has_a_count_of_its_own(stores, clock):
    """Three a day for one address, three for another, none more, and no key is told."""
    ledger = with_plan(stores, clock)
    one, other = Caller("free", ADDRESS), Caller("free", "203.0.113.8")
    found = [ledger.consume(one) for _ in range(4)]
    assert [decision.allowed for decision in found] == [True, True, True, False]
    assert {decision.key for decision in found} == {None}
    assert {decision.plan.id for decision in found} == {"free"}
    assert (found[3].reason, found[3].violated, found[3].status) == (Reason.QUOTA_EXCEEDED, ("requests/day",), 429)
    assert found[3].retry_at.isoformat() == "2026-03-11T00:00:00+00:00"
    assert ledger.consume(other).limits[0].used == 1
    assert ledger.peek(other).limits[0].used == 2
    assert ledger.peek(other).limits[0].used == 2
    assert found[3].to_dict()["key"] is None


@over(*ALL)
def test_there_is_no_entry_in_the_directory(stores, clock):
    """A caller is no key: not listed, not found by its id, and a key with such a name is another."""
    ledger = with_plan(stores, clock)
    caller = Caller("free", ADDRESS)
    ledger.consume(caller)
    assert ledger.list_keys() == []
    with pytest.raises(UnknownKey):
        ledger.get_key(ADDRESS)
    _, secret = ledger.issue_key(ADDRESS, "free", id=ADDRESS)
    assert ledger.consume(secret).limits[0].used == 1
    assert ledger.consume(caller).limits[0].used == 2
    assert [key.id for key in ledger.list_keys()] == [ADDRESS]


@over(*EXACT)
def test_callers_are_decided_as_keys_are(stores):
    """The same calls, by the same clock, get a caller the decisions that they get a key: one rule."""
    limits = "30/hour, 40 tokens/day, 5/s burst 9, 4 tokens/minute burst 20 as pace"

    def stream(ledger, clock, who):
        found = []
        for step, op, cost, route, _ in Calls(11):
            clock.advance(step)
            if op == "reserve":
                held = ledger.reserve(who, cost, ttl=5_000_000, route=route)
                found.append(repr(held.decision))
                if held:
                    found.append(repr(held.commit()))
            else:
                decision = getattr(ledger, op)(who, cost, route=route)
                found.append((repr(decision), decision.retry_at, decision.headers()))
        return found

    def plan(ledger):
        ledger.add_plan(UsagePlan("free", limits, routes={"r": "9/day"}))
        return ledger

    clock = ManualClock(START)
    ledger = plan(Ledger(clock=clock))
    expected = stream(ledger, clock, ledger.issue_key("k", "free").secret)
    clock = ManualClock(START)
    assert stream(plan(stores.ledger(clock)), clock, Caller("free", ADDRESS)) == expected
    assert len({str(entry) for entry in expected}) > 50


@over(*ALL)
def test_what_is_taken_can_be_given_back(stores, clock):
    """Refunds once, holds that are committed or cancelled, retries by request_id."""
    ledger = with_plan(stores, clock, "10/day")
    caller = Caller("free", ADDRESS)
    decision = ledger.consume(caller, 4)
    assert (ledger.refund(decision), ledger.refund(decision)) == (4, 0)
    held = ledger.reserve(caller, 5, ttl=timedelta(minutes=1))
    assert ledger.peek(caller).limits[0].used == 6
    assert held.commit(2).limits[0].used == 2
    ledger.reserve(caller, 5, ttl=timedelta(minutes=1)).cancel()
    assert ledger.peek(caller).limits[0].used == 3
    first, again = (ledger.consume(caller, 3, request_id="one") for _ in range(2))
    assert (first.replayed, again.replayed, again.limits[0].used) == (False, True, 5)
    assert pickle.loads(pickle.dumps(first)).limits == first.limits


@over(*ALL)
def test_a_plan_that_is_not_there_admits_nobody(stores, clock):
    """None of that name, one for another api, one that was removed: refused, with no error and nothing counted."""
    ledger = with_plan(stores, clock)
    caller = Caller("free", ADDRESS)
    assert ledger.consume(Caller("paid", ADDRESS)).reason is Reason.NO_PLAN
    assert ledger.consume(caller, api="other").reason is Reason.NO_PLAN
    assert ledger.consume(caller).allowed
    ledger.remove_plan("free")
    refused = ledger.consume(caller)
    assert (refused.reason, refused.status, refused.plan) == (Reason.NO_PLAN, 403, None)


@over(*ALL)
def test_a_plan_that_is_replaced_binds_at_once_and_what_was_used_stays_used(stores, clock):
    """Limits change from the next call on."""
    ledger = with_plan(stores, clock)
    caller = Caller("free", ADDRESS)
    assert [ledger.consume(caller).allowed for _ in range(4)] == [True, True, True, False]
    ledger.replace_plan(UsagePlan("free", "5/day"))
    assert [ledger.consume(caller).allowed for _ in range(3)] == [True, True, False]
    ledger.replace_plan(UsagePlan("free", "2/day"))
    assert not ledger.consume(caller).allowed


def records(stores, ledger):
    """How many records of callers and keys a ledger's store has."""
    store = ledger.store
    if stores.engine == "memory":
        return len({room.key_entry for room in store.rooms.values() if room.key_entry.record})
    if stores.engine == "sqlite":
        return store._pool.read(lambda db: db.execute("SELECT count(*) FROM counts").fetchone()[0])
    with stores.find("postgres").connect() as db:
        return db.execute(f'SELECT count(*) FROM "{store.namespace}".records').fetchone()[0]


@over("memory", "sqlite", "postgres")
def test_records_go_when_their_windows_are_over(stores, clock):
    """Five minutes after the hour's end an address is forgotten, bit by bit, while a key and its history stay."""
    ledger = with_plan(stores, clock, "3/hour", **({"stripes": 1} if stores.engine == "memory" else {}))
    key, secret = ledger.issue_key("k", "free")
    ledger.consume(secret)
    for number in range(40):
        ledger.consume(Caller("free", f"198.51.100.{number}"))
    assert records(stores, ledger) == 41
    clock.advance(HOUR + 6 * 60_000_000 if stores.engine == "memory" else 2 * DAY)
    for number in range(40):
        ledger.consume(Caller("free", f"192.0.2.{number}"))
    assert records(stores, ledger) <= 45
    assert ledger.usage(key, since="2026-03-10", until="2026-03-10")[0].used == 1
    assert ledger.consume(Caller("free", "198.51.100.0")).limits[0].used == 1


@over("redis")
def test_a_server_s_records_expire(stores, clock):
    """An address's record lives hours longer than its windows, a key's for its history."""
    ledger = with_plan(stores, clock, "3/hour")
    _, secret = ledger.issue_key("k", "free", id="k")
    for who in (secret, Caller("free", ADDRESS)):
        ledger.consume(who)
    prefix, client = f"{{{ledger.store.namespace}}}:use:", ledger.store.client
    days = {key.decode().removeprefix(prefix): client.pttl(key) / 86_400_000 for key in client.keys(f"{prefix}*")}
    assert days.keys() == {"k:k", f"k:free\n{ADDRESS}"}
    assert days["k:k"] > 35
    assert 0.5 < days[f"k:free\n{ADDRESS}"] < 2


@over("memory", "sqlite", "redis", "postgres")
def test_threads_take_no_more_than_the_limit(stores, clock):
    """Eight threads at one address that nobody counted before: exactly the limit, again and again."""
    ledger = with_plan(stores, clock, "20/day")
    for number in range(3):
        caller, admitted, gate = Caller("free", f"10.0.0.{number}"), [], threading.Barrier(8)

        def work(caller=caller, admitted=admitted, gate=gate):
            gate.wait()
            admitted.extend(decision for _ in range(5) if (decision := ledger.consume(caller)))

        run_threads([work] * 8)
        assert len(admitted) == 20


CALLS = st.lists(
    st.tuples(st.integers(0, 30), st.sampled_from([0, 0, 0, 1_000_000, 20_000_000, 400_000_000])), max_size=150
)


def most_taken(calls):
    """The most that any caller took within a minute, and the most records there were, where four at a time have room."""
    clock, taken, records = ManualClock(START), {}, 0
    store = MemoryStore(most_callers=4, stripes=2)
    ledger = Ledger(store, clock=clock)
    ledger.add_plan(UsagePlan("free", "3/minute"))
    for number, step in calls:
        clock.advance(step)
        if ledger.consume(Caller("free", str(number))):
            window = number, clock() // 60_000_000
            taken[window] = taken.get(window, 0) + 1
        records = max(records, len(store.rooms))
    return max(taken.values(), default=0), records


@settings(max_examples=60)
@given(calls=CALLS)
def test_more_callers_than_are_counted_one_by_one_never_pass_a_limit(calls):
    """However many there are, none takes more in a window than its limit, and memory holds no more records."""
    taken, records = most_taken(calls)
    assert taken <= 3
    assert records <= 8


LONG = [(number, step) for number in range(40) for step in (0, 0, 20_000_000)]
"""Each caller takes what its limit gives, while those before it become dead."""
BACK = [
    *((number, 0) for number in range(12)),
    (0, 390_000_000),
    *((number, 0) for number in range(12, 24) for _ in "12"),
]
BACK += [*((number, 12_000_000) for number in range(12)), *((number, 0) for number in range(24) for _ in "1234")]
"""Some who were one of many come again when others have gone."""


@pytest.mark.parametrize(
    ("method", "old", "new"),
    [
        ("_apply_to_caller", "room = self.rooms.get(crowd)", "room = None"),
        ("_apply_to_caller", "len(stripe.callers) >= self._most_callers", "False"),
        ("_make_room", "forgetful(self.options))", "self.options)"),
    ],
)
def test_planted_rooms_that_are_too_large(monkeypatch, method, old, new):
    """A crowd that is not looked for, no bound, and dead callers that are kept as long as keys are: each is seen."""
    found = [most_taken(calls) for calls in (LONG, BACK)]
    assert max(taken for taken, _ in found) <= 3
    assert max(records for _, records in found) <= 8
    fresh = fresh_after(500_000_000)
    plant(monkeypatch, Callers, method, {old: new})
    found = [most_taken(calls) for calls in (LONG, BACK)]
    assert (
        max(taken for taken, _ in found) > 3
        or max(records for _, records in found) > 8
        or fresh_after(500_000_000) < fresh
    )


def fresh_after(span):
    """How many new callers are counted one by one after as long, where as many as there is room for came before."""
    clock = ManualClock(START)
    store = MemoryStore(most_callers=8, stripes=1)
    ledger = Ledger(store, clock=clock)
    ledger.add_plan(UsagePlan("free", "3/minute"))
    for number in range(8):
        ledger.consume(Caller("free", f"old {number}"))
    clock.advance(span)
    for number in range(8):
        ledger.consume(Caller("free", f"new {number}"))
    return sum(ref.name.startswith("new") for ref in store.rooms if isinstance(ref, Caller))


def test_a_crowd_is_not_one_bucket(clock):
    """Where all room is taken those who come late share many counts: one of them cannot shut all others out."""
    ledger = Ledger(MemoryStore(most_callers=256, stripes=4), clock=clock)
    ledger.add_plan(UsagePlan("free", "5/day"))
    for number in range(300):
        ledger.consume(Caller("free", f"early {number}"))
    for _ in range(50):
        ledger.consume(Caller("free", "greedy"))
    served = sum(ledger.consume(Caller("free", f"late {number}")).allowed for number in range(200))
    assert served > 180
    held = ledger.reserve(Caller("free", "late hold"), 1, ttl=1_000_000)
    assert not held or held.commit().allowed


def test_what_no_caller_can_be_is_told():
    """A plan and a name are printable text; anything else is an error that says so."""
    for plan, name in [("", "a"), ("free", ""), ("free", "a\nb"), (None, "a"), ("free", b"a"), ("free", "a" * 257)]:
        with pytest.raises(InvalidValue, match="printable text"):
            Caller(plan, name)
    with pytest.raises(InvalidValue, match="most_callers"):
        MemoryStore(most_callers=0)
    assert repr(Caller("free", ADDRESS)) == "Caller(plan='free', name='203.0.113.7')"
    assert pickle.loads(pickle.dumps(Caller("free", ADDRESS))) == Caller("free", ADDRESS)

"""What holds of keys whatever the store is: networks and scopes, changes, many at once, lists."""

import sqlite3
from contextlib import closing
from datetime import datetime, timedelta, timezone
from inspect import iscoroutine

import psycopg
import pytest

from every_store import ALL, used
from quota import ApiKey, InvalidValue, PlanConflict, Reason, StoreUnavailable, UnknownKey, UnknownPlan, UsagePlan

HOUR = 3_600_000_000
CALLS = {
    "plain": {},
    "cost": {"cost": 2},
    "units": {"cost": {"requests": 1, "tokens": 2}},
    "route": {"route": "GET /export"},
    "other api": {"api": "b"},
    "request id": {"request_id": "once"},
}


def over(*kinds):
    """The test once for each of these kinds of store."""
    return pytest.mark.parametrize("stores", kinds, indirect=True)


def bounded(stores, clock, limits="1000/day, 100000/month by account, 9000 tokens/day, 1000/s", **bounds):
    """A ledger with a key that has networks and scopes, on plans of two apis."""
    ledger = stores.ledger(clock)
    ledger.add_plan(UsagePlan("p", limits, routes={"GET /export": "500/day"}))
    ledger.add_plan(UsagePlan("b", limits, api="b"))
    key, secret = ledger.issue_key("k", "p", id="k", **bounds)
    ledger.associate(key, "b")
    return ledger, key, secret


def add(ledger, keys):
    """Add keys by the store's own call, awaited if it is."""
    answer = ledger.store.add_keys(keys)
    return ledger._runner.run(answer) if iscoroutine(answer) else answer


def all_used(key, *ledgers):
    """What was used of all quotas, once each process has said what it spent of its leases."""
    return [sum(record.used for api in ("", "b") for record in ledger.usage(key, api=api)) for ledger in ledgers][-1]


@pytest.mark.parametrize("call", CALLS)
@over(*ALL)
def test_where_a_key_may_be_used_from_and_for_what(stores, clock, call):
    """From outside its networks or for a scope that it lacks it is refused before anything is charged, however often."""
    ledger, key, secret = bounded(stores, clock, networks=["10.0.0.0/8", "2001:db8::/32"], scopes=["read", "write"])
    there, more = stores.ledger(clock, ledger), CALLS[call]
    cases = {
        "OK": [("10.1.2.3", None), ("2001:db8::7", "read"), ("::ffff:10.9.9.9", "write")],
        "ADDRESS_NOT_ALLOWED": [("11.0.0.1", None), (None, "read"), ("::ffff:11.0.0.1", None), ("", None), ("a socket", "read")],
        "SCOPE_NOT_ALLOWED": [("10.0.0.0", "admin"), ("10.255.255.255", "READ")],
    }  # fmt: skip
    for turn in range(2):
        for reason, calls in cases.items():
            for address, scope in calls:
                before = all_used(key, there, ledger)
                for presented, one in ((secret, ledger), (key, there), (secret, there)):
                    told = one.peek(presented, **more, address=address, scope=scope)
                    if reason != "OK":
                        decision = one.consume(presented, **more, address=address, scope=scope)
                        held = one.reserve(presented, 1, ttl=HOUR, address=address, scope=scope)
                        assert [told.reason.value, decision.reason.value, held.decision.reason.value] == [reason] * 3
                        assert (decision.status, decision.limits, decision.retry_at) == (403, (), None)
                    else:
                        assert told and one.consume(presented, **more, address=address, scope=scope)
                assert reason == "OK" or all_used(key, there, ledger) == before
        clock.advance(timedelta(seconds=20 + turn * 30))


@over(*ALL)
def test_a_busy_key_is_refused_from_elsewhere_all_the_same(stores, clock):
    """However it is served (a lane, a headroom, a lease): one call in between from elsewhere is refused, not counted."""
    for limits in ("1000000/day", "1000000/day, 500000/hour by account", "1000000/day, 9000/s"):
        ledger, key, secret = bounded(stores, clock, limits, networks=["192.0.2.0/24"])
        for turn in range(60):
            assert ledger.consume(secret, address="192.0.2.1")
            assert ledger.consume(secret, address="192.0.3.1").reason.value == "ADDRESS_NOT_ALLOWED"
            assert ledger.consume(secret).reason.value == "ADDRESS_NOT_ALLOWED"
            assert ledger.consume(key, address="192.0.2.255", scope="x").reason.value == "SCOPE_NOT_ALLOWED"
            clock.advance(timedelta(microseconds=turn))
        assert ledger.peek(secret, address="192.0.2.1").limits[0].used == 61


@over(*ALL)
def test_scopes_alone(stores, clock):
    """A key without networks is good from anywhere, without scopes for none that is asked for."""
    ledger, key, secret = stores.with_key(clock, "1000/day")
    _, other = ledger.issue_key("other", "p", scopes=["read"])
    for _ in range(3):
        assert ledger.consume(secret, address="anything at all")
        assert ledger.consume(other, scope="read") and ledger.consume(other)
        assert ledger.consume(secret, scope="read").reason.value == "SCOPE_NOT_ALLOWED"
        assert ledger.consume(other, scope="write").reason.value == "SCOPE_NOT_ALLOWED"
    assert (used(ledger, secret), used(ledger, other)) == (3, 6)
    with pytest.raises(InvalidValue, match="scope"):
        ledger.consume(secret, scope="")


@over(*ALL)
def test_an_update_binds_at_once_everywhere_and_keeps_the_counts(stores, clock):
    """Name, expiry, metadata, networks and scopes, each alone or all together; what is not given stays."""
    here, key, secret = stores.with_key(clock, "1000/day")
    there = stores.ledger(clock, here)
    for ledger in (here, there, here, there):
        assert ledger.consume(secret, address="192.0.2.1")
    changed = here.update_key(key, networks=["192.0.2.0/24"], scopes=("read",))
    assert (changed.networks, changed.scopes, changed.name) == (("192.0.2.0/24",), ("read",), "k")
    assert there.get_key("k") == changed
    if not stores.leased:  # which binds within a refresh
        assert there.consume(secret, address="198.51.100.1").reason.value == "ADDRESS_NOT_ALLOWED"
    assert here.consume(secret, address="198.51.100.1").reason.value == "ADDRESS_NOT_ALLOWED"
    assert here.consume(secret, address="192.0.2.1", scope="read").limits[0].used == 5
    again_at = here.peek(secret, address="192.0.2.1").at
    again = there.update_key("k", name="another", metadata={"a": "b"}, expires_at=again_at + timedelta(hours=1))
    assert (again.name, again.networks, again.secrets) == ("another", ("192.0.2.0/24",), key.secrets)
    assert here.update_key("k") == again
    clock.advance(timedelta(hours=2))
    assert here.consume(secret, address="192.0.2.1").reason.value == "EXPIRED_KEY"
    last = here.update_key("k", expires_at=None, networks=(), scopes=(), metadata={})
    assert (last.expires_at, last.networks, last.scopes, last.metadata) == (None, (), (), {})
    assert here.consume(secret).limits[0].used == 6


@over(*ALL)
def test_an_update_that_cannot_be_meant_changes_nothing(stores, clock):
    """The error names the field; an unknown key is one."""
    ledger, key, _ = stores.with_key(clock)
    for field, value in (
        ("name", ""), ("expires_at", "tomorrow"), ("metadata", {"a": 1}), ("networks", ["10.0.0.1/8"]), ("networks", "10.0.0.0/8"),
        ("networks", ["10.0.0.0/33"]), ("networks", ["fe80::%eth0/64"]), ("networks", ["10.0.0.0/255.0.0.0"]),
        ("networks", [f"10.0.{n}.0/24" for n in range(256)] + ["11.0.0.0/8"]), ("scopes", "read"), ("scopes", [""]), ("scopes", [7]),
    ):  # fmt: skip
        with pytest.raises(InvalidValue) as error:
            ledger.update_key(key, **{"name": "another", field: value})
        assert error.value.field.startswith(field)
    assert ledger.get_key(key) == key
    with pytest.raises(UnknownKey):
        ledger.update_key("nobody", name="x")


@over(*ALL)
def test_a_key_that_ended_before_every_date_has_ended(stores, clock):
    """The first hours of the year 1 in a zone ahead of UTC lie before the first date there is, not beyond the last."""
    ledger, key, secret = stores.with_key(clock)
    ledger.update_key(key, expires_at=datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=14))))
    assert ledger.consume(secret).reason is Reason.EXPIRED_KEY
    assert ledger.get_key(key).expires_at < datetime(2, 1, 1, tzinfo=timezone.utc)


@over(*ALL)
def test_a_thousand_keys_at_once(stores, clock):
    """All of them or none: each works, is on the plan and has its name; a bad one among them leaves none."""
    ledger, key, _ = stores.with_key(clock, "3/day")
    there = stores.ledger(clock, ledger)
    issued = ledger.issue_keys([f"user {number}" for number in range(1000)], "p", prefix="shop")
    assert [one.key.name for one in issued] == [f"user {number}" for number in range(1000)]
    assert len({one.key.id for one in issued}) == len({one.secret for one in issued}) == 1000
    assert len(ledger.list_keys()) == 1001
    for one in issued[::400]:
        assert one.secret.startswith("shop_") and [bool(there.consume(one.secret)) for _ in range(4)] == [1, 1, 1, 0]
    assert ledger.issue_keys([]) == []
    for names, plan, error in (
        (["a", "b", ""], "p", InvalidValue), (["a", "b"], "nowhere", UnknownPlan), ("ab", "p", InvalidValue),
        (["a"] * 10_001, None, InvalidValue),
    ):  # fmt: skip
        with pytest.raises(error):
            ledger.issue_keys(names, plan)
    again = [(key, ["p"]), *((one.key, ["p"]) for one in issued[:1])]
    clash = [(ApiKey(id="new", name="new", account="new"), []), *again]
    twice = [(ApiKey(id="new", name="new", account=account), []) for account in ("new", "team")]
    for keys in (clash, twice):
        with pytest.raises(PlanConflict):
            add(ledger, keys)
    assert len(ledger.list_keys()) == len(there.list_keys()) == 1001


@over(*ALL)
def test_keys_that_are_issued_together_share_an_account(stores, clock):
    """As though they came one by one: what an account used stays its own, whether it has keys, had some, or none."""
    ledger = stores.ledger(clock)
    ledger.add_plan(UsagePlan("p", "10/day by account, 1000/month"))
    first, second = ledger.issue_keys(["a", "b"], "p", account="new")
    assert ledger.consume(first.secret, 4) and ledger.consume(second.secret, 5)
    assert [status.used for status in ledger.consume(first.secret, 1).limits] == [10, 5]
    key, secret = ledger.issue_key("alone", "p", account="grown")
    ledger.consume(secret, 6)
    third, fourth = ledger.issue_keys(["c", "d"], "p", account="grown")
    assert ledger.consume(third.secret, 4).limits[0].used == 10
    assert not ledger.consume(fourth.secret) and not ledger.consume(secret)
    for one in (key, third.key, fourth.key):
        ledger.remove_key(one)
    (last,) = ledger.issue_keys(["e"], "p", account="grown")
    assert not ledger.consume(last.secret)


@over(*ALL)
def test_keys_are_listed_by_pages_in_the_order_of_their_ids(stores, clock):
    """All, of a plan, of an account, of both: whatever was moved, removed or replaced since."""
    ledger = stores.ledger(clock)
    for plan in (UsagePlan("p", "3/day"), UsagePlan("q", "4/day"), UsagePlan("b", "5/day", api="b")):
        ledger.add_plan(plan)
    ids = ["B", "a", "a b", "ab", "b1", "b10", "b2", "\u00e9", "\u65e5\u672c", "\U0001f600"]
    for number, id_ in enumerate(reversed(ids)):
        ledger.issue_key("n", ["p", "q", None][number % 3], id=id_, account=["a", "team", None, None][number % 4])
        if number % 2:
            ledger.associate(id_, "b")
    ledger.associate("b10", "q")
    ledger.dissociate(ids[0], ledger.list_plans(ids[0])[0])
    ledger.remove_key("b2")
    ledger.replace_plan(UsagePlan("b", "5/day", api="c"))
    there = stores.ledger(clock, ledger)
    kept = [ledger.get_key(id_) for id_ in ids if id_ != "b2"]
    on = {key.id: {plan.id for plan in ledger.list_plans(key)} for key in kept}
    for plan in (None, "p", "q", "b"):
        for account in (None, "a", "team", "ab", "nobody"):
            chosen = [key for key in kept if (plan is None or plan in on[key.id]) and account in (None, key.account)]
            assert ledger.list_keys(plan=plan, account=account, limit=10**30) == chosen
            assert ledger.list_keys(plan=plan, account=account) == chosen
            for size in (1, 2, 3, 100):
                pages, page = [], there.list_keys(limit=size, plan=plan, account=account)
                while page:
                    pages += page
                    page = there.list_keys(after=page[-1], limit=size, plan=plan, account=account)
                assert pages == chosen
    assert ledger.list_keys(after="aa", limit=1)[0].id == "ab"
    with pytest.raises(UnknownPlan):
        ledger.list_keys(plan="nowhere")
    ledger.remove_plan("p")
    ledger.add_plan(UsagePlan("p", "3/day"))
    assert ledger.list_keys(plan="p") == []
    for wrong in ({"limit": 0}, {"limit": "all"}, {"after": 3}, {"account": ""}):
        with pytest.raises(InvalidValue):
            ledger.list_keys(**wrong)


@over("sqlite", "postgres")
def test_an_earlier_schema_is_refused_and_left_alone(stores, clock):
    """Tables of a state that was never released: a sentence that says so, and nothing is touched."""
    ledger, _, secret = stores.with_key(clock)
    ledger.consume(secret)
    if stores.kind == "sqlite":
        ledger.close()
        with closing(sqlite3.connect(ledger.store.path, isolation_level=None)) as db:
            db.execute("PRAGMA user_version = 1")
    else:
        with psycopg.connect(stores.find("postgres").url, autocommit=True) as db:
            db.execute(
                f"UPDATE {ledger.store.namespace}.directory SET value = '1' WHERE part = 'stamps' AND name = '#'"
            )
    there = stores.ledger(clock, ledger)
    with pytest.raises(StoreUnavailable, match="version 1, which was never released"):
        there.list_keys()

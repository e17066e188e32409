"""The outbox, whatever the store is: one event for each change, written with it, in an order that never changes."""

import asyncio
import json
import threading
from datetime import datetime, timezone

import pytest

from every_store import ALL, SYNC, key_on, run_threads
from quota import Account, AsyncLedger, Caller, Event, InvalidValue, PlanConflict, Throttle, UnknownKey, UsagePlan

DAY = 86_400_000_000
HOUR = DAY // 24


def kinds(ledger, after=0):
    return [event.kind for event in ledger.events(after=after)]


def last(ledger):
    return ledger.events()[-1]


def crossings(ledger, after=0):
    return [(event.limit, event.percent) for event in ledger.events(after=after) if event.kind == "limit.crossed"]


@pytest.mark.parametrize("stores", ALL, indirect=True)
def test_each_change_is_one_event(stores, clock):
    """Of keys, plans, associations and limits: what was changed, by whom, when, from what to what."""
    ledger = stores.ledger(clock)
    plan = UsagePlan("p", "10/day", alerts=())
    ledger.add_plan(plan)
    first = last(ledger)
    assert first == Event(1, first.at, "plan.added", plan="p", api="", after=plan.to_dict())
    assert first.at.timestamp() * 1e6 == clock()
    key, _ = ledger.issue_key("Key", "p", id="k", account="team")
    event = last(ledger)
    assert (event.kind, event.key, event.account, event.plan, event.api) == ("key.issued", "k", "team", "p", "")
    assert (event.before, event.after) == (None, key.to_dict())
    clock.advance(1)
    for change, kind, before, after in (
        (lambda: ledger.update_key("k", name="new"), "key.updated", {"name": "Key"}, {"name": "new"}),
        (lambda: ledger.disable_key("k"), "key.disabled", {"enabled": True}, {"enabled": False}),
        (lambda: ledger.enable_key("k"), "key.enabled", {"enabled": False}, {"enabled": True}),
        (lambda: ledger.dissociate("k", "p"), "plan.dissociated", {"plan": "p"}, None),
        (lambda: ledger.associate("k", "p"), "plan.associated", None, {"plan": "p"}),
        (lambda: ledger.override_limit("k", "requests/day", 5), "override.set", None, {"value": 5, "until": None}),
        (lambda: ledger.override_limit("k", "requests/day", 6), "override.set", {"value": 5, "until": None},
         {"value": 6, "until": None}),
        (lambda: ledger.override_limit("k", "requests/day", None), "override.cleared", {"value": 6, "until": None}, None),
        (lambda: ledger.grant("k", "requests/day", 4), "limit.granted", {"extra": 0}, {"extra": 4}),
        (lambda: ledger.set_remaining("k", "requests/day", 3), "limit.granted", {"extra": 4}, {"extra": -7}),
        (lambda: ledger.replace_plan(UsagePlan("p", "9/day", alerts=())), "plan.replaced", {"limits": ["10/day"]},
         {"limits": ["9/day"]}),
    ):  # fmt: skip
        cursor = last(ledger).cursor
        change()
        (event,) = ledger.events(after=cursor)
        assert (event.kind, event.before, event.after) == (kind, before, after)
        assert event.at.timestamp() * 1e6 == clock()
        assert event.cursor == cursor + 1
    now = ledger.get_key("k")
    ledger.remove_key("k")
    assert (last(ledger).kind, last(ledger).before) == ("key.removed", now.to_dict())
    ledger.remove_plan("p")
    assert (last(ledger).kind, last(ledger).before["limits"]) == ("plan.removed", ["9/day"])


@pytest.mark.parametrize("stores", ALL, indirect=True)
def test_each_change_of_an_account_is_one_event(stores, clock):
    """Added, changed, moved below another, removed; what is equal is none, nor is one that is refused."""
    ledger = stores.ledger(clock)
    firm = ledger.add_account("firm")
    ledger.add_account("firm")
    ledger.add_account("team", parent="firm")
    ledger.update_account("team", name="Team", parent=None)
    ledger.update_account("team", name="Team")
    with pytest.raises(InvalidValue):
        ledger.update_account("team", parent="team")
    ledger.remove_account("team")
    assert [(event.kind, event.account, event.key, event.before, event.after) for event in ledger.events()] == [
        ("account.added", "firm", None, None, firm.to_dict()),
        ("account.added", "team", None, None, Account("team", parent="firm").to_dict()),
        ("account.updated", "team", None, {"name": "team", "parent": "firm"}, {"name": "Team", "parent": None}),
        ("account.removed", "team", None, Account("team", name="Team").to_dict(), None),
    ]


@pytest.mark.parametrize("stores", SYNC, indirect=True)
def test_a_change_of_plan_with_a_date_is_told_when_it_is_scheduled(stores, clock):
    """Once, with the instant; as it is dropped, once more; nothing as it binds, which nobody does."""
    ledger, *_ = stores.with_key(clock)
    ledger.add_plan(UsagePlan("q", "20/day"))
    start = last(ledger).cursor
    at = datetime(2026, 4, 1, tzinfo=timezone.utc)
    ledger.associate("k", "q", at=at)
    ledger.associate("k", "q", at=at)
    ledger.dissociate("k", "q")
    ledger.associate("k", "q", at=at)
    clock.set(at)
    ledger.associate("k", "q")
    now, next_ = {"plan": "p"}, {"plan": "p", "next": "q", "at": at.isoformat()}
    assert [(event.kind, event.plan, event.before, event.after) for event in ledger.events(after=start)] == [
        ("plan.associated", "q", now, next_), ("plan.dissociated", "q", next_, now), ("plan.associated", "q", now, next_),
    ]  # fmt: skip


@pytest.mark.parametrize("stores", ALL, indirect=True)
def test_what_changes_nothing_is_no_event(stores, clock):
    """An equal plan, a name that it has, a plan that it is on, an override that is not there; and what is refused."""
    ledger = stores.ledger(clock)
    ledger, key, secret = key_on(ledger, "10/day, 3/minute", alerts=())
    ledger.override_limit("k", "requests/day", 5)
    before = len(ledger.events())
    ledger.add_plan(UsagePlan("p", "10/day, 3/minute", alerts=()))
    ledger.replace_plan(UsagePlan("p", "10/day, 3/minute", alerts=()))
    ledger.update_key("k", name="k")
    ledger.enable_key("k")
    ledger.associate("k", "p")
    ledger.override_limit("k", "requests/day", 5)
    ledger.override_limit("k", "requests/minute", None)
    ledger.set_remaining("k", "requests/minute", 3)
    ledger.consume(secret, 2)
    ledger.consume(secret, 2)
    ledger.peek(secret)
    ledger.refund(ledger.consume(secret))
    ledger.forget("k")
    for refused, error in (
        (lambda: ledger.issue_key("other", id="k"), PlanConflict),
        (lambda: ledger.add_plan(UsagePlan("p", "1/day")), PlanConflict),
        (lambda: ledger.remove_key("nobody"), UnknownKey),
        (lambda: ledger.grant("k", "nothing", 1), InvalidValue),
        (lambda: ledger.override_limit("k", "requests/day", Throttle("1", "second")), InvalidValue),
    ):
        with pytest.raises(error):
            refused()
    assert len(ledger.events()) == before
    assert [issued.key.id for issued in ledger.issue_keys([])] == []
    ledger.issue_keys(["a", "b", "c"], "p")
    assert kinds(ledger)[before:] == ["key.issued"] * 3


@pytest.mark.parametrize("stores", SYNC, indirect=True)
def test_who_did_it(stores, clock):
    """The ledger's actor, or that of a view of it, which is the same ledger otherwise; a charge is nobody's doing."""
    ledger = stores.over(stores.open(), clock=clock, actor="deploy")
    ledger, _, secret = key_on(ledger, "5/day", alerts=(50,))
    ada = ledger.acting("ada")
    ada.disable_key("k")
    ada.grant("k", "requests/day", 1)
    ada.acting("bob").override_limit("k", "requests/day", 6)
    ledger.enable_key("k")
    assert ada.consume(secret, 4)
    actors = [(event.kind, event.actor) for event in ledger.events()]
    assert actors == [
        ("plan.added", "deploy"), ("key.issued", "deploy"), ("key.disabled", "ada"), ("limit.granted", "ada"),
        ("override.set", "bob"), ("key.enabled", "deploy"), ("limit.crossed", None),
    ]  # fmt: skip
    for wrong in ("", 7, "a\nb"):
        with pytest.raises(InvalidValue, match="actor"):
            ledger.acting(wrong)


@pytest.mark.parametrize("stores", ["awaited sqlite", "awaited redis", "awaited postgres"], indirect=True)
def test_who_did_it_awaited(stores, clock):
    """A view of an AsyncLedger is one too, over the same store."""
    store = stores.open()

    async def act():
        ledger = AsyncLedger(store, clock=clock, actor="deploy")
        await ledger.add_plan(UsagePlan("p", "5/day"))
        ada = ledger.acting("ada")
        _, secret = await ada.issue_key("k", "p")
        assert await ada.consume(secret, 4)
        await ledger.remove_plan("p")
        found = [(event.kind, event.actor) for event in await ada.events()]
        await ledger.aclose()
        return found

    assert asyncio.run(act()) == [
        ("plan.added", "deploy"), ("key.issued", "ada"), ("limit.crossed", None), ("plan.removed", "deploy"),
    ]  # fmt: skip


@pytest.mark.parametrize("stores", ALL, indirect=True)
def test_a_page_goes_on_after_a_cursor(stores, clock):
    """At most so many beyond a cursor, in order; what is no cursor is refused."""
    ledger = stores.ledger(clock)
    for number in range(7):
        ledger.add_plan(UsagePlan(f"p{number}", "1/day"))
    found, cursor = [], 0
    while page := ledger.events(after=cursor, limit=3):
        assert len(page) <= 3
        found += page
        cursor = page[-1].cursor
    assert [event.plan for event in found] == [f"p{number}" for number in range(7)]
    assert [event.cursor for event in found] == list(range(1, 8))
    for wrong in ({"after": -1}, {"after": "7"}, {"after": 2**63}, {"limit": 0}, {"limit": None}):
        with pytest.raises(InvalidValue, match=next(iter(wrong))):
            ledger.events(**wrong)


@pytest.mark.parametrize("stores", ALL, indirect=True)
def test_no_secret_is_told(stores, clock):
    """Neither a secret nor the digest that finds it, of keys that are issued, imported, rotated, changed, removed."""
    ledger = stores.ledger(clock)
    secrets = ["a secret of 20 letters".replace(" ", "_")]
    key, secret = ledger.import_key(secrets[0], "imported", metadata={"team": "a"})
    secrets += [ledger.issue_key("issued").secret, ledger.rotate_key(key, 1000).secret]
    ledger.update_key(key, name="other", metadata={"team": "b"})
    digests = [one.digest.hex() for one in ledger.get_key(key).secrets]
    ledger.remove_key(key)
    text = json.dumps([event.to_dict() for event in ledger.events()])
    assert not [found for found in (*secrets, *digests) if found in text]
    assert secret == secrets[0]


@pytest.mark.parametrize("stores", ALL, indirect=True)
def test_a_threshold_is_crossed_once_in_a_window(stores, clock):
    """80 and 100 once each, by the charge that reaches them, whatever is given back or retried; anew in the next window."""
    ledger, _, secret = stores.with_key(clock, "10/day, 100/week")
    start = last(ledger).cursor
    taken = ledger.consume(secret, 8, request_id="once")
    assert ledger.consume(secret, 8, request_id="once").replayed
    assert taken.crossed == (("requests/day", 80),)
    ledger.refund(taken)
    for _ in range(3):
        ledger.refund(ledger.consume(secret, 9))
    assert crossings(ledger, start) == [("requests/day", 80)]
    assert not ledger.consume(secret, 11)
    ledger.reserve(secret, 10, ttl=HOUR).commit(12)
    assert crossings(ledger, start) == [("requests/day", 80), ("requests/day", 100)]
    event = [event for event in ledger.events() if event.kind == "limit.crossed"][0]
    assert (event.key, event.account, event.plan, event.api, event.actor) == ("k", "k", "p", "", None)
    assert event.after == {"used": 8, "limit": 10, "resets_at": "2026-03-11T00:00:00+00:00"}
    clock.advance(DAY)
    ledger.consume(secret, 10)
    assert crossings(ledger, start)[2:] == [("requests/day", 80), ("requests/day", 100)]


@pytest.mark.parametrize("stores", ALL, indirect=True)
def test_all_calls_that_cross_tell_it(stores, clock):
    """Charges one by one, which leases and fast paths serve as far as they can: told once, whoever crosses."""
    ledger, _, secret = stores.with_key(clock, "50/day", alerts=(50, 80, 100))
    told = [pair for _ in range(60) for pair in ledger.consume(secret).crossed]
    assert told == crossings(ledger) == [("requests/day", percent) for percent in (50, 80, 100)]
    assert [event.after["used"] for event in ledger.events() if event.kind == "limit.crossed"] == [25, 40, 50]


@pytest.mark.parametrize("stores", SYNC, indirect=True)
def test_short_windows_and_callers_tell_nothing(stores, clock):
    """A minute's window is told to the caller alone, an hour's is an event; who has no key is in no outbox."""
    ledger, _, secret = stores.with_key(clock, "10/minute, 20/hour")
    assert ledger.consume(secret, 10).crossed
    assert crossings(ledger) == []
    clock.advance(DAY // 1440)
    assert ledger.consume(secret, 10)
    assert crossings(ledger) == [("requests/hour", 80), ("requests/hour", 100)]
    ledger.add_plan(UsagePlan("visitors", "10/day"))
    assert ledger.consume(Caller("visitors", "10.0.0.1"), 10).crossed
    assert len(crossings(ledger)) == 2


@pytest.mark.parametrize("stores", SYNC, indirect=True)
def test_a_limit_by_account_is_told_of_the_account(stores, clock):
    """It is nobody's key that crossed it, nor is an override of it a key's."""
    ledger = stores.ledger(clock)
    ledger.add_plan(UsagePlan("p", "10/day by account as team"))
    one, two = [ledger.issue_key(name, "p", id=name, account="both").secret for name in ("one", "two")]
    assert ledger.consume(one, 5)
    assert ledger.consume(two, 3)
    assert (last(ledger).kind, last(ledger).key, last(ledger).account) == ("limit.crossed", None, "both")
    ledger.override_limit("two", "team", 20)
    assert (last(ledger).kind, last(ledger).key, last(ledger).account) == ("override.set", None, "both")
    ledger.grant("two", "team", 20)
    assert (last(ledger).kind, last(ledger).key, last(ledger).account) == ("limit.granted", None, "both")


@pytest.mark.parametrize("stores", SYNC, indirect=True)
def test_kept_for_the_retention(stores, clock):
    """What is older goes as others come; numbers go on, in a store that was emptied and opened again too."""
    ledger = stores.ledger(clock, retention=2)
    for number in range(5):
        ledger.add_plan(UsagePlan(f"p{number}", "1/day"))
    clock.advance(2 * DAY)
    ledger.add_plan(UsagePlan("edge", "1/day"))
    assert len(ledger.events()) == 6  # two days old, and no more
    clock.advance(1)
    for number in range(3):
        ledger.add_plan(UsagePlan(f"q{number}", "1/day"))
    assert [event.plan for event in ledger.events()] == ["edge", "q0", "q1", "q2"]
    assert [event.cursor for event in ledger.events()] == [6, 7, 8, 9]
    beside = stores.ledger(clock, beside=ledger, retention=2)
    clock.advance(9 * DAY)
    beside.remove_plan("edge")
    beside.remove_plan("q0")
    assert [event.cursor for event in ledger.events()] == [10, 11]


@pytest.mark.parametrize("stores", SYNC, indirect=True)
def test_nothing_appears_below_what_was_told(stores, clock):
    """Eight writers, of directories and of charges that cross, and one who reads on: each event once, in order."""
    ledger = stores.ledger(clock)
    ledger.add_plan(UsagePlan("p", "4/day", alerts=(50, 100)))
    found, done = [], threading.Event()

    def write(number):
        mine = ledger if number % 2 else stores.ledger(clock, beside=ledger)
        for turn in range(6):
            _, secret = mine.issue_key("k", "p", id=f"{number}.{turn}")
            for _ in range(5):
                mine.consume(secret)

    def read():
        cursor, ending = 0, False
        while True:
            page = ledger.events(after=cursor, limit=7)
            found.extend(page)
            cursor = page[-1].cursor if page else cursor
            if not page and ending:
                return
            ending = done.is_set()

    reader = threading.Thread(target=read)
    reader.start()
    try:
        run_threads([lambda number=number: write(number) for number in range(8)])
    finally:
        done.set()
        reader.join()
    assert [event.cursor for event in found] == list(range(1, 1 + 8 * 6 * 3 + 1))
    assert found == ledger.events()
    told = sorted((event.key, event.kind, event.percent or 0) for event in found[1:])
    assert told == sorted(
        (f"{number}.{turn}", kind, percent)
        for number in range(8)
        for turn in range(6)
        for kind, percent in (("key.issued", 0), ("limit.crossed", 50), ("limit.crossed", 100))
    )


@pytest.mark.parametrize("stores", SYNC, indirect=True)
def test_a_minute_s_window_leaves_the_outbox_small(stores, clock):
    """A plan as it comes, on a minute's window, and busy keys: no event beyond those of the plan and the keys."""
    ledger = stores.ledger(clock)
    ledger.add_plan(UsagePlan("p", "5/minute"))
    secrets = [issued.secret for issued in ledger.issue_keys([f"k{number}" for number in range(20)], "p")]
    for _ in range(3):
        for secret in secrets:
            for _ in range(6):
                ledger.consume(secret)
        clock.advance(60_000_000)
    assert len(ledger.events()) == 1 + 20

"""Request ids by the memory store's compiled form: what the rule tells of a retry, told without asking it."""

from __future__ import annotations

from datetime import timedelta

import pytest

from histories import GeneralStore
from interleavings import NOON, plant
from quota import Ledger, ManualClock, RequestMismatch, UsagePlan
from quota.ledger import sync as ledger_module
from quota.stores.memory import MemoryStore, retries
from quota.stores.memory.retries import Replayed, Told
from quota.stores.memory.store import MemoryStore as Store

LIMITS = {
    "requests": ("90/day", 1),
    "with a throttle": ("90/day, 90/minute burst 90", 2),
    "two units": ("90/day, 900 tokens/day", {"requests": 1, "tokens": 5}),
}


def opened(kind=MemoryStore, limits="90/day", cost=1):
    """A ledger whose key's calls by an id are served by its compiled form, its clock, and the key."""
    clock = ManualClock(NOON)
    ledger = Ledger(kind(request_ttl=60), clock=clock)
    ledger.add_plan(UsagePlan("p", limits))
    key = ledger.issue_key("k", "p", id="k").key
    ledger.consume(key, cost, request_id="first")
    return ledger, clock, key


def shown(decision):
    """All that a decision tells but its id, which is drawn."""
    told = decision.to_dict()
    assert told.pop("id") == decision.id
    return told, decision.plan.id, decision.headers()


@pytest.mark.parametrize("limits", LIMITS)
def test_a_retry_is_told_what_the_call_was_told(limits):
    """The same as by the rule, whatever was counted since; its id is the call's."""
    said = []
    for kind in (MemoryStore, GeneralStore):
        ledger, clock, key = opened(kind, *LIMITS[limits])
        cost = LIMITS[limits][1]
        call = ledger.consume(key, cost, request_id="r")
        before, *more = shown(call)
        clock.advance(timedelta(seconds=20))
        other = ledger.consume(key, cost)
        again = ledger.consume(key, cost, request_id="r")
        assert again.id == call.id != other.id
        assert shown(call) == (before, *more)
        assert shown(again) == ({**before, "replayed": True}, *more)
        assert ledger.refund(again) == ledger.refund(call) + (cost if cost in (1, 2) else 6)
        said.append([before, more, shown(again), shown(ledger.peek(key, cost))])
        if kind is MemoryStore:
            assert type(call) is Told
            assert type(again) is Replayed
    assert said[0] == said[1]


def test_a_retry_of_an_exhausted_key_is_told_its_admission():
    """Another call is refused."""
    ledger, _, key = opened()
    call = ledger.consume(key, 89, request_id="r")
    assert call
    refused = ledger.consume(key, request_id="more")
    assert not refused
    assert type(refused) is Told
    assert ledger.consume(key, 89, request_id="r").id == call.id
    ledger.grant(key, "requests/day", 1)
    assert not ledger.consume(key, request_id="more").replayed


@pytest.mark.parametrize("other", [{"cost": 2}, {"cost": {"requests": 1}}, {"route": "/r"}])
def test_another_call_of_that_name_is_told(other):
    """A retry is the same call; a cost of one is not the plan's own."""
    ledger, _, key = opened()
    ledger.consume(key, request_id="r")
    with pytest.raises(RequestMismatch):
        ledger.consume(key, **other, request_id="r")
    assert ledger.status(key)[0].used == 2


def test_what_was_refunded_is_not_told_again():
    """The refund is of the call that the retry repeats."""
    ledger, _, key = opened()
    call = ledger.consume(key, request_id="r")
    assert ledger.refund(call) == 1
    ledger.consume(key, request_id="s")
    with pytest.raises(RequestMismatch):
        ledger.consume(key, request_id="r")


def test_after_its_time_a_name_is_another_call():
    """As long as ``request_ttl`` says, to the microsecond; what is over is forgotten, two with each call."""
    ledger, clock, key = opened()
    for name in ("a", "b", "c", "r"):
        ledger.consume(key, request_id=name)
    clock.advance(timedelta(seconds=59, microseconds=999_999))
    assert ledger.consume(key, request_id="r").replayed
    clock.advance(1)
    assert not ledger.consume(key, request_id="r").replayed
    for number in range(4):
        ledger.consume(key, request_id=str(number))
    assert len(ledger.store.rooms["k"].key_entry.record.requests) == 5


@pytest.mark.parametrize("name", [5, [], "", "x" * 257, "\n"])
def test_a_name_that_is_none_is_refused(name):
    """Nothing is charged."""
    ledger, _, key = opened()
    with pytest.raises(ValueError, match="request_id"):
        ledger.consume(key, request_id=name)
    assert ledger.status(key)[0].used == 1


def test_calls_by_an_id_ask_no_rule(monkeypatch):
    """Neither a call nor its retry, behind a call without an id or before one."""
    ledger, _, key = opened()
    ledger.consume(key)
    monkeypatch.setattr(Store, "_perform", lambda *_: pytest.fail("the rule was asked"))
    for number in range(3):
        ledger.consume(key, request_id=str(number))
        assert ledger.consume(key, request_id=str(number)).replayed
        ledger.consume(key)
    monkeypatch.undo()
    assert ledger.status(key)[0].used == 8


PLANTED = {
    "another call is told": ("_again", "before == asked and ", "", test_another_call_of_that_name_is_told, {"cost": 2}),
    "a refunded call is told": ("_again", "record.refunds is not None and ", "False and ", test_what_was_refunded_is_not_told_again),
    "a call is told for ever": ("take_named", "earlier.until > now", "True", test_after_its_time_a_name_is_another_call),
    "a call is told once more": ("take_named", "earlier.until > now", "earlier.until >= now", test_after_its_time_a_name_is_another_call),
    "none is told": ("take_named", "earlier is not None and", "False and", test_a_retry_of_an_exhausted_key_is_told_its_admission),
    "nothing is forgotten": ("_alone", "remembering(remembered, now)", "remembering(remembered, 0)", test_after_its_time_a_name_is_another_call),
}  # fmt: skip


@pytest.mark.parametrize("what", PLANTED)
def test_planted_bugs_are_found(monkeypatch, what):
    """Each test above sees what it is for."""
    function, old, new, test, *arguments = PLANTED[what]
    plant(monkeypatch, retries, function, {old: new})
    monkeypatch.setattr(ledger_module, "take_named", retries.take_named)
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        test(*arguments)

"""Corners of the operations on records that only a store of somebody else's, or a rare order of calls, comes to."""

import inspect

from quota import ApiKey, Ledger, ManualClock, Reason, UsagePlan
from quota.decision import bare_limit
from quota.key import Secret, digest
from quota.operations import headroom, perform
from quota.operations.request import Entry, Request
from quota.rule.record import Record
from quota.rule.subject import Subject
from quota.stores.base import make_options

START = 1_773_144_030_000_000


def test_a_secret_that_the_key_has_no_more_is_unknown():
    """A store that finds a key by a secret which was rotated away a moment ago: the key decides."""
    key = ApiKey("k", "name", "k", secrets=(Secret.of("one that everybody knows"),))
    entry = Entry(key, {"": UsagePlan("p", "5/day")})
    subject = Subject(Record(1))
    for secret, reason in (("one that everybody knows", Reason.OK), ("the one before", Reason.UNKNOWN_KEY)):
        request = Request("consume", START, digest(secret))
        assert perform(request, entry, subject, make_options()).reason is reason


def test_what_was_taken_on_a_meter_that_is_gone_does_not_come_back():
    """Nothing counts it any more."""
    record = Record(1)
    record.give_back(START, [["", "r", "requests", 3]])
    assert record.meters == []


def test_a_refund_of_a_call_on_a_route_goes_back_once():
    """What the plan and the route both counted is one unit to whoever asks what was given back."""
    ledger = Ledger(clock=ManualClock(START))
    ledger.add_plan(UsagePlan("p", "9/day", routes={"r": "5/day as r"}))
    key, secret = ledger.issue_key("k", "p", id="k")
    decision = ledger.consume(secret, 3, route="r")
    assert ledger.refund(decision, 2) == 2
    assert [limit.used for limit in ledger.consume(key, route="r").limits] == [2, 2]


def test_an_account_that_its_last_key_leaves_is_forgotten():
    """The key whose account others had joined goes last; made anew it starts with nothing used."""
    ledger = Ledger(clock=ManualClock(START))
    ledger.add_plan(UsagePlan("p", "9/day by account"))
    for id_ in ("one", "two"):
        key = ledger.issue_key(id_, "p", id=id_, account="one").key
        ledger.consume(key)
    assert ledger.consume(key).limits[0].used == 3
    ledger.remove_key("two")
    ledger.remove_key("one")
    assert ledger.consume(ledger.issue_key("one", "p", id="one").key).limits[0].used == 1


def test_the_default_cost_reads_as_one():
    """In help and in editors."""
    assert repr(inspect.signature(Ledger.consume).parameters["cost"].default) == "1"


def test_a_decision_is_worked_out_once(monkeypatch):
    """By whichever thread asks first, while the others wait."""
    ledger = Ledger(clock=ManualClock(START))
    ledger.add_plan(UsagePlan("p", "9/day"))
    _, secret = ledger.issue_key("k", "p")
    decision = [ledger.consume(secret) for _ in range(2)][-1]

    class OtherWasFirst:
        def __enter__(self):
            decision._full = "worked out"

        def __exit__(self, *error):
            pass

    monkeypatch.setattr(headroom, "_lazy", OtherWasFirst())
    assert decision._details() == "worked out"


def test_a_pickled_limit_leaves_its_windows_behind():
    """They are functions of the plan; what a decision tells is all there."""
    limit = UsagePlan("p", "9/day").route_plan(None).limits[0]
    assert bare_limit(limit).window(7) == (7, 7)

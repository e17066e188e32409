"""The error tree: every error says what happened, keeps its evidence, and survives a pickle."""

import pickle
import traceback

import pytest

from quota import (
    ClockSkew,
    InvalidCost,
    InvalidPlan,
    InvalidSecret,
    Ledger,
    NotAllowed,
    PlanConflict,
    QuotaError,
    RequestMismatch,
    ReservationClosed,
    StoreBusy,
    StoreUnavailable,
    UnknownKey,
    UnknownPlan,
)
from quota.errors import InvalidValue, shown

CASES = [
    (InvalidPlan("limit", 0, "more"), {"field": "limit", "value": 0, "accepted": "more"}, "limit: 0 is not accepted; expected more"),
    (InvalidCost("cost", -1, "more"), {"field": "cost", "value": -1}, "cost: -1 is not accepted; expected more"),
    (InvalidSecret("secret", "3 characters", "more"), {"value": "3 characters"}, "secret: 3 characters; expected more"),
    (InvalidValue("x", "\ud800", "text"), {"value": "\ud800"}, r"x: '\ud800' is not accepted; expected text"),
    (UnknownKey("k"), {"key": "k"}, "no API key has the id 'k'"),
    (UnknownPlan("p"), {"plan": "p"}, "no usage plan has the id 'p'"),
    (PlanConflict("p", "why"), {"subject": "p", "reason": "why"}, "'p': why"),
    (ClockSkew(1_000_000, 400_000_000), {"now": 1_000_000, "seen": 400_000_000},
     ("the clock reads 1000000 us since the epoch, 399 s behind what was recorded (400000000); "
      "set the clock right, or forget the key if the record is wrong")),
    (StoreBusy("contended"), {}, "contended"),
    (StoreUnavailable("gone"), {}, "gone"),
    (RequestMismatch("r", "why"), {"request_id": "r", "reason": "why"}, "request_id 'r': why"),
    (ReservationClosed("h"), {"reservation": "h"},
     "reservation h is closed: it was committed or cancelled, or lapsed with its windows"),
]  # fmt: skip


@pytest.mark.parametrize(("error", "evidence", "text"), CASES, ids=lambda case: type(case).__name__)
def test_an_error_keeps_its_evidence(error, evidence, text):
    """As attributes, in words, and between processes."""
    for found in (error, pickle.loads(pickle.dumps(error))):
        assert isinstance(found, QuotaError)
        assert str(found) == text
        assert {name: getattr(found, name) for name in evidence} == evidence


def test_families():
    """Mistakes in arguments are ``ValueError`` too, and what is not there is ``LookupError``."""
    for kind in (InvalidPlan, InvalidCost, InvalidSecret):
        assert issubclass(kind, (InvalidValue, ValueError))
    for kind in (UnknownKey, UnknownPlan):
        assert issubclass(kind, LookupError)


def test_not_allowed_carries_the_decision():
    """And says why, with the limits that refused."""
    refused = Ledger().consume(None)
    error = NotAllowed(refused)
    assert error.decision is refused
    assert str(error) == "MISSING_KEY"
    assert str(pickle.loads(pickle.dumps(error))) == "MISSING_KEY"


class Broken:
    """Cannot be shown."""

    def __repr__(self):
        raise RuntimeError


def test_whatever_came_in_can_be_shown():
    """A value that is huge, or that cannot be shown, is named all the same, in one short line."""
    assert shown(Broken()) == "<Broken whose repr raised RuntimeError>"
    assert len(shown("x" * 10**6)) == 120
    assert shown("x" * 10**6).endswith("...")


def test_a_secret_in_the_wrong_place_is_not_shown():
    """Given for a key's id, a plan's, a cost, a name or a decision, it is told by its last four characters."""
    ledger = Ledger()
    secret = ledger.issue_key("k", id="k", prefix="my-app_live").secret
    calls = [
        lambda: ledger.get_key(secret), lambda: ledger.usage(secret), lambda: ledger.rotate_key(secret),
        lambda: ledger.associate("k", secret), lambda: ledger.issue_key("x", secret), lambda: ledger.refund(secret),
        lambda: ledger.consume(1, secret), lambda: ledger.consume("x", {secret: -1}), lambda: ledger.add_plan([secret] * 50),
        lambda: ledger.issue_key("x", metadata={secret: 1}), lambda: ledger.issue_key("x", metadata={"a": {"b": secret}}),
        lambda: ledger.consume("x", "x" * 90 + " " + secret),
    ]  # fmt: skip
    for call in calls:
        with pytest.raises(QuotaError) as raised:
            call()
        told = [str(raised.value), repr(raised.value), "".join(traceback.format_exception(raised.value))]
        assert not [text for text in told if secret[:-4] in text or secret[-30:-4] in text]
        assert any(secret[-4:] in text for text in told)
    assert repr(UnknownKey("k")) == "<UnknownKey: no API key has the id 'k'>"

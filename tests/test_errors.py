"""The error tree: every error says what happened, keeps its evidence, and survives a pickle."""

import json
import logging
import pickle
import traceback

import pytest

from quota import (
    ClockSkew,
    InvalidCost,
    InvalidPlan,
    InvalidSecret,
    InvalidValue,
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
from quota.errors import shown

CASES = [
    (InvalidPlan("limit", 0, "more"), {"field": "limit", "value": 0, "accepted": "more"}, "limit: 0 is not accepted; expected more"),
    (InvalidCost("cost", -1, "more"), {"field": "cost", "value": -1}, "cost: -1 is not accepted; expected more"),
    (InvalidSecret("secret", "3 characters", "more"), {"value": "3 characters"}, "secret: 3 characters; expected more"),
    (InvalidValue("x", "\ud800", "text"), {"value": "\ud800"}, r"x: '\ud800' is not accepted; expected text"),
    (UnknownKey("k"), {"key": "k"}, "no API key has the id 'k'"),
    (UnknownPlan("p"), {"plan": "p"}, "no usage plan has the id 'p'"),
    (PlanConflict("p", "why"), {"subject": "p", "reason": "why"}, "'p': why"),
    (ClockSkew(1_000_000, 400_000_000), {"now": 1_000_000, "seen": 400_000_000, "server": False},
     ("the clock reads 1970-01-01 00:00:01+00:00, 399 s behind the latest that was recorded (1970-01-01 00:06:40+00:00); "
      "set the clock right, use a ledger for each test where time is frozen, or forget the key if the record is wrong")),
    (ClockSkew(1_893_456_000_000_000, 1_480_161_600_000_000, server=True), {"server": True},
     ("the clock reads 2030-01-01 00:00:00+00:00, 413294400 s ahead of the store's server (2016-11-26 12:00:00+00:00); "
      "set the clocks right, or open the store with check_clock=false where time is frozen or played back on purpose")),
    (ClockSkew(0, 250_000, server=True), {},
     ("the clock reads 1970-01-01 00:00:00+00:00, 0.25 s behind the store's server (1970-01-01 00:00:00.250000+00:00); "
      "set the clocks right, or open the store with check_clock=false where time is frozen or played back on purpose")),
    (ClockSkew(-(10**20), 0), {},
     ("the clock reads -100000000000000000000 us since 1970, 100000000000000 s behind the latest that was recorded "
      "(1970-01-01 00:00:00+00:00); set the clock right, use a ledger for each test where time is frozen, or forget the key "
      "if the record is wrong")),
    (StoreBusy("contended"), {}, "contended"),
    (StoreUnavailable("gone"), {}, "gone"),
    (RequestMismatch("r", "why"), {"request_id": "r", "reason": "why"}, "request_id 'r': why"),
    (ReservationClosed("h"), {"reservation": "h"},
     "reservation h is closed: it was committed or cancelled, or has lapsed"),
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


@pytest.mark.parametrize("sent", ["Decision(...)", {"reason": "MISSING_KEY"}, ["MISSING_KEY"], None, 1])
def test_not_allowed_is_told_whatever_a_backend_gives_back(sent):
    """A result backend that speaks JSON may make any of its values of the decision."""
    error = pickle.loads(pickle.dumps(NotAllowed(sent)))
    assert str(error) == str(sent)
    assert repr(error) == f"<NotAllowed: {sent}>"


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


NEAR = {
    "as it is": "{}", "a letter too many": "{}A", "a digit too many": "{}7", "many too many": "{0}xY9xY9xY9", "twice": "{0}{0}",
    "twice, apart": "{0} {0}", "a word in front": "key{}", "a path in front": "x/{}", "a query": "?api_key={}&x=1", "quoted": "'{}'",
    "in double quotes": '"{}"', "a line break behind": "{}\n", "a line break in front": "\n{}", "a tab in front": "\t{}", "a dash behind": "{}-x",
    "an underscore behind": "{}_x", "an escaped prefix": "my%5F{}", "a comma behind": "{},", "a header": "Authorization: Bearer {}",
    "backslashes": "\\n{}", "unicode behind": "{}\xe9",
}  # fmt: skip


@pytest.mark.parametrize("form", NEAR)
@pytest.mark.parametrize("prefix", ["qk", "my-app_live", "A", "0123456789abcdef"])
def test_a_secret_with_something_on_it_is_not_shown(form, prefix):
    """A slip of the mouse puts a letter too many, or the clipboard twice: it is a secret all the same."""
    secret = Ledger().issue_key("k", prefix=prefix).secret
    text = NEAR[form].format(secret)
    for error in (UnknownKey(text), UnknownPlan(text), PlanConflict(text, "why"), InvalidValue("field", text, "more"),
                  InvalidValue(f"costs[{text!r}]", 1, "more"), RequestMismatch(text, "why"), ReservationClosed(text),
                  InvalidCost("cost", {text: 1}, "more"), InvalidPlan("limits", [text], "more"), NotAllowed(text)):  # fmt: skip
        for told in (str(error), repr(error), "".join(traceback.format_exception(error))):
            assert not [at for at in range(len(secret) - 12) if secret[at : at + 12] in told.replace(prefix, "")]


def test_part_of_a_secret_is_not_shown():
    """One cut short by a few characters could be completed, and one without its prefix is whole."""
    secret = Ledger().issue_key("k").secret
    for text in (
        secret[:-1],
        secret[:-6],
        secret[1:],
        secret[3:],
        secret.replace("_", "%5F", 1),
        secret.replace("_", "", 1),
    ):
        assert secret[5:20] not in str(UnknownKey(text))


@pytest.mark.parametrize("value", [
    "customer_0123456789", "64b7f0c2e4b0a1a2b3c4d5e6", "0f8fad5b-d9cb-469f-a165-70867728950e", "0f8fad5bd9cb469fa16570867728950e",
    "a_name_that_goes_on_and_on_and_on_for_long", "arn:aws:apigateway:eu-west-1::/apikeys/abcdefghij", "x" * 80, "GET /v1/customers/{customer_id}/invoices",
    "123456789012345678901234567890",
])  # fmt: skip
def test_what_is_no_secret_is_shown(value):
    """Ids as people have them: an error that hides them says nothing."""
    assert value in str(UnknownKey(value))


@pytest.mark.parametrize(
    "error", [case[0] for case in CASES] + [NotAllowed(Ledger().consume(None))], ids=lambda e: type(e).__name__
)
def test_an_error_made_again_of_texts_can_be_told(error):
    """Result backends that speak JSON keep the arguments as texts, and make the exception again of those."""
    for turn in (str, repr, lambda value: json.loads(json.dumps(value, default=repr))):
        again = type(error)(*[turn(argument) for argument in error.args])
        assert str(again)
        assert repr(again).startswith(f"<{type(error).__name__}: ")
        assert str(pickle.loads(pickle.dumps(again))) == str(again)
        assert str(again) in "".join(traceback.format_exception(again))
        logging.getLogger("quota.test").warning("told: %s", again, exc_info=again)

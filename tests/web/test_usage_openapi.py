"""docs/usage-page.openapi.json describes the usage page: schemathesis plays what it describes, and what it does not."""

from __future__ import annotations

import json
from datetime import datetime, timezone

import pytest
import schemathesis
from hypothesis import Phase, given, settings
from schemathesis.specs.openapi.checks import positive_data_acceptance

import paths
from quota import Ledger, ManualClock, UsagePlan
from quota.web import usage_page

DOCUMENT = json.loads((paths.ROOT / "docs" / "usage-page.openapi.json").read_text("utf-8"))


def made():
    """(a page, the secret of a key that used something of every kind of limit)."""
    ledger = Ledger(clock=ManualClock(datetime(2026, 3, 10, 12, tzinfo=timezone.utc)))
    ledger.add_plan(UsagePlan("free", "5/day, 100 tokens/month in Europe/Paris, 2/s burst 50"))
    key, secret = ledger.issue_key("Ada", plan="free")
    ledger.consume(secret, {"requests": 3, "tokens": 7})
    ledger.grant(key, "requests/day", 2)
    return usage_page(ledger, failed_keys="1000000000/s"), secret


APP, SECRET = made()
schema = schemathesis.openapi.from_dict(DOCUMENT)
schema.app = APP
KNOWN_ZONES = [positive_data_acceptance]
"""Which zones there are is no matter of a pattern."""


@schema.parametrize()
def test_what_is_asked_as_described_is_answered_as_described(case):
    """With and without a key, with times and forms that are none: no error of ours, and every answer is in the description."""
    case.call_and_validate(excluded_checks=KNOWN_ZONES)
    case.call_and_validate(headers={"x-api-key": SECRET}, excluded_checks=KNOWN_ZONES)


def failing(environ, start_response):
    """An error of ours."""
    start_response("500 Internal Server Error", [("Content-Type", "application/problem+json")])
    return [b'{"title": "x", "status": 500, "detail": "x"}']


def telling(environ, start_response):
    """A field that nobody described."""
    body = b"".join(APP(environ, start_response))
    return [body.replace(b'"hint":', b'"digest": "00", "hint":')]


def open_to_all(environ, start_response):
    """The page of a key to who has none."""
    return APP({**environ, "HTTP_X_API_KEY": SECRET}, start_response)


@pytest.mark.parametrize("fault", [failing, telling, open_to_all], ids=lambda fault: fault.__name__)
def test_planted_faults_are_seen(fault):
    """By the same calls."""
    broken = schemathesis.openapi.from_dict(DOCUMENT)
    broken.app = fault

    @settings(max_examples=20, database=None, phases=[Phase.generate])
    @given(case=broken["/usage"]["GET"].as_strategy())
    def play(case):
        case.call_and_validate(excluded_checks=KNOWN_ZONES)
        case.call_and_validate(headers={"x-api-key": SECRET}, excluded_checks=KNOWN_ZONES)

    with pytest.raises(BaseExceptionGroup):
        play()

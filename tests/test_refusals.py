"""Refusals are explained by the logger ``quota.decisions``: one record each, so many of a key in a minute; and counted."""

import asyncio
import logging

import pytest

from quota import AsyncLedger, InvalidValue, Ledger, ManualClock, UsagePlan
from quota import refusals as module
from quota.refusals import log_refusals

START = 1_773_144_000_000_000


@pytest.fixture
def ledger():
    found = Ledger(clock=ManualClock(START))
    found.add_plan(UsagePlan("p", "1/hour", api="pets", routes={"GET /x": "0/day as x"}))
    return found


def records(caplog):
    return [record for record in caplog.records if record.name == "quota.decisions"]


def test_a_refusal_is_one_record(ledger, caplog):
    """With who, what, why and when to come back; an admission is none, and no secret is said."""
    caplog.set_level(logging.INFO, "quota.decisions")
    log_refusals(ledger)
    _, secret = ledger.issue_key("k", "p", id="k", account="team")
    assert ledger.consume(secret, api="pets")
    assert not ledger.consume(secret, api="pets")
    assert not ledger.reserve(secret, 1, ttl=1000, api="pets", route="GET /x")
    assert not ledger.consume("not a secret that anybody has")
    first, second, third = records(caplog)
    assert (first.key, first.account, first.api, first.route, first.reason, first.violated, first.retry_at) == (
        "k", "team", "pets", None, "QUOTA_EXCEEDED", ["requests/hour"], "2026-03-10T13:00:00+00:00",
    )  # fmt: skip
    assert (second.route, second.violated) == ("GET /x", ["requests/hour", "x"])
    assert (third.key, third.reason) == (None, "UNKNOWN_KEY")
    assert secret not in caplog.text


def test_a_busy_key_is_told_so_often_in_a_minute(ledger, caplog):
    """The rest is a count, as the next minute begins; others have their own."""
    caplog.set_level(logging.INFO, "quota.decisions")
    refusals = log_refusals(ledger, per_minute=2)
    ledger.issue_key("k", id="k")
    ledger.issue_key("l", id="l")
    keys = {key.id: key for key in ledger.list_keys()}
    for _ in range(7):
        ledger.consume(keys["k"])
    ledger.consume(keys["l"])
    assert [record.key for record in records(caplog)] == ["k", "k", "l"]
    ledger._clock.advance(60_000_000)
    ledger.consume(keys["l"])
    assert [(record.key, getattr(record, "left_out", 0)) for record in records(caplog)[3:]] == [("k", 5), ("l", 0)]
    assert refusals.most() == [("k", 7), ("l", 2)]
    assert refusals.most(1) == [("k", 7)]


def test_counts_are_bounded(ledger, monkeypatch):
    """Those that were refused least are forgotten; the logger being off, nothing is logged."""
    monkeypatch.setattr(module, "_MOST_NAMES", 4)
    refusals = log_refusals(ledger)
    for number in range(9):
        key, _ = ledger.issue_key("k", id=f"k{number}")
        for _ in range(3 if number < 2 else 1):
            ledger.consume(key)
    assert len(refusals._refused) <= 4
    assert refusals.most(2) == [("k1", 3), ("k0", 3)]


def test_an_awaited_ledger_too(caplog):
    """And what is neither is refused."""
    caplog.set_level(logging.INFO, "quota.decisions")

    async def act():
        ledger = AsyncLedger()
        log_refusals(ledger)
        key, _ = await ledger.issue_key("k", id="k")
        await ledger.consume(key)
        await ledger.reserve(key, 1, ttl=1000)

    asyncio.run(act())
    assert [record.reason for record in records(caplog)] == ["NO_PLAN", "NO_PLAN"]
    with pytest.raises(InvalidValue, match="ledger"):
        log_refusals("ledger")
    with pytest.raises(InvalidValue, match="per_minute"):
        log_refusals(Ledger(), per_minute=0)

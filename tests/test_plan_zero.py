"""Limits of 0: a value like any other, that admits nobody, on every store and by every path."""

from datetime import datetime, timedelta, timezone
from fractions import Fraction

import pytest

from quota import InvalidPlan, Ledger, ManualClock, Quota, Reason, Throttle, UsagePlan
from quota.limit_text import parse_limit
from servers import Postgres, Valkey

NOON = datetime(2026, 3, 1, 12, tzinfo=timezone.utc)
CLOSED = [
    Quota(0, "day"), Quota(0, "month in Europe/Paris", by="account"), Throttle(0), Throttle(0, burst=0),
    Throttle(0, burst=2**53 - 1), Throttle(5, "minute", burst=0), Throttle("0.0", "day", burst=3, by="account"),
]  # fmt: skip


@pytest.fixture(scope="module")
def urls(tmp_path_factory):
    """The URL of every kind of store."""
    valkey, postgres = Valkey(), Postgres()
    file = tmp_path_factory.mktemp("zero") / "usage.db"
    yield {
        "memory": "memory://", "sqlite": f"sqlite:///{file}", "redis": valkey.url, "postgresql": postgres.url,
        "leased": f"leased+{valkey.url}?namespace=leased",
    }  # fmt: skip
    valkey.stop()
    postgres.stop()


@pytest.fixture(params=["memory", "sqlite", "redis", "postgresql", "leased"])
def ledger(request, urls):
    """A ledger at noon, with no keys and no plans."""
    made = Ledger(urls[request.param], clock=ManualClock(NOON))
    yield made
    for key in made.list_keys():
        made.remove_key(key)
    for plan in made.list_plans():
        made.remove_plan(plan)
    made.close()


def limits_are_closed(ledger, secret, **where):
    """Every way of asking is refused for good, again and again, and nothing is counted."""
    for _ in range(4):
        for decision in (
            ledger.consume(secret, **where), ledger.peek(secret, **where), ledger.consume(secret, 3, **where),
            ledger.consume(secret, {"requests": 1}, request_id="once", **where),
            ledger.reserve(secret, 1, ttl=timedelta(minutes=1), **where).decision,
        ):  # fmt: skip
            assert not decision
            assert (decision.reason, decision.status) == (Reason.COST_TOO_LARGE, 429)
            assert (decision.retry_at, decision.retry_after) == (None, None)
            assert "Retry-After" not in decision.headers()
            assert "retry-after" not in decision.problem()
            (status,) = [status for status in decision.limits if status.name in decision.violated]
            assert (status.limit, status.used, status.remaining) == (0, 0, 0)
            for profile in ("ietf", "github", "draft03"):
                assert decision.headers(profile)


@pytest.mark.parametrize("limit", CLOSED, ids=str)
def test_a_limit_of_zero_admits_nobody(ledger, limit):
    """By the fast path and the rule; calls that take nothing of its unit are not its business."""
    ledger.add_plan(UsagePlan("p", limit))
    _, secret = ledger.issue_key("k", "p")
    limits_are_closed(ledger, secret)
    assert ledger.consume(secret, {"tokens": 5})


@pytest.mark.parametrize("limit", CLOSED, ids=str)
def test_a_route_that_is_closed(ledger, limit):
    """The other routes go on, also where the route's throttle stands in place of the plan's."""
    ledger.add_plan(UsagePlan("p", "100/day, 50/s burst 50", routes={"DELETE /": [limit]}))
    _, secret = ledger.issue_key("k", "p")
    assert ledger.consume(secret)
    for _ in range(3):
        refused = ledger.consume(secret, route="DELETE /")
        assert (bool(refused), refused.reason, refused.retry_at) == (False, Reason.COST_TOO_LARGE, None)
        assert ledger.consume(secret, route="GET /")
    assert ledger.consume(secret).limits[0].used == 5


@pytest.mark.parametrize("closed", ["0/s", "0/s burst 5", "0/day as throttle", "5/s burst 0"])
def test_closing_and_opening_refills_nothing(ledger, closed):
    """What was used before a plan was closed is still used when it opens again."""
    ledger.add_plan(UsagePlan("p", "1/day burst 5"))
    _, secret = ledger.issue_key("k", "p")
    assert ledger.consume(secret, 5)
    ledger.replace_plan(UsagePlan("p", closed))
    assert not ledger.consume(secret)
    ledger._clock.advance(timedelta(hours=1))
    refused = ledger.consume(secret)
    assert (bool(refused), refused.retry_at) == (False, None)
    ledger.replace_plan(UsagePlan("p", "1/day burst 5"))
    assert not ledger.consume(secret)


def test_a_quota_that_is_raised_from_zero(ledger):
    """A grant opens it for its window, with what a larger limit admits."""
    ledger.add_plan(UsagePlan("p", "0/day"))
    key, secret = ledger.issue_key("k", "p")
    assert ledger.grant(key, "requests/day", 2).remaining == 2
    assert [bool(ledger.consume(secret)) for _ in range(3)] == [True, True, False]
    assert ledger.consume(secret).retry_at is None
    ledger.replace_plan(UsagePlan("p", "3/day"))
    assert [bool(ledger.consume(secret)) for _ in range(4)] == [True, True, True, False]


@pytest.mark.parametrize(("text", "limit"), [
    ("0/day", Quota(0, "day")), ("0 tokens/month", Quota(0, "month", unit="tokens")), ("0/s", Throttle(0)),
    ("0/s burst 5", Throttle(0, burst=5)), ("0.00/minute burst 0", Throttle(0, "minute")), ("0/7/s", Throttle(Fraction(0))),
    ("10/s burst 0", Throttle(10, burst=0)),
])  # fmt: skip
def test_zero_in_text(text, limit):
    """Read and written as any number."""
    assert parse_limit(text) == limit
    assert parse_limit(str(limit)) == limit


def test_nothing_is_admitted_beyond_zero():
    """A limit of 0 with overage would admit somebody."""
    with pytest.raises(InvalidPlan, match="overage: 5 is not accepted; expected 0 where the limit is 0"):
        Quota(0, "day", overage=5)

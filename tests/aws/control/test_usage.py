"""Usage as the control plane tells and changes it, beside a data plane that counts it."""

from __future__ import annotations

from datetime import datetime, timezone

import pytest

from control import bare, client, plane, refused, served
from quota import Ledger, ManualClock, UsagePlan
from quota.wsgi import QuotaMiddleware
from web import environ


@pytest.fixture
def clock():
    return ManualClock(datetime(2026, 3, 30, 10, tzinfo=timezone.utc))


@pytest.fixture
def ledger(clock):
    with Ledger(clock=clock) as ledger:
        yield ledger


@pytest.fixture
def aws(ledger):
    with served(plane(ledger)) as url:
        yield client(url)


class Site:
    """A site behind the middleware, asked in this process."""

    def __init__(self, app):
        self.app = app

    def get(self, value):
        seen = []
        headers = {"headers": [("x-api-key", value)]}
        self.app(environ(path="/pets", **headers), lambda status, fields, *_: seen.append(int(status[:3])))
        return seen[0]


def keyed(aws, **plan):
    """(plan id, key id, value) of an enabled key on a plan of r1/prod."""
    made = aws.create_usage_plan(**{"name": "n", "apiStages": [{"apiId": "r1", "stage": "prod"}], **plan})
    key = aws.create_api_key(enabled=True)
    aws.create_usage_plan_key(usagePlanId=made["id"], keyId=key["id"], keyType="API_KEY")
    return made["id"], key["id"], key["value"]


def told(aws, plan, since, until, **more):
    return aws.get_usage(usagePlanId=plan, startDate=since, endDate=until, **more)["items"]


def test_what_a_data_plane_counts_is_what_is_told(aws, ledger):
    """Behind the middleware with API Gateway's own refusals: 200s count, 429s and 403s do not."""
    plan, key, value = keyed(aws, quota={"limit": 3, "period": "DAY"})

    def app(environ, start):
        start("200 OK", [("Content-Type", "text/plain")])
        return [b"ok"]

    site = Site(QuotaMiddleware(app, ledger, on_unavailable="deny", api="r1/prod", style="api_gateway"))
    statuses = [site.get(value) for _ in range(5)]
    assert statuses == [200, 200, 200, 429, 429]
    assert site.get("x" * 40) == 403
    assert told(aws, plan, "2026-03-30", "2026-03-30") == {key: [[3, 0]]}
    aws.update_api_key(apiKey=key, patchOperations=[{"op": "replace", "path": "/enabled", "value": "false"}])
    assert site.get(value) == 403
    aws.update_api_key(apiKey=key, patchOperations=[{"op": "replace", "path": "/enabled", "value": "true"}])
    assert site.get(value) == 429
    aws.update_usage(
        usagePlanId=plan, keyId=key, patchOperations=[{"op": "replace", "path": "/remaining", "value": "1"}]
    )
    assert [site.get(value) for _ in range(2)] == [200, 429]
    assert told(aws, plan, "2026-03-30", "2026-03-30") == {key: [[4, 0]]}


def test_used_is_of_the_day_and_remaining_of_the_period(aws, ledger, clock):
    """One pair for each day, both ends with it; a new month begins anew."""
    plan, key, value = keyed(aws, quota={"limit": 1000, "period": "MONTH"})
    for units in (137, 0, 84, 56):
        for _ in range(units):
            assert ledger.consume(value, api="r1/prod")
        clock.advance(86_400_000_000)
    found = aws.get_usage(usagePlanId=plan, startDate="2026-03-28", endDate="2026-04-03")
    assert bare(found) == {
        "usagePlanId": plan, "startDate": "2026-03-28", "endDate": "2026-04-03",
        "items": {key: [[0, 1000], [0, 1000], [137, 863], [0, 863], [84, 916], [56, 860], [0, 860]]},
    }  # fmt: skip
    assert told(aws, plan, "2026-04-01", "2026-04-01") == {key: [[84, 916]]}
    assert told(aws, plan, "2026-04-02", "2026-04-02", keyId=key) == {key: [[56, 860]]}


def test_every_key_of_the_plan_is_told_in_pages(aws):
    """Used or not, the newest first; of one key where it is asked for; none where there is no quota."""
    plan, first, _ = keyed(aws, quota={"limit": 5, "period": "WEEK"})
    keys = [first]
    for _ in range(4):
        keys.append(aws.create_api_key()["id"])
        aws.create_usage_plan_key(usagePlanId=plan, keyId=keys[-1], keyType="API_KEY")
    day = {"usagePlanId": plan, "startDate": "2026-03-30", "endDate": "2026-03-30"}
    whole = aws.get_usage(**day)
    assert whole["items"] == {key: [[0, 5]] for key in keys}
    assert "position" not in whole
    page = aws.get_usage(**day, limit=3)
    rest = aws.get_usage(**day, limit=3, position=page["position"])
    assert (set(page["items"]), set(rest["items"])) == (set(keys[2:]), set(keys[:2]))
    assert aws.get_usage(**day, keyId=keys[1])["items"] == {keys[1]: [[0, 5]]}
    other = aws.create_api_key()["id"]
    assert aws.get_usage(**day, keyId=other)["items"] == {}
    assert refused(aws.get_usage, **day, keyId="nothing") == (
        404,
        "NotFoundException",
        "Invalid API Key identifier specified",
    )
    bare_plan, _, _ = keyed(aws, apiStages=[])
    assert told(aws, bare_plan, "2026-03-30", "2026-03-30") == {}


@pytest.mark.parametrize(("since", "until"), [("2026-03-30", "2026-03-29"), ("soon", "2026-03-30"), ("2026-03-30", "2026-02-30"), ("2020-01-01", "2026-03-30"), ("20260330", "2026-03-30"),
                                              ("", "2026-03-30"), ("9999-12-31", "9999-12-31"), ("0001-01-01", "0001-01-01")])  # fmt: skip
def test_days_that_cannot_be_meant(aws, since, until):
    """400, never an error of ours."""
    plan, _, _ = keyed(aws, quota={"limit": 5, "period": "DAY"})
    assert refused(aws.get_usage, usagePlanId=plan, startDate=since, endDate=until)[:2] == (400, "BadRequestException")


def test_what_remains_is_set(aws, ledger, clock):
    """Above the limit, below it, used stays used, and it is carried into the next day; not into the next period."""
    plan, key, value = keyed(aws, quota={"limit": 50, "period": "MONTH"})
    for _ in range(7):
        ledger.consume(value, api="r1/prod")

    def update(remaining):
        return bare(
            aws.update_usage(
                usagePlanId=plan,
                keyId=key,
                patchOperations=[{"op": "replace", "path": "/remaining", "value": remaining}],
            )
        )

    assert update("100") == {
        "usagePlanId": plan,
        "startDate": "2026-03-30",
        "endDate": "2026-03-30",
        "items": {key: [[7, 100]]},
    }
    assert update("10")["items"] == {key: [[7, 10]]}
    assert update("0")["items"] == {key: [[7, 0]]}
    assert not ledger.consume(value, api="r1/prod")
    assert update("10")["items"] == {key: [[7, 10]]}
    clock.advance(86_400_000_000)
    assert told(aws, plan, "2026-03-30", "2026-03-31") == {key: [[7, 10], [0, 10]]}
    clock.advance(86_400_000_000)
    assert told(aws, plan, "2026-03-31", "2026-04-01") == {key: [[0, 10], [0, 50]]}
    assert bare(aws.update_usage(usagePlanId=plan, keyId=key))["items"] == {key: [[0, 50]]}


@pytest.mark.parametrize(("op", "path", "value", "message"), [
    ("add", "/remaining", "5", "Invalid patch path  '/remaining' specified for op 'add'. Please choose supported operations"),
    ("replace", "/used", "5", "Invalid patch path  '/used' specified for op 'replace'. Must be one of: [/remaining]"),
    ("replace", "/remaining", "-1", None), ("replace", "/remaining", "many", None), ("replace", "/remaining", "1.5", None), ("replace", "/remaining", "9" * 18, None), ("replace", "/remaining", "", None),
])  # fmt: skip
def test_what_remains_cannot_be_anything(aws, op, path, value, message):
    """400, and nothing is changed."""
    plan, key, _ = keyed(aws, quota={"limit": 5, "period": "DAY"})
    status, code, said = refused(
        aws.update_usage, usagePlanId=plan, keyId=key, patchOperations=[{"op": op, "path": path, "value": value}]
    )
    assert (status, code) == (400, "BadRequestException")
    assert message in (None, said)
    assert told(aws, plan, "2026-03-30", "2026-03-30") == {key: [[0, 5]]}


def test_usage_of_what_is_not_there(aws):
    """A plan, a key, a key that is not on the plan: 404; a plan without a quota: 400."""
    plan, key, _ = keyed(aws)
    operations = [{"op": "replace", "path": "/remaining", "value": "5"}]
    assert refused(aws.update_usage, usagePlanId=plan, keyId=key, patchOperations=operations)[:2] == (
        400,
        "BadRequestException",
    )
    for ids in (
        {"usagePlanId": "nothing", "keyId": key},
        {"usagePlanId": plan, "keyId": "nothing"},
        {"usagePlanId": plan, "keyId": aws.create_api_key()["id"]},
    ):
        assert refused(aws.update_usage, **ids, patchOperations=operations)[:2] == (404, "NotFoundException")


def test_a_plan_of_the_ledger_s_own_words(aws, ledger):
    """Its quota in days is told; its tokens are not."""
    ledger.add_plan(UsagePlan("p", "100 tokens/day, 9/day", api="r1/prod"))
    key, secret = ledger.issue_key("k", plan="p")
    ledger.consume(secret, {"requests": 2, "tokens": 30}, api="r1/prod")
    assert told(aws, "p", "2026-03-30", "2026-03-30") == {key.id: [[2, 7]]}

"""The usage page: what a key has used, for its holder and nobody else; JSON, and HTML without a script."""

from __future__ import annotations

import io
import json
from base64 import b64encode
from datetime import datetime, timedelta, timezone
from hashlib import sha256
from html.parser import HTMLParser
from urllib.parse import urlencode

import jsonschema
import pytest

import paths
from quota import InvalidValue, Ledger, ManualClock, UsagePlan
from quota.web import usage_page
from web import wsgi

NOON = datetime(2026, 3, 29, 12, tzinfo=timezone.utc)
DOCUMENT = json.loads((paths.ROOT / "docs" / "usage-page.openapi.json").read_text("utf-8"))
SCHEMA = DOCUMENT["components"]["schemas"]["Usage"]


@pytest.fixture
def clock():
    return ManualClock(NOON - timedelta(days=2))


@pytest.fixture
def ledger(clock):
    with Ledger(clock=clock) as ledger:
        ledger.add_plan(UsagePlan("free", "5/day, 100/month, 2/s burst 50", name="Free & easy"))
        yield ledger


@pytest.fixture
def key(ledger, clock):
    key, secret = ledger.issue_key("Ada's <b>laptop</b>", plan="free")
    for units in (3, 5):
        for _ in range(units):
            assert ledger.consume(secret)
        clock.advance(timedelta(days=1))
    return key, secret


def ask(
    app, secret=None, *, method="GET", form=None, accept="*/*", query="", path="/usage", address="203.0.113.9", **more
):
    """One request of a strict server."""
    headers = [("accept", accept)] + ([("x-api-key", secret)] if secret else [])
    if form is not None:
        body = form if isinstance(form, bytes) else urlencode(form).encode()
        more = {
            "wsgi.input": io.BytesIO(body),
            "CONTENT_LENGTH": str(len(body)),
            "CONTENT_TYPE": "application/x-www-form-urlencoded",
            **more,
        }
    return wsgi(
        app, method, path, headers, query, REMOTE_ADDR=address, check=more.get("CONTENT_LENGTH") != "-4", **more
    )


class Page(HTMLParser):
    """A page's tags, attributes and text."""

    def __init__(self, body):
        super().__init__()
        self.tags, self.text, self.open = [], "", []
        self.feed(body.decode())

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self.open.append(tag)

    def handle_endtag(self, tag):
        while self.open.pop() != tag:
            pass

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.text += data + " "


def test_where_each_limit_stands_as_json(ledger, key):
    """By its schema; what was used on each of the last 35 days; nothing is charged, again and again."""
    app = usage_page(ledger)
    for _ in range(3):
        answer = ask(app, key[1], query="zone=Europe/Paris")
        data = json.loads(answer.body)
        jsonschema.validate(data, SCHEMA)
        assert (answer.status, answer["content-type"], answer["cache-control"]) == (200, "application/json", "no-store")
    (plan,) = data["plans"]
    assert [(limit["name"], limit["kind"], limit["used"], limit["remaining"]) for limit in plan["limits"]] == [
        ("requests/day", "quota", 0, 5), ("requests/month", "quota", 8, 92), ("throttle", "throttle", 0, 50),
    ]  # fmt: skip
    assert plan["limits"][1]["resets_at"] == "2026-04-01T02:00:00+02:00"
    assert data["at"] == "2026-03-29T14:00:00+02:00"
    days = plan["history"][1]["days"]
    assert (days[0]["day"], days[-1]["day"], len(days)) == ("2026-02-23", "2026-03-29", 35)
    assert [day["used"] for day in days[-4:]] == [0, 3, 5, 0]


def test_an_exhausted_key_is_shown(ledger, key):
    """That nothing is left, in words; one with no plan, and one with several."""
    for _ in range(5):
        ledger.consume(key[1])
    assert not ledger.consume(key[1])
    app = usage_page(ledger)
    assert json.loads(ask(app, key[1]).body)["plans"][0]["limits"][0]["remaining"] == 0
    assert "none left" in Page(ask(app, key[1], accept="text/html").body).text
    _, bare = ledger.issue_key("bare")
    assert json.loads(ask(app, bare).body)["plans"] == []
    assert "on no plan" in Page(ask(app, bare, accept="text/html").body).text
    ledger.add_plan(UsagePlan("other", (), api="maps"))
    ledger.associate(key[0], "other")
    text = Page(ask(app, key[1], accept="text/html").body).text
    assert "for maps" in text
    assert "no limits" in text


def test_limits_of_the_accounts_above(ledger, key):
    """Those of an account's plan are told by its name, each of its kind; of two accounts each its own."""
    ledger.add_plan(UsagePlan("team", "90/day, 70/s burst 80"))
    ledger.add_plan(UsagePlan("company", "900/s burst 1000"))
    for account, parent, plan in (("acme", None, "company"), ("engines", "acme", "team")):
        ledger.add_account(account, parent=parent)
        ledger.associate(account, plan)
    _, secret = ledger.issue_key("Grace", plan="free", account="engines")
    ledger.consume(secret)
    data = json.loads(ask(usage_page(ledger), secret).body)
    jsonschema.validate(data, SCHEMA)
    told = {limit["name"]: (limit["kind"], limit["used"], limit["limit"]) for limit in data["plans"][0]["limits"]}
    assert {name: one for name, one in told.items() if ":" in name} == {
        "engines: requests/day": ("quota", 1, 90), "engines: throttle": ("throttle", 1, 80), "acme: throttle": ("throttle", 1, 1000),
    }  # fmt: skip
    assert "acme: throttle (at once)" in Page(ask(usage_page(ledger), secret, accept="text/html").body).text


def test_calls_in_flight(ledger):
    """How many slots are taken, in words; there is no history of them."""
    ledger.add_plan(UsagePlan("slots", "9/day, 3 concurrent"))
    _, secret = ledger.issue_key("Grace", plan="slots")
    with ledger.reserve(secret, 1, ttl=timedelta(minutes=1)):
        answer = ask(usage_page(ledger), secret)
        page = Page(ask(usage_page(ledger), secret, accept="text/html").body).text
    data = json.loads(answer.body)
    jsonschema.validate(data, SCHEMA)
    (plan,) = data["plans"]
    told = [(limit["kind"], limit["used"], limit["remaining"]) for limit in plan["limits"]]
    assert told == [("quota", 1, 8), ("concurrency", 1, 2)]
    assert [one["limit"] for one in plan["history"]] == ["requests/day"]
    assert "concurrency (in flight)" in page
    assert "as calls end" in page


def test_what_limits_of_a_unit_have_in_common_is_drawn_once(ledger):
    """A day's and a month's requests are one picture that names both; tokens, used as often, have their own."""
    ledger.add_plan(UsagePlan("both", "9/day, 99/month, 50 tokens/day"))
    _, secret = ledger.issue_key("Grace", plan="both")
    ledger.consume(secret, {"requests": 1, "tokens": 1})
    html = ask(usage_page(ledger), secret, accept="text/html").body
    assert html.count(b"<svg") == 2
    assert html.count(b"<h3>requests/day and requests/month: the last 35 days</h3>") == 1
    assert html.count(b"<h3>tokens/day: the last 35 days</h3>") == 1
    histories = json.loads(ask(usage_page(ledger), secret).body)["plans"][0]["history"]
    assert [one["limit"] for one in histories] == ["requests/day", "requests/month", "tokens/day"]


def told_of(ledger, secret):
    """({(route, name): (kind, used, remaining)} of the first plan, the JSON, the page's text)."""
    data = json.loads(ask(usage_page(ledger), secret).body)
    jsonschema.validate(data, SCHEMA)
    told = {
        (limit["route"], limit["name"]): (limit["kind"], limit["used"], limit["remaining"])
        for limit in data["plans"][0]["limits"]
    }
    assert len(told) == len(data["plans"][0]["limits"])
    return told, data, Page(ask(usage_page(ledger), secret, accept="text/html").body).text


def test_limits_of_routes(ledger):
    """The plan's own and an account's, each with its route: what one of them refuses is not told as free."""
    routes = {"GET /a": "1/day, 5/s", "POST /b/*": "2/day", "say": "3 concurrent"}
    ledger.add_plan(UsagePlan("r", "9/day", routes=routes))
    ledger.add_plan(UsagePlan("t", (), routes={"GET /a": "4/day", "ANY /c": "6/day"}))
    ledger.add_account("acme")
    ledger.associate("acme", "t")
    _, secret = ledger.issue_key("Grace", plan="r", account="acme")
    assert ledger.consume(secret, route="GET /a")
    assert not ledger.consume(secret, route="GET /a")
    assert ledger.consume(secret, route="POST /b/7")
    told, _, text = told_of(ledger, secret)
    assert told == {
        (None, "requests/day"): ("quota", 2, 7),
        ("GET /a", "GET /a requests/day"): ("quota", 1, 0), ("GET /a", "throttle"): ("throttle", 1, 4),
        ("GET /a", "acme: requests/day"): ("quota", 1, 3), ("POST /b/*", "POST /b/* requests/day"): ("quota", 1, 1),
        ("say", "concurrency"): ("concurrency", 0, 3), ("ANY /c", "acme: requests/day"): ("quota", 0, 6),
    }  # fmt: skip
    for words in (
        "GET /a requests/day",
        "GET /a: throttle (at once)",
        "ANY /c: acme: requests/day",
        "say: concurrency",
    ):
        assert words in text


def test_an_account_s_plans_of_other_apis(ledger):
    """Of a plan for several apis every account's limit is told, whichever of them it is for."""
    ledger.add_plan(UsagePlan("both", "9/day", apis=("r1", "r2")))
    for api, limits in (("r1", "5/day"), ("r2", "6/day, 7/month")):
        ledger.add_plan(UsagePlan(f"team {api}", limits, api=api))
    ledger.add_account("acme")
    for plan in ("team r1", "team r2"):
        ledger.associate("acme", plan)
    _, secret = ledger.issue_key("Grace", plan="both", account="acme")
    assert ledger.consume(secret, api="r2")
    assert told_of(ledger, secret)[0] == {
        (None, "requests/day"): ("quota", 1, 8), (None, "acme: requests/day"): ("quota", 0, 5),
        (None, "acme: requests/day (r2)"): ("quota", 1, 5), (None, "acme: requests/month"): ("quota", 1, 6),
    }  # fmt: skip


def test_what_is_granted_taken_overridden_and_to_come(ledger, key):
    """A key whose units were taken away is told when it gets new ones; the plan that it goes to, and when."""
    ledger.set_remaining(key[0], "requests/day", 0)
    ledger.override_limit(key[0], "requests/month", 1000, until=datetime(2026, 5, 1, tzinfo=timezone.utc))
    ledger.add_plan(UsagePlan("next", "50/day", name="Next <i>"))
    ledger.associate(key[0], "next", at=datetime(2026, 4, 1, tzinfo=timezone.utc))
    told, data, text = told_of(ledger, key[1])
    assert told[None, "requests/day"] == ("quota", 0, 0)
    assert data["plans"][0]["limits"][0]["resets_at"] == "2026-03-30T00:00:00+00:00"
    assert data["plans"][0]["limits"][0]["override"] is None
    assert data["plans"][0]["limits"][1]["limit"] == 1000
    assert data["plans"][0]["limits"][1]["override"] == {"until": "2026-05-01T00:00:00+00:00"}
    assert "(agreed until 2026-05-01 00:00 )" in " ".join(text.split())
    ledger.override_limit(key[0], "requests/month", 1000)
    assert "(agreed for good)" in " ".join(told_of(ledger, key[1])[2].split())
    assert data["key"]["scheduled"] == [{"plan": "Next <i>", "at": "2026-04-01T00:00:00+00:00"}]
    assert "goes to the plan Next <i> on 2026-04-01 00:00" in " ".join(text.split())


def test_an_account_that_goes_to_a_plan(ledger):
    """The account's own change, and that of one above it; one that goes nowhere is not named."""
    ledger.add_plan(UsagePlan("next", "50/day", name="Next <i>"))
    for id_, parent in (("top", None), ("middle", "top"), ("acme", "middle")):
        ledger.add_account(id_, parent=parent, name=f"{id_} <Ltd>")
    for id_, day in (("acme", 1), ("top", 2)):
        ledger.associate(id_, "next", at=datetime(2026, 4, day, tzinfo=timezone.utc))
    _, secret = ledger.issue_key("Grace", plan="free", account="acme")
    _, data, text = told_of(ledger, secret)
    assert data["key"]["scheduled"] == []
    assert data["accounts"] == [
        {"name": "acme <Ltd>", "scheduled": [{"plan": "Next <i>", "at": "2026-04-01T00:00:00+00:00"}]},
        {"name": "top <Ltd>", "scheduled": [{"plan": "Next <i>", "at": "2026-04-02T00:00:00+00:00"}]},
    ]
    words = " ".join(text.split())
    for name, day in (("acme", 1), ("top", 2)):
        assert f"Its account {name} <Ltd> goes to the plan Next <i> on 2026-04-0{day} 00:00" in words
    assert "middle" not in words


def test_an_account_of_a_key_s_id(ledger, key):
    """Which of the two a text names is no matter of the page's: an account is asked for as one."""
    ledger.add_plan(UsagePlan("company", "900/s burst 1000"))
    ledger.add_account("acme")
    ledger.associate("acme", "company")
    _, secret = ledger.issue_key("Grace", plan="free", account="acme")
    ledger.issue_key("Rival", plan="free", id="acme", account="other")
    names = [limit["name"] for limit in json.loads(ask(usage_page(ledger), secret).body)["plans"][0]["limits"]]
    assert "acme: throttle" in names
    assert "Rival" not in ask(usage_page(ledger), secret).body.decode()


def test_a_key_that_is_removed_meanwhile(ledger, key, monkeypatch):
    """Between being found and being told of: 503, as when the store cannot be asked, and nothing is shown."""
    real = type(ledger).list_plans

    def removing(self, *given):
        self.remove_key(key[0])
        return real(self, *given)

    monkeypatch.setattr(type(ledger), "list_plans", removing)
    assert ask(usage_page(ledger), key[1]).status == 503
    assert ask(usage_page(ledger), key[1]).status == 401


def test_the_page_for_people(ledger, key):
    """No script, no address but its own, every name as text, a policy that its style alone fits; labels and headings."""
    answer = ask(usage_page(ledger), key[1], accept="text/html,application/xhtml+xml,*/*;q=0.8")
    page = Page(answer.body)
    assert "Ada's <b>laptop</b>" in page.text
    assert "Free & easy" in page.text
    tags = {tag for tag, _ in page.tags}
    assert not tags & {"script", "link", "img", "iframe", "object", "embed", "base", "a", "style"} - {"style"}
    assert not [
        name
        for _, attributes in page.tags
        for name in attributes
        if name.startswith("on") or name in ("src", "href", "style", "action")
    ]
    style = answer.body.decode().split("<style>")[1].split("</style>")[0]
    policy = answer["content-security-policy"]
    assert f"style-src 'sha256-{b64encode(sha256(style.encode()).digest()).decode()}'" in policy
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    labelled = {attributes["for"] for tag, attributes in page.tags if tag == "label"}
    assert {attributes["id"] for tag, attributes in page.tags if tag == "input"} == labelled == {"key", "zone"}
    assert all(
        "role" in attributes and "used from" in attributes["aria-label"]
        for tag, attributes in page.tags
        if tag == "svg"
    )
    assert [tag for tag, _ in page.tags if tag in ("h1", "main", "title")] == ["title", "main", "h1"]
    assert ("html", {"lang": "en"}) in page.tags
    assert key[1] not in answer.body.decode()


def test_the_form(ledger, key):
    """The key goes in the form alone, with a time zone; the answer does not repeat it."""
    app = usage_page(ledger)
    empty = ask(app, accept="text/html")
    assert empty.status == 200
    assert ("form", {"method": "post"}) in Page(empty.body).tags
    shown = ask(app, method="POST", form={"key": f" {key[1]} ", "zone": "Asia/Tokyo"}, accept="text/html")
    assert shown.status == 200
    assert "2026-03-29 21:00" in Page(shown.body).text
    assert key[1] not in shown.body.decode()
    assert json.loads(ask(app, method="POST", form={"key": key[1]}).body)["key"]["name"] == key[0].name


@pytest.mark.parametrize("accept", ["*/*", "text/html"])
@pytest.mark.parametrize(("how", "status"), [
    ({"path": "/"}, 404), ({"path": "/usage/"}, 404), ({"query": "key=KEY"}, 400), ({"query": "x-api-key=KEY&zone=UTC"}, 400), ({"query": "zone=../../etc/passwd"}, 400), ({"query": "zone=Nowhere/Else"}, 400),
    ({"query": "zone=<b>"}, 400), ({"query": "&".join(f"a{at}=" for at in range(20))}, 400), ({"method": "PUT"}, 405), ({"method": "POST", "form": b"x" * 5000}, 413), ({"method": "POST", "form": {"key": ""}}, 401),
    ({"method": "POST", "form": {"key": "qk_nothing"}}, 401), ({"method": "POST", "form": b"key=%ff%00&zone=%80"}, 400), ({"method": "POST", "form": {"key": "x"}, "CONTENT_TYPE": "application/json"}, 415),
    ({"method": "POST", "form": {"key": "x"}, "CONTENT_LENGTH": "-4"}, 400),
])  # fmt: skip
def test_what_cannot_be_asked(ledger, key, how, status, accept):
    """Told in a line, as problem details or on the form, with nothing of what came."""
    how = {**how, "query": how.get("query", "").replace("KEY", key[1])}
    answer = ask(usage_page(ledger), accept=accept, **how)
    assert answer.status == status
    assert key[1] not in answer.body.decode()
    assert b"<b>" not in answer.body.replace(b"<b></b>", b"")
    if accept == "*/*":
        assert json.loads(answer.body)["status"] == status
    else:
        assert 'role="alert"' in answer.body.decode()


def test_no_key_and_keys_that_may_not_be_used(ledger, key):
    """401 with what is wanted; disabled, expired and of another network: 403 with why."""
    app = usage_page(ledger)
    assert ask(app)["www-authenticate"] == 'ApiKey in="header", name="x-api-key"'
    ledger.disable_key(key[0])
    assert ask(app, key[1]).status == 403
    ledger.enable_key(key[0])
    ledger.update_key(key[0], networks=["198.51.100.0/24"])
    assert ask(app, key[1]).status == 403
    assert ask(app, key[1], address="198.51.100.7").status == 200
    ledger.rotate_key(key[0])
    assert ask(app, key[1], address="198.51.100.7").status == 401


def test_keys_that_nobody_has_are_bounded(ledger, key):
    """By address; whoever has a key is never refused for them."""
    app = usage_page(ledger, failed_keys="3/minute")
    assert [ask(app, "x" * 30).status for _ in range(5)] == [401, 401, 401, 429, 429]
    assert ask(app, key[1]).status == 200
    assert ask(app, "x" * 30, address="203.0.113.10").status == 401


@pytest.mark.parametrize(("limit", "wait"), [("1/hour", 3600), ("0.1/s burst 1", 10), ("0/day", None)])
def test_who_guesses_is_told_when_to_come_back(limit, wait):
    """When the limit admits another key, not a minute later whatever it is; never, where it admits none."""
    app = usage_page(Ledger(clock=ManualClock(0)), failed_keys=limit)
    answers = [ask(app, "x" * 30) for _ in range(2)]
    assert answers[1].status == 429
    assert dict(answers[1].fields).get("Retry-After") == (None if wait is None else str(wait))


def test_nothing_of_anybody_else_is_shown(ledger, key):
    """Of two keys of one plan, each its own name and count."""
    _, other = ledger.issue_key("Grace", plan="free")
    ledger.consume(other)
    text = ask(usage_page(ledger), other).body.decode()
    assert "Ada" not in text
    assert json.loads(text)["plans"][0]["limits"][1]["used"] == 1


def test_head_has_no_body_and_other_headers_can_be_named(ledger, key):
    """As a GET has them."""
    app = usage_page(ledger, header="X-Shop-Key")
    assert wsgi(app, "GET", "/usage", [("x-shop-key", key[1])]).status == 200
    answer = wsgi(app, "HEAD", "", [("x-shop-key", key[1])], check=False)
    assert (answer.status, answer.body) == (200, b"")


def test_a_store_that_is_away(ledger, key, monkeypatch):
    """503, and what is wrong is for the log alone."""
    from quota import StoreUnavailable

    def away(*_):
        raise StoreUnavailable("at secret.example")

    monkeypatch.setattr(type(ledger.store), "list_plans", away)
    monkeypatch.setattr(type(ledger.store), "apply", away)
    answer = ask(usage_page(ledger), key[1])
    assert answer.status == 503
    assert b"secret.example" not in answer.body


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("ledger", None), ("header", "a b"), ("header", ""), ("trusted_proxies", -1), ("failed_keys", "many"),
        ("failed_keys", None), ("failed_keys", 20), ("failed_keys", "5 concurrent"), ("failed_keys", "20 tokens/minute"),
    ],
)  # fmt: skip
def test_what_a_page_cannot_be_made_of(ledger, field, value):
    """Named. A limit on other units than requests would count no key."""
    with pytest.raises(InvalidValue) as error:
        usage_page(**{"ledger": ledger, field: value})
    assert error.value.field == field

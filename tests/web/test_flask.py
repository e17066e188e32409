"""``quota.flask``: in front of every view or of some, by Flask's own client; refusals are errors that Flask handles."""

from __future__ import annotations

import io
import json

import flask
import pytest
from flask.views import MethodView
from flask_cors import CORS

from quota import AsyncLedger, InvalidValue, Ledger, StoreUnavailable, UsagePlan
from quota.flask import Quota, Refused
from quota.web import Anonymous, Answer


class Shop:
    """A Flask application with the extension, its ledger and its client."""

    def __init__(self, limits="3/day", routes=(), store=None, plans=(), **settings):
        self.ledger = Ledger(store)
        self.ledger.add_plan(UsagePlan("p", limits, routes=dict(routes)))
        for plan in plans:
            self.ledger.add_plan(plan)
        self.key, self.secret = self.ledger.issue_key("k", "p")
        self.app = app = flask.Flask("shop")
        self.quota = quota = Quota(app, self.ledger, **{"on_unavailable": "deny", **settings})
        self.seen = []
        app.get("/pets/<int:number>")(self.pet)

        @app.get("/costly")
        @quota.limited(cost=2)
        def costly():
            return "costly"

        @quota.limited(route="exports")
        @app.get("/export")
        def export():
            return "all"

        @app.get("/held")
        @quota.limited(charge="success")
        def held():
            flask.abort(int(flask.request.args["status"]))

        @app.get("/stream")
        @quota.limited(charge="success")
        def stream():
            def parts():
                yield "a"
                if "break" in flask.request.args:
                    raise ZeroDivisionError
                yield "b"

            return flask.Response(flask.stream_with_context(parts()))

        @app.get("/raises")
        @quota.limited(charge="success")
        def raises():
            raise ZeroDivisionError

        @app.get("/seven")
        @quota.limited(charge="response")
        def seven():
            flask.g.quota_actual = 7
            return "seven"

        @app.post("/echo")
        def echo():
            self.seen.append((flask.request.args.get("key"), dict(flask.request.headers), flask.request.url))
            return flask.request.get_data() or str(flask.request.files)

        class Classy(MethodView):
            decorators = [quota.limited(cost=3)]

            def get(self):
                return "classy"

        app.add_url_rule("/class", view_func=Classy.as_view("class"))
        self.client = app.test_client()

    def pet(self, number):
        return f"{number} for {flask.g.quota.key and flask.g.quota.key.name}"

    def get(self, url, key=None, method="get", **more):
        headers = {**({"x-api-key": key} if key else {}), **more.pop("headers", {})}
        return getattr(self.client, method)(url, headers=headers, **more)

    def statuses(self, *urls):
        return [self.get(url, self.secret).status_code for url in urls]

    @property
    def used(self):
        return sum(record.used for record in self.ledger.usage(self.key) if record.limit == "requests/day")


def test_every_view():
    """Who has a key is served within the limits and sees them; nobody else is; what there is no view for counts too."""
    shop = Shop()
    assert shop.get("/pets/7").status_code == 403
    answer = shop.get("/pets/7", shop.secret)
    assert (answer.text, '"requests/day";r=2' in answer.headers["RateLimit"]) == ("7 for k", True)
    assert shop.statuses("/none", "/pets/1", "/pets/2") == [404, 200, 429]
    answer = shop.get("/pets/7", shop.secret)
    assert (answer.content_type, answer.json["violated-policies"]) == ("application/problem+json", ["requests/day"])
    assert answer.headers["Retry-After"]
    assert shop.get("/pets/7", shop.secret, "head").data == b""
    assert shop.used == 3


def test_some_views():
    """With ``everywhere=False`` only what is limited asks for a key."""
    shop = Shop("9/day", everywhere=False)
    shop.app.get("/free")(lambda: "free")
    assert (shop.get("/free").text, shop.get("/none").status_code) == ("free", 404)
    assert shop.get("/costly").status_code == 403
    assert shop.get("/costly", shop.secret).text == "costly"
    assert shop.used == 2


def test_a_view_s_own_settings():
    """Are in place of the extension's, whichever side of the route they stand, and count once."""
    shop = Shop("9/day", {"exports": "1/day as exports"})
    assert shop.statuses("/costly", "/class") == [200, 200]
    assert shop.used == 5
    assert shop.statuses("/export", "/export") == [200, 429]
    assert shop.used == 6


def test_rules_name_the_routes():
    """Flask's own rule, HEAD as GET; a function of the request may name them otherwise."""
    shop = Shop("99/day", {"GET /pets/<int:number>": "2/day as pets"})
    assert shop.get("/pets/1", shop.secret, "head").status_code == 200
    assert shop.statuses("/pets/2", "/pets/3", "/costly") == [200, 429, 200]
    shop = Shop("99/day", {"pet": "1/day as pets"}, route=lambda request: request.endpoint)
    assert shop.statuses("/pets/1", "/pets/2") == [200, 429]


def test_what_is_settled():
    """Failures, errors and streams that break give back what they held; successes keep it; a view says what it used."""
    shop = Shop("100/day")
    for url, status, total in (
        ("/held?status=500", 500, 0), ("/held?status=404", 404, 0), ("/stream", 200, 1), ("/raises", 500, 1), ("/seven", 200, 8),
    ):  # fmt: skip
        answer = shop.get(url, shop.secret)
        assert (answer.status_code, bool(answer.get_data())) == (status, True)
        assert shop.used == total, url
    with pytest.raises(ZeroDivisionError):
        shop.get("/stream?break", shop.secret).get_data()
    shop.app.testing = True
    with pytest.raises(ZeroDivisionError):
        shop.get("/raises", shop.secret)
    assert shop.used == 8
    assert [status.used for status in shop.ledger.status(shop.key)] == [8]


def test_errors_are_flask_s_own():
    """``errorhandler`` sees a refusal, by status and by class, and after it CORS adds its headers."""
    shop = Shop("1/day")
    CORS(shop.app, origins=["https://shop.example"])

    @shop.app.errorhandler(429)
    def slow_down(error):
        return f"slow down: {error.decision.reason.value}", 429, error.get_response().headers

    answer = [shop.get("/pets/1", shop.secret, headers={"Origin": "https://shop.example"}) for _ in range(2)][1]
    assert (answer.status_code, answer.text) == (429, "slow down: QUOTA_EXCEEDED")
    assert answer.headers["Access-Control-Allow-Origin"] == "https://shop.example"
    assert answer.headers["Retry-After"]
    shop = Shop("1/day")
    shop.app.register_error_handler(Refused, lambda error: ("refused", error.answer.status))
    assert (shop.get("/pets/1").text, shop.get("/pets/1").status_code) == ("refused", 403)


def test_the_secret_is_hidden():
    """Wherever the view looks; the body is whole."""
    shop = Shop("99/day", key=["x-api-key", "?key"], cost_from_body=len)
    answer = shop.get(f"/echo?key={shop.secret}", None, "post", data=b"12345", headers={"x-api-key": ""})
    assert answer.data == b"12345"
    answer = shop.get("/echo", shop.secret, "post", data=b"12")
    assert shop.secret not in str(shop.seen) and str(shop.seen).count(f"****{shop.secret[-4:]}") >= 3
    assert shop.used == 7
    answer = shop.get("/echo", shop.secret, "post", data={"file": (io.BytesIO(b"content"), "a.txt")})
    assert "a.txt" in answer.text
    assert shop.used == 8


def test_a_body_that_was_begun_to_be_read_before():
    """By another ``before_request``: the estimate sees all of it."""
    shop = Shop("99/day", cost_from_body=len)
    shop.app.before_request_funcs[None].insert(0, lambda: flask.request.get_data() and None)
    assert shop.get("/echo", shop.secret, "post", data=b"12345").data == b"12345"
    assert shop.used == 5


def test_callables_are_given_flask_s_request():
    """Each of them, in Flask's context."""
    given = []

    def note(answer):
        def function(*args):
            given.append(args[-1].endpoint == flask.request.endpoint == "pet")
            return answer

        return function

    shop = Shop(
        "9/day", key=note(None), anonymous=Anonymous("p", by=note("ann")), cost=note(5), charge="response", actual=note(4), exempt=note(False),
        report=note(None), refuse=lambda decision, request: Answer(418, [], request.path.encode()),
    )  # fmt: skip
    assert shop.get("/pets/1").text == "1 for None"
    assert shop.get("/pets/1").text == "1 for None"
    assert (shop.get("/pets/1").status_code, shop.get("/pets/1").data) == (418, b"/pets/1")
    assert len(given) >= 12 and all(given)


@pytest.mark.parametrize("name", ["key", "cost", "refuse"])
def test_what_nobody_would_await_is_refused(name):
    """Around what the framework calls it would be hidden."""

    async def function(*_):
        return None

    with pytest.raises(InvalidValue, match=name):
        Shop("9/day", **{name: function})


def test_people_guesses_and_preflights():
    """Addresses are counted, guesses share one count whatever the view, preflights go as they are told to."""
    shop = Shop("9/day", plans=[UsagePlan("free", "1/day")], anonymous=Anonymous("free"), failed_keys="2/minute")
    assert [shop.get("/pets/1").status_code for _ in range(2)] == [200, 429]
    assert [shop.get(url, "none" * 9).status_code for url in ("/pets/1", "/costly", "/held?status=404")] == [
        403,
        403,
        429,
    ]
    browser = {"Origin": "https://shop.example", "Access-Control-Request-Method": "GET"}
    for said, status in (("ask", 403), ("pass", 200), ("answer", 204)):
        assert Shop(preflight=said).get("/pets/1", None, "options", headers=browser).status_code == status


@pytest.mark.parametrize(("said", "status"), [("deny", 503), ("allow", 200)])
def test_a_store_that_is_away(said, status, tmp_path):
    """Is answered as the settings say; an error handler sees it too."""
    shop = Shop(store=f"sqlite:///{tmp_path}/u.db", on_unavailable=said)

    def away(request):
        raise StoreUnavailable("gone")

    shop.ledger.store.apply = away
    assert shop.statuses("/costly") == [status]


def test_from_the_configuration(tmp_path):
    """A factory's way: ``init_app``, the ledger and settings from ``app.config``."""
    quota = Quota()
    app = flask.Flask("shop")
    app.config.update(QUOTA_LEDGER=f"sqlite:///{tmp_path}/u.db", QUOTA_ON_UNAVAILABLE="deny", QUOTA_UNAUTHORIZED=401)
    quota.init_app(app)
    app.get("/")(lambda: "home")
    answer = app.test_client().get("/")
    assert (answer.status_code, answer.headers["WWW-Authenticate"]) == (401, 'ApiKey in="header", name="x-api-key"')
    with Ledger(f"sqlite:///{tmp_path}/u.db") as ledger:
        ledger.add_plan(UsagePlan("p", "1/day"))
        secret = ledger.issue_key("k", "p").secret
    assert app.test_client().get("/", headers={"x-api-key": secret}).text == "home"
    with pytest.raises(InvalidValue, match="no Quota yet"):
        quota.init_app(app)


def test_bad_settings():
    """Each is refused at once, and named."""
    ledger, app = Ledger(), flask.Flask("shop")
    for wrong, field in (
        (lambda: Quota(app, ledger), "on_unavailable"),
        (lambda: Quota(app, None, on_unavailable="deny"), "ledger"),
        (lambda: Quota(app, AsyncLedger(), on_unavailable="deny"), "ledger"),
        (lambda: Quota(app, ledger, on_unavailable="deny", everywhere=1), "everywhere"),
        (lambda: Quota(app, ledger, on_unavailable="deny", costs=1), "costs"),
        (lambda: Quota(app, ledger, on_unavailable="maybe"), "on_unavailable"),
        (lambda: Quota().limited(price=1), "price"),
        (lambda: Quota().limited(cost=2)(Shop().pet), "view"),
        (lambda: Quota().limited(ledger=ledger), "ledger"),
        (lambda: Quota().limited(cost=0), "cost"),
        (lambda: Quota().limited(ttl=0), "ttl"),
        (lambda: Quota().limited(anonymous="free"), "anonymous"),
        (lambda: Quota().limited(route=""), "route"),
        (lambda: Quota().limited(route=5), "route"),
        (lambda: Quota().limited(charge="success", actual=len), "actual"),
    ):
        with pytest.raises(InvalidValue, match=f"^{field}: "):
            wrong()
    assert json.dumps(list(app.extensions)) == "[]"
    assert Quota().limited(route="exports", actual=len)

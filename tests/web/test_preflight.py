"""CORS: no preflight is served without a key unless that was said, and real CORS layers go on working."""

from __future__ import annotations

import warnings

import flask
import pytest
from corsheaders.middleware import CorsMiddleware
from django.core.asgi import get_asgi_application
from django.core.wsgi import get_wsgi_application
from django.test import override_settings
from fastapi import Depends, FastAPI
from flask_cors import CORS
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import PlainTextResponse
from starlette.routing import Route

import django_site  # noqa: F401 -- sets Django up
import quota.asgi
import quota.wsgi
from quota import Reason
from quota.fastapi import QuotaKey
from quota.web.gate import Gate
from web import Front, Site, asgi, ledger, wsgi

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # Starlette prefers a later httpx for its test client, and works with this one
    from starlette.testclient import TestClient

ASKS = {
    "Origin": "https://a.example",
    "Access-Control-Request-Method": "PUT",
    "Access-Control-Request-Headers": "x-api-key, content-type",
}
MADE_UP = [
    ASKS, {"Access-Control-Request-Method": "GET"}, {"Access-Control-Request-Method": ""},
    {"Origin": "null", "Access-Control-Request-Method": "GET"}, {"Origin": ""},
]  # fmt: skip


@pytest.fixture(params=["wsgi", "asgi"])
def kind(request):
    return request.param


@pytest.fixture
def made():
    return ledger()


def used(made, secret):
    return sum(record.used for record in made.usage(made.peek(secret).key))


# The setting


@pytest.mark.parametrize("headers", MADE_UP)
def test_no_preflight_is_served_without_a_key(kind, made, headers):
    """Whatever calls itself a preflight is refused like any request without a key: the application may answer it in full."""
    front = Front(kind, Site(chunks=(b"the paid report",)), made[0])
    assert front("OPTIONS", headers=headers).status == 403
    assert front.site.seen == []


def test_a_preflight_with_a_key_is_a_request(kind, made):
    """One that does carry a key, in the query say, is counted."""
    front = Front(kind, Site(), made[0], key="?key")
    assert front("OPTIONS", headers=ASKS, query=f"key={made[1]}").status == 200
    assert used(*made) == 1


def test_passed_when_said(kind, made):
    """With ``preflight="pass"`` what has a browser's headers goes to the application, uncounted; nothing else does."""
    front = Front(kind, Site(), made[0], preflight="pass")
    assert front("OPTIONS", headers=ASKS).status == 200
    assert front.site.decision is None
    for method, headers in (
        ("OPTIONS", {}),
        ("GET", ASKS),
        *(("OPTIONS", h) for h in MADE_UP[1:3]),
        ("OPTIONS", MADE_UP[4]),
    ):
        assert front(method, headers=headers).status == 403
    assert len(front.site.seen) == 1


def test_answered_when_said(kind, made):
    """With ``preflight="answer"`` it never reaches the application: a 204 that lets a browser go on, with any key."""
    front = Front(kind, Site(), made[0], preflight="answer")
    answer = front("OPTIONS", headers=ASKS)
    assert (answer.status, answer.body) == (204, b"")
    assert answer["Access-Control-Allow-Origin"] == "*"
    assert answer["Access-Control-Allow-Methods"] == "PUT"
    assert answer["Access-Control-Allow-Headers"] == "x-api-key, content-type"
    assert answer["Access-Control-Max-Age"] == "600"
    assert "Access-Control-Allow-Credentials" not in answer and "Content-Length" not in answer
    assert front("OPTIONS").status == 403
    assert front.site.seen == []


@pytest.mark.parametrize("asked", ["", "a b", "PUT\r\nSet-Cookie: a=1", "é", "x," * 600, ",", "PUT,", "a" * 1025])
def test_nothing_odd_is_echoed(asked):
    """What no browser asks for is not granted, and not written into headers."""
    answer = Gate(on_unavailable="deny", preflight="answer").preflighted(asked, asked)
    assert dict(answer.headers).keys() == {"Access-Control-Allow-Origin", "Access-Control-Max-Age", "Vary"}


def test_answered_before_exemptions(kind, made):
    """An answered preflight does not reach an exempt page either."""
    front = Front(kind, Site(), made[0], preflight="answer", exempt="*")
    assert front("OPTIONS", headers=ASKS).status == 204
    assert front.site.seen == []


def test_browsers_read_refusals(kind, made):
    """Where the middleware answers preflights, its refusals may be read across origins, with their headers."""
    made[0].set_remaining(made[0].list_keys()[0], "requests/day", 0)
    answer = Front(kind, Site(), made[0], preflight="answer")(headers={"x-api-key": made[1], **ASKS})
    assert (answer.status, answer["Access-Control-Allow-Origin"]) == (429, "*")
    assert {"RateLimit", "Retry-After"} <= set(answer["Access-Control-Expose-Headers"].split(", "))
    for other in ("ask", "pass"):
        answer = Front(kind, Site(), made[0], preflight=other)(headers={"x-api-key": made[1], **ASKS})
        assert "Access-Control-Allow-Origin" not in answer


def test_a_preflight_hides_the_key(kind, made):
    """A preflight goes to the URL of the request that it asks for, with its key: the log does not see it either."""
    front = Front(kind, Site(), made[0], key=("?key", "x-api-key"), preflight="pass")
    assert front("OPTIONS", headers={**ASKS, "x-api-key": made[1]}, query=f"a=1&key={made[1]}").status == 200
    assert front.visible() == ("****", None, "a=1&key=****")
    front = Front(kind, Site(), made[0], key="?key", redact=False, preflight="pass")
    front("OPTIONS", headers=ASKS, query=f"key={made[1]}")
    assert front.visible()[2] == f"key={made[1]}"
    assert (
        Front(kind, Site(), made[0], key=lambda request: None, preflight="pass")("OPTIONS", headers=ASKS).status == 200
    )


@pytest.mark.parametrize(
    ("preflight", "status", "body"), [("ask", 403, None), ("pass", 200, "OK"), ("answer", 204, None)]
)
def test_fastapi_dependency(made, preflight, status, body):
    """The dependency does the same for a route that answers OPTIONS; passed, its decision has no key."""
    app = FastAPI()
    api_key = QuotaKey(made[0], on_unavailable="deny", preflight=preflight)

    @app.options("/report")
    def report(decision=Depends(api_key)):
        assert (decision.allowed, decision.key, decision.limits) == (True, None, ())
        return decision.reason.value

    answer = TestClient(app).options("/report", headers=ASKS)
    assert answer.status_code == status
    assert body is None or answer.json() == Reason.OK.value == body
    if preflight == "answer":
        assert answer.headers["access-control-allow-methods"] == "PUT"
    assert TestClient(app).options("/report").status_code == 403


# Real frameworks


def test_django_function_views(made):
    """A function view serves whatever method it is asked with: no made-up preflight gets to see its page."""
    app = quota.wsgi.QuotaMiddleware(get_wsgi_application(), made[0], on_unavailable="deny")
    for headers in MADE_UP:
        assert wsgi(app, "OPTIONS", "/broken", headers).status == 403
    front = quota.asgi.QuotaMiddleware(get_asgi_application(), made[0], on_unavailable="deny")
    assert asgi(front, "OPTIONS", "/broken", ASKS).status == 403


def cors_inside_flask(made, **settings):
    app = flask.Flask("shop")
    CORS(app, origins=["https://a.example"], expose_headers=["RateLimit"])
    app.get("/pets")(lambda: "pets")
    app.wsgi_app = quota.wsgi.QuotaMiddleware(app.wsgi_app, made, on_unavailable="deny", **settings)
    return app.test_client()


def test_flask_cors_inside(made):
    """flask-cors answers the preflights that are passed on; its headers are on what is served."""
    client = cors_inside_flask(made[0], preflight="pass")
    answer = client.options("/pets", headers=ASKS)
    assert (answer.status_code, answer.headers["Access-Control-Allow-Origin"]) == (200, "https://a.example")
    answer = client.get("/pets", headers={"x-api-key": made[1], "Origin": "https://a.example"})
    assert (answer.text, answer.headers["Access-Control-Allow-Origin"]) == ("pets", "https://a.example")
    assert used(*made) == 1


def test_flask_cors_inside_and_answers_here(made):
    """Answering preflights here makes refusals readable too, which flask-cors never sees; what is served is its matter."""
    client = cors_inside_flask(made[0], preflight="answer")
    assert client.options("/pets", headers=ASKS).headers["Access-Control-Allow-Origin"] == "*"
    headers = {"x-api-key": made[1], "Origin": "https://a.example"}
    served = [client.get("/pets", headers=headers) for _ in range(4)]
    assert [answer.status_code for answer in served] == [200, 200, 200, 429]
    assert [answer.headers["Access-Control-Allow-Origin"] for answer in served] == ["https://a.example"] * 3 + ["*"]


def test_django_cors_headers_inside(made):
    """django-cors-headers answers the preflights that are passed on, before any view; its headers are on what is served."""
    with override_settings(
        MIDDLEWARE=[f"{CorsMiddleware.__module__}.{CorsMiddleware.__qualname__}"],
        CORS_ALLOWED_ORIGINS=["https://a.example"],
    ):
        app = quota.wsgi.QuotaMiddleware(get_wsgi_application(), made[0], on_unavailable="deny", preflight="pass")
        answer = wsgi(app, "OPTIONS", "/broken", ASKS)
        assert (answer.status, answer.body) == (200, b"")
        assert answer["Access-Control-Allow-Origin"] == "https://a.example"
        answer = wsgi(app, "GET", "/pets/7/", {"x-api-key": made[1], "Origin": "https://a.example"})
        assert (answer.status, answer["Access-Control-Allow-Origin"]) == (200, "https://a.example")
    assert used(*made) == 1


def test_starlette_cors_outside(made):
    """The usual setup: CORS outside answers preflights, and its headers are on refusals as on what is served."""

    async def pets(request):
        return PlainTextResponse("pets")

    app = Starlette(
        routes=[Route("/pets", pets)],
        middleware=[
            Middleware(
                CORSMiddleware, allow_origins=["https://a.example"], allow_methods=["PUT"],
                allow_headers=["x-api-key", "content-type"], expose_headers=["RateLimit"],
            ),
            Middleware(quota.asgi.QuotaMiddleware, ledger=made[0], on_unavailable="deny"),
        ],
    )  # fmt: skip
    client = TestClient(app)
    answer = client.options("/pets", headers=ASKS)
    assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, "https://a.example")
    headers = {"x-api-key": made[1], "Origin": "https://a.example"}
    served = [client.get("/pets", headers=headers) for _ in range(4)]
    assert [answer.status_code for answer in served] == [200, 200, 200, 429]
    assert {answer.headers["access-control-allow-origin"] for answer in served} == {"https://a.example"}
    assert served[3].headers["access-control-expose-headers"] == "RateLimit"

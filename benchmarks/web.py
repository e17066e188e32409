"""What a request takes longer behind quota's middlewares than behind slowapi's and flask-limiter's, in one run.

Bare applications (Starlette, Flask) are called as a server calls them, without a socket. All count one limit a day by
the same header, in memory, and tell it in headers. Contestants take turns in short rounds of processor time; a round's
overhead is its time less that of the bare application in the same round, and each ratio is of overheads. slowapi by its
two middlewares and by its decorator, flask-limiter by default limits and by its decorator, both with their headers on.
"by address": who presents no key, counted by what a proxy says in X-Forwarded-For. Flask's extension, Django's middleware
and aiohttp's are measured on top of bare applications of their own, as shares of what quota's plain middleware takes.
"""

from __future__ import annotations

import asyncio
import sys
import time
import types
import warnings
from collections.abc import Callable
from typing import Any

import django
import flask
import flask_limiter
import slowapi
import slowapi.middleware
from aiohttp import web as aioweb
from aiohttp.test_utils import make_mocked_request
from django.conf import settings as django_settings
from django.core.handlers.wsgi import WSGIHandler
from django.http import HttpResponse
from django.test import override_settings
from django.urls import path
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from benchmarks.measure import Ratio, Timing, ratio
from quota import Ledger, UsagePlan
from quota.aiohttp import setup
from quota.asgi import QuotaMiddleware as InFrontOfASGI
from quota.flask import Quota
from quota.web import Anonymous
from quota.wsgi import QuotaMiddleware as InFrontOfWSGI

TITLE = "In front of web applications"
VERSIONS = ("slowapi", "flask-limiter", "starlette", "flask", "django", "aiohttp")
BATCH = 100
SECONDS = 0.05
LIMIT = "1000000000/day"


def ledger() -> tuple[Ledger, str]:
    made = Ledger()
    made.add_plan(UsagePlan("PlanA", LIMIT))
    return made, made.issue_key("Key123", "PlanA").secret


ADDRESS = "203.0.113.7"
BY_ADDRESS = {"anonymous": Anonymous("PlanA"), "trusted_proxies": 1}


# Starlette


def starlette(wrap: Callable[..., object] = lambda view: view) -> Starlette:
    async def home(request: Request) -> PlainTextResponse:
        return PlainTextResponse("hi")

    return Starlette(routes=[Route("/", wrap(home))])


def with_slowapi(how: str) -> Starlette:
    everywhere = how != "decorator"
    limiter = slowapi.Limiter(
        lambda request: request.headers["x-api-key"], headers_enabled=True, default_limits=[LIMIT] if everywhere else []
    )
    app = starlette() if everywhere else starlette(limiter.limit(LIMIT))
    app.state.limiter = limiter
    if everywhere:
        app.add_middleware(getattr(slowapi.middleware, how))
    return app


def with_quota_asgi(made: Ledger, **settings: object) -> Starlette:
    app = starlette()
    app.add_middleware(InFrontOfASGI, ledger=made, on_unavailable="deny", **settings)
    return app


def asgi_batch(app: Starlette, secret: str, field: str = "x-api-key") -> Callable[[], None]:
    """A batch of requests on an event loop of its own."""
    loop = asyncio.new_event_loop()
    key = secret.encode()
    statuses = []

    async def receive() -> dict:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: dict) -> None:
        if "status" in message:
            statuses.append(message["status"])

    def scope() -> dict:
        return {
            "type": "http", "asgi": {"version": "3.0", "spec_version": "2.3"}, "http_version": "1.1", "method": "GET",
            "path": "/", "raw_path": b"/", "root_path": "", "scheme": "http", "query_string": b"",
            "headers": [(b"host", b"shop"), (b"accept", b"*/*"), (b"user-agent", b"bench"), (field.encode(), key)],
            "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 80), "state": {},
        }  # fmt: skip

    async def batch() -> None:
        for _ in range(BATCH):
            await app(scope(), receive, send)

    def run() -> None:
        statuses.clear()
        loop.run_until_complete(batch())
        assert statuses == [200] * BATCH, statuses[:3]

    return run


# Flask


def flask_app(how: str = "bare") -> flask.Flask:
    app = flask.Flask("shop")
    limiter = None
    if how != "bare":
        limiter = flask_limiter.Limiter(
            lambda: flask.request.headers["x-api-key"], app=app, storage_uri="memory://", headers_enabled=True,
            default_limits=[LIMIT] if how == "default" else [],
        )  # fmt: skip

    def home() -> str:
        return "hi"

    app.get("/")(limiter.limit(LIMIT)(home) if limiter and how == "decorator" else home)
    return app


def with_quota_wsgi(made: Ledger, **settings: object) -> flask.Flask:
    app = flask_app()
    app.wsgi_app = InFrontOfWSGI(app.wsgi_app, made, on_unavailable="deny", **settings)
    return app


def with_quota_flask(made: Ledger) -> flask.Flask:
    app = flask_app()
    Quota(app, made, on_unavailable="deny")
    return app


def wsgi_batch(app: Callable[..., Any], secret: str, field: str = "x-api-key") -> Callable[[], None]:
    from werkzeug.test import EnvironBuilder

    environ = EnvironBuilder(path="/", headers={field: secret}).get_environ()
    statuses = []

    def start(status: str, headers: list, error: object = None) -> Callable[[bytes], None]:
        statuses.append(status)
        return statuses.append

    def run() -> None:
        statuses.clear()
        for _ in range(BATCH):
            body = app(dict(environ), start)
            b"".join(body)
            body.close()
        assert statuses == ["200 OK"] * BATCH, statuses[:3]

    return run


# Django and aiohttp


def django_apps(made: Ledger) -> tuple[WSGIHandler, WSGIHandler]:
    """Return handlers of a project of one view: bare, and behind the middleware."""
    shop: Any = types.ModuleType("quota_bench_shop")
    shop.urlpatterns = [path("", lambda request: HttpResponse("hi"))]
    shop.ledger = made
    sys.modules[shop.__name__] = shop
    ours = {"LEDGER": f"{shop.__name__}.ledger", "ON_UNAVAILABLE": "deny"}
    django_settings.configure(
        ALLOWED_HOSTS=["*"], SECRET_KEY="bench", ROOT_URLCONF=shop.__name__, LOGGING_CONFIG=None, QUOTA=ours
    )
    django.setup()
    bare = WSGIHandler()
    with override_settings(MIDDLEWARE=["quota.django.QuotaMiddleware"]):
        return bare, WSGIHandler()


HERE = ("127.0.0.1", 1)
CLIENT = types.SimpleNamespace(transport=None, ssl_context=None, peername=HERE, sockname=HERE)
"""A client's connection, as far as a request asks of it: a mock takes longer than all else."""


def aiohttp_batch(made: Ledger | None, secret: str) -> Callable[[], None]:
    """Return a batch of requests to an application's own dispatch, behind the middleware where there is a ledger."""
    loop = asyncio.new_event_loop()
    app = aioweb.Application()

    async def home(_: aioweb.Request) -> aioweb.Response:
        return aioweb.Response(text="hi")

    app.router.add_get("/", home)
    if made:
        setup(app, made, on_unavailable="deny")
    app.freeze()
    requests = [make_mocked_request("GET", "/", {"x-api-key": secret}, app=app) for _ in range(BATCH)]
    for request in requests:
        request._protocol, request._transport_peername = CLIENT, HERE

    async def batch() -> list[int]:
        return [(await app._handle(request)).status for request in requests]

    def run() -> None:
        assert loop.run_until_complete(batch()) == [200] * BATCH

    return run


def overheads(contestants: dict[str, Callable[[], None]], rounds: int) -> dict[str, Timing]:
    """Nanoseconds a request on top of the first contestant, the bare application, round by round."""
    for run in contestants.values():
        run()
    first, *others = contestants
    found = {name: Timing(name if name == first else f"{name}, on top", []) for name in contestants}
    for _ in range(rounds):
        times = {}
        for name, run in contestants.items():
            count, start = 0, time.process_time_ns()
            while time.process_time_ns() - start < SECONDS * 1e9:
                run()
                count += BATCH
            times[name] = (time.process_time_ns() - start) / count
        found[first].rounds.append(times[first])
        for name in others:
            found[name].rounds.append(times[name] - times[first])
    return found


def measure(rounds: int) -> dict[str, Any]:
    """Overheads of requests as shares of the peers'."""
    made, secret = ledger()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the peers' own
        starlettes = overheads(
            {
                "bare Starlette": asgi_batch(starlette(), secret),
                "quota, ASGI": asgi_batch(with_quota_asgi(made), secret),
                "quota, ASGI, no headers": asgi_batch(with_quota_asgi(made, profile=None), secret),
                "quota, ASGI, charging successes": asgi_batch(with_quota_asgi(made, charge="success"), secret),
                "quota, ASGI, by address": asgi_batch(with_quota_asgi(made, **BY_ADDRESS), ADDRESS, "x-forwarded-for"),
                "slowapi, SlowAPIMiddleware": asgi_batch(with_slowapi("SlowAPIMiddleware"), secret),
                "slowapi, SlowAPIASGIMiddleware": asgi_batch(with_slowapi("SlowAPIASGIMiddleware"), secret),
                "slowapi, decorator": asgi_batch(with_slowapi("decorator"), secret),
            },
            rounds,
        )
        flasks = overheads(
            {
                "bare Flask": wsgi_batch(flask_app(), secret),
                "quota, WSGI": wsgi_batch(with_quota_wsgi(made), secret),
                "quota, WSGI, no headers": wsgi_batch(with_quota_wsgi(made, profile=None), secret),
                "quota, WSGI, charging successes": wsgi_batch(with_quota_wsgi(made, charge="success"), secret),
                "quota, WSGI, by address": wsgi_batch(with_quota_wsgi(made, **BY_ADDRESS), ADDRESS, "x-forwarded-for"),
                "quota, Flask's extension": wsgi_batch(with_quota_flask(made), secret),
                "flask-limiter, default limits": wsgi_batch(flask_app("default"), secret),
                "flask-limiter, decorator": wsgi_batch(flask_app("decorator"), secret),
            },
            rounds,
        )
    bare, behind = django_apps(made)
    djangos = overheads(
        {"bare Django": wsgi_batch(bare, secret), "quota, Django's middleware": wsgi_batch(behind, secret)}, rounds
    )
    aiohttps = overheads(
        {"bare aiohttp": aiohttp_batch(None, secret), "quota, aiohttp": aiohttp_batch(made, secret)}, rounds
    )
    found: dict[str, Ratio] = {}
    for ours, timings in (("quota, ASGI", starlettes), ("quota, WSGI", flasks)):
        for name in timings:
            if name.startswith(("slowapi", "flask-limiter")):
                found[f"{ours} / {name}"] = ratio(timings[ours], timings[name])
        found[f"{ours}, by address / by key"] = ratio(timings[f"{ours}, by address"], timings[ours])
    plain = flasks["quota, WSGI"]
    found["quota, Flask's extension / quota, WSGI"] = ratio(flasks["quota, Flask's extension"], plain)
    found["quota, Django's middleware / quota, WSGI"] = ratio(djangos["quota, Django's middleware"], plain)
    found["quota, aiohttp / quota, ASGI"] = ratio(aiohttps["quota, aiohttp"], starlettes["quota, ASGI"])
    return {"timings": starlettes | flasks | djangos | aiohttps, "ratios": found}

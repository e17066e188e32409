"""What a request takes longer behind quota's middlewares than behind slowapi's and flask-limiter's, in one run.

Bare applications (Starlette, Flask) are called as a server calls them, without a socket. All count one limit a day by
the same header, in memory, and tell it in headers. Contestants take turns in short rounds of processor time; a round's
overhead is its time less that of the bare application in the same round, and each ratio is of overheads. slowapi by its
two middlewares and by its decorator, flask-limiter by default limits and by its decorator, both with their headers on.
"by address": who presents no key, counted by what a proxy says in X-Forwarded-For.
"""

from __future__ import annotations

import asyncio
import time
import warnings
from collections.abc import Callable
from typing import Any

import flask
import flask_limiter
import slowapi
import slowapi.middleware
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from benchmarks.measure import Ratio, Timing, ratio
from quota import Ledger, UsagePlan
from quota.asgi import QuotaMiddleware as InFrontOfASGI
from quota.web import Anonymous
from quota.wsgi import QuotaMiddleware as InFrontOfWSGI

TITLE = "In front of web applications"
VERSIONS = ("slowapi", "flask-limiter", "starlette", "flask")
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


def wsgi_batch(app: flask.Flask, secret: str, field: str = "x-api-key") -> Callable[[], None]:
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
                "flask-limiter, default limits": wsgi_batch(flask_app("default"), secret),
                "flask-limiter, decorator": wsgi_batch(flask_app("decorator"), secret),
            },
            rounds,
        )
    found: dict[str, Ratio] = {}
    for ours, timings in (("quota, ASGI", starlettes), ("quota, WSGI", flasks)):
        for name in timings:
            if name.startswith(("slowapi", "flask-limiter")):
                found[f"{ours} / {name}"] = ratio(timings[ours], timings[name])
        found[f"{ours}, by address / by key"] = ratio(timings[f"{ours}, by address"], timings[ours])
    return {"timings": starlettes | flasks, "ratios": found}

"""How responses are settled that break behind other middlewares, and what is told where they cannot be settled."""

from __future__ import annotations

import asyncio
import warnings

import pytest
from fastapi import BackgroundTasks, FastAPI
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.routing import Route

from quota import AsyncLedger, Reason, StoreUnavailable
from quota.asgi import QuotaMiddleware
from quota.ledger.breaker import Breaker
from quota.ledger.reservations import again
from quota.ledger.reservations.handle import _Held
from web import Boom, Front, Site, Strict, ledger

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # Starlette prefers a later httpx for its test client, and works with this one
    from starlette.testclient import TestClient


def used(made, secret):
    return {record.limit: record.used for record in made.usage(made.peek(secret).key)}


class Pass(BaseHTTPMiddleware):
    """Changes nothing."""

    async def dispatch(self, request, call_next):
        return await call_next(request)


def breaks(error=Boom):
    async def chunks():
        yield "a"
        raise error

    return StreamingResponse(chunks())


async def fails():
    raise Boom


PAGES = {
    "/whole": lambda request: StreamingResponse(iter(["a", "b"])),
    "/stream": lambda request: breaks(),
    "/background": lambda request: PlainTextResponse("a", background=BackgroundTask(fails)),
    "/streamed": lambda request: StreamingResponse(iter(["a", "b"]), background=BackgroundTask(fails)),
    "/missing": lambda request: PlainTextResponse("none", 404),
    "/raises": lambda request: 1 / 0,
}


def site(made, between, **settings):
    async def tokens(request):
        request.state.quota_actual = 7
        return breaks()

    return Starlette(
        routes=[*(Route(path, page) for path, page in PAGES.items()), Route("/tokens", tokens)],
        middleware=[
            Middleware(QuotaMiddleware, ledger=made, on_unavailable="deny", **settings),
            *map(Middleware, between),
        ],
    )


@pytest.mark.parametrize("between", [(), (Pass,), (Pass, Pass)])
@pytest.mark.parametrize("charge", ["success", "response"])
@pytest.mark.parametrize(
    ("path", "charged"),
    [("/whole", 1), ("/stream", 0), ("/background", 1), ("/streamed", 1), ("/missing", 0), ("/raises", 0)],
)
def test_behind_base_http_middleware(between, charge, path, charged):
    """A stream that breaks costs nothing, though Starlette's middleware ends it as if it were whole; a background task's failure is none of the response's."""
    made, secret = ledger("9/day")
    client = TestClient(
        site(made, between, charge=charge), headers={"x-api-key": secret}, raise_server_exceptions=False
    )
    client.get(path)
    assert used(made, secret) == {"requests/day": charged}
    assert made.peek(secret).limits[0].remaining == 8 - charged


def test_what_a_broken_stream_used(caplog):
    """What an application said that it used is charged, however the stream ends."""
    made, secret = ledger("9/day")
    client = TestClient(
        site(made, (Pass,), charge="response"), headers={"x-api-key": secret}, raise_server_exceptions=False
    )
    client.get("/tokens")
    assert used(made, secret) == {"requests/day": 7}


def test_fastapi_background_tasks():
    """FastAPI's background tasks, behind its middleware for functions, are none of the response's either."""
    made, secret = ledger("9/day")
    app = FastAPI()

    @app.middleware("http")
    async def nothing(request, call_next):
        return await call_next(request)

    @app.get("/")
    def home(tasks: BackgroundTasks):
        tasks.add_task(fails)
        return "ok"

    app.get("/stream")(breaks)
    app.add_middleware(QuotaMiddleware, ledger=made, on_unavailable="deny", charge="success")
    client = TestClient(app, headers={"x-api-key": secret}, raise_server_exceptions=False)
    assert client.get("/").status_code == 200
    client.get("/stream")
    assert used(made, secret) == {"requests/day": 1}


def test_a_background_task_holds_nothing():
    """Units are settled when the response has ended, not when its background task has."""
    made, secret = ledger("9/day")
    inside = []

    async def look():
        inside.append(used(made, secret))

    async def home(request):
        request.state.quota_actual = 2
        return PlainTextResponse("a", background=BackgroundTask(look))

    for between in ((), (Middleware(Pass),)):
        app = Starlette(
            routes=[Route("/", home)],
            middleware=[
                Middleware(QuotaMiddleware, ledger=made, on_unavailable="deny", charge="response", cost=5), *between,
            ],
        )  # fmt: skip
        TestClient(app, headers={"x-api-key": secret}).get("/")
    assert inside == [{"requests/day": 2}, {"requests/day": 4}]


@pytest.mark.parametrize("waits", [False, True])
def test_a_stream_that_breaks_while_the_store_is_away(monkeypatch, caplog, waits):
    """Where it cannot be given back, a broken stream stays charged and a log tells its decision; its error goes on."""
    made, secret = ledger("9/day")
    apply = made.store.apply

    def away(request):
        if request.op == "refund":
            raise StoreUnavailable("gone")
        return apply(request)

    monkeypatch.setattr(made.store, "apply", away)
    front = site(AsyncLedger(made.store, clock=made._clock) if waits else made, (Pass,), charge="success")
    with pytest.raises(Boom):
        asyncio.run(Strict(front, path="/stream", headers={"x-api-key": secret}).serve())
    assert used(made, secret) == {"requests/day": 1}
    assert "a stream that broke stays charged" in caplog.text


@pytest.mark.parametrize("kind", ["wsgi", "asgi"])
@pytest.mark.parametrize(
    ("actual", "owed"),
    [(None, {"tokens": 800, "requests": 1}), ({"tokens": 642}, {"tokens": 642}), (3, {"tokens": 800, "requests": 1})],
)
def test_what_could_not_be_settled_is_told(kind, actual, owed, monkeypatch, caplog):
    """One line says who used what, without a traceback, and so does a report: an operator may charge it by hand."""
    made, _ = ledger("1000 tokens/day as tokens, 100/day as calls")
    key, secret = made.issue_key("customer", "PlanA", account="ACME")
    apply, reported = made.store.apply, []

    def away(request):
        if request.op in ("commit", "cancel"):
            raise StoreUnavailable("no route to host")
        return apply(request)

    monkeypatch.setattr(made.store, "apply", away)
    front = Front(kind, Site(actual=actual), made, charge="response", cost={"tokens": 800, "requests": 1},
                  report=lambda decision, request: reported.append(decision))  # fmt: skip
    assert front(headers={"x-api-key": secret}).status == 200
    *others, line = [record for record in caplog.records if record.levelname == "ERROR"]
    assert len(others) == (actual == 3)  # a bare number counts requests: what it means cannot be known
    assert line.exc_info is None and "\n" not in line.getMessage()
    for word in (
        "could not be settled",
        key.id,
        "'ACME'",
        f"commit of { {'requests': owed} if isinstance(owed, int) else owed }",
        "held {'tokens': 800, 'requests': 1}",
        "no route",
    ):
        assert word in line.getMessage()
    assert secret not in line.getMessage()
    arrival, owing = reported
    assert (arrival.reason, owing.reason, bool(owing)) == (Reason.OK, Reason.STORE_UNAVAILABLE, True)
    assert (owing.key.id, owing.key.account, owing.plan.id, owing.cost) == (key.id, "ACME", "PlanA", owed)
    assert owing.id == arrival.id


@pytest.mark.parametrize("kind", ["wsgi", "asgi"])
def test_what_could_not_be_given_back_is_told(kind, monkeypatch, caplog):
    """A failed response owes nothing: the log says so, and when what it held is back; nothing is reported."""
    made, secret = ledger("9/day")
    apply, reported = made.store.apply, []

    def away(request):
        if request.op == "cancel":
            raise StoreUnavailable("gone")
        return apply(request)

    monkeypatch.setattr(made.store, "apply", away)
    front = Front(
        kind, Site(status=500), made, charge="success", report=lambda decision, request: reported.append(decision)
    )
    assert front(headers={"x-api-key": secret}).status == 500
    assert "cancel of nothing" in caplog.text
    assert "held {'requests': 1} until 2026-03-01T12:01:00" in caplog.text
    assert len(reported) == 1


@pytest.mark.parametrize("kind", ["wsgi", "asgi"])
def test_no_response_waits_for_a_store_that_is_away(kind, monkeypatch):
    """The end of one asks none that is known to be away by then: it is tried again."""
    monkeypatch.setattr(again, "_SHORTEST", 60)
    made, secret = ledger("9/day")
    made._breaker = Breaker(1000.0)  # a store in memory has none of its own
    apply, asked = made.store.apply, []
    monkeypatch.setattr(made.store, "apply", lambda request: (asked.append(request.op), apply(request))[1])

    def goes_away(decision, request):
        for _ in range(3):
            made._breaker.leave(StoreUnavailable("no answer"), probe=False)

    front = Front(kind, Site(), made, charge="success", report=goes_away)
    assert front(headers={"x-api-key": secret}).status == 200
    assert asked == ["reserve"]
    made.close()
    assert asked == ["reserve", "commit"]


def test_planted_patience(monkeypatch):
    """A settlement that asks whatever is known is seen."""
    monkeypatch.setattr(_Held, "_guard", lambda *_: None)
    with pytest.raises(AssertionError):
        test_no_response_waits_for_a_store_that_is_away("asgi", monkeypatch)

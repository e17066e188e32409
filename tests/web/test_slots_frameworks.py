"""Calls in flight by each framework's own face: kept from a view's first line to the response's last byte, and spent of."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import types
import warnings

import django_site  # noqa: F401 -- sets Django up, before what needs it # isort: skip
import aiohttp.web
import fastapi
import flask
import pytest
from aiohttp.test_utils import TestClient as AiohttpClient
from aiohttp.test_utils import TestServer as AiohttpServer
from django.http import HttpResponse, StreamingHttpResponse
from django.test import AsyncClient, Client, override_settings
from django.urls import path
from fastapi import Depends, FastAPI, WebSocket
from fastapi.responses import PlainTextResponse, StreamingResponse

from quota import AsyncLedger, Decision, Ledger, UsagePlan
from quota.aiohttp import RESERVATION, setup
from quota.asgi import QuotaMiddleware
from quota.fastapi import QuotaKey
from quota.flask import Quota
from web import Strict

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # Starlette prefers a later httpx for its test client, and works with this one
    from starlette.testclient import TestClient


class Shop:
    """A ledger, and what is in flight."""

    def __init__(self, store=None):
        self.ledger = Ledger(store)
        self.ledger.add_plan(UsagePlan("p", "2 concurrent, 99/day, 1000 tokens/day as tokens"))
        self.key, self.secret = self.ledger.issue_key("k", "p")

    @property
    def in_flight(self):
        return str(len(self.ledger.list_reservations(self.key)))

    @property
    def tokens(self):
        return {limit.name: limit.used for limit in self.ledger.status(self.key)}["tokens"]

    def parts(self, held):
        for _ in range(3):
            if held is not None:
                held.spend({"tokens": 1})
            yield self.in_flight

    async def awaited_parts(self, held):
        for _ in range(3):
            if held is not None:
                await held.spend({"tokens": 1})
            yield self.in_flight

    def full(self):
        """Take both slots, and give them back when it is over."""
        return self.ledger.reserve(self.secret, 1, ttl=10**7), self.ledger.reserve(self.secret, 1, ttl=10**7)


def by_flask(shop, **settings):
    app = flask.Flask("shop")
    Quota(app, shop.ledger, on_unavailable="deny", **settings)
    app.add_url_rule("/plain", "plain", lambda: shop.in_flight)
    app.add_url_rule("/stream", "stream", lambda: flask.Response(shop.parts(flask.g.quota_reservation)))
    app.add_url_rule("/raises", "raises", lambda: 1 / 0)
    client = app.test_client()

    def get(url):
        answer = client.get(url, headers={"x-api-key": shop.secret})
        return answer.status_code, answer.text, answer.headers

    return get


def by_django(shop, client, **settings):
    def plain(request):
        return HttpResponse(shop.in_flight)

    def stream(request):
        return StreamingHttpResponse(shop.parts(getattr(request, "quota_reservation", None)))

    async def awaited(request):
        return StreamingHttpResponse(shop.awaited_parts(getattr(request, "quota_reservation", None)))

    urls = types.ModuleType("slot_urls")
    waits = isinstance(client, AsyncClient)
    urls.urlpatterns = [
        path("plain", plain), path("stream", awaited if waits else stream), path("raises", lambda request: 1 / 0),
    ]  # fmt: skip
    sys.modules["slot_urls"] = urls
    quota = {
        "LEDGER": shop.ledger,
        "ON_UNAVAILABLE": "deny",
        **{name.upper(): value for name, value in settings.items()},
    }
    client.raise_request_exception = False

    async def read(answer):
        return b"".join([part async for part in answer.streaming_content])

    async def awaited_get(url):
        answer = await client.get(url, headers={"x-api-key": shop.secret})
        return answer, await read(answer) if answer.streaming else answer.content

    def get(url):
        with override_settings(ROOT_URLCONF="slot_urls", MIDDLEWARE=["quota.django.QuotaMiddleware"], QUOTA=quota):
            if waits:
                answer, body = asyncio.run(awaited_get(url))
            else:
                answer = client.get(url, headers={"x-api-key": shop.secret})
                body = b"".join(answer.streaming_content) if answer.streaming else answer.content
        return answer.status_code, body.decode(), answer.headers

    return get


def by_aiohttp(shop, **settings):
    async def stream(request):
        response = aiohttp.web.StreamResponse()
        await response.prepare(request)
        async for part in shop.awaited_parts(request[RESERVATION]):
            await response.write(part.encode())
        return response

    async def plain(request):
        return aiohttp.web.Response(text=shop.in_flight)

    async def lazy(request):
        async def parts():
            async for part in shop.awaited_parts(None):
                yield part.encode()

        return aiohttp.web.Response(body=parts())

    async def raises(request):
        raise ZeroDivisionError

    async def file(request):
        return aiohttp.web.FileResponse(__file__)

    async def asked(url):
        app = aiohttp.web.Application()
        setup(app, shop.ledger, on_unavailable="deny", **settings)
        for name, handler in (("plain", plain), ("stream", stream), ("raises", raises), ("lazy", lazy), ("file", file)):
            app.router.add_get(f"/{name}", handler)
        async with AiohttpClient(AiohttpServer(app)) as client:
            answer = await client.get(url, headers={"x-api-key": shop.secret})
            return answer.status, await answer.text(), answer.headers

    return lambda url: asyncio.run(asked(url))


def by_fastapi(shop, **settings):
    app = FastAPI()
    charged = Depends(QuotaKey(shop.ledger, on_unavailable="deny"))
    if settings:
        app.add_middleware(QuotaMiddleware, ledger=shop.ledger, on_unavailable="deny", **settings)
        charged = Depends(lambda: None)

    @app.get("/plain")
    def plain(decision: Decision | None = charged):
        return PlainTextResponse(shop.in_flight)

    @app.get("/stream")
    def stream(request: fastapi.Request, decision: Decision | None = charged):
        return StreamingResponse(shop.awaited_parts(getattr(request.state, "quota_reservation", None)))

    @app.get("/raises")
    def raises(decision: Decision | None = charged):
        raise ZeroDivisionError

    @app.websocket("/talk")
    async def talk(socket: WebSocket, decision: Decision | None = charged):
        await socket.accept()
        await socket.send_text(shop.in_flight)

    client = TestClient(app, headers={"x-api-key": shop.secret}, raise_server_exceptions=False)

    def get(url):
        answer = client.get(url)
        return answer.status_code, answer.text, answer.headers

    get.client = client
    return get


FACES = {
    "flask": by_flask, "django": lambda shop, **settings: by_django(shop, Client(), **settings),
    "django awaited": lambda shop, **settings: by_django(shop, AsyncClient(), **settings), "aiohttp": by_aiohttp,
    "fastapi": by_fastapi,
}  # fmt: skip


@pytest.mark.parametrize("face", FACES)
def test_kept_for_the_whole_response(face, caplog):
    """In flight while a view and its stream run, and not a moment longer; refused with 429 and Retry-After: 1."""
    caplog.set_level(logging.CRITICAL)
    shop = Shop()
    get = FACES[face](shop)
    for url, status, told in (("/plain", 200, "1"), ("/stream", 200, "111"), ("/raises", 500, None)):
        answer = get(url)
        assert answer[0] == status and told in (answer[1], None), url
        assert shop.in_flight == "0", url
    held = shop.full()
    status, body, headers = get("/plain")
    assert (status, headers["Retry-After"]) == (429, "1")
    assert "concurren" in (body if face == "flask" else json.loads(body)["detail"])
    for each in held:
        each.cancel()
    assert get("/plain")[0] == 200
    assert shop.in_flight == "0"


@pytest.mark.parametrize("face", FACES)
def test_spent_as_it_streams(face, caplog):
    """What a view spends while it streams is what the response costs, and all of the estimate that is left goes back."""
    shop = Shop()
    get = FACES[face](shop, charge="response", cost={"tokens": 400})
    assert get("/stream")[1] == "111"
    assert (shop.tokens, shop.in_flight) == (3, "0")
    assert get("/plain")[0] == 200  # which says nothing, and keeps the estimate
    assert (shop.tokens, shop.in_flight) == (403, "0")


def test_what_aiohttp_sends_after_the_handler():
    """A body that aiohttp reads when the handler has returned, and a file, are in flight until they have been sent."""
    shop = Shop()
    get = by_aiohttp(shop)
    assert get("/lazy")[:2] == (200, "111")
    status, text, _ = get("/file")
    assert (status, "a file, are in flight" in text, shop.in_flight) == (200, True, "0")


def test_fastapi_websockets():
    """A WebSocket whose route asks for a key is one call in flight until it is closed."""
    shop = Shop()
    with by_fastapi(shop).client.websocket_connect("/talk") as socket:
        assert socket.receive_text() == "1"
    assert shop.in_flight == "0"


LEDGERS = {
    "in memory": Ledger, "awaited in memory": AsyncLedger, "in threads": Ledger, "awaited": AsyncLedger,
}  # fmt: skip


@pytest.mark.parametrize("kind", LEDGERS)
def test_every_ledger_is_awaited(kind, tmp_path):
    """Whatever ledger an ASGI middleware asks: spent and settled the same, also where the client goes away."""
    store = None if "memory" in kind else f"sqlite:///{tmp_path}/quota.db"
    shop = Shop(store)
    ledger = LEDGERS[kind](store or shop.ledger.store)

    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        async for part in shop.awaited_parts(scope["state"]["quota_reservation"]):
            await send({"type": "http.response.body", "body": part.encode(), "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    async def serve():
        front = QuotaMiddleware(app, ledger, on_unavailable="deny", charge="response", cost={"tokens": 400})
        whole = await Strict(front, headers={"x-api-key": shop.secret}).serve()
        with pytest.raises(asyncio.CancelledError):
            await Strict(front, headers={"x-api-key": shop.secret}, hang_up=3).serve()
        if isinstance(ledger, AsyncLedger):
            await ledger.aclose()
        return whole.body

    assert asyncio.run(serve()) == b"111"
    assert (shop.tokens, shop.in_flight) == (5, "0")

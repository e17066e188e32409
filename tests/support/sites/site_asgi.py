"""A Starlette shop behind the middleware, for real servers: QUOTA_STORE names its store, QUOTA_CHARGE when it charges."""

from __future__ import annotations

import asyncio
import os

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.routing import Route, WebSocketRoute

from quota import AsyncLedger
from quota.asgi import QuotaMiddleware


async def home(request):
    return PlainTextResponse("open")


async def pets(request):
    return PlainTextResponse("pets")


async def stream(request):
    return StreamingResponse("x" * 1000 for _ in range(50))


async def endless(request):
    async def chunks():
        while True:
            yield "x" * 10_000
            await asyncio.sleep(0)

    return StreamingResponse(chunks())


async def broken(request):
    raise ZeroDivisionError


async def broken_stream(request):
    async def chunks():
        yield "x" * 1000
        raise ZeroDivisionError

    return StreamingResponse(chunks())


async def missing(request):
    raise HTTPException(404)


async def tokens(request):
    request.state.quota_actual = 7
    return PlainTextResponse("seven")


async def chat(socket):
    await socket.accept()
    await socket.send_text(socket.state.quota.key.name)
    await socket.close()


pages = {
    "/": home, "/pets": pets, "/stream": stream, "/endless": endless, "/broken": broken,
    "/broken-stream": broken_stream, "/missing": missing, "/tokens": tokens,
}  # fmt: skip
app = Starlette(
    routes=[*(Route(path, page) for path, page in pages.items()), WebSocketRoute("/chat", chat)],
    middleware=[
        Middleware(
            QuotaMiddleware,
            ledger=AsyncLedger(os.environ["QUOTA_STORE"]),
            on_unavailable="deny",
            charge=os.environ["QUOTA_CHARGE"],
            exempt="/",
            key=("x-api-key", "?key"),
        )
    ],
)

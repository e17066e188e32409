"""A fake model behind the middleware that streams events and spends their tokens: QUOTA_STORE names its store.

Each stream ends with a line on the standard output: its name, and the tokens that it made.
"""

from __future__ import annotations

import asyncio
import os

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.responses import StreamingResponse
from starlette.routing import Route

from quota import AsyncLedger
from quota.asgi import QuotaMiddleware

EVENTS, PADDING = 60, 20_000
"""A client that stops reading stops the server some events later, and not at the end."""
made = {}


async def talk(request):
    held, name = request.state.quota_reservation, request.headers["x-stream"]
    await held.spend({"requests": 1})

    async def events():
        for number in range(EVENTS):
            tokens = 1 + number % 3
            made[name] = made.get(name, 0) + tokens
            await held.spend({"tokens": tokens})
            yield f"data: {tokens}\n: {'x' * PADDING}\n\n"
            await asyncio.sleep(0)

    return StreamingResponse(events(), media_type="text/event-stream")


class Telling:
    """Tells of each stream that has ended, and was settled, how much it made."""

    def __init__(self, app):
        self.app = app

    async def __call__(self, scope, receive, send):
        try:
            await self.app(scope, receive, send)
        finally:
            if scope["type"] == "http":
                name = dict(scope["headers"])[b"x-stream"].decode()
                print(f"stream {name} made {made.get(name, 0)}", flush=True)


app = Starlette(
    routes=[Route("/talk", talk)],
    middleware=[
        Middleware(Telling),
        Middleware(
            QuotaMiddleware, ledger=AsyncLedger(os.environ.get("QUOTA_STORE", "memory://")), on_unavailable="deny", charge="response",
            cost={"requests": 1, "tokens": 1000}, ttl=int(os.environ.get("QUOTA_TTL", "60000000")),
        ),
    ],
)  # fmt: skip

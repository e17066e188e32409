"""Sites for a race, each on a real server with several workers, and a storm of clients."""

from __future__ import annotations

import asyncio

import httpx

from served import Served

CLIENTS = 20


def gunicorn(app, face="", kind="gthread"):
    return lambda store: Served(
        "gunicorn", app, "-w", "4", "-k", kind, "--threads", "4", "-b", "127.0.0.1:0", "--no-control-socket",
        ready="Booting worker", workers=4, QUOTA_STORE=store, QUOTA_FACE=face,
    )  # fmt: skip


def uvicorn(app, *more, workers=2, face=""):
    return lambda store: Served(
        "uvicorn", app, *more, "--workers", str(workers), "--port", "0", "--lifespan", "off",
        ready="Started server process", workers=workers, QUOTA_STORE=store, QUOTA_FACE=face,
    )  # fmt: skip


SITES = {
    "DRF's throttle": gunicorn("site_drf:app", "throttle"),
    "Django's middleware": gunicorn("site_drf:app", "middleware"),
    "Django by ASGI": uvicorn("site_drf:asgi", face="middleware"),
    "Flask": gunicorn("site_faces:flask_app()"),
    "aiohttp": gunicorn("site_faces:aiohttp_app", kind="aiohttp.GunicornWebWorker"),
    "FastAPI on Valkey": uvicorn("site_faces:fastapi_app", "--factory"),
}


async def storm(url, secret, requests, clients):
    """The statuses of so many requests by so many clients at once, each with a connection of its own."""
    limits = httpx.Limits(max_connections=clients, max_keepalive_connections=clients)
    async with httpx.AsyncClient(base_url=url, limits=limits, timeout=30, headers={"x-api-key": secret}) as client:
        left = iter(range(requests))

        async def one():
            return [(await client.get("/pets")).status_code for _ in left]

        batches = await asyncio.gather(*(one() for _ in range(clients)))
    return [status for batch in batches for status in batch]

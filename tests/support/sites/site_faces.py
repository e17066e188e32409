"""Flask by its extension, FastAPI by its dependency, aiohttp by its middleware, for real servers: QUOTA_STORE names their store."""

from __future__ import annotations

import os

import fastapi
import flask
from aiohttp import web

from quota import AsyncLedger, Ledger
from quota.aiohttp import setup
from quota.fastapi import QuotaKey, Refused, refused
from quota.flask import Quota


def flask_app():
    app = flask.Flask("shop")
    Quota(app, Ledger(os.environ["QUOTA_STORE"]), on_unavailable="deny", charge="success")
    app.get("/pets")(lambda: "pets")
    return app


def fastapi_app():
    key = QuotaKey(AsyncLedger(os.environ["QUOTA_STORE"]), on_unavailable="deny")
    app = fastapi.FastAPI(dependencies=[fastapi.Depends(key)])
    app.add_exception_handler(Refused, refused)

    async def pets():
        return "pets"

    app.get("/pets")(pets)
    return app


async def aiohttp_app():
    async def pets(_):
        return web.Response(text="pets")

    app = web.Application()
    setup(app, AsyncLedger(os.environ["QUOTA_STORE"]), on_unavailable="deny", charge="success")
    app.router.add_get("/pets", pets)
    return app

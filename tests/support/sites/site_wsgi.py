"""A Flask shop behind the middleware, for real servers: QUOTA_STORE names its store, QUOTA_CHARGE when it charges."""

from __future__ import annotations

import os

import flask

from quota import Ledger
from quota.wsgi import QuotaMiddleware

app = flask.Flask("shop")
app.wsgi_app = QuotaMiddleware(
    app.wsgi_app,
    Ledger(os.environ["QUOTA_STORE"]),
    on_unavailable="deny",
    charge=os.environ["QUOTA_CHARGE"],
    exempt="/",
    key=("x-api-key", "?key"),
)


@app.get("/")
def home():
    return "open"


@app.get("/pets")
def pets():
    return "pets"


@app.get("/stream")
def stream():
    return flask.Response("x" * 1000 for _ in range(50))


@app.get("/endless")
def endless():
    def chunks():
        while True:
            yield "x" * 10_000

    return flask.Response(chunks())


@app.get("/broken")
def broken():
    raise ZeroDivisionError


@app.get("/broken-stream")
def broken_stream():
    def chunks():
        yield "x" * 1000
        raise ZeroDivisionError

    return flask.Response(chunks())


@app.get("/missing")
def missing():
    flask.abort(404)


@app.get("/tokens")
def tokens():
    flask.request.environ["quota.actual"] = 7
    return "seven"

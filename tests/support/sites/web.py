"""Strict servers for the tests of the middlewares: they check what the standards ask of an application, as they go."""

from __future__ import annotations

import asyncio
import gc
import io
import sys
from dataclasses import dataclass, field
from datetime import datetime, timezone
from wsgiref.util import setup_testing_defaults
from wsgiref.validate import validator

import quota.asgi as asgi_module
import quota.wsgi as wsgi_module
from quota import Ledger, ManualClock, UsagePlan

NOON = datetime(2026, 3, 1, 12, tzinfo=timezone.utc)


def ledger(limits="3/day", store=None, **plan):
    """A ledger at noon and the secret of a key on a plan with these limits."""
    made = Ledger(store, clock=ManualClock(NOON))
    made.add_plan(UsagePlan("PlanA", limits, **plan))
    return made, made.issue_key("Key123", "PlanA").secret


def blocks():
    """How many blocks of memory are taken, with no garbage among them: whatever is kept of a request keeps some."""
    gc.collect()
    return sys.getallocatedblocks()


@dataclass
class Answer:
    """A response as a client sees it."""

    status: int = 0
    fields: list = field(default_factory=list)
    body: bytes = b""
    messages: list = field(default_factory=list)

    def __getitem__(self, name):
        values = [value for field, value in self.fields if field.lower() == name.lower()]
        assert len(values) == 1, f"{name}: {values}"
        return values[0]

    def __contains__(self, name):
        return any(field.lower() == name.lower() for field, _ in self.fields)

    @property
    def whole(self):
        """Everything that a client could compare, header names in lower case."""
        return self.status, sorted((name.lower(), value) for name, value in self.fields), self.body


# WSGI


def environ(method="GET", path="/", headers=(), query="", **more):
    """A WSGI environ; several lines of one header joined by commas, as servers do."""
    made = {
        "REQUEST_METHOD": method,
        "SCRIPT_NAME": "",
        "PATH_INFO": path,
        "QUERY_STRING": query,
        "wsgi.input": io.BytesIO(),
    }
    for name, value in dict(headers).items() if isinstance(headers, dict) else headers:
        key = "HTTP_" + name.upper().replace("-", "_")
        made[key] = f"{made[key]},{value}" if key in made else value
    setup_testing_defaults(made)
    return made | more


def wsgi(app, *args, check=True, read=None, **kwargs):
    """Serve one request under ``wsgiref.validate``; ``read``: hang up after so many chunks."""
    answer, request = Answer(), environ(*args, **kwargs)
    answer.environ = request

    def start(status, fields, error=None):
        answer.status, answer.fields = int(status[:3]), list(fields)
        return answer.messages.append

    body = (validator(app) if check else app)(request, start)
    try:
        chunks = iter(body)
        for count, chunk in enumerate(chunks, 1):
            answer.body += chunk
            if count == read:
                break
    finally:
        if hasattr(body, "close"):
            body.close()
    return answer


# ASGI


class Strict:
    """The server's side of one ASGI HTTP exchange or WebSocket; asserts that every message is allowed where it comes.

    The client hangs up after so many messages (``hang_up``: the server cancels; ``broken_pipe``: sending fails), or
    ``leaves`` as soon as it has sent its request. ``lower``: header names must be in lower case, which Django's are not.
    """

    def __init__(self, app, *, kind="http", hang_up=None, broken_pipe=None, leaves=False, lower=True, **scope):
        self.app, self.kind, self.leaves, self.lower = app, kind, leaves, lower
        self.over = asyncio.Event()
        self.answer = Answer()
        self.state = "new"
        self.hang_up, self.broken_pipe = hang_up, broken_pipe
        self.sent = 0
        self.received = 0
        self.scope = self._scope(**scope)

    def _scope(self, method="GET", path="/", headers=(), query="", root_path="", extensions=(), **more):
        pairs = headers.items() if isinstance(headers, dict) else headers
        scope = {
            "type": self.kind,
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "http_version": "1.1",
            "scheme": "http" if self.kind == "http" else "ws",
            "path": path,
            "raw_path": path.encode(),
            "query_string": query.encode("latin-1"),
            "root_path": root_path,
            "headers": [(name.lower().encode(), value.encode("latin-1")) for name, value in pairs],
            "client": ("127.0.0.1", 1234),
            "server": ("127.0.0.1", 80),
            "state": {},
            "extensions": {name: {} for name in extensions},
        }
        if self.kind == "http":
            scope["method"] = method
        else:
            scope["subprotocols"] = []
        return scope | more

    async def receive(self):
        self.received += 1
        if self.kind == "websocket":
            return (
                {"type": "websocket.connect"} if self.received == 1 else {"type": "websocket.disconnect", "code": 1001}
            )
        if self.received == 1:
            return {"type": "http.request", "body": b"", "more_body": False}
        if not self.leaves:
            await self.over.wait()
        return {"type": "http.disconnect"}

    async def send(self, message):
        self.sent += 1
        if self.broken_pipe == self.sent:
            raise OSError("the client is gone")
        self.answer.messages.append(message)
        getattr(self, "_" + message["type"].replace(".", "_"))(message)
        if self.hang_up == self.sent:
            raise asyncio.CancelledError

    def _fields(self, message):
        for pair in message.get("headers", ()):
            name, value = pair
            assert type(name) is bytes and (name == name.lower() or not self.lower), name
            assert type(value) is bytes and not {10, 13, 0} & set(value), value
        return [(name.decode(), value.decode("latin-1")) for name, value in message.get("headers", ())]

    def _start(self, message):
        assert self.state == "new", self.state
        assert type(message["status"]) is int
        self.answer.status, self.answer.fields = message["status"], self._fields(message)
        self.state = "started"

    def _body(self, message):
        assert self.state == "started", self.state
        assert type(message.get("body", b"")) is bytes
        self.answer.body += message.get("body", b"")
        if not message.get("more_body", False):
            self.state = "ended"
            self.over.set()

    _http_response_start = _start
    _http_response_body = _body

    def _websocket_http_response_start(self, message):
        assert "websocket.http.response" in self.scope["extensions"]
        assert self.received, "the upgrade is refused before it was received"
        self._start(message)

    _websocket_http_response_body = _body

    def _websocket_accept(self, message):
        assert self.state == "new" and self.received
        self.answer.status, self.answer.fields = 101, self._fields(message)
        self.state = "open"

    def _websocket_send(self, message):
        assert self.state == "open"
        self.answer.body += message["text"].encode()

    def _websocket_close(self, message):
        assert self.state in ("new", "open") and self.received
        if self.state == "new":
            self.answer.status = 403
        self.state = "ended"

    async def serve(self):
        await self.app(self.scope, self.receive, self.send)
        assert self.state in ("ended", "open"), self.state
        return self.answer


def asgi(app, *args, **kwargs):
    """Serve one request strictly, on an event loop of its own."""
    names = ("method", "path", "headers", "query")
    return asyncio.run(Strict(app, **dict(zip(names, args, strict=False)), **kwargs).serve())


# One site, served either way


class Boom(Exception):
    """What the site raises when told to."""


@dataclass
class Site:
    """An application for both sorts of server; it keeps what it was given, and fails when told to."""

    status: int = 200
    chunks: tuple = (b"hi",)
    fields: tuple = (("Content-Type", "text/plain"),)
    raises: str = ""  # "before" the response, "during" its body, "after" it
    actual: object = None
    seen: list = field(default_factory=list)

    def wsgi(self, request, start_response):
        self.seen.append((request.get("quota.decision"), request))
        if self.raises == "before":
            raise Boom
        if self.actual is not None:
            request["quota.actual"] = self.actual
        start_response(f"{self.status} Whatever", list(self.fields))
        return self._chunks() if self.raises else list(self.chunks)

    def _chunks(self):
        yield from self.chunks
        if self.raises == "during":
            raise Boom

    async def asgi(self, scope, receive, send):
        state = scope["state"]
        self.seen.append((state.get("quota"), scope))
        if self.raises == "before":
            raise Boom
        if self.actual is not None:
            state["quota_actual"] = self.actual
        fields = [(name.lower().encode(), value.encode("latin-1")) for name, value in self.fields]
        await send({"type": "http.response.start", "status": self.status, "headers": fields})
        for chunk in self.chunks:
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        if self.raises == "during":
            raise Boom
        await send({"type": "http.response.body", "body": b""})
        if self.raises == "after":
            raise Boom

    @property
    def decision(self):
        return self.seen[-1][0]


class Front:
    """A site behind the quota middleware of one of the two standards."""

    def __init__(self, kind, site, made, **settings):
        module = wsgi_module if kind == "wsgi" else asgi_module
        self.kind, self.site, self.ledger = kind, site, made
        self.app = module.QuotaMiddleware(getattr(site, kind), made, **{"on_unavailable": "deny", **settings})

    def __call__(self, *args, **kwargs):
        return (wsgi if self.kind == "wsgi" else asgi)(self.app, *args, **kwargs)

    def visible(self):
        """(the header x-api-key, the authorization, the query) as the site saw them."""
        request = self.site.seen[-1][1]
        if self.kind == "wsgi":
            return request.get("HTTP_X_API_KEY"), request.get("HTTP_AUTHORIZATION"), request["QUERY_STRING"]
        fields = {name.decode(): value.decode("latin-1") for name, value in request["headers"]}
        return fields.get("x-api-key"), fields.get("authorization"), request["query_string"].decode("latin-1")

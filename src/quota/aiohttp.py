"""A usage plan in front of an aiohttp application (extra ``aiohttp``), which speaks neither WSGI nor ASGI."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Unpack

from aiohttp import Payload, StreamReader, web
from aiohttp.base_protocol import BaseProtocol

from .asgi import QuotaMiddleware, nowhere, preflight_of
from .decision import Decision
from .errors import InvalidValue
from .ledger.aio import AsyncLedger
from .ledger.reservations.handle import AsyncReservation
from .ledger.sync import Ledger
from .web.gate import Answer, Settings
from .web.responses.awaited import Exchange
from .web.settings import seeing

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_key: Callable[[str, type], Any] = getattr(web, "RequestKey", lambda name, _: name)  # texts, before aiohttp had keys
DECISION = _key("quota", Decision)
"""The key of the decision in a handler's request: ``request[DECISION]``, with its ``key``, ``plan`` and ``limits``."""
ACTUAL = _key("quota_actual", object)
"""The key under which a handler says what a response used, with ``charge="response"``: ``request[ACTUAL] = 7``."""
RESERVATION = _key("quota_reservation", AsyncReservation)
"""The key of what is held, unless it was charged on arrival: ``await request[RESERVATION].spend(1)`` as it streams."""
_HEADERS, _REQUEST = _key("quota_headers", dict), "quota.request"


def setup(app: web.Application, ledger: AsyncLedger | Ledger, **settings: Unpack[Settings]) -> None:
    """Check and count every request to an application, before it starts: ``setup(app, ledger, on_unavailable="deny")``.

    ``ledger``: an ``AsyncLedger``, or a ``Ledger``, which is asked in threads unless it is in memory. ``settings``: see
    ``Settings``; callables are given aiohttp's request. Routes are named by their resources: ``GET /pets/{number}``.

    Raises:
        InvalidValue: for a setting that cannot be meant, and for what is no such application or ledger.
    """
    if not isinstance(app, web.Application):
        raise InvalidValue("app", app, "an aiohttp Application")
    given = seeing(settings, lambda scope: scope[_REQUEST])
    given.setdefault("route", lambda scope: _name(scope[_REQUEST]))
    if given.get("charge") == "response":
        given.setdefault("actual", lambda scope: scope[_REQUEST].get(ACTUAL))
    front = _Middleware(QuotaMiddleware(nowhere, ledger, **given))
    app.middlewares.insert(0, front.middleware)
    app.on_response_prepare.append(_tell)


class _Middleware:
    """One application's middleware."""

    def __init__(self, steps: QuotaMiddleware) -> None:
        self._steps = steps

        @web.middleware
        async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
            return await self.serve(request, handler)

        self.middleware = middleware

    async def serve(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Answer a request by its handler, or in its place."""
        steps, gate, method = self._steps, self._steps.gate, request.method
        scope = _scope(request)
        preflight = preflight_of(scope, gate) if method == "OPTIONS" and gate.preflight != "ask" else None
        if preflight and gate.preflight == "answer":
            return _response(preflight)
        if preflight or gate.passes(method, request.path, scope):
            return await handler(request)
        seen = _Seen(request, scope, redact=gate.redact)
        body: Any = _Body(seen, gate.most_body) if gate.cost_from_body else None
        decision, held = await steps.decide(scope, method, request.path, body)
        shown = seen.request
        if not decision.allowed and not gate.shadow:
            return _response(gate.refusal(decision, method, scope))
        for one in (request, shown):  # one of them has the response prepared
            one[DECISION], one[_HEADERS] = decision, gate.shown(decision)
            one[RESERVATION] = scope["state"].get("quota_reservation")
        scope[_REQUEST] = shown
        if held is None:
            return await handler(shown)
        exchange = Exchange(steps, held, scope, [], frozenset())
        try:
            response = await handler(shown)
        except web.HTTPException as answer:
            await exchange.begin(answer.status)
            await exchange.settle()
            raise
        except asyncio.CancelledError:  # the client went away: what was not answered is not charged
            await exchange.settle()
            raise
        except BaseException:
            await exchange.fail()
            raise
        await exchange.begin(response.status)
        return await _sent(response, shown, exchange)


async def _sent(response: web.StreamResponse, request: web.Request, exchange: Exchange) -> web.StreamResponse:
    """Settle a response: one that aiohttp would read and send after its handler, when it has been sent."""
    later = isinstance(response, web.FileResponse) or isinstance(getattr(response, "body", None), Payload)
    if response.prepared or not later:
        await exchange.settle()
        return response
    try:
        with suppress(ConnectionError):  # the client is gone: aiohttp finds that out too
            await response.prepare(request)
            await response.write_eof()
    finally:
        await exchange.settle()
    response.prepare = _as_it_is  # type: ignore[method-assign, assignment] # a file would be sent again
    return response


async def _as_it_is(_: web.BaseRequest) -> None:
    """Stand for the sending of what was sent."""


class _Body:
    """A body's first bytes; a handler reads or streams all of it. A form with files is left to aiohttp."""

    def __init__(self, seen: _Seen, most: int) -> None:
        self._seen, self._most = seen, most

    async def read(self) -> bytes:
        request, first = self._seen.request, b""
        if request.content_type == "multipart/form-data":
            return b""
        if not request.can_read_body:  # there is none, or somebody has read it, which aiohttp keeps
            return (await request.read())[: self._most]
        source = request._payload  # what is asked for as ``content`` is kept as it was
        while len(first) < self._most and (part := await source.read(self._most - len(first))):
            first += part
        request._payload = _Again(first, source)
        return first


class _Again(StreamReader):
    """All that was read of a body, then what was not, as it comes."""

    def __init__(self, first: bytes, source: StreamReader) -> None:
        loop = asyncio.get_running_loop()
        super().__init__(BaseProtocol(loop), sys.maxsize, loop=loop)  # the source alone holds its connection back
        self._source = source
        self.feed_data(first)

    async def _wait(self, _: str) -> None:
        part = await self._source.readany()
        if part:
            self.feed_data(part)
        else:
            self.feed_eof()


def _scope(request: web.Request) -> dict[str, Any]:
    """Return a request as ASGI would tell it."""
    peer = request.transport.get_extra_info("peername") if request.transport is not None else None
    return {
        "type": "http", "method": request.method, "path": request.path, "root_path": "", "state": {}, _REQUEST: request,
        "query_string": request.rel_url.raw_query_string.encode(), "client": peer if isinstance(peer, tuple) else None,
        "headers": [(name.lower(), value) for name, value in request.raw_headers],
    }  # fmt: skip


class _Seen:
    """The request that a handler sees: one without the secret, made when that was found, before the body is read."""

    def __init__(self, request: web.Request, scope: dict[str, Any], *, redact: bool) -> None:
        self._request, self._scope, self._hides = request, scope, redact

    @property
    def request(self) -> web.Request:
        if self._hides:
            self._hides, self._request = False, _hidden(self._request, self._scope)
        return self._request


class _Bytes(str):
    """A header's value that is no UTF-8, as aiohttp tells it: copied to another request it is the same bytes."""

    __slots__ = ()

    def encode(self, encoding: str = "utf-8", errors: str = "surrogateescape") -> bytes:
        return super().encode(encoding, errors)


def _text(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return _Bytes(value.decode("utf-8", "surrogateescape"))


def _hidden(request: web.Request, scope: dict[str, Any]) -> web.Request:
    fields = [(name.decode(), _text(value)) for name, value in scope["headers"]]
    query = scope["query_string"].decode()
    same = query == request.rel_url.raw_query_string
    url = request.rel_url if same else request.rel_url.with_query(query)
    return request.clone(headers=fields, rel_url=url)


def _name(request: web.Request) -> str:
    """Return the route's name by the resource that aiohttp found."""
    resource = request.match_info.route.resource
    method = "GET" if request.method == "HEAD" else request.method
    return f"{method} {request.path if resource is None else resource.canonical}"


def _response(answer: Answer) -> web.Response:
    return web.Response(status=answer.status, headers=answer.headers, body=answer.body)


async def _tell(request: web.Request, response: web.StreamResponse) -> None:
    """Tell the limits, whatever the response is: before its first byte."""
    for name, value in request.get(_HEADERS, {}).items():
        response.headers[name] = value

"""A usage plan in front of an ASGI application, as API Gateway stands in front of a service."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, MutableMapping
from functools import lru_cache
from traceback import walk_tb
from typing import Any, Unpack

from .decision import Decision, Reason
from .errors import InvalidCost, InvalidValue, QuotaError
from .ledger.aio import AsyncLedger
from .ledger.reservations.settling import kept_alive
from .ledger.sync import Ledger
from .operations.shape import DEFAULT
from .stores.memory.store import MemoryStore
from .web.bodies import Body
from .web.gate import KEPT, UNDECIDED, Answer, Gate, Held, Settings, log
from .web.routes import below, templates

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
Pairs = list[tuple[bytes, bytes]]

_STARTS = frozenset(("http.response.start", "websocket.accept", "websocket.http.response.start"))
_GONE = frozenset(("http.disconnect", "websocket.disconnect"))


class QuotaMiddleware:
    """Checks and counts every request and WebSocket upgrade to ``app`` by its API key; refuses with 403, 429 or 503.

    ``ledger``: an ``AsyncLedger``, or a ``Ledger``, which is asked in threads unless it is in memory. ``settings``: see
    ``Settings``; ``on_unavailable`` is required. The application finds the decision in ``scope["state"]["quota"]``
    (``request.state.quota``), with its ``key``, ``plan`` and ``limits``.

    Raises:
        InvalidValue: for a setting that cannot be meant, and for a ledger that is none.
    """

    def __init__(self, app: App, ledger: AsyncLedger | Ledger, **settings: Unpack[Settings]) -> None:
        if not isinstance(ledger, (AsyncLedger, Ledger)):
            raise InvalidValue("ledger", ledger, "an AsyncLedger or a Ledger")
        self.app = app
        self._ledger: Any = ledger
        self._at_once = isinstance(ledger, Ledger) and isinstance(ledger.store, MemoryStore)
        self.gate = Gate(template=templates(app), clock=ledger._steps._clock, **settings)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        kind = scope["type"]
        if kind not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        gate = self.gate
        method, path = method_of(scope), path_of(scope, gate)
        preflight = preflight_of(scope, gate) if method == "OPTIONS" and gate.preflight != "ask" else None
        if preflight and gate.preflight == "answer":
            await _answer(preflight, scope, receive, send)
            return
        if preflight or gate.passes(method, path, scope):
            await self.app(scope, receive, send)
            return
        body = Body(receive, gate.most_body) if gate.cost_from_body is not None and kind == "http" else None
        decision, reservation = await self.decide(scope, method, path, body)
        if not decision.allowed and not gate.shadow:
            await _answer(gate.refusal(decision, method, scope), scope, receive, send)
            return
        receive = receive if body is None else body.receive
        own, names = _encoded(gate.shown(decision))
        if reservation is not None:
            await Exchange(self, reservation, scope, own, names).run(receive, send)
        elif own:

            def sending(message: Message) -> Awaitable[None]:  # the server's own awaitable: no coroutine more a message
                return send(_with(message, own, names) if message["type"] in _STARTS else message)

            await self.app(scope, receive, sending)
        else:
            await self.app(scope, receive, send)

    async def decide(
        self, scope: Scope, method: str, path: str, body: Body | None = None
    ) -> tuple[Decision, Held | None]:
        """Find the key, name the route and ask the ledger; tell the application."""
        gate, ledger = self.gate, self._ledger
        found = gate.key(scope) if callable(gate.key) else gate.places.of_scope(scope, redact=gate.redact)
        secret = gate.presented(found, scope)
        route = None if secret is None else gate.name(method, path, scope)
        price = gate.price(scope, b"" if body is None or secret is None else await body.read())
        cost = DEFAULT if price is None else price
        held: Held | None = None
        api, address = gate.api, gate.address(secret, scope)
        try:
            if gate.charge == "arrival":
                if self._at_once:
                    decision = ledger.consume(secret, cost, api=api, route=route, address=address)
                else:
                    decision = await self.ask(ledger.consume, secret, cost, api=api, route=route, address=address)
            else:
                holding = self.ask(ledger.reserve, secret, cost, ttl=gate.ttl, api=api, route=route, address=address)
                held = await holding if self._at_once else await self._held(holding)
                decision = held.decision
        except UNDECIDED as error:
            decision, held = gate.undecided(error), None
        decision = decision if decision.allowed else gate.judged(decision, scope)
        scope.setdefault("state", {})["quota"] = decision
        gate.tell(decision, scope)
        return decision, held if held and decision.reason is Reason.OK else None

    async def _held(self, holding: Coroutine[Any, Any, Any]) -> Any:
        """The reservation; given back if the request is cancelled while the store is still at it."""
        task = kept_alive(holding)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            task.add_done_callback(self._drop)
            raise

    def _drop(self, task: asyncio.Task[Any]) -> None:
        if not task.cancelled() and task.exception() is None and task.result():
            kept_alive(self.ask(task.result().cancel))

    async def ask(self, method: Callable[..., Any], *args: Any, **keywords: Any) -> Any:
        """Ask the ledger without keeping the event loop waiting."""
        if self._at_once:
            return method(*args, **keywords)
        if isinstance(self._ledger, Ledger):
            return await asyncio.to_thread(method, *args, **keywords)
        return await method(*args, **keywords)


@lru_cache(maxsize=64)
def _field(name: str) -> bytes:
    return name.lower().encode()


@lru_cache(maxsize=64)
def _fields(*names: str) -> tuple[tuple[bytes, ...], frozenset[bytes]]:
    fields = tuple(map(_field, names))
    return fields, frozenset(fields)


def _encoded(headers: dict[str, str]) -> tuple[Pairs, frozenset[bytes]]:
    """Headers as ASGI has them, and their names."""
    fields, names = _fields(*headers)
    return [(field, value.encode()) for field, value in zip(fields, headers.values())], names  # noqa: B905 -- slow


def method_of(scope: Scope) -> str:
    """The method in capitals, as some servers and frameworks take any; a WebSocket upgrade is a GET."""
    method: str = scope.get("method", "GET")
    return method.upper()


def path_of(scope: Scope, gate: Gate) -> str:
    """The path below where the application is mounted, by its own word or by the server's."""
    rooted = gate.names and gate.names.rooted
    return below(scope, (rooted and rooted.root_path) or scope.get("root_path", "")) or "/"


def preflight_of(scope: Scope, gate: Gate) -> Answer | None:
    """The answer to a request if it is a CORS preflight; what stands where keys may come is hidden then."""
    fields = dict(scope["headers"])
    asked = fields.get(b"access-control-request-method")
    if asked is None or b"origin" not in fields:
        return None
    gate.places.of_scope(scope, redact=gate.redact, find=False)
    names = fields.get(b"access-control-request-headers", b"")
    return gate.preflighted(asked.decode("latin-1"), names.decode("latin-1"))


def _with(message: Message, own: Pairs, names: frozenset[bytes]) -> Message:
    """The start of a response with our headers in place of any of the same name."""
    kept = [pair for pair in message.get("headers") or () if pair[0].lower() not in names]
    return {**message, "headers": kept + own}


async def _answer(answer: Answer, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer in place of the application; a WebSocket upgrade with the same response, where the server can send one."""
    kind = "http.response"
    if scope["type"] == "websocket":
        await receive()
        kind = "websocket.http.response"
        if kind not in scope.get("extensions", {}):
            await send({"type": "websocket.close", "code": 1008, "reason": answer.reason})
            return
    fields, _ = _encoded(dict(answer.headers))
    await send({"type": f"{kind}.start", "status": answer.status, "headers": fields})
    await send({"type": f"{kind}.body", "body": answer.body})


class Exchange:
    """One response whose units are held, settled when it has ended: before its last part is sent, or as it fails."""

    def __init__(
        self, middleware: QuotaMiddleware, reservation: Held, scope: Scope, own: Pairs, names: frozenset[bytes]
    ) -> None:
        self._middleware = middleware
        self._reservation: Any = reservation
        self._scope = scope
        self._own = own
        self._names = names
        self._status: int | None = None
        self._gone = False
        self._closing = False
        self._committed: Decision | None = None

    async def run(self, receive: Receive, send: Send) -> None:
        async def receiving() -> Message:
            message = await receive()
            self._gone = self._gone or message["type"] in _GONE
            return message

        async def sending(message: Message) -> None:
            kind = message["type"]
            if kind in _STARTS:
                message = _with(message, self._own, self._names)
                await self.begin(101 if kind == "websocket.accept" else message["status"])
            elif kind in ("http.response.body", "websocket.http.response.body") and not message.get("more_body"):
                await self.settle()
            try:
                await send(message)
            except OSError:
                self._gone = True
                raise

        try:
            await self._middleware.app(self._scope, receiving, sending)
        except asyncio.CancelledError:
            raise
        except BaseException as error:
            if not self._gone:
                self._status = None
                if self._committed is not None and _broke(error):
                    await self._through(self._take_back(self._committed))
            raise
        finally:
            await self.settle()

    async def begin(self, status: int) -> None:
        """Go by a response's status, now that it is known."""
        gate = self._middleware.gate
        self._status = status
        if gate.charge == "success" and not gate.success(status):
            await self.settle()

    async def fail(self) -> None:
        """Settle a response that broke."""
        self._status = None
        await self.settle()

    async def settle(self) -> None:
        """Commit or cancel, once, even while the request itself is being cancelled."""
        if self._closing:
            return
        self._closing = True
        await self._through(self._close())

    async def _through(self, work: Coroutine[Any, Any, None]) -> None:
        if self._middleware._at_once:
            await work
        else:
            await asyncio.shield(kept_alive(work))

    async def _close(self) -> None:
        gate, reservation, ask = self._middleware.gate, self._reservation, self._middleware.ask
        commit, actual = gate.kept(self._status, self._scope, self._scope["state"].get("quota_actual"))
        try:
            if commit:
                try:
                    decision = await ask(reservation.commit, actual)
                except InvalidCost:
                    log.exception(KEPT)
                    actual = None
                    decision = await ask(reservation.commit)
                self._committed = decision
                gate.tell(decision, self._scope)
            else:
                await ask(reservation.cancel)
        except QuotaError:
            used = reservation.decision.cost if actual is None else actual
            gate.unsettled(reservation, used if commit else None, self._scope)

    async def _take_back(self, committed: Decision) -> None:
        """Refund a response that was settled as a success and then turned out to have failed."""
        gate, middleware = self._middleware.gate, self._middleware
        if gate.kept(None, self._scope, self._scope["state"].get("quota_actual"))[0]:
            return
        try:
            await middleware.ask(middleware._ledger.refund, committed)
        except QuotaError as error:
            log.error("a stream that broke stays charged: decision %s: %s", committed.id, error)


def _broke(error: BaseException) -> bool:
    """Tell whether a stream broke that Starlette's BaseHTTPMiddleware has ended as if it were whole, raising only then.

    A background task that fails comes the same way: its response was whole.
    """
    places = {frame.f_globals.get("__name__") for frame, _ in walk_tb(error.__traceback__)}
    return "starlette.middleware.base" in places and "starlette.background" not in places


async def nowhere(*_: Any) -> None:
    """Stand for the application of a middleware whose framework calls views itself."""

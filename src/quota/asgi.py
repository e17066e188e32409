"""A usage plan in front of an ASGI application, as API Gateway stands in front of a service."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from functools import lru_cache, partial
from typing import Any, Unpack

from .decision import Decision, Reason
from .errors import InvalidValue, QuotaError
from .ledger.aio import AsyncLedger
from .ledger.reservations.again import whole
from .ledger.reservations.awaited import kept_alive
from .ledger.reservations.handle import AsyncReservation
from .ledger.sync import Ledger
from .operations.headroom import Told
from .operations.shape import DEFAULT
from .stores.memory.store import MemoryStore
from .web.bodies import Body
from .web.gate import UNDECIDED, Answer, Gate, Settings
from .web.responses.awaited import STARTS, Exchange, Message, Pairs, Receive, Scope, Send, with_fields
from .web.routes import below, templates

App = Callable[[Scope, Receive, Send], Awaitable[None]]


class QuotaMiddleware:
    """Checks and counts every request and WebSocket upgrade to ``app`` by its API key; refuses with 403, 429 or 503.

    ``ledger``: an ``AsyncLedger``, or a ``Ledger``, which is asked in threads unless it is in memory. ``settings``: see
    ``Settings``; ``on_unavailable`` is required. The application finds the decision in ``scope["state"]["quota"]``
    (``request.state.quota``), with its ``key``, ``plan`` and ``limits``, and what is held, unless it was charged on
    arrival, in ``scope["state"]["quota_reservation"]``, an ``AsyncReservation`` whatever the ledger is. A call has its
    place in flight until its response has ended, or its WebSocket.

    Raises:
        InvalidValue: for a setting that cannot be meant, and for a ledger that is none.
    """

    def __init__(self, app: App, ledger: AsyncLedger | Ledger, **settings: Unpack[Settings]) -> None:
        if not isinstance(ledger, (AsyncLedger, Ledger)):
            raise InvalidValue("ledger", ledger, "an AsyncLedger or a Ledger")
        self.app = app
        self._ledger: Any = ledger
        self._at_once = isinstance(ledger, Ledger) and isinstance(ledger.store, MemoryStore)
        self._threads = isinstance(ledger, Ledger) and not self._at_once
        self.gate = Gate(template=templates(app), clock=ledger._steps._clock, **settings)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        kind = scope["type"]
        if kind not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        gate = self.gate
        method, path = scope.get("method", "GET").upper(), path_of(scope, gate)
        preflight = preflight_of(scope, gate) if method == "OPTIONS" and gate.preflight != "ask" else None
        if preflight and gate.preflight == "answer":
            await _answer(preflight, scope, receive, send)
            return
        if preflight or (gate.exempt and gate.passes(method, path, scope)):
            await self.app(scope, receive, send)
            return
        body = Body(receive, gate.most_body) if gate.cost_from_body is not None and kind == "http" else None
        decision, held = await self.decide(scope, method, path, body)
        if not decision.allowed and not gate.shadow:
            await _answer(gate.refusal(decision, method, scope), scope, receive, send)
            return
        receive = receive if body is None else body.receive
        own, names = _encoded(gate.shown(decision))
        if held is not None:
            await Exchange(self, held, scope, own, names).run(receive, send)
        elif own:

            def sending(message: Message) -> Awaitable[None]:  # the server's own awaitable: no coroutine more a message
                return send(with_fields(message, own, names) if message["type"] in STARTS else message)

            await self.app(scope, receive, sending)
        else:
            await self.app(scope, receive, send)

    async def decide(
        self, scope: Scope, method: str, path: str, body: Body | None = None, *, keep_slot: bool = True
    ) -> tuple[Decision, AsyncReservation | None]:
        """Find the key, name the route and ask the ledger; tell the application. What is held is to be settled."""
        gate = self.gate
        found = gate.key(scope) if callable(gate.key) else gate.places.of_scope(scope, redact=gate.redact)
        secret = found or gate.presented(found, scope)
        route = None if secret is None else gate.name(method, path, scope)
        price = gate.cost
        if body is not None or price is not None:
            price = gate.price(scope, b"" if body is None or secret is None else await body.read())
        cost, address = DEFAULT if price is None else price, gate.address(secret, scope)
        held: AsyncReservation | None = None
        ttl = gate.ttl if keep_slot else None
        try:
            if gate.charge != "arrival" or self._threads:
                decision, held = await self._ask(secret, cost, ttl, api=gate.api, route=route, address=address)
            else:
                deciding = self._ledger.consume(secret, cost, api=gate.api, route=route, address=address, keep_slot=ttl)
                decision = deciding if self._at_once else await deciding
                held = self._awaited(decision, decision.slot) if type(decision) is not Told else None
        except UNDECIDED as error:
            decision = gate.undecided(error)
        decision = decision if decision.allowed else gate.judged(decision, scope)
        held = held if held and decision.reason is Reason.OK else None
        state = scope.setdefault("state", {})
        state["quota"] = decision
        if gate.charge != "arrival":
            state["quota_reservation"] = held or gate.nothing(AsyncReservation, self._close)
        gate.tell(decision, scope)
        return decision, held

    async def _ask(
        self, secret: Any, cost: Any, ttl: int | None, **where: Any
    ) -> tuple[Decision, AsyncReservation | None]:
        ledger, arrives = self._ledger, self.gate.charge == "arrival"
        ask = partial(ledger.consume, keep_slot=ttl) if arrives else partial(ledger.reserve, ttl=self.gate.ttl)
        if self._at_once:
            answer = ask(secret, cost, **where)
        elif self._threads:
            answer = await self._unless_left(asyncio.to_thread(ask, secret, cost, **where))
        else:
            answer = await ask(secret, cost, **where)
        decision, held = (answer, answer.slot) if arrives else (answer.decision, answer)
        return decision, self._awaited(decision, held)

    def _awaited(self, decision: Decision, held: Any) -> AsyncReservation | None:
        """Return what is held as it is settled here, whatever the ledger is."""
        waits = held is None or isinstance(held, AsyncReservation)
        return held if waits else AsyncReservation(decision, held._hold, self._close)

    async def _close(self, held: Any, op: str, value: Any) -> Any:
        """Settle what a ledger holds that is not awaited, as a whole."""
        close = partial(self._ledger._settle, held, op, value)
        return close() if self._at_once else await whole(partial(asyncio.to_thread, close))

    async def _unless_left(self, asking: Coroutine[Any, Any, Any]) -> Any:
        """Wait for an answer; what it holds is given back if the request is cancelled while a thread is at it."""
        task = kept_alive(asking)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            task.add_done_callback(_give_back)
            raise

    async def ask(self, method: Callable[..., Any], *args: Any, **keywords: Any) -> Any:
        """Ask the ledger without keeping the event loop waiting."""
        if self._at_once:
            return method(*args, **keywords)
        if self._threads:
            return await asyncio.to_thread(method, *args, **keywords)
        return await method(*args, **keywords)


def _give_back(task: asyncio.Task[Any]) -> None:
    if not task.cancelled() and task.exception() is None:
        held = task.result().slot if isinstance(task.result(), Decision) else task.result()
        if held:
            kept_alive(asyncio.to_thread(_cancel, held))


def _cancel(held: Any) -> None:
    with suppress(QuotaError):  # it was told, and it lapses
        held.cancel()


@lru_cache(maxsize=64)
def _field(name: str) -> bytes:
    return name.lower().encode()


_IETF = frozenset((b"ratelimit-policy", b"ratelimit"))
_lasting = lru_cache(maxsize=64)(str.encode)


@lru_cache(maxsize=64)
def _fields(*names: str) -> tuple[tuple[bytes, ...], frozenset[bytes]]:
    fields = tuple(map(_field, names))
    return fields, frozenset(fields)


def _encoded(headers: dict[str, str]) -> tuple[Pairs, frozenset[bytes]]:
    """Headers as ASGI has them, and their names."""
    if len(headers) == 2 and "RateLimit-Policy" in headers:  # nearly always: made short, and a policy lasts
        state = headers["RateLimit"].encode()
        return [(b"ratelimit-policy", _lasting(headers["RateLimit-Policy"])), (b"ratelimit", state)], _IETF
    fields, names = _fields(*headers)
    return [(field, value.encode()) for field, value in zip(fields, headers.values())], names  # noqa: B905 -- slow


def method_of(scope: Scope) -> str:
    """The method in capitals, as some servers and frameworks take any; a WebSocket upgrade is a GET."""
    method: str = scope.get("method", "GET")
    return method.upper()


def path_of(scope: Scope, gate: Gate) -> str:
    """The path below where the application is mounted, by its own word or by the server's."""
    rooted = gate.names and gate.names.rooted
    root = (rooted and rooted.root_path) or scope.get("root_path", "")
    return (below(scope, root) if root else scope["path"]) or "/"


def preflight_of(scope: Scope, gate: Gate) -> Answer | None:
    """The answer to a request if it is a CORS preflight; what stands where keys may come is hidden then."""
    fields = dict(scope["headers"])
    asked = fields.get(b"access-control-request-method")
    if asked is None or b"origin" not in fields:
        return None
    gate.places.of_scope(scope, redact=gate.redact, find=False)
    names = fields.get(b"access-control-request-headers", b"")
    return gate.preflighted(asked.decode("latin-1"), names.decode("latin-1"))


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


async def nowhere(*_: Any) -> None:
    """Stand for the application of a middleware whose framework calls views itself."""

"""A usage plan in front of an ASGI application, as API Gateway stands in front of a service."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Awaitable, Callable, Coroutine, Iterable, MutableMapping
from contextlib import suppress
from functools import lru_cache, partial
from traceback import walk_tb
from typing import Any, Unpack

from .decision import Decision, Reason
from .errors import InvalidCost, InvalidValue, QuotaError
from .ledger.aio import AsyncLedger
from .ledger.reservations.again import whole
from .ledger.reservations.handle import AsyncReservation
from .ledger.reservations.settling import kept_alive
from .ledger.sync import Ledger
from .operations.shape import DEFAULT
from .stores.memory.store import MemoryStore
from .web.bodies import Body
from .web.exchange import Carried
from .web.gate import KEPT, UNDECIDED, Answer, Gate, Settings, log
from .web.routes import below, templates

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
Pairs = list[tuple[bytes, bytes]]

_STARTS = frozenset(("http.response.start", "websocket.accept", "websocket.http.response.start"))
_PARTS = frozenset(("http.response.body", "websocket.http.response.body"))
_ENDS = frozenset(("http.response.pathsend", "websocket.close"))
_GONE = frozenset(("http.disconnect", "websocket.disconnect"))


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
        method, path = method_of(scope), path_of(scope, gate)
        preflight = preflight_of(scope, gate) if method == "OPTIONS" and gate.preflight != "ask" else None
        if preflight and gate.preflight == "answer":
            await _answer(preflight, scope, receive, send)
            return
        if preflight or gate.passes(method, path, scope):
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
                return send(_with(message, own, names) if message["type"] in _STARTS else message)

            await self.app(scope, receive, sending)
        else:
            await self.app(scope, receive, send)

    async def decide(
        self, scope: Scope, method: str, path: str, body: Body | None = None, *, keep_slot: bool = True
    ) -> tuple[Decision, AsyncReservation | None]:
        """Find the key, name the route and ask the ledger; tell the application. What is held is to be settled."""
        gate = self.gate
        found = gate.key(scope) if callable(gate.key) else gate.places.of_scope(scope, redact=gate.redact)
        secret = gate.presented(found, scope)
        route = None if secret is None else gate.name(method, path, scope)
        price = gate.price(scope, b"" if body is None or secret is None else await body.read())
        cost, address = DEFAULT if price is None else price, gate.address(secret, scope)
        held: AsyncReservation | None = None
        ttl = gate.ttl if keep_slot else None
        try:
            decision, held = await self._ask(secret, cost, ttl, api=gate.api, route=route, address=address)
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
        if held is not None and not isinstance(held, AsyncReservation):
            held = AsyncReservation(decision, held._hold, self._close)
        return decision, held

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


class Exchange(Carried):
    """One response that holds something, settled when it has ended: before its last part is sent, or as it fails."""

    def __init__(
        self, middleware: QuotaMiddleware, reservation: AsyncReservation, scope: Scope, own: Pairs,
        names: frozenset[bytes],
    ) -> None:  # fmt: skip
        super().__init__(middleware.gate, reservation)
        self._middleware = middleware
        self._scope = scope
        self._own = own
        self._names = names
        self._gone = False
        self._closing = False
        self._committed: Decision | None = None
        self._loop = asyncio.get_running_loop()
        self._wait()

    async def run(self, receive: Receive, send: Send) -> None:
        async def receiving() -> Message:
            message = await receive()
            self._gone = self._gone or message["type"] in _GONE
            return message

        async def sending(message: Message) -> None:
            if message["type"] in _STARTS:
                message = _with(message, self._own, self._names)
            await self._before(message)
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

    async def _before(self, message: Message) -> None:
        """Go by a message that is about to be sent."""
        kind = message["type"]
        if kind in _STARTS:
            await self.begin(101 if kind == "websocket.accept" else message["status"], message["headers"])
        elif kind in _PARTS:
            more = bool(message.get("more_body"))
            if self.ends(message.get("body", b"")) or not more:
                await self.settle(last=more)
        elif kind in _ENDS:
            await self.settle(last=True)

    async def begin(self, status: int, fields: Iterable[tuple[Any, Any]] = ()) -> None:
        """Go by a response's start, now that it is known: of some it is all that the client gets."""
        method = method_of(self._scope)
        if self.starts(method, status, fields) or (self._left == 0 and status != 101):
            await self.settle(last=True)

    async def fail(self) -> None:
        """Settle a response that broke."""
        self._status = None
        await self.settle()

    async def settle(self, *, last: bool = False) -> None:
        """Commit or cancel, once, even while the request itself is being cancelled.

        ``last``: now, if it is known what was used: the last part is about to go out.
        """
        reservation, gate = self._reservation, self._gate
        if self._closing or reservation.settled:
            return
        kept = gate.kept(self._status, self._scope, self._scope["state"].get("quota_actual"), reservation)
        if last and gate.charge == "response" and kept[1] is None:
            return
        self._closing = True
        self._timer.cancel()
        await self._through(self._close(*kept))

    def _wait(self) -> None:
        self._timer = self._loop.call_later(self.span, _renew, weakref.ref(self))

    async def renew(self) -> None:
        """Hold it longer, and again after a while."""
        over = False
        try:
            await self._reservation.extend(self._gate.ttl)
        except Exception as error:  # noqa: BLE001 -- nobody waits for it
            over = self.outlived(error)
        if not over and not self._closing:
            self._wait()

    def __del__(self) -> None:
        if not self._closing and self.here and not self._reservation.settled:  # its framework dropped it
            with suppress(RuntimeError):  # the event loop is closed: it lapses
                self._loop.call_soon_threadsafe(_settle_dropped, self)

    async def _through(self, work: Coroutine[Any, Any, None]) -> None:
        if self._middleware._at_once:
            await work
        else:
            await asyncio.shield(kept_alive(work))

    async def _close(self, commit: bool, actual: Any) -> None:  # noqa: FBT001 -- as ``kept`` returns them
        gate, reservation = self._gate, self._reservation
        try:
            if not commit:
                await reservation.cancel()
                return
            try:
                decision = await reservation.commit(actual)
            except InvalidCost:
                log.exception(KEPT)
                actual = None
                if reservation.spent:
                    await reservation.cancel()
                    return
                decision = await reservation.commit()
            self._committed = decision
            gate.tell(decision, self._scope)
        except QuotaError:
            used = reservation.decision.cost if actual is None else actual
            gate.unsettled(reservation, used if commit else None, self._scope)

    async def _take_back(self, committed: Decision) -> None:
        """Refund a response that was settled as a success and then turned out to have failed."""
        gate, middleware = self._gate, self._middleware
        if gate.kept(None, self._scope, self._scope["state"].get("quota_actual"))[0]:
            return
        try:
            await middleware.ask(middleware._ledger.refund, committed)
        except QuotaError as error:
            log.error("a stream that broke stays charged: decision %s: %s", committed.id, error)


def _renew(exchange: weakref.ref[Exchange]) -> None:
    lasting = exchange()
    if lasting is not None:
        kept_alive(lasting.renew())


def _settle_dropped(exchange: Exchange) -> None:
    kept_alive(exchange.settle())


def _broke(error: BaseException) -> bool:
    """Tell whether a stream broke that Starlette's BaseHTTPMiddleware has ended as if it were whole, raising only then.

    A background task that fails comes the same way: its response was whole.
    """
    places = {frame.f_globals.get("__name__") for frame, _ in walk_tb(error.__traceback__)}
    return "starlette.middleware.base" in places and "starlette.background" not in places


async def nowhere(*_: Any) -> None:
    """Stand for the application of a middleware whose framework calls views itself."""

"""A usage plan in front of an ASGI application, as API Gateway stands in front of a service."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, MutableMapping
from functools import lru_cache
from typing import Any, Unpack

from .decision import Decision
from .errors import InvalidCost, InvalidValue, QuotaError
from .gate import KEPT, UNDECIDED, Answer, Gate, Settings, log
from .http import find_key, hidden, hide_parameters
from .ledger import AsyncLedger, Ledger
from .reservation import AsyncReservation, Reservation
from .routes import templates
from .steps import DEFAULT
from .stores.memory import MemoryStore

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
Held = Reservation | AsyncReservation
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
        self.gate = Gate(template=templates(app), **settings)
        sources = () if callable(self.gate.key) else self.gate.key
        self._wanted = {source.encode(): source for source in sources if source[0] != "?"}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        kind = scope["type"]
        if kind not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        gate = self.gate
        method, path = method_of(scope), path_of(scope)
        preflight = method == "OPTIONS" and _preflight(scope)
        if preflight and gate.redact:
            _hide(scope, gate, "", "")
        if preflight or gate.passes(method, path, scope):
            await self.app(scope, receive, send)
            return
        decision, reservation = await self.decide(scope, method, path)
        if not decision.allowed and not gate.shadow:
            await _refuse(gate.refusal(decision, method), scope, receive, send)
            return
        own, names = _encoded(gate.shown(decision))
        if reservation is not None:
            await _Exchange(self, reservation, scope, own, names).run(receive, send)
        elif own:

            def sending(message: Message) -> Awaitable[None]:  # the server's own awaitable: no coroutine more a message
                return send(_with(message, own, names) if message["type"] in _STARTS else message)

            await self.app(scope, receive, sending)
        else:
            await self.app(scope, receive, send)

    async def decide(self, scope: Scope, method: str, path: str) -> tuple[Decision, Held | None]:
        """Find the key, name the route and ask the ledger; tell the application."""
        gate, ledger = self.gate, self._ledger
        secret = gate.key(scope) if callable(gate.key) else self._present(scope)
        route, price = gate.name(method, path, scope), gate.price(scope)
        cost = DEFAULT if price is None else price
        held: Held | None = None
        try:
            if gate.charge == "arrival":
                if self._at_once:
                    decision = ledger.consume(secret, cost, api=gate.api, route=route)
                else:
                    decision = await self.ask(ledger.consume, secret, cost, api=gate.api, route=route)
            else:
                holding = self.ask(ledger.reserve, secret, cost, ttl=gate.ttl, api=gate.api, route=route)
                held = await holding if self._at_once else await self._held(holding)
                decision = held.decision
        except UNDECIDED as error:
            decision, held = gate.undecided(error), None
        scope.setdefault("state", {})["quota"] = decision
        gate.tell(decision, scope)
        return decision, held if held and decision.key else None

    async def _held(self, holding: Coroutine[Any, Any, Any]) -> Any:
        """The reservation; given back if the request is cancelled while the store is still at it."""
        task = _kept_alive(holding)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            task.add_done_callback(self._drop)
            raise

    def _drop(self, task: asyncio.Task[Any]) -> None:
        if not task.cancelled() and task.exception() is None and task.result():
            _kept_alive(self.ask(task.result().cancel))

    async def ask(self, method: Callable[..., Any], *args: Any, **keywords: Any) -> Any:
        """Ask the ledger without keeping the event loop waiting."""
        if self._at_once:
            return method(*args, **keywords)
        if isinstance(self._ledger, Ledger):
            return await asyncio.to_thread(method, *args, **keywords)
        return await method(*args, **keywords)

    def _present(self, scope: Scope) -> str | None:
        """The key that a request presents; hidden from the application and the server's logs, if it is to be."""
        gate, wanted = self.gate, self._wanted
        found: dict[str, str] = {}
        for field, value in scope["headers"]:
            if field in wanted:
                name, text = wanted[field], value.decode("latin-1")
                found[name] = f"{found[name]},{text}" if name in found else text
        query = scope.get("query_string", b"").decode("latin-1") if gate.parameters else ""
        secret, source = find_key(found.get, query, gate.key)
        if gate.redact and (source or gate.parameters):
            _hide(scope, gate, source, hidden(secret))
        return secret


_running: set[asyncio.Task[Any]] = set()


def _kept_alive(work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
    """A task that goes on when nobody waits for it any more: the event loop itself holds tasks only weakly."""
    task = asyncio.ensure_future(work)
    _running.add(task)
    task.add_done_callback(_running.discard)
    return task


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
    return list(zip(fields, map(str.encode, headers.values()), strict=True)), names


def method_of(scope: Scope) -> str:
    """The method in capitals, as some servers and frameworks take any; a WebSocket upgrade is a GET."""
    method: str = scope.get("method", "GET")
    return method.upper()


def path_of(scope: Scope) -> str:
    """The path below where the application is mounted."""
    path: str = scope["path"]
    root = scope.get("root_path", "")
    below = path[len(root) :] if root and path.startswith(root) else path
    return (below or "/") if below[:1] in ("", "/") else path


def _preflight(scope: Scope) -> bool:
    return any(name == b"access-control-request-method" for name, _ in scope["headers"])


def _hide(scope: Scope, gate: Gate, source: str, shown: str) -> None:
    """Hide keys in the scope itself, where the server's access log looks: in the query wherever the key was found."""
    if source and source[0] != "?":
        field, value = source.encode(), shown.encode()
        scope["headers"] = [(name, value if name == field else kept) for name, kept in scope["headers"]]
    if gate.parameters and scope.get("query_string"):
        query = scope["query_string"].decode("latin-1")
        scope["query_string"] = hide_parameters(query, gate.parameters, f"{source[1:]}=", shown).encode("latin-1")


def _with(message: Message, own: Pairs, names: frozenset[bytes]) -> Message:
    """The start of a response with our headers in place of any of the same name."""
    kept = [pair for pair in message.get("headers") or () if pair[0].lower() not in names]
    return {**message, "headers": kept + own}


async def _refuse(answer: Answer, scope: Scope, receive: Receive, send: Send) -> None:
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


class _Exchange:
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

    async def run(self, receive: Receive, send: Send) -> None:
        async def receiving() -> Message:
            message = await receive()
            self._gone = self._gone or message["type"] in _GONE
            return message

        async def sending(message: Message) -> None:
            kind = message["type"]
            if kind in _STARTS:
                message = _with(message, self._own, self._names)
                await self._begin(101 if kind == "websocket.accept" else message["status"])
            elif kind in ("http.response.body", "websocket.http.response.body") and not message.get("more_body"):
                await self._settle()
            try:
                await send(message)
            except OSError:
                self._gone = True
                raise

        try:
            await self._middleware.app(self._scope, receiving, sending)
        except asyncio.CancelledError:
            raise
        except BaseException:
            if not self._gone:
                self._status = None
            raise
        finally:
            await self._settle()

    async def _begin(self, status: int) -> None:
        gate = self._middleware.gate
        self._status = status
        if gate.charge == "success" and not gate.success(status):
            await self._settle()

    async def _settle(self) -> None:
        """Commit or cancel, once, even while the request itself is being cancelled."""
        if self._closing:
            return
        self._closing = True
        if self._middleware._at_once:
            await self._close()
        else:
            await asyncio.shield(_kept_alive(self._close()))

    async def _close(self) -> None:
        gate, reservation, ask = self._middleware.gate, self._reservation, self._middleware.ask
        commit, actual = gate.kept(self._status, self._scope, self._scope["state"].get("quota_actual"))
        try:
            if commit:
                try:
                    decision = await ask(reservation.commit, actual)
                except InvalidCost:
                    log.exception(KEPT)
                    decision = await ask(reservation.commit)
                gate.tell(decision, self._scope)
            else:
                await ask(reservation.cancel)
        except QuotaError:
            log.exception("a reservation could not be settled; it goes back by itself")

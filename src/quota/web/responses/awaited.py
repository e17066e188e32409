"""One response by ASGI that holds something."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Awaitable, Callable, Coroutine, Iterable, MutableMapping
from contextlib import suppress
from traceback import walk_tb
from typing import Any

from ...decision import Decision
from ...errors import InvalidCost, QuotaError
from ...ledger.reservations.awaited import kept_alive
from ...ledger.reservations.handle import AsyncReservation
from ..gate import KEPT, log
from .carried import Carried

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Pairs = list[tuple[bytes, bytes]]

STARTS = frozenset(("http.response.start", "websocket.accept", "websocket.http.response.start"))
_PARTS = frozenset(("http.response.body", "websocket.http.response.body"))
_ENDS = frozenset(("http.response.pathsend", "websocket.close"))
_GONE = frozenset(("http.disconnect", "websocket.disconnect"))


def with_fields(message: Message, own: Pairs, names: frozenset[bytes]) -> Message:
    """The start of a response with our headers in place of any of the same name."""
    kept = [pair for pair in message.get("headers") or () if pair[0].lower() not in names]
    return {**message, "headers": kept + own}


class Exchange(Carried):
    """One response that holds something, settled when it has ended: before its last part is sent, or as it fails."""

    def __init__(
        self, middleware: Any, reservation: AsyncReservation, scope: Scope, own: Pairs,
        names: frozenset[bytes],
    ) -> None:  # fmt: skip
        super().__init__(middleware.gate, reservation)
        self._middleware = middleware
        self._scope = scope
        self._own = own
        self._names = names
        self._gone = False
        self._committed: Decision | None = None
        self._loop = asyncio.get_running_loop()
        self._wait()

    async def run(self, receive: Receive, send: Send) -> None:
        async def receiving() -> Message:
            message = await receive()
            self._gone = self._gone or message["type"] in _GONE
            return message

        async def sending(message: Message) -> None:
            if message["type"] in STARTS:
                message = with_fields(message, self._own, self._names)
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
        if kind in STARTS:
            await self.begin(101 if kind == "websocket.accept" else message["status"], message["headers"])
        elif kind in _PARTS:
            more = bool(message.get("more_body"))
            if self.ends(message.get("body", b"")) or not more:
                await self.settle(last=more)
        elif kind in _ENDS:
            await self.settle(last=True)

    async def begin(self, status: int, fields: Iterable[tuple[Any, Any]] = ()) -> None:
        """Go by a response's start, now that it is known: of some it is all that the client gets."""
        method = self._scope.get("method") or self._scope.get("REQUEST_METHOD", "GET")
        if self.starts(method.upper(), status, fields) or (self._left == 0 and status != 101):
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
        if self._over or reservation.settled:
            return
        kept = gate.kept(self._status, self._scope, self._scope["state"].get("quota_actual"), reservation)
        if last and gate.charge == "response" and kept[1] is None:
            return
        self._over = True
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
        if not over and not self._over:
            self._wait()

    def __del__(self) -> None:
        if not self._over and self.here and not self._reservation.settled:  # its framework dropped it
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

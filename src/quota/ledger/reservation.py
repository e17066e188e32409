"""Units held now, committed or cancelled later, expiring by themselves."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import datetime
from types import TracebackType
from typing import Any

from ..clock import to_datetime
from ..decision import Decision
from ..limit import Cost


class _Held:
    """All that a sync and an async reservation share."""

    __slots__ = ("_close", "_expires", "decision", "id", "settled")

    def __init__(
        self, decision: Decision, held: tuple[str, int], close: Callable[[str, str, Cost | None], Any]
    ) -> None:
        self.decision = decision
        self.id, self._expires = held
        self.settled = not decision.allowed
        self._close = close

    def __bool__(self) -> bool:
        return self.decision.allowed

    @property
    def expires_at(self) -> datetime:
        """Return when what is held goes back by itself."""
        return to_datetime(self._expires)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.id} {self.decision!r}>"


class Reservation(_Held):
    """Units held by ``Ledger.reserve``; falsy when refused. As a context manager it cancels what was not committed.

    Exactly one of ``commit`` and ``cancel`` counts, once. After ``expires_at`` the units are back by themselves; a
    commit is recorded all the same.
    """

    __slots__ = ()

    def commit(self, actual: Cost | None = None) -> Decision:
        """Turn the hold into what was used, by default all of it: the rest goes back, more is recorded all the same.

        Returns a decision that may be refunded. Raises ``ReservationClosed`` when it was committed or cancelled before
        (or refused), ``InvalidCost`` for units that are not whole numbers, zero or more, and for a bare number, which
        counts requests, where other units are held.
        """
        decision: Decision = self._close("commit", self.id, actual)
        self.settled = True
        return decision

    def cancel(self) -> None:
        """Give everything back. Raises ``ReservationClosed`` when it was committed or cancelled before (or refused)."""
        self._close("cancel", self.id, None)
        self.settled = True

    def __enter__(self) -> Reservation:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self.settled:
            self.cancel()


class AsyncReservation(_Held):
    """``Reservation`` of an ``AsyncLedger``: the same, awaited."""

    __slots__ = ()
    _close: Callable[[str, str, Cost | None], Awaitable[Any]]

    async def commit(self, actual: Cost | None = None) -> Decision:
        """See ``Reservation.commit``."""
        decision: Decision = await self._close("commit", self.id, actual)
        self.settled = True
        return decision

    async def cancel(self) -> None:
        """See ``Reservation.cancel``."""
        await self._close("cancel", self.id, None)
        self.settled = True

    async def __aenter__(self) -> AsyncReservation:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self.settled:
            await self.cancel()

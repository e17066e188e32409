"""Units held now, spent, committed or cancelled later, expiring by themselves."""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime, timedelta
from types import TracebackType
from typing import Any

from ...clock import to_datetime
from ...decision import Decision
from ...errors import QuotaError
from ...key import new_token
from ...limit import Cost
from ...rule.entries import Hold

Close = Callable[[Any, str, Any], Any]
"""Asks the ledger to settle a reservation: by its handle, what is to be done, and with how much."""
_numbers = itertools.count(1)


class _Held:
    """All that a sync and an async reservation share."""

    __slots__ = (
        "__weakref__", "_close", "_doubts", "_expires", "_handle", "_hold", "_left", "_patient", "decision", "id",
        "settled",
    )  # fmt: skip

    def __init__(self, decision: Decision, hold: Hold, close: Close) -> None:
        self.decision = decision
        self.id = hold.id
        self.settled = not decision.allowed
        self._left = False  # to the background, which settles it
        self._patient = True  # asks a store that is away too; what a middleware settles does not
        self._hold = hold
        self._expires = hold.expires  # beside the hold: another thread may hold it longer while this one spends
        self._close = close
        self._handle = new_token()
        self._doubts: dict[tuple[tuple[str, int], ...], tuple[str, int]] = {}

    def __bool__(self) -> bool:
        return self.decision.allowed

    @property
    def expires_at(self) -> datetime:
        """Return when what is held goes back by itself, by the store's clock, as far as this handle knows."""
        return to_datetime(self._expires)

    @property
    def held(self) -> Mapping[str, int]:
        """Units that are held and not spent, by unit, as far as this handle knows; none once it is settled."""
        return {} if self.settled else self._hold.held()

    @property
    def spent(self) -> Mapping[str, int]:
        """Units that were spent, by unit, as far as this handle knows."""
        return self._hold.gone()

    @property
    def key(self) -> str:
        """The id of the key that it is of."""
        return self.id.partition(".")[2]

    @property
    def api(self) -> str:
        """The api of its call; empty for none."""
        return self._hold.api

    @property
    def route(self) -> str | None:
        """The route of its call."""
        return self._hold.route or None

    def _numbered(self, takes: Mapping[str, int]) -> tuple[str, int]:
        """Name a spending: again as before where it repeats one whose outcome is not known."""
        return self._doubts.pop((*takes.items(),), None) or (self._handle, next(_numbers))

    def _guard(self, ledger: Any, op: str) -> Any:
        """Return what answers at once while the store is away, for what need not wait: it is tried again."""
        guard = ledger._breaker or getattr(ledger.store, "_breaker", None)
        return None if self._patient or op == "spend" else guard

    def _done(self, op: str, answer: Any) -> None:
        """Take note of what a settlement came to."""
        if op == "spend":
            self._hold = self._hold if isinstance(answer, Decision) else answer[1]  # not where nothing is held
        elif op == "extend":
            self._expires = answer.expires if isinstance(answer, Hold) else self._expires
        else:
            self.settled = True

    def __repr__(self) -> str:
        shown = self.id.replace("\n", " ")  # a caller's
        return f"<{type(self).__name__} {shown} {self.decision!r}>"


def _decided(answer: Any) -> Decision:
    return answer if isinstance(answer, Decision) else answer[0]


class Reservation(_Held):
    """Units held by ``Ledger.reserve``; falsy when refused.

    As a context manager it cancels what was not committed, and raises nothing over the block's own error.

    Exactly one of ``commit`` and ``cancel`` counts, once. After ``expires_at`` the units that were not spent are back
    by themselves; what is spent or committed then is recorded all the same. Where it was reserved with a
    ``request_id``, each of these may be repeated after an error that left its outcome unknown. A ``commit`` or
    ``cancel`` that the store could not be asked for raises and is tried again in the background until ``expires_at``.
    """

    __slots__ = ()

    def spend(self, actual: Cost) -> Decision:
        """Take a part for good now; the rest stays held.

        More than is held, and what is used after it lapsed, is recorded all the same. What was spent stays
        charged whatever becomes of this process; refund it by what ``commit`` returns. Raises ``ReservationClosed``,
        ``InvalidCost`` as ``commit``.
        """
        return _decided(self._close(self, "spend", actual))

    def extend(self, ttl: timedelta | int) -> None:
        """Hold it for ``ttl`` (a timedelta, or microseconds) from now on, or as long as it would be held anyway.

        Raises ``ReservationClosed`` once it lapsed: what went back is not taken again.
        """
        self._close(self, "extend", ttl)

    def commit(self, actual: Cost | None = None) -> Decision:
        """Turn the hold into what was used, by default all of it: the rest goes back, more is recorded all the same.

        ``actual``: all that was used, what was spent included. Returns a decision that may be refunded. Raises
        ``ReservationClosed`` when it was committed or cancelled before (or refused), ``InvalidCost`` for less than was
        spent, for units that are not whole numbers, zero or more, and for a bare number, which counts requests, where
        other units are held.
        """
        return _decided(self._close(self, "commit", actual))

    def cancel(self) -> None:
        """Give back what was not spent, and its slots.

        Raises ``ReservationClosed`` when it was committed or cancelled before (or refused).
        """
        self._close(self, "cancel", None)

    def __enter__(self) -> Reservation:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if not (self.settled or self._left):
                self.cancel()
        except QuotaError:  # told; what the block raised goes on, its own interrupted commit too
            if error is None:
                raise


class AsyncReservation(_Held):
    """``Reservation`` of an ``AsyncLedger``: the same, awaited.

    What was begun is done as a whole, though its task is cancelled meanwhile: the cancellation comes after it.
    """

    __slots__ = ()
    _close: Callable[[Any, str, Any], Awaitable[Any]]

    async def spend(self, actual: Cost) -> Decision:
        """See ``Reservation.spend``."""
        return _decided(await self._close(self, "spend", actual))

    async def extend(self, ttl: timedelta | int) -> None:
        """See ``Reservation.extend``."""
        await self._close(self, "extend", ttl)

    async def commit(self, actual: Cost | None = None) -> Decision:
        """See ``Reservation.commit``."""
        return _decided(await self._close(self, "commit", actual))

    async def cancel(self) -> None:
        """See ``Reservation.cancel``."""
        await self._close(self, "cancel", None)

    async def __aenter__(self) -> AsyncReservation:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if not (self.settled or self._left):
                await self.cancel()
        except QuotaError:
            if error is None:
                raise

"""All that an ``AsyncLedger`` does with reservations that are there: the same as a ``Ledger``, awaited."""

from __future__ import annotations

import functools
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from datetime import timedelta
from typing import Any, TypeVar

from ...account import Account
from ...decision import Decision
from ...errors import QuotaError, StoreBusy, StoreUnavailable
from ...key import ApiKey
from ...limit import Cost
from ..administration import Step
from .handle import AsyncReservation
from .settling import Settled, decision_of, lifetime, slot_of

T = TypeVar("T")


class AsyncReserving(Settled):
    """Reservations that are there, of an ``AsyncLedger``."""

    _steps: Any
    _ask: Callable[..., Coroutine[Any, Any, Any]]
    _asked: Callable[[Any], Coroutine[Any, Any, Any]]
    _charge: Callable[..., Coroutine[Any, Any, Decision]]
    _here: Any

    async def _settle(self, held: AsyncReservation, op: str, value: Any) -> Any:
        """See ``Ledger._settle``; done as a whole, though the task is cancelled meanwhile."""
        step = self._steps.settle(held, op, value)
        if self._here is not None:
            return await self._settled(held, op, step)
        from .again import whole  # noqa: PLC0415 -- most programs reserve nothing

        # A spending that was cut short may have been made; what commits in the end knows all that was used.
        return await whole(functools.partial(self._settled, held, op, step), times=1 if op == "spend" else 2)

    async def _settled(self, held: AsyncReservation, op: str, step: Step[Any]) -> Any:
        guard = held._guard(self, op)
        try:
            answer = await (self._ask(step) if guard is None else guard.ask_awaited(self._ask, step))
        except (StoreBusy, StoreUnavailable) as error:
            from .again import Tasks  # noqa: PLC0415 -- stores are seldom away

            self._told(held, op, step, error, Tasks)
            raise
        self._done(held, op, answer)
        return answer

    async def reservation(self, id: str) -> AsyncReservation:  # noqa: A002 -- the public contract
        """See ``Ledger.reservation``."""
        found = await self._asked(self._steps.reservation(id))
        return AsyncReservation(decision_of(found), found[0], self._settle)

    async def list_reservations(self, key_or_account: ApiKey | Account | str) -> list[AsyncReservation]:
        """See ``Ledger.list_reservations``."""
        found = await self._asked(self._steps.list_reservations(key_or_account))
        return [AsyncReservation(decision_of(one), one[0], self._settle) for one in found]

    async def _keep_slot(self, secret: Any, cost: Cost, ttl: timedelta | int, where: Mapping[str, Any]) -> Decision:
        """Consume, and keep the slots."""

        def held(decision: Decision) -> AsyncReservation | None:
            slot = slot_of(decision, where["api"], where["route"])
            return None if slot is None else AsyncReservation(decision, slot, self._settle)

        decision = await self._unless_left(
            self._charge("consume", secret, cost, lifetime(ttl, "keep_slot"), **where), held
        )
        slot = held(decision)
        if slot is not None:
            decision._slot = slot
        return decision

    async def _unless_left(
        self, asking: Coroutine[Any, Any, Decision], held: Callable[[Decision], AsyncReservation | None]
    ) -> Decision:
        """Wait for a decision; what it holds is given back if its caller is cancelled meanwhile."""
        if self._here is not None:
            return await asking
        import asyncio  # noqa: PLC0415 -- a store that waits has loaded it

        task = kept_alive(asking)

        def give_back(done: asyncio.Task[Decision]) -> None:
            made = None if done.cancelled() or done.exception() is not None else held(done.result())
            if made:
                kept_alive(_given_back(made))

        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            task.add_done_callback(give_back)
            raise


_running: set[Any] = set()


def kept_alive(work: Coroutine[Any, Any, T]) -> Any:
    """A task that goes on when nobody waits for it any more: the event loop itself holds tasks only weakly."""
    import asyncio  # noqa: PLC0415 -- a ledger that is not awaited never needs it

    task = asyncio.ensure_future(work)
    _running.add(task)
    task.add_done_callback(_running.discard)
    return task


async def _given_back(held: AsyncReservation) -> None:
    with suppress(QuotaError):  # it was told, and it lapses
        await held.cancel()

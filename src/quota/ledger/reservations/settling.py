"""Reservations that are there: settled, found by their ids, listed. The pure steps, and who asks them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from datetime import timedelta
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

from ...account import Account
from ...clock import DAY_US, span_us
from ...decision import Decision, Details, Reason
from ...errors import (
    InvalidCost,
    InvalidValue,
    QuotaError,
    ReservationClosed,
    StoreBusy,
    StoreUnavailable,
    UnknownAccount,
    UnknownKey,
)
from ...key import ApiKey, Caller, KeyOrCaller
from ...limit import REQUESTS, Cost, parse_cost
from ...operations.request import Request
from ...rule.entries import Amount, Hold
from ...rule.limits import Outcome
from ..administration import Asking, Step, same
from ..holders import Holders
from .handle import AsyncReservation, Reservation, _Held

T = TypeVar("T")
FoundReservation = tuple[Hold, KeyOrCaller]
"""A reservation as it stands, and whose it is."""


def lifetime(ttl: timedelta | int, field: str = "ttl") -> int:
    """Read how long something is held, in microseconds."""
    ttl_us = span_us(ttl, field)
    if not 0 < ttl_us <= 366 * DAY_US:
        raise InvalidValue(field, ttl, "a timedelta or microseconds, above zero and at most 366 days")
    return ttl_us


def hold_of(decision: Decision, request: Request) -> Hold:
    """Return the reservation of a decision: the first call's, where the decision is a replay."""
    details = decision._details()
    held = tuple([Amount(request.api, "", unit, units) for unit, units in details.takes.items()])
    remembered = details.id or "" if request.request_id is not None else ""
    return Hold(
        details.until or details.outcome.now + request.ttl, details.hold or request.id, details.outcome.now,
        still_open=decision.allowed, takes=held, api=request.api, route=request.route or "", decision=remembered,
        above=details.above,
    )  # fmt: skip


def slot_of(decision: Decision, api: str, route: str | None) -> Hold:
    """Return the reservation that keeps the slots of a decision."""
    details = decision._details()
    return Hold(
        details.until, details.slot, details.outcome.now, still_open=True, takes=(), api=api, route=route or "",
        above=details.above,
    )  # fmt: skip


def decision_of(found: FoundReservation) -> Decision:
    """Return an admission that tells what a reservation that was found took."""
    hold, key = found
    takes = dict(hold.gone())
    for unit, units in hold.held().items():
        takes[unit] = takes.get(unit, 0) + units
    outcome = Outcome(allowed=True, now=hold.taken_at, states=())
    details = Details(Reason.OK, hold.decision or None, key, None, takes, outcome, hold=hold.id, until=hold.until)
    return Decision(details)


def named(subject: KeyOrCaller) -> tuple[str | None, Caller | None]:
    """A key's id, or a caller: how a request names whom it is about."""
    return (None, subject) if isinstance(subject, Caller) else (subject.id, None)


def _whose(reservation: str) -> tuple[str, tuple[str | None, Caller | None]]:
    """Read of whom a reservation is."""
    if not isinstance(reservation, str):
        raise InvalidValue("id", reservation, "the id of a reservation")
    _, dot, whose = reservation.partition(".")
    if not dot or not whose or len(reservation) > 1024:
        raise InvalidValue("id", reservation, "the id of a reservation, as Reservation.id tells it")
    plan, line, name = whose.partition("\n")
    return whose, (None, Caller(plan, name)) if line else (whose, None)


class Settling(Holders):
    """Reservations that are there."""

    def settle(self, held: _Held, op: str, value: Any) -> Step[Any]:
        """Spend, extend, commit or cancel a reservation."""
        decision, hold = held.decision, held._hold
        if not decision.allowed:
            raise ReservationClosed(held.id)
        takes: Mapping[str, int] | None = None
        if op == "spend" or (op == "commit" and value is not None):
            takes = parse_cost(value, "actual", 0)
            units = {**hold.held(), **hold.gone()} or decision._details().takes
            if isinstance(value, int) and set(units) != {REQUESTS}:
                raise InvalidCost("actual", value, f"how many of each unit that is held: {', '.join(units)}")
        ttl = lifetime(value) if op == "extend" else 0
        subject = decision._details().key
        if subject is None:  # allowed without the store: nothing is held
            return Step("", (), lambda _: decision)
        key, caller = named(subject)
        again = hold.decision if not held.settled else ""
        args: tuple[Any, ...] = held._numbered(takes or {}) if op == "spend" else ()
        if op == "cancel" and again:
            args = (again,)
        request_id = f"\n{held.id}" if op == "commit" and again else None
        request = Request(
            op, self._now(), None, key, hold.api, hold.route or None, takes, request_id, held.id, ttl, args, caller,
            above=hold.above,
        )  # fmt: skip
        return Step("apply", (request,), same)

    def reservation(self, id: str) -> Asking[FoundReservation]:  # noqa: A002 -- the public contract
        """Find a reservation by its id, which another process may have made: to settle it here.

        One that lapsed less than a day ago is found too: what was used of it can still be committed. Raises
        ``ReservationClosed`` for one that was committed or cancelled, or is not known.
        """
        _, (key, caller) = _whose(id)
        request = Request("reservations", self._now(), None, key, id=id, args=(False,), caller=caller)
        try:
            found: list[FoundReservation] = yield Step("apply", (request,), same)
        except UnknownKey:
            found = []
        if not found:
            raise ReservationClosed(id)
        return found[0]

    def list_reservations(self, key_or_account: ApiKey | Account | str) -> Asking[list[FoundReservation]]:
        """Return all reservations that are open of a key, or of an account's keys, the first to lapse first.

        Slots that calls keep in flight (``consume(keep_slot=)``) are among them: ``cancel`` frees one that is stuck.
        A text names the key of that id, else the account. Raises ``UnknownKey``, ``PlanConflict`` as ``status``.
        """
        now = self._now()
        keys, account = yield from self._find(key_or_account)
        asks = [Request("reservations", now, None, key, args=(account is not None,)) for key in keys[:1]]
        if account is not None:  # of accounts below it, too
            asks.append(Request("reservations", now, args=(False,), account=account))
        every: dict[str, FoundReservation] = {}
        for request in asks:
            try:
                some: list[FoundReservation] = yield Step("apply", (request,), same)
            except (UnknownKey, UnknownAccount):
                continue  # removed meanwhile, or an account that keys made
            every |= {each[0].id: each for each in some}
        found = sorted(every.values(), key=lambda each: each[0].until)
        owners: dict[str, ApiKey | None] = {}
        for id_ in dict.fromkeys(_whose(each[0].id)[0] for each in found):
            try:
                owners[id_] = yield Step("get_key", (id_,), same)
            except UnknownKey:
                owners[id_] = None  # removed: what it holds lapses
        told = [(each, owners[_whose(each[0].id)[0]]) for each in found]
        return [(each[0], key) for each, key in told if key is not None]


QUEUES: WeakKeyDictionary[Any, Any] = WeakKeyDictionary()
"""By store, the queues of calls that wait, from the first that does."""


class Settled:
    """Take note of what was done with a reservation, at once or at last: metrics watch this alone."""

    store: Any

    def _done(self, held: _Held, op: str, answer: Any) -> None:
        held._done(op, answer)
        if QUEUES and op in ("commit", "cancel") and self.store in QUEUES:
            QUEUES[self.store].released()


class Reserving(Settled):
    """All that a ``Ledger`` does with reservations that are there."""

    _steps: Any
    _ask: Callable[..., Any]
    _asked: Callable[[Any], Any]
    _again: Any = None

    def _settle(self, held: Reservation, op: str, value: Any) -> Any:
        """Ask for what becomes of a reservation; what the store cannot be asked for is told, and tried again."""
        step, guard = self._steps.settle(held, op, value), held._guard(self, op)
        try:
            answer = self._ask(step) if guard is None else guard.ask(self._ask, step)
        except (StoreBusy, StoreUnavailable) as error:
            from .again import Thread, told  # noqa: PLC0415 -- stores are seldom away

            job = told(held, op, step, error)
            if job is not None:
                self._again = self._again or Thread(self)
                self._again.put(job)
            raise
        self._done(held, op, answer)
        return answer

    def reservation(self, id: str) -> Reservation:  # noqa: A002 -- the public contract
        found = self._asked(self._steps.reservation(id))
        return Reservation(decision_of(found), found[0], self._settle)

    def list_reservations(self, key_or_account: ApiKey | Account | str) -> list[Reservation]:
        found = self._asked(self._steps.list_reservations(key_or_account))
        return [Reservation(decision_of(one), one[0], self._settle) for one in found]

    reservation.__doc__ = Settling.reservation.__doc__
    list_reservations.__doc__ = Settling.list_reservations.__doc__


class AsyncReserving(Settled):
    """The same of an ``AsyncLedger``."""

    _steps: Any
    _ask: Callable[..., Coroutine[Any, Any, Any]]
    _asked: Callable[[Any], Coroutine[Any, Any, Any]]
    _charge: Callable[..., Coroutine[Any, Any, Decision]]
    _here: Any
    _again: Any = None

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
            from .again import Tasks, told  # noqa: PLC0415 -- stores are seldom away

            job = told(held, op, step, error)
            if job is not None:
                self._again = self._again or Tasks(self)
                self._again.put(job)
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
            if type(decision) is not Decision or not decision._full.slot:
                return None
            return AsyncReservation(decision, slot_of(decision, where["api"], where["route"]), self._settle)

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

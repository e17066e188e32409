"""Reservations that are there: settled, found by their ids, listed. The pure steps, and who asks them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

from ...account import Account
from ...clock import DAY_US, span_us
from ...decision import Decision, Details, Reason
from ...errors import (
    InvalidCost,
    InvalidValue,
    ReservationClosed,
    StoreBusy,
    StoreUnavailable,
    UnknownAccount,
    UnknownKey,
)
from ...key import ApiKey, Caller, KeyOrCaller
from ...limit import REQUESTS, parse_cost
from ...operations.request import Request
from ...rule.entries import Amount, Hold
from ...rule.limits import Outcome
from ..administration import Asking, Step, same
from ..holders import Holders
from .handle import Reservation, _Held

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
    if (made := getattr(decision, "_made", None)) is not None:
        return made  # type: ignore[no-any-return] # a hold
    details = decision._details()
    held = tuple([Amount(request.api, "", unit, units) for unit, units in details.takes.items()])
    remembered = details.id or "" if request.request_id is not None else ""
    return Hold(
        details.until or details.outcome.now + request.ttl, details.hold or request.id, details.outcome.now,
        still_open=decision.allowed, takes=held, api=request.api, route=request.route or "", decision=remembered,
        above=details.above,
    )  # fmt: skip


def slot_of(decision: Decision, api: str, route: str | None) -> Hold | None:
    """Return the reservation that keeps the slots of a decision, where one does."""
    made: Hold | None = getattr(decision, "_made", None)
    if made is not None or type(decision) is not Decision or not decision._full.slot:
        return made
    details = decision._full
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
            if isinstance(value, int) and {*hold.held(), *hold.gone()} != {REQUESTS}:
                units = {**hold.held(), **hold.gone()} or decision._details().takes
                if set(units) != {REQUESTS}:
                    raise InvalidCost("actual", value, f"how many of each unit that is held: {', '.join(units)}")
        ttl = lifetime(value) if op == "extend" else 0
        if "." not in held.id:  # allowed without the store: nothing is held
            return Step("", (), lambda _: decision)
        _, (key, caller) = _whose(held.id)
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
    _again: Any = None

    def _told(self, held: _Held, op: str, step: Step[Any], error: Exception, again: Callable[[Any], Any]) -> None:
        """Tell of a settlement that failed, and have it tried again."""
        from .again import told  # noqa: PLC0415 -- stores are seldom away

        job = told(held, op, step, error)
        if job is not None:
            self._again = self._again or again(self)
            held._left = True
            self._again.put(job)

    def _done(self, held: _Held, op: str, answer: Any) -> None:
        held._done(op, answer)
        if QUEUES and op in ("commit", "cancel") and self.store in QUEUES:
            QUEUES[self.store].released()


class Reserving(Settled):
    """All that a ``Ledger`` does with reservations that are there."""

    _steps: Any
    _ask: Callable[..., Any]
    _asked: Callable[[Any], Any]

    def _settle(self, held: Reservation, op: str, value: Any) -> Any:
        """Ask for what becomes of a reservation; what the store cannot be asked for is told, and tried again."""
        step, guard = self._steps.settle(held, op, value), held._guard(self, op)
        try:
            answer = self._ask(step) if guard is None else guard.ask(self._ask, step)
        except (StoreBusy, StoreUnavailable) as error:
            from .again import Thread  # noqa: PLC0415 -- stores are seldom away

            self._told(held, op, step, error, Thread)
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

"""The pure steps of reservations: settle one, find one by its id, list those of a key or an account."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from ..clock import DAY_US, span_us
from ..decision import Decision, Details, Reason
from ..errors import InvalidCost, InvalidValue, ReservationClosed, UnknownKey
from ..key import ApiKey, Caller, KeyOrCaller
from ..limit import REQUESTS, parse_cost
from ..operations.request import Request
from ..operations.reservations import Found, spent_of, units_of
from ..rule.entries import Amount, Hold
from ..rule.limits import Outcome
from .administration import Asking, Step, same
from .holders import Holders
from .reservation import _Held


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
    )  # fmt: skip


def slot_of(decision: Decision, api: str, route: str | None) -> Hold:
    """Return the reservation that keeps the slots of a decision."""
    details = decision._details()
    return Hold(details.until, details.slot, details.outcome.now, still_open=True, takes=(), api=api, route=route or "")


def decision_of(found: Found) -> Decision:
    """Return an admission that tells what a reservation that was found took."""
    hold, key = found
    takes = dict(spent_of(hold))
    for unit, units in units_of(hold.takes).items():
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
            units = {**units_of(hold.takes), **spent_of(hold)} or decision._details().takes
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
            op, self._now(), None, key, hold.api, hold.route or None, takes, request_id, held.id, ttl, args, caller
        )
        return Step("apply", (request,), same)

    def reservation(self, id: str) -> Asking[Found]:  # noqa: A002 -- the public contract
        """Find a reservation by its id, which another process may have made: to settle it here.

        One that lapsed less than a day ago is found too: what was used of it can still be committed. Raises
        ``ReservationClosed`` for one that was committed or cancelled, or is not known.
        """
        _, (key, caller) = _whose(id)
        request = Request("reservations", self._now(), None, key, id=id, args=(False,), caller=caller)
        try:
            found: list[Found] = yield Step("apply", (request,), same)
        except UnknownKey:
            found = []
        if not found:
            raise ReservationClosed(id)
        return found[0]

    def list_reservations(self, key_or_account: ApiKey | str) -> Asking[list[Found]]:
        """Return all reservations that are open of a key, or of an account's keys, the first to lapse first.

        Slots that calls keep in flight (``consume(keep_slot=)``) are among them: ``cancel`` frees one that is stuck.
        A text names the key of that id, else the account. Raises ``UnknownKey``, ``PlanConflict`` as ``status``.
        """
        now = self._now()
        keys, account = yield from self._find(key_or_account)
        found: list[Found] = yield Step(
            "apply", (Request("reservations", now, None, keys[0], args=(account,)),), same
        )  # fmt: skip
        owners: dict[str, ApiKey | None] = {}
        for id_ in dict.fromkeys(_whose(each.hold.id)[0] for each in found):
            try:
                owners[id_] = yield Step("get_key", (id_,), same)
            except UnknownKey:
                owners[id_] = None  # removed: what it holds lapses
        told = [(each, owners[_whose(each.hold.id)[0]]) for each in found]
        return [Found(each.hold, key) for each, key in told if key is not None]

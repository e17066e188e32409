"""The machine's rules for calls in flight: what is spent of a reservation, held longer, kept as a slot, and found."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from ..errors import ClockSkew, InvalidCost, ReservationClosed
from .directory import Book, equal, raises, units_of
from .model import Answer, Skewed
from .reports import ReportMachine
from .strategies import APIS, COSTS, KEY_IDS, ROUTES, TTLS
from .windows import DAY


class FlightMachine(ReportMachine):
    """Reservations while they last."""

    def _book(self, id_: str, api: str) -> Book:
        return self.books.setdefault((id_, api), Book())

    def _mine(self, index: int, id_: str) -> bool:
        """Tell whether a reservation is there, as the model has it."""
        slots = [slot for slot in self.model.slots if slot.hold == f"hold {index}"]
        return any(("key", id_) in slot.subjects for slot in slots)

    def _gone(self, index: int) -> None:
        """Forget a hold of which the ledger says that it lapsed more than a day ago."""
        for event in self.model.events:
            if event.hold == f"hold {index}":
                event.units, event.hold = 0, ""
        self.model.slots = [slot for slot in self.model.slots if slot.hold != f"hold {index}"]

    def _found(self, which: int, ask: Callable[[Any], object]) -> tuple[int, int] | None:
        """Return a reservation that is there and the instant; None where what is asked of it is refused, as it must be."""
        index = which % len(self.held)
        id_, era, held, _, _ = self.held[index]
        key = self.model.keys.get(id_)
        if key is None:
            return None
        if key.era != era or not self._mine(index, id_):
            raises((ReservationClosed, ClockSkew), lambda: ask(held))
            return None
        try:
            with self._along(index):
                return index, self.model.instant(key, self.now)
        except Skewed:
            raises(ClockSkew, lambda: ask(held))
            return None

    def _along(self, index: int) -> Any:
        """Look at a key with the accounts above that a reservation holds units of."""
        return self.model.along(self.held[index][0], self.model.lines.get(f"hold {index}", ()))

    @precondition(lambda self: self.held)
    @rule(which=st.integers(0, 30), actual=COSTS.filter(bool), elsewhere=st.booleans())
    def spend(self, which: int, actual: Any, elsewhere: bool) -> None:
        found = self._found(which, lambda held: held.spend(actual))
        if found is None:
            return
        index, now = found
        id_, era, held, api, route = self.held[index]
        try:
            if elsewhere:  # another process found it, and goes on with it
                held = self.ledger.reservation(held.id)
                self.held[index] = id_, era, held, api, route
            held.spend(actual)
        except ReservationClosed:
            assert now > held._expires + DAY, "a hold was closed early"
            self._gone(index)
            return
        with self._along(index):
            self.model.spend(id_, f"hold {index}", actual, api, route, self.now)
        left = sum(units for unit, units in held.held.items())
        self._book(id_, api).spend(held.id, units_of(actual), left, now)
        short = {unit: units - 1 for unit, units in held.spent.items() if units}
        raises(InvalidCost, lambda: held.commit({**held.spent, **dict(list(short.items())[:1])}))

    @precondition(lambda self: self.held)
    @rule(which=st.integers(0, 30), ttl=TTLS)
    def extend(self, which: int, ttl: int) -> None:
        found = self._found(which, lambda held: held.extend(ttl))
        if found is None:
            return
        index, now = found
        id_, _, held, api, route = self.held[index]
        with self._along(index):
            longer = self.model.extend(id_, f"hold {index}", ttl, api, route, self.now)
        if longer:
            held.extend(ttl)
            self._book(id_, api).extend(held.id, now + ttl)
        else:
            raises(ReservationClosed, lambda: held.extend(ttl))

    @rule(id_=KEY_IDS, cost=COSTS, api=APIS, route=ROUTES, ttl=TTLS)
    def keep_slot(self, id_: str, cost: Any, api: str, route: str | None, ttl: int) -> None:
        key = self.model.keys.get(id_)
        kwargs: dict[str, Any] = {"api": api, "route": route, "keep_slot": ttl}
        if cost is not None:
            kwargs["cost"] = cost
        plan = self.model.plan_at(key, api, self.now) if key else None
        slotted = key is not None and any(
            type(limit.spec).__name__ == "Concurrency"
            for limit in self.model.joined(key, plan, api, route, self.model.latest(key, self.now))
        )
        until, mark = (ttl, f"hold {len(self.held)}") if slotted else (None, "")
        try:
            expected = self.model.consume(
                id_ if key else None, cost, api, route, self.now, ttl=until, hold=mark, slot=slotted
            )  # fmt: skip
        except Skewed:
            raises(ClockSkew, lambda: self.ledger.consume(self._presented(id_), **kwargs))
            return
        decision = self.ledger.consume(self._presented(id_), **kwargs)
        self._same(decision, expected)
        equal(decision.slot is not None, bool(decision) and slotted, "a slot is kept")
        if decision and key:
            self.taken.append((id_, key.era, decision, expected, False))
            self._book(id_, api).use(units_of(decision.cost))
            if decision.slot is not None:
                self.held.append((id_, key.era, decision.slot, api, route))

    def _same(self, decision: Any, expected: Answer) -> None:
        raise NotImplementedError

    @rule(id_=KEY_IDS)
    def list_reservations(self, id_: str) -> None:
        key = self.model.keys.get(id_)
        if key is None:
            return
        try:
            now = self.model.instant(key, self.now)
        except Skewed:
            raises(ClockSkew, lambda: self.ledger.list_reservations(self.ledger.get_key(id_)))
            return
        found = {held.id for held in self.ledger.list_reservations(self.ledger.get_key(id_))}
        slots = {slot.hold: slot for slot in self.model.slots if ("key", id_) in slot.subjects and now < slot.expires}
        expected = {held.id for index, (_, _, held, _, _) in enumerate(self.held) if f"hold {index}" in slots}
        equal(found, expected, f"what {id_} holds")

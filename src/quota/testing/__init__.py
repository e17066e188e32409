"""The conformance machine: every store must answer as an independent model does, whatever is done in whatever order.

    from quota.testing import machine
    TestMyStore = machine(lambda: MyStore(...)).TestCase

Needs Hypothesis. Each run opens a fresh store; ``reopen`` lets a store that persists be closed and opened in the middle.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import invariant, precondition, rule

from ..clock import to_us
from ..decision import Decision
from ..errors import ClockSkew, InvalidValue, QuotaError, RequestMismatch, ReservationClosed
from .bounds import BoundsMachine
from .directory import equal, raises, units_of, us_of
from .model import Answer, Skewed
from .strategies import APIS, COSTS, KEY_IDS, MANY, REQUEST_IDS, ROUTES, TTLS
from .windows import DAY


class Machine(BoundsMachine):
    """Everything a ledger does, step by step beside the model."""

    @rule(id_=KEY_IDS, cost=COSTS, api=APIS, route=ROUTES, request_id=REQUEST_IDS)
    def consume(self, id_: str, cost: Any, api: str, route: str | None, request_id: str | None) -> None:
        kwargs: dict[str, Any] = {"api": api, "route": route, "request_id": request_id}
        if cost is not None:
            kwargs["cost"] = cost["requests"] if set(cost) == {"requests"} else cost
        key = self.model.keys.get(id_)
        earlier = key.remembered.get(request_id or "") if key and key.enabled else None
        if earlier is not None and earlier[0] > self.now:
            self._replayed(id_, earlier, ("consume", cost, api, route), kwargs)
            return
        try:
            expected = self.model.consume(id_ if key else None, cost, api, route, self.now)
        except Skewed:
            raises(ClockSkew, lambda: self.ledger.consume(self._presented(id_), **kwargs))
            return
        decision = self.ledger.consume(self._presented(id_), **kwargs)
        self._same(decision, expected)
        if decision and key:
            self.taken.append((id_, key.era, decision, expected, False))
            self._book(id_, api).use(units_of(decision.cost))
            if request_id is not None:
                key.remembered[request_id] = (expected.at + DAY, ("consume", cost, api, route), decision, expected)

    @rule(id_=KEY_IDS, times=st.integers(1, 4), known=st.booleans())
    def hammer(self, id_: str, times: int, known: bool) -> None:
        """The plainest call, several times: what a fast path serves."""
        key = self.model.keys.get(id_)
        if key is None:
            return
        presented = self.ledger.get_key(id_) if known else self._presented(id_)
        for _ in range(times):
            try:
                expected = self.model.consume(id_, None, "", None, self.now)
            except Skewed:
                raises(ClockSkew, lambda: self.ledger.consume(presented))
                return
            decision = self.ledger.consume(presented)
            self._same(decision, expected)
            if decision:
                self.taken.append((id_, key.era, decision, expected, False))
                self._book(id_, "").use(units_of(decision.cost))

    def _replayed(self, id_: str, earlier: tuple[Any, ...], call: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        _, remembered, first, expected = earlier
        if remembered != call or first.id in self.spent:
            raises(RequestMismatch, lambda: self.ledger.consume(self._presented(id_), **kwargs))
            return
        again = self.ledger.consume(self._presented(id_), **kwargs)
        equal((again.replayed, again.id), (True, first.id), "a replay")
        self._same(again, expected)

    def _peek(self, id_: str, cost: Any, api: str, route: str | None, kwargs: dict[str, Any]) -> None:
        kwargs = {**kwargs, "request_id": None}
        key = self.model.keys.get(id_)
        try:
            expected = self.model.consume(id_ if key else None, cost, api, route, self.now, dry=True)
        except Skewed:
            raises(ClockSkew, lambda: self.ledger.peek(self._presented(id_), **kwargs))
            return
        self._same(self.ledger.peek(self._presented(id_), **kwargs), expected)

    @rule(id_=KEY_IDS, cost=COSTS, api=APIS, route=ROUTES)
    def peek(self, id_: str, cost: Any, api: str, route: str | None) -> None:
        kwargs: dict[str, Any] = {"api": api, "route": route}
        if cost is not None:
            kwargs["cost"] = cost
        self._peek(id_, cost, api, route, kwargs)

    @rule(
        id_=KEY_IDS,
        cost=COSTS.filter(bool),
        api=APIS,
        route=ROUTES,
        ttl=TTLS,
        request_id=st.sampled_from([None, "once", "twice"]),
    )
    def reserve(self, id_: str, cost: Any, api: str, route: str | None, ttl: int, request_id: str | None) -> None:
        key = self.model.keys.get(id_)
        mark = f"hold {len(self.held)}"
        call = ("reserve", cost, api, route, ttl)

        def reserve() -> Any:
            return self.ledger.reserve(
                self._presented(id_), cost, ttl=ttl, api=api, route=route, request_id=request_id
            )  # fmt: skip

        earlier = key.remembered.get(request_id or "") if key and key.enabled else None
        if earlier is not None and earlier[0] > self.now:
            self._reserved_again(earlier, call, reserve)
            return
        try:
            expected = self.model.consume(id_ if key else None, cost, api, route, self.now, ttl=ttl, hold=mark)
        except Skewed:
            raises(ClockSkew, reserve)
            return
        held = reserve()
        self._same(held.decision, expected)
        if held and key:
            self.held.append((id_, key.era, held, api, route))
            self._book(id_, api).hold(held.id, expected.at + ttl, units_of(held.decision.cost))
            raises(QuotaError, lambda: self.ledger.refund(held.decision))
            if request_id is not None:
                key.remembered[request_id] = (expected.at + DAY, call, held, expected)

    def _reserved_again(self, earlier: tuple[Any, ...], call: tuple[Any, ...], reserve: Callable[[], Any]) -> None:
        """The retry of a reservation holds what the first one holds, and either of them closes it."""
        _, remembered, first, expected = earlier
        if remembered != call or first.id in self.spent:
            raises(RequestMismatch, reserve)
            return
        again = reserve()
        equal((again.decision.replayed, again.id, bool(again)), (True, first.id, True), "a reservation's replay")
        self._same(again.decision, expected)
        self.held = [(*entry[:2], again, *entry[3:]) if entry[2].id == first.id else entry for entry in self.held]

    @precondition(lambda self: any(key.remembered for key in self.model.keys.values()))
    @rule(id_=KEY_IDS, request_id=st.sampled_from(["once", "twice"]))
    def retry(self, id_: str, request_id: str) -> None:
        """Once more what a request id stands for."""
        key = self.model.keys.get(id_)
        earlier = key.remembered.get(request_id) if key else None
        if earlier is not None:
            kind, *call = earlier[1]
            again = Machine.reserve if kind == "reserve" else Machine.consume
            again(self, id_, *call, request_id)

    @precondition(lambda self: self.held)
    @rule(which=st.integers(0, 30), actual=COSTS, commit=st.booleans(), again=st.booleans())
    def settle(self, which: int, actual: Any, commit: bool, again: bool) -> None:
        index = which % len(self.held)
        id_ = self.held[index][0]
        if id_ in self.model.keys:
            with self._along(index):
                self._settle(index, actual, commit=commit, again=again)

    def _settle(self, index: int, actual: Any, *, commit: bool, again: bool) -> None:
        id_, era, held, api, route = self.held[index]
        key = self.model.keys[id_]
        events = [event for event in self.model.events if event.hold == f"hold {index}"]
        mine = self._mine(index, id_)
        if commit and actual is not None:  # what was spent is a part of it
            actual = {unit: max(actual.get(unit, 0), held.spent.get(unit, 0)) for unit in {**actual, **held.spent}}
        close = (lambda: held.commit(actual)) if commit else held.cancel
        if key.era != era or not mine:
            raises((ReservationClosed, ClockSkew), close)
            return
        try:
            now = self.model.instant(key, self.now)
        except Skewed:
            raises(ClockSkew, close)
            return
        try:
            decision = held.commit(actual) if commit else held.cancel()
        except ReservationClosed:
            # A day after it lapsed a hold may be gone for good.
            assert now > held._expires + DAY, "a hold was closed early"
            for event in events:
                event.units, event.hold = 0, ""
            self.model.slots = [slot for slot in self.model.slots if slot.hold != f"hold {index}"]
            return
        if commit:
            done = self.model.commit(id_, f"hold {index}", actual, api, route, self.now)
            self.taken.append((id_, era, decision, Answer(True, "OK", events=done, above=key.line or ()), False))
        else:
            self.model.cancel(id_, f"hold {index}", api, route, self.now)
            self.spent.add(held.id)
        before = sum(held.spent.values())
        self._book(id_, api).close(held.id, units_of(decision.cost) - before if commit else 0, now)
        if again:
            raises(ReservationClosed, held.cancel)
            raises(ReservationClosed, lambda: held.commit({"requests": 1}))

    @precondition(lambda self: self.taken)
    @rule(which=st.integers(0, 30), part=st.one_of(st.none(), st.integers(1, 2)))
    def refund(self, which: int, part: int | None) -> None:
        id_, _, _, expected, _ = self.taken[which % len(self.taken)]
        if id_ in self.model.keys:
            with self.model.along(id_, expected.above):
                self._refund(which % len(self.taken), part)

    def _refund(self, index: int, part: int | None) -> None:
        id_, era, decision, expected, _ = self.taken[index]
        key = self.model.keys[id_]
        units = None
        taken: dict[str, int] = {}
        cost = decision.cost
        taken = {"requests": cost} if isinstance(cost, int) else dict(cost)
        if part is not None:
            units = {unit: min(part, had) for unit, had in taken.items()}
            if not any(units.values()):
                return
        try:
            now = self.model.instant(key, self.now)
        except Skewed:
            raises(ClockSkew, lambda: self.ledger.refund(decision, units))
            return
        late = now >= to_us(decision.at) + self._retention * DAY
        spent = (
            late or decision.id in self.spent or key.era != era or decision not in [d for _, _, d, _, _ in self.taken]
        )
        alive = any(("key", id_) in event.subjects for event in expected.events)
        wanted = 0 if spent or not alive else self.model.refund(id_, expected.events, units, self.now)
        equal(self.ledger.refund(decision, units), wanted, "units given back")
        if wanted:
            self.spent.add(decision.id)
            self._book(id_, expected.events[0].api).give_back(wanted)

    @rule(
        id_=KEY_IDS,
        name=st.sampled_from(["requests/day", "x", "tokens/month"]),
        units=st.integers(0, 5),
        grant=st.booleans(),
    )
    def adjust(self, id_: str, name: str, units: int, grant: bool) -> None:
        if id_ not in self.model.keys or (grant and not units):
            return
        call = self.ledger.grant if grant else self.ledger.set_remaining
        try:
            expected = self.model.adjust(id_, name, units, "", self.now, grant=grant)
        except Skewed:
            raises((ClockSkew, InvalidValue), lambda: call(id_, name, units))  # where the plan has no such limit too
            return
        if expected is None:
            raises(QuotaError, lambda: call(id_, name, units))
        else:
            equal(call(id_, name, units).remaining, expected, "remaining")

    @precondition(lambda self: type(self).reopen is not None)
    @rule()
    def close_and_open(self) -> None:
        store = self.ledger.store
        self.ledger = self._ledger(type(self).reopen(store))  # type: ignore[misc] # the precondition

    @invariant()
    def everyone_stands_where_the_model_says(self) -> None:
        for id_ in self.model.keys:
            self._peek(id_, {"requests": 1}, "", None, {"cost": 1})

    @precondition(lambda self: self.focus == "audited")
    @invariant()
    def every_unit_taken_is_used_or_held_or_was_given_back(self) -> None:
        """By what the ledger answered, and by what it tells now of the quotas that count everything."""
        for (id_, api), book in self.books.items():
            key = self.model.keys[id_]
            equal(book.taken, book.used + book.back + book.holding(0), f"all that {id_} took")
            if not key.enabled or self.model.plan_at(key, api, self.now) is None:
                continue
            try:
                now = self.model.instant(key, self.now)
            except Skewed:
                continue
            decision = self.ledger.peek(self._presented(id_), dict.fromkeys(("requests", "tokens"), MANY), api=api)
            told = sum(status.used for status in decision.limits if status.name.startswith("all "))
            equal(told, book.used + book.holding(now), f"what {id_} used and holds")

    def _same(self, decision: Decision, expected: Answer) -> None:
        told = tuple((s.name, s.used, s.remaining, us_of(s.resets_at)) for s in decision.limits)
        retry_at = None if decision.retry_at is None else us_of(decision.retry_at)
        equal(
            (decision.allowed, decision.reason.value, told, decision.violated, retry_at, decision.crossed, decision.over),
            (expected.allowed, expected.reason, expected.limits, expected.violated, expected.retry_at, expected.crossed,
             expected.over),
            "a decision",
        )  # fmt: skip


def machine(open_store: Callable[[], Any], reopen: Callable[[Any], Any] | None = None) -> type[Machine]:
    """The machine over the stores that ``open_store`` opens; ``reopen`` closes one and opens it again."""
    members: dict[str, Any] = {"open": staticmethod(open_store)}
    if reopen is not None:
        members["reopen"] = staticmethod(reopen)
    return type("StoreMachine", (Machine,), members)

"""The conformance machine: every store must answer as an independent model does, whatever is done in whatever order.

    from quota.testing import machine
    TestMyStore = machine(lambda: MyStore(...)).TestCase

Needs Hypothesis. Each run opens a fresh store; ``reopen`` lets a store that persists be closed and opened in the middle.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from ..clock import ManualClock
from ..decision import Decision
from ..errors import ClockSkew, PlanConflict, QuotaError, RequestMismatch, ReservationClosed
from ..ledger import Ledger
from ..plan import Quota, Throttle, UsagePlan
from .model import DAY, Answer, Model, Skewed

START = datetime(2026, 1, 29, 23, 40, tzinfo=timezone.utc)

PERIODS = st.sampled_from(["minute", "hour", "day", "week", "month"])
REQUESTS = st.just("requests")
UNITS = st.sampled_from(["requests", "requests", "tokens"])
PARTIES = st.sampled_from(["key", "key", "account"])


def _limits(
    *, quotas: bool = True, throttles: bool = True, units: st.SearchStrategy[str] = REQUESTS,
    by: st.SearchStrategy[str] = st.just("key"), names: tuple[str | None, ...] = (None,), most: int = 3,
) -> st.SearchStrategy[list[Quota | Throttle]]:  # fmt: skip
    quota = st.builds(
        Quota, st.integers(1, 12), PERIODS, unit=units, by=by, name=st.sampled_from(names),
        overage=st.sampled_from([0, 0, 3]),
    )  # fmt: skip
    throttle = st.builds(
        Throttle, st.sampled_from(["1", "3", "0.5", "1/3", "7"]), st.sampled_from(["second", "minute"]),
        burst=st.integers(1, 6), unit=units, by=by, name=st.sampled_from(names),
    )  # fmt: skip
    kinds = [quota] * (2 if quotas else 0) + [throttle] * (1 if throttles else 0)
    return st.lists(st.one_of(kinds), max_size=most, unique_by=lambda limit: limit.name)


# Each history looks at one corner of the world or at all of it: bugs hide where few things meet often.
FOCUS = {
    "all": _limits(units=UNITS, by=PARTIES, names=(None, None, "x", "y")),
    "plain": _limits(throttles=False),
    "throttled": _limits(quotas=False, names=(None, None, "x"), most=2),
    "both": _limits(),
    "one name": _limits(throttles=False, names=("x",), most=1),
    "accounts": _limits(by=PARTIES, names=(None, "x")),
}
COSTS = st.one_of(
    st.none(),
    st.integers(1, 4).map(lambda n: {"requests": n}),
    st.fixed_dictionaries({"requests": st.integers(0, 2), "tokens": st.integers(1, 4)}),
)
APIS = st.sampled_from(["", "", "", "b"])
ROUTES = st.sampled_from([None, None, "r", "s"])
PLAN_IDS = st.sampled_from(["p", "q", "b"])
KEY_IDS = st.sampled_from(["k1", "k2", "k3"])
REQUEST_IDS = st.sampled_from([None, None, None, "once", "twice"])
STEPS = st.sampled_from([
    0, 1, 999_999, 1_000_000, 20_000_000, 60_000_000, 1_200_000_000, 3_600_000_000, 12 * 3_600_000_000, DAY, 5 * DAY,
    40 * DAY, -1, -30_000_000, -299_999_999, -400_000_000,
])  # fmt: skip


@st.composite
def plans(draw: st.DrawFn, focus: str) -> UsagePlan:
    """A small plan; the third one governs another api."""
    id_ = draw(PLAN_IDS)
    limits = FOCUS[focus]
    odd = focus in ("all", "accounts")
    routes = {"r": draw(limits)} if odd and draw(st.booleans()) else {}
    costs = {"s": draw(st.sampled_from([2, {"tokens": 1}]))} if odd and draw(st.booleans()) else {}
    alerts = draw(st.sampled_from([(80, 100), (), (50,)]))
    return UsagePlan(id_, draw(limits), api="b" if id_ == "b" else "", routes=routes, costs=costs, alerts=alerts)


class Machine(RuleBasedStateMachine):
    """Everything a ledger does, step by step beside the model. Subclasses say how a store is opened."""

    open: Callable[[], Any]
    reopen: Callable[[Any], Any] | None = None

    def __init__(self) -> None:
        super().__init__()
        self.clock = ManualClock(START)
        self.ledger = self._ledger(type(self).open())
        self.model = Model()
        self.secrets: dict[str, str] = {}
        self.taken: list[tuple[str, int, Decision, Answer, bool]] = []
        self.held: list[tuple[str, int, Any, str, str | None]] = []
        self.spent: set[str] = set()
        self.focus = "all"

    def _ledger(self, store: Any) -> Any:
        return Ledger(store, clock=self.clock)

    def teardown(self) -> None:
        self.ledger.close()

    @property
    def now(self) -> int:
        return self.clock._now_us

    @initialize(focus=st.sampled_from(sorted(FOCUS)), data=st.data())
    def begin(self, focus: str, data: Any) -> None:
        self.focus = focus
        plan = data.draw(plans(focus))
        self._replace(plan)
        self.issue("k1", None, plan.id)

    @rule(id_=KEY_IDS, account=st.sampled_from([None, None, "k1", "team"]), plan=st.one_of(st.none(), PLAN_IDS))
    def issue(self, id_: str, account: str | None, plan: str | None) -> None:
        plan = plan if plan in self.model.plans else None
        if id_ in self.model.keys:
            _raises(PlanConflict, lambda: self.ledger.issue_key(id_, plan, id=id_, account=account))
            return
        _, self.secrets[id_] = self.ledger.issue_key(id_, plan, id=id_, account=account)
        self.model.add_key(id_, account or id_, plan)

    @rule(steps=st.lists(STEPS, min_size=1, max_size=2))
    def tick(self, steps: list[int]) -> None:
        self.clock.advance(sum(steps))

    @rule(id_=KEY_IDS, delta=st.sampled_from([-1, 0, 0, 1]))
    def tick_to_a_boundary(self, id_: str, delta: int) -> None:
        """Where things happen: the instant a window ends, a bucket is empty, a refused call fits."""
        try:
            decision = self.ledger.peek(self._presented(id_), 3)
        except ClockSkew:
            return
        instants = sorted(
            {_us(s.resets_at) for s in decision.limits} | ({_us(r)} if (r := decision.retry_at) else set())
        )
        later = [instant for instant in instants if instant + delta > self.now]
        if later:
            self.clock.set(later[0] + delta)

    @rule(data=st.data())
    def replace(self, data: Any) -> None:
        self._replace(data.draw(plans(self.focus)))

    def _replace(self, plan: UsagePlan) -> None:
        self.ledger.replace_plan(plan)
        self.model.plans[plan.id] = plan

    @rule(id_=KEY_IDS, plan=PLAN_IDS)
    def associate(self, id_: str, plan: str) -> None:
        if id_ in self.model.keys and plan in self.model.plans:
            self.ledger.associate(id_, plan)
            self.model.keys[id_].plans[self.model.plans[plan].api] = plan

    @rule(id_=KEY_IDS, plan=PLAN_IDS)
    def dissociate(self, id_: str, plan: str) -> None:
        if id_ in self.model.keys and plan in self.model.plans:
            plans_ = self.model.keys[id_].plans
            if plans_.get(self.model.plans[plan].api) == plan:
                self.ledger.dissociate(id_, plan)
                del plans_[self.model.plans[plan].api]
            else:
                _raises(PlanConflict, lambda: self.ledger.dissociate(id_, plan))

    @rule(id_=KEY_IDS, enabled=st.booleans())
    def enable(self, id_: str, enabled: bool) -> None:
        if id_ in self.model.keys:
            (self.ledger.enable_key if enabled else self.ledger.disable_key)(id_)
            self.model.keys[id_].enabled = enabled

    @rule(id_=KEY_IDS)
    def rotate(self, id_: str) -> None:
        if id_ in self.model.keys:
            old = self.secrets[id_]
            _, self.secrets[id_] = self.ledger.rotate_key(id_)
            _equal(self.ledger.peek(old).reason.value, "UNKNOWN_KEY", "an old secret")

    @rule(id_=KEY_IDS)
    def remove(self, id_: str) -> None:
        if id_ in self.model.keys and id_ != "k1":
            self.ledger.remove_key(id_)
            self.model.remove_key(id_)

    @rule(id_=KEY_IDS)
    def forget(self, id_: str) -> None:
        if id_ in self.model.keys:
            self.ledger.forget(id_)
            self.model.forget(id_, self.now)

    def _presented(self, id_: str) -> Any:
        return self.secrets.get(id_, "nobody knows this secret")

    @rule(id_=KEY_IDS, cost=COSTS, api=APIS, route=ROUTES, request_id=REQUEST_IDS)
    def consume(self, id_: str, cost: Any, api: str, route: str | None, request_id: str | None) -> None:
        kwargs: dict[str, Any] = {"api": api, "route": route, "request_id": request_id}
        if cost is not None:
            kwargs["cost"] = cost["requests"] if set(cost) == {"requests"} else cost
        key = self.model.keys.get(id_)
        memo = key.memos.get(request_id or "") if key and key.enabled else None
        if memo is not None and memo[0] > self.now:
            self._replayed(id_, memo, ("consume", cost, api, route), kwargs)
            return
        try:
            expected = self.model.consume(id_ if key else None, cost, api, route, self.now)
        except Skewed:
            _raises(ClockSkew, lambda: self.ledger.consume(self._presented(id_), **kwargs))
            return
        decision = self.ledger.consume(self._presented(id_), **kwargs)
        self._same(decision, expected)
        if decision and key:
            self.taken.append((id_, key.era, decision, expected, False))
            if request_id is not None:
                key.memos[request_id] = (expected.at + DAY, ("consume", cost, api, route), decision, expected)

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
                _raises(ClockSkew, lambda: self.ledger.consume(presented))
                return
            decision = self.ledger.consume(presented)
            self._same(decision, expected)
            if decision:
                self.taken.append((id_, key.era, decision, expected, False))

    def _replayed(self, id_: str, memo: tuple[Any, ...], call: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        _, remembered, first, expected = memo
        if remembered != call or first.id in self.spent:
            _raises(RequestMismatch, lambda: self.ledger.consume(self._presented(id_), **kwargs))
            return
        again = self.ledger.consume(self._presented(id_), **kwargs)
        _equal((again.replayed, again.id), (True, first.id), "a replay")
        self._same(again, expected)

    def _peek(self, id_: str, cost: Any, api: str, route: str | None, kwargs: dict[str, Any]) -> None:
        kwargs = {**kwargs, "request_id": None}
        key = self.model.keys.get(id_)
        try:
            expected = self.model.consume(id_ if key else None, cost, api, route, self.now, dry=True)
        except Skewed:
            _raises(ClockSkew, lambda: self.ledger.peek(self._presented(id_), **kwargs))
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
        ttl=st.sampled_from([1, 5_000_000, 7200_000_000, 3 * DAY]),
    )
    def reserve(self, id_: str, cost: Any, api: str, route: str | None, ttl: int) -> None:
        key = self.model.keys.get(id_)
        mark = f"hold {len(self.held)}"
        try:
            expected = self.model.consume(id_ if key else None, cost, api, route, self.now, ttl=ttl, hold=mark)
        except Skewed:
            _raises(ClockSkew, lambda: self.ledger.reserve(self._presented(id_), cost, ttl=ttl, api=api, route=route))
            return
        held = self.ledger.reserve(self._presented(id_), cost, ttl=ttl, api=api, route=route)
        self._same(held.decision, expected)
        if held and key:
            self.held.append((id_, key.era, held, api, route))
            _raises(QuotaError, lambda: self.ledger.refund(held.decision))

    @precondition(lambda self: self.held)
    @rule(which=st.integers(0, 30), actual=COSTS, commit=st.booleans(), again=st.booleans())
    def settle(self, which: int, actual: Any, commit: bool, again: bool) -> None:
        index = which % len(self.held)
        id_, era, held, api, route = self.held[index]
        key = self.model.keys.get(id_)
        if key is None:
            return
        events = [event for event in self.model.events if event.hold == f"hold {index}"]
        mine = [event for event in events if ("key", id_) in event.parties]
        close = (lambda: held.commit(actual)) if commit else held.cancel
        if key.era != era or not mine:
            _raises((ReservationClosed, ClockSkew), close)
            return
        try:
            now = self.model.instant(key, self.now)
        except Skewed:
            _raises(ClockSkew, close)
            return
        try:
            decision = held.commit(actual) if commit else held.cancel()
        except ReservationClosed:
            # A day after it lapsed a hold may be gone for good.
            assert now > held._expires + DAY, "a hold was closed early"
            for event in events:
                event.units, event.hold = 0, ""
            return
        if commit:
            done = self.model.commit(id_, f"hold {index}", actual, api, route, self.now)
            self.taken.append((id_, era, decision, Answer(True, "OK", events=done), False))
        else:
            self.model.cancel(id_, f"hold {index}", api, route, self.now)
        if again:
            _raises(ReservationClosed, held.cancel)
            _raises(ReservationClosed, lambda: held.commit(1))

    @precondition(lambda self: self.taken)
    @rule(which=st.integers(0, 30), part=st.one_of(st.none(), st.integers(1, 2)))
    def refund(self, which: int, part: int | None) -> None:
        id_, era, decision, expected, _ = self.taken[which % len(self.taken)]
        key = self.model.keys.get(id_)
        if key is None:
            return
        units = None
        taken: dict[str, int] = {}
        cost = decision.cost
        taken = {"requests": cost} if isinstance(cost, int) else dict(cost)
        if part is not None:
            units = {unit: min(part, had) for unit, had in taken.items()}
            if not any(units.values()):
                return
        try:
            self.model.instant(key, self.now)
        except Skewed:
            _raises(ClockSkew, lambda: self.ledger.refund(decision, units))
            return
        spent = decision.id in self.spent or key.era != era or decision not in [d for _, _, d, _, _ in self.taken]
        alive = any(("key", id_) in event.parties for event in expected.events)
        wanted = 0 if spent or not alive else self.model.refund(id_, expected.events, units, self.now)
        _equal(self.ledger.refund(decision, units), wanted, "units given back")
        if wanted:
            self.spent.add(decision.id)

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
            _raises(ClockSkew, lambda: call(id_, name, units))
            return
        if expected is None:
            _raises(QuotaError, lambda: call(id_, name, units))
        else:
            _equal(call(id_, name, units).remaining, expected, "remaining")

    @precondition(lambda self: type(self).reopen is not None)
    @rule()
    def close_and_open(self) -> None:
        store = self.ledger.store
        self.ledger = self._ledger(type(self).reopen(store))  # type: ignore[misc] # the precondition

    @invariant()
    def everyone_stands_where_the_model_says(self) -> None:
        for id_ in self.model.keys:
            self._peek(id_, {"requests": 1}, "", None, {"cost": 1})

    @rule(id_=KEY_IDS)
    def usage(self, id_: str) -> None:
        key = self.model.keys.get(id_)
        if key is None:
            return
        try:
            now = self.model.instant(key, self.now)
        except Skewed:
            return
        places = {name: place for (place, name) in self.model.windows if place[0] in self.model.parties(key)}
        for row in self.ledger.usage(id_):
            if row.limit not in places or sum(name == row.limit for _, name in self.model.windows) > 1:
                continue
            day = (row.day - datetime(1970, 1, 1, tzinfo=timezone.utc).date()) // timedelta(days=1)
            place = places[row.limit]
            used = self.model.sum(place, day * DAY, now) - self.model.sum(place, (day + 1) * DAY, now)
            _equal(row.used, used, f"used on day {day} of {row.limit}")

    def _same(self, decision: Decision, expected: Answer) -> None:
        told = tuple((s.name, s.used, s.remaining, _us(s.resets_at)) for s in decision.limits)
        retry_at = None if decision.retry_at is None else _us(decision.retry_at)
        _equal(
            (decision.allowed, decision.reason.value, told, decision.violated, retry_at, decision.crossed, decision.over),
            (expected.allowed, expected.reason, expected.limits, expected.violated, expected.retry_at, expected.crossed,
             expected.over),
            "a decision",
        )  # fmt: skip


def _us(instant: datetime) -> int:
    return (instant - datetime(1970, 1, 1, tzinfo=timezone.utc)) // timedelta(microseconds=1)


def _equal(found: object, expected: object, what: str) -> None:
    if found != expected:
        raise AssertionError(f"{what}: the ledger says {found}, the model {expected}")


def _raises(errors: type[Exception] | tuple[type[Exception], ...], call: Callable[[], object]) -> None:
    try:
        answer = call()
    except errors:
        return
    raise AssertionError(f"expected {errors}, got {answer!r}")


def machine(open_store: Callable[[], Any], reopen: Callable[[Any], Any] | None = None) -> type[Machine]:
    """The machine over the stores that ``open_store`` opens; ``reopen`` closes one and opens it again."""
    members: dict[str, Any] = {"open": staticmethod(open_store)}
    if reopen is not None:
        members["reopen"] = staticmethod(reopen)
    return type("StoreMachine", (Machine,), members)

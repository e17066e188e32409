"""The machine's rules for plans, keys and time, and how it compares what it is told."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta, timezone
from typing import Any

import attrs
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from ..clock import ManualClock, to_datetime
from ..decision import Decision
from ..errors import ClockSkew, InvalidValue, PlanConflict, UnknownKey
from ..key import ApiKey
from ..ledger.sync import Ledger
from ..plan import UsagePlan
from .model import Answer, Model
from .plans import Member
from .strategies import FOCUS, KEY_IDS, LATER, PLAN_IDS, START, STEPS, plans
from .windows import DAY


@attrs.define
class Book:
    """All that one key was told, added up: every unit that was taken is used, held or was given back, and one of these."""

    taken: int = 0
    used: int = 0
    back: int = 0
    held: dict[str, tuple[int, int]] = attrs.field(factory=dict)

    def use(self, units: int) -> None:
        self.taken += units
        self.used += units

    def hold(self, id_: str, expires: int, units: int) -> None:
        self.taken += units
        self.held[id_] = expires, units

    def close(self, id_: str, used: int, now: int) -> None:
        """A hold is over; what it was used for beyond itself, or after it lapsed, is taken anew."""
        self.lapse(now)
        _, units = self.held.pop(id_, (0, 0))
        self.taken += max(0, used - units)
        self.used += used
        self.back += max(0, units - used)

    def spend(self, id_: str, used: int, held: int, now: int) -> None:
        """A part is used for good: of a hold, of which so much is ``held`` then, or beyond it."""
        self.lapse(now)
        if id_ in self.held:
            expires, units = self.held[id_]
            self.held[id_] = expires, held
            self.taken += used - (units - held)
        else:
            self.taken += used
        self.used += used

    def extend(self, id_: str, expires: int) -> None:
        until, units = self.held.get(id_, (expires, 0))
        self.held[id_] = max(until, expires), units

    def give_back(self, units: int) -> None:
        self.used -= units
        self.back += units

    def lapse(self, now: int) -> None:
        """Holds that are over gave themselves back."""
        for id_ in [id_ for id_, (expires, _) in self.held.items() if expires <= now]:
            self.back += self.held.pop(id_)[1]

    def holding(self, now: int) -> int:
        return sum(units for expires, units in self.held.values() if expires > now)


def units_of(cost: int | Mapping[str, int]) -> int:
    """Of whatever unit, together."""
    return cost if isinstance(cost, int) else sum(cost.values())


_OF_LIMITS = ("override.set", "override.cleared", "limit.granted")


class DirectoryMachine(RuleBasedStateMachine):
    """Plans, keys and time, step by step beside the model. Subclasses say how a store is opened."""

    open: Callable[[], Any]
    reopen: Callable[[Any], Any] | None = None
    focuses: tuple[str, ...] = tuple(sorted(FOCUS))

    def __init__(self) -> None:
        super().__init__()
        self.clock = ManualClock(START)
        self.ledger = self._ledger(type(self).open())
        self.model = Model()
        self.secrets: dict[str, str] = {}
        self.taken: list[tuple[str, int, Decision, Answer, bool]] = []
        self.held: list[tuple[str, int, Any, str, str | None]] = []
        self.spent: set[str] = set()
        self.books: dict[tuple[str, str], Book] = {}
        self.focus = "all"
        self.cursor = 0

    def _ledger(self, store: Any) -> Any:
        return Ledger(store, clock=self.clock)

    def teardown(self) -> None:
        self.ledger.close()

    @property
    def now(self) -> int:
        return self.clock._now_us

    @initialize(data=st.data())
    def begin(self, data: Any) -> None:
        self.focus = data.draw(st.sampled_from(self.focuses))
        plan = data.draw(plans(self.focus))
        self._replace(plan)
        self.issue("k1", data.draw(st.sampled_from([None, "team"])), plan.id)

    @rule(id_=KEY_IDS, account=st.sampled_from([None, None, "k1", "team", "org"]), plan=st.one_of(st.none(), PLAN_IDS))
    def issue(self, id_: str, account: str | None, plan: str | None) -> None:
        plan = plan if plan in self.model.plans else None
        if account == "k1" and self.model.keys["k1"].account != "k1":
            account = None  # one id is a key's and its account's, or one of both
        if id_ in self.model.keys:
            raises(PlanConflict, lambda: self.ledger.issue_key(id_, plan, id=id_, account=account))
            return
        _, self.secrets[id_] = self.ledger.issue_key(id_, plan, id=id_, account=account)
        self.model.add_key(id_, account or id_, plan)
        self._tell("key.issued", id_, plan)

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
            {us_of(s.resets_at) or 0 for s in decision.limits}
            | ({us_of(r) or 0} if (r := decision.retry_at) else set())
            | {at for one in (*self.model.keys.values(), *self.model.on_plans.values()) for at in one.goes_to.values()}
        )
        later = [instant for instant in instants if self.now < instant + delta < self.now + 400 * DAY]
        if later:
            self.clock.set(later[0] + delta)

    @rule(data=st.data())
    def replace(self, data: Any) -> None:
        self._replace(data.draw(plans(self.focus)))

    def _replace(self, plan: UsagePlan) -> None:
        old = self.model.plans.get(plan.id)
        if not self.model.replace_plan(plan, self.now):
            raises(PlanConflict, lambda: self.ledger.replace_plan(plan))
            return
        self.ledger.replace_plan(plan)
        if old != plan:
            self._tell("plan.replaced" if old else "plan.added", None, plan.id)

    @rule(id_=KEY_IDS, plan=PLAN_IDS, later=LATER)
    def associate(self, id_: str, plan: str, later: int | str | None) -> None:
        if id_ not in self.model.keys or plan not in self.model.plans:
            return
        instant, at = self._instant(later)
        before = self._on_and_next(self.model.keys[id_], plan)
        refused = self.model.associate(self.model.keys[id_], plan, instant, self.now)
        if refused:
            error = PlanConflict if refused == "conflict" else InvalidValue
            raises(error, lambda: self.ledger.associate(id_, plan, at=at))
            return
        self.ledger.associate(id_, plan, at=at)
        if self._on_and_next(self.model.keys[id_], plan) != before:
            self._tell("plan.associated", id_, plan)

    def _instant(self, later: int | str | None) -> tuple[int | str | None, Any]:
        """Return when it is later, and how a ledger is told."""
        instant = self.now + later if isinstance(later, int) else later
        return instant, to_datetime(instant) if isinstance(instant, int) else instant

    @rule(id_=KEY_IDS, plan=PLAN_IDS)
    def dissociate(self, id_: str, plan: str) -> None:
        if id_ in self.model.keys and plan in self.model.plans:
            if self.model.dissociate(self.model.keys[id_], plan, self.now):
                self.ledger.dissociate(id_, plan)
                self._tell("plan.dissociated", id_, plan)
            else:
                raises(PlanConflict, lambda: self.ledger.dissociate(id_, plan))

    @rule(plan=st.one_of(PLAN_IDS, st.just("u")), seldom=st.integers(0, 4))
    def remove_plan(self, plan: str, seldom: int) -> None:
        if not seldom and plan in self.model.plans:
            self.ledger.remove_plan(plan)
            self._tell("plan.removed", None, plan)
            self.model.remove_plan(plan, self.now)

    @rule(id_=KEY_IDS, plan=PLAN_IDS)
    def look_at_plans(self, id_: str, plan: str) -> None:
        """The plans that a key is on and goes to, and the keys on a plan."""
        key = self.model.keys.get(id_)
        if key is not None:
            on = sorted(self.model.on(key, self.model.latest(key, self.now)).items())
            each_once = list(dict.fromkeys(one for _, one in on))
            equal([one.id for one in self.ledger.list_plans(id_)], each_once, f"the plans of {id_}")
            told = {(one.plan, us_of(one.at)) for one in self.ledger.get_key(id_).scheduled}
            wanted = {change for change in key.goes_to.items() if change[1] > self.now}
            equal(told, wanted, f"the plans that {id_} goes to")
        if plan in self.model.plans:
            keys = [one.id for one in self.ledger.list_keys(plan=plan)]
            wanted_ids = [of for of, one in self.model.keys.items() if plan in self.model.on(one, self.now).values()]
            equal(keys, sorted(wanted_ids), f"the keys on {plan}")

    @rule(id_=KEY_IDS, enabled=st.booleans())
    def enable(self, id_: str, enabled: bool) -> None:
        if id_ in self.model.keys:
            (self.ledger.enable_key if enabled else self.ledger.disable_key)(id_)
            if self.model.keys[id_].enabled != enabled:
                self._tell("key.enabled" if enabled else "key.disabled", id_)
            self.model.keys[id_].enabled = enabled

    @rule(id_=KEY_IDS)
    def rotate(self, id_: str) -> None:
        if id_ in self.model.keys:
            old = self.secrets[id_]
            _, self.secrets[id_] = self.ledger.rotate_key(id_)
            self._tell("key.rotated", id_)
            equal(self.ledger.peek(old).reason.value, "UNKNOWN_KEY", "an old secret")

    @rule(id_=KEY_IDS)
    def remove(self, id_: str) -> None:
        if id_ in self.model.keys and id_ != "k1":
            self.ledger.remove_key(id_)
            self._tell("key.removed", id_)
            self.model.remove_key(id_)
            self._lose(id_)

    @rule(id_=KEY_IDS, seldom=st.integers(0, 2))
    def erase(self, id_: str, seldom: int) -> None:
        """A key that was removed: nothing is told of it any more, but that somebody was erased."""
        gone = [one for one in self.model.removed if one[0].id == id_]
        if id_ in self.model.keys or seldom or not gone:
            return
        key = ApiKey(id_, "any", id_)  # and no account of this id
        self.ledger.erase(key)
        self.model.removed = [one for one in self.model.removed if one[0].id != id_]
        raises(UnknownKey, lambda: self.ledger.usage(key))
        told = self.ledger.events()
        equal((told[-1].kind, told[-1].key), ("erased", None), "the last event")
        equal([one for one in told if one.key == id_], [], f"events of {id_}")
        self.cursor, self.model.told = told[-1].cursor, []

    @rule(id_=KEY_IDS)
    def forget(self, id_: str) -> None:
        if id_ in self.model.keys:
            self.ledger.forget(id_)
            self.model.forget(id_, self.now)
            self._lose(id_)

    def _tell(self, kind: str, key: str | None, plan: str | None = None) -> None:
        """Expect an event."""
        self.model.told.append((kind, key, plan, None, None))

    def _on_and_next(self, key: Member, plan: str) -> tuple[Any, ...]:
        """The plan that a key or an account is on for the first of a plan's apis, and those that it goes to."""
        new = self.model.plans[plan]
        latest = self.model.latest(key, self.now)
        on = self.model.on(key, latest)
        goes = sorted((one, at) for one, at in self.model.scheduled(key, new) if at > latest)
        return next((on[api] for api in new.apis if api in on), None), goes

    @invariant()
    def the_outbox_tells_what_was_done(self) -> None:
        """Once, in its order, and nothing else; operators' changes of limits apart."""
        events = self.ledger.events(after=self.cursor)
        told = [(e.kind, e.key, e.plan, e.limit, e.percent) for e in events if e.kind not in _OF_LIMITS]
        equal(told, self.model.told, "the outbox")
        equal([event.cursor for event in events], [*range(self.cursor + 1, self.cursor + 1 + len(events))], "cursors")
        self.cursor += len(events)
        self.model.told.clear()

    def _lose(self, id_: str) -> None:
        """A key's counts are gone."""
        self.books = {of: book for of, book in self.books.items() if of[0] != id_}

    def _presented(self, id_: str) -> Any:
        return self.secrets.get(id_, "nobody knows this secret")


def us_of(instant: datetime | None) -> int | None:
    if instant is None:
        return None
    return (instant - datetime(1970, 1, 1, tzinfo=timezone.utc)) // timedelta(microseconds=1)


def equal(found: object, expected: object, what: str) -> None:
    if found != expected:
        raise AssertionError(f"{what}: the ledger says {found}, the model {expected}")


def raises(errors: type[Exception] | tuple[type[Exception], ...], call: Callable[[], object]) -> None:
    try:
        answer = call()
    except errors:
        return
    raise AssertionError(f"expected {errors}, got {answer!r}")

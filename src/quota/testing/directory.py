"""The machine's rules for plans, keys and time, and how it compares what it is told."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from ..clock import ManualClock
from ..decision import Decision
from ..errors import ClockSkew, PlanConflict
from ..ledger import Ledger
from ..plan import UsagePlan
from .model import Answer, Model
from .strategies import FOCUS, KEY_IDS, PLAN_IDS, START, STEPS, plans


class DirectoryMachine(RuleBasedStateMachine):
    """Plans, keys and time, step by step beside the model. Subclasses say how a store is opened."""

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
            raises(PlanConflict, lambda: self.ledger.issue_key(id_, plan, id=id_, account=account))
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
            {us_of(s.resets_at) for s in decision.limits} | ({us_of(r)} if (r := decision.retry_at) else set())
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
                raises(PlanConflict, lambda: self.ledger.dissociate(id_, plan))

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
            equal(self.ledger.peek(old).reason.value, "UNKNOWN_KEY", "an old secret")

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


def us_of(instant: datetime) -> int:
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

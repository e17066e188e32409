"""The memory store's plans, and what becomes of their keys as they change."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import TYPE_CHECKING, Any

from ...errors import UnknownPlan
from ...event import By, plan_changed
from ...operations.request import Entry
from ...plan import UsagePlan
from ...process.atomic import Step
from ..base import check_expected, is_new
from .binding import Binding, Shapes
from .entries import AccountEntry, KeyEntry, KeyPlans

if TYPE_CHECKING:
    from .outbox import MemoryOutbox


def associations() -> Any:
    """Return the pure steps of which key is on which plan: loaded where something of that changes."""
    from .. import associations as steps  # noqa: PLC0415 -- as it says

    return steps


class Plans(Binding):
    """Plans, each change of which binds on the very next call of all."""

    _outbox: MemoryOutbox
    _directory: Any
    _everything: Callable[[], AbstractContextManager[None]]
    _accounts: dict[str, AccountEntry]
    _entry: Callable[[KeyEntry | AccountEntry], Entry]
    _latest: Callable[[KeyEntry | AccountEntry, int], int]
    _on: Callable[[Entry], KeyPlans]

    def put_plan(self, plan: UsagePlan, replace: bool | UsagePlan, now: int, by: By | None = None) -> None:
        with self._everything():
            old = self._plans.get(plan.id)
            if not is_new(plan, old, replace):
                return
            steps: list[Step] = []
            if old is not None and old.apis != plan.apis:
                steps = self._for_all_on(plan.id, partial(associations().moved, old=old, new=plan), now)
            steps = [*self._buried(plan.id), *steps, (self._plans.__setitem__, plan.id, plan)]
            self._outbox.at_once(steps, plan_changed(old, plan, by))

    def _buried(self, plan_id: str) -> list[Step]:
        """The steps that end every headroom of a plan."""
        shapes = self._shapes.get(plan_id) or Shapes()
        ended = [*shapes.common.values(), *shapes.own]
        return [*((setattr, shape, "live", False) for shape in ended), (self._shapes.pop, plan_id, None)]

    def _all_on_plans(self) -> list[KeyEntry | AccountEntry]:
        return [*(room.key_entry for ref, room in self.rooms.items() if type(ref) is str), *self._accounts.values()]

    def _for_all_on(self, plan_id: str, change: Callable[..., Entry], now: int) -> list[Step]:
        """Return the steps that change the plans of all keys that are on a plan, or go to it."""
        found = [key_entry for key_entry in self._all_on_plans() if key_entry.key_plans.names(plan_id)]
        entries = [change(self._entry(key_entry), now=self._latest(key_entry, now)) for key_entry in found]
        new = [self._on(entry) for entry in entries]
        stale = [(setattr, key_plans, "plans", None) for key_plans in set(new)]  # looked up above, before the change
        return [*stale, *((setattr, one, "key_plans", mine) for one, mine in zip(found, new, strict=True))]

    def drop_plan(self, plan_id: str, now: int, by: By | None = None, expected: UsagePlan | None = None) -> None:
        with self._everything():
            plan = self.get_plan(plan_id)
            check_expected(plan, expected)
            steps = self._for_all_on(plan_id, partial(associations().deprived, plan=plan), now)
            steps = [*self._buried(plan_id), *steps, (self._plans.pop, plan_id)]
            self._outbox.at_once(steps, plan_changed(plan, None, by))

    def get_plan(self, plan_id: str) -> UsagePlan:
        plan = self._plans.get(plan_id)
        if plan is None:
            raise UnknownPlan(plan_id)
        return plan

    def list_plans(self) -> list[UsagePlan]:
        with self._directory:
            return [self._plans[id_] for id_ in sorted(self._plans)]

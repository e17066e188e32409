"""The memory store's plans, and what becomes of their keys as they change."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import cache
from typing import TYPE_CHECKING, Any

from ...errors import PlanConflict, UnknownPlan
from ...key import Caller
from ...plan import UsagePlan
from ...process.atomic import Step
from ..base import is_new
from .binding import Shapes
from .entries import KeyEntry, KeyPlans
from .one_meter import NoMeter, OneMeter

if TYPE_CHECKING:
    from ...event import By


@cache
def events_of() -> Any:
    """Return what makes events of changes: loaded with the first one."""
    from ... import event as events  # noqa: PLC0415 -- as above

    return events


class Plans:
    """Plans, each change of which binds on the very next call of all."""

    _outbox: Any
    rooms: dict[bytes | str | Caller, OneMeter | NoMeter]
    _directory: Any
    _everything: Callable[[], AbstractContextManager[None]]
    _key_plans: Callable[[dict[str, str]], KeyPlans]
    _plans: dict[str, UsagePlan]
    _shapes: dict[str, Shapes]
    _shared_key_plans: dict[frozenset[tuple[str, str]], KeyPlans]

    def put_plan(self, plan: UsagePlan, replace: bool | UsagePlan, by: By | None = None) -> None:
        with self._everything():
            old = self._plans.get(plan.id)
            if not is_new(plan, old, replace):
                return
            moved = self._moved(plan, old.api) if old is not None and old.api != plan.api else []
            steps = [*self._buried(plan.id), *moved, (self._plans.__setitem__, plan.id, plan)]
            self._outbox.at_once(steps, events_of().plan_changed(old, plan, by))

    def _buried(self, plan_id: str) -> list[Step]:
        """The steps that end every headroom of a plan."""
        shapes = self._shapes.get(plan_id) or Shapes()
        ended = [*shapes.common.values(), *shapes.own]
        return [*((setattr, shape, "live", False) for shape in ended), (self._shapes.pop, plan_id, None)]

    def _all_key_entries(self) -> list[KeyEntry]:
        return [room.key_entry for ref, room in self.rooms.items() if type(ref) is str]

    def _moved(self, plan: UsagePlan, old_api: str) -> list[Step]:
        """The steps that move the keys of a plan to its new api."""
        key_entries = [
            key_entry for key_entry in self._all_key_entries() if key_entry.key_plans.ids.get(old_api) == plan.id
        ]
        for key_entry in key_entries:
            if plan.api in key_entry.key_plans.ids:
                raise PlanConflict(plan.id, f"key {key_entry.key.id} has another plan for the api {plan.api!r}")
        ids = [{**self._without(key_entry, old_api).ids, plan.api: plan.id} for key_entry in key_entries]
        left_by_all = [
            (self._shared_key_plans.pop, key_plans)
            for key_plans in self._shared_key_plans
            if (old_api, plan.id) in key_plans
        ]
        return [
            *((setattr, s, "key_plans", self._key_plans(mine)) for s, mine in zip(key_entries, ids, strict=True)),
            *left_by_all,
        ]

    def drop_plan(self, plan_id: str, by: By | None = None) -> None:
        with self._everything():
            plan = self.get_plan(plan_id)
            left = [
                key_entry for key_entry in self._all_key_entries() if key_entry.key_plans.ids.get(plan.api) == plan_id
            ]
            steps: list[Step] = [
                (setattr, key_entry, "key_plans", self._without(key_entry, plan.api)) for key_entry in left
            ]
            left_by_all = [
                (self._shared_key_plans.pop, ids) for ids in self._shared_key_plans if (plan.api, plan_id) in ids
            ]
            steps = [*self._buried(plan_id), *steps, *left_by_all, (self._plans.pop, plan_id)]
            self._outbox.at_once(steps, events_of().plan_changed(plan, None, by))

    def _without(self, key_entry: KeyEntry, api: str) -> KeyPlans:
        return self._key_plans({other: id_ for other, id_ in key_entry.key_plans.ids.items() if other != api})

    def get_plan(self, plan_id: str) -> UsagePlan:
        plan = self._plans.get(plan_id)
        if plan is None:
            raise UnknownPlan(plan_id)
        return plan

    def list_plans(self) -> list[UsagePlan]:
        with self._directory:
            return [self._plans[id_] for id_ in sorted(self._plans)]

"""The machine's rules for where keys and accounts stand, and what the model says of it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import rule

from ..clock import to_datetime
from ..errors import ClockSkew, InvalidValue, UnknownKey
from ..limit import Concurrency, Quota, Throttle
from ..plan import UsagePlan
from .directory import DirectoryMachine, equal, raises, us_of
from .model import Limit, Model, Skewed
from .plans import Member
from .strategies import APIS, KEY_IDS, ROUTES
from .tree import own_place
from .windows import DAY


def stand(model: Model, who: str, api: str | None, route: str | None, now: int) -> list[tuple[Any, ...]] | None:
    """Tell where every limit of a key or an account stands; None where nothing has that name."""
    if who in model.keys:
        model.instant(model.keys[who], now)  # also of a key that is on no plan
        return _stand(model, model.keys[who], api, route, now, set(), lambda _: True)
    if not model.there(who):
        return None
    told: list[tuple[Any, ...]] = []
    seen: set[str] = set()
    for id_ in sorted(model.members.get(who, ())):
        told += _stand(model, model.keys[id_], api, route, now, seen, _of_its_keys)
    alone = Member("", who)
    at = model.instant(alone, now)
    for of in sorted({of for account in (who, *model.above(who)) for of in model.plans_of(account, at)}):
        limits = model.joined(alone, None, of, route, at) if api in (None, of) else []
        told += [_row(model, alone, None, of, route, limit, at) for limit in limits]
    return told


def _of_its_keys(limit: Limit) -> bool:
    """Tell whether a limit is one by account, of a key's plan."""
    return limit.spec.by == "account" and not limit.holder


def _stand(
    model: Model, key: Member, api: str | None, route: str | None, now: int, seen: set[str],
    told: Callable[[Limit], bool],
) -> list[tuple[Any, ...]]:  # fmt: skip
    rows: list[tuple[Any, ...]] = []
    plans = model.on(key, model.latest(key, now))
    # A plan for several apis is told with the first of them.
    first = {id_: of for of, id_ in sorted(plans.items(), reverse=True) if id_ not in seen and api in (None, of)}
    apis = sorted(first.values())
    seen |= {*first}
    for of in apis:
        at = model.instant(key, now)
        plan = model.plan_of(key, of, at)
        if plan is None:
            continue
        limits = filter(told, model.joined(key, plan, of, route, at))
        rows += [_row(model, key, plan, of, route, limit, at) for limit in limits]
    return rows


def _row(
    model: Model, key: Member, plan: UsagePlan | None, of: str, route: str | None, limit: Limit, at: int
) -> tuple[Any, ...]:
    """Tell where one limit stands."""
    alone = model.evaluate(key, plan, of, route, {limit.spec.unit: 1}, at, [limit])
    name, used, remaining, resets_at = alone.limits[0]
    if isinstance(limit.spec, Concurrency):
        extra, over = 0, max(0, used - limit.spec.limit)
    elif isinstance(limit.spec, Throttle):
        extra, over = 0, max(0, used - (limit.spec.burst if limit.spec.rate else 0))
    else:
        extra, over = model.current(model.place(key, limit), limit, at).extra, alone.over
    holder = limit.holder or (key.account if limit.spec.by == "account" else key.id)
    whose = model.on_plans[limit.holder] if limit.holder else key
    its = model.plans[model.on(whose, at)[of]]
    changes = [(one, when) for one, when in model.scheduled(whose, its) if when > at]
    goes = min(changes, key=lambda change: (change[1], change[0]), default=None)
    place = own_place(limit.holder, limit) if limit.holder else (model.holder(key, limit), limit.spec.name)
    own = model.override_of((place[0], its.id, limit.route, place[1]), limit.spec, at)
    given = own and (own[0] if isinstance(own[0], int) else str(own[0]), own[1])
    return name, used, remaining, resets_at, holder, extra, over, alone.retry_at, goes, given


class StatusMachine(DirectoryMachine):
    """Where limits stand, what was used by day, and limits of one's own."""

    @rule(
        id_=KEY_IDS, which=st.integers(0, 5), value=st.sampled_from([None, 0, 2, 3, 8, 20]), api=APIS, route=ROUTES,
        lasts=st.sampled_from([None, None, 1, 20_000_000, 3_600_000_000, DAY, 40 * DAY]),
    )  # fmt: skip
    def override(self, id_: str, which: int, value: int | None, api: str, route: str | None, lasts: int | None) -> None:
        key = self.model.keys.get(id_)
        plan = key and self.model.plan_at(key, api, self.now)
        limits = [(route or "", spec) for spec in plan.routes.get(route or "", ())] if plan else []
        limits += (
            [("", spec) for spec in plan.limits if spec.name not in {own.name for _, own in limits}] if plan else []
        )
        name, of = (
            (limits[which % len(limits)][1].name, limits[which % len(limits)]) if limits else ("none", ("", None))
        )
        given: Any = Throttle("3", burst=value) if value is not None and isinstance(of[1], Throttle) else value
        until = None if lasts is None else to_datetime(self.now + lasts)

        def override() -> Any:
            return self.ledger.override_limit(id_, name, given, until=until, api=api, route=route)

        if key is None or plan is None or of[1] is None:
            raises(UnknownKey if key is None else InvalidValue, override)
            return
        try:
            self.model.instant(key, self.now)
        except Skewed:
            raises(ClockSkew, override)
            return
        override()
        place = self.model.holder(key, Limit(of[1], of[0], "")), plan.id, of[0], name
        if value is None:
            self.model.overrides.pop(place, None)
        else:
            self.model.overrides[place] = given, None if lasts is None else self.now + lasts

    @rule(
        who=st.one_of(KEY_IDS, st.sampled_from(["team", "org", "top"])),
        api=st.sampled_from([None, None, "", "b"]),
        route=ROUTES,
    )
    def status(self, who: str, api: str | None, route: str | None) -> None:
        try:
            expected = stand(self.model, who, api, route, self.now)
        except Skewed:
            raises(ClockSkew, lambda: self.ledger.status(who, api=api, route=route))
            return
        if expected is None:
            raises(UnknownKey, lambda: self.ledger.status(who, api=api, route=route))
            return
        told = [
            (
                s.name,
                s.used,
                s.remaining,
                us_of(s.resets_at),
                s.holder,
                s.extra,
                s.over,
                s.retry_at and us_of(s.retry_at),
                s.scheduled and (s.scheduled.plan, us_of(s.scheduled.at)),
                s.override and (s.override.value, us_of(s.override.until)),
            )
            for s in self.ledger.status(who, api=api, route=route)
        ]
        equal(told, expected, f"where {who} stands")

    @rule(id_=KEY_IDS)
    def usage(self, id_: str) -> None:
        key = self.model.keys.get(id_)
        if key is None:
            return
        try:
            now = self.model.instant(key, self.now)
        except Skewed:
            return
        plan = self.model.plan_at(key, "", self.now)
        places = {
            limit.name: (self.model.holder(key, limit), ("",), limit.route, limit.spec.unit)
            for limit in (self.model.limits(plan, None) if plan else ())
            if isinstance(limit.spec, Quota)
        }
        for row in self.ledger.usage(id_):
            place = places.get(row.limit)
            if place is None:
                continue
            day = (row.day - datetime(1970, 1, 1, tzinfo=timezone.utc).date()) // timedelta(days=1)
            used = self.model.sum(place, day * DAY, now) - self.model.sum(place, (day + 1) * DAY, now)
            equal(row.used, used, f"used on day {day} of {row.limit}")

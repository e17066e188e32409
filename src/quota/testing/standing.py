"""The machine's rules for where keys and accounts stand, and what the model says of it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import rule

from ..errors import ClockSkew, UnknownKey
from ..limit import Quota, Throttle
from .directory import DirectoryMachine, equal, raises, us_of
from .model import DAY, Limit, Member, Model, Skewed
from .strategies import KEY_IDS, ROUTES


def stand(model: Model, who: str, api: str | None, route: str | None, now: int) -> list[tuple[Any, ...]] | None:
    """Tell where every limit of a key or an account stands; None where nothing has that name."""
    if who in model.keys:
        return _stand(model, model.keys[who], api, route, now, set(), lambda _: True)
    if not model.members.get(who):
        return None
    told: list[tuple[Any, ...]] = []
    seen: set[str] = set()
    for id_ in sorted(model.members[who]):
        told += _stand(model, model.keys[id_], api, route, now, seen, lambda limit: limit.spec.by == "account")
    return told


def _stand(
    model: Model, key: Member, api: str | None, route: str | None, now: int, seen: set[str],
    told: Callable[[Limit], bool],
) -> list[tuple[Any, ...]]:  # fmt: skip
    rows: list[tuple[Any, ...]] = []
    plans = {of: model.plans[id_] for of, id_ in sorted(key.plans.items()) if id_ not in seen and api in (None, of)}
    for of, plan in plans.items():
        seen.add(plan.id)
        at = model.instant(key, now)
        for limit in filter(told, model.limits(plan, route)):
            alone = model.weigh(key, plan, of, route, {limit.spec.unit: 1}, at, [limit])
            name, used, remaining, resets_at = alone.limits[0]
            if isinstance(limit.spec, Throttle):
                extra, over = 0, max(0, used - (limit.spec.burst if limit.spec.rate else 0))
            else:
                extra, over = model.current(model.place(key, of, limit), limit, at).extra, alone.over
            holder = key.account if limit.spec.by == "account" else key.id
            rows.append((name, used, remaining, resets_at, holder, extra, over, alone.retry_at))
    return rows


class StandingMachine(DirectoryMachine):
    """What changes nothing: where limits stand, and what was used by day."""

    @rule(who=st.one_of(KEY_IDS, st.just("team")), api=st.sampled_from([None, None, "", "b"]), route=ROUTES)
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
        plan = self.model.plans.get(key.plans.get("", ""))
        places = {
            limit.name: self.model.place(key, "", limit)
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

"""An independent model of the ledger: a log of what was taken, summed from scratch at every question.

It shares no code with the rule: windows are computed here, levels are fractions, counts are sums over the log. It knows
the periods that the machine plays with.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from fractions import Fraction
from math import ceil, floor
from typing import Any

import attrs

from ..limit import Concurrency, Quota, Throttle
from ..plan import UsagePlan
from .plans import Member
from .tree import AccountsOfModel
from .windows import PER, Window, window

SKEW = 300_000_000

Spec = Quota | Throttle | Concurrency
Subject = tuple[str, str]
Place = tuple[Subject, tuple[str, ...], str, str]
"""(subject, apis, route or nothing, unit): what a limit counts."""


class Skewed(Exception):
    """The clock is too far behind."""


@attrs.define(eq=False)
class Taking:
    """Units taken at an instant; held when it ``expires``; ``subjects`` are whose count it is in."""

    at: int
    subjects: set[Subject]
    api: str
    routes: tuple[str, ...]
    unit: str
    units: int
    expires: int | None = None
    hold: str = ""

    def counts(self, now: int) -> bool:
        return self.expires is None or now < self.expires


@attrs.define(eq=False)
class CallInFlight:
    """One call in flight, until it ``expires`` or is closed."""

    hold: str
    subjects: set[Subject]
    api: str
    route: str
    expires: int


@attrs.define(eq=False)
class Level:
    """A throttle's bucket: ``level`` units at ``at``; ``echo`` units at ``since`` are in some other bucket too."""

    rate: Fraction
    level: Fraction
    at: int
    echo: Fraction = Fraction(0)
    since: int = 0

    def now(self, now: int) -> Fraction:
        return max(Fraction(0), self.level - self.rate * (now - self.at))

    def fresh(self, now: int) -> Fraction:
        """Return what no other bucket has heard of."""
        return self.now(now) - max(Fraction(0), self.echo - self.rate * (now - self.since))


@attrs.frozen
class Limit:
    """One limit that a call touches, with the name it is told by. ``holder``: the account whose own plan it is of."""

    spec: Spec
    route: str
    name: str
    apis: tuple[str, ...] = ("",)
    holder: str = ""


@attrs.frozen
class Answer:
    """All that the model expects of a decision."""

    allowed: bool
    reason: str
    limits: tuple[tuple[str, int, int, int | None], ...] = ()
    violated: tuple[str, ...] = ()
    retry_at: int | None = None
    crossed: tuple[tuple[str, int], ...] = ()
    over: int = 0
    replayed: bool = False
    at: int = 0
    events: tuple[Taking, ...] = ()
    above: tuple[str, ...] = ()


class Model(AccountsOfModel):
    """The ledger as it should be, in the plainest words."""

    window = staticmethod(window)

    def __init__(self) -> None:
        self.plans: dict[str, UsagePlan] = {}
        self.keys: dict[str, Member] = {}
        self.members: dict[str, list[str]] = {}
        self.shared: set[str] = set()
        self.parents: dict[str, str | None] = {}
        self.on_plans: dict[str, Member] = {}
        self.lines: dict[str, tuple[str, ...]] = {}
        self.events: list[Taking] = []
        self.slots: list[CallInFlight] = []
        self.at: dict[Subject, int] = {}
        self.windows: dict[tuple[Place, str], Window] = {}
        self.seen: dict[Place, list[tuple[int, int]]] = {}
        self.levels: dict[tuple[Place, str], Level] = {}
        self.charged: dict[tuple[str, str, str], list[Limit]] = {}
        self.barred = ""  # why calls made now are refused for whence they come or what they are for
        self.overrides: dict[tuple[Subject, str, str, str], tuple[Any, int | None]] = {}
        self.told: list[tuple[Any, ...]] = []
        self.removed: list[tuple[Member, int, list[tuple[int, str, str, int]]]] = []

    # The directory

    def add_key(self, id_: str, account: str, plan: str | None) -> None:
        members = self.members.setdefault(account, [])
        if members:
            self.begin(account)
        members.append(id_)
        self.keys[id_] = Member(id_, account)
        if plan is not None:
            self.keys[id_].plans |= dict.fromkeys(self.plans[plan].apis, plan)

    def _copy(self, source: Subject, target: Subject) -> None:
        if source in self.at:
            self.at[target] = self.at[source]
        for (place, name), found in list(self.windows.items()):
            if place[0] == source:
                self.windows[(target, *place[1:]), name] = attrs.evolve(found)
        for (place, name), level in list(self.levels.items()):
            if place[0] == source:
                self.levels[(target, *place[1:]), name] = attrs.evolve(level)
        for (subject, *of), override in list(self.overrides.items()):
            if subject == source:
                self.overrides[target, of[0], of[1], of[2]] = override
        for place, seen in list(self.seen.items()):
            if place[0] == source:
                self.seen[target, place[1], place[2], place[3]] = list(seen)

    def remove_key(self, id_: str) -> None:
        taken = [
            (e.at, e.api, e.unit, e.units) for e in self.events if ("key", id_) in e.subjects and e.expires is None
        ]
        self.removed.append((self.keys[id_], self.at.get(("key", id_), 0), taken))
        key = self.keys.pop(id_)
        members = self.members[key.account]
        members.remove(id_)
        if not members and key.account == id_:
            self._drop(("account", id_))
            self.overrides = {of: value for of, value in self.overrides.items() if of[0] != ("account", id_)}
            self.shared.discard(id_)
            del self.members[id_]
        elif key.account not in self.shared and ("key", id_) in self.at:
            self._copy(("key", id_), ("account", key.account))
            self.shared.add(key.account)
        self._drop(("key", id_))
        self.overrides = {of: value for of, value in self.overrides.items() if of[0] != ("key", id_)}

    def _drop(self, subject: Subject) -> None:
        self.at.pop(subject, None)
        for event in self.events:
            event.subjects.discard(subject)
        for slot in self.slots:
            slot.subjects.discard(subject)
        for table in (self.windows, self.levels):
            for found in [found for found in table if found[0][0] == subject]:
                del table[found]  # type: ignore[attr-defined, unused-ignore]
        for place in [place for place in self.seen if place[0] == subject]:
            del self.seen[place]
        for who in [who for who in self.charged if ("key", who[0]) == subject]:
            del self.charged[who]

    def forget(self, id_: str, now: int) -> None:
        key = self.keys[id_]
        self._drop(("key", id_))
        if key.account not in self.shared or now < self.at.get(("account", key.account), 0) - SKEW:
            self._drop(("account", key.account))
        for account in self.line(key):
            if now < self.at.get(("account", account), 0) - SKEW:
                self._drop(("account", account))
        key.remembered, key.refunded, key.admissions = {}, set(), []
        key.era += 1

    # Who counts, and what

    def subjects(self, key: Member) -> list[Subject]:
        own: list[Subject] = [("key", key.id)] if key.id else []
        mine = [key.account] if key.account in self.shared else []
        return [*own, *(("account", account) for account in (*mine, *self.line(key)))]

    def holder(self, key: Member, limit: Limit) -> Subject:
        if limit.holder:
            return ("account", limit.holder)
        joint = limit.spec.by == "account" and key.account in self.shared
        return ("account", key.account) if joint else ("key", key.id)

    def plan_of(self, key: Member, api: str, now: int) -> UsagePlan | None:
        """The key's plan at an instant, with its own limits and its account's in it."""
        plan = self.plan_at(key, api, now)
        return plan and self.in_force(plan, lambda limit: (self.holder(key, limit), limit.spec.name), now)

    def in_force(self, plan: UsagePlan, whose: Callable[[Limit], tuple[Subject, str]], now: int) -> UsagePlan:
        """Return a plan with limits of one's own in it. ``whose``: on what a limit is counted, and under which name."""

        def own(route: str, spec: Spec) -> Spec:
            subject, name = whose(Limit(spec, route, ""))
            found = self.override_of((subject, plan.id, route, name), spec, now)
            if found is None:
                return spec
            if isinstance(spec, Quota):
                return attrs.evolve(spec, limit=found[0], overage=spec.overage if found[0] else 0)
            if isinstance(spec, Concurrency):
                return attrs.evolve(spec, limit=found[0])
            throttle: Throttle = attrs.evolve(found[0], unit=spec.unit, by=spec.by, name=spec.name)
            return throttle

        routes = {route: [own(route, spec) for spec in its] for route, its in plan.routes.items()}
        return attrs.evolve(plan, limits=[own("", spec) for spec in plan.limits], routes=routes)

    def override_of(self, place: tuple[Subject, str, str, str], spec: Spec, now: int) -> tuple[Any, int | None] | None:
        """Return what holds in place of a limit at an instant, and until when; None of the other kind of limit."""
        value, until = self.overrides.get(place, (None, None))
        if (
            value is None
            or (until is not None and until <= now)
            or isinstance(value, int) == isinstance(spec, Throttle)
        ):
            return None
        return value, until

    def limits(self, plan: UsagePlan, route: str | None) -> list[Limit]:
        own = plan.routes.get(route, ()) if route else ()
        units = [limit.unit for limit in own if isinstance(limit, Throttle)]
        found = [
            Limit(limit, "", limit.name, plan.apis)
            for limit in plan.limits
            if not (isinstance(limit, Throttle) and limit.unit in units)
        ]
        names = [limit.name for limit in plan.limits]
        found += [
            Limit(lim, str(route), f"{route} {lim.name}" if lim.name in names else lim.name, plan.apis) for lim in own
        ]
        return found

    def grant_account(self, account: str, name: str, units: int, now: int) -> int:
        """Grant units of a quota of an account's own plan; what remains."""
        alone = Member("", account)
        now = self.instant(alone, now)
        self.settle(alone, "", None, now)
        limit = next(one for one in self.joined(alone, None, "", None, now) if one.name == f"{account}: {name}")
        current = self.windows[self.place(alone, limit), limit.name]
        current.extra += units
        used = self.sum(self.place(alone, limit), current.since, now)
        return int(max(0, limit.spec.limit + current.extra - used))

    def instant(self, key: Member, now: int) -> int:
        for subject in self.subjects(key):
            latest = self.at.get(subject, 0)
            if now < latest - SKEW:
                raise Skewed
            now = max(now, latest)
        return now

    def place(self, key: Member, limit: Limit) -> Place:
        return self.holder(key, limit), limit.apis, limit.route, limit.spec.unit

    def sum(self, place: Place, since: int, now: int) -> int:
        subject, apis, route, unit = place
        return sum(
            event.units
            for event in self.events
            if subject in event.subjects and event.api in apis and event.unit == unit and route in event.routes
            and since <= event.at and event.counts(now)
        )  # fmt: skip

    def current(self, place: Place, limit: Limit, now: int) -> Window:
        """The window that a quota would be in at an instant; remembered only by ``settle``."""
        start, end = window(limit.spec.period, now)  # type: ignore[union-attr]
        old = self.windows.get((place, limit.name))
        if old is None or old.end <= now:
            came = [found for found in self._alike(place, limit) if (found.start, found.end) == (start, end)]
            extra, alerted = min((of.extra for of in came), default=0), max((of.alerted for of in came), default=0)
            return Window(start, end, start, extra, alerted)
        if (old.start, old.end) == (start, end):
            return old
        return Window(start, end, min(old.since, start), old.extra, old.alerted)

    def _alike(self, place: Place, limit: Limit) -> list[Window]:
        """Return the windows of this name that a key alone had under plans for some of the same apis."""
        (kind, _), apis, *of = place
        return [
            found for (other, name), found in self.windows.items()
            if kind == "key" and name == limit.name and other[0] == place[0] and other[1] != apis
            and {*other[1]} & {*apis} and [*other[2:]] == of
        ]  # fmt: skip

    def throttles(self, plan: UsagePlan, unit: str) -> list[Limit]:
        """All of a plan, whatever the route."""
        names = [limit.name for limit in plan.limits]
        found = [Limit(limit, "", limit.name, plan.apis) for limit in plan.limits]
        for route, own in plan.routes.items():
            found += [
                Limit(lim, route, f"{route} {lim.name}" if lim.name in names else lim.name, plan.apis) for lim in own
            ]
        return [limit for limit in found if isinstance(limit.spec, Throttle) and limit.spec.unit == unit]

    def buckets(self, key: Member, plan: UsagePlan | None, api: str, now: int) -> dict[tuple[Place, str], Level]:
        """All buckets as they would be if the key were charged under this plan."""
        levels = {of: attrs.evolve(level) for of, level in self.levels.items()}
        for unit in ("requests", "tokens"):
            limits = self.throttles(plan, unit) if plan else []
            last = self.charged.get((key.id, api, unit), [])
            if limits and last and limits != last:
                self._turn(key, last, limits, levels, now)
            for limit in limits:
                of = self.place(key, limit), limit.name
                if of in levels and levels[of].rate != _rate(limit):
                    levels[of] = self._as(levels[of], limit, now)
        return levels

    def moved(self, key: Member, plan: UsagePlan, api: str, route: str | None) -> bool:
        """Tell whether this plan's throttles are others than the key, or a bucket of this route plan, was charged under last."""
        for unit in ("requests", "tokens"):
            last, now = self.charged.get((key.id, api, unit), []), self.throttles(plan, unit)
            if last and now and [_shape(limit) for limit in last] != [_shape(limit) for limit in now]:
                return True
        throttles = [limit for limit in self.limits(plan, route) if isinstance(limit.spec, Throttle)]
        levels = [(self.levels.get((self.place(key, limit), limit.name)), limit) for limit in throttles]
        return any(level is not None and level.rate != _rate(limit) for level, limit in levels)

    def _as(self, level: Level, limit: Limit, now: int) -> Level:
        """A bucket at a limit's own rate, in its own smallest part of a unit, rounded up."""
        whole, fresh = _ceiled(level.now(now), limit), _ceiled(level.fresh(now), limit)
        return Level(_rate(limit), whole, now, whole - fresh, now)

    def _turn(
        self, key: Member, last: list[Limit], limits: list[Limit],
        levels: dict[tuple[Place, str], Level], now: int,
    ) -> None:  # fmt: skip
        """Another plan: each of its buckets hears of the calls that it was not told of."""
        asleep = now - self.at.get(("key", key.id), 0)
        of = {limit: (self.place(key, limit), limit.name) for limit in (*last, *limits)}
        own: Subject = ("key", key.id)
        routes = {limit.route for limit in limits}
        old: dict[str, list[Limit]] = {}
        for limit in last:
            old.setdefault(limit.route, []).append(limit)

        def known(limit: Limit) -> Level | None:
            forgotten = of[limit][0][0] != own and asleep >= ceil(_burst(limit) / _rate(limit))
            return None if forgotten else levels.get(of[limit])

        def heard(by: Limit, limits: list[Limit]) -> tuple[Fraction, Fraction]:
            """The least that is safe to believe of buckets that all heard the same calls; and what only they heard."""
            all_ = [level for level in map(known, limits) if level is not None]
            slow = [level for level in all_ if level.rate <= _rate(by)]
            least = min if slow else max
            return (
                least((_ceiled(level.now(now), by) for level in slow or all_), default=Fraction(0)),
                least((_ceiled(level.fresh(now), by) for level in slow or all_), default=Fraction(0)),
            )

        def goes_on(limit: Limit) -> bool:
            return any(of[new] == of[limit] and _as_tight(new, limit) for new in limits)

        homeless = [limits_ for route, limits_ in old.items() if route not in routes]
        found: list[tuple[Limit, Level]] = []
        for limit in limits:
            mine = levels.get(of[limit])
            level = self._as(mine, limit, now) if mine else Level(_rate(limit), Fraction(0), now)
            whole, fresh = level.now(now), level.fresh(now)
            # Calls on this route went the same way before, or the way of calls on no route in particular.
            way = limit.route if limit.route in old else ""
            went = old.get(way, [])
            if last[0].apis != limit.apis:  # this bucket was told of none of these calls
                news = [heard(limit, group) for group in ([went] if limit.route else [went, *homeless])]
                found.append((limit, Level(_rate(limit), _with_more(limit, whole, news), now, whole - fresh, now)))
                continue
            if way != limit.route or of[limit] not in [of[other] for other in went]:
                holder = of[limit][0][0]
                told = [other for other in went if of[other][0][0] == holder]
                if not told:
                    told = [o for o in went if holder != own or way != limit.route or not goes_on(o)]
                believed, only = heard(limit, told)
                whole = max(whole, believed)
                fresh = max(fresh, only) if way == limit.route else fresh
            if not limit.route:
                news = [heard(limit, group) for group in homeless]
                fresh += min(sum(only for _, only in news), max(Fraction(0), _burst(limit) - whole))
                whole = _with_more(limit, whole, news)
            found.append((limit, Level(_rate(limit), whole, now, whole - fresh, now)))
        charged = {of[limit] for limit in limits}
        for limit in last:
            gone = known(limit)
            if gone is None or of[limit] in charged:
                continue
            if not gone.now(now):
                del levels[of[limit]]
            elif limit.route in routes or "" in routes:
                gone.echo, gone.since = gone.now(now), now
        filled = {limit.route for limit, level in found if level.level}
        levels.update((of[limit], level) for limit, level in found if limit.route in filled)

    def settle(self, key: Member, api: str, route: str | None, now: int) -> None:
        """Time passes for good: windows roll and buckets change hands."""
        plan = self.plan_of(key, api, now)
        limits = self.joined(key, plan, api, route, now)
        self.levels = self.buckets(key, plan, api, now)
        for unit in ("requests", "tokens"):
            if plan and (throttles := self.throttles(plan, unit)):
                self.charged[key.id, api, unit] = throttles
        for subject in self.subjects(key):
            self.at[subject] = now
        for limit in limits:
            place = self.place(key, limit)
            if isinstance(limit.spec, Quota):
                current = self.current(place, limit, now)
                self.windows[place, limit.name] = current
                self.seen.setdefault(place, []).append((current.since, current.end))
            elif isinstance(limit.spec, Throttle):
                self.levels.setdefault((place, limit.name), Level(_rate(limit), Fraction(0), now))

    # Decisions

    def usable(self, id_: str | None) -> str:
        key = self.keys.get(id_ or "")
        return "UNKNOWN_KEY" if key is None else self.barred or "OK" if key.enabled else "DISABLED_KEY"

    def evaluate(
        self, key: Member, plan: UsagePlan | None, api: str, route: str | None, takes: Mapping[str, int], now: int,
        limits: list[Limit] | None = None,
    ) -> Answer:  # fmt: skip
        """Return what a charge would get, told as a decision would tell it; of ``limits`` alone where they are given."""
        told: list[tuple[str, int, int, int | None]] = []
        violated, waits = [], []
        over = 0
        never = quota = closed = full = False
        lapses: list[tuple[int, int]] = []
        levels = self.buckets(key, plan, api, now)
        for limit in self.joined(key, plan, api, route, now) if limits is None else limits:
            units = takes.get(limit.spec.unit, 0)
            place = self.place(key, limit)
            if isinstance(limit.spec, Concurrency):
                ends = self.in_flight(place, now)
                most = limit.spec.limit
                told.append((limit.name, len(ends), max(0, most - len(ends)), None))
                if takes and len(ends) >= most:
                    violated.append(limit.name)
                    waits.append(ends[len(ends) - most] if most else now)
                    full, closed = True, closed or not most
            elif isinstance(limit.spec, Quota):
                spec = limit.spec
                current = self.current(place, limit, now)
                used = self.sum(place, current.since, now)
                room = spec.limit + spec.overage + current.extra - used
                over = max(over, used - spec.limit - current.extra)
                told.append((limit.name, used, max(0, spec.limit + current.extra - used), current.end))
                if units and units > room:
                    violated.append(limit.name)
                    waits.append(current.end)
                    quota = True
                    never = never or units > spec.limit + spec.overage
                lapses.append((current.end, spec.limit + spec.overage if units > spec.limit + spec.overage else -1))
            else:
                rate = _rate(limit)
                bucket = levels.get((place, limit.name))
                level = bucket.now(now) if bucket else Fraction(0)
                told.append((limit.name, ceil(level), max(0, floor(_burst(limit) - level)), now + ceil(level / rate)))
                if units and level + units > _burst(limit):
                    violated.append(limit.name)
                    waits.append(now + ceil((level + units - _burst(limit)) / rate))
                    never = never or units > _burst(limit)
        retry_at = max(waits, default=None)
        if retry_at is not None and any(end <= retry_at and too_large >= 0 for end, too_large in lapses):
            never = True
        reason = (
            "COST_TOO_LARGE"
            if never
            else "QUOTA_EXCEEDED"
            if quota
            else "CONCURRENCY_EXCEEDED"
            if full
            else "THROTTLED"
        )
        later = None if never or closed else retry_at
        return Answer(
            not violated, reason if violated else "OK", tuple(told), tuple(violated), later, over=over, at=now
        )

    def in_flight(self, place: Place, now: int) -> list[int]:
        """Return when the calls that are in flight there lapse, in order."""
        subject, apis, route, _ = place
        return sorted(
            slot.expires
            for slot in self.slots
            if subject in slot.subjects and slot.api in apis and route in ("", slot.route) and now < slot.expires
        )

    def keep(self, key: Member, api: str, route: str | None, expires: int, hold: str) -> None:
        """One call more is in flight."""
        subjects = {*self.subjects(key), ("account", key.account)}
        self.slots.append(CallInFlight(hold, subjects, api, route or "", expires))

    def takes(self, plan: UsagePlan, route: str | None, cost: Mapping[str, int] | None) -> Mapping[str, int]:
        if cost is not None:
            return cost
        planned = plan.costs.get(route, 1) if route else 1
        return {"requests": planned} if isinstance(planned, int) else planned

    def take(
        self, key: Member, plan: UsagePlan | None, api: str, route: str | None, takes: Mapping[str, int], now: int,
        expires: int | None = None, hold: str = "", routes: tuple[str, ...] | None = None,
    ) -> tuple[Taking, ...]:  # fmt: skip
        if routes is None:
            plans = [*([plan] if plan else []), *(upper for _, upper in self.parts(key, api, now))]
            routes = ("", route) if plan and route and any(one.routes.get(route) for one in plans) else ("",)
        events = tuple(
            Taking(now, set(self.subjects(key)) | ({("account", key.account)}), api, routes, unit, units, expires, hold)
            for unit, units in takes.items()
            if units
        )
        self.events.extend(events)
        return events

    def pour(self, key: Member, limits: list[Limit], poured: Mapping[str, int], now: int) -> None:
        for limit in limits:
            if isinstance(limit.spec, Throttle):
                level = self.levels[self.place(key, limit), limit.name]
                level.level, level.at = level.now(now) + poured.get(limit.spec.unit, 0), now

    def alerts(
        self, key: Member, plan: UsagePlan, limits: list[Limit], takes: Mapping[str, int], now: int
    ) -> tuple[tuple[str, int], ...]:
        crossed = []
        for limit in limits:
            if isinstance(limit.spec, Quota) and takes.get(limit.spec.unit):
                place = self.place(key, limit)
                current = self.windows[place, limit.name]
                used = self.sum(place, current.since, now)
                upper = self.plans.get(self.plans_of(limit.holder, now).get(limit.apis[0], ""))
                for percent in (upper or plan).alerts:
                    if percent > current.alerted and used * 100 >= percent * (limit.spec.limit + current.extra):
                        crossed.append((limit.name, percent))
                        current.alerted = percent
                        if current.end - current.start >= PER["hour"]:
                            whose = None if limit.spec.by == "account" or upper else key.id
                            of = None if upper else plan.id
                            self.told.append(("limit.crossed", whose, of, limit.name, percent))
        return tuple(crossed)

    def consume(
        self, id_: str | None, cost: Mapping[str, int] | None, api: str, route: str | None, now: int, *, dry: bool = False,
        ttl: int | None = None, hold: str = "", slot: bool = False,
    ) -> Answer:  # fmt: skip
        """consume, peek and reserve. ``slot``: it is charged for good, and only its slots are kept."""
        usable = self.usable(id_)
        if usable != "OK":
            return Answer(allowed=False, reason=usable)
        key = self.keys[str(id_)]
        plan = self.plan_at(key, api, now)
        if plan is None:
            return Answer(allowed=False, reason="NO_PLAN")
        takes = self.takes(plan, route, cost)
        now = self.instant(key, now)
        plan = self.plan_of(key, api, now) or plan
        answer = self.evaluate(key, plan, api, route, takes, now)
        if not answer.allowed:
            if not dry and self.moved(key, plan, api, route):
                self.settle(key, api, route, now)
            return answer
        saved = self._snapshot() if dry else None
        self.settle(key, api, route, now)
        until = None if ttl is None or slot else now + ttl
        events = self.take(key, plan, api, route, takes, now, until, "" if slot else hold)
        if ttl is not None:
            self.keep(key, api, route, now + ttl, hold)
        limits = self.joined(key, plan, api, route, now)
        self.pour(key, limits, takes, now)
        told = len(self.told)
        crossed = self.alerts(key, plan, limits, takes, now)
        told_then, above = self.evaluate(key, plan, api, route, {}, now), tuple(self.line(key))
        after = attrs.evolve(told_then, crossed=crossed, events=events, above=above)
        if hold:
            self.lines[hold] = after.above
        if saved is not None:
            del self.told[told:]
            self._restore(saved)
        else:
            key.admissions.append((now, api, plan.id))
            key.last_used = now // PER["minute"] * PER["minute"]
        return after

    def _snapshot(self) -> tuple[Any, ...]:
        return (
            len(self.events), len(self.slots), dict(self.at), {k: attrs.evolve(v) for k, v in self.windows.items()},
            {k: list(v) for k, v in self.seen.items()}, {k: attrs.evolve(v) for k, v in self.levels.items()},
            dict(self.charged),
        )  # fmt: skip

    def _restore(self, saved: tuple[Any, ...]) -> None:
        count, slots, self.at, self.windows, self.seen, self.levels, self.charged = saved
        del self.events[count:]
        del self.slots[slots:]

    def commit(
        self, id_: str, hold: str, actual: Mapping[str, int] | None, api: str, route: str | None, now: int
    ) -> tuple[Taking, ...]:
        """Turn what was held into what was used, what was spent included."""
        key = self.keys[id_]
        gone = [event for event in self.events if event.hold == f"spent {hold}"]
        if actual is not None:
            actual = {unit: units - sum(e.units for e in gone if e.unit == unit) for unit, units in actual.items()}
        self.slots = [slot for slot in self.slots if slot.hold != hold]
        return (*gone, *self._commit(key, hold, actual, api, route, now))

    def _commit(
        self, key: Member, hold: str, actual: Mapping[str, int] | None, api: str, route: str | None, now: int
    ) -> tuple[Taking, ...]:
        now = self.instant(key, now)
        held = [event for event in self.events if event.hold == hold]
        lapsed = any(not event.counts(now) for event in held)
        self.settle(key, api, route, now)
        plan = self.plan_of(key, api, now)
        limits = self.joined(key, plan, api, route, now)
        was = {event.unit: event.units for event in held}
        used = dict(was if actual is None else actual)
        routes = self._routes(hold)
        more: dict[str, int] = {}
        kept: list[Taking] = []
        for event in held:
            if lapsed:
                event.units = 0
            else:
                event.units = min(event.units, used.get(event.unit, 0))
                event.expires = None
                kept.append(event)
            event.hold = ""
        for unit, units in used.items():
            had = 0 if lapsed else was.get(unit, 0)
            if units > had:
                more[unit] = units - had
        added = self.take(key, plan, api, route, more, now, routes=routes)
        self.pour(key, limits, {unit: max(0, units - was.get(unit, 0)) for unit, units in used.items()}, now)
        if plan:
            self.alerts(key, plan, limits, more, now)
        return (*(event for event in kept if event.units), *added)

    def spend(
        self, id_: str, hold: str, actual: Mapping[str, int], api: str, route: str | None, now: int
    ) -> dict[str, int]:
        """Take a part of what is held for good, and beyond it; the units that were held of it."""
        key = self.keys[id_]
        now = self.instant(key, now)
        held = [event for event in self.events if event.hold == hold]
        lapsed = not any(slot.hold == hold and now < slot.expires for slot in self.slots)
        self.settle(key, api, route, now)
        plan = self.plan_of(key, api, now)
        within = dict.fromkeys(actual, 0)
        for event in held:
            part = within[event.unit] = min(event.units, actual.get(event.unit, 0))
            event.units -= part
            if part and not lapsed:
                mine = set(event.subjects)
                self.events.append(attrs.evolve(event, units=part, expires=None, hold=f"spent {hold}", subjects=mine))
        beyond = {unit: units - within.get(unit, 0) for unit, units in actual.items()}
        more = {unit: units for unit, units in (actual if lapsed else beyond).items() if units}
        self.take(key, plan, api, route, more, now, hold=f"spent {hold}", routes=self._routes(hold))
        limits = self.joined(key, plan, api, route, now)
        self.pour(key, limits, beyond, now)
        if plan:
            self.alerts(key, plan, limits, more, now)
        return {} if lapsed else within

    def _routes(self, hold: str) -> tuple[str, ...] | None:
        """Return the meters of a reservation, once it has counted."""
        return next((event.routes for event in self.events if event.hold in (hold, f"spent {hold}")), None)

    def extend(self, id_: str, hold: str, ttl: int, api: str, route: str | None, now: int) -> bool:
        """Hold it for longer; whether it had not lapsed."""
        key = self.keys[id_]
        now = self.instant(key, now)
        slots = [slot for slot in self.slots if slot.hold == hold and now < slot.expires]
        for slot in slots:
            self.settle(key, api, route, now)
            slot.expires = max(slot.expires, now + ttl)
        for event in self.events if slots else ():
            if event.hold == hold and event.expires is not None:
                event.expires = max(event.expires, now + ttl)
        return bool(slots)

    def cancel(self, id_: str, hold: str, api: str, route: str | None, now: int) -> None:
        key = self.keys[id_]
        self.slots = [slot for slot in self.slots if slot.hold != hold]
        self.settle(key, api, route, self.instant(key, now))
        for event in self.events:
            if event.hold == hold:
                event.units, event.hold = 0, ""

    def open(self, event: Taking, now: int) -> bool:
        """Tell whether any window that counted this event is still running."""
        return any(
            start <= event.at < end and now < end
            for subject in event.subjects
            for place, windows in self.seen.items()
            if place[0] == subject and event.api in place[1] and place[2] in event.routes and place[3] == event.unit
            for start, end in windows
        )

    def refund(self, id_: str, events: tuple[Taking, ...], units: Mapping[str, int] | None, now: int) -> int:
        """Give back what is still in a window: later takes first."""
        key = self.keys[id_]
        now = self.instant(key, now)
        self.settle(key, events[0].api, events[0].routes[-1] or None, now)
        wanted = None if units is None else dict(units)
        given = 0
        groups: dict[int, list[Taking]] = {}
        for event in events:
            groups.setdefault(event.at, []).append(event)
        for at in sorted(groups, reverse=True):
            if not any(self.open(event, now) for event in groups[at]):
                continue
            for event in groups[at]:
                part = event.units if wanted is None else min(event.units, wanted.get(event.unit, 0))
                event.units -= part
                given += part
                if wanted is not None and event.unit in wanted:
                    wanted[event.unit] -= part
        return given

    def adjust(self, id_: str, name: str, units: int, api: str, now: int, *, grant: bool) -> int | None:
        """grant or set_remaining on a plan's quota; what remains, None when there is no such quota."""
        key = self.keys[id_]
        plan = self.plan_of(key, api, self.latest(key, now))
        limits = [lim for lim in self.limits(plan, None) if isinstance(lim.spec, Quota)] if plan else []
        limit = next((lim for lim in limits if lim.name == name), None)
        if limit is None:
            return None
        now = self.instant(key, now)
        self.settle(key, api, None, now)
        place = self.place(key, limit)
        current = self.windows[place, name]
        used = self.sum(place, current.since, now)
        whole = limit.spec.limit  # type: ignore[union-attr]
        current.extra = current.extra + units if grant else units + used - whole
        return max(0, whole + current.extra - used)


def _rate(limit: Limit) -> Fraction:
    """Units each microsecond; where nobody is admitted, the slowest that a bucket can drain."""
    spec = limit.spec
    assert isinstance(spec, Throttle)
    return spec.rate / PER[spec.per] if _burst(limit) else Fraction(1, 2**53 - 1)


def _shape(limit: Limit) -> tuple[Any, ...]:
    """Return what makes a throttle another one."""
    return limit.apis, limit.route, limit.name, limit.spec.by, _rate(limit), _burst(limit)


def _burst(limit: Limit) -> int:
    spec = limit.spec
    assert isinstance(spec, Throttle)
    return spec.burst if spec.rate else 0


def _as_tight(new: Limit, old: Limit) -> bool:
    """Tell whether a bucket that is charged as before lets no more through than before."""
    return _rate(new) <= _rate(old) and _burst(new) <= _burst(old)


def _with_more(limit: Limit, whole: Fraction, news: list[tuple[Fraction, Fraction]]) -> Fraction:
    """Pour what only others heard into a bucket while there is room; it holds at least all that each believes."""
    more = min(sum(only for _, only in news), max(Fraction(0), _burst(limit) - whole))
    return max([whole + more, *(believed for believed, _ in news)])


def _ceiled(level: Fraction, limit: Limit) -> Fraction:
    """Rounded up to the smallest part of a unit that the limit's rate needs: what makes a microsecond's drain whole."""
    parts = _rate(limit).denominator
    return Fraction(ceil(level * parts), parts)

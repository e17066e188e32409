"""The record of one counted subject (a key or an account): plain mutable data and its encoded form."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ..clock import DAY_US
from .apis import counts, several
from .entries import Amount, Day, Hold, Lease, MeterName, Override, PlanDay, Refund, RememberedRequest
from .kept import Kept, Step
from .meter import Meter

MINUTE_US = 60_000_000
HOUR_US = 3_600_000_000
_NEVER = 2**62
_NOTHING: Mapping[tuple[str, ...], int] = {}


def minute_of(now: int) -> int:
    """Return when the minute of an instant began: the very number that was told last, as most records' are equal."""
    minute = now - now % MINUTE_US
    latest = _latest[0]
    if latest != minute:
        _latest[0] = latest = minute
    return latest


_latest = [0]


def sole(plan_day: PlanDay) -> tuple[PlanDay, ...]:
    """Return the plans of a record that has but one: the very same for all such records, mostly."""
    if len(_sole) > 1024:
        _sole.clear()
    return _sole.setdefault(plan_day, (plan_day,))


_sole: dict[PlanDay, tuple[PlanDay, ...]] = {}


class Record:
    """All windows of one subject, so that several limits stay atomic in every store.

    ``at``: the latest instant charged; time never runs backwards for a record. ``floor``: nothing before it is
    remembered, so a call from before it is refused an answer. ``token`` tells this record from one forgotten earlier.
    ``version``: of a record in memory, it moves whenever anything but a plain charge changes it, or a reservation.
    ``leases`` go by name and are replaced, never changed. ``overrides``: the subject's own limits, in place of those of
    the same names in its plans. ``last_used``: the minute of its last admission, 0 before. ``plan_days``: from which
    day on it was charged on which plan, by api. ``in_flight``: how many of the holds are open, by api and route;
    another one takes its place.
    """

    __slots__ = (
        "at", "floor", "holds", "in_flight", "last_used", "leases", "meters", "overrides", "plan_days", "refunds",
        "requests", "token", "version",
    )  # fmt: skip

    def __init__(self, token: int = 0, floor: int = 0) -> None:
        self.at = 0
        self.floor = floor
        self.token = token
        self.version = 0
        self.meters: list[Meter] = []
        self.holds: Kept[Hold] | None = None
        self.requests: Kept[RememberedRequest] | None = None
        self.refunds: Kept[Refund] | None = None
        self.leases: dict[str, Lease] | None = None
        self.overrides: tuple[Override, ...] = ()
        self.in_flight: Mapping[tuple[str, ...], int] = _NOTHING
        self.last_used = 0
        self.plan_days: tuple[PlanDay, ...] = ()

    @property
    def due(self) -> int | None:
        """No hold lapses, or is to be forgotten, before then; None where there is none."""
        return None if self.holds is None else self.holds.due

    def quiet(self, now: int) -> bool:
        """Tell whether no hold lapses, or is to be forgotten, by then."""
        return self.holds is None or self.holds.due is None or now < self.holds.due

    def meter(self, api: str, route: str, unit: str) -> Meter | None:
        for meter in self.meters:
            if meter.unit == unit and meter.route == route and meter.api == api:
                return meter
        return None

    def meters_of(self, api: str, route: str, unit: str) -> list[Meter]:
        """Return all meters that count a unit of an api: its own, and those that count it with other apis."""
        return [one for one in self.meters if one.unit == unit and one.route == route and counts(one.api, api)]

    def parts_of(self, meter: Meter) -> list[Meter]:
        """Return the meters of each api that a meter counts together."""
        alike = [one for one in self.meters if (one.route, one.unit) == (meter.route, meter.unit)]
        return [one for one in alike if not several(one.api) and counts(meter.api, one.api)]

    def encode(self) -> list[Any]:
        """Lists, tuples, strings and integers only: JSON holds it exactly. Remembered requests are kept elsewhere."""
        # Most records never have any: they pay nothing.
        leases = [self.leases or None, self.overrides] if self.overrides else [self.leases] if self.leases else []
        meters = [meter.encode() for meter in self.meters]
        rows = [row for meter in self.meters for row in meter.history()]
        holds = {hold.id: hold.encode() for hold in self.holds.all()} if self.holds else None
        refunds = {refund.name: refund.until for refund in self.refunds.all()} if self.refunds else None
        head = [self.at, self.floor, self.token, self.last_used, self.plan_days or None]
        return [*head, meters, holds, None, refunds, rows or None, *leases]

    @classmethod
    def decode(cls, data: list[Any]) -> Record:
        record = cls()
        record.at, record.floor, record.token, record.last_used, plan_days, *rest = data
        meters, holds, _, refunds, rows, *more = rest
        leases, overrides = more[0] if more else None, more[1] if len(more) > 1 else ()
        days = [Day(*row) for row in rows or ()]
        record.meters = [Meter.decode(m, [day for day in days if day.meter == tuple(m[:3])]) for m in meters]
        record.holds = Kept(Hold.decode(id_, hold) for id_, hold in holds.items()) if holds else None
        for hold in record.holds.each() if record.holds else ():
            record.in_flight = record.opened(hold.place, hold.still_open)
        record.refunds = Kept(Refund(until, name) for name, until in refunds.items()) if refunds else None
        record.leases = {name: Lease.decode(lease) for name, lease in leases.items()} if leases else None
        record.overrides = tuple(Override(*override) for override in overrides)
        record.plan_days = tuple([PlanDay(*plan_day) for plan_day in plan_days or ()])
        return record

    def copy(self) -> Record:
        """Return a record to change: what is kept by name it shares with this one; see ``changes``."""
        twin = Record(self.token, self.floor)
        twin.at, twin.version, twin.leases = self.at, self.version, self.leases
        twin.meters = [meter.copy() for meter in self.meters]
        twin.holds = None if self.holds is None else self.holds.copy()
        twin.requests = None if self.requests is None else self.requests.copy()
        twin.refunds = None if self.refunds is None else self.refunds.copy()
        twin.overrides, twin.in_flight = self.overrides, self.in_flight
        twin.last_used, twin.plan_days = self.last_used, self.plan_days
        return twin

    def written(self) -> list[Step]:
        """Return the steps, for ``at_once``, after which copies see what this one keeps by name."""
        return [step for kept in (self.holds, self.requests, self.refunds) if kept is not None for step in kept.steps()]

    def changes(self, new: Record) -> list[Step]:
        """Return the steps, for ``at_once``, that make it what its changed copy is; the rest stays as it is."""
        plain, more = new.written(), list[Step]()
        if new.token != self.token:
            more += [(setattr, self, field, getattr(new, field)) for field in ("token", "floor", "meters")]
        else:
            for meter, other in zip(self.meters, new.meters, strict=False):
                charged, changed = meter.changes(other)
                plain += charged
                more += changed
            if len(new.meters) > len(self.meters):
                more.append((setattr, self, "meters", [*self.meters, *new.meters[len(self.meters) :]]))
        for field in ("holds", "requests", "refunds", "leases"):
            plain.append((setattr, self, field, getattr(new, field) or None))
        plain += [(setattr, self, field, getattr(new, field)) for field in ("last_used", "plan_days", "in_flight")]
        if new.overrides != self.overrides:
            more.append((setattr, self, "overrides", new.overrides))
        moved = bool(more) or new.leases is not self.leases
        return [*plain, *more, (setattr, self, "at", new.at), (setattr, self, "version", self.version + moved)]

    def metered(self, api: str, route: str, unit: str, now: int) -> Meter:
        """The meter of a unit, made when there is none."""
        meter = self.meter(api, route, unit)
        if meter is None:
            meter = Meter(api, route, unit, now // DAY_US)
            if several(api):
                meter.add_up(self.parts_of(meter), now // DAY_US)
            self.meters = [*self.meters, meter]  # appending would make room for three more in every key's record
        return meter

    def turn_minute(self, now: int) -> int:
        """Note the readings at the start of the minute and the hour of ``now``, before anything is taken in them.

        Returns when the next minute starts.
        """
        minute = now - now % MINUTE_US
        if self.at < minute:
            for meter in self.meters:
                meter.minute = meter.total
            if self.at < now - now % HOUR_US:
                for meter in self.meters:
                    meter.hour = meter.total
        return minute + MINUTE_US

    def plan_of(self, api: str) -> str | None:
        """The plan that calls to an api were last charged on."""
        return next((found.plan for found in reversed(self.plan_days) if found.api == api), None)

    def plan_on(self, api: str, day: int) -> str:
        """The plan of the last charge on a day; of a day without one, that of the day before it."""
        return next((found.plan for found in reversed(self.plan_days) if found.api == api and found.day <= day), "")

    def admitted(self, api: str, plan: str, now: int, retention: int) -> None:
        """Note an admission at ``now`` on a plan, and forget on which ones it was before ``retention``."""
        self.last_used = minute_of(now)
        if self.plan_of(api) == plan:
            return
        today = now // DAY_US
        before = [found for found in self.plan_days if found.api == api and found.day < today]
        while len(before) > 1 and before[1].day <= today - retention:
            del before[0]
        others = [found for found in self.plan_days if found.api != api]
        new = PlanDay(api, today, plan)
        self.plan_days = (*others, *before, new) if others or before else sole(new)

    def stamp(self, now: int) -> None:
        """Something was taken or given at ``now``."""
        self.turn_minute(now)
        self.at = now

    def give_back(self, taken_at: int, takes: Iterable[Amount]) -> None:
        """Undo a take as though it had never been: windows that began later keep their count. Throttles keep theirs."""
        for api, route, unit, units in takes:
            for meter in self.meters_of(api, route, unit):
                meter.give_back(taken_at, units)
                if self.at - self.at % MINUTE_US > taken_at:
                    meter.minute -= units
                if self.at - self.at % HOUR_US > taken_at:
                    meter.hour -= units

    def open_until(self, taken_at: int, takes: Iterable[Amount], now: int) -> int:
        """The end of the last window that holds this take; 0 when none is left open."""
        until = 0
        for api, route, unit, _ in takes:
            for window in (window for meter in self.meters_of(api, route, unit) for window in meter.windows):
                if window.since <= taken_at and now < window.end:
                    until = max(until, window.end)
        return until

    def hold(self, hold: Hold) -> None:
        """Remember what is only held, or what became of it."""
        self.holds = self.holds or Kept()
        old = self.holds.get(hold.id)
        self.in_flight = self.opened(hold.place, hold.still_open - (old is not None and old.still_open))
        self.holds.put(hold)

    def opened(self, place: tuple[str, ...], more: int) -> Mapping[tuple[str, ...], int]:
        """Count what is in flight when so many more reservations are open than before."""
        count = self.in_flight.get(place, 0) + more
        others = {other: found for other, found in self.in_flight.items() if other != place}
        return {**others, place: count} if count else others

    def in_use(self, apis: str, route: str) -> int:
        """Count the reservations that are open: of a route, or of all where it is empty."""
        return sum([
            count for (of, *names), count in self.in_flight.items()
            if counts(apis, of) and (not route or route in names)
        ])  # fmt: skip

    def frees_at(self, apis: str, route: str, lapses: int) -> int:
        """Find the instant at which so many of the open reservations have lapsed, if none is closed."""
        holds = [hold for hold in (self.holds.each() if self.holds else ()) if hold.still_open]
        holds = [hold for hold in holds if counts(apis, hold.api)]
        return sorted(hold.until for hold in holds if not route or route in hold.place[1:])[lapses - 1]

    def held(self, id_: str) -> Hold | None:
        """Return a hold, if it is there."""
        return None if self.holds is None else self.holds.get(id_)

    def release(self, id_: str) -> Hold | None:
        """Drop a hold and return it, if it is there."""
        hold = self.held(id_)
        if hold is not None and self.holds is not None:
            self.holds.drop(id_)
            self.in_flight = self.opened(hold.place, -hold.still_open)
        return hold

    def lapse(self, now: int) -> None:
        """Give back what is held no longer, and forget the holds that lapsed a day ago."""
        if self.holds is None:
            return
        for hold in self.holds.ripe(now):
            if hold.still_open:
                self.give_back(hold.taken_at, hold.takes)
                self.in_flight = self.opened(hold.place, -1)
            if hold.still_open and hold.until + DAY_US > now:
                self.holds.put(hold.lapsed())
            else:
                self.holds.drop(hold.id)

    def remember(self, earlier: RememberedRequest, now: int) -> None:
        """Remember an admission for its retries, and forget two that were remembered long enough."""
        self.requests = self.requests or Kept()
        self.requests.forget_some(now)
        self.requests.put(earlier)

    def remembering(self, earlier: RememberedRequest, now: int) -> list[Step]:
        """Return the steps, for ``at_once``, that do the same to what is written."""
        kept = self.requests
        if kept is None:
            return [(setattr, self, "requests", Kept((earlier,)))]
        if kept.due is None or kept.due > now:
            return kept.more(earlier)
        kept = kept.copy()
        kept.forget_some(now)
        kept.put(earlier)
        return [*kept.steps(), (setattr, self, "requests", kept)]

    def remember_refund(self, name: str, until: int, now: int) -> None:
        """Remember that a decision's units were given back, and forget two that were remembered long enough."""
        self.refunds = self.refunds or Kept()
        self.refunds.forget_some(now)
        self.refunds.put(Refund(until, name))

    def refunded(self, name: str) -> bool:
        """Tell whether a decision's units were given back."""
        return self.refunds is not None and self.refunds.get(name) is not None

    def leased(self, meter: MeterName, day: int) -> int:
        """Units of an api leased on a day that were not reported as spent."""
        leases = [lease for lease in (self.leases or {}).values() if lease.taken_at // DAY_US == day]
        return sum(amount.units for lease in leases for amount in lease.takes if amount.meter == meter)

    def history(self) -> list[Day]:
        """The days of all quotas, the one that is not finished included."""
        over = [row for meter in self.meters for row in meter.history()]
        return over + [row for meter in self.meters for row in meter.unfinished()]

    def dead_after(self, retention: int, late: int = 2) -> tuple[int, int]:
        """(when nothing here matters any more: windows late, buckets empty, history told; until when it counts)."""
        if not self.at:
            return _NEVER, 0  # it was forgotten: what takes its place may be refused an answer, which it is not
        dead = self.at + retention * DAY_US
        for override in self.overrides:
            dead = max(dead, _NEVER if override.until is None else override.until)
        floor = self.at + 1
        for meter in self.meters:
            for window in meter.windows:
                dead = max(dead, window.end + late * (window.end - window.start))
                floor = max(floor, window.end)
            for bucket in meter.buckets:
                dead = max(dead, min(bucket.at - -bucket.level // bucket.drain, _NEVER))
            for throttle_ref in meter.throttle_refs:
                dead = max(
                    dead, min(self.at - -throttle_ref.burst // throttle_ref.drain, _NEVER) if throttle_ref.shared else 0
                )
        for kept in (self.holds, self.requests, self.refunds):
            dead = max(dead, kept.latest + DAY_US * (kept is self.holds)) if kept else dead
        return dead, floor

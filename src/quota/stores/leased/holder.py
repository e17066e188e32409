"""Leases of one key on one route plan, and how a process spends them: no I/O, under the caller's lock."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from typing import Any

from ...clock import to_us
from ...decision import Decision, Details, Reason, reason_of
from ...key import ApiKey, new_token
from ...limit import REQUESTS
from ...operations.leases import LeaseGrant
from ...operations.request import Request, barred
from ...plan import UsagePlan
from ...process.home import Home
from ...process.locks import Exclusive
from ...rule.charge import evaluate, metered
from ...rule.leases import LeaseRequest
from ...rule.limits import BEYOND, CompiledQuota, CompiledThrottle, Outcome, Reading, RoutePlan
from ...rule.meter import Bucket, Meter
from ...rule.record import MINUTE_US
from ...rule.replan import level_at
from ..memory.one_meter import Span
from .lane import LeasedMeter, shape_of


class HeldLease:
    """One lease at a time, under one name.

    ``number``: of the latest that the store answered for. ``used``: of that, once it is closed, and ``due`` until the
    store was told.
    ``units`` may be spent and ``spent`` counts them, from ``asked`` until ``until`` by this process's clock, when the
    store is asked again; at ``end`` a window ends. ``at``: the store's instant of the lease. ``doubt``: the store was
    asked for the next one and its answer was never seen. ``returning``: it was asked to take all back, and may yet: no
    other lease of this number may be spent before that is over.
    """

    __slots__ = (
        "asked", "at", "buckets", "digest", "doubt", "due", "end", "key", "known", "lane", "name", "number", "open",
        "plan", "readings", "returning", "route_plan", "spent", "tokens", "units", "until", "used",
    )  # fmt: skip

    def __init__(self, name: str) -> None:
        self.name = name
        self.number = 0
        self.used: dict[str, int] = {}
        self.open = self.due = False
        self.doubt = self.returning = False
        self.lane: LeasedMeter | None = None
        self.spent: dict[str, Meter | LeasedMeter] = {}
        self.units: Mapping[str, int] = {}
        self.asked = self.at = self.until = self.end = self.known = 0
        self.readings: tuple[Reading, ...] = ()
        self.buckets: dict[Any, Bucket] = {}
        self.tokens: tuple[int, ...] = (0, 0)
        self.digest: bytes | None = None
        self.key: ApiKey
        self.plan: UsagePlan
        self.route_plan: RoutePlan

    @property
    def above(self) -> tuple[str, ...] | None:
        """The accounts above the key's own that it was taken of; None before the first."""
        plan = getattr(self, "plan", None)
        return None if plan is None else plan.above

    def answered(self, number: int, *, granted: bool = False) -> None:
        """The store did what it was asked, under this number. ``granted``: a lease; until it is filled it is owed."""
        self.number, self.used = number, {}
        self.due = granted
        self.doubt = self.returning = False

    @property
    def idle(self) -> bool:
        """Tell whether nothing is held and nothing is owed to the store."""
        return not (self.open or self.due or self.doubt)

    def lease_request(self, calls: int, share: int, life: int, *, only: bool = False) -> LeaseRequest:
        """Return what to ask the store for next, telling it what was used."""
        return LeaseRequest(self.name, self.number + 1, self.used, calls, share, life, only, self.doubt, self.above)

    def fill(self, grant: LeaseGrant, request: Request, refresh: int) -> None:
        """Hold a lease that was asked for at the request's instant."""
        self.digest = request.digest
        self.plan = grant.plan  # type: ignore[assignment] # a lease has one
        self.learn(grant)
        self.route_plan = self.plan.route_plan(request.route, request.api)
        self.units, self.at, self.tokens = grant.units, grant.at, grant.tokens
        self.spent = {unit: Meter(request.api, "", unit, 0) for unit in grant.units}
        self.buckets = {}
        for limit, level, _, now in grant.readings:
            if isinstance(limit, CompiledThrottle):
                before = max(0, level - grant.units.get(limit.unit, 0) * limit.scale)
                self.buckets[limit] = Bucket(limit.name, limit.scale, limit.drain, before, now)
        self.open, self.known = True, 0
        self.due = False
        self.extend(request.now, refresh)

    def learn(self, grant: LeaseGrant) -> None:
        """Return what the store has of the lease's key and limits now."""
        self.key = grant.key  # type: ignore[assignment] # a lease has one
        # Renewed, by an equal plan: its limits stand in the same order, and buckets go by the ones of before.
        limits = [reading.limit for reading in (self.readings if self.open else grant.readings)]
        told = zip(limits, grant.readings, strict=True)
        self.readings = tuple(reading._replace(limit=limit) for limit, reading in told)
        expiries = [self.key.expires_at, *(s.expires_at for s in self.key.secrets if s.digest == self.digest)]
        self.end = min([grant.end, *(to_us(expiry) for expiry in expiries if expiry is not None)])

    def extend(self, now: int, refresh: int, *, alone: bool = False) -> None:
        """Spend until the next refresh; unless ``alone``, without the store, no longer than the lease's minute lasts.

        The record notes readings at the end of each minute, for limits that it may learn of later: what was leased
        before such a note and is spent after it would count too early.
        """
        self.asked, self.until = now, min(now + refresh, self.end)
        if not alone:
            self.until = min(self.until, self.turn)
        self.known = self.total()

    @property
    def turn(self) -> int:
        """Return when the minute of the lease is over."""
        return self.at - self.at % MINUTE_US + MINUTE_US

    def total(self) -> int:
        """Units spent, whatever their kind."""
        return sum(meter.total for meter in self.spent.values())

    def expire(self) -> None:
        """The clock was stepped back: its readings no longer tell how long ago the store was asked, so ask it again."""
        self.until = 0
        if self.lane is not None:
            self.lane.until = 0

    def close(self) -> None:
        """Spend no more of it; what was spent is told to the store with the next request."""
        if self.lane is not None:
            self.lane.until = 0
            self.lane = None
        if self.open:
            # In this order: an interrupt on the way must not leave it closed and nothing said of what was used.
            self.used = {unit: meter.total for unit, meter in self.spent.items() if meter.total}
            self.due = True
            self.open = False

    def covers(self, request: Request) -> bool:
        """Tell whether enough is left for a call."""
        takes = self.route_plan.cost if request.takes is None else request.takes
        return all(
            unit in self.units and self.spent[unit].total + units <= self.units[unit]
            for unit, units in takes.items() if units
        )  # fmt: skip

    def spend(self, request: Request) -> Decision | None:
        """Take a call's units, or for a ``peek`` tell what that would answer; None where the store must be asked."""
        if not self.open or not self.asked <= request.now < self.until or not self.covers(request):
            return None
        if barred(self.key, request.address, request.scope):
            return None
        takes = self.route_plan.cost if request.takes is None else request.takes
        now = max(request.now, self.at)
        dry = request.op == "peek"
        readings: list[Reading] = []
        for limit, reading, extra, end in self.readings:
            units = takes.get(limit.unit, 0)
            if isinstance(limit, CompiledQuota):
                left = self.units[limit.unit] - self.spent[limit.unit].total if limit.unit in self.units else 0
                readings.append(Reading(limit, reading - left + units, extra, end))
            elif isinstance(limit, CompiledThrottle):
                bucket = self.buckets[limit]
                level = level_at(bucket, now) + units * limit.scale
                readings.append(Reading(limit, level, 0, now))
                if not dry:
                    bucket.level, bucket.at = level, now
        outcome = evaluate(readings, {}, now)
        details = Details(Reason.OK, None, self.key, self.plan, takes, outcome, route=self.route_plan.told)
        if dry:
            return Decision(details)
        for unit, units in takes.items():
            if units:
                self.spent[unit].total += units
        # In the name of the lease's own instant: there the record counted these units, and a refund finds them.
        details.metered, details.tokens = ((self.at, metered(self.route_plan, takes)),), self.tokens
        details.above = self.plan.above
        return Decision(details)

    def open_lane(
        self, rooms: MutableMapping[bytes | str, LeasedMeter], ref: bytes | str, lock: Any, home: Home
    ) -> None:
        """Let the ledger spend by its fast path: plain requests on one route plan, within the minute of the lease."""
        limits = [reading.limit for reading in self.readings]
        throttles = [limit for limit in limits if isinstance(limit, CompiledThrottle)]
        if len(throttles) > 1 or list(self.units) != [REQUESTS] or any(limit.unit != REQUESTS for limit in limits):
            return
        if (
            self.key.networks
            or self.route_plan.api
            or self.route_plan.cost != {REQUESTS: 1}
            or self.route_plan.routed
            or self.asked >= self.turn
        ):
            return
        units = self.units[REQUESTS]
        lane = LeasedMeter(lock)
        lane.key, lane.tokens = self.key, self.tokens
        lane.at, lane.total = self.at, self.spent[REQUESTS].total
        lane.soft = units
        lane.until = min(self.until, self.turn)
        for limit in throttles:
            lane.bucket = self.buckets[limit]
        throttle = throttles[0].changed(burst=BEYOND) if throttles else None
        lane.shape = shape_of(home, self.plan, self.route_plan, throttle)
        places = tuple(
            (limit, 1, 0, 0) if isinstance(limit, CompiledThrottle) else (limit, 0, extra, end)
            for limit, _, extra, end in self.readings
        )
        bases = tuple(0 if isinstance(limit, CompiledThrottle) else units - used for limit, used, _, _ in self.readings)
        lane.span = Span(BEYOND, self.end, places, bases)
        self.lane = self.spent[REQUESTS] = rooms[ref] = lane


class CachedRefusal:
    """A quota's refusal, good until the next refresh: the store said that nothing is left, or only out on lease."""

    __slots__ = ("asked", "epoch", "grant", "route_plan", "until")

    def __init__(self, grant: LeaseGrant, request: Request, refresh: int, epoch: int) -> None:
        self.grant = grant
        self.asked = request.now
        self.epoch = epoch
        self.route_plan = grant.plan.route_plan(request.route, request.api)  # type: ignore[union-attr] # a quota refused
        self.until = min(request.now + refresh, grant.end)

    def answer(self, request: Request) -> Decision | None:
        """The refusal of another call; None where the store must be asked."""
        grant = self.grant
        if not max(self.asked, grant.at) <= request.now < self.until:
            return None
        if grant.key is None or barred(grant.key, request.address, request.scope):
            return None
        takes = self.route_plan.cost if request.takes is None else request.takes
        readings: list[Reading] = [
            reading if not isinstance(limit := reading.limit, CompiledThrottle)
            else Reading(limit, max(0, reading.used - limit.drain * (request.now - grant.at)), 0, request.now)
            for reading in grant.readings
        ]  # fmt: skip
        outcome = evaluate(readings, takes, request.now)
        if outcome.allowed or reason_of(outcome) is Reason.THROTTLED:
            return None
        route = self.route_plan.told
        decision = Decision(Details(reason_of(outcome), None, grant.key, grant.plan, takes, outcome, route=route))
        return sooner(decision, self.until) if grant.waiting else decision


def sooner(decision: Decision, until: int) -> Decision:
    """A refusal that is not final: units are out on lease and may come back by the next refresh."""
    details = decision._details()
    outcome = details.outcome
    if outcome.retry_at is None or outcome.retry_at <= until:
        return decision
    sooner = Outcome(False, outcome.now, outcome.states, outcome.crossed, until, outcome.too_large)  # noqa: FBT003
    return Decision(details.changed(outcome=sooner))


class LeaseHolder:
    """One presented secret (or key) on one route plan with one set of units: two leases, so that one is filled ahead.

    ``rest`` guards what is spent. ``gate`` is held by whoever asks the store on behalf of the lease holder. ``calls``:
    how many calls the next lease should cover; 0 while the key is used too seldom. ``last``: when the store was asked.
    ``failed``: when it could not be filled ahead. ``patience``: after how many calls to lease request for a lease
    again, as the last was not worth it; ``waited``: so far. ``overtaken``: a change was made while the store was asked,
    so that a lease that comes of it is not for spending.
    """

    __slots__ = (
        "accounts", "api", "calls", "failed", "gate", "key_id", "last", "lease", "next_lease", "overtaken",
        "patience", "ref", "refused", "stripe", "waited",
    )  # fmt: skip

    def __init__(self, ref: bytes | str, api: str, gate: Any) -> None:
        self.ref = ref
        self.api = api
        self.gate = gate
        self.stripe = Exclusive()
        token = new_token()
        self.lease, self.next_lease = HeldLease(token + "a"), HeldLease(token + "b")
        self.calls = 0
        self.last: int | None = None
        self.failed: int | None = None
        self.refused: CachedRefusal | None = None
        self.patience = self.waited = 0
        self.overtaken = False
        self.key_id = ""
        self.accounts: tuple[str, ...] = ()

    @property
    def asked(self) -> int:
        """Return when it was last filled or renewed."""
        return max(self.lease.asked, self.next_lease.asked)

    @property
    def idle(self) -> bool:
        """Tell whether nothing is held and nothing is owed to the store."""
        return self.lease.idle and self.next_lease.idle

    def answer(self, request: Request, epoch: int) -> Decision | None:
        """Decide here, if that can be done; the caller has the lease holder at rest."""
        for lease in (self.lease, self.next_lease):
            if request.now < lease.asked:
                lease.expire()
        decision = self.lease.spend(request)
        if decision is None and self.next_lease.open:
            decision = self.next_lease.spend(request)
            if decision is not None and request.op == "consume":
                self.lease.close()
                self.lease, self.next_lease = self.next_lease, self.lease
        if decision is None and self.refused is not None:
            refused = self.refused
            decision = refused.answer(request) if refused.epoch == epoch else None
        return decision

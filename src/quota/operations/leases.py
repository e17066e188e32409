"""Requests of a leased store to the store that it wraps: pure steps on the record, as ``operations`` has the others."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import attrs

from ..decision import Decision, Reason
from ..key import KeyOrCaller
from ..plan import UsagePlan
from ..rule.charge import advanced, charge, read
from ..rule.leases import _others, affordable, close_name, first_end, give_back, granted, held, remember, revive
from ..rule.limits import CompiledQuota, Reading, RoutePlan, StoreOptions
from ..rule.subject import Subject
from .consume import consume
from .request import Entry, Request, advance, check_units, tokens_of, usable


def lease_(request: Request, entry: Entry | None, subject: Subject | None, options: StoreOptions) -> LeaseGrant:
    """Settle the lease request's lease before, and lease anew; charge this call by itself where that is not worth it.

    ``args``: a ``LeaseRequest``. The call itself is not charged where units are leased: its process spends them.
    """
    (lease_request,) = request.args
    plan = entry.plans.get(request.api) if entry else None
    if entry is None or subject is None or plan is None or usable(request, entry) is not Reason.OK:
        return LeaseGrant(consume(request, entry, subject, options), kept=True)
    now, route_plan = subject.instant(request.now, options), plan.route_plan(request.route, request.api)
    takes = route_plan.cost if request.takes is None else request.takes
    check_units(subject, request.api, route_plan, takes)
    lease = held(subject, lease_request.name)
    if lease is not None and lease.takes and lease_request.above not in (None, entry.above):
        return LeaseGrant(elsewhere=True)
    if lease is not None and lease.number >= lease_request.number:
        units = (
            granted(advanced(subject, route_plan, now, options), lease, route_plan, now)
            if lease.number == lease_request.number
            else None
        )
        # A lease that is not handed out again is given back by its next lease request; whether this one is late, nobody
        # can tell.
        return _leased(subject, route_plan, units, lease.taken_at, now, options, entry, plan) if units else LeaseGrant()
    if lease is not None:
        advance(request, entry, subject, options)
        give_back(subject, lease_request, now, last=False)
    units = affordable(advanced(subject, route_plan, now, options), route_plan, takes, lease_request, now)
    if units is not None and charge(subject, route_plan, units, now, options, dry=False).allowed:
        remember(subject, lease_request, route_plan, units, now, options)
        subject.key.admitted(request.api, plan.id, now, options.retention)
        return _leased(subject, route_plan, units, now, now, options, entry, plan)
    if lease is None and lease_request.again:
        close_name(subject, lease_request, now, last=False)
    if lease_request.only:
        return LeaseGrant()
    decision = consume(request.changed(op="consume"), entry, subject, options)
    return _told(decision, subject, route_plan, now, options, entry)


def _end(entry: Entry, work: Subject, readings: tuple[Reading, ...]) -> int:
    """Return when a lease is over at the latest: a window ends, or the key or an account goes to another plan."""
    return min([first_end(work, readings), *(at for _, at in entry.changes)])


def _leased(
    subject: Subject, route_plan: RoutePlan, units: Mapping[str, int], at: int, now: int, options: StoreOptions,
    entry: Entry, plan: UsagePlan,
) -> LeaseGrant:  # fmt: skip
    """A lease, and where the limits stand with it."""
    work = advanced(subject, route_plan, now, options)
    readings = tuple(read(work, route_plan, now))
    end = _end(entry, work, readings)
    return LeaseGrant(None, units, at, end, readings, tokens_of(subject), entry.key, plan)


def _told(
    decision: Decision, subject: Subject, route_plan: RoutePlan, now: int, options: StoreOptions, entry: Entry
) -> LeaseGrant:
    """A decision on its own; of a refusal, also where the limits stand and whether leases may bring more.

    Not of a plan that limits calls in flight: one may end at any time, and nothing of it is on lease.
    """
    if decision.allowed or route_plan.slotted:
        return LeaseGrant(decision)
    work = advanced(subject, route_plan, now, options)
    readings = tuple(read(work, route_plan, now))
    details = decision._details()
    return LeaseGrant(
        decision, {}, now, _end(entry, work, readings), readings, tokens_of(subject), details.key, details.plan,
        waiting(subject, decision, now),
    )  # fmt: skip


def look(request: Request, entry: Entry | None, subject: Subject | None, options: StoreOptions) -> LeaseGrant:
    """``peek`` for a process that leases: of a refusal, also whether leases may bring more."""
    decision = consume(request.changed(op="peek"), entry, subject, options)
    plan = entry.plans.get(request.api) if entry else None
    if entry is None or subject is None or plan is None or usable(request, entry) is not Reason.OK:
        return LeaseGrant(decision)
    now = subject.instant(request.now, options)
    return _told(decision, subject, plan.route_plan(request.route, request.api), now, options, entry)


def renew(request: Request, entry: Entry | None, subject: Subject | None, options: StoreOptions) -> LeaseGrant | None:
    """The lease request's lease as it stands now, to be spent on; None where it, or the key, is not good."""
    (lease_request,) = request.args
    if entry is None or subject is None or usable(request, entry) is not Reason.OK:
        return None
    lease, plan = held(subject, lease_request.name), entry.plans.get(request.api)
    if plan is None or lease is None or lease.number != lease_request.number or not lease.takes:
        return None
    if lease_request.above not in (None, entry.above):
        return None
    now = subject.instant(request.now, options)
    route_plan = plan.route_plan(request.route, request.api)
    units = granted(advanced(subject, route_plan, now, options), lease, route_plan, now)
    if units is None:
        return None
    renewed = _leased(subject, route_plan, units, lease.taken_at, now, options, entry, plan)
    if lease.lively < now + lease_request.life // 2:
        revive(subject, lease_request, now)
    return renewed


def return_(request: Request, entry: Entry | None, subject: Subject | None, options: StoreOptions) -> None:
    """Give back what is left of a lease; no other follows under its name. ``args``: a ``LeaseRequest``."""
    (lease_request,) = request.args
    if entry is None or subject is None:
        return
    now = subject.instant(request.now, options)
    if held(subject, lease_request.name) is not None:
        advance(request, entry, subject, options)
        give_back(subject, lease_request, now, last=True)
    elif lease_request.again:
        close_name(subject, lease_request, now, last=True)


OPERATIONS: Mapping[str, Callable[[Request, Entry | None, Subject | None, StoreOptions], Any]] = MappingProxyType(
    {"lease": lease_, "look": look, "renew": renew, "return": return_}
)


@attrs.frozen
class LeaseGrant:
    """The store's answer: a ``decision`` where the call was charged by itself or refused, or else a lease.

    ``units`` were taken at ``at``, for windows of which the first ends at ``end``; ``readings`` tell where the limits
    stand, the lease included. ``waiting``: of a quota that refused, units are still out on lease. ``kept``: the key may
    not be used, and the lease request's lease before was not settled. ``elsewhere``: nor was it, as it was taken of
    other accounts than those above the key now.
    """

    decision: Decision | None = None
    units: Mapping[str, int] = attrs.field(factory=dict)
    at: int = 0
    end: int = 0
    readings: tuple[Reading, ...] = ()
    tokens: tuple[int, ...] = (0, 0)
    key: KeyOrCaller | None = None
    plan: UsagePlan | None = None
    waiting: bool = False
    kept: bool = False
    elsewhere: bool = False


def waiting(subject: Subject, decision: Decision, now: int) -> bool:
    """Tell whether each quota that refused has units out on leases, which may still come back."""
    refusing = [state.limit for state in decision._details().outcome.states if state.refused]
    quotas = [limit for limit in refusing if isinstance(limit, CompiledQuota)]
    return bool(quotas) and all(
        _others(subject.record_of(limit), (limit.apis, limit.route, limit.unit), " ", now)[1] > 0 for limit in quotas
    )

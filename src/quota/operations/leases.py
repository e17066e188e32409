"""Requests of a leased store to the store that it wraps: pure steps on the record, as ``operations`` has the others."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import attrs

from ..decision import Decision, Reason
from ..key import Subject
from ..plan import UsagePlan
from ..rule.charge import charge, read, settled
from ..rule.leases import _others, affordable, close_name, first_end, give_back, granted, held, remember, revive
from ..rule.limits import Course, QuotaLine, Reading, Terms
from ..rule.party import Party
from .consume import consume
from .request import Entry, Request, check_units, settle, tokens_of, usable


def lease_(request: Request, entry: Entry | None, party: Party | None, terms: Terms) -> Leased:
    """Settle the bid's lease before, and lease anew; charge this call by itself where that is not worth it.

    ``args``: a ``Bid``. The call itself is not charged where units are leased: its process spends them.
    """
    (bid,) = request.args
    plan = entry.plans.get(request.api) if entry else None
    if entry is None or party is None or plan is None or usable(request, entry) is not Reason.OK:
        return Leased(consume(request, entry, party, terms), kept=True)
    now, course = party.instant(request.now, terms), plan.course(request.route)
    takes = course.cost if request.takes is None else request.takes
    check_units(party, request.api, course, takes)
    lease = held(party, bid.name)
    if lease is not None and lease.number >= bid.number:
        units = granted(settled(party, course, now, terms), lease, course, now) if lease.number == bid.number else None
        # A lease that is not handed out again is given back by its next bid; whether this one is late, nobody can tell.
        return _leased(party, course, units, lease.taken_at, now, terms, entry.key, plan) if units else Leased()
    if lease is not None:
        settle(request, entry, party, terms)
        give_back(party, bid, now, last=False)
    units = affordable(settled(party, course, now, terms), course, takes, bid, now)
    if units is not None and charge(party, course, units, now, terms, dry=False).allowed:
        remember(party, bid, course, units, now, terms)
        return _leased(party, course, units, now, now, terms, entry.key, plan)
    if lease is None and bid.again:
        close_name(party, bid, now, last=False)
    if bid.only:
        return Leased()
    decision = consume(attrs.evolve(request, op="consume"), entry, party, terms)
    return _told(decision, party, course, now, terms)


def _leased(
    party: Party, course: Course, units: Mapping[str, int], at: int, now: int, terms: Terms, key: Subject,
    plan: UsagePlan,
) -> Leased:  # fmt: skip
    """A lease, and where the limits stand with it."""
    work = settled(party, course, now, terms)
    readings = tuple(read(work, course, now))
    return Leased(None, units, at, first_end(work, readings), readings, tokens_of(party), key, plan)


def _told(decision: Decision, party: Party, course: Course, now: int, terms: Terms) -> Leased:
    """A decision on its own; of a refusal, also where the limits stand and whether leases may bring more."""
    if decision.allowed:
        return Leased(decision)
    work = settled(party, course, now, terms)
    readings = tuple(read(work, course, now))
    details = decision._details()
    return Leased(
        decision, {}, now, first_end(work, readings), readings, tokens_of(party), details.key, details.plan,
        waiting(party, decision, course, now),
    )  # fmt: skip


def look(request: Request, entry: Entry | None, party: Party | None, terms: Terms) -> Leased:
    """``peek`` for a process that leases: of a refusal, also whether leases may bring more."""
    decision = consume(attrs.evolve(request, op="peek"), entry, party, terms)
    plan = entry.plans.get(request.api) if entry else None
    if party is None or plan is None or usable(request, entry) is not Reason.OK:
        return Leased(decision)
    return _told(decision, party, plan.course(request.route), party.instant(request.now, terms), terms)


def renew(request: Request, entry: Entry | None, party: Party | None, terms: Terms) -> Leased | None:
    """The bid's lease as it stands now, to be spent on; None where it, or the key, is not good."""
    (bid,) = request.args
    if entry is None or party is None or usable(request, entry) is not Reason.OK:
        return None
    lease, plan = held(party, bid.name), entry.plans.get(request.api)
    if plan is None or lease is None or lease.number != bid.number or not lease.takes:
        return None
    now = party.instant(request.now, terms)
    course = plan.course(request.route)
    units = granted(settled(party, course, now, terms), lease, course, now)
    if units is None:
        return None
    renewed = _leased(party, course, units, lease.taken_at, now, terms, entry.key, plan)
    if lease.lively < now + bid.life // 2:
        revive(party, bid, now)
    return renewed


def return_(request: Request, entry: Entry | None, party: Party | None, terms: Terms) -> None:
    """Give back what is left of a lease; no other follows under its name. ``args``: a ``Bid``."""
    (bid,) = request.args
    if entry is None or party is None:
        return
    now = party.instant(request.now, terms)
    if held(party, bid.name) is not None:
        settle(request, entry, party, terms)
        give_back(party, bid, now, last=True)
    elif bid.again:
        close_name(party, bid, now, last=True)


OPERATIONS: Mapping[str, Callable[[Request, Entry | None, Party | None, Terms], Any]] = MappingProxyType(
    {"lease": lease_, "look": look, "renew": renew, "return": return_}
)


@attrs.frozen
class Leased:
    """The store's answer: a ``decision`` where the call was charged by itself or refused, or else a lease.

    ``units`` were taken at ``at``, for windows of which the first ends at ``end``; ``readings`` tell where the limits
    stand, the lease included. ``waiting``: of a quota that refused, units are still out on lease. ``kept``: the key may
    not be used, and the bid's lease before was not settled.
    """

    decision: Decision | None = None
    units: Mapping[str, int] = attrs.field(factory=dict)
    at: int = 0
    end: int = 0
    readings: tuple[Reading, ...] = ()
    tokens: tuple[int, int] = (0, 0)
    key: Subject | None = None
    plan: UsagePlan | None = None
    waiting: bool = False
    kept: bool = False


def waiting(party: Party, decision: Decision, course: Course, now: int) -> bool:
    """Tell whether each quota that refused has units out on leases, which may still come back."""
    refusing = [standing.line for standing in decision._details().verdict.standings if standing.refused]
    quotas = [line for line in refusing if isinstance(line, QuotaLine)]
    return bool(quotas) and all(
        _others(party.holder(line), (course.api, line.route, line.unit), " ", now)[1] > 0 for line in quotas
    )

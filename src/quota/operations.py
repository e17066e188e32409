"""What each request does to a key's entry and records: pure steps that every store runs inside its own atomic block.

A store loads the entry and the records, calls ``perform``, and keeps the records when ``party.changed``. Nothing here
waits, reads a clock or knows an engine.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from .bounds import check_holds, check_units
from .charge import (
    MAX_UNITS,
    Course,
    Party,
    QuotaLine,
    Standing,
    Terms,
    Verdict,
    add,
    charge,
    mark,
    metered,
)
from .clock import DAY_US, to_us
from .decision import Decision, Details, LimitStatus, Reason, reason_of, refusal, status_of
from .errors import InvalidCost, InvalidValue, ReservationClosed, UnknownKey
from .history import UsageRecord, by_day
from .key import new_number, new_token
from .memos import remember, replay
from .record import Meter, Record, Slot
from .store import Entry, Request


def perform(request: Request, entry: Entry | None, party: Party | None, terms: Terms) -> Any:
    """Do what ``request.op`` says; ``entry`` and ``party`` are None when no key was found.

    Raises:
        ClockSkew, RequestMismatch, ReservationClosed, UnknownKey, InvalidValue: nothing changed then.
    """
    operation = _OPERATIONS.get(request.op)
    if operation is None:
        from .lease_operations import OPERATIONS  # noqa: PLC0415 -- loaded where something is leased

        operation = OPERATIONS[request.op]
    return operation(request, entry, party, terms)


def usable(request: Request, entry: Entry | None) -> Reason:
    """Whether the key that a call presents may be used at all: OK, or the reason why not."""
    if entry is None:
        return Reason.UNKNOWN_KEY
    key = entry.key
    if not key.enabled:
        return Reason.DISABLED_KEY
    if key.expires_at is not None and to_us(key.expires_at) <= request.now:
        return Reason.EXPIRED_KEY
    if request.digest is not None:
        for secret in key.secrets:
            if secret.digest == request.digest:
                expired = secret.expires_at is not None and to_us(secret.expires_at) <= request.now
                return Reason.EXPIRED_KEY if expired else Reason.OK
        return Reason.UNKNOWN_KEY
    return Reason.OK


def _consume(request: Request, entry: Entry | None, party: Party | None, terms: Terms) -> Decision:
    """consume, peek and reserve: one rule, one path."""
    reason = usable(request, entry)
    if reason is not Reason.OK or entry is None or party is None:
        return refusal(reason, request.now, request.takes or {"requests": 1}, entry.key if entry else None)
    memo = (party.key.requests or {}).get(request.request_id) if request.request_id is not None else None
    if memo is not None and memo[0] > request.now:
        return replay(request, memo, entry, party)
    plan = entry.plans.get(request.api)
    if plan is None:
        return refusal(Reason.NO_PLAN, request.now, request.takes or {"requests": 1}, entry.key)
    course = plan.course(request.route)
    takes = course.cost if request.takes is None else request.takes
    if request.takes is not None:  # the plan's own units are as many as it names
        check_units(party, request.api, course, takes)
    if request.op == "reserve":
        check_holds(party, request.now)
    verdict = charge(party, course, takes, request.now, terms, dry=request.op == "peek")
    if not verdict.allowed or request.op == "peek":
        return Decision(Details(reason_of(verdict), None, entry.key, plan, takes, verdict))
    groups: tuple[tuple[int, Any], ...] = ((verdict.now, metered(course, takes)),)
    if request.op == "reserve":
        for record in party.records():
            record.hold(request.id, verdict.now + request.ttl, verdict.now, metered(course, takes))
        groups = ()
    details = Details(
        reason_of(verdict), None, entry.key, plan, takes, verdict, groups, _tokens(party), hold=request.id
    )
    if request.request_id is not None:
        details.id = new_token()
        remember(request, details, party.key, verdict.now + terms.request_ttl)
    return Decision(details)


def _tokens(party: Party) -> tuple[int, int]:
    return party.key.token, party.account.token if party.account else 0


def _found(request: Request, entry: Entry | None, party: Party | None) -> tuple[Entry, Party]:
    if entry is None or party is None:
        raise UnknownKey(request.key_id or "?")
    return entry, party


def _course(entry: Entry, request: Request) -> Course | None:
    plan = entry.plans.get(request.api)
    return plan.course(request.route) if plan else None


def _settle(request: Request, entry: Entry, party: Party, terms: Terms) -> tuple[Course | None, int]:
    """Bring the party to the request's instant, for good."""
    course = _course(entry, request)
    now = party.instant(request.now, terms)
    party.keep(party.settled(course, now, terms), now)
    return course, now


def _commit(request: Request, entry: Entry | None, party: Party | None, terms: Terms) -> Decision:
    """Turn a hold into what was used: less goes back to its windows, more is recorded all the same."""
    entry, party = _found(request, entry, party)
    if request.id not in (party.key.holds or {}):
        raise ReservationClosed(request.id)
    check_units(party, request.api, _course(entry, request), request.takes or {}, "actual")
    course, now = _settle(request, entry, party, terms)
    groups: list[tuple[int, list[Any]]] = []
    held: dict[str, int] = {}
    actual: Mapping[str, int] = {}
    counted: dict[str, int] = {}
    takes: list[list[Any]] = []
    for record in party.records():
        # An account may have dropped a hold that lapsed before its key did: what was used is recorded all the same.
        _, taken_at, still_open, takes = record.release(request.id) or [0, now, False, takes]
        held = {unit: units for _, route, unit, units in takes if not route}
        actual = held if request.takes is None else request.takes
        kept, more = [], []
        for api, route in dict.fromkeys((api, route) for api, route, _, _ in takes):
            for unit in {**held, **actual}:
                units, had = actual.get(unit, 0), held.get(unit, 0) if still_open else 0
                if units < had:
                    record.give_back(taken_at, [[api, route, unit, had - units]])
                if min(units, had):
                    kept.append([api, route, unit, min(units, had)])
                if units > had:
                    more.append([api, route, unit, units - had])
                    counted[unit] = units - had
        groups = groups or [(at, part) for at, part in ((taken_at, kept), (now, more)) if part]
        add(record, more, now)
    poured = {unit: units - held.get(unit, 0) for unit, units in actual.items() if units > held.get(unit, 0)}
    verdict = mark(party, course, counted, poured, now) if course else Verdict(allowed=True, now=now, standings=())
    plan = entry.plans.get(request.api)
    return Decision(
        Details(Reason.OK, new_token(), entry.key, plan, actual, verdict, tuple(groups), tokens=_tokens(party))
    )


def _cancel(request: Request, entry: Entry | None, party: Party | None, terms: Terms) -> None:
    """Give a hold back. One that lapsed gave itself back already."""
    entry, party = _found(request, entry, party)
    if request.id not in (party.key.holds or {}):
        raise ReservationClosed(request.id)
    _settle(request, entry, party, terms)
    for record in party.records():
        found = record.release(request.id)
        if found is not None and found[2]:
            record.give_back(found[1], found[3])
    memo = (party.key.requests or {}).get(request.request_id or "")
    if memo is not None and memo[3] == request.id:
        party.key.refunds = {**(party.key.refunds or {}), memo[2]: memo[0]}


def _refund(request: Request, entry: Entry | None, party: Party | None, terms: Terms) -> int:
    """Give units back to the windows they came from, once. ``args``: groups, tokens. How many were given back."""
    entry, party = _found(request, entry, party)
    groups, tokens = request.args
    now = party.instant(request.now, terms)
    if party.key.token != tokens[0] or request.id in (party.key.refunds or {}):
        return 0
    _settle(request, entry, party, terms)
    wanted = None if request.takes is None else dict(request.takes)
    until = given = 0
    for at, takes in reversed(groups):
        part = [[api, route, unit, units if wanted is None else min(units, wanted[unit])]
                for api, route, unit, units in takes if wanted is None or wanted.get(unit)]  # fmt: skip
        together = [row for other, rows in groups if other == at for row in rows]
        records = [record for record in party.records() if record.token in tokens]
        open_for = [(record, record.open_until(at, together, now)) for record in records]
        if not any(end for _, end in open_for):
            continue
        for record, end in open_for:
            until = max(until, end)
            record.give_back(at, part)
        for _, route, unit, units in part:
            if not route:
                given += units
                if wanted is not None:
                    wanted[unit] -= units
    if given:
        refunds = party.key.refunds = party.key.refunds or {}
        refunds[request.id] = max(until, now + max(terms.retention * DAY_US, terms.request_ttl))
        party.key.version += 1
    return given


def _adjust(request: Request, entry: Entry | None, party: Party | None, terms: Terms) -> LimitStatus:
    """grant and set_remaining, this window only. ``args``: the limit's name, units."""
    entry, party = _found(request, entry, party)
    name, units = request.args
    course = _course(entry, request)
    line = find_quota(course, name, request.route)
    _settle(request, entry, party, terms)
    record = party.holder(line)
    meter: Meter = record.meter(request.api, line.route, line.unit)  # type: ignore[assignment] # settled
    slot: Slot = meter.slot(line.name)  # type: ignore[assignment] # settled
    extra = slot.extra + units if request.op == "grant" else units + meter.total - slot.base - line.limit
    if not -MAX_UNITS <= extra <= MAX_UNITS - line.limit - line.overage:
        raise InvalidCost("units", units, f"so many that limit, overage and grants stay below {MAX_UNITS}")
    slot.extra = extra
    slot.limit = line.limit
    record.version += 1
    return status_of(Standing(line, meter.total - slot.base, slot.extra, slot.end))


def find_quota(course: Course | None, name: str, route: str | None) -> QuotaLine:
    """The quota of a name; on a route, the route's own before the plan's."""
    quotas = [line for line in course.lines if isinstance(line, QuotaLine)] if course else []
    for wanted in (f"{route} {name}", name) if route else (name,):
        for line in quotas:
            if line.name == wanted:
                return line
    raise InvalidValue("limit", name, f"a quota of the key's plan: {', '.join(line.name for line in quotas) or 'none'}")


def _outlive(old: Record, now: int, terms: Terms) -> Record:
    """A record that begins anew, but for what is out on lease: it may be spent yet, so it stays counted.

    Not what a wild clock leased, further ahead than any other process may be.
    """
    fresh = Record(new_number())
    latest = now + terms.max_skew
    leases = {name: lease for name, lease in (old.leases or {}).items() if lease[0] and lease[3] <= latest}
    for name, (number, until, lively, _, takes) in leases.items():
        left = [] if until and until <= now else takes  # of windows that are not over
        if left:
            add(fresh, left, now)
        # As though it were leased now: that is when these units are counted, and what is not spent of them goes back.
        leases[name] = [number, until, lively, now, left]
    fresh.leases = leases or None
    return fresh


def _forget(request: Request, entry: Entry | None, party: Party | None, terms: Terms) -> None:
    """Drop a key's counts, and its account's where they lie in the future: the repair after a wild clock."""
    _, party = _found(request, entry, party)
    party.note(whole=False)
    party.key.become(_outlive(party.key, request.now, terms))
    if party.account is not None and request.now < party.account.at - terms.max_skew:
        party.account.become(Record(new_number()))
    party.changed = True


def _usage(request: Request, entry: Entry | None, party: Party | None, terms: Terms) -> list[UsageRecord]:
    """The quotas of an api by UTC day. ``args``: the first and the last, in days since the epoch."""
    entry, party = _found(request, entry, party)
    first, last = request.args
    now = party.instant(request.now, terms)
    course = _course(entry, request)
    work = party.settled(course, now, terms)
    return by_day(work, entry.plans.get(request.api), course, request.api, now, first, last)


_OPERATIONS: Mapping[str, Callable[[Request, Entry | None, Party | None, Terms], Any]] = MappingProxyType(
    {
        "consume": _consume,
        "peek": _consume,
        "reserve": _consume,
        "commit": _commit,
        "cancel": _cancel,
        "refund": _refund,
        "grant": _adjust,
        "set_remaining": _adjust,
        "forget": _forget,
        "usage": _usage,
    }
)

"""A request, the key that it is about, and what the operations share."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from ..account import Account
from ..clock import to_us
from ..decision import Decision, Reason
from ..errors import InvalidCost, InvalidValue, UnknownAccount, UnknownKey
from ..key import Caller, KeyOrCaller, Secret
from ..limit import UNITS_OF_A_COST
from ..networks import contain
from ..plan import UsagePlan
from ..rule.charge import advanced
from ..rule.entries import Override
from ..rule.limits import Data, RoutePlan, StoreOptions
from ..rule.subject import Subject

INFO = 20
"""The level of what tells of refusals."""

LOOKS = ("peek", "reservations", "status", "usage", "plans")
"""Operations that change nothing."""


def usable(request: Request, entry: Entry | None) -> Reason:
    """Tell whether the key that a call presents may be used at all: OK, or the reason why not."""
    if entry is None:
        return Reason.UNKNOWN_KEY if request.caller is None else Reason.NO_PLAN
    key = entry.key
    if not key.enabled:
        return Reason.DISABLED_KEY
    if key.expires_at is not None and to_us(key.expires_at) <= request.now:
        return Reason.EXPIRED_KEY
    if request.digest is not None:
        for secret in key.secrets:
            if secret.digest == request.digest:
                if secret.expires_at is not None and to_us(secret.expires_at) <= request.now:
                    return Reason.EXPIRED_KEY
                break
        else:
            return Reason.UNKNOWN_KEY
    return barred(key, request.address, request.scope) or Reason.OK


def barred(key: KeyOrCaller, address: str | None, scope: str | None) -> Reason | None:
    """Return why a key may not be used from an address or for a scope; None where it may."""
    if key.networks and not contain(key.networks, address):
        return Reason.ADDRESS_NOT_ALLOWED
    if scope is not None and scope not in key.scopes:
        return Reason.SCOPE_NOT_ALLOWED
    return None


wants: list[Mapping[int, bool]] = [{}]
"""Answers of the logger of refusals, by level: False where it is off. Nothing until ``logging`` is loaded."""


def refused(decision: Decision, api: str, route: str | None) -> Decision:
    """Return a refusal, of which the logger ``quota.decisions`` is told where it is enabled."""
    logging: Any = sys.modules.get("logging")
    if hasattr(logging, "getLogger") and wants[0].get(INFO) is not False:
        log = logging.getLogger(f"{__package__.rpartition('.')[0]}.decisions")
        wants[0] = getattr(log, "_cache", wants[0])  # where it looks itself, in a quarter of its time
        if log.isEnabledFor(INFO):
            from ..refusals import tell  # noqa: PLC0415 -- most programs explain nothing

            tell(decision, api, route)
    return decision


def answered(request: Request, decision: Decision) -> Decision:
    """Return the answer to a call; a refusal is told of, but for a look."""
    return decision if decision.allowed or request.op == "peek" else refused(decision, request.api, request.route)


def forgetful(options: StoreOptions) -> StoreOptions:
    """A store's terms for callers, of whom nothing is kept once their windows are over."""
    return options._replace(retention=0, late=0)


def terms_of(subject: KeyOrCaller, options: StoreOptions) -> StoreOptions:
    """A store's terms for a key or a caller."""
    return forgetful(options) if type(subject) is Caller else options


def tokens_of(subject: Subject) -> tuple[int, ...]:
    """Name the records that a call counts on: the key's, the account's or 0, and those of accounts above."""
    above = [record.token for record in subject.above]
    return subject.key.token, subject.account.token if subject.account else 0, *above


def reservation_id(token: str, key: KeyOrCaller) -> str:
    """Name a reservation so that it says whose it is."""
    return f"{token}.{key.id}"


def required(request: Request, entry: Entry | None, subject: Subject | None) -> tuple[Entry, Subject]:
    """Return the entry and the records of a key that must be there, else raise ``UnknownKey``."""
    if entry is None or subject is None:
        raise UnknownKey(request.key_id or "?") if request.account is None else UnknownAccount(request.account)
    return entry, subject


def settled(entry: Entry, now: int) -> Entry:
    """Return the entry with the changes of plan made whose instant has come, those of its accounts with it."""
    if any(upper.scheduled for upper in entry.uppers):
        entry = entry._replace(uppers=tuple([_settled(upper, now) for upper in entry.uppers]))
    return _settled(entry, now)


def _settled(entry: E, now: int) -> E:
    if not entry.scheduled:
        return entry  # nearly always
    plans = entry.plans
    for plan, at in sorted(entry.scheduled, key=_instant):
        plans = with_plan(plans, plan) if at <= now else plans
    later = tuple([change for change in entry.scheduled if change[1] > now])
    return entry._replace(plans=plans, scheduled=later)


def _instant(change: Scheduled) -> int:
    return change[1]


def by_api(plans: Iterable[UsagePlan]) -> dict[str, UsagePlan]:
    """Return plans by each api that they govern."""
    return {api: plan for plan in plans for api in plan.apis}


def each_once(plans: Mapping[str, UsagePlan]) -> list[UsagePlan]:
    """Return plans by api in their order, those for several with the first of these."""
    return list({plans[api].id: plans[api] for api in sorted(plans)}.values())


def rivals(plans: Mapping[str, UsagePlan], plan: UsagePlan) -> dict[str, UsagePlan]:
    """Return the other plans that govern an api of a plan's, by their ids."""
    found = {plans[api].id: plans[api] for api in plan.apis if api in plans}
    return {id_: other for id_, other in found.items() if id_ != plan.id}


def with_plan(plans: Mapping[str, UsagePlan], plan: UsagePlan) -> dict[str, UsagePlan]:
    """Return plans by api with another one, which takes the place of those that govern an api of its."""
    gone = {plan.id, *rivals(plans, plan)}
    return {api: kept for api, kept in plans.items() if kept.id not in gone} | by_api([plan])


def on_plans(entry: Entry, subject: Subject, now: int) -> Entry:
    """Return the entry with the plans that it is on at the subject's instant, which never runs backwards."""
    return settled(entry, max([now, *[record.at for record in subject.records()]])) if entry.changes else entry


def in_force(entry: Entry, subject: Subject, now: int) -> Entry:
    """Return the entry with the plans that it is on, and the limits of them that hold for this very subject now."""
    entry, records = on_plans(entry, subject, now), subject.records()
    if not entry.uppers and not any(record.overrides for record in records) and type(entry.key) is not Account:
        return entry  # nearly always
    now = max(now, *[record.at for record in records])
    own = [tuple(override for override in record.overrides if override.holds(now)) for record in records]
    account = own[1] if subject.account is not None else None
    if type(entry.key) is not Account and any(own):
        from ..joined import own_plan  # noqa: PLC0415 -- not loaded where nobody has limits of its own

        entry = entry._replace(plans={api: own_plan(plan, own[0], account) for api, plan in entry.plans.items()})
    return entry._replace(plans=plans_joined(entry, own))


def plans_joined(entry: Entry, overrides: Sequence[tuple[Override, ...]] = ()) -> Mapping[str, UsagePlan]:
    """Return an entry's plans by api, with those of its accounts in them, each with its subject's own limits."""
    if not entry.above and type(entry.key) is not Account and not any(upper.plans for upper in entry.uppers):
        return entry.plans
    from ..joined import joined  # noqa: PLC0415 -- not loaded where no account has a plan

    return joined(entry, overrides or [()] * (1 + len(entry.uppers)))


def route_plan_of(entry: Entry, request: Request) -> RoutePlan | None:
    """Return the limits that a request goes through; None where the key has no plan for its api."""
    plan = entry.plans.get(request.api)
    return plan.route_plan(request.route, request.api) if plan else None


def advance(request: Request, entry: Entry, subject: Subject, options: StoreOptions) -> tuple[RoutePlan | None, int]:
    """Bring the subject to the request's instant, for good."""
    route_plan = route_plan_of(entry, request)
    now = subject.instant(request.now, options)
    advanced(subject, route_plan, now, options)
    subject.keep(now)
    return route_plan, now


Scheduled = tuple[UsagePlan, int]
"""A plan that is gone to, and the instant in microseconds; one that is past is made whenever it is asked."""


class Upper(NamedTuple):
    """An account whose record a call counts on, with its own plans by api, and those that it goes to."""

    id: str
    plans: Mapping[str, UsagePlan]
    scheduled: tuple[Scheduled, ...] = ()


class Entry(NamedTuple):
    """A key, a caller or an account as a store finds it: with its plans by api, and the accounts that count its calls.

    ``scheduled``: changes to other plans, one for each api at most. ``uppers``: its account where that has a record
    (``shared``), and all accounts above, the nearest first.
    """

    key: Any
    plans: Mapping[str, UsagePlan]
    shared: bool = False
    scheduled: tuple[Scheduled, ...] = ()
    uppers: tuple[Upper, ...] = ()

    @property
    def above(self) -> tuple[str, ...]:
        """The accounts above the key's own."""
        return tuple([upper.id for upper in self.uppers[self.shared :]])

    @property
    def changes(self) -> tuple[Scheduled, ...]:
        """All that is scheduled, for its accounts too."""
        if not self.uppers:
            return self.scheduled  # nearly always
        return (*self.scheduled, *(change for upper in self.uppers for change in upper.scheduled))


E = TypeVar("E", Entry, Upper)


class Request(Data):
    """One atomic step on one key's entry and records; what ``op`` does is in ``operations.py``.

    The key is named by the ``digest`` of a presented secret or by ``key_id``; or it is about a ``caller``, or an
    ``account`` itself. ``takes`` is None where the plan says what a call costs. Instants are microseconds since the
    epoch. ``id``, ``ttl``: of the reservation that is made, or that it is about; of a ``consume``, of the slots that it
    keeps. ``above``: the accounts above the key's own that a charge was counted on, None for those of now.
    ``actor``: who changes a limit.
    """

    __slots__ = (
        "above", "account", "actor", "address", "api", "args", "caller", "digest", "id",
        "key_id", "now", "op", "request_id", "route", "scope", "takes", "ttl",
    )  # fmt: skip

    def __init__(
        self, op: str, now: int, digest: bytes | None = None, key_id: str | None = None, api: str = "",
        route: str | None = None, takes: Mapping[str, int] | None = None, request_id: str | None = None,
        id: str = "",  # noqa: A002 -- what it is called
        ttl: int = 0, args: tuple[Any, ...] = (), caller: Caller | None = None, address: str | None = None,
        scope: str | None = None, account: str | None = None, above: tuple[str, ...] | None = None,
        actor: str | None = None,
    ) -> None:  # fmt: skip
        self.op, self.now, self.digest, self.key_id = op, now, digest, key_id
        self.account, self.caller = account, caller
        self.api, self.route, self.takes, self.address, self.scope = api, route, takes, address, scope
        self.request_id, self.id, self.ttl, self.args = request_id, id, ttl, args
        self.above, self.actor = above, actor

    @property
    def ref(self) -> bytes | str | Caller:
        """By what a store finds a key or a caller that it is about; falsy where neither is."""
        return self.digest or self.key_id or self.caller or ""


MOST_UNITS = 256
"""Different units that are counted of a key or an account in one api; those that its plan limits always are."""
MOST_HOLDS = 20_000
"""Reservations of a key or an account that are open, or lapsed within a day and were not settled."""
MOST_SECRETS = 256
"""Secrets of a key that are good at the same time."""


def check_units(
    subject: Subject, api: str, route_plan: RoutePlan | None, takes: Mapping[str, int], field: str = "cost"
) -> None:
    """Raise ``InvalidCost`` before a record counts more different units."""
    for record in subject.records():
        if len(record.meters) <= MOST_UNITS - UNITS_OF_A_COST:
            continue  # nearly always
        counted = {meter.unit for meter in record.meters if meter.api == api}
        limited = {limit.unit for limit in route_plan.limits} if route_plan else ()
        new = {unit for unit, units in takes.items() if units}.difference(counted, limited)
        if new and len(counted) + len(new) > MOST_UNITS:
            accepted = f"one of the {len(counted)} units that are counted: at most {MOST_UNITS} of a key in an api"
            raise InvalidCost(field, min(new), accepted)


def check_holds(subject: Subject) -> None:
    """Raise ``InvalidValue`` before a record of an advanced subject holds more reservations."""
    for record in subject.records():
        kept = len(record.holds or ())
        if kept >= MOST_HOLDS:
            accepted = f"fewer than {MOST_HOLDS} of a key or account that are open, or lapsed within a day"
            raise InvalidValue("reservations", kept, accepted)


def check_secrets(kept: Sequence[Secret], overlap: object) -> None:
    """Raise ``InvalidValue`` before a key has one more secret than so many."""
    if len(kept) >= MOST_SECRETS:
        accepted = f"so short an overlap that at most {MOST_SECRETS} secrets of a key are good at the same time"
        raise InvalidValue("overlap", overlap, accepted)

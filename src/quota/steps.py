"""The pure steps of every ledger method: what to ask the store, and what to make of its answer.

``Ledger`` and ``AsyncLedger`` put the one line that waits in between. The docstrings here are theirs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import date, datetime, timedelta
from typing import Any, Generic, Literal, TypeVar

import attrs

from .charge import Verdict
from .clock import DAY_US, EPOCH, Clock, span_us, system_clock, to_datetime, to_us
from .decision import Decision, Details, LimitStatus, Reason, refusal
from .errors import InvalidCost, InvalidValue, NotAllowed, ReservationClosed, check_text
from .key import ApiKey, IssuedKey, Secret, digest, import_secret, mint, mistyped, new_id, new_token
from .operations import UsageRecord
from .plan import Cost, UsagePlan, check_route, parse_cost, whole
from .store import Request

T = TypeVar("T")
Presented = str | ApiKey | None
Unavailable = Literal["raise", "deny", "allow"]


class _Default(int):
    """The cost that says nothing: 1, or what the plan says of the route."""

    def __repr__(self) -> str:
        return "1"


DEFAULT = _Default(1)


@attrs.frozen(eq=False)
class Step(Generic[T]):
    """Ask ``method`` of the store, then ``conclude``, which alone answers when ``method`` is empty.

    ``deciding``: the request may be decided without the store, where the caller said so.
    """

    method: str
    args: tuple[Any, ...]
    conclude: Callable[[Any], T]
    deciding: Request | None = None


def same(answer: Any) -> Any:
    """The store's answer as it is."""
    return answer


class Steps:
    """The pure steps of every method, and the settings of a ledger."""

    def __init__(self, *, clock: Clock = system_clock, on_unavailable: Unavailable = "raise") -> None:
        if not callable(clock):
            raise InvalidValue("clock", clock, "a callable returning whole microseconds since the epoch")
        if on_unavailable not in ("raise", "deny", "allow"):
            raise InvalidValue("on_unavailable", on_unavailable, "'raise', 'deny' or 'allow'")
        self._clock = clock
        self._on_unavailable = on_unavailable

    def _now(self) -> int:
        now = self._clock()
        if type(now) is not int:
            raise InvalidValue("clock", now, "a callable returning whole microseconds since the epoch")
        return now

    def add_plan(self, plan: UsagePlan) -> Step[UsagePlan]:
        """Add a usage plan. An equal one again changes nothing, a different one of its id is ``PlanConflict``."""
        return Step("put_plan", (_plan(plan), False), lambda _: plan)

    def replace_plan(self, plan: UsagePlan) -> Step[UsagePlan]:
        """Add or replace a usage plan. It binds on the next call everywhere, and what was used stays used."""
        return Step("put_plan", (_plan(plan), True), lambda _: plan)

    def remove_plan(self, plan: UsagePlan | str) -> Step[None]:
        """Remove a usage plan; its keys are then on no plan. Raises ``UnknownPlan``."""
        return Step("drop_plan", (_plan_id(plan),), same)

    def get_plan(self, plan: UsagePlan | str) -> Step[UsagePlan]:
        """The usage plan as it is now. Raises ``UnknownPlan``."""
        return Step("get_plan", (_plan_id(plan),), same)

    def list_plans(self, key: ApiKey | str | None = None) -> Step[list[UsagePlan]]:
        """All usage plans by id; or those that a key is on, by api. Raises ``UnknownKey``."""
        return Step("list_plans", (), same) if key is None else Step("plans_of", (_key_id(key),), same)

    def issue_key(
        self,
        name: str,
        plan: UsagePlan | str | None = None,
        *,
        id: str | None = None,  # noqa: A002 -- the public contract
        account: str | None = None,
        expires_at: datetime | None = None,
        prefix: str = "qk",
        metadata: Mapping[str, str] | None = None,
    ) -> Step[IssuedKey]:
        """Make an API key with a secret of its own, on a plan if one is given: ``key, secret = issue_key("Key123")``.

        The secret is returned once and never stored. ``account``: whose usage is counted, by default the key's own.
        Raises ``UnknownPlan``, ``PlanConflict`` for an id that is taken, ``InvalidValue`` for a field out of bounds.
        """
        return self._add_key(mint(prefix), name, plan, id, account, expires_at, metadata)

    def import_key(
        self,
        secret: str,
        name: str,
        plan: UsagePlan | str | None = None,
        *,
        id: str | None = None,  # noqa: A002 -- the public contract
        account: str | None = None,
        expires_at: datetime | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> Step[IssuedKey]:
        """Make an API key of a secret from elsewhere, 20 to 128 visible ASCII characters; else as ``issue_key``.

        Raises ``InvalidSecret``, and ``PlanConflict`` when another key has this secret.
        """
        return self._add_key(import_secret(secret), name, plan, id, account, expires_at, metadata)

    def _add_key(
        self,
        secret: str,
        name: str,
        plan: UsagePlan | str | None,
        id_: str | None,
        account: str | None,
        expires_at: datetime | None,
        metadata: Mapping[str, str] | None,
    ) -> Step[IssuedKey]:
        id_ = new_id() if id_ is None else id_
        key = ApiKey(
            id=id_, name=name, account=id_ if account is None else account, created_at=to_datetime(self._now()),
            expires_at=expires_at, metadata=metadata or {}, secrets=(Secret.of(secret),),
        )  # fmt: skip
        issued = IssuedKey(key, secret)
        return Step("add_key", (key, None if plan is None else _plan_id(plan)), lambda _: issued)

    def rotate_key(self, key: ApiKey | str, overlap: timedelta | int = timedelta(0)) -> Step[IssuedKey]:
        """Give a key a new secret; the old ones go on for ``overlap`` (microseconds when an int), never beyond the key.

        Rotation never touches usage. Raises ``UnknownKey``.
        """
        overlap_us = span_us(overlap, "overlap")
        if overlap_us < 0:
            raise InvalidValue("overlap", overlap, "zero or more")
        now = self._now()
        found: list[str] = []

        def change(old: ApiKey) -> ApiKey:
            found[:] = [mint(old.secrets[0].prefix if old.secrets and old.secrets[0].prefix else "qk")]
            kept = []
            for secret in old.secrets:
                ends = [to_us(end) for end in (secret.expires_at, old.expires_at) if end is not None]
                until = min([now + overlap_us, *ends])
                if until > now:
                    kept.append(attrs.evolve(secret, expires_at=to_datetime(until)))
            return attrs.evolve(old, secrets=(Secret.of(found[0]), *kept))

        return Step("change_key", (_key_id(key), change), lambda new: IssuedKey(new, found[0]))

    def enable_key(self, key: ApiKey | str) -> Step[ApiKey]:
        """Let a key be used again. Raises ``UnknownKey``."""
        return Step("change_key", (_key_id(key), lambda old: attrs.evolve(old, enabled=True)), same)

    def disable_key(self, key: ApiKey | str) -> Step[ApiKey]:
        """Refuse a key from the very next call on; its counts stay. Raises ``UnknownKey``."""
        return Step("change_key", (_key_id(key), lambda old: attrs.evolve(old, enabled=False)), same)

    def remove_key(self, key: ApiKey | str) -> Step[None]:
        """Remove a key and its counts; those of an account it shared stay. Raises ``UnknownKey``."""
        return Step("drop_key", (_key_id(key),), same)

    def get_key(self, key: ApiKey | str) -> Step[ApiKey]:
        """The key as it is now. Raises ``UnknownKey``."""
        return Step("get_key", (_key_id(key),), same)

    def list_keys(self) -> Step[list[ApiKey]]:
        """All keys, by id."""
        return Step("list_keys", (), same)

    def associate(self, key: ApiKey | str, plan: UsagePlan | str) -> Step[None]:
        """Put a key on a plan; from another one for the same api it is moved, and what was used stays used.

        Raises ``UnknownKey``, ``UnknownPlan``.
        """
        return Step("associate", (_key_id(key), _plan_id(plan)), same)

    def dissociate(self, key: ApiKey | str, plan: UsagePlan | str) -> Step[None]:
        """Take a key off a plan. Raises ``UnknownKey``, ``UnknownPlan``, ``PlanConflict`` when it is not on it."""
        return Step("dissociate", (_key_id(key), _plan_id(plan)), same)

    def consume(
        self,
        secret: Presented,
        cost: Cost = DEFAULT,
        *,
        api: str = "",
        route: str | None = None,
        request_id: str | None = None,
    ) -> Step[Decision]:
        """See ``Ledger.consume``."""
        return self._decide(self._request("consume", secret, cost, api, route, request_id, self._now()))

    def peek(
        self,
        secret: Presented,
        cost: Cost = DEFAULT,
        *,
        api: str = "",
        route: str | None = None,
        request_id: str | None = None,
    ) -> Step[Decision]:
        """The decision that ``consume`` would return, on the same code path, changing nothing."""
        return self._decide(self._request("peek", secret, cost, api, route, request_id, self._now()))

    def require(
        self,
        secret: Presented,
        cost: Cost = DEFAULT,
        *,
        api: str = "",
        route: str | None = None,
        request_id: str | None = None,
    ) -> Step[Decision]:
        """``consume`` that raises ``NotAllowed``, which carries the decision, in place of returning a refusal."""
        step = self._decide(self._request("consume", secret, cost, api, route, request_id, self._now()))
        return attrs.evolve(step, conclude=lambda answer: _required(step.conclude(answer)))

    def consume_at(
        self, now: int, secret: Presented, cost: Cost, api: str, route: str | None, request_id: str | None
    ) -> Step[Decision]:
        """``consume`` with the clock read already."""
        if type(now) is not int:
            raise InvalidValue("clock", now, "a callable returning whole microseconds since the epoch")
        return self._decide(self._request("consume", secret, cost, api, route, request_id, now))

    def _request(
        self,
        op: str,
        secret: Presented,
        cost: Cost,
        api: str,
        route: str | None,
        request_id: str | None,
        now: int,
    ) -> Request:
        takes = None if cost is DEFAULT else parse_cost(cost)
        if api:
            check_text("api", api)
        elif api != "":
            raise InvalidValue("api", api, "text")
        if route is not None:
            check_route(route)
        if request_id is not None:
            check_text("request_id", request_id)
        hashed = key_id = None
        if isinstance(secret, str):
            hashed = None if not secret else b"" if mistyped(secret) else digest(secret)
        elif isinstance(secret, ApiKey):
            key_id = secret.id
        elif secret is not None:
            raise InvalidValue("secret", type(secret), "a str, an ApiKey or None")
        return Request(op, now, hashed, key_id, api, route, takes, request_id)

    def _decide(self, request: Request) -> Step[Decision]:
        if request.digest is None and request.key_id is None:
            missing = refusal(Reason.MISSING_KEY, request.now, request.takes or {"requests": 1})
            return Step("", (), lambda _: missing)
        if request.digest == b"":
            unknown = refusal(Reason.UNKNOWN_KEY, request.now, request.takes or {"requests": 1})
            return Step("", (), lambda _: unknown)
        return Step("apply", (request,), same, request)

    def reserve(
        self, secret: Presented, cost: Cost, ttl: timedelta | int, api: str, route: str | None, request_id: str | None
    ) -> tuple[Request, Step[Decision]]:
        """Hold units: the request, and the step that decides it."""
        ttl_us = span_us(ttl, "ttl")
        if not 0 < ttl_us <= 366 * DAY_US:
            raise InvalidValue("ttl", ttl, "a timedelta or microseconds, above zero and at most 366 days")
        now = self._now()
        request = self._request("reserve", secret, cost, api, route, request_id, now)
        request = attrs.evolve(request, id=new_token(), ttl=ttl_us)
        return request, self._decide(request)

    def held(self, decision: Decision, request: Request) -> tuple[str, int]:
        """The id and the end of what is held: the first call's, where the decision is a replay."""
        details = decision._details()
        return details.hold or request.id, details.verdict.now + request.ttl

    def close(self, request: Request, decision: Decision, op: str, id_: str, actual: Cost | None) -> Step[Any]:
        """Commit or cancel a reservation."""
        if not decision.allowed or decision.key is None:
            raise ReservationClosed(id_)
        takes = None if actual is None else parse_cost(actual, "actual", 0)
        close = Request(op, self._now(), None, decision.key.id, request.api, request.route, takes, id=id_)
        return Step("apply", (close,), same)

    def refund(self, decision: Decision, units: Cost | None = None) -> Step[int]:
        """Give a charge's quota units back to the windows they came from, all or some, once; how many were given.

        A second refund gives 0 back, as does one of a refusal or after the windows ended. Throttles keep theirs.
        Raises ``InvalidCost`` for more than was taken, ``InvalidValue`` for a reservation's own decision (cancel the
        reservation, or refund what its commit returned).
        """
        if not isinstance(decision, Decision):
            raise InvalidValue("decision", decision, "a Decision")
        details = decision._details()
        takes = None if units is None else parse_cost(units, "units")
        for unit, wanted in (takes or {}).items():
            if wanted > details.takes.get(unit, 0):
                raise InvalidCost("units", wanted, f"at most the {details.takes.get(unit, 0)} {unit} that were taken")
        if details.hold:
            raise InvalidValue("decision", decision.id, "what was taken for good: cancel() or commit() the reservation")
        if not details.metered or details.key is None:
            return Step("", (), lambda _: 0)
        api, route = details.metered[0][1][-1][:2]
        request = Request(
            "refund", self._now(), None, details.key.id, api, route or None, takes, id=decision.id,
            args=(details.metered, details.tokens),
        )  # fmt: skip
        return Step("apply", (request,), same)

    def grant(
        self, key: ApiKey | str, limit: str, units: int, *, api: str = "", route: str | None = None
    ) -> Step[LimitStatus]:
        """Admit so many more units of a quota, by its name, in this window only. Where it stands then.

        Raises ``UnknownKey``, ``InvalidValue`` for a name that is no quota of the key's plan, ``InvalidCost``.
        """
        return self._adjust("grant", key, limit, whole("units", units, 1, InvalidCost), api, route)

    def set_remaining(
        self, key: ApiKey | str, limit: str, remaining: int, *, api: str = "", route: str | None = None
    ) -> Step[LimitStatus]:
        """Let so many units remain of a quota in this window only (API Gateway's UpdateUsage); else as ``grant``."""
        return self._adjust("set_remaining", key, limit, whole("remaining", remaining, 0, InvalidCost), api, route)

    def _adjust(
        self, op: str, key: ApiKey | str, limit: str, units: int, api: str, route: str | None
    ) -> Step[LimitStatus]:
        check_text("limit", limit, longest=2048)
        request = Request(op, self._now(), None, _key_id(key), api, route, args=(limit, units))
        return Step("apply", (request,), same)

    def forget(self, key: ApiKey | str) -> Step[None]:
        """Drop a key's counts, holds and remembered requests: an operator's repair after a wild clock.

        A shared account's counts go too only where they lie in the future. Raises ``UnknownKey``.
        """
        return Step("apply", (Request("forget", self._now(), None, _key_id(key)),), same)

    def usage(
        self,
        key: ApiKey | str,
        *,
        api: str = "",
        since: date | str | None = None,
        until: date | str | None = None,
    ) -> Step[list[UsageRecord]]:
        """What each quota of a key's plan for ``api`` counted, by UTC day, both days included; days unused left out.

        Today is always there. A limit by account tells the account's usage. Raises ``UnknownKey``, ``InvalidValue``.
        """
        days = (_day("since", since, -(10**6)), _day("until", until, 10**7))
        request = Request("usage", self._now(), None, _key_id(key), api, args=days)
        return Step("apply", (request,), same)

    def without_store(self, request: Request, error: Exception) -> Decision:
        """Decide as the caller said to when the store cannot be asked."""
        if self._on_unavailable == "raise":
            raise error
        allowed = self._on_unavailable == "allow"
        takes = request.takes or {"requests": 1}
        verdict = Verdict(allowed=allowed, now=request.now, standings=())
        return Decision(Details(Reason.STORE_UNAVAILABLE, None, None, None, takes, verdict))


def _plan(plan: object) -> UsagePlan:
    if not isinstance(plan, UsagePlan):
        raise InvalidValue("plan", plan, "a UsagePlan")
    return plan


def _plan_id(plan: UsagePlan | str) -> str:
    return plan.id if isinstance(plan, UsagePlan) else check_text("plan", plan)


def _key_id(key: ApiKey | str) -> str:
    return key.id if isinstance(key, ApiKey) else check_text("key", key)


def _day(field: str, day: date | str | None, default: int) -> int:
    """Days since the epoch."""
    if day is None:
        return default
    if isinstance(day, str):
        try:
            day = date.fromisoformat(day)
        except ValueError:
            raise InvalidValue(field, day, "a date, as in 2026-01-31") from None
    if isinstance(day, datetime):
        return to_us(day, field) // DAY_US
    if not isinstance(day, date):
        raise InvalidValue(field, day, "a date, an aware datetime or a text such as '2026-01-31'")
    return (day - EPOCH.date()).days


def _required(decision: Decision) -> Decision:
    if not decision.allowed:
        raise NotAllowed(decision)
    return decision

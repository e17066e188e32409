"""The pure steps of every ledger method: what to ask the store, and what to make of its answer.

``Ledger`` and ``AsyncLedger`` put the one line that waits in between. The docstrings here are theirs.
"""

from __future__ import annotations

from copy import copy
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from ..account import Account
from ..clock import Clock, system_clock
from ..decision import Decision, Details, NotAllowed, Reason, refusal
from ..errors import InvalidCost, InvalidValue, check_text
from ..key import ApiKey, Caller, digest, has_typo, new_token
from ..limit import Cost, parse_cost, whole
from ..operations.request import Request, answered
from ..operations.shape import DEFAULT
from ..rule.limits import Outcome
from ..status import LimitStatus
from ..stores.memory.store import MemoryStore
from .administration import Asking, Step, same
from .holders import check_where
from .reservations.settling import Settling, lifetime, named
from .usage.reports import Reports

if TYPE_CHECKING:
    from .breaker import Breaker

Credential = str | ApiKey | Caller | None
L = TypeVar("L")
Unavailable = Literal["raise", "deny", "allow"]


def acting(self: L, actor: str) -> L:
    """Return a view of this ledger: the same keys, plans and counts, and what it changes was done by ``actor``."""
    view: Any = copy(self)
    view._steps = copy(view._steps)
    view._steps._actor = check_text("actor", actor)
    return view  # type: ignore[no-any-return] # a copy


def in_memory(store: object) -> bool:
    """Tell a store in memory, whose lanes a ledger asks, from one that only passes calls on to it."""
    return getattr(type(store), "apply", None) is MemoryStore.apply


class Steps(Settling, Reports):
    """The pure steps of every method, and the settings of a ledger."""

    def __init__(
        self, *, clock: Clock = system_clock, on_unavailable: Unavailable = "raise", probe_every: float = 1.0,
        actor: str | None = None,
    ) -> None:  # fmt: skip
        super().__init__(clock, actor)
        if on_unavailable not in ("raise", "deny", "allow"):
            raise InvalidValue("on_unavailable", on_unavailable, "'raise', 'deny' or 'allow'")
        if type(probe_every) not in (int, float) or not 0.001 <= probe_every <= 86_400:
            raise InvalidValue("probe_every", probe_every, "seconds, from 0.001 to 86400")
        self._on_unavailable = on_unavailable
        self._probe_every = probe_every

    def breaker(self, store: Any) -> Breaker | None:
        """Ask this store through it; None in memory, and where a store that leases asks another one through it."""
        if in_memory(store):
            return None
        from .breaker import Breaker  # noqa: PLC0415 -- in memory nothing is ever away

        breaker = Breaker(self._probe_every)
        if not hasattr(store, "use_breaker"):
            return breaker
        store.use_breaker(breaker)
        return None

    def asked_at(
        self, now: int, op: str, secret: Credential, cost: Cost, api: str, route: str | None, request_id: str | None,
        hashed: object, address: str | None, scope: str | None, ttl: int = 0,
    ) -> Request | Decision:  # fmt: skip
        """``consume`` or ``peek`` with the clock read and a secret hashed: what to ask the store, or the answer.

        ``ttl``: for so long it keeps its slots.
        """
        if type(now) is not int:
            raise InvalidValue("clock", now, "a callable returning whole microseconds since the epoch")
        known = hashed if isinstance(hashed, bytes) else None
        request = self._request(op, secret, cost, api, route, request_id, now, known, address, scope)
        if ttl:
            request.id, request.ttl = new_token(), ttl
        return request if request.ref else self._decide(request).conclude(None)

    def _request(
        self, op: str, secret: Credential, cost: Cost, api: str, route: str | None, request_id: str | None, now: int,
        hashed: bytes | None, address: str | None, scope: str | None,
    ) -> Request:  # fmt: skip
        takes = None if cost is DEFAULT else parse_cost(cost)
        if api != "" or route is not None:
            check_where(api, route)
        if request_id is not None:
            check_text("request_id", request_id)
        if scope is not None:
            check_text("scope", scope)
        known = caller = None
        if isinstance(secret, str):
            hashed = None if not secret else b"" if has_typo(secret) else hashed or digest(secret)
        elif isinstance(secret, ApiKey):
            known = secret.id
        elif isinstance(secret, Caller):
            caller = secret
        elif secret is not None:
            raise InvalidValue("secret", type(secret), "a str, an ApiKey, a Caller or None")
        return Request(
            op, now, hashed, known, api, route, takes, request_id, caller=caller, address=address, scope=scope
        )

    def _decide(self, request: Request) -> Step[Decision]:
        nobody = request.digest is None and request.key_id is None and request.caller is None
        if nobody or request.digest == b"":
            reason = Reason.MISSING_KEY if nobody else Reason.UNKNOWN_KEY
            told = refusal(reason, request.now, request.takes or {"requests": 1})
            return Step("", (), lambda _: answered(request, told))
        return Step("apply", (request,), partial(answered, request), request)

    def reserve(
        self, secret: Credential, cost: Cost, ttl: timedelta | int, api: str, route: str | None, request_id: str | None,
        address: str | None, scope: str | None,
    ) -> tuple[Request, Step[Decision]]:  # fmt: skip
        """Hold units: the request, and the step that decides it."""
        ttl_us = lifetime(ttl)
        now = self._now()
        request = self._request("reserve", secret, cost, api, route, request_id, now, None, address, scope)
        request = request.changed(id=new_token(), ttl=ttl_us)
        return request, self._decide(request)

    def refund(self, decision: Decision, units: Cost | None = None) -> Step[int]:
        """Give a charge's quota units back to the windows they came from, all or some, once; how many were given.

        A second refund gives 0 back, as does one of a refusal, after the windows ended, or later than the store's
        ``retention`` (or its ``request_ttl``, where that is longer) after the decision. Throttles keep theirs.
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
        key, caller = named(details.key)
        request = Request(
            "refund", self._now(), None, key, api, route or None, takes, id=decision.id,
            args=(details.metered, details.tokens, details.outcome.now), caller=caller, above=details.above,
        )  # fmt: skip
        return Step("apply", (request,), same)

    def grant(
        self, key_or_account: ApiKey | Account | str, limit: str, units: int, *, api: str = "", route: str | None = None
    ) -> Asking[LimitStatus]:
        """Admit so many more units of a quota, by its name, in this window only. Where it stands then.

        Of a key's plan, or of an account's own. Raises ``UnknownKey``, ``InvalidValue`` for a name that is no quota of
        that plan, ``InvalidCost``.
        """
        return self._adjust("grant", key_or_account, limit, whole("units", units, 1, InvalidCost), api, route)

    def set_remaining(
        self, key_or_account: ApiKey | Account | str, limit: str, remaining: int, *, api: str = "",
        route: str | None = None,
    ) -> Asking[LimitStatus]:  # fmt: skip
        """Let so many units remain of a quota in this window only (API Gateway's UpdateUsage); else as ``grant``."""
        return self._adjust(
            "set_remaining", key_or_account, limit, whole("remaining", remaining, 0, InvalidCost), api, route
        )

    def _adjust(
        self, op: str, who: ApiKey | Account | str, limit: str, units: int, api: str, route: str | None
    ) -> Asking[LimitStatus]:
        check_text("limit", limit, longest=2048)
        check_where(api, route)
        key, account = yield from self._one(who)
        request = Request(
            op, self._now(), None, key, api, route, args=(limit, units), actor=self._actor, account=account
        )
        told: LimitStatus = yield Step("apply", (request,), same)
        return told

    def forget(self, key_or_account: ApiKey | Account | str) -> Asking[None]:
        """Drop a key's counts, holds and remembered requests, or an account's: an operator's repair after a wild clock.

        The counts of accounts that a key's calls count on go too only where they lie in the future. Raises
        ``UnknownKey``.
        """
        key, account = yield from self._one(key_or_account)
        yield Step("apply", (Request("forget", self._now(), None, key, account=account),), same)

    def without_store(self, request: Request, error: Exception) -> Decision:
        """Decide as the caller said to when the store cannot be asked."""
        if self._on_unavailable == "raise":
            raise error
        allowed = self._on_unavailable == "allow"
        takes = request.takes or {"requests": 1}
        outcome = Outcome(allowed=allowed, now=request.now, states=())
        return Decision(Details(Reason.STORE_UNAVAILABLE, None, None, None, takes, outcome))


def required(decision: Decision) -> Decision:
    """Return an admission; raise ``NotAllowed`` for a refusal."""
    if not decision.allowed:
        raise NotAllowed(decision)
    return decision

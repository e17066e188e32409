"""The answer to one call: a value, truthy when allowed, that computes nothing the caller does not ask for."""

from __future__ import annotations

import enum
import threading
from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

from .clock import to_datetime
from .errors import QuotaError, _hide
from .key import ApiKey, KeyOrCaller, new_token
from .limit import REQUESTS
from .plan import UsagePlan
from .process.forks import across_forks
from .rule.entries import Groups
from .rule.limits import CompiledConcurrency, CompiledLimit, CompiledQuota, Data, Outcome
from .status import LimitStatus, status_of

if TYPE_CHECKING:
    from .headers import Row


class Reason(enum.Enum):
    """The reason why a call was allowed or refused."""

    OK = "OK"
    MISSING_KEY = "MISSING_KEY"
    UNKNOWN_KEY = "UNKNOWN_KEY"
    DISABLED_KEY = "DISABLED_KEY"
    EXPIRED_KEY = "EXPIRED_KEY"
    NO_PLAN = "NO_PLAN"
    ADDRESS_NOT_ALLOWED = "ADDRESS_NOT_ALLOWED"
    SCOPE_NOT_ALLOWED = "SCOPE_NOT_ALLOWED"
    THROTTLED = "THROTTLED"
    CONCURRENCY_EXCEEDED = "CONCURRENCY_EXCEEDED"
    QUOTA_EXCEEDED = "QUOTA_EXCEEDED"
    COST_TOO_LARGE = "COST_TOO_LARGE"
    STORE_UNAVAILABLE = "STORE_UNAVAILABLE"


_STATUS = {
    Reason.OK: 200, Reason.THROTTLED: 429, Reason.CONCURRENCY_EXCEEDED: 429, Reason.QUOTA_EXCEEDED: 429,
    Reason.COST_TOO_LARGE: 429, Reason.STORE_UNAVAILABLE: 503,
}  # fmt: skip


class Details(Data):
    """In full. ``metered``: what was taken for good, as (when, meters and units). ``hold``: its reservation.

    ``slot``: the reservation that keeps only the slots of what was taken for good. ``until``: when either lapses.
    ``above``: the accounts above the key's own that it was counted on.
    ``route``: the name that the plan has for the call's, if it has one.
    """

    __slots__ = (
        "above", "hold", "id", "key", "metered", "outcome", "plan", "reason", "replayed", "route", "slot", "takes",
        "tokens", "until",
    )  # fmt: skip

    def __init__(
        self, reason: Reason,
        id: str | None,  # noqa: A002 -- what it is called
        key: KeyOrCaller | None, plan: UsagePlan | None, takes: Mapping[str, int], outcome: Outcome,
        metered: Groups = (), tokens: tuple[int, ...] = (0, 0), *, replayed: bool = False, hold: str = "",
        slot: str = "", until: int = 0, above: tuple[str, ...] = (), route: str = "",
    ) -> None:  # fmt: skip
        self.reason, self.id, self.key, self.plan = reason, id, key, plan
        self.takes, self.outcome, self.metered, self.tokens = takes, outcome, metered, tokens
        self.replayed, self.hold, self.slot, self.until = replayed, hold, slot, until
        self.above, self.route = above, route


_FOREVER = 2**63

# A signal handler may read a decision while its own thread works it out, or another one: what it found first, stays.
_lazy = threading.RLock()
across_forks(_lazy)


class _Http:
    """All that HTTP sees of a decision."""

    def __getattr__(self, name: str) -> Any:
        from . import headers  # noqa: PLC0415 -- not paid for by those who never ask

        self.__dict__.update(vars(headers))
        return self.__dict__[name]


_http: Any = _Http()


class Decision:
    """The ledger's answer. Truthy when allowed.

    Made by the ledger only. Immutable: what it tells is the state right after this call, whenever it is asked.
    """

    __slots__ = ("_full", "_now", "_slot", "allowed")

    allowed: bool
    _slot: Any
    _full: Details
    _now: int

    def __init__(self, details: Details) -> None:
        self.allowed = details.outcome.allowed
        self._full = details
        self._now = details.outcome.now

    def __bool__(self) -> bool:
        return self.allowed

    def _details(self) -> Details:
        """Return the whole answer."""
        return self._full

    @property
    def reason(self) -> Reason:
        """The reason: ``Reason.OK``, or what refused it."""
        return self._details().reason

    @property
    def id(self) -> str:
        """Names this decision, for ``refund`` and logs."""
        details = self._details()
        if details.id is None:
            with _lazy:
                fresh = new_token()
                if details.id is None:
                    details.id = fresh
        return details.id

    @property
    def key(self) -> ApiKey | None:
        """The API key that was found, as it stood; None when none was, or for a ``Caller``."""
        return key if isinstance(key := self._details().key, ApiKey) else None

    @property
    def plan(self) -> UsagePlan | None:
        """The usage plan that decided, None when none did."""
        plan = self._details().plan
        return None if plan is None else plan.told

    @property
    def route(self) -> str | None:
        """The route of the plan that the call was charged under; None where the plan has none for it."""
        return self._details().route or None

    @property
    def cost(self) -> int | Mapping[str, int]:
        """The call's cost: a number of requests, or units by unit."""
        takes = self._details().takes
        return takes[REQUESTS] if set(takes) == {REQUESTS} else dict(takes)

    @property
    def slot(self) -> Any:
        """The reservation that keeps this call's slots in flight (``consume(keep_slot=)``): ``cancel`` gives them back.

        A ``Reservation``, of an ``AsyncLedger`` an ``AsyncReservation``; None where no slot was kept: the call was
        refused, no limit of its plan is on calls in flight, or ``keep_slot`` was not given.
        """
        return getattr(self, "_slot", None)

    @property
    def at(self) -> datetime:
        """The instant decided at."""
        return to_datetime(self._now)

    @property
    def limits(self) -> tuple[LimitStatus, ...]:
        """Every limit after this call, in the plan's order."""
        details = self._details()
        return tuple(status_of(state, details.key) for state in details.outcome.states)

    @property
    def violated(self) -> tuple[str, ...]:
        """The names of all limits that refused."""
        return tuple(s.limit.told for s in self._details().outcome.states if s.refused)

    @property
    def over(self) -> int:
        """Units by which the quota furthest beyond its limit is beyond it, after this call; 0 when none is."""
        quotas = [s for s in self._details().outcome.states if isinstance(s.limit, CompiledQuota)]
        return max((s.used - s.limit.limit - s.extra for s in quotas if s.used > s.limit.limit + s.extra), default=0)

    @property
    def crossed(self) -> tuple[tuple[str, int], ...]:
        """(limit name, percent) for each alert threshold that this very call crossed."""
        return self._details().outcome.crossed

    @property
    def replayed(self) -> bool:
        """This is the remembered answer to an earlier call with the same ``request_id``."""
        return self._details().replayed

    @property
    def retry_at(self) -> datetime | None:
        """The instant when this call would be admitted if nobody else calls, exact; None when it never can be.

        While a reservation is held it is an upper bound, since what is held may come back earlier.
        """
        retry_at = self._details().outcome.retry_at
        return None if retry_at is None else to_datetime(retry_at)

    @property
    def retry_after(self) -> int | None:
        """Whole seconds until ``retry_at``, rounded up, as the ``Retry-After`` header wants them (RFC 9110).

        Of calls in flight 1 (unless another limit refused for longer): one of them may end at any time.
        """
        retry_at = self._details().outcome.retry_at
        if retry_at is None:
            return None
        if self.reason is Reason.CONCURRENCY_EXCEEDED:
            others = [s.retry_at or 0 for s in self._details().outcome.states if not _is_slots(s.limit)]
            retry_at = max([self._now + 1_000_000, *others])
        return max(0, -((self._now - retry_at) // 1_000_000))

    @property
    def status(self) -> int:
        """The HTTP status: 200, 403 (no usable key), 429 (a limit refused) or 503 (decided without the store)."""
        return 200 if self.allowed else _STATUS.get(self._details().reason, 403)

    def headers(self, profile: str = "ietf") -> dict[str, str]:
        """Response headers: ``RateLimit-Policy``, ``RateLimit`` and, when refused, ``Retry-After``.

        ``profile``: ``"ietf"`` (draft-ietf-httpapi-ratelimit-headers), ``"github"`` (``X-RateLimit-*``, epoch seconds)
        or ``"draft03"`` (``RateLimit-*``, delta seconds). Raises ``InvalidValue`` for any other.
        """
        told: dict[str, str] = _http.headers(
            profile, self._rows(), self._now, None if self.allowed else self.retry_after
        )
        return told

    def _rows(self) -> list[Row]:
        """Tell every limit after a decision.

        A limit that refused is reset, to its client, when this call would fit: so ``Retry-After`` never precedes it.
        """
        outcome, soon = self._details().outcome, self._now + 1_000_000
        latest = _FOREVER if outcome.retry_at is None else outcome.retry_at
        rows: list[Row] = []
        for s in outcome.states:
            end = min(soon if _is_slots(s.limit) else s.resets_at, latest) if s.refused else s.resets_at
            rows.append((s.limit, s.used, s.extra, end, s.refused))
        return rows

    def problem(self) -> dict[str, Any]:
        """The body of an ``application/problem+json`` answer (RFC 9457). For a 403 it never says which way."""
        if self.allowed:
            return {}
        violated = self.violated
        over = [(s.name, s.used, s.limit, s.unit) for s in self.limits if s.name in violated]
        told: dict[str, Any] = _http.problem(self.status, over, self.retry_after)
        return told

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON can hold it, as ``quota check --json`` tells it; of its key and plan the ids."""
        return to_data(self)

    def __repr__(self) -> str:
        limits = ", ".join(f"{status.name} {status.used}/{status.limit}" for status in self.limits)
        return f"<Decision {self.reason.value}{f': {limits}' if limits else ''}>"

    def __reduce__(self) -> tuple[Any, ...]:
        details = self._details().changed(id=self.id)
        outcome = details.outcome
        states = tuple(s._replace(limit=bare_limit(s.limit)) for s in outcome.states)
        bare = outcome._replace(states=states)
        return Decision, (details.changed(outcome=bare, takes=dict(details.takes), plan=self.plan),)


def bare_limit(limit: CompiledLimit) -> CompiledLimit:
    """A compiled limit without its window function, so that it can be pickled."""
    return limit.changed(window=no_window) if isinstance(limit, CompiledQuota) else limit


def no_window(now: int) -> tuple[int, int]:
    """In place of a window function that stayed behind."""
    return now, now


def reason_of(outcome: Outcome) -> Reason:
    """The one word for a outcome; ``violated`` has the rest."""
    if outcome.allowed:
        return Reason.OK
    if outcome.too_large:
        return Reason.COST_TOO_LARGE
    refusing = [s.limit for s in outcome.states if s.refused]
    if any(isinstance(limit, CompiledQuota) for limit in refusing):
        return Reason.QUOTA_EXCEEDED
    return Reason.CONCURRENCY_EXCEEDED if any(map(_is_slots, refusing)) else Reason.THROTTLED


def _is_slots(limit: CompiledLimit) -> bool:
    return isinstance(limit, CompiledConcurrency)


def refusal(reason: Reason, now: int, takes: Mapping[str, int], key: KeyOrCaller | None = None) -> Decision:
    """A refusal that no limit was asked about."""
    return Decision(Details(reason, None, key, None, takes, Outcome(allowed=False, now=now, states=())))


class NotAllowed(QuotaError):
    """Raised by ``require`` in place of returning a refusal; ``decision`` says why and when to retry."""

    def __init__(self, decision: Decision) -> None:
        super().__init__(decision)
        self.decision = decision

    def __str__(self) -> str:
        if not isinstance(self.decision, Decision):
            return _hide(str(self.decision))  # made again of what JSON can hold, as by a result backend that speaks it
        names = ", ".join(self.decision.violated)
        return f"{self.decision.reason.value}{f' ({names})' if names else ''}"


def to_data(decision: Decision) -> dict[str, Any]:
    """Return a decision as JSON can hold it; see ``Decision.to_dict``."""
    cost, retry_at = decision.cost, decision.retry_at
    return {
        "allowed": decision.allowed, "reason": decision.reason.value, "id": decision.id, "at": decision.at.isoformat(),
        "key": decision.key.id if decision.key else None, "plan": decision.plan.id if decision.plan else None,
        "route": decision.route,
        "cost": {"requests": cost} if isinstance(cost, int) else dict(cost),
        "limits": [status.to_dict() for status in decision.limits], "violated": list(decision.violated),
        "over": decision.over, "crossed": [[name, percent] for name, percent in decision.crossed],
        "replayed": decision.replayed, "retry_at": None if retry_at is None else retry_at.isoformat(),
        "retry_after": decision.retry_after, "status": decision.status,
    }  # fmt: skip

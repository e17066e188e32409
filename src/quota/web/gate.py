"""All that the WSGI and the ASGI middleware share: everything but how a request comes in and an answer goes out.

Pure.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta
from typing import Any

import attrs

from ..clock import Clock, system_clock
from ..decision import Decision, Details, Reason
from ..errors import ClockSkew, InvalidValue, StoreBusy, StoreUnavailable
from ..headers import PROFILES, headers
from ..key import ApiKey, Caller
from ..ledger.reservations.handle import AsyncReservation, Reservation
from ..limit import Cost, Limit, parse_cost
from ..plan import UsagePlan, check_route
from ..rule.entries import Hold
from ..rule.limits import Outcome
from . import settings as checks
from .addresses import Anonymous, Proxies, address_of, check_proxies, counted_by
from .credentials import Places
from .exemptions import Exemptions
from .guesses import Guesses
from .responses.answers import challenge, shaped, written
from .responses.cors import allowed_across_origins
from .routes import Finder, KnownRoutes, Names, named
from .settings import Answer, Request, Settings

__all__ = ["KEPT", "UNDECIDED", "Answer", "Gate", "Held", "Request", "Settings", "log", "merged"]

log = logging.getLogger(__package__)

KEPT = "keeping what was held or spent: what was used cannot be known"

UNDECIDED = (StoreBusy, StoreUnavailable, ClockSkew)
"""The reason why a ledger cannot decide; ``on_unavailable`` says what then."""

Held = Reservation | AsyncReservation
_CALLED = ("key", "route", "cost", "cost_from_body", "success", "actual", "exempt", "refuse", "report")
"""The settings that may be callables, called and never awaited: a coroutine is true, whatever it would come to."""


def _below_400(status: int) -> bool:
    return status < 400


@attrs.frozen(kw_only=True, eq=False)
class Gate:
    """The settings of a middleware, checked, and the pure steps between a request and its answer."""

    on_unavailable: str = attrs.field(validator=checks.one_of("deny", "allow"))
    key: Any = attrs.field(default="x-api-key", converter=checks.sources_of)
    route: Callable[[Request], str | None] | None = attrs.field(default=None, validator=checks.function)
    cost: Any = None
    cost_from_body: Callable[[bytes], Cost | None] | None = attrs.field(default=None, validator=checks.function)
    most_body: int = attrs.field(default=1_048_576, validator=checks.most_body)
    anonymous: Anonymous | None = attrs.field(default=None, validator=checks.anonymous)
    trusted_proxies: Proxies = attrs.field(default=0, converter=check_proxies)
    failed_keys: Limit | None = attrs.field(default=None, converter=checks.failed_keys)
    refuse: Callable[[Decision, Request], Answer | None] | None = attrs.field(default=None, validator=checks.function)
    unauthorized: int = attrs.field(default=403, validator=checks.status)
    api: str = attrs.field(default="", validator=checks.api)
    charge: str = attrs.field(default="arrival", validator=checks.one_of("arrival", "success", "response"))
    success: Callable[[int], bool] = attrs.field(default=_below_400, validator=checks.function)
    actual: Callable[[Request], Cost | None] | None = attrs.field(default=None, validator=checks.function)
    ttl: Any = attrs.field(default=timedelta(minutes=1), converter=checks.span)
    exempt: Any = attrs.field(default=())
    preflight: str = attrs.field(default="ask", validator=checks.one_of("ask", "pass", "answer"))
    shadow: bool = attrs.field(default=False, validator=checks.flag)
    style: str = attrs.field(default="problem", validator=checks.one_of("problem", "api_gateway"))
    profile: str | None = attrs.field(default="ietf", validator=checks.one_of(None, *PROFILES))
    report: Callable[[Decision, Request], None] | None = attrs.field(default=None, validator=checks.function)
    redact: bool = attrs.field(default=True, validator=checks.flag)
    _template: Finder | None = attrs.field(default=None, alias="template")
    _known: KnownRoutes | None = attrs.field(default=None, alias="known")
    _clock: Clock = attrs.field(default=system_clock, alias="clock")
    names: Names | None = attrs.field(init=False)
    places: Places = attrs.field(init=False)
    _exempt: Exemptions = attrs.field(init=False)
    _told: dict[str, UsagePlan] = attrs.field(init=False, factory=dict)
    _guesses: Guesses | None = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        for name in _CALLED:
            checks.check_called(name, getattr(self, name))
        if self.cost is not None and not callable(self.cost):
            parse_cost(self.cost)
        if self.actual is not None and self.charge != "response":
            raise InvalidValue("actual", self.actual, "nothing, unless charge='response'")
        object.__setattr__(self, "places", Places(() if callable(self.key) else self.key))
        object.__setattr__(self, "names", Names(self._template) if self._template else None)
        if self._template is not None and self.route is None:
            object.__setattr__(self, "_known", KnownRoutes(self._template))
        object.__setattr__(self, "_guesses", Guesses(self.failed_keys, self._clock) if self.failed_keys else None)
        object.__setattr__(self, "_exempt", Exemptions(() if callable(self.exempt) else self.exempt))

    def passes(self, method: str, path: str, request: Request) -> bool:
        """Tell whether a request passes unasked."""
        return bool(self.exempt(request)) if callable(self.exempt) else self._exempt.passes(method, path)

    def name(self, method: str, path: str, request: Request) -> str | None:
        """Return what the plan calls the request's route; None for one that no plan can name."""
        if self.route is not None:
            return named(self.route(request))
        known = "GET" if method == "HEAD" else method
        try:
            if self.names is not None:
                name = self.names(known, path, request)
                if name is not None:
                    return name
        except Exception as error:  # noqa: BLE001 -- a converter of the application's may raise anything
            log.warning("naming %.64r by its path: the framework cannot be asked from outside: %r", path, error)
        return named(f"{known} {path or '/'}")

    def address(self, presented: object, request: Request) -> str | None:
        """Return who sent a request, where it is known: for a key, which may be good from some networks only."""
        if presented is None or isinstance(presented, Caller):
            return None
        return address_of(request, self.trusted_proxies)

    def presented(self, secret: Any, request: Request) -> str | ApiKey | Caller | None:
        """Whom the ledger is asked about: what was presented, or the caller who presented nothing."""
        if secret or self.anonymous is None or isinstance(secret, (ApiKey, Caller)):
            return secret  # type: ignore[no-any-return] # a callable's word, which the ledger checks
        name = self.by_address(request) if self.anonymous.by is None else self.anonymous.by(request)
        return name if name is None or isinstance(name, Caller) else Caller(self.anonymous.plan, name)

    def by_address(self, request: Request) -> str | None:
        """Return by what the sender's address is counted; None where it is not known."""
        address = address_of(request, self.trusted_proxies)
        if address is None:
            log.warning("a request without a key and without a known address is refused: see trusted_proxies")
        return address and counted_by(address)

    def judged(self, decision: Decision, request: Request) -> Decision:
        """A refusal, or the one of an address that guesses."""
        if self._guesses is None or decision.reason is not Reason.UNKNOWN_KEY:
            return decision
        address = address_of(request, self.trusted_proxies)
        refused = self._guesses.count("unknown" if address is None else counted_by(address))
        return decision if refused is None else refused

    def price(self, request: Request, body: bytes = b"") -> Cost | None:
        """Return what the request costs; None leaves it to the plan."""
        if body and self.cost_from_body is not None:
            estimate = self.cost_from_body(body)
            if estimate is not None:
                return estimate
        cost: Cost | None = self.cost(request) if callable(self.cost) else self.cost
        return cost

    def undecided(self, error: Exception) -> Decision:
        """The decision where the ledger could not make one."""
        allowed = self.on_unavailable == "allow"
        if getattr(error, "asked", True):  # a line for each request would say again what the first ones said
            log.warning("%s without asking the ledger: %s", "admitting" if allowed else "refusing", error)
        outcome = Outcome(allowed=allowed, now=system_clock(), states=())
        return Decision(Details(Reason.STORE_UNAVAILABLE, None, None, None, {"requests": 1}, outcome))

    def unasked(self) -> Decision:
        """The decision on a request that passes unasked."""
        return Decision(Details(Reason.OK, None, None, None, {"requests": 1}, _admitted()))

    def unsettled(self, held: Held, used: Cost | None, request: Request) -> None:
        """Report who used what, where a hold could not be settled, which the ledger has logged. None: nothing."""
        decision, key = held.decision, held.decision._details().key
        if used is not None:
            takes = parse_cost(used, "actual", 0)
            owed = Details(Reason.STORE_UNAVAILABLE, decision.id, key, decision.plan, takes, _admitted())
            self.tell(Decision(owed), request)

    def tell(self, decision: Decision, request: Request) -> None:
        """Report a decision. What reports may fail: the request goes on, so that what it holds is settled."""
        plan = decision.plan if self._known is not None else None
        if plan is not None and self._told.get(plan.id) is not plan:
            self._look(plan)
        if self.report is not None:
            try:
                self.report(decision, request)
            except Exception:
                log.exception("a decision could not be reported")

    def _look(self, plan: UsagePlan) -> None:
        """Say, once for a plan, which of its routes the application does not have: their limits would never bind."""
        before = self._told.get(plan.id)
        self._told[plan.id] = plan
        names = [*dict.fromkeys([*plan.routes, *plan.costs])]
        if before is not None and names == [*dict.fromkeys([*before.routes, *before.costs])]:
            return
        try:
            missing = self._known.missing(names) if self._known else {}
        except Exception as error:  # noqa: BLE001 -- as of names
            log.warning("the application's routes cannot be listed: %r", error)
            return
        for name, near in missing.items():
            told = f"; near it are {', '.join(map(repr, near))}" if near else ""
            log.warning("plan %r limits %r, a route that the application does not have%s", plan.id, name, told)

    def shown(self, decision: Decision) -> dict[str, str]:
        """The headers that an admitted response carries."""
        if self.profile is None:
            return {}
        if decision.allowed:
            return decision.headers(self.profile)
        return headers(self.profile, decision._rows(), decision._now, None)

    def refusal(self, decision: Decision, method: str, request: Request = None) -> Answer:
        """The whole answer to a refused request. HEAD gets no body."""
        own = None if self.refuse is None else self.refuse(decision, request)
        if own is not None:
            return shaped(own, method)
        status = self.unauthorized if decision.status == 403 else decision.status
        fields, body = written(decision, status, self.style, self.profile)
        if status == 401:
            fields["WWW-Authenticate"] = challenge(() if callable(self.key) else self.key)
        if self.preflight == "answer":
            fields["Access-Control-Expose-Headers"] = ", ".join(fields)
            fields["Access-Control-Allow-Origin"] = "*"
        return shaped(Answer(status, list(fields.items()), body), method)

    def preflighted(self, method: str, names: str) -> Answer:
        """The answer to a CORS preflight for this method and these headers."""
        return Answer(204, list(allowed_across_origins(method, names).items()))

    def nothing(self, kind: type[Reservation | AsyncReservation], close: Any) -> Any:
        """Return what an application finds where nothing is held: what it spends of that is counted nowhere."""
        now = system_clock()
        return kind(self.unasked(), Hold(now, "", now, still_open=True, takes=()), close)

    def kept(
        self, status: int | None, request: Request, default: Cost | None, held: Held | None = None
    ) -> tuple[bool, Cost | None]:
        """Return what becomes of what was held: (commit, what was used). None: all that was held.

        ``status``: the response's; None when none was begun, or the application raised. A client that goes away is no
        failure: what it was answered counts. ``default``: what the application says was used.
        """
        if self.charge == "arrival":
            return False, None
        if self.charge == "response":
            try:
                actual = default if self.actual is None else self.actual(request)
                if actual is not None or (held is not None and held.spent):
                    return True, _larger(actual, held)
            except Exception:
                log.exception(KEPT)
                return True, dict(held.spent) or None if held is not None else None
        return status is not None and self.success(status), None


def _larger(actual: Cost | None, held: Held | None) -> Cost:
    """Return all that was used: what the application says, or what it spent where that is more."""
    told = {} if actual is None else parse_cost(actual, "actual", 0)
    if held is None or (any(told.values()) and not held.spent):
        return actual  # type: ignore[return-value] # as it was told: a number counts requests, where nothing else is held
    units = [*held.held, *held.spent, *(unit for unit, used in told.items() if used)]
    return {unit: max(told.get(unit, 0), held.spent.get(unit, 0)) for unit in units}


def _admitted() -> Outcome:
    return Outcome(allowed=True, now=system_clock(), states=())


def merged(own: Mapping[str, str], fields: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """Response headers with ours in place of any of the same name, such as those of an API behind this one."""
    names = {name.lower() for name in own}
    return [pair for pair in fields if pair[0].lower() not in names] + list(own.items())


def check_view(settings: Mapping[str, Any]) -> None:
    """Raise ``InvalidValue`` for settings of a single view that cannot be meant, whatever the others say."""
    given = dict(settings)
    if isinstance(given.get("route"), str):
        check_route(given.pop("route"))
    if given.get("actual") is not None:
        given.setdefault("charge", "response")
    Gate(**{"on_unavailable": "deny", **given})

"""What the WSGI and the ASGI middleware share: everything but how a request comes in and an answer goes out. Pure."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta
from inspect import iscoroutinefunction
from typing import Any, Literal, NamedTuple, Required, TypedDict

import attrs

from ..clock import DAY_US, span_us, system_clock
from ..decision import Decision, Details, Reason
from ..errors import ClockSkew, InvalidValue, QuotaError, StoreBusy, StoreUnavailable, check_text
from ..headers import PROBLEM_TYPE, PROFILES
from ..ledger.reservation import AsyncReservation, Reservation
from ..limit import Cost, parse_cost
from ..rule.limits import Verdict
from .cors import allowed_across_origins
from .credentials import Places
from .exemptions import Exemptions
from .routes import Finder, Names, named
from .sources import check_sources

log = logging.getLogger(__package__)

KEPT = "keeping what was held: what was used cannot be known"

UNDECIDED = (StoreBusy, StoreUnavailable, ClockSkew)
"""Why a ledger cannot decide; ``on_unavailable`` says what then."""

_GATEWAY = {
    403: ("Forbidden", "ForbiddenException"),
    429: ("Limit Exceeded", "LimitExceededException"),
    503: ("Service Unavailable", "ServiceUnavailableException"),
}
_THROTTLED = ("Too Many Requests", "TooManyRequestsException")
_PHRASES = {403: "403 Forbidden", 429: "429 Too Many Requests", 503: "503 Service Unavailable"}

Held = Reservation | AsyncReservation
Request = Any
"""What the application is given: the WSGI ``environ`` or the ASGI ``scope``."""


class Settings(TypedDict, total=False):
    """The keywords of ``quota.wsgi.QuotaMiddleware`` and ``quota.asgi.QuotaMiddleware``; only the first is required.

    A callable is given the WSGI ``environ`` or the ASGI ``scope``, and is not async. One that raises is an error of the
    application's, and nothing is charged; of ``report`` and ``actual`` it is logged.

    - ``on_unavailable``: ``"deny"`` (503) or ``"allow"`` when the ledger cannot decide.
    - ``key``: where the key is presented: header names, ``"authorization"`` for its Bearer token, ``"?name"`` for a
      query parameter, or several in order; or a callable returning a secret, an ``ApiKey`` or None.
    - ``route``: a callable naming the route for the plan; by default ``"METHOD /template"`` where the framework's
      template can be known, else ``"METHOD /path"``. HEAD and WebSocket upgrades are named as GET.
    - ``cost``: what a request costs, or a callable returning it or None; by default what the plan says of the route.
    - ``api``: which API the plan governs.
    - ``charge``: ``"arrival"``; ``"success"``: held on arrival, kept or given back by the response's status;
      ``"response"``: held on arrival, then what ``actual`` says is taken.
    - ``success``: whether a status is one that is charged; by default those below 400.
    - ``actual``: a callable returning what was used, called when the response has ended; by default what the
      application put in ``environ["quota.actual"]`` or ``scope["state"]["quota_actual"]``. None keeps what was held,
      if the status is a success.
    - ``ttl``: how long units are held (a timedelta, or microseconds), an hour by default; a response that ends later
      is charged all the same, and what a process that died held is back then.
    - ``exempt``: what passes unasked and untouched: ``"/health"``, ``"/static/*"``, ``"GET /docs"`` (HEAD too), or a
      callable.
    - ``preflight``: what becomes of CORS preflights, which never carry a key (Fetch, section 3.3): ``"ask"`` for one as
      of any request; ``"pass"`` them unasked to an application that answers each by itself; ``"answer"`` them here, for
      every origin, which then may read refusals too.
    - ``shadow``: decide, count and report, but never refuse.
    - ``style``: refusals as ``"problem"`` details (RFC 9457) or as ``"api_gateway"`` writes them.
    - ``profile``: the headers of ``Decision.headers``, or None for none.
    - ``report``: called with (decision, request) on arrival, and with the decision that a commit makes; when it could
      not be made, with one whose reason is ``STORE_UNAVAILABLE`` and whose ``key`` and ``cost`` say who used what.
    - ``redact``: show the application and the server's logs only the secret's last four characters, and nothing else
      of what stands where keys may be presented.
    """

    on_unavailable: Required[Literal["deny", "allow"]]
    key: str | Iterable[str] | Callable[[Request], Any]
    route: Callable[[Request], str | None] | None
    cost: Cost | Callable[[Request], Cost | None] | None
    api: str
    charge: Literal["arrival", "success", "response"]
    success: Callable[[int], bool]
    actual: Callable[[Request], Cost | None] | None
    ttl: timedelta | int
    exempt: str | Iterable[str] | Callable[[Request], bool]
    preflight: Literal["ask", "pass", "answer"]
    shadow: bool
    style: Literal["problem", "api_gateway"]
    profile: str | None
    report: Callable[[Decision, Request], None] | None
    redact: bool


class Answer(NamedTuple):
    """A refusal, whole. ``reason`` is the status line of HTTP/1."""

    status: int
    reason: str
    headers: list[tuple[str, str]]
    body: bytes


def _one_of(*accepted: str | None) -> Any:
    def check(_: Any, field: Any, value: object) -> None:
        if not (value is None or isinstance(value, str)) or value not in accepted:
            raise InvalidValue(field.name, value, " or ".join(map(repr, accepted)))

    return check


def _flag(_: Any, field: Any, value: object) -> None:
    if type(value) is not bool:
        raise InvalidValue(field.name, value, "True or False")


def _function(_: Any, field: Any, value: object) -> None:
    if not callable(value) and (value is not None or field.default is not None):
        raise InvalidValue(field.name, value, "a callable")


def _sources(key: Any) -> Any:
    return key if callable(key) else check_sources(key)


def _span(ttl: timedelta | int) -> int:
    span = span_us(ttl, "ttl")
    if not 0 < span <= 366 * DAY_US:
        raise InvalidValue("ttl", ttl, "a timedelta or microseconds, above zero and at most 366 days")
    return span


def _api(_: Any, field: Any, value: object) -> None:
    if value != "":
        check_text(field.name, value)


_CALLED = ("key", "route", "cost", "success", "actual", "exempt", "report")
"""The settings that may be callables, called and never awaited: a coroutine is true, whatever it would come to."""


def _below_400(status: int) -> bool:
    return status < 400


@attrs.frozen(kw_only=True, eq=False)
class Gate:
    """The settings of a middleware, checked, and the pure steps between a request and its answer."""

    on_unavailable: str = attrs.field(validator=_one_of("deny", "allow"))
    key: Any = attrs.field(default="x-api-key", converter=_sources)
    route: Callable[[Request], str | None] | None = attrs.field(default=None, validator=_function)
    cost: Any = None
    api: str = attrs.field(default="", validator=_api)
    charge: str = attrs.field(default="arrival", validator=_one_of("arrival", "success", "response"))
    success: Callable[[int], bool] = attrs.field(default=_below_400, validator=_function)
    actual: Callable[[Request], Cost | None] | None = attrs.field(default=None, validator=_function)
    ttl: Any = attrs.field(default=timedelta(hours=1), converter=_span)
    exempt: Any = attrs.field(default=())
    preflight: str = attrs.field(default="ask", validator=_one_of("ask", "pass", "answer"))
    shadow: bool = attrs.field(default=False, validator=_flag)
    style: str = attrs.field(default="problem", validator=_one_of("problem", "api_gateway"))
    profile: str | None = attrs.field(default="ietf", validator=_one_of(None, *PROFILES))
    report: Callable[[Decision, Request], None] | None = attrs.field(default=None, validator=_function)
    redact: bool = attrs.field(default=True, validator=_flag)
    _template: Finder | None = attrs.field(default=None, alias="template")
    names: Names | None = attrs.field(init=False)
    places: Places = attrs.field(init=False)
    _exempt: Exemptions = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        for name in _CALLED:
            value = getattr(self, name)
            if iscoroutinefunction(value) or iscoroutinefunction(getattr(value, "__call__", None)):  # noqa: B004 -- which
                raise InvalidValue(name, value, "a callable that is not async")
        if self.cost is not None and not callable(self.cost):
            parse_cost(self.cost)
        if self.actual is not None and self.charge != "response":
            raise InvalidValue("actual", self.actual, "nothing, unless charge='response'")
        object.__setattr__(self, "places", Places(() if callable(self.key) else self.key))
        object.__setattr__(self, "names", Names(self._template) if self._template else None)
        object.__setattr__(self, "_exempt", Exemptions(() if callable(self.exempt) else self.exempt))

    def passes(self, method: str, path: str, request: Request) -> bool:
        """Whether a request passes unasked."""
        return bool(self.exempt(request)) if callable(self.exempt) else self._exempt.passes(method, path)

    def name(self, method: str, path: str, request: Request) -> str | None:
        """What the plan calls the request's route; None for one that no plan can name."""
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

    def price(self, request: Request) -> Cost | None:
        """What the request costs; None leaves it to the plan."""
        cost: Cost | None = self.cost(request) if callable(self.cost) else self.cost
        return cost

    def undecided(self, error: Exception) -> Decision:
        """The decision where the ledger could not make one."""
        allowed = self.on_unavailable == "allow"
        log.warning("%s without asking the ledger: %s", "admitting" if allowed else "refusing", error)
        verdict = Verdict(allowed=allowed, now=system_clock(), standings=())
        return Decision(Details(Reason.STORE_UNAVAILABLE, None, None, None, {"requests": 1}, verdict))

    def unasked(self) -> Decision:
        """The decision on a request that passes unasked."""
        return Decision(Details(Reason.OK, None, None, None, {"requests": 1}, _admitted()))

    def unsettled(self, held: Held, used: Cost | None, error: QuotaError, request: Request) -> None:
        """Say who used what, where a hold could not be settled: an operator may charge it by hand. None: nothing."""
        decision, key = held.decision, held.decision.key
        log.error(
            "a reservation could not be settled: used %s, held %s until %s, key %r, account %r, reservation %s: %s",
            used or 0, decision.cost, held.expires_at.isoformat(), key and key.id, key and key.account, held.id, error,
        )  # fmt: skip
        if used is not None:
            takes = parse_cost(used, "actual", 0)
            owed = Details(Reason.STORE_UNAVAILABLE, decision.id, key, decision.plan, takes, _admitted())
            self.tell(Decision(owed), request)

    def tell(self, decision: Decision, request: Request) -> None:
        """Report a decision. What reports may fail: the request goes on, so that what it holds is settled."""
        if self.report is not None:
            try:
                self.report(decision, request)
            except Exception:
                log.exception("a decision could not be reported")

    def shown(self, decision: Decision) -> dict[str, str]:
        """The headers that an admitted response carries."""
        if self.profile is None:
            return {}
        found = decision.headers(self.profile)
        if not decision.allowed:
            found.pop("Retry-After", None)
        return found

    def refusal(self, decision: Decision, method: str) -> Answer:
        """The whole answer to a refused request. HEAD gets no body."""
        status = decision.status
        if self.style == "api_gateway":
            message, kind = _THROTTLED if decision.reason is Reason.THROTTLED else _GATEWAY[status]
            body = json.dumps({"message": message}, separators=(",", ":")).encode()
            fields = {"Content-Type": "application/json", "x-amzn-ErrorType": kind}
        else:
            body = json.dumps(decision.problem(), separators=(",", ":")).encode()
            fields = {"Content-Type": PROBLEM_TYPE, "Cache-Control": "no-store"}
            if self.profile is not None:
                fields |= decision.headers(self.profile)
        if self.preflight == "answer":
            fields["Access-Control-Expose-Headers"] = ", ".join(fields)
            fields["Access-Control-Allow-Origin"] = "*"
        fields["Content-Length"] = str(len(body))
        return Answer(status, _PHRASES[status], list(fields.items()), b"" if method == "HEAD" else body)

    def preflighted(self, method: str, names: str) -> Answer:
        """The answer to a CORS preflight for this method and these headers."""
        return Answer(204, "204 No Content", list(allowed_across_origins(method, names).items()), b"")

    def kept(self, status: int | None, request: Request, default: Cost | None) -> tuple[bool, Cost | None]:
        """What becomes of what was held: (commit, what was used). None: all that was held.

        ``status``: the response's; None when none was begun, or the application raised. A client that goes away is no
        failure: what it was answered counts. ``default``: what the application says was used.
        """
        if self.charge == "response":
            try:
                actual = default if self.actual is None else self.actual(request)
                if actual is not None:
                    parse_cost(actual, "actual", 0)
                    return True, actual
            except Exception:
                log.exception(KEPT)
                return True, None
        return status is not None and self.success(status), None


def _admitted() -> Verdict:
    return Verdict(allowed=True, now=system_clock(), standings=())


def merged(own: Mapping[str, str], fields: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """Response headers with ours in place of any of the same name, such as those of an API behind this one."""
    names = {name.lower() for name in own}
    return [pair for pair in fields if pair[0].lower() not in names] + list(own.items())

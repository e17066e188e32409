"""The settings of all middlewares and their checks, and the answer that one gives in an application's place."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta
from http import HTTPStatus
from typing import Any, Literal, NamedTuple, Required, TypedDict

import attrs

from ..clock import DAY_US, span_us
from ..decision import Decision
from ..errors import InvalidPlan, InvalidValue, check_text
from ..ledger.limited import awaited
from ..ledger.requests import Credential
from ..limit import REQUESTS, Cost, Limit, Quota, Throttle
from ..limit_text import parse_limits
from .addresses import Anonymous, Trusted
from .sources import check_sources

Request = Any
"""All that the application is given: the WSGI ``environ`` or the ASGI ``scope``."""


class Answer(NamedTuple):
    """A whole answer in place of the application's."""

    status: int
    headers: list[tuple[str, str]] = []  # noqa: RUF012 -- a default that nobody changes
    body: bytes = b""

    @property
    def reason(self) -> str:
        """The status line of HTTP/1."""
        known = [status.phrase for status in HTTPStatus if status == self.status]
        return f"{self.status} {known[0] if known else 'Unknown'}"


class _Others(TypedDict, total=False):
    key: str | Iterable[str] | Callable[[Request], Credential]
    trusted_proxies: Trusted
    failed_keys: str | Limit | None
    cost: Cost | Callable[[Request], Cost | None] | None
    cost_from_body: Callable[[bytes], Cost | None] | None
    most_body: int
    api: str
    charge: Literal["arrival", "success", "response"]
    success: Callable[[int], bool]
    actual: Callable[[Request], Cost | None] | None
    ttl: timedelta | int
    exempt: str | Iterable[str] | Callable[[Request], bool]
    preflight: Literal["ask", "pass", "answer"]
    shadow: bool
    refuse: Callable[[Decision, Request], Answer | None] | None
    unauthorized: Literal[401, 403]
    style: Literal["problem", "api_gateway"]
    profile: str | None
    report: Callable[[Decision, Request], None] | None
    redact: bool


class Settings(_Others, total=False):
    """The keywords of ``quota.wsgi.QuotaMiddleware`` and ``quota.asgi.QuotaMiddleware``; only the first is required.

    A callable is given the WSGI ``environ`` or the ASGI ``scope``, and is not async. One that raises is an error of the
    application's, and nothing is charged; of ``report`` and ``actual`` it is logged.

    - ``on_unavailable``: ``"deny"`` (503) or ``"allow"`` when the ledger cannot decide.
    - ``key``: where the key is presented: header names, ``"authorization"`` for its Bearer token, ``"?name"`` for a
      query parameter, or several in order; or a callable returning a secret, an ``ApiKey`` or None.
    - ``anonymous``: an ``Anonymous``: who presents no key is counted under its plan, by address.
    - ``trusted_proxies``: how many proxies stand in front, or their networks, whose ``X-Forwarded-For`` and
      ``Forwarded`` are believed (``client_address``); by default nobody's.
    - ``failed_keys``: a limit such as ``"20/minute"`` on keys that nobody has, by address, counted in this process;
      above it they are answered 429. A key that is there is never refused for it.
    - ``route``: a callable naming the route for the plan; by default ``"METHOD /template"`` where the framework's
      template can be known, else ``"METHOD /path"``. HEAD and WebSocket upgrades are named as GET.
    - ``cost``: what a request costs, or a callable returning it or None; by default what the plan says of the route.
    - ``api``: which API the plan governs.
    - ``charge``: ``"arrival"``; ``"success"``: held on arrival, kept or given back by the response's status;
      ``"response"``: held on arrival, then what was spent as it streamed is taken, or what ``actual`` says, if more.
    - ``cost_from_body``: a callable that is given the request's body, or its first ``most_body`` bytes (1 MiB), and
      returns what the request costs, or None; the application still receives all of it. Not called without a body.
    - ``success``: whether a status is one that is charged; by default those below 400.
    - ``actual``: a callable returning what was used, called when the response has ended; by default what the
      application put in ``environ["quota.actual"]`` or ``scope["state"]["quota_actual"]``. None, where nothing was
      spent: keeps what was held, if the status is a success.
    - ``ttl``: how long units and places in flight are held (a timedelta, or microseconds), a minute by default, and
      again and again while the response lasts; what a process that died held is back then.
    - ``exempt``: what passes unasked and untouched: ``"/health"``, ``"/static/*"``, ``"GET /docs"`` (HEAD too), or a
      callable.
    - ``preflight``: what becomes of CORS preflights, which never carry a key (Fetch, section 3.3): ``"ask"`` for one as
      of any request; ``"pass"`` them unasked to an application that answers each by itself; ``"answer"`` them here, for
      every origin, which then may read refusals too.
    - ``shadow``: decide, count and report, but never refuse.
    - ``refuse``: called with (decision, request) for a refusal; returns the ``Answer`` to give, None for the usual one.
    - ``unauthorized``: 403, or 401 with ``WWW-Authenticate``, for who presents no usable key.
    - ``style``: refusals as ``"problem"`` details (RFC 9457) or as ``"api_gateway"`` writes them.
    - ``profile``: the headers of ``Decision.headers``, or None for none.
    - ``report``: called with (decision, request) on arrival, and with the decision that a commit makes; when it could
      not be made, with one whose reason is ``STORE_UNAVAILABLE`` and whose ``key`` and ``cost`` say who used what.
    - ``redact``: show the application and the server's logs only the secret's last four characters, and nothing else
      of what stands where keys may be presented.
    """

    on_unavailable: Required[Literal["deny", "allow"]]
    anonymous: Anonymous | None
    route: Callable[[Request], str | None] | None


class SomeSettings(_Others, total=False):
    """Some of the settings, where a framework's own configuration says the others; a ``route`` by name too."""

    on_unavailable: Literal["deny", "allow"]
    route: str | Callable[[Request], str | None] | None


def one_of(*accepted: str | None) -> Any:
    """Check one of several values."""

    def check(_: Any, field: Any, value: object) -> None:
        if not (value is None or isinstance(value, str)) or value not in accepted:
            raise InvalidValue(field.name, value, " or ".join(map(repr, accepted)))

    return check


def flag(_: Any, field: Any, value: object) -> None:
    """Check True or False."""
    if type(value) is not bool:
        raise InvalidValue(field.name, value, "True or False")


def function(_: Any, field: Any, value: object) -> None:
    """Check a callable; None where that is the default."""
    if not callable(value) and (value is not None or field.default is not None):
        raise InvalidValue(field.name, value, "a callable")


def sources_of(key: Any) -> Any:
    """Check where keys are looked for, unless a callable finds them."""
    return key if callable(key) else check_sources(key)


def span(ttl: timedelta | int) -> int:
    """Check how long units are held. In microseconds."""
    span = span_us(ttl, "ttl")
    if not 0 < span <= 366 * DAY_US:
        raise InvalidValue("ttl", ttl, "a timedelta or microseconds, above zero and at most 366 days")
    return span


def api(_: Any, field: Any, value: object) -> None:
    """Check the name of an API."""
    if value != "":
        check_text(field.name, value)


def anonymous(_: Any, field: Any, value: object) -> None:
    """Check an ``Anonymous``, if there is one."""
    if value is not None and not isinstance(value, Anonymous):
        raise InvalidValue(field.name, value, "an Anonymous(plan)")


def status(_: Any, field: Any, value: object) -> None:
    """Check one of two statuses."""
    if type(value) is not int or value not in (401, 403):
        raise InvalidValue(field.name, value, "401 or 403")


def most_body(_: Any, field: Any, value: object) -> None:
    """Check a number of bytes."""
    if type(value) is not int or value < 1:
        raise InvalidValue(field.name, value, "a number of bytes, at least 1")


FAILED = "failed keys"


def failed_keys(text: str | Limit | None) -> Limit | None:
    """The limit on guesses, by its own name."""
    try:
        limits = parse_limits(text) if isinstance(text, str) else (text,)
    except InvalidPlan as error:
        raise InvalidValue("failed_keys", error.value, error.accepted) from None
    if len(limits) != 1:
        raise InvalidValue("failed_keys", text, "one limit, as in '20/minute'")
    if limits[0] is None:
        return None
    if not isinstance(limits[0], (Quota, Throttle)) or limits[0].unit != REQUESTS:
        raise InvalidValue("failed_keys", text, "one limit of requests, as in '20/minute'")
    return attrs.evolve(limits[0], name=FAILED)


_OF_REQUEST = ("key", "route", "cost", "actual", "exempt")
_OF_DECISION = ("refuse", "report")


def check_called(name: str, value: object) -> None:
    """Raise ``InvalidValue`` for a callable that nobody would await: a coroutine is true, whatever comes of it."""
    if awaited(value):
        raise InvalidValue(name, value, "a callable that is not async")


def seeing(settings: Mapping[str, Any], find: Callable[[Any], Any]) -> dict[str, Any]:
    """Return settings whose callables are given a framework's own request: ``find`` finds it in the steps' request."""
    given = dict(settings)
    for name in (*_OF_REQUEST, *_OF_DECISION):
        check_called(name, given.get(name))
    given |= {name: _through(given[name], find) for name in _OF_REQUEST if callable(given.get(name))}
    given |= {name: _beside(given[name], find) for name in _OF_DECISION if callable(given.get(name))}
    anonymous = given.get("anonymous")
    if isinstance(anonymous, Anonymous) and anonymous.by is not None:
        given["anonymous"] = Anonymous(anonymous.plan, _through(anonymous.by, find))
    return given


def _through(function: Callable[[Any], Any], find: Callable[[Any], Any]) -> Callable[[Request], Any]:
    return lambda request: function(find(request))


def _beside(function: Callable[[Decision, Any], Any], find: Callable[[Any], Any]) -> Callable[[Decision, Request], Any]:
    return lambda decision, request: function(decision, find(request))

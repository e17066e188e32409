"""Usage plans as a Flask extension (extra ``flask``): in front of every view, or of those that are ``limited``."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any, TypeVar, Unpack, overload
from wsgiref.types import WSGIEnvironment

import flask
from werkzeug.exceptions import HTTPException, default_exceptions

from .decision import Decision
from .errors import InvalidValue
from .ledger.sync import Ledger
from .web.addresses import Anonymous
from .web.bodies import read_input
from .web.gate import Answer, check_view
from .web.responses.plain import Exchange
from .web.routes import KnownRoutes, WerkzeugRoutes
from .web.settings import Settings, SomeSettings, seeing
from .wsgi import QuotaMiddleware, nowhere, preflight_of

ViewFunction = TypeVar("ViewFunction", bound=Callable[..., Any])

_MARK = "__quota__"
_EXTENSION, _EXCHANGE, _GLOBALS = "quota", "quota.exchange", "quota.globals"
_REQUEST = "werkzeug.request"
_OF_VIEWS = {*Settings.__annotations__}
_KNOWN = {*_OF_VIEWS, "ledger", "everywhere"}


class ViewSettings(SomeSettings, total=False):
    """The keywords of ``Quota.limited``."""

    anonymous: Anonymous | None


class ExtensionSettings(ViewSettings, total=False):
    """The keywords of ``Quota``."""

    everywhere: bool


class Refused(HTTPException):
    """A refused request, as ``@app.errorhandler(429)`` sees it; ``decision`` says why."""

    decision: Decision
    answer: Answer

    def get_response(self, *_: Any, **__: Any) -> Any:
        """Return the whole answer."""
        return _response(self.answer)


class Quota:
    """``Quota(app, ledger, on_unavailable="deny")`` checks and counts every request; refusals are Flask's own errors.

    ``ledger``: a ``Ledger``, or the URL of its store. ``everywhere=False``: only the views that are ``limited``.
    ``settings``: see ``Settings``; callables are given Flask's request. All of them may come from the application's
    configuration instead (``QUOTA_LEDGER``, ``QUOTA_ON_UNAVAILABLE``), with ``init_app``. A view finds the decision in
    ``flask.g.quota``; what a response used it says in ``flask.g.quota_actual``, or spends it as it streams of
    ``flask.g.quota_reservation``.

    Raises:
        InvalidValue: for a setting that cannot be meant.
    """

    def __init__(
        self, app: flask.Flask | None = None, ledger: Ledger | str | None = None, **settings: Unpack[ExtensionSettings]
    ) -> None:
        self._given: dict[str, Any] = {**settings} if ledger is None else {**settings, "ledger": ledger}
        if app is not None:
            self.init_app(app)

    def init_app(self, app: flask.Flask) -> None:
        """Put it in front of an application: its configuration says what was not said here."""
        if _EXTENSION in app.extensions:
            raise InvalidValue("app", app.name, "an application that has no Quota yet")
        front = _Hooks(app, {**app.config.get_namespace("QUOTA_"), **self._given})
        app.extensions[_EXTENSION] = front
        app.before_request(front.before)
        app.after_request(front.after)
        app.teardown_request(front.teardown)

    @overload
    def limited(self, view: ViewFunction, /) -> ViewFunction: ...
    @overload
    def limited(self, /, **settings: Unpack[ViewSettings]) -> Callable[[ViewFunction], ViewFunction]: ...
    def limited(self, view: Any = None, /, **settings: Any) -> Any:
        """Give a view settings of its own, above or below ``@app.get``: ``@quota.limited(cost=5)``.

        In place of the extension's, and counted once; a ``route`` by name. A class has it among its ``decorators``.
        Raises ``InvalidValue`` for a setting that cannot be meant.
        """
        _check(settings, _OF_VIEWS)
        check_view(settings)

        def mark(view: ViewFunction) -> ViewFunction:
            try:
                setattr(view, _MARK, settings)
            except AttributeError:
                raise InvalidValue("view", view, "a function; of a class, its as_view()") from None
            return view

        return mark if view is None else mark(view)


class _Hooks:
    """The hooks of one application, and a middleware's steps for each kind of its views."""

    def __init__(self, app: flask.Flask, given: dict[str, Any]) -> None:
        _check(given, _KNOWN)
        self._app = app
        settings = dict(given)
        ledger, self._everywhere = settings.pop("ledger", None), settings.pop("everywhere", True)
        if type(self._everywhere) is not bool:
            raise InvalidValue("everywhere", self._everywhere, "True or False")
        self._ledger: Any = Ledger(ledger) if isinstance(ledger, str) else ledger
        if "on_unavailable" not in settings:
            raise InvalidValue("on_unavailable", None, "'deny' or 'allow'")
        self._settings = settings
        self._made: dict[int, tuple[dict[str, Any], QuotaMiddleware]] = {}
        self._common = self._steps({})

    def before(self) -> Any:
        """Decide a request before its view runs."""
        request = flask.request
        view: Any = flask.current_app.view_functions.get(request.endpoint or "")
        own = getattr(view, _MARK, None)
        if own is None and not self._everywhere:
            return None
        front = self._common if own is None else self._steps(own)
        gate, environ, method = front.gate, request.environ, request.method
        preflight = preflight_of(environ, gate) if method == "OPTIONS" and gate.preflight != "ask" else None
        if preflight and gate.preflight == "answer":
            return _response(preflight)
        if preflight or gate.passes(method, request.path, environ):
            return None
        decision, held = front.decide(environ, method, request.path, _body)
        for read in ("args", "full_path", "url"):  # what Werkzeug keeps of it as it was
            vars(request).pop(read, None)
        request.query_string = environ.get("QUERY_STRING", "").encode("latin-1")
        environ[_GLOBALS] = flask.g._get_current_object()  # a stream outlives its context
        flask.g.quota = decision
        flask.g.quota_reservation = environ.get("quota.reservation")
        if not decision.allowed and not gate.shadow:
            answer = gate.refusal(decision, method, environ)
            if answer.status not in default_exceptions:
                return _response(answer)
            error = _kind(answer.status)()
            error.decision, error.answer = decision, answer
            raise error
        own_headers = gate.shown(decision)
        environ[_EXCHANGE] = (own_headers, None if held is None else Exchange(gate, held, environ, own_headers))
        return None

    def after(self, response: Any) -> Any:
        """Tell the limits, and settle what is held by the response."""
        own, exchange = flask.request.environ.pop(_EXCHANGE, ({}, None))
        for name, value in own.items():
            response.headers[name] = value
        if exchange is not None:
            exchange.begin(response.status_code, response.headers.items())
            if response.is_streamed:
                exchange.carry(response.response)
                response.response = exchange
            else:
                exchange.settle()
        return response

    def teardown(self, _: BaseException | None) -> None:
        """Settle what no response came of."""
        _, exchange = flask.request.environ.pop(_EXCHANGE, ({}, None))
        if exchange is not None:
            exchange.fail()

    def _steps(self, own: dict[str, Any]) -> QuotaMiddleware:
        """Return the steps by the extension's settings and a view's own."""
        kept = self._made.get(id(own))
        if kept is not None and kept[0] is own:
            return kept[1]
        given = seeing({**self._settings, **own}, lambda environ: environ and environ[_REQUEST])
        route = given.get("route")
        if route is None or isinstance(route, str):
            given["route"] = _name if route is None else lambda _: route
        if given.get("charge") == "response":
            given.setdefault("actual", lambda environ: environ[_GLOBALS].get("quota_actual"))
        known = KnownRoutes(WerkzeugRoutes(self._app)) if route is None else None
        made = QuotaMiddleware(nowhere, self._ledger, **{**given, "known": known})
        if self._made:
            object.__setattr__(made.gate, "_guesses", self._common.gate._guesses)
        self._made[id(own)] = own, made
        return made


def _check(settings: dict[str, Any], known: set[str]) -> None:
    for name, value in settings.items():
        if name not in known:
            raise InvalidValue(name, value, f"one of the settings {', '.join(sorted(known))}")


@lru_cache(maxsize=64)
def _kind(status: int) -> type[Refused]:
    """Return the error of a status: ``Refused``, and what Werkzeug has for it."""
    return type("Refused", (Refused, default_exceptions[status]), {})


def _response(answer: Answer) -> Any:
    response = flask.Response(answer.body, answer.status)
    response.headers.clear()
    response.headers.extend(answer.headers)
    return response


def _name(environ: WSGIEnvironment) -> str:
    """Return the route's name by the rule that Flask found."""
    request = environ[_REQUEST]
    method = "GET" if request.method == "HEAD" else request.method
    return f"{method} {request.url_rule.rule if request.url_rule is not None else request.path}"


def _body(environ: WSGIEnvironment, most: int) -> bytes:
    """Return the first bytes of a body, which the view reads again; of a form with files none."""
    request = environ[_REQUEST]
    if request.mimetype == "multipart/form-data":
        return b""
    if "stream" in vars(request):  # somebody has begun to read it, as Werkzeug does
        return bytes(request.get_data()[:most])
    return read_input(environ, most)

"""A usage plan in front of a WSGI application (PEP 3333), as API Gateway stands in front of a service."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import Any, Unpack
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

from .decision import Decision, Reason
from .errors import InvalidCost, InvalidValue, QuotaError
from .ledger.reservation import Reservation
from .ledger.sync import Ledger
from .operations.shape import DEFAULT
from .web.bodies import read_input
from .web.gate import KEPT, UNDECIDED, Answer, Gate, Settings, log, merged
from .web.routes import templates


class QuotaMiddleware:
    """Checks and counts every request to ``app`` by its API key; refuses with 403, 429 or 503 in its place.

    ``settings``: see ``Settings``; ``on_unavailable`` is required. The application finds the decision in
    ``environ["quota.decision"]``, with its ``key``, ``plan`` and ``limits``.

    Raises:
        InvalidValue: for a setting that cannot be meant, and for a ledger that is no ``Ledger``.
    """

    def __init__(self, app: WSGIApplication, ledger: Ledger, **settings: Unpack[Settings]) -> None:
        if not isinstance(ledger, Ledger):
            raise InvalidValue("ledger", ledger, "a Ledger")
        self.app = app
        self._ledger: Any = ledger
        self._gate = Gate(template=templates(app), clock=ledger._clock, **settings)

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        gate = self._gate
        method, path = environ["REQUEST_METHOD"].upper(), environ.get("PATH_INFO") or "/"
        if not path.isascii():
            path = path.encode("latin-1", "replace").decode("utf-8", "replace")
        preflight = _preflight(environ, gate) if method == "OPTIONS" and gate.preflight != "ask" else None
        if preflight and gate.preflight == "answer":
            return _answer(preflight, start_response)
        if preflight or gate.passes(method, path, environ):
            return self.app(environ, start_response)
        found = gate.key(environ) if callable(gate.key) else gate.places.of_environ(environ, redact=gate.redact)
        secret = gate.presented(found, environ)
        route = None if secret is None else gate.name(method, path, environ)
        decision, reservation = self._decide(secret, route, environ)
        environ["quota.decision"] = decision
        gate.tell(decision, environ)
        if not decision.allowed and not gate.shadow:
            return _answer(gate.refusal(decision, method, environ), start_response)
        own = gate.shown(decision)
        if reservation is None and not own:
            return self.app(environ, start_response)
        if reservation is None:

            def start(status: str, fields: list[tuple[str, str]], *error: Any) -> Callable[[bytes], object]:
                return start_response(status, merged(own, fields), *error)

            return self.app(environ, start)
        return _Exchange(gate, reservation, environ, own).run(self.app, start_response)

    def _decide(self, secret: Any, route: str | None, environ: WSGIEnvironment) -> tuple[Decision, Reservation | None]:
        gate, ledger = self._gate, self._ledger
        body = read_input(environ, gate.most_body) if gate.cost_from_body and secret is not None else b""
        price = gate.price(environ, body)
        cost = DEFAULT if price is None else price
        held, address = None, gate.address(secret, environ)
        try:
            if gate.charge == "arrival":
                decision = ledger.consume(secret, cost, api=gate.api, route=route, address=address)
            else:
                held = ledger.reserve(secret, cost, ttl=gate.ttl, api=gate.api, route=route, address=address)
                decision = held.decision
        except UNDECIDED as error:
            return gate.undecided(error), None
        if not decision.allowed:
            return gate.judged(decision, environ), None
        return decision, held if held and decision.reason is Reason.OK else None


def _preflight(environ: WSGIEnvironment, gate: Gate) -> Answer | None:
    """The answer to a request if it is a CORS preflight; what stands where keys may come is hidden then."""
    asked = environ.get("HTTP_ACCESS_CONTROL_REQUEST_METHOD")
    if asked is None or "HTTP_ORIGIN" not in environ:
        return None
    gate.places.of_environ(environ, redact=gate.redact, find=False)
    return gate.preflighted(asked, environ.get("HTTP_ACCESS_CONTROL_REQUEST_HEADERS", ""))


def _answer(answer: Answer, start_response: StartResponse) -> list[bytes]:
    start_response(answer.reason, answer.headers)
    return [answer.body]


class _Exchange:
    """One response whose units are held: iterates and closes as the application's, and settles when it has ended."""

    def __init__(self, gate: Gate, reservation: Reservation, environ: WSGIEnvironment, own: dict[str, str]) -> None:
        self._gate = gate
        self._reservation = reservation
        self._environ = environ
        self._own = own
        self._status: int | None = None
        self._body: Any = None
        self._chunks: Iterator[bytes] = iter(())

    def run(self, app: WSGIApplication, start_response: StartResponse) -> Iterable[bytes]:
        gate = self._gate

        def start(status: str, fields: list[tuple[str, str]], *error: Any) -> Callable[[bytes], object]:
            self._status = int(status[:3])
            if gate.charge == "success" and not gate.success(self._status):
                self._settle()
            return start_response(status, merged(self._own, fields), *error)

        with self:
            self._body = app(self._environ, start)
            self._chunks = iter(self._body)
        return self

    def __enter__(self) -> None:
        """Settle as failed whatever the application raises."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None and not isinstance(error, StopIteration):
            self._status = None
            self._settle()

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        with self:
            return next(self._chunks)

    def close(self) -> None:
        try:
            close = getattr(self._body, "close", None)
            if close is not None:
                close()
        finally:
            self._settle()

    def _settle(self) -> None:
        reservation, gate = self._reservation, self._gate
        if reservation.settled:
            return
        commit, actual = gate.kept(self._status, self._environ, self._environ.get("quota.actual"))
        try:
            if commit:
                try:
                    decision = reservation.commit(actual)
                except InvalidCost:
                    log.exception(KEPT)
                    actual = None
                    decision = reservation.commit()
                gate.tell(decision, self._environ)
            else:
                reservation.cancel()
        except QuotaError as error:
            used = reservation.decision.cost if actual is None else actual
            gate.unsettled(reservation, used if commit else None, error, self._environ)

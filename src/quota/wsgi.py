"""A usage plan in front of a WSGI application (PEP 3333), as API Gateway stands in front of a service."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Unpack
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

from .decision import Decision, Reason
from .errors import InvalidValue
from .ledger.reservations.handle import Reservation
from .ledger.sync import Ledger
from .limit import Cost
from .operations.headroom import Told
from .operations.shape import DEFAULT
from .web.bodies import read_input
from .web.gate import UNDECIDED, Answer, Gate, Settings, merged
from .web.responses.plain import Exchange
from .web.routes import templates


class QuotaMiddleware:
    """Checks and counts every request to ``app`` by its API key; refuses with 403, 429 or 503 in its place.

    ``settings``: see ``Settings``; ``on_unavailable`` is required. The application finds the decision in
    ``environ["quota.decision"]``, with its ``key``, ``plan`` and ``limits``, and what is held, unless it was charged on
    arrival, in ``environ["quota.reservation"]``. A call has its place in flight until its response has ended.

    Raises:
        InvalidValue: for a setting that cannot be meant, and for a ledger that is no ``Ledger``.
    """

    def __init__(self, app: WSGIApplication, ledger: Ledger, **settings: Unpack[Settings]) -> None:
        if not isinstance(ledger, Ledger):
            raise InvalidValue("ledger", ledger, "a Ledger")
        self.app = app
        self._ledger: Any = ledger
        self.gate = Gate(template=templates(app), clock=ledger._clock, **settings)

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        gate = self.gate
        method, path = environ["REQUEST_METHOD"].upper(), environ.get("PATH_INFO") or "/"
        if not path.isascii():
            path = path.encode("latin-1", "replace").decode("utf-8", "replace")
        preflight = preflight_of(environ, gate) if method == "OPTIONS" and gate.preflight != "ask" else None
        if preflight and gate.preflight == "answer":
            return _answer(preflight, start_response)
        if preflight or gate.passes(method, path, environ):
            return self.app(environ, start_response)
        decision, held = self.decide(environ, method, path)
        if not decision.allowed and not gate.shadow:
            return _answer(gate.refusal(decision, method, environ), start_response)
        own = gate.shown(decision)
        if held is None and not own:
            return self.app(environ, start_response)
        if held is None:

            def start(status: str, fields: list[tuple[str, str]], *error: Any) -> Callable[[bytes], object]:
                return start_response(status, merged(own, fields), *error)

            return self.app(environ, start)
        return Exchange(gate, held, environ, own).run(self.app, start_response)

    def decide(
        self,
        environ: WSGIEnvironment,
        method: str,
        path: str,
        read: Callable[[WSGIEnvironment, int], bytes] = read_input,
        *,
        keep_slot: bool = True,
    ) -> tuple[Decision, Reservation | None]:
        """Find the key, name the route and ask the ledger; tell the application. What is held is to be settled.

        ``read``: the body's first bytes.
        """
        gate = self.gate
        found = gate.key(environ) if callable(gate.key) else gate.places.of_environ(environ, redact=gate.redact)
        secret = gate.presented(found, environ)
        route = None if secret is None else gate.name(method, path, environ)
        body = read(environ, gate.most_body) if gate.cost_from_body and secret is not None else b""
        price = gate.price(environ, body)
        decision, held = self._ask(secret, price, route, environ, gate.ttl if keep_slot else None)
        environ["quota.decision"] = decision
        if gate.charge != "arrival":
            environ["quota.reservation"] = held or gate.nothing(Reservation, self._ledger._settle)
        gate.tell(decision, environ)
        return decision, held

    def _ask(
        self, secret: Any, price: Cost | None, route: str | None, environ: WSGIEnvironment, keep_slot: int | None
    ) -> tuple[Decision, Reservation | None]:
        gate, ledger = self.gate, self._ledger
        cost = DEFAULT if price is None else price
        held, address = None, gate.address(secret, environ)
        try:
            if gate.charge == "arrival":
                decision = ledger.consume(secret, cost, api=gate.api, route=route, address=address, keep_slot=keep_slot)
                held = decision.slot if type(decision) is not Told else None  # not of a plain admission in memory
            else:
                held = ledger.reserve(secret, cost, ttl=gate.ttl, api=gate.api, route=route, address=address)
                decision = held.decision
        except UNDECIDED as error:
            return gate.undecided(error), None
        if not decision.allowed:
            return gate.judged(decision, environ), None
        return decision, held if held and decision.reason is Reason.OK else None


def preflight_of(environ: WSGIEnvironment, gate: Gate) -> Answer | None:
    """The answer to a request if it is a CORS preflight; what stands where keys may come is hidden then."""
    asked = environ.get("HTTP_ACCESS_CONTROL_REQUEST_METHOD")
    if asked is None or "HTTP_ORIGIN" not in environ:
        return None
    gate.places.of_environ(environ, redact=gate.redact, find=False)
    return gate.preflighted(asked, environ.get("HTTP_ACCESS_CONTROL_REQUEST_HEADERS", ""))


def _answer(answer: Answer, start_response: StartResponse) -> list[bytes]:
    start_response(answer.reason, answer.headers)
    return [answer.body]


def nowhere(*_: Any) -> list[bytes]:
    """Stand for the application of a middleware whose framework calls views itself."""
    return []

"""A usage plan in front of a WSGI application (PEP 3333), as API Gateway stands in front of a service."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import Any, Unpack
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

from .decision import Decision, Reason
from .errors import InvalidCost, InvalidValue, QuotaError
from .ledger.reservations.handle import Reservation
from .ledger.sync import Ledger
from .limit import Cost
from .operations.shape import DEFAULT
from .web.bodies import read_input
from .web.exchange import Carried, renewals
from .web.gate import KEPT, UNDECIDED, Answer, Gate, Settings, log, merged
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
                held = decision.slot
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


class Exchange(Carried):
    """One response that holds something: iterates and closes as the application's, and settles when it has ended.

    That is before its last part goes out, where it is known to be the last: a client that has it all may rely on it.
    """

    def __init__(self, gate: Gate, reservation: Reservation, environ: WSGIEnvironment, own: dict[str, str]) -> None:
        super().__init__(gate, reservation)
        self._environ = environ
        self._own = own
        self._body: Any = None
        self._chunks: Iterator[bytes] = iter(())
        self._parts = 0  # so many are to come, where that is known
        self._over = False
        renewals(gate.ttl).add(self)

    def run(self, app: WSGIApplication, start_response: StartResponse) -> Iterable[bytes]:
        def start(status: str, fields: list[tuple[str, str]], *error: Any) -> Callable[[bytes], object]:
            self.begin(int(status[:3]), fields)
            write = start_response(status, merged(self._own, fields), *error)

            def writing(part: bytes) -> object:
                if self.ends(part):
                    self.settle(last=True)
                return write(part)

            return writing

        with self:
            self.carry(app(self._environ, start))
        return self

    def begin(self, status: int, fields: Iterable[tuple[str, str]] = ()) -> None:
        """Go by a response's start, now that it is known."""
        if self.starts(self._environ["REQUEST_METHOD"], status, fields):
            self.settle()

    def carry(self, body: Iterable[bytes]) -> None:
        """Give out this body from now on, and settle when it has ended."""
        self._body, self._chunks = body, iter(body)
        self._parts = len(body) if isinstance(body, (list, tuple)) else 0

    def __enter__(self) -> None:
        """Settle as failed whatever the application raises."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None and not isinstance(error, StopIteration):
            self.fail()

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        try:
            with self:
                part = next(self._chunks)
        except StopIteration:
            self.settle(last=hasattr(self._body, "close"))
            raise
        self._parts -= 1
        if self.ends(part) or self._parts == 0:
            self.settle(last=self._parts != 0 or hasattr(self._body, "close"))
        return part

    def __del__(self) -> None:
        if not self._over and self.here:  # nobody closed it
            renewals(self._gate.ttl).drop(self)

    def close(self) -> None:
        try:
            close = getattr(self._body, "close", None)
            if close is not None:
                close()
        finally:
            self.settle()

    def fail(self) -> None:
        """Settle a response that broke."""
        self._status = None
        self.settle()

    def renew(self) -> bool | None:
        """Hold it longer; tell whether that is over, None where the store could not be asked."""
        try:
            self._reservation.extend(self._gate.ttl)
        except Exception as error:  # noqa: BLE001 -- the thread goes on
            return self.outlived(error) or None
        return False

    def settle(self, *, last: bool = False) -> None:
        """Commit or cancel, once. ``last``: now, if it is known what was used: the last part is about to go out."""
        reservation, gate = self._reservation, self._gate
        if self._over or reservation.settled:
            return
        commit, actual = gate.kept(self._status, self._environ, self._environ.get("quota.actual"), reservation)
        if last and gate.charge == "response" and actual is None:
            return
        self._over = True
        renewals(gate.ttl).remove(self)
        try:
            if not commit:
                reservation.cancel()
                return
            try:
                decision = reservation.commit(actual)
            except InvalidCost:
                log.exception(KEPT)
                actual = None
                if reservation.spent:
                    reservation.cancel()
                    return
                decision = reservation.commit()
            gate.tell(decision, self._environ)
        except QuotaError:
            used = reservation.decision.cost if actual is None else actual
            gate.unsettled(reservation, used if commit else None, self._environ)


def nowhere(*_: Any) -> list[bytes]:
    """Stand for the application of a middleware whose framework calls views itself."""
    return []

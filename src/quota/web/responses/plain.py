"""One response by WSGI that holds something."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import Any
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

from ...errors import InvalidCost, QuotaError
from ...ledger.reservations.handle import Reservation
from ..gate import KEPT, Gate, log, merged
from .carried import Carried, renewals


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
        self._renewals = renewals(gate.ttl)
        self._renewals.add(self)

    def run(self, app: WSGIApplication, start_response: StartResponse) -> Iterable[bytes]:
        this, own = weakref.proxy(self), self._own  # the application keeps what follows: a body that is dropped is gone

        def start(status: str, fields: list[tuple[str, str]], *error: Any) -> Callable[[bytes], object]:
            this.begin(int(status[:3]), fields)
            write = start_response(status, merged(own, fields), *error)

            def writing(part: bytes) -> object:
                if this.ends(part):
                    this.settle(last=True)
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
            self._renewals.drop(self)

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
        self._renewals.remove(self)
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

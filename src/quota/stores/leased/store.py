"""Any shared store at memory speed: takes bounded leases of units, spends them in this process, and settles.

Quotas stay exact whatever crashes: what is leased is charged before it is spent (``leases.py`` has the argument). A
process that dies burns at most what it had leased. docs/leases.md says what is synchronous and what a lease delays.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

from ...errors import ClockSkew, InvalidValue, StoreBusy
from ...operations.request import Request
from .. import open_store
from ..base import Store, check_store, tell_clock
from ..server.flow import Flow, Synchronous
from ..urls import join_url, split_url, whole_option
from .aio import AsyncLeasedStore
from .directory import Change
from .flow import ALONE, SKEWED, Leasing, leasable
from .holder import LeaseHolder

_nothing = contextlib.nullcontext()


def _enter(lease_holder: LeaseHolder) -> None:
    """Refuse who is asking for this lease holder already, in the middle of it."""
    if lease_holder.gate._is_owned():
        raise StoreBusy("called from a signal handler or a finalizer in the middle of a call of its own thread")


class LeasedStore(Synchronous, Leasing):
    """A shared store, spent from leases. Thread-safe; quotas stay exact across processes and crashes.

    ``store``: any store with a ``Ledger``'s protocol, or its URL. ``refresh``: seconds, by the ledger's clock, after
    which what other processes changed binds here (a plan, a key), and after which an idle lease is given back.
    ``share``: the part of a quota that may be out on lease at any time, over all processes; what is beyond the last
    such part is handed out call by call. ``background``: start a thread that gives idle leases back; without it they
    are given back at the next call that asks the store, or by ``close``. ``most_keys``: holdings kept in memory.
    """

    def __init__(
        self,
        store: Store | str,
        *,
        refresh: float = 1.0,
        share: float = 0.005,
        background: bool = False,
        most_keys: int = 65_536,
    ) -> None:
        super().__init__(refresh, share, most_keys)
        if type(background) is not bool:
            raise InvalidValue("background", background, "True or False")
        self.store: Any = open_store(store) if isinstance(store, str) else store
        check_store(self.store, "AsyncLeasedStore")
        self.blocking = getattr(self.store, "blocking", False)
        self.exact_across_failover: bool = self.store.exact_across_failover
        self._stop = threading.Event()
        self._background = background
        self._thread: threading.Thread | None = None

    def use_clock(self, clock: Callable[[], int]) -> None:
        super().use_clock(clock)
        tell_clock(self.store, clock)

    def _new_gate(self) -> Any:
        return threading.RLock()

    def _call(self, method: str, args: tuple[Any, ...]) -> Any:
        function, breaker = getattr(self.store, method), self._through(method, args)
        return function(*args) if breaker is None else breaker.ask(function, *args)

    def _run(self, flow: Flow[Any]) -> Any:
        home = self._at_home()
        try:
            method, args = next(flow)
            while True:
                try:
                    answer = self._call(method, args)
                except BaseException as error:  # noqa: BLE001 -- the steps decide what comes of it
                    self._still(home)
                    method, args = flow.throw(error)
                else:
                    self._still(home)
                    method, args = flow.send(answer)
        except StopIteration as stop:
            return stop.value

    def apply(self, request: Request) -> Any:
        """Decide from what is held, else ask the store; of callers without a key nothing is leased."""
        self._at_home()
        if request.caller is not None or request.op == "plans":
            return self._call("apply", (request,))
        if not leasable(request):
            with self._leaseless() if request.op in ALONE else _nothing:
                self._settle_key(request.now, request.digest or request.key_id or "", request.account)
                return self._run(self._pass_on(request))
        lease_holder = self._lease_holder(request)
        decision = self._local(lease_holder, request)
        if decision is not None:
            return decision
        if request.op == "peek":
            self._settle_key(request.now, request.digest or request.key_id or "", request.account)
            return self._run(self._peek(request))
        _enter(lease_holder)
        with lease_holder.gate:
            decision = self._run(self._decide(lease_holder, request))
        self.tend(request.now)
        return decision

    def _settle_key(self, now: int, ref: bytes | str, account: str | None = None) -> None:
        # A clock that is behind keeps the units leased; whether it matters to the call itself, the store will say.
        with contextlib.suppress(ClockSkew):
            self._settle(self._run(self._of_key(now, ref, account)), now)

    def _settle(self, lease_holders: list[LeaseHolder], now: int) -> None:
        for lease_holder in lease_holders:
            _enter(lease_holder)
            with contextlib.suppress(ClockSkew), lease_holder.gate:
                self._run(self._give_back(lease_holder, now))

    @contextlib.contextmanager
    def _leaseless(self) -> Iterator[None]:
        """No lease is being asked for meanwhile: what binds at once must not be overtaken by one."""
        self._at_home()
        me = object()
        try:
            for lease_holder in self._hold_off(me):
                _enter(lease_holder)
                with lease_holder.gate:
                    pass
            yield
        finally:
            self._off.discard(me)  # written in C: a function of ours could be interrupted before it begins

    def tend(self, now: int | None = None) -> None:
        """Give idle leases back, as far as the store can be asked. ``background`` does it once per refresh."""
        self._at_home()
        now = self._clock() if now is None else now
        if self._background and self._thread is None and self._open:
            self._start()
        for lease_holder in () if self._away else self._untouched(now - 2 * self._refresh_us):
            if not lease_holder.gate._is_owned() and lease_holder.gate.acquire(blocking=False):
                try:
                    with contextlib.suppress(*SKEWED):
                        self._run(self._give_back(lease_holder, now))
                finally:
                    lease_holder.gate.release()

    def _start(self) -> None:
        with self._directory:
            if self._thread is None and not self._closed:
                self._thread = threading.Thread(target=self._tend_on, name="quota-leases", daemon=True)
                self._thread.start()

    def _tend_on(self) -> None:
        while not self._stop.wait(self.refresh):
            self.tend()

    def abandon(self) -> None:
        super().abandon()
        self._thread, self._stop = None, threading.Event()

    def _send(self, call: Any) -> Any:
        if not isinstance(call, Change):
            method, args = call
            return getattr(self.store, method)(*args)
        with self._leaseless():
            if isinstance(call.touched, str):
                self._settle_key(self._clock(), call.touched)
            else:
                self._settle(call.touched(), self._clock())
            try:
                return getattr(self.store, call.method)(*call.args)
            finally:
                self._epoch += 1

    def close(self) -> None:
        """Settle all leases, as far as the store can be asked (else they are burned), and close the store."""
        with self._leaseless():
            self._closed = True
            self._stop.set()
            if self._thread is not None and self._thread is not threading.current_thread():
                self._thread.join()
                self._thread = None
            now = self._clock()
            for lease_holder in self._owing():
                with contextlib.suppress(*SKEWED):
                    self._settle([lease_holder], now)
        self.store.close()


def open_url(url: str, *, asynchronous: bool = False) -> LeasedStore | AsyncLeasedStore:
    """``leased+redis://localhost/0?refresh=1&share=0.005&most_keys=65536``, and whatever the store behind it takes."""
    parts, options = split_url(url)
    own: dict[str, Any] = {}
    for name in ("refresh", "share"):
        if name in options:
            text = options.pop(name)
            try:
                own[name] = float(text)
            except ValueError:
                raise InvalidValue(name, text, "a number in the store's URL") from None
    if "most_keys" in options:
        own["most_keys"] = whole_option(options, "most_keys")
    inner = join_url(parts._replace(scheme=parts.scheme.partition("+")[2]), options)
    return (AsyncLeasedStore if asynchronous else LeasedStore)(inner, **own)


__all__ = ["AsyncLeasedStore", "LeasedStore", "open_url"]

"""The ledger: keys, plans and one thread-safe check-and-consume.

Every method is a sandwich: a pure step prepares what to ask, one line asks the store, a pure step concludes. ``Ledger``
and ``AsyncLedger`` share the pure steps and differ by ``await`` on that line.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from datetime import timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

from ..clock import DAY_US, Clock, system_clock
from ..decision import Decision
from ..errors import QuotaError, StoreBusy, StoreUnavailable
from ..key import ApiKey, Caller, digest, sha256  # type: ignore[attr-defined]
from ..limit import Cost
from ..operations.headroom import NOBODY, Told
from ..operations.request import INFO, Request, answered, refused, wants
from ..operations.shape import DEFAULT
from ..rule.limits import MAX_UNITS
from ..stores import open_store
from ..stores.base import Store, check_store, tell_clock
from ..stores.memory.one_meter import NoMeter, OneMeter
from ..stores.memory.retries import take_named
from ..stores.memory.store import MemoryStore
from .administration import Asking, Step, concluding
from .requests import Credential, Steps, Unavailable, acting, in_memory, required
from .reservations.handle import Reservation
from .reservations.settling import Reserving, hold_of, lifetime, slot_of
from .usage.telling import telling

_NOW, _DAY = timedelta(), timedelta(1)
P = ParamSpec("P")
T = TypeVar("T")


def _opened(store: Any, *, asynchronous: bool) -> Any:
    """The store that was given, opened, or made."""
    if store is None:
        return MemoryStore()
    opened = open_store(store, asynchronous=asynchronous) if isinstance(store, str) else store
    check_store(opened, None if asynchronous else "AsyncLedger")
    return opened


def _sync(steps: Callable[Concatenate[Any, P], Step[T] | Asking[T]]) -> Callable[Concatenate[Ledger, P], T]:
    """A method of ``Ledger``: prepare, ask, conclude; some ask more than once."""

    @functools.wraps(concluding(steps))
    def method(self: Ledger, /, *args: P.args, **kwargs: P.kwargs) -> T:
        asked = steps(self._steps, *args, **kwargs)
        return self._ask(asked) if isinstance(asked, Step) else self._asked(asked)

    return method


def _of(secret: object) -> Caller | None:
    """By what a caller is found; None of anything else."""
    return secret if type(secret) is Caller else None


class Ledger(Reserving):
    """Counts what API keys use and refuses what is over their plan's limits, exactly. Thread-safe.

    ``store``: a store, or the URL of one (``"sqlite:///usage.db"``); in memory by default. ``clock``: microseconds
    since the epoch. ``on_unavailable``: when the store cannot be asked, ``"raise"``, or answer ``"deny"`` or
    ``"allow"`` with the reason ``STORE_UNAVAILABLE``. ``probe_every``: after three calls in a row that could not ask,
    ``consume``, ``peek``, ``reserve`` and ``acquire`` are answered so at once, and one call in so many seconds asks.
    ``actor``: who makes the changes that ``events`` tells of. A context manager: leaving it closes the store.
    """

    if TYPE_CHECKING:
        _steps: Steps

    def __init__(
        self,
        store: Store | str | None = None,
        *,
        clock: Clock = system_clock,
        on_unavailable: Unavailable = "raise",
        probe_every: float = 1.0,
        actor: str | None = None,
    ) -> None:
        self._steps = Steps(clock=clock, on_unavailable=on_unavailable, probe_every=probe_every, actor=actor)
        self._clock = clock
        opened = _opened(store, asynchronous=False)
        self.store: Store = opened
        tell_clock(opened, clock)
        self._rooms: dict[Any, OneMeter | NoMeter] = getattr(opened, "rooms", {})
        self._whole = in_memory(opened)  # a secret that is not found here is nobody's
        self._request_ttl: int = opened.options.request_ttl if self._whole else 0
        self._breaker = self._steps.breaker(opened)

    def _asked(self, asking: Asking[T]) -> T:
        """Ask step by step."""
        try:
            step = next(asking)
            while True:
                try:
                    answer = self._ask(step)
                except QuotaError as error:
                    step = asking.throw(error)
                else:
                    step = asking.send(answer)
        except StopIteration as stop:
            told: T = stop.value
            return told

    def _ask(self, step: Step[T]) -> T:
        if not step.method:
            return step.conclude(None)
        method, breaker = getattr(self.store, step.method), self._breaker
        try:
            asks = breaker is None or step.deciding is None
            answer = method(*step.args) if asks else breaker.ask(method, *step.args)  # type: ignore[union-attr]
        except (StoreBusy, StoreUnavailable) as error:
            if step.deciding is None:
                raise
            answer = self._steps.without_store(step.deciding, error)
        return step.conclude(answer)

    def _charge(self, asked: Request | Decision) -> Decision:
        """``_ask`` for a call that is not on the fast path: it needs no step made for it."""
        if type(asked) is not Request:
            return asked  # type: ignore[return-value]
        breaker = self._breaker
        try:
            answer: Decision = self.store.apply(asked) if breaker is None else breaker.ask(self.store.apply, asked)
        except (StoreBusy, StoreUnavailable) as error:
            answer = self._steps.without_store(asked, error)
        return answered(asked, answer)

    add_plan = _sync(Steps.add_plan)
    replace_plan = _sync(Steps.replace_plan)
    remove_plan = _sync(Steps.remove_plan)
    get_plan = _sync(Steps.get_plan)
    list_plans = _sync(Steps.list_plans)
    issue_key = _sync(Steps.issue_key)
    issue_keys = _sync(Steps.issue_keys)
    update_key = _sync(Steps.update_key)
    import_key = _sync(Steps.import_key)
    rotate_key = _sync(Steps.rotate_key)
    enable_key = _sync(Steps.enable_key)
    disable_key = _sync(Steps.disable_key)
    remove_key = _sync(Steps.remove_key)
    get_key = _sync(Steps.get_key)
    list_keys = _sync(Steps.list_keys)
    last_used = _sync(Steps.last_used)
    add_account = _sync(Steps.add_account)
    get_account = _sync(Steps.get_account)
    list_accounts = _sync(Steps.list_accounts)
    update_account = _sync(Steps.update_account)
    remove_account = _sync(Steps.remove_account)
    associate = _sync(Steps.associate)
    dissociate = _sync(Steps.dissociate)
    status = _sync(Steps.status)
    override_limit = _sync(Steps.override_limit)
    refund = _sync(Steps.refund)
    grant = _sync(Steps.grant)
    set_remaining = _sync(Steps.set_remaining)
    forget = _sync(Steps.forget)
    erase = _sync(Steps.erase)
    usage = _sync(Steps.usage)
    usage_report = telling(Steps.usage_report)
    events = _sync(Steps.events)
    acting = acting

    def consume(
        self, secret: Credential, cost: Cost = DEFAULT, *, api: str = "", route: str | None = None,
        request_id: str | None = None, address: str | None = None, scope: str | None = None,
        keep_slot: timedelta | int | None = None,
    ) -> Decision:  # fmt: skip
        """Check every limit and, if all have room, take ``cost`` from all of them at once; a refusal takes nothing.

        ``secret``: what the client presented, a known ``ApiKey`` or ``Caller``, or None (no key: refused). ``cost``:
        requests, or units by unit; by default 1 or the plan's of the route. ``request_id``: an admission is remembered
        under it, and a retry returns it with ``replayed=True``. ``address``: the client's, which keys with ``networks``
        want. ``scope``: a name that the key must have among its ``scopes``. ``keep_slot``: where a limit is on calls in
        flight, an admission keeps its slots for so long (a timedelta, or microseconds): ``Decision.slot`` holds them.

        Raises:
            InvalidCost: a cost that is not whole positive numbers.
            RequestMismatch: a ``request_id`` that came with other parameters, or whose charge was refunded.
            ClockSkew: the clock is too far behind what was recorded.
            StoreBusy, StoreUnavailable: unless ``on_unavailable`` decides.
        """
        now = self._clock()
        kind = type(secret)
        if keep_slot is not None and not (
            0 < keep_slot <= DAY_US
            if type(keep_slot) is int
            else type(keep_slot) is timedelta and _NOW < keep_slot <= _DAY
        ):
            lifetime(keep_slot, "keep_slot")  # what is usual is found to be so in line
        try:
            ref: Any = secret.id if kind is ApiKey else sha256(secret.encode()).digest() if kind is str else _of(secret)  # type: ignore[union-attr]
        except UnicodeEncodeError:
            ref = None
        if request_id is None:
            room = self._rooms.get(ref)
            if room is None:
                told = self._foreign(now, secret, cost, api, route, scope)
            else:
                told = room.take(now, cost, api, route, address, scope, False if keep_slot is None else None)
            if told is not None:
                return told
        elif self._whole and (room := self._rooms.get(ref)) is not None:
            told = take_named(room, now, cost, api, route, address, scope, request_id, self._request_ttl, keep_slot)
            if told is not None:
                return told
        ttl = 0 if keep_slot is None else lifetime(keep_slot, "keep_slot")
        more = api, route, request_id, ref, address, scope, ttl
        decision = self._charge(self._steps.asked_at(now, "consume", secret, cost, *more))
        if ttl and (slot := slot_of(decision, api, route)) is not None:
            decision._slot = Reservation(decision, slot, self._settle)
        return decision

    def peek(
        self, secret: Credential, cost: Cost = DEFAULT, *, api: str = "", route: str | None = None,
        request_id: str | None = None, address: str | None = None, scope: str | None = None,
    ) -> Decision:  # fmt: skip
        """The decision that ``consume`` would return, on the same code path, changing nothing."""
        now = self._clock()
        kind = type(secret)
        ref: Any = secret.id if kind is ApiKey else digest(secret) if kind is str else _of(secret)  # type: ignore[union-attr, arg-type]
        room = self._rooms.get(ref) if request_id is None else None
        told = None if room is None else room.take(now, cost, api, route, address, scope, True)  # noqa: FBT003
        if told is not None:
            return told
        return self._charge(
            self._steps.asked_at(now, "peek", secret, cost, api, route, request_id, ref, address, scope)
        )

    def _foreign(
        self, now: object, secret: object, cost: object, api: object, route: object, scope: object
    ) -> Decision | None:
        """Refuse a secret that no key in memory has; None where the store must be asked, or the call may be wrong."""
        if type(secret) is not str or not secret or api != "" or route is not None or scope is not None:
            return None
        units: Any = 1 if cost is DEFAULT else cost
        if not self._whole or type(now) is not int or type(units) is not int or not 0 < units <= MAX_UNITS:
            return None
        decision: Told = Told()
        decision.allowed = False
        decision._room, decision._now, decision._amounts = NOBODY, now, units
        return decision if wants[0].get(INFO) is False else refused(decision, "", None)

    def require(
        self, secret: Credential, cost: Cost = DEFAULT, *, api: str = "", route: str | None = None,
        request_id: str | None = None, address: str | None = None, scope: str | None = None,
    ) -> Decision:  # fmt: skip
        """``consume`` that raises ``NotAllowed``, which carries the decision, in place of returning a refusal."""
        return required(
            self.consume(secret, cost, api=api, route=route, request_id=request_id, address=address, scope=scope)
        )

    def acquire(
        self, secret: Credential, cost: Cost = DEFAULT, *, timeout: float | timedelta, api: str = "",
        route: str | None = None, request_id: str | None = None, address: str | None = None, scope: str | None = None,
    ) -> Decision:  # fmt: skip
        """``consume`` that waits until it is admitted, for ``timeout`` (seconds, or a timedelta) at most.

        Refuses at once what cannot be admitted by then; a slot in flight may come back at any time. First come, first
        served for each key of this process.
        """
        from .waiting import until_admitted  # noqa: PLC0415 -- most programs never wait

        where = {"api": api, "route": route, "request_id": request_id, "address": address, "scope": scope}
        return until_admitted(self, "consume", secret, cost, timeout, where)  # type: ignore[no-any-return]

    def reserve(
        self, secret: Credential, cost: Cost, *, ttl: timedelta | int, timeout: float | timedelta = 0, api: str = "",
        route: str | None = None, request_id: str | None = None, address: str | None = None, scope: str | None = None,
    ) -> Reservation:  # fmt: skip
        """Hold units now and commit or cancel them later; after ``ttl`` they go back by themselves.

        ``ttl``: a timedelta, or microseconds. ``timeout``: wait as ``acquire`` does. Everything else as in ``consume``.
        The reservation is falsy when refused.
        """
        if timeout != 0:
            from .waiting import until_admitted  # noqa: PLC0415 -- as above

            where = {"api": api, "route": route, "request_id": request_id, "address": address, "scope": scope}
            return until_admitted(self, "reserve", secret, cost, timeout, where, ttl=ttl)  # type: ignore[no-any-return]
        request, step = self._steps.reserve(secret, cost, ttl, api, route, request_id, address, scope)
        decision = self._ask(step)
        return Reservation(decision, hold_of(decision, request), self._settle)

    def close(self) -> None:
        """Close the store. Closing twice is fine."""
        if self._again is not None:
            self._again.close()
        self.store.close()

    def __enter__(self) -> Ledger:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

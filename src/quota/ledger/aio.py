"""``AsyncLedger``: the ledger with ``await`` in front."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, Coroutine
from datetime import timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Any, Concatenate

from ..clock import DAY_US, Clock, system_clock
from ..decision import Decision
from ..errors import QuotaError, StoreBusy, StoreUnavailable
from ..key import ApiKey
from ..limit import Cost
from ..operations.request import Request, answered
from ..operations.shape import DEFAULT
from ..stores.base import AsyncStore, Store, tell_clock
from .administration import Asking, Step, concluding
from .requests import Credential, Steps, Unavailable, acting, in_memory, required
from .reservations.awaited import AsyncReserving
from .reservations.handle import AsyncReservation
from .reservations.settling import hold_of
from .sync import Ledger, P, T, _opened
from .usage.telling import telling_awaited


def _async(
    steps: Callable[Concatenate[Any, P], Step[T] | Asking[T]],
) -> Callable[Concatenate[AsyncLedger, P], Coroutine[Any, Any, T]]:
    """A method of ``AsyncLedger``: prepare, await, conclude; some ask more than once."""

    @functools.wraps(concluding(steps))
    async def method(self: AsyncLedger, /, *args: P.args, **kwargs: P.kwargs) -> T:
        asked = steps(self._steps, *args, **kwargs)
        return await (self._ask(asked) if isinstance(asked, Step) else self._asked(asked))

    return method


class AsyncLedger(AsyncReserving):
    """``Ledger`` with ``await`` in front of every method but ``close``'s twin ``aclose``.

    ``store``: a store whose methods may be coroutines, or the URL of one. A store that blocks on files (SQLite) works
    in threads, so that the event loop never waits.
    """

    if TYPE_CHECKING:
        _steps: Steps
        _here: Ledger | None

    def __init__(
        self,
        store: Store | AsyncStore | str | None = None,
        *,
        clock: Clock = system_clock,
        on_unavailable: Unavailable = "raise",
        probe_every: float = 1.0,
        actor: str | None = None,
    ) -> None:
        self._steps = Steps(clock=clock, on_unavailable=on_unavailable, probe_every=probe_every, actor=actor)
        self.store: Any = _opened(store, asynchronous=True)
        tell_clock(self.store, clock)
        self._breaker = self._steps.breaker(self.store)
        # In memory nothing waits: what a plain ledger answers from its lanes need not be awaited.
        self._here = Ledger(self.store, clock=clock, on_unavailable=on_unavailable) if in_memory(self.store) else None

    async def _call(self, method: str, *args: Any) -> Any:
        function = getattr(self.store, method)
        if getattr(self.store, "blocking", False):
            import asyncio  # noqa: PLC0415 -- only for stores that block

            return await asyncio.to_thread(function, *args)
        answer = function(*args)
        return await answer if isinstance(answer, Awaitable) else answer

    async def _asked(self, asking: Asking[T]) -> T:
        """Ask step by step."""
        try:
            step = next(asking)
            while True:
                try:
                    answer = await self._ask(step)
                except QuotaError as error:
                    step = asking.throw(error)
                else:
                    step = asking.send(answer)
        except StopIteration as stop:
            told: T = stop.value
            return told

    async def _ask(self, step: Step[T]) -> T:
        if not step.method:
            return step.conclude(None)
        try:
            asks = self._breaker is None or step.deciding is None
            call = self._call if asks else functools.partial(self._breaker.ask_awaited, self._call)  # type: ignore[union-attr]
            answer = await call(step.method, *step.args)
        except (StoreBusy, StoreUnavailable) as error:
            if step.deciding is None:
                raise
            answer = self._steps.without_store(step.deciding, error)
        return step.conclude(answer)

    async def _charge(self, op: str, secret: Credential, cost: Cost, ttl: int, **where: Any) -> Decision:
        """Ask a store that waits; ``ttl``: for so long the call keeps its slots."""
        steps = self._steps
        asked = steps.asked_at(steps._clock(), op, secret, cost, hashed=None, ttl=ttl, **where)
        if type(asked) is not Request:
            return asked  # type: ignore[return-value]
        return await self._ask(Step("apply", (asked,), functools.partial(answered, asked), asked))

    add_plan = _async(Steps.add_plan)
    replace_plan = _async(Steps.replace_plan)
    remove_plan = _async(Steps.remove_plan)
    get_plan = _async(Steps.get_plan)
    list_plans = _async(Steps.list_plans)
    issue_key = _async(Steps.issue_key)
    issue_keys = _async(Steps.issue_keys)
    update_key = _async(Steps.update_key)
    import_key = _async(Steps.import_key)
    rotate_key = _async(Steps.rotate_key)
    enable_key = _async(Steps.enable_key)
    disable_key = _async(Steps.disable_key)
    remove_key = _async(Steps.remove_key)
    get_key = _async(Steps.get_key)
    list_keys = _async(Steps.list_keys)
    last_used = _async(Steps.last_used)
    add_account = _async(Steps.add_account)
    get_account = _async(Steps.get_account)
    list_accounts = _async(Steps.list_accounts)
    update_account = _async(Steps.update_account)
    remove_account = _async(Steps.remove_account)
    associate = _async(Steps.associate)
    dissociate = _async(Steps.dissociate)
    status = _async(Steps.status)
    override_limit = _async(Steps.override_limit)
    refund = _async(Steps.refund)
    grant = _async(Steps.grant)
    set_remaining = _async(Steps.set_remaining)
    forget = _async(Steps.forget)
    erase = _async(Steps.erase)
    usage = _async(Steps.usage)
    usage_report = telling_awaited(Steps.usage_report)
    events = _async(Steps.events)
    acting = acting

    async def consume(
        self, secret: Credential, cost: Cost = DEFAULT, *, api: str = "", route: str | None = None,
        request_id: str | None = None, address: str | None = None, scope: str | None = None,
        keep_slot: timedelta | int | None = None,
    ) -> Decision:  # fmt: skip
        """See ``Ledger.consume``."""
        here = self._here
        if here is not None:
            # In line: through the other ledger's method a known key takes half a floor more.
            if (
                type(secret) is ApiKey
                and request_id is None
                and (keep_slot is None or (type(keep_slot) is int and 0 < keep_slot <= DAY_US))
            ):
                room = here._rooms.get(secret.id)
                dry = False if keep_slot is None else None
                told = None if room is None else room.take(here._clock(), cost, api, route, address, scope, dry)
                if told is not None:
                    return told
            decision = here.consume(
                secret, cost, api=api, route=route, request_id=request_id, address=address, scope=scope,
                keep_slot=keep_slot,
            )  # fmt: skip
            if keep_slot is not None and decision.slot is not None:
                decision._slot = AsyncReservation(decision, decision.slot._hold, self._settle)
            return decision
        if keep_slot is not None:
            where: Any = {"api": api, "route": route, "request_id": request_id, "address": address, "scope": scope}
            return await self._keep_slot(secret, cost, keep_slot, where)
        return await self._charge(
            "consume", secret, cost, 0, api=api, route=route, request_id=request_id, address=address, scope=scope
        )

    async def peek(
        self, secret: Credential, cost: Cost = DEFAULT, *, api: str = "", route: str | None = None,
        request_id: str | None = None, address: str | None = None, scope: str | None = None,
    ) -> Decision:  # fmt: skip
        """See ``Ledger.peek``."""
        if self._here is not None:
            return self._here.peek(
                secret, cost, api=api, route=route, request_id=request_id, address=address, scope=scope
            )
        return await self._charge(
            "peek", secret, cost, 0, api=api, route=route, request_id=request_id, address=address, scope=scope
        )

    async def require(
        self, secret: Credential, cost: Cost = DEFAULT, *, api: str = "", route: str | None = None,
        request_id: str | None = None, address: str | None = None, scope: str | None = None,
    ) -> Decision:  # fmt: skip
        """See ``Ledger.require``."""
        return required(
            await self.consume(secret, cost, api=api, route=route, request_id=request_id, address=address, scope=scope)
        )

    async def acquire(
        self,
        secret: Credential,
        cost: Cost = DEFAULT,
        *,
        timeout: float | timedelta,  # noqa: ASYNC109 -- the public contract: it refuses, it does not cancel
        api: str = "",
        route: str | None = None,
        request_id: str | None = None,
        address: str | None = None,
        scope: str | None = None,
    ) -> Decision:
        """See ``Ledger.acquire``."""
        from .waiting import until_admitted_awaited  # noqa: PLC0415 -- most programs never wait

        where = {"api": api, "route": route, "request_id": request_id, "address": address, "scope": scope}
        return await until_admitted_awaited(self, "consume", secret, cost, timeout, where)  # type: ignore[no-any-return]

    async def reserve(
        self,
        secret: Credential,
        cost: Cost,
        *,
        ttl: timedelta | int,
        timeout: float | timedelta = 0,  # noqa: ASYNC109 -- as above
        api: str = "",
        route: str | None = None,
        request_id: str | None = None,
        address: str | None = None,
        scope: str | None = None,
    ) -> AsyncReservation:
        """See ``Ledger.reserve``; ``async with await ledger.reserve(...) as reservation``."""
        if timeout != 0:
            from .waiting import until_admitted_awaited as wait  # noqa: PLC0415 -- as above

            where = {"api": api, "route": route, "request_id": request_id, "address": address, "scope": scope}
            return await wait(self, "reserve", secret, cost, timeout, where, ttl=ttl)  # type: ignore[no-any-return]
        request, step = self._steps.reserve(secret, cost, ttl, api, route, request_id, address, scope)

        def held(decision: Decision) -> AsyncReservation:
            return AsyncReservation(decision, hold_of(decision, request), self._settle)

        return held(await self._unless_left(self._ask(step), held))

    async def aclose(self) -> None:
        """Close the store. Closing twice is fine."""
        if self._again is not None:
            await self._again.close()
        await self._call("close")

    async def __aenter__(self) -> AsyncLedger:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

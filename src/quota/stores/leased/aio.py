"""The leased store awaited: the same steps, driven by the running loop, whose tasks fill leases ahead of need."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any

from ...errors import ClockSkew
from ...operations.request import Request
from .. import open_store
from ..base import AsyncStore, Store, check_store, tell_clock
from ..server.flow import Awaited, Flow
from ..server.loops import Turns
from .directory import Change
from .flow import ALONE, SKEWED, Leasing, leasable
from .holder import LeaseHolder


class AsyncLeasedStore(Awaited, Leasing):
    """``LeasedStore`` for ``AsyncLedger``: over a store whose methods may be coroutines; no threads.

    What is held is spent without a single suspension. Leases are filled and renewed ahead of need, and idle ones given
    back, by tasks of the running loop. Any number of loops may use it, one after another or side by side in threads,
    if the store behind it may be used so.
    """

    def __init__(
        self, store: Store | AsyncStore | str, *, refresh: float = 1.0, share: float = 0.005, most_keys: int = 65_536
    ) -> None:
        super().__init__(refresh, share, most_keys)
        self.store: Any = open_store(store, asynchronous=True) if isinstance(store, str) else store
        check_store(self.store)
        self.exact_across_failover: bool = self.store.exact_across_failover
        self._tasks: dict[LeaseHolder | asyncio.AbstractEventLoop, asyncio.Task[None]] = {}

    def use_clock(self, clock: Callable[[], int]) -> None:
        super().use_clock(clock)
        tell_clock(self.store, clock)

    def _new_gate(self) -> Any:
        return Turns()

    @contextlib.asynccontextmanager
    async def _at_gate(self, lease_holder: LeaseHolder) -> AsyncIterator[bool]:
        """Alone among those who ask for a lease holder; False where who asks is in a loop that does not run."""
        turn = await lease_holder.gate.take()
        try:
            yield turn is not None
        finally:
            if turn is not None:
                lease_holder.gate.give(turn)

    async def _call(self, method: str, args: tuple[Any, ...]) -> Any:
        breaker = self._through(method, args)
        return await (self._asked(method, args) if breaker is None else breaker.ask_awaited(self._asked, method, args))

    async def _asked(self, method: str, args: tuple[Any, ...]) -> Any:
        function = getattr(self.store, method)
        if getattr(self.store, "blocking", False):
            return await asyncio.to_thread(function, *args)
        answer = function(*args)
        return await answer if isinstance(answer, Awaitable) else answer

    async def _run(self, flow: Flow[Any]) -> Any:
        home = self._at_home()
        try:
            method, args = next(flow)
            while True:
                try:
                    answer = await self._call(method, args)
                except BaseException as error:  # noqa: BLE001 -- the steps decide what comes of it
                    self._still(home)
                    method, args = flow.throw(error)
                else:
                    self._still(home)
                    method, args = flow.send(answer)
        except StopIteration as stop:
            return stop.value

    def apply(self, request: Request) -> Any:
        """Decide from what is held, at once; else a coroutine that asks the store."""
        self._at_home()
        if request.caller is not None or request.op == "plans":
            return self._call("apply", (request,))
        if not leasable(request):
            return self._pass(request)
        lease_holder = self._lease_holder(request)
        decision = self._local(lease_holder, request)
        if decision is None:
            return self._ask_store(lease_holder, request)
        if request.op == "consume" and self._wanting(lease_holder, request.now) and not self._at_work(lease_holder):
            self._start(lease_holder, self._ahead(lease_holder, request))
        return decision

    async def _pass(self, request: Request) -> Any:
        async with self._leaseless() if request.op in ALONE else contextlib.nullcontext():
            await self._settle_key(request.now, request.digest or request.key_id or "", request.account)
            return await self._run(self._pass_on(request))

    async def _ask_store(self, lease_holder: LeaseHolder, request: Request) -> Any:
        if request.op == "peek":
            await self._settle_key(request.now, request.digest or request.key_id or "", request.account)
            return await self._run(self._peek(request))
        async with self._at_gate(lease_holder) as alone:
            decision = await self._run(self._decide(lease_holder, request) if alone else self._alone(request))
        loop = asyncio.get_running_loop()
        if self._open and loop not in self._tasks and not any(other.is_running() for other in self._loops()):
            self._start(loop, self._tend_on())
        return decision

    def _at_work(self, lease_holder: LeaseHolder) -> bool:
        """Tell whether a task fills it ahead, in a loop that runs."""
        task = self._tasks.get(lease_holder)
        return task is not None and task.get_loop().is_running()

    def _loops(self) -> list[asyncio.AbstractEventLoop]:
        """Those with a task that looks after idle leases; one that was closed under it has none."""
        loops = [what for what in list(self._tasks) if not isinstance(what, LeaseHolder)]
        for loop in loops:
            if loop.is_closed():
                self._tasks.pop(loop, None)
        return loops

    def _start(self, what: LeaseHolder | asyncio.AbstractEventLoop, work: Coroutine[Any, Any, None]) -> None:
        def ended(task: asyncio.Task[None]) -> None:
            if self._tasks.get(what) is task:
                self._tasks.pop(what, None)

        self._tasks[what] = asyncio.get_running_loop().create_task(work)
        self._tasks[what].add_done_callback(ended)

    async def _ahead(self, lease_holder: LeaseHolder, request: Request) -> None:
        """Fill or renew before it must be: who asks next never waits."""
        async with self._at_gate(lease_holder) as alone:
            try:
                if alone:
                    await self._run(self._prepare(lease_holder, request))
            except SKEWED:
                lease_holder.failed = request.now

    async def _tend_on(self) -> None:
        """While anything is held: give back what lies idle, once per refresh."""
        while self._open and not self._closed:
            await asyncio.sleep(self.refresh)
            await self.tend()

    async def tend(self, now: int | None = None) -> None:
        """Give idle leases back, as far as the store can be asked."""
        self._at_home()
        now = self._clock() if now is None else now
        for lease_holder in () if self._away else self._untouched(now - 2 * self._refresh_us):
            with contextlib.suppress(*SKEWED):
                await self._settle([lease_holder], now)

    async def _settle_key(self, now: int, ref: bytes | str, account: str | None = None) -> None:
        with contextlib.suppress(ClockSkew):
            await self._settle(await self._run(self._of_key(now, ref, account)), now)

    async def _settle(self, lease_holders: list[LeaseHolder], now: int) -> None:
        for lease_holder in lease_holders:
            with contextlib.suppress(ClockSkew):
                async with self._at_gate(lease_holder) as alone:
                    if alone:
                        await self._run(self._give_back(lease_holder, now))
                    else:
                        self._overtake(lease_holder)

    @contextlib.asynccontextmanager
    async def _leaseless(self) -> AsyncIterator[None]:
        """No lease is being asked for meanwhile: what binds at once must not be overtaken by one."""
        self._at_home()
        me = object()
        try:
            for lease_holder in self._hold_off(me):
                async with self._at_gate(lease_holder) as alone:
                    if not alone:
                        self._overtake(lease_holder)
            yield
        finally:
            self._off.discard(me)  # written in C: a function of ours could be interrupted before it begins

    def abandon(self) -> None:
        super().abandon()
        self._tasks = {}

    async def _send(self, call: Any) -> Any:
        if not isinstance(call, Change):
            return await self._call(*call)
        async with self._leaseless():
            if isinstance(call.touched, str):
                await self._settle_key(self._clock(), call.touched)
            else:
                await self._settle(call.touched(), self._clock())
            try:
                return await self._call(call.method, call.args)
            finally:
                self._epoch += 1

    async def close(self) -> None:
        """Settle all leases, as far as the store can be asked (else they are burned), and close the store."""
        self._at_home()
        self._closed = True
        here, tasks = asyncio.get_running_loop(), list(self._tasks.values())
        for task in tasks:
            with contextlib.suppress(RuntimeError):  # a loop that is closed
                task.get_loop().call_soon_threadsafe(task.cancel)
        await asyncio.gather(*(task for task in tasks if task.get_loop() is here), return_exceptions=True)
        now = self._clock()
        async with self._leaseless():
            for lease_holder in self._owing():
                with contextlib.suppress(*SKEWED):
                    await self._settle([lease_holder], now)
        await self._call("close", ())

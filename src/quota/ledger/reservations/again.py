"""Settlements that failed because the store was away: told, and tried again until their reservations lapse.

Whatever such a call came to, the same again settles once: who finds the reservation closed was there before.
"""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, NamedTuple

from ...errors import QuotaError, StoreBusy, StoreUnavailable
from ...process.forks import across_forks
from ..administration import Asking, Step

if TYPE_CHECKING:
    from .handle import _Held

log = logging.getLogger(__package__.rpartition(".")[0])

AWAY = (StoreBusy, StoreUnavailable)
_SHORTEST, _LONGEST = 0.05, 2.0
"""Seconds between tries."""
_SETTLES = ("commit", "cancel")


class Job(NamedTuple):
    """One settlement to be made."""

    held: _Held
    op: str
    step: Step[Any]

    def at(self, now: int) -> Step[Any]:
        """Return the same step at another instant."""
        (request,) = self.step.args
        return Step(self.step.method, (request.changed(now=now),), self.step.conclude)


def told(held: _Held, op: str, step: Step[Any], error: Exception) -> Job | None:
    """Log what could not be settled; return it where it is to be tried again."""
    key, (request,) = held.decision._details().key, step.args
    units = dict(request.takes) if request.takes is not None else {**held.held} if op == "commit" else {}
    log.error(
        "a reservation could not be settled: %s of %s, key %r, account %r, reservation %r, held %s until %s: %s",
        op, units or "nothing", key and key.id, key and key.account, held.id, {**held.held},
        held.expires_at.isoformat(), error,
    )  # fmt: skip
    if op == "spend" and request.args:
        held._doubts[*(request.takes or {}).items(),] = request.args
    return Job(held, op, step) if op in _SETTLES else None


def _over(job: Job, now: int) -> bool:
    """Tell whether it is too late; say so."""
    if now < job.held._expires:
        return False
    log.error("reservation %r lapsed before it could be settled: %s", job.held.id, job.op)
    return True


def trying(ledger: Any, job: Job) -> Asking[bool]:
    """Try once; tell whether nothing is left to be tried."""
    now = ledger._steps._clock()
    if job.held.settled or _over(job, now):
        return True
    try:
        answer = yield job.at(now)
    except AWAY:
        return False
    except QuotaError as error:
        log.warning("reservation %r is settled, or cannot be: %s", job.held.id, error)
    else:
        ledger._done(job.held, job.op, answer)
        log.warning("reservation %r is settled at last: %s", job.held.id, job.op)
    return True


class Thread:
    """A thread that tries all that is left to settle of one ledger, while there is any and the ledger is open."""

    def __init__(self, ledger: Any) -> None:
        self._ledger = ledger
        self._jobs: list[Job] = []
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()
        self._lock = threading.RLock()
        across_forks(self._lock)

    def put(self, job: Job) -> None:
        """Have a settlement tried again."""
        with self._lock:
            self._jobs.append(job)
            if self._thread is None or not self._thread.is_alive():
                self._stop = threading.Event()
                self._thread = threading.Thread(target=_try, args=(weakref.ref(self), self._stop), daemon=True)
                self._thread.start()

    def once(self) -> bool:
        """Try each once; tell whether none is left."""
        with self._lock:
            jobs = list(self._jobs)
        for job in jobs:
            if not self._ledger._asked(trying(self._ledger, job)):
                continue
            with self._lock:
                self._jobs.remove(job)
                if not self._jobs:
                    self._thread = None
                    return True
        return False

    def close(self) -> None:
        """Try once more, and then no more."""
        with self._lock:
            thread, self._thread = self._thread, None
        self._stop.set()
        if thread is not None and thread is not threading.current_thread():
            thread.join()
        if self._jobs and not self.once():
            for job in self._jobs:
                log.error("reservation %r is left unsettled: %s", job.held.id, job.op)
            self._jobs = []


def _try(tried: weakref.ref[Thread], stop: threading.Event) -> None:
    """Try until all is settled; a ledger that nobody has any more ends it."""
    seconds = _SHORTEST
    while not stop.wait(seconds):
        seconds = min(2 * seconds, _LONGEST)
        these = tried()
        if these is None or these.once():
            return
        del these


class Tasks:
    """A task for each settlement that is left of an ``AsyncLedger``, on the event loop where it failed."""

    def __init__(self, ledger: Any) -> None:
        self._ledger = ledger
        self._tasks: set[Any] = set()

    def put(self, job: Job) -> None:
        """Have a settlement tried again."""
        import asyncio  # noqa: PLC0415 -- a ledger that is not awaited never needs it

        task = asyncio.get_running_loop().create_task(self._try(job))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _try(self, job: Job) -> None:
        import asyncio  # noqa: PLC0415 -- as above

        seconds, left = _SHORTEST, True
        try:
            while left:
                await asyncio.sleep(seconds)
                seconds = min(2 * seconds, _LONGEST)
                left = not await self._ledger._asked(trying(self._ledger, job))
        except asyncio.CancelledError:
            log.error("reservation %r is left unsettled: %s", job.held.id, job.op)  # noqa: TRY400 -- no failure
            raise

    async def close(self) -> None:
        """Try no more."""
        import asyncio  # noqa: PLC0415 -- as above

        here = [task for task in self._tasks if task.get_loop() is asyncio.get_running_loop()]
        for task in here:
            task.cancel()
        await asyncio.gather(*here, return_exceptions=True)


async def whole(work: Callable[[], Coroutine[Any, Any, Any]], times: int = 2) -> Any:
    """Do some work as a whole: if the task is cancelled meanwhile, the cancellation comes after it.

    Where the event loop is being shut down the work itself is cancelled; then it is done again, ``times`` in all.
    """
    import asyncio  # noqa: PLC0415 -- as above

    cancelled: BaseException | None = None
    for _ in range(times):
        task = asyncio.ensure_future(work())
        while not task.done():
            try:
                await asyncio.wait([task])
            except asyncio.CancelledError as error:
                cancelled = error
        if not task.cancelled():
            break
    if cancelled is not None:
        if not task.cancelled():
            task.exception()  # a failure was told where it happened
        raise cancelled
    return task.result()

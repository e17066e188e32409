"""The steps of the leased store: what it asks of the shared store, as generators that a thread or a task drives.

Each yields (method, arguments) of the shared store and is sent its answer. Whoever drives one holds the gate of its
lease holder, so that a lease holder asks one thing at a time.
"""

from __future__ import annotations

from typing import Any

from ...clock import Clock, system_clock
from ...decision import Decision, Reason
from ...errors import ClockSkew, InvalidValue, StoreBusy, StoreUnavailable
from ...operations.leases import LeaseGrant
from ...operations.request import Request, barred
from ...rule.leases import LEAST, MILLION, LeaseRequest
from ..server.flow import Flow
from .directory import LeasedDirectory
from .holder import CachedRefusal, HeldLease, LeaseHolder, sooner

UNREACHABLE = (StoreBusy, StoreUnavailable)

FIRST = 16
"""The calls that the first lease of a busy key covers; the next ones four times as many, while they are used up."""
_MOST_CALLS = 2**40
_LONGEST = 64
"""The most calls that go by themselves between two vain requests for a lease: a limit is small, or nearly spent."""


_PEEKED = "peek"
"""Marks what is looked at for a caller who asked to; that is answered at once while the store is away."""

ALONE = ("set_remaining", "override", "forget")
"""All that must not come between the asking for a lease and its answer."""


def leasable(request: Request) -> bool:
    """Tell whether a call may be decided from a lease."""
    return request.op in ("consume", "peek") and request.request_id is None


class Leasing(LeasedDirectory):
    """All that the sync and the async store share: settings and steps."""

    def __init__(self, refresh: float, share: float, most_keys: int) -> None:
        if type(refresh) not in (int, float) or not 0.001 <= refresh <= 86_400:
            raise InvalidValue("refresh", refresh, "seconds, from 0.001 to 86400")
        if type(share) not in (int, float) or not 0 <= share <= 1:
            raise InvalidValue("share", share, "a part of each limit, from 0 to 1")
        if type(most_keys) is not int or most_keys < 1:
            raise InvalidValue("most_keys", most_keys, "a whole number of keys, at least 1")
        super().__init__(most_keys)
        self.refresh = refresh
        self.share = share
        self._refresh_us = int(refresh * MILLION)
        self._millionths = int(share * MILLION)
        self._clock: Clock = system_clock
        self._epoch = 0
        self._closed = False
        self._breaker: Any = None
        self._off: set[object] = set()
        self._asking: set[LeaseHolder] = set()

    def abandon(self) -> None:
        super().abandon()
        self._off, self._asking = set(), set()

    def use_clock(self, clock: Clock) -> None:
        """Told by a ledger which clock it reads: a refresh is counted by it."""
        self._clock = clock

    def use_breaker(self, breaker: Any) -> None:
        """Told by a ledger: what answers at once while the store behind this one is away."""
        self._breaker = breaker

    def _through(self, method: str, args: tuple[Any, ...]) -> Any:
        """The ledger's breaker, for what it guards."""
        breaker = self._breaker
        if breaker is None or method != "apply" or not (args[0].op in breaker.guarded or args[0].id == _PEEKED):
            return None
        return breaker

    @property
    def _away(self) -> bool:
        """Tell whether the store behind this one is known to be away: nothing is given back to it meanwhile."""
        return self._breaker is not None and self._breaker.open

    def _hold_off(self, who: object) -> list[LeaseHolder]:
        """Take no leases while ``who`` is in ``_off``; those that are being asked for, to be waited for."""
        self._off.add(who)
        return list(self._asking)

    def _local(self, lease_holder: LeaseHolder, request: Request) -> Decision | None:
        with lease_holder.stripe.exclusive():
            return lease_holder.answer(request, self._epoch)

    def _overtake(self, lease_holder: LeaseHolder) -> None:
        """Spend no more of what is held, and nothing of what is being asked for: its loop has stopped meanwhile."""
        lease_holder.overtaken = True
        for lease in (lease_holder.lease, lease_holder.next_lease):
            self._close(lease_holder, lease)

    def _close(self, lease_holder: LeaseHolder, lease: HeldLease) -> None:
        with lease_holder.stripe.exclusive():
            lease.close()

    def _life(self) -> int:
        """Return how long this process is taken to be alive without being heard of."""
        return 4 * self._refresh_us

    def _decide(self, lease_holder: LeaseHolder, request: Request) -> Flow[Decision]:
        """A plain ``consume``, from what is held or from the store."""
        decision = self._local(lease_holder, request)
        if decision is not None:
            return decision
        lease = lease_holder.lease
        if lease.open and barred(lease.key, request.address, request.scope):
            return (yield from self._alone(request))  # and the lease is nothing worse for it
        if lease.open and lease.covers(request):
            yield from self._renew(lease_holder, lease, request)
            decision = self._local(lease_holder, request)
            if decision is not None:
                return decision
        elif lease.open and request.now >= lease.asked:
            lease_holder.calls = min(lease_holder.calls * 4, _MOST_CALLS)  # used up before it was to be refreshed
        for _ in range(3):
            decision = yield from self._ask(lease_holder, request)
            if decision is not None:
                return decision
        return (yield from self._alone(request))

    def _renew(self, lease_holder: LeaseHolder, lease: HeldLease, request: Request) -> Flow[None]:
        """At a refresh: go on with what is held, if the store agrees or cannot be asked; else close it."""
        if request.now < lease.end:
            lease_request = LeaseRequest(lease.name, lease.number, life=self._life(), above=lease.above)
            ask = request.changed(op="renew", args=(lease_request,))
            lease_holder.overtaken = False
            try:
                renewed: LeaseGrant | None = yield "apply", (ask,)
            except UNREACHABLE:
                if not lease_holder.overtaken:
                    self._extend(lease_holder, lease, request.now)
                return
            if lease_holder.overtaken:
                return
            units = sum(lease.units.values())
            spent = lease.total() - lease.known
            if renewed and renewed.plan == lease.plan and request.now < lease.turn and spent * 4 > units:
                self._extend(lease_holder, lease, request.now, renewed)
                return
            if spent * 4 <= units:
                lease_holder.calls //= 4
        self._close(lease_holder, lease)

    def _extend(self, lease_holder: LeaseHolder, lease: HeldLease, now: int, renewed: LeaseGrant | None = None) -> None:
        with lease_holder.stripe.exclusive():
            if renewed is not None:
                lease.learn(renewed)
            lease.extend(now, self._refresh_us, alone=renewed is None)
            if lease.lane is not None:
                lease.lane.until = 0
            lease.open_lane(self.rooms, lease_holder.ref, lease_holder.stripe.lock, self._home)
        self._opened(lease_holder)

    def _ask(self, lease_holder: LeaseHolder, request: Request) -> Flow[Decision | None]:
        """Ask the store, for a lease where the key is busy; None when a lease came that must be looked at anew."""
        lease, now = lease_holder.lease, request.now
        self._close(lease_holder, lease)
        if lease_holder.calls < LEAST:
            busy = lease_holder.last is not None and 0 <= now - lease_holder.last <= self._refresh_us
            lease_holder.calls = FIRST if busy else 0
        lease_holder.last = now
        if lease_holder.waited < lease_holder.patience:
            lease_holder.waited += 1
            lease_holder.calls = 0
        if not self._millionths:
            lease_holder.calls = 0
        if not lease_holder.calls and lease_holder.idle:
            decision: Decision = yield "apply", (request,)
            if decision.allowed and decision.key is not None:
                lease_holder.key_id, lease_holder.accounts = decision.key.id, accounts_of(decision)
            if decision.allowed or decision.reason is not Reason.QUOTA_EXCEEDED:
                return decision
        return (yield from self._lease_request(lease_holder, lease, request))

    def _lease_request(
        self, lease_holder: LeaseHolder, lease: HeldLease, request: Request, *, only: bool = False
    ) -> Flow[Decision | None]:
        """One lease request, and what comes of it. A lost answer leaves all as it is: the same is sent again."""
        epoch = self._epoch
        self._asking.add(lease_holder)
        try:
            # Only now: who holds off waits for those that are asking, so it is either seen here or sees this one.
            off = bool(self._off) or self._closed
            if lease.returning or (off and lease.doubt):  # what was granted, its answer lost, would be handed out again
                yield from self._return(lease_holder, lease, request.now)
            calls = 0 if off else lease_holder.calls
            lease_request = lease.lease_request(
                max(1, calls), self._millionths if calls else 0, self._life(), only=only
            )
            lease_holder.overtaken = False
            lease.doubt = True
            grant: LeaseGrant = yield "apply", (request.changed(op="lease", args=(lease_request,)),)
            if grant.elsewhere:
                yield from self._return(lease_holder, lease, request.now)
                return None
            if grant.kept:  # the store did not come to the lease: nothing more is in doubt than was before
                lease.doubt = lease_request.again
                return grant.decision
            return self._take(lease_holder, lease, request, lease_request, grant, epoch)
        finally:
            self._asking.discard(lease_holder)

    def _take(
        self,
        lease_holder: LeaseHolder,
        lease: HeldLease,
        request: Request,
        lease_request: LeaseRequest,
        grant: LeaseGrant,
        epoch: int,
    ) -> Decision | None:
        """Return what the store answered to a lease request; ``epoch`` is of before it was asked."""
        with lease_holder.stripe.exclusive():
            lease.answered(lease_request.number, granted=bool(grant.units))
            if grant.units and lease_holder.overtaken:
                return None
            if grant.units:
                lease.fill(grant, request, self._refresh_us)
                lease_holder.key_id, lease_holder.accounts = lease.key.id, (lease.key.account, *lease.plan.above)
                lease_holder.refused = None
                lease_holder.patience = lease_holder.waited = 0
                self._opened(lease_holder)
                if lease is lease_holder.lease:
                    lease.open_lane(self.rooms, lease_holder.ref, lease_holder.stripe.lock, self._home)
                return lease_holder.answer(request, self._epoch) if not lease_request.only else None
            decision = grant.decision
            # Granted before and not handed out again, its windows being over: still to be given back.
            lease.due = decision is None and lease_request.again
            if lease_request.calls >= LEAST:
                lease_holder.patience, lease_holder.waited = min(max(1, lease_holder.patience * 2), _LONGEST), 0
            if decision is not None and grant.readings and decision.reason is Reason.QUOTA_EXCEEDED:
                lease_holder.refused = CachedRefusal(grant, request, self._refresh_us, epoch)
                if grant.waiting:
                    decision = sooner(decision, lease_holder.refused.until)
            return decision

    def _wanting(self, lease_holder: LeaseHolder, now: int) -> bool:
        """Tell whether it is time to prepare what comes after: half is spent, or the refresh is near."""
        lease, next_lease = lease_holder.lease, lease_holder.next_lease
        if not lease.open or (next_lease.open and now < next_lease.until):
            return False
        if lease_holder.failed is not None and 0 <= now - lease_holder.failed < self._refresh_us:
            return False
        if 4 * (now - lease.asked) >= 3 * (lease.until - lease.asked):
            return True
        return 2 * lease.total() >= sum(lease.units.values()) and lease_holder.calls >= LEAST

    def _prepare(self, lease_holder: LeaseHolder, request: Request) -> Flow[None]:
        """Fill the other lease, ahead of need: it is spent when this one is used up or due."""
        next_lease = lease_holder.next_lease
        if (next_lease.open and request.now < next_lease.until) or self._closed or not lease_holder.lease.open:
            return
        self._close(lease_holder, next_lease)
        used_up = 2 * lease_holder.lease.total() >= sum(lease_holder.lease.units.values())
        if used_up:
            lease_holder.calls = min(max(FIRST, lease_holder.calls) * 4, _MOST_CALLS)
        lease_holder.calls = max(LEAST, lease_holder.calls)
        yield from self._lease_request(lease_holder, next_lease, request, only=True)

    def _alone(self, request: Request) -> Flow[Decision]:
        """By the store, whatever is held: who is at the gate cannot go on."""
        return (yield ("apply", (request,)))  # type: ignore[no-any-return] # a consume is answered by a decision

    def _peek(self, request: Request) -> Flow[Decision]:
        """Return what ``consume`` would answer."""
        grant: LeaseGrant = yield "apply", (request.changed(op="look", id=_PEEKED),)
        decision: Decision = grant.decision  # type: ignore[assignment] # a look is always answered
        return sooner(decision, min(request.now + self._refresh_us, grant.end)) if grant.waiting else decision

    def _pass_on(self, request: Request) -> Flow[Any]:
        """Ask the store for what it alone can do: nothing of the key is out on lease to this process by now."""
        try:
            answer = yield "apply", (request,)
        finally:
            if request.op not in ("consume", "reserve"):  # which can only use more: what is refused stays refused
                self._epoch += 1
        if isinstance(answer, Decision) and not answer.allowed and answer.reason is Reason.QUOTA_EXCEEDED:
            look = request.changed(op="look", request_id=None)
            grant: LeaseGrant = yield "apply", (look,)
            if grant.waiting:
                return sooner(answer, min(request.now + self._refresh_us, grant.end))
        return answer

    def _give_back(self, lease_holder: LeaseHolder, now: int) -> Flow[None]:
        """Return all that a lease holder did not spend."""
        for lease in (lease_holder.lease, lease_holder.next_lease):
            self._close(lease_holder, lease)
            if not lease.idle:
                yield from self._return(lease_holder, lease, now)
        lease_holder.calls = 0
        with lease_holder.stripe.exclusive():
            lease_holder.refused = None
        self._emptied(lease_holder)

    def _return(self, lease_holder: LeaseHolder, lease: HeldLease, now: int) -> Flow[None]:
        lease_request = lease.lease_request(0, 0, self._life())
        lease.doubt = lease.returning = True
        ref = lease_holder.key_id or lease_holder.ref
        digest, key_id = (ref, None) if isinstance(ref, bytes) else (None, ref)
        returned = Request("return", now, digest, key_id, lease_holder.api, args=(lease_request,), above=lease.above)
        yield "apply", (returned,)
        lease.answered(lease_request.number + 1)

    def _of_key(self, now: int, ref: bytes | str, account: str | None = None) -> Flow[list[LeaseHolder]]:
        """Return what is held here of a key, by its id or a digest, or an account, and of all in the same tree."""
        if account is not None:
            return self._of_account(account)
        if not self._open:
            return []
        if ref not in self._known:
            digest, key_id = (ref, None) if isinstance(ref, bytes) else (None, ref)
            grant: LeaseGrant = yield "apply", (Request("look", now, digest, key_id),)
            if grant.decision is None or grant.decision.key is None:
                return []
            self._know(ref, accounts_of(grant.decision)[-1])
        return self._of_account(self._known.get(ref, ""))


def accounts_of(decision: Decision) -> tuple[str, ...]:
    """Return the account of a decision's key and those above."""
    details = decision._details()
    above = details.plan.above if details.plan is not None else ()
    return () if details.key is None else (details.key.account, *above)


SKEWED = (*UNREACHABLE, ClockSkew)
"""All that may come in the way of giving back; it is tried again later."""

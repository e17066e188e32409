"""The steps of the leased store: what it asks of the shared store, as generators that a thread or a task drives.

Each yields (method, arguments) of the shared store and is sent its answer. Whoever drives one holds the gate of its
holding, so that a holding asks one thing at a time.
"""

from __future__ import annotations

from typing import Any

import attrs

from ...clock import Clock, system_clock
from ...decision import Decision, Reason
from ...errors import ClockSkew, InvalidValue, StoreBusy, StoreUnavailable
from ...operations.leases import Leased
from ...operations.request import Request, barred
from ...rule.leases import LEAST, MILLION, Bid
from ..server.flow import Trip
from .directory import LeasedDirectory
from .holder import Holding, Purse, Refused, temper

UNREACHABLE = (StoreBusy, StoreUnavailable)

FIRST = 16
"""How many calls the first lease of a busy key covers; the next ones four times as many, while they are used up."""
_MOST_CALLS = 2**40
_LONGEST = 64
"""The most calls that go by themselves between two bids that are not worth it: a limit is small, or nearly spent."""


_PEEKED = "peek"
"""Marks what is looked at for a caller who asked to; that is answered at once while the store is away."""

ALONE = ("set_remaining", "override", "forget")
"""What must not come between the asking for a lease and its answer."""


def leasable(request: Request) -> bool:
    """Whether a call may be decided from a lease."""
    return request.op in ("consume", "peek") and request.request_id is None


class Leasing(LeasedDirectory):
    """What the sync and the async store share: settings and steps."""

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
        self._asking: set[Holding] = set()

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
        """Whether the store behind this one is known to be away: nothing is given back to it meanwhile."""
        return self._breaker is not None and self._breaker.open

    def _hold_off(self, who: object) -> list[Holding]:
        """Take no leases while ``who`` is in ``_off``; those that are being asked for, to be waited for."""
        self._off.add(who)
        return list(self._asking)

    def _local(self, holding: Holding, request: Request) -> Decision | None:
        with holding.rest.at_rest():
            return holding.answer(request, self._epoch)

    def _overtake(self, holding: Holding) -> None:
        """Spend no more of what is held, and nothing of what is being asked for: its loop has stopped meanwhile."""
        holding.overtaken = True
        for purse in (holding.purse, holding.spare):
            self._close(holding, purse)

    def _close(self, holding: Holding, purse: Purse) -> None:
        with holding.rest.at_rest():
            purse.close()

    def _life(self) -> int:
        """How long this process is taken to be alive without being heard of."""
        return 4 * self._refresh_us

    def _decide(self, holding: Holding, request: Request) -> Trip[Decision]:
        """A plain ``consume``, from what is held or from the store."""
        decision = self._local(holding, request)
        if decision is not None:
            return decision
        purse = holding.purse
        if purse.open and barred(purse.key, request.address, request.scope):
            return (yield from self._alone(request))  # and the lease is nothing worse for it
        if purse.open and purse.covers(request):
            yield from self._renew(holding, purse, request)
            decision = self._local(holding, request)
            if decision is not None:
                return decision
        elif purse.open and request.now >= purse.asked:
            holding.calls = min(holding.calls * 4, _MOST_CALLS)  # used up before it was to be refreshed
        for _ in range(3):
            decision = yield from self._ask(holding, request)
            if decision is not None:
                return decision
        return (yield from self._alone(request))

    def _renew(self, holding: Holding, purse: Purse, request: Request) -> Trip[None]:
        """At a refresh: go on with what is held, if the store agrees or cannot be asked; else close it."""
        if request.now < purse.end:
            ask = attrs.evolve(request, op="renew", args=(Bid(purse.name, purse.number, life=self._life()),))
            holding.overtaken = False
            try:
                renewed: Leased | None = yield "apply", (ask,)
            except UNREACHABLE:
                if not holding.overtaken:
                    self._extend(holding, purse, request.now)
                return
            if holding.overtaken:
                return
            units = sum(purse.units.values())
            spent = purse.total() - purse.known
            if renewed and renewed.plan == purse.plan and request.now < purse.turn and spent * 4 > units:
                self._extend(holding, purse, request.now, renewed)
                return
            if spent * 4 <= units:
                holding.calls //= 4
        self._close(holding, purse)

    def _extend(self, holding: Holding, purse: Purse, now: int, renewed: Leased | None = None) -> None:
        with holding.rest.at_rest():
            if renewed is not None:
                purse.learn(renewed)
            purse.extend(now, self._refresh_us, alone=renewed is None)
            if purse.lane is not None:
                purse.lane.until = 0
            purse.open_lane(self.rooms, holding.ref, holding.rest.lock, self._home)
        self._opened(holding)

    def _ask(self, holding: Holding, request: Request) -> Trip[Decision | None]:
        """Ask the store, for a lease where the key is busy; None when a lease came that must be looked at anew."""
        purse, now = holding.purse, request.now
        self._close(holding, purse)
        if holding.calls < LEAST:
            busy = holding.last is not None and 0 <= now - holding.last <= self._refresh_us
            holding.calls = FIRST if busy else 0
        holding.last = now
        if holding.waited < holding.patience:
            holding.waited += 1
            holding.calls = 0
        if not self._millionths:
            holding.calls = 0
        if not holding.calls and holding.idle:
            decision: Decision = yield "apply", (request,)
            if decision.allowed and decision.key is not None:
                holding.key_id, holding.account = decision.key.id, decision.key.account
            if decision.allowed or decision.reason is not Reason.QUOTA_EXCEEDED:
                return decision
        return (yield from self._bid(holding, purse, request))

    def _bid(self, holding: Holding, purse: Purse, request: Request, *, only: bool = False) -> Trip[Decision | None]:
        """One bid, and what comes of it. An answer that is lost leaves all as it is: the same bid is sent again."""
        epoch = self._epoch
        self._asking.add(holding)
        try:
            # Only now: who holds off waits for those that are asking, so it is either seen here or sees this one.
            off = bool(self._off) or self._closed
            if purse.returning or (off and purse.doubt):  # what was granted, its answer lost, would be handed out again
                yield from self._return(holding, purse, request.now)
            calls = 0 if off else holding.calls
            bid = purse.bid(max(1, calls), self._millionths if calls else 0, self._life(), only=only)
            holding.overtaken = False
            purse.doubt = True
            leased: Leased = yield "apply", (attrs.evolve(request, op="lease", args=(bid,)),)
            return leased.decision if leased.kept else self._take(holding, purse, request, bid, leased, epoch)
        finally:
            self._asking.discard(holding)

    def _take(
        self, holding: Holding, purse: Purse, request: Request, bid: Bid, leased: Leased, epoch: int
    ) -> Decision | None:
        """What the store answered to a bid; ``epoch`` is of before it was asked."""
        with holding.rest.at_rest():
            purse.answered(bid.number, granted=bool(leased.units))
            if leased.units and holding.overtaken:
                return None
            if leased.units:
                purse.fill(leased, request, self._refresh_us)
                holding.key_id, holding.account = purse.key.id, purse.key.account
                holding.refused = None
                holding.patience = holding.waited = 0
                self._opened(holding)
                if purse is holding.purse:
                    purse.open_lane(self.rooms, holding.ref, holding.rest.lock, self._home)
                return holding.answer(request, self._epoch) if not bid.only else None
            decision = leased.decision
            # Granted before and not handed out again, its windows being over: still to be given back.
            purse.due = decision is None and bid.again
            if bid.calls >= LEAST:
                holding.patience, holding.waited = min(max(1, holding.patience * 2), _LONGEST), 0
            if decision is not None and decision.reason is Reason.QUOTA_EXCEEDED:
                holding.refused = Refused(leased, request, self._refresh_us, epoch)
                if leased.waiting:
                    decision = temper(decision, holding.refused.until)
            return decision

    def _wanting(self, holding: Holding, now: int) -> bool:
        """Whether it is time to prepare what comes after: half is spent, or the refresh is near."""
        purse, spare = holding.purse, holding.spare
        if not purse.open or (spare.open and now < spare.until):
            return False
        if holding.failed is not None and 0 <= now - holding.failed < self._refresh_us:
            return False
        if 4 * (now - purse.asked) >= 3 * (purse.until - purse.asked):
            return True
        return 2 * purse.total() >= sum(purse.units.values()) and holding.calls >= LEAST

    def _prepare(self, holding: Holding, request: Request) -> Trip[None]:
        """Fill the other purse, ahead of need: it is spent when this one is used up or due."""
        spare = holding.spare
        if (spare.open and request.now < spare.until) or self._closed or not holding.purse.open:
            return
        self._close(holding, spare)
        used_up = 2 * holding.purse.total() >= sum(holding.purse.units.values())
        if used_up:
            holding.calls = min(max(FIRST, holding.calls) * 4, _MOST_CALLS)
        holding.calls = max(LEAST, holding.calls)
        yield from self._bid(holding, spare, request, only=True)

    def _alone(self, request: Request) -> Trip[Decision]:
        """By the store, whatever is held: who is at the gate cannot go on."""
        return (yield ("apply", (request,)))  # type: ignore[no-any-return] # a consume is answered by a decision

    def _peek(self, request: Request) -> Trip[Decision]:
        """What ``consume`` would answer."""
        leased: Leased = yield "apply", (attrs.evolve(request, op="look", id=_PEEKED),)
        decision: Decision = leased.decision  # type: ignore[assignment] # a look is always answered
        return temper(decision, min(request.now + self._refresh_us, leased.end)) if leased.waiting else decision

    def _pass_on(self, request: Request) -> Trip[Any]:
        """What only the store can do: nothing of the key is out on lease to this process by now."""
        try:
            answer = yield "apply", (request,)
        finally:
            if request.op not in ("consume", "reserve"):  # which can only use more: what is refused stays refused
                self._epoch += 1
        if isinstance(answer, Decision) and not answer.allowed and answer.reason is Reason.QUOTA_EXCEEDED:
            look = attrs.evolve(request, op="look", request_id=None)
            leased: Leased = yield "apply", (look,)
            if leased.waiting:
                return temper(answer, min(request.now + self._refresh_us, leased.end))
        return answer

    def _give_back(self, holding: Holding, now: int) -> Trip[None]:
        """Return all that a holding did not spend."""
        for purse in (holding.purse, holding.spare):
            self._close(holding, purse)
            if not purse.idle:
                yield from self._return(holding, purse, now)
        holding.calls = 0
        with holding.rest.at_rest():
            holding.refused = None
        self._emptied(holding)

    def _return(self, holding: Holding, purse: Purse, now: int) -> Trip[None]:
        bid = purse.bid(0, 0, self._life())
        purse.doubt = purse.returning = True
        ref = holding.key_id or holding.ref
        digest, key_id = (ref, None) if isinstance(ref, bytes) else (None, ref)
        yield "apply", (Request("return", now, digest, key_id, holding.api, args=(bid,)),)
        purse.answered(bid.number + 1)

    def _of_key(self, now: int, ref: bytes | str) -> Trip[list[Holding]]:
        """What is held here of a key, by its id or a digest, and of the keys that share its account."""
        if not self._open:
            return []
        if ref not in self._known:
            digest, key_id = (ref, None) if isinstance(ref, bytes) else (None, ref)
            leased: Leased = yield "apply", (Request("look", now, digest, key_id),)
            key = leased.decision.key if leased.decision else None
            if key is None:
                return []
            self._know(ref, key.account)
        return self._of_account(self._known.get(ref, ""))


SKEWED = (*UNREACHABLE, ClockSkew)
"""What may come in the way of giving back; it is tried again later."""

"""The holders of leases in this process.

By what is presented, by account, by plan, and in the order of their last use.
"""

from __future__ import annotations

import itertools
import os
import threading
import weakref
from typing import Any

from ...errors import StoreUnavailable
from ...operations.request import Request
from ...process.home import Home
from ..server.flow import UNKNOWN
from .holder import LeaseHolder
from .lane import LeasedMeter


class LeaseHolders:
    """All holdings of a leased store. ``_open``: those that hold units; ``_known``: whose account a presented key is.

    What holds nothing and was not asked for lately may be forgotten, so that any number of keys may come by.
    """

    def __init__(self, most_keys: int) -> None:
        self.rooms: dict[bytes | str, LeasedMeter] = {}
        self._most_keys = most_keys
        self._forget_all()
        self._home = Home()
        _born.add(self)

    def _forget_all(self) -> None:
        self.rooms.clear()
        self._lease_holders: dict[tuple[Any, ...], LeaseHolder] = {}
        self._open: dict[LeaseHolder, None] = {}
        self._accounts: dict[str, dict[LeaseHolder, None]] = {}
        self._known: dict[bytes | str, str] = {}
        self._directory = threading.RLock()  # a signal handler may call in the middle of any step

    def _new_gate(self) -> Any:
        raise NotImplementedError

    def abandon(self) -> None:
        """Forget what is held without telling the store: it belongs to the process that this one was forked from."""
        for lease_holder in list(self._lease_holders.values()):
            for lease in (lease_holder.lease, lease_holder.next_lease):
                lease.close()
        self._forget_all()

    def _at_home(self) -> object:
        """In a forked child: drop what the parent holds, which it goes on spending. A token of this process."""
        self._home.check(self.abandon)
        return self._directory

    def _still(self, home: object) -> None:
        """Go no further in a child that was forked while its parent asked: the answer is the parent's."""
        if self._at_home() is not home:
            raise StoreUnavailable(f"this process was forked in the middle of the call; {UNKNOWN}")

    def _lease_holder(self, request: Request) -> LeaseHolder:
        """Where calls like this one are spent."""
        ref: bytes | str = request.digest or request.key_id or ""
        takes = request.takes
        kind = None if takes is None or (len(takes) == 1 and "requests" in takes) else tuple(sorted(takes))
        place = (ref, request.api, request.route, kind)
        lease_holder = self._lease_holders.get(place)
        if lease_holder is None:
            with self._directory:
                if len(self._lease_holders) >= self._most_keys:
                    self._evict()
                lease_holder = self._lease_holders.setdefault(place, LeaseHolder(ref, request.api, self._new_gate()))
        return lease_holder

    def _evict(self) -> None:
        """Forget some holdings that hold nothing; the oldest are looked at first."""
        for place, lease_holder in list(itertools.islice(self._lease_holders.items(), 64)):
            del self._lease_holders[place]
            if lease_holder.idle:
                self.rooms.pop(lease_holder.ref, None)
            else:
                self._lease_holders[place] = lease_holder

    def _opened(self, lease_holder: LeaseHolder) -> None:
        """It was filled or renewed: the latest one is the last in line to be looked at for idleness."""
        with self._directory:
            self._open.pop(lease_holder, None)
            self._open[lease_holder] = None
            for account in lease_holder.accounts:
                self._accounts.setdefault(account, {})[lease_holder] = None
        self._know(lease_holder.ref, lease_holder.accounts[-1])
        self._know(lease_holder.key_id, lease_holder.accounts[-1])

    def _know(self, ref: bytes | str, account: str) -> None:
        """Remember whose key is presented so, by the account highest above it: so it stays, unless accounts move."""
        if len(self._known) >= 2 * self._most_keys:
            self._known.clear()
        self._known[ref] = account

    def _emptied(self, lease_holder: LeaseHolder) -> None:
        with self._directory:
            self._open.pop(lease_holder, None)
            for account in lease_holder.accounts:
                siblings = self._accounts.get(account, {})
                siblings.pop(lease_holder, None)
                if not siblings:
                    self._accounts.pop(account, None)

    def _of_account(self, account: str) -> list[LeaseHolder]:
        with self._directory:
            return list(self._accounts.get(account, ()))

    def _of_plan(self, plan_id: str) -> list[LeaseHolder]:
        with self._directory:
            return [
                h for h in list(self._open) if any(p.open and plan_id in p.plan.ids() for p in (h.lease, h.next_lease))
            ]

    def outstanding(self) -> dict[str, int]:
        """Return the units on lease that this process has not spent yet, by unit."""
        left: dict[str, int] = {}
        for lease in [
            lease for holder in list(self._open) for lease in (holder.lease, holder.next_lease) if lease.open
        ]:
            spent = lease.spent
            for unit, units in lease.units.items():
                left[unit] = left.get(unit, 0) + units - (spent[unit].total if unit in spent else 0)
        return left

    def _untouched(self, since: int) -> list[LeaseHolder]:
        """Some of those that were neither filled nor renewed since an instant."""
        with self._directory:
            oldest = list(itertools.islice(self._open, 4))
        return [lease_holder for lease_holder in oldest if lease_holder.asked <= since]

    def _owing(self) -> list[LeaseHolder]:
        """All that hold units or owe the store an account of them."""
        with self._directory:
            return [
                lease_holder
                for lease_holder in {**self._open, **dict.fromkeys(self._lease_holders.values())}
                if not lease_holder.idle
            ]


_born: weakref.WeakSet[LeaseHolders] = weakref.WeakSet()


def _forked() -> None:
    """At once where Python is told: a child's first call would wait for a lock that a thread of its parent's has."""
    for store in list(_born):
        store._at_home()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)

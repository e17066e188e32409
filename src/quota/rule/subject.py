"""The records that one key's calls charge, and whether anything is due on them."""

from __future__ import annotations

from typing import Any

from ..errors import ClockSkew
from .entries import ThrottleRef
from .limits import OWN, CompiledLimit, RoutePlan, StoreOptions
from .record import Record


class Subject:
    """The records that one key's calls charge: its own, its account's where that has one, and those of accounts above.

    They are the request's own, to be changed as it goes: decoded for it, or copies. ``changed``: what became of them
    is to be written, as one change. ``moved``: a change of plan turned buckets into others, which is kept even when the
    call is refused. ``told``: thresholds that were crossed, and whatever else is to be written to the outbox with it.
    ``server_now``: the store's own instant, by which reservations lapse where callers' clocks may differ; None where
    they lapse by the call's.
    """

    __slots__ = ("above", "account", "changed", "key", "moved", "server_now", "told")

    def __init__(self, key: Record, account: Record | None = None, *above: Record) -> None:
        self.key = key
        self.account = account
        self.above = above
        self.changed = self.moved = False
        self.server_now: int | None = None
        self.told: tuple[Any, ...] = ()

    def records(self) -> tuple[Record, ...]:
        return (self.key, *self.above) if self.account is None else (self.key, self.account, *self.above)

    def copy(self) -> Subject:
        """Return a subject to look at, of records of its own."""
        account = None if self.account is None else self.account.copy()
        twin = Subject(self.key.copy(), account, *[record.copy() for record in self.above])
        twin.server_now = self.server_now
        return twin

    def record_of(self, limit: CompiledLimit) -> Record:
        return self.at_level(limit.level) if limit.level else self.record(shared=limit.shared)

    def at_level(self, level: int) -> Record:
        """Return the key's record, its account's, or one of an account above."""
        return self.key if not level else self.above[level - 2] if level > 1 else self.account  # type: ignore[return-value] # a limit is of a record that is there

    def record(self, *, shared: bool) -> Record:
        return self.account if shared and self.account is not None else self.key

    def instant(self, now: int, options: StoreOptions) -> int:
        """``now``, or the latest instant recorded: time never runs backwards.

        Raises:
            ClockSkew: when ``now`` is further behind than ``max_skew``, or before what is still remembered.
        """
        for record in self.records():
            if now < record.at - options.max_skew:
                raise ClockSkew(now, record.at)
            now = max(now, record.at)
            if now < record.floor:
                raise ClockSkew(now, record.floor)
        return now

    def lapse_instant(self, now: int) -> int:
        """Return the instant by which reservations lapse."""
        return now if self.server_now is None else self.server_now

    def throttle_refs(self, route_plan: RoutePlan, level: int, unit: str) -> tuple[ThrottleRef, ...]:
        """The throttles of the plan that the key, or an account by its own plan, was charged under last."""
        meter = self.at_level(level).meter(route_plan.api, "", unit)
        refs = meter.throttle_refs if meter is not None else ()
        return refs if not level else own_refs(refs)

    def keep(self, now: int) -> None:
        """Have what becomes of the records written, as changed at ``now``."""
        for record in self.records():
            record.stamp(now)
        self.changed = True


def own_refs(refs: tuple[ThrottleRef, ...]) -> tuple[ThrottleRef, ...]:
    """Return the throttles of an account's own plan: a record that was a key's once knows others, too."""
    return refs if all(ref.name.startswith(OWN) for ref in refs) else ()

"""The records that one key's calls charge, and whether anything is due on them."""

from __future__ import annotations

from typing import Any

from ..errors import ClockSkew
from .entries import ThrottleRef
from .limits import CompiledLimit, RoutePlan, StoreOptions
from .record import Record


class Subject:
    """The records that one key's calls charge: its own, and its account's when other keys share it.

    They are the request's own, to be changed as it goes: decoded for it, or copies. ``changed``: what became of them
    is to be written, as one change. ``moved``: a change of plan turned buckets into others, which is kept even when the
    call is refused. ``told``: thresholds that were crossed, and whatever else is to be written to the outbox with it.
    ``server_now``: the store's own instant, by which reservations lapse where callers' clocks may differ; None where
    they lapse by the call's.
    """

    __slots__ = ("account", "changed", "key", "moved", "server_now", "told")

    def __init__(self, key: Record, account: Record | None = None) -> None:
        self.key = key
        self.account = account
        self.changed = self.moved = False
        self.server_now: int | None = None
        self.told: tuple[Any, ...] = ()

    def records(self) -> tuple[Record, ...]:
        return (self.key,) if self.account is None else (self.key, self.account)

    def record_of(self, limit: CompiledLimit) -> Record:
        return self.record(shared=limit.shared)

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

    def throttle_refs(self, route_plan: RoutePlan, unit: str) -> tuple[ThrottleRef, ...]:
        """The throttles of the plan that the key was charged under last."""
        meter = self.key.meter(route_plan.api, "", unit)
        return meter.throttle_refs if meter is not None else ()

    def keep(self, now: int) -> None:
        """Have what becomes of the records written, as changed at ``now``."""
        for record in self.records():
            record.stamp(now)
        self.changed = True

"""The ledger's fast path over a lease: what it reads of a lane, in this process's own memory."""

from __future__ import annotations

from typing import Any

from ..charge import Course, ThrottleLine
from ..decision import Bounds
from ..key import ApiKey
from ..plan import UsagePlan
from ..record import Bucket


class Track:
    """What the ledger's fast path asks about a lane's course. ``own``: routes with limits or costs of their own."""

    __slots__ = ("live", "own", "throttle")

    def __init__(self, plan: UsagePlan, throttle: ThrottleLine | None) -> None:
        self.live = True
        self.own = frozenset(plan.routes) | frozenset(plan.costs)
        self.throttle = throttle


class Lane:
    """The ledger's fast path over a lease: what it reads of a lane is all here, in this process's own memory.

    While it is there it counts what is spent (``total``), in place of the purse's meter.
    """

    __slots__ = (
        "at", "bounds", "bucket", "course", "key", "lock", "plan", "quiet", "tokens", "total", "track", "until",
    )  # fmt: skip

    at: int
    bounds: Bounds
    bucket: Bucket
    course: Course
    key: ApiKey
    lock: Any
    plan: UsagePlan
    quiet: int
    tokens: tuple[int, int]
    total: int
    track: Track
    until: int

    def turn(self, now: int) -> bool:  # noqa: ARG002 -- of the memory store's lanes
        """No minute begins on a lease: it is asked for anew."""
        return False

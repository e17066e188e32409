"""A lease as a headroom of one meter: what the ledger asks first, in this process's own memory."""

from __future__ import annotations

import ctypes
import os
from typing import Any

from ...plan import UsagePlan
from ...process.home import Home
from ...rule.limits import CompiledThrottle, RoutePlan
from ..memory.one_meter import OneMeter


class _Shape:
    """All that the headrooms of a lease's route plan share. ``own``: routes with limits or costs of their own.

    ``live``: whether this is the process that the lease is of, for each call to see: a fork need not be told.
    """

    __slots__ = ("_pid", "api", "own", "plan", "route_plan", "throttle")

    _pid: int

    @property
    def live(self) -> bool:
        return os.getpid() == self._pid


class _Wiped(ctypes.Structure):
    """The same on a page that a child finds wiped: read in a tenth of the time that asking the system takes."""

    _fields_ = (("live", ctypes.c_bool),)
    __slots__ = ("api", "own", "plan", "route_plan", "throttle")


def shape_of(home: Home, plan: UsagePlan, route_plan: RoutePlan, throttle: CompiledThrottle | None) -> Any:
    """Return what a lease on this route plan is spent by, in this process alone."""
    made: Any
    if home.page is None:
        made = _Shape()
        made._pid = home.pid
    else:
        made = _Wiped.from_buffer(home.page)
    made.plan, made.route_plan, made.api = plan, route_plan, route_plan.api
    made.own = plan._names.own
    made.throttle = throttle
    return made


class LeasedMeter(OneMeter):
    """Room for requests on a lease; it counts what is spent (``total``), in place of the lease's meter.

    It is not opened again: no minute begins on a lease, which is asked for anew.
    """

    __slots__ = ("tokens",)

    tokens: tuple[int, ...]

    def __init__(self, lock: Any) -> None:
        self.lock = lock
        self.version = -1

    def take_otherwise(self, *call: object) -> None:
        """Leave it to the store."""

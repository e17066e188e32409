"""API keys, usage plans and an exact ledger: quotas and throttles that never admit one unit too many.

See ``Ledger``, ``UsagePlan`` and the README.
"""

from typing import TYPE_CHECKING

from .account import Account
from .clock import Clock, ManualClock, system_clock
from .decision import Decision, NotAllowed, Reason
from .errors import (
    ClockSkew,
    InvalidCost,
    InvalidPlan,
    InvalidSecret,
    InvalidValue,
    PlanConflict,
    QuotaError,
    RequestMismatch,
    ReservationClosed,
    StoreBusy,
    StoreUnavailable,
    UnknownAccount,
    UnknownKey,
    UnknownPlan,
)
from .event import Event
from .key import ApiKey, Caller, IssuedKey, ScheduledPlan
from .ledger.reservations.handle import AsyncReservation, Reservation
from .ledger.sync import Ledger
from .limit import Concurrency, Quota, Throttle
from .operations.usage import UsageRecord, UsageTotal
from .period import Period
from .plan import UsagePlan
from .status import LimitOverride, LimitStatus

__version__ = "0.1.0"

__all__ = [
    "Account", "ApiKey", "AsyncLedger", "AsyncReservation", "Caller", "Clock", "ClockSkew", "Concurrency", "Decision",
    "Event", "InvalidCost", "InvalidPlan", "InvalidSecret", "InvalidValue", "IssuedKey", "Ledger", "LimitOverride",
    "LimitStatus", "ManualClock", "NotAllowed", "Period", "PlanConflict", "Quota", "QuotaError", "Reason",
    "RequestMismatch", "Reservation", "ReservationClosed", "ScheduledPlan", "StoreBusy", "StoreUnavailable", "Throttle",
    "UnknownAccount", "UnknownKey", "UnknownPlan", "UsagePlan", "UsageRecord", "UsageTotal", "limited", "system_clock",
]  # fmt: skip

if TYPE_CHECKING:
    from .ledger.aio import AsyncLedger
    from .ledger.limited import limited
else:

    def __getattr__(name: str) -> object:
        """Load ``AsyncLedger`` and ``limited`` for who uses them: others do not pay for what they import."""
        if name == "AsyncLedger":
            from .ledger import aio as module  # noqa: PLC0415 -- as it says
        elif name == "limited":
            from .ledger import limited as module  # noqa: PLC0415 -- as it says
        else:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}", name=name, obj=None)
        return globals().setdefault(name, getattr(module, name))

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})

"""API keys, usage plans and an exact ledger: quotas and throttles that never admit one unit too many.

See ``Ledger``, ``UsagePlan`` and the README.
"""

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
    UnknownKey,
    UnknownPlan,
)
from .key import ApiKey, Caller, IssuedKey
from .ledger.aio import AsyncLedger
from .ledger.reservation import AsyncReservation, Reservation
from .ledger.sync import Ledger
from .limit import Concurrency, Quota, Throttle
from .operations.usage import UsageRecord
from .period import Period
from .plan import UsagePlan
from .status import LimitStatus

__version__ = "0.1.0"

__all__ = [
    "ApiKey",
    "AsyncLedger",
    "AsyncReservation",
    "Caller",
    "Clock",
    "ClockSkew",
    "Concurrency",
    "Decision",
    "InvalidCost",
    "InvalidPlan",
    "InvalidSecret",
    "InvalidValue",
    "IssuedKey",
    "Ledger",
    "LimitStatus",
    "ManualClock",
    "NotAllowed",
    "Period",
    "PlanConflict",
    "Quota",
    "QuotaError",
    "Reason",
    "RequestMismatch",
    "Reservation",
    "ReservationClosed",
    "StoreBusy",
    "StoreUnavailable",
    "Throttle",
    "UnknownKey",
    "UnknownPlan",
    "UsagePlan",
    "UsageRecord",
    "system_clock",
]

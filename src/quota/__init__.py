"""API keys, usage plans and an exact ledger: quotas and throttles that never admit one unit too many.

See ``Ledger``, ``UsagePlan`` and the README.
"""

from .clock import Clock, ManualClock, system_clock
from .decision import Decision, LimitStatus, Reason
from .errors import (
    ClockSkew,
    InvalidCost,
    InvalidPlan,
    InvalidSecret,
    InvalidValue,
    NotAllowed,
    PlanConflict,
    QuotaError,
    RequestMismatch,
    ReservationClosed,
    StoreBusy,
    StoreUnavailable,
    UnknownKey,
    UnknownPlan,
)
from .history import UsageRecord
from .key import ApiKey, IssuedKey
from .ledger import AsyncLedger, Ledger
from .period import Period
from .plan import Quota, Throttle, UsagePlan
from .reservation import AsyncReservation, Reservation

__version__ = "0.1.0"

__all__ = [
    "ApiKey",
    "AsyncLedger",
    "AsyncReservation",
    "Clock",
    "ClockSkew",
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

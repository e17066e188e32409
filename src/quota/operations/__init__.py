"""All that each request does to a key's entry and records.

Pure steps that every store runs inside its own atomic block.

A store loads the entry and the records, calls ``perform``, and keeps the records when ``subject.changed``. Nothing here
waits, reads a clock or knows an engine.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from ..event import crossed
from ..rule.limits import StoreOptions
from ..rule.subject import Subject
from .consume import consume
from .request import Entry, Request, forgetful, in_force, on_plans


def perform(request: Request, entry: Entry | None, subject: Subject | None, options: StoreOptions) -> Any:
    """Do what ``request.op`` says; ``entry`` and ``subject`` are None when no key was found.

    Raises:
        ClockSkew, RequestMismatch, ReservationClosed, UnknownKey, InvalidValue: nothing changed then.
    """
    if request.caller is not None:
        options = forgetful(options)
    if entry is not None and subject is not None:
        entry = (on_plans if request.op in _OF_PLANS else in_force)(entry, subject, request.now)
    operation = _OPERATIONS.get(request.op)
    if operation is None:
        operation = _loaded(request.op)
    answer = operation(request, entry, subject, options)
    if subject is not None and subject.told and entry is not None:
        plan = entry.plans.get(request.api)
        subject.told = crossed(subject.told, entry.key, plan.id if plan else None, request.api)
    return answer


_OF_PLANS = ("override", "plans")
"""All that is about plans as they are, without limits of one's own."""

Operation = Callable[[Request, Entry | None, Subject | None, StoreOptions], Any]
_OPERATIONS: Mapping[str, Operation] = MappingProxyType({"consume": consume, "peek": consume, "reserve": consume})
"""All that every program asks for."""


def _loaded(op: str) -> Operation:
    """Return an operation that is loaded where it is asked for."""
    from . import adjustments, reservations, standing, usage  # noqa: PLC0415 -- as it says

    for module in (adjustments, reservations, standing, usage):
        if op in module.OPERATIONS:
            found: Operation = module.OPERATIONS[op]
            return found
    from . import leases  # noqa: PLC0415 -- loaded where something is leased

    return leases.OPERATIONS[op]

"""What a history of concurrent calls must look like, whoever ran them: threads, tasks or processes.

Every admitted call has a receipt: the count after itself. For a counter, receipts that tile ``(start, total]`` without
contradicting real time are linearizability, in O(n log n). Denials and ceilings are checked against the same order.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from itertools import accumulate
from math import inf
from operator import attrgetter
from typing import NamedTuple


class Receipt(NamedTuple):
    """An admitted call: ``used`` right after it. ``invoked`` and ``returned`` are of one monotonic clock."""

    invoked: float
    returned: float
    cost: int
    used: int


class Denial(NamedTuple):
    """A call that a limit refused."""

    invoked: float
    returned: float
    cost: int


class Change(NamedTuple):
    """A change of the limit. It binds from some instant between ``invoked`` and ``returned`` on."""

    invoked: float
    returned: float
    limit: int


Limit = int | Sequence[Change]
"""One limit for good, or the changes, one after the other; the first is what a history begins with."""


def check_receipts(receipts: Iterable[Receipt], start: int = 0) -> int:
    """Assert that receipts tile ``(start, total]`` in an order that real time allows; the total."""
    position, latest = start, -inf
    for receipt in sorted(receipts, key=attrgetter("used")):
        assert receipt.cost >= 1, f"a receipt for nothing: {receipt}"
        assert receipt.used - receipt.cost == position, f"hole or overlap at {position}: {receipt}"
        assert receipt.returned >= latest, f"receipt order contradicts real time: {receipt}"
        position, latest = receipt.used, max(latest, receipt.invoked)
    return position


def justify_denials(receipts: Iterable[Receipt], denials: Iterable[Denial], limit: Limit, start: int = 0) -> int:
    """Assert that each denial had a cause: by the time it returned, receipts and calls in flight reach the limit.

    The count that a denial may have seen is that of the last receipt which, with all before it in their order, was
    invoked before the denial returned; with the denial's cost it must pass a limit in force during the denial. How many
    were justified. ``receipts`` have passed ``check_receipts``.
    """
    ordered = sorted(receipts, key=attrgetter("used"))
    begun = list(accumulate((receipt.invoked for receipt in ordered), max))
    checked = 0
    for denial in denials:
        seen = bisect_left(begun, denial.returned)
        reached = ordered[seen - 1].used if seen else start
        least = min(_in_force(limit, denial.invoked, denial.returned))
        assert reached + denial.cost > least, f"{denial} for no reason: {reached} of {least} were used at most"
        checked += 1
    return checked


def check_ceiling(receipts: Iterable[Receipt], limit: Limit) -> None:
    """Assert that each admission fits under a limit that was in force during its call.

    A receipt came about after all before it in their order were invoked, and before any behind it returned.
    """
    ordered = sorted(receipts, key=attrgetter("used"))
    begun = accumulate((receipt.invoked for receipt in ordered), max)
    ended = reversed(list(accumulate((receipt.returned for receipt in reversed(ordered)), min)))
    for receipt, invoked, returned in zip(ordered, begun, ended, strict=True):
        most = max(_in_force(limit, invoked, returned))
        assert receipt.used <= most, f"{receipt} is above the limit of {most}"


def _in_force(limit: Limit, invoked: float, returned: float) -> list[int]:
    """The limits that a call may have met: those that began before it returned and had not ended when it began."""
    if isinstance(limit, int):
        return [limit]
    ends = [change.returned for change in limit[1:]] + [inf]
    return [
        change.limit
        for number, (change, end) in enumerate(zip(limit, ends, strict=True))
        if (not number or change.invoked < returned) and end > invoked
    ]

"""A compiled lane bound to records in this process: decides a plain call in one walk, or leaves it to the rule.

A signal handler may raise where Python looks for signals: where a call returns, a function begins, a jump goes back. So
all is worked out first; what is then written is written between two such places, and no call is ever half counted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ..decision import Details, Quick, Reason
from ..limit import REQUESTS, UNITS_OF_A_COST
from ..process.atomic import Step, at_once
from ..rule.limits import MAX_UNITS, Verdict
from ..rule.record import HOUR_US, MINUTE_US, Record
from .compiled import Lane


class _Default(int):
    """The cost that says nothing: 1, or what the plan says of the route."""

    def __repr__(self) -> str:
        return "1"


DEFAULT = _Default(1)
_UNCOUNTED: Any = object()
"""In place of a unit for which a record has no meter yet: no cost names it."""


class Counted(Quick):
    """A decision of a headroom. ``_cost``: the units by unit, ``_total``: what its meters and buckets read then."""

    __slots__ = ()

    _cost: Any
    _frame: Any
    _total: Any

    def _work_out(self, frame: Any) -> Details:
        full: Details = frame.details(self.allowed, self._cost, self._now, self._total, None)
        if type(self) is Looked:
            full.metered, full.tokens = (), (0, 0)
        return full

    def _rows(self) -> Any:
        self._details()
        return super()._rows()


class Looked(Counted):
    """What ``peek`` is told: nothing was taken that could be refunded."""

    __slots__ = ()


class Unknown(Quick):
    """A refusal of a secret that no key has. ``_cost``: the requests asked for."""

    __slots__ = ()

    allowed = False
    _frame: Any = None

    def _work_out(self, frame: Any) -> Details:  # noqa: ARG002 -- there is none
        return Details(
            Reason.UNKNOWN_KEY,
            None,
            None,
            None,
            {REQUESTS: self._cost},
            Verdict(allowed=False, now=self._now, standings=()),
        )


def unknown(now: int, units: int) -> Unknown:
    """Refuse a call for so many requests with a secret that no key has."""
    decision: Unknown = Unknown()
    decision._now, decision._cost = now, units
    return decision


class Headroom(Lane):
    """Room of one key on one course: the units that may be counted before anything else can happen.

    ``cells``: (meter, unit's place, soft, hard). ``pours``: (bucket, unit's place, drain, scale, burst). ``own``,
    ``last``: the key's record, and the account's or the same one, and their versions. ``began``, ``until``: the minute
    that it was last asked in, 0 before; ``end``: when something is due. ``simple``: a call costs one request.
    """

    __slots__ = ("began", "cells", "end", "last", "last_version", "own", "own_version", "pours", "simple", "standard")

    cells: tuple[tuple[Any, int, int, int], ...]
    pours: tuple[tuple[Any, int, int, int, int], ...]
    standard: list[int] | None

    def __init__(self, lane: Lane, records: Sequence[Record], end: int, share: Callable[[str, Any], Any]) -> None:
        self.course, self.plan, self.key, self.tokens, self.tag = (
            lane.course,
            lane.plan,
            lane.key,
            lane.tokens,
            lane.tag,
        )
        self.places = share("places", lane.places)
        self.simple = lane.course.cost == {REQUESTS: 1}
        self.standard = share("standard", lane.amounts(lane.course.cost))
        self.units = share("units", tuple(unit if unit in lane.counted else _UNCOUNTED for unit in lane.units))
        self.cells = tuple(
            (records[record].meters[meter], unit, share(f"soft {place}", soft), share(f"hard {place}", hard))
            for place, (record, meter, unit, soft, hard) in enumerate(lane.meters)
        )
        self.pours = tuple(
            (records[record].meters[meter].buckets[bucket], unit, drain, scale, burst)
            for record, meter, bucket, unit, drain, scale, burst in lane.buckets
        )
        self.own, self.last = records[0], records[-1]
        self.own_version, self.last_version = self.own.version, self.last.version
        self.began = self.until = 0
        self.end = share("end", min(lane.until, end))

    def takes(self, cost: Any) -> tuple[Any, list[int]] | None:
        """The units of a cost by unit, and in the lane's order; None where the rule must look at it."""
        if cost is DEFAULT or (self.simple and type(cost) is int and cost == 1):
            return None if self.standard is None else (self.course.cost, self.standard)
        if type(cost) is int:
            takes = {REQUESTS: cost}
        elif type(cost) is dict and 0 < len(cost) <= UNITS_OF_A_COST:
            takes = cost.copy()
        else:
            return None
        found, left = [], len(takes)
        for unit in self.units:
            if unit in takes:
                units = takes[unit]
                if type(units) is not int or not 0 < units <= MAX_UNITS:
                    return None
                found.append(units)
                left -= 1
            else:
                found.append(0)
        return None if left else (takes, found)

    def good(self, now: int) -> bool:
        """Tell whether all stands as when this was bound and nothing is due; then go on into the minute of ``now``."""
        own, last = self.own, self.last
        if own.version != self.own_version or last.version != self.last_version or not self.tag.live:
            return False
        if self.until <= now < self.end:
            began = now - now % MINUTE_US
            until = self.tag.share("minute", min(began + MINUTE_US, self.end))
            self.began, self.until = began, until
        return bool(own.at <= now < self.until and last.at <= now)

    def take(  # noqa: C901, PLR0912 -- in line: a call more is a floor's quarter
        self, amounts: Sequence[int], now: int, dry: bool
    ) -> tuple[bool, list[int]] | None:
        """Take all or nothing: whether, and what meters and buckets read then. None: nothing was done, ask the rule.

        The caller sees to it that nobody else counts on these records. ``dry`` answers the same and changes nothing.
        """
        own, last = self.own, self.last
        if not (
            own.at <= now < self.until
            and own.version == self.own_version
            and self.tag.live
            and (last is own or (last.version == self.last_version and last.at <= now))
        ) and not self.good(now):
            return None
        found: list[int] = []
        allowed: bool | None = True
        cells, pours = self.cells, self.pours
        for cell, unit, soft, hard in cells:
            units = amounts[unit]
            total = cell.total + units
            found.append(total)
            if total > soft and units:
                allowed = False if total > hard else allowed and None
        for bucket, unit, drain, scale, burst in pours:
            units = amounts[unit]
            level = bucket.level - drain * (now - bucket.at)
            poured = (level if level > 0 else 0) + units * scale  # noqa: FURB136 -- a call
            found.append(poured)
            if poured > burst and units:
                allowed = False
        if allowed is None:
            return None
        if not allowed:
            return False, self._untouched(now) if pours else [cell[0].total for cell in cells]
        if dry:
            return True, found
        width, poured_ones = len(cells), len(pours)
        if width > 4 or poured_ones > 2 or own.at < self.began or last.at < self.began:
            at_once(*self._steps(found, now))
            return True, found
        # Stores and forward jumps alone: no signal is looked for in between.
        cells[0][0].total = found[0]
        if width > 1:
            cells[1][0].total = found[1]
            if width > 2:
                cells[2][0].total = found[2]
                if width > 3:
                    cells[3][0].total = found[3]
        if poured_ones:
            bucket = pours[0][0]
            bucket.level = found[width]
            bucket.at = now
            if poured_ones > 1:
                bucket = pours[1][0]
                bucket.level = found[width + 1]
                bucket.at = now
        own.at = last.at = now
        return True, found

    def _untouched(self, now: int) -> list[int]:
        """What meters and buckets read at ``now`` while nobody takes anything."""
        return [
            *[cell.total for cell, _, _, _ in self.cells],
            *[max(0, bucket.level - drain * (now - bucket.at)) for bucket, _, drain, _, _ in self.pours],
        ]

    def _steps(self, found: Sequence[int], now: int) -> list[Step]:
        """A commit of any size; the first of a minute notes what all meters of a record read when that began."""
        readings = iter(found)
        steps: list[Step] = [(setattr, cell, "total", next(readings)) for cell, _, _, _ in self.cells]
        for bucket, _, _, _, _ in self.pours:
            steps += [(setattr, bucket, "level", next(readings)), (setattr, bucket, "at", now)]
        for record in {self.own, self.last}:
            for mark, start in (("minute", now - now % MINUTE_US), ("hour", now - now % HOUR_US)):
                if record.at < start:
                    steps += [(setattr, meter, mark, meter.total) for meter in record.meters]
            steps.append((setattr, record, "at", now))
        return steps

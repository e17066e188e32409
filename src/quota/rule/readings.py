"""Readings of a meter at instants of before, as far as they are known: where the windows of limits that join begin."""

from __future__ import annotations

from itertools import pairwise

from ..clock import DAY_US
from .apis import overlap, several
from .meter import Meter
from .record import HOUR_US, MINUTE_US, Record


def carried(record: Record, meter: Meter, name: str, of: tuple[int, int]) -> tuple[int, int]:
    """Find what was granted, and the last alert, in a window of this name on some of the same apis: it goes on here."""
    alike = [
        window for other in record.meters if other is not meter
        and (other.route, other.unit) == (meter.route, meter.unit) and overlap(other.api, meter.api)
        for window in other.windows if (window.name, window.start, window.end) == (name, *of)
    ]  # fmt: skip
    return min((window.extra for window in alike), default=0), max((window.alerted for window in alike), default=0)


def reading_at(record: Record, meter: Meter, start: int) -> tuple[int, int]:
    """The meter's reading at ``start``, and the instant it is a reading of.

    Exact where it was noted, else the latest noted before it, else the earliest. Of several apis it is at least the sum
    of what was read of each, as though all of it were read at the latest of these instants: so what comes back of an
    earlier take leaves too much counted, never too little.
    """
    if record.at < start:
        return meter.total, start
    points = _known(record, meter)
    before = [point for point in points if point[1] <= start]
    if several(meter.api):
        each = [reading_at(record, part, start) for part in record.parts_of(meter)]
        before.append((sum(base for base, _ in each), max([since for _, since in each], default=start)))
    return max(before) if before else min(points)


def _known(record: Record, meter: Meter) -> list[tuple[int, int]]:
    """All readings of a meter that are known, with their instants."""
    return [
        (meter.minute, record.at - record.at % MINUTE_US),
        (meter.hour, record.at - record.at % HOUR_US),
        *((window.base, window.since) for window in meter.windows),
        *((total, day * DAY_US) for day, total in meter.readings()),
        *((after, (day + 1) * DAY_US) for (day, _), (_, after) in pairwise(meter.readings())),
    ]

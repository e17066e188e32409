"""Usage of keys by day, whatever limits they have: told of one key after another, for bills."""

from __future__ import annotations

from typing import NamedTuple

from ..clock import DAY_US
from ..rule.apis import several
from ..rule.record import Record

Used = tuple[str, str, str, int]
"""A plan, an api, a unit, and how many of it were used."""


class ReportDays(NamedTuple):
    """All that is asked for: from the first to the last day since the epoch, as of ``now``; all apis, or one."""

    now: int
    first: int
    last: int
    api: str | None


class KeyUsage(NamedTuple):
    """All that one key used."""

    account: str
    id: str
    used: list[Used]


def used_of(record: Record | None, days: ReportDays, retention: int) -> list[Used]:
    """Add up what a key's own record, the caller's to change, has of some days; each is its last charge's plan's."""
    if record is None:
        return []
    now = max(days.now, record.at)
    record.lapse(now)
    first = max(days.first, now // DAY_US - retention)
    found: dict[tuple[str, str, str], int] = {}
    for meter in record.meters:
        if meter.route or several(meter.api) or days.api not in (None, meter.api):
            continue
        readings = meter.readings()
        ends = [*(reading for _, reading in readings[1:]), meter.total]
        for (day, before), after in zip(readings, ends, strict=True):
            if first <= day <= days.last and after != before:
                place = record.plan_on(meter.api, day), meter.api, meter.unit
                found[place] = found.get(place, 0) + after - before
    return [(*place, units) for place, units in found.items()]

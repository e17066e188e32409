"""Usage of keys by day, whatever limits they have: told of one key after another, for bills."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from ..clock import DAY_US
from ..rule.apis import several
from ..rule.meter import Meter
from ..rule.record import Record
from ..rule.subject import Subject
from .usage import UsageRecord, by_day

Used = tuple[str, str, str, int]
"""A plan, an api, a unit, and how many of it were used."""


class ReportDays(NamedTuple):
    """All that is asked for: from the first to the last day since the epoch, as of ``now``; all apis, or one."""

    now: int
    first: int
    last: int
    api: str | None


class KeyUsage(NamedTuple):
    """All that one key used. ``place``: where a page that ends with it goes on."""

    account: str
    id: str
    used: list[Used]
    place: str


class KeyRecord(NamedTuple):
    """A key's own record, None where it has none. ``life``: names it once the key is removed, in the order of time."""

    account: str
    id: str
    life: str
    record: Record | None

    def place(self, by_account: bool) -> str:
        """Return its place among all: what was removed comes before the key that has the id now."""
        names = (self.account, self.id) if by_account else (self.id, self.account)
        return "\n".join((*names, self.life)) if self.life else "\n".join(names[: 1 + by_account]) + "\v"


def living_from(after: str, by_account: bool) -> tuple[str, str]:
    """Return the account and the least id of the keys that come after a place; no id has a character below a blank."""
    account, _, rest = after.partition("\n") if by_account else ("", "", after)
    return account, rest if rest.endswith("\v") else rest.partition("\n")[0]


def page(found: Iterable[KeyRecord], days: ReportDays, most: int, by_account: bool, retention: int) -> list[KeyUsage]:
    """Return the first of what was found, the keys that are there before those that are not.

    A key that was removed while a page was read is there twice, with one record: it counts once.
    """
    places: dict[str, KeyRecord] = {}
    living: set[int] = set()
    for one in found:
        if one.record is not None and not one.life:
            living.add(one.record.token)
        if not one.life or (one.record is not None and one.record.token not in living):
            places[one.place(by_account)] = one
    told = []
    for place in sorted(places)[:most]:
        account, id_, life, record = places[place]
        record = closed(record, days.now, retention) if life and record else record
        told.append(KeyUsage(account, id_, used_of(record, days, retention), place))
    return told


def lives(found: Iterable[KeyRecord], now: int, retention: int) -> list[Record]:
    """Return what is kept of removed keys of one id, in the order of time."""
    return [closed(one.record, now, retention) for one in sorted(found, key=lambda one: one.life) if one.record]


def closed(record: Record, now: int, retention: int) -> Record:
    """Return what is kept of a removed key's record, the caller's to change: its days, and which plans they were on.

    What was only held is given back.
    """
    for hold in record.holds.each() if record.holds else ():
        if hold.still_open:
            record.give_back(hold.taken_at, hold.takes)
    kept = Record(record.token)
    today = max(now, record.at) // DAY_US
    for meter in record.meters:
        meter.begin_day(today + 1, today - retention)
        own = Meter(meter.api, meter.route, meter.unit, 0)
        own.total, own.days, own.rows = meter.total, meter.days, meter.rows
        kept.meters.append(own)
    kept.at, kept.plan_days, kept.leases = record.at, record.plan_days, record.leases
    return kept


def removed_days(records: Iterable[Record], api: str, now: int, first: int, last: int) -> list[UsageRecord]:
    """Return what the quotas of removed keys, which had one id, counted by day."""
    found: dict[tuple[str, str], UsageRecord] = {}
    for record in records:
        for one in by_day(Subject(record), None, None, api, now, first, last):
            place = one.day.isoformat(), one.limit
            used = found[place].used if place in found else 0
            found[place] = one._replace(used=one.used + used)
    return [found[place] for place in sorted(found)]


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
        for day, units in meter.used().items():
            if first <= day <= days.last and units:
                place = record.plan_on(meter.api, day), meter.api, meter.unit
                found[place] = found.get(place, 0) + units
    return [(*place, units) for place, units in found.items()]

"""Bounds of what is kept of one key or account: more is an error, raised before anything is charged or changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..errors import InvalidCost, InvalidValue
from ..key import Secret
from ..limit import UNITS_OF_A_COST
from ..rule.limits import Course
from ..rule.party import Party

MOST_UNITS = 256
"""Different units that are counted of a key or an account in one api; those that its plan limits always are."""
MOST_HOLDS = 20_000
"""Reservations of a key or an account that are open, or lapsed within a day and were not settled."""
MOST_SECRETS = 256
"""Secrets of a key that are good at the same time."""


def check_units(party: Party, api: str, course: Course | None, takes: Mapping[str, int], field: str = "cost") -> None:
    """Raise ``InvalidCost`` before a record counts more different units."""
    for record in party.records():
        if len(record.meters) <= MOST_UNITS - UNITS_OF_A_COST:
            continue  # nearly always
        counted = {meter.unit for meter in record.meters if meter.api == api}
        limited = {line.unit for line in course.lines} if course else ()
        new = {unit for unit, units in takes.items() if units}.difference(counted, limited)
        if new and len(counted) + len(new) > MOST_UNITS:
            accepted = f"one of the {len(counted)} units that are counted: at most {MOST_UNITS} of a key in an api"
            raise InvalidCost(field, min(new), accepted)


def check_holds(party: Party) -> None:
    """Raise ``InvalidValue`` before a record of a settled party holds more reservations."""
    for record in party.records():
        kept = len(record.holds or ())
        if kept >= MOST_HOLDS:
            accepted = f"fewer than {MOST_HOLDS} of a key or account that are open, or lapsed within a day"
            raise InvalidValue("reservations", kept, accepted)


def check_secrets(kept: Sequence[Secret], overlap: object) -> None:
    """Raise ``InvalidValue`` before a key has one more secret than so many."""
    if len(kept) >= MOST_SECRETS:
        accepted = f"so short an overlap that at most {MOST_SECRETS} secrets of a key are good at the same time"
        raise InvalidValue("overlap", overlap, accepted)

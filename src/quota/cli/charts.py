"""Charts of characters: what is allowed in full blocks, what is refused in light ones, so that no colour is needed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import date, timedelta

from rich.text import Text

from ..clock import DAY_US, to_datetime
from ..replay.report import Counts
from ..rule.record import HOUR_US
from .show import BAD, GOOD, QUIET, can_show

_WIDTH = 38
"""So that no line is longer than 80."""
_MOST_HOURS = 72
_MOST_ROWS = 62
_EIGHTHS = " ▏▎▍▌▋▊▉"


def _block(part: int, whole: int, width: int) -> str:
    """A bar as long as a part of the whole, to an eighth of a character; something is never nothing."""
    if not part or not whole:
        return ""
    if not can_show("█▏"):
        return "#" * max(1, -(-part * width // whole))
    eighths = max(1, part * width * 8 // whole)
    return "█" * (eighths // 8) + _EIGHTHS[eighths % 8].strip()


def daily(days: Sequence[tuple[date, int]]) -> Iterator[Text]:
    """Units by day, days without any between the first and the last included."""
    used = dict(days)
    first, last = min(used), max(used)
    most = max(used.values())
    for number in range((last - first).days + 1):
        day = first + timedelta(days=number)
        units = used.get(day, 0)
        yield Text.assemble(f"  {day}  {units:>12,}  ", (_block(units, most, _WIDTH), GOOD))


def traffic(hours: Mapping[int, Counts]) -> Iterator[Text]:
    """Requests by hour, or by day or longer where there are many: allowed, then refused."""
    if not hours:
        return
    length = HOUR_US
    if max(hours) - min(hours) >= _MOST_HOURS * HOUR_US:
        length = DAY_US * -(-(max(hours) - min(hours)) // (_MOST_ROWS * DAY_US))
    cells: dict[int, list[int]] = {}
    for hour, (allowed, refused) in hours.items():
        cell = cells.setdefault(hour - hour % length, [0, 0])
        cell[0] += allowed
        cell[1] += refused
    most = max(map(sum, cells.values()))
    form = "%Y-%m-%d %H:00" if length == HOUR_US else "%Y-%m-%d"
    full, light = ("█", "▒") if can_show("█▒") else ("#", "x")
    named = "hour" if length == HOUR_US else "day" if length == DAY_US else f"{length // DAY_US} days"
    yield Text.assemble(f"per {named} (UTC), ", (f"{full} allowed", GOOD), ", ", (f"{light} refused", BAD))
    for start in range(min(cells), max(cells) + 1, length):
        allowed, refused = cells.get(start, (0, 0))
        wide = [max(1, count * _WIDTH // most) if count else 0 for count in (allowed, refused)]
        yield Text.assemble(
            f"  {to_datetime(start):{form}}  {allowed:>9,} ", (f"{refused:>9,}  ", BAD if refused else QUIET),
            (full * wide[0], GOOD), (light * wide[1], BAD),
        )  # fmt: skip

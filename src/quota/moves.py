"""What a change of plan does to throttles: a part of the rule, as pure as ``charge.py``, which alone calls it.

The key's own meter remembers the places of the throttles that it was last charged under. Where the plan has others, the
calls were charged to other buckets than they will be, and the new ones take over what they did not see: from buckets of
another name, of the key instead of the account, of the plan instead of a route, and the other way round. So no toggling
of plans lets one key take more than the larger plan would; where keys share a bucket, one of them may find it fuller
than its own calls made it, for as long as that drains. A bucket that is charged all along takes nothing over from one
beside it, and no unit is poured into one twice.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from typing import TYPE_CHECKING

import attrs

from .record import Bucket, Meter, Record

if TYPE_CHECKING:
    from .charge import Party, ThrottleLine, Throttles


@attrs.frozen(eq=False)
class _Former:
    """Where the key's calls were charged under the plan before; ``stays``: and are under this one."""

    record: Record
    meter: Meter
    name: str
    bucket: Bucket | None
    stays: bool


def move(party: Party, api: str, unit: str, throttles: Throttles, now: int) -> None:
    """Bring a settled party's buckets of one unit to the plan of these throttles."""
    places, lines = throttles
    origin = party.key.metered(api, "", unit, now)
    left, origin.places = origin.places, places
    if not left:
        return
    after = {(party.holder(line), line.route, line.name) for line in lines}
    before: dict[str, list[_Former]] = {}
    for route, name, shared, full in left:
        record = party.record(shared=shared)
        meter = record.metered(api, route, unit, now)
        # What an idle key left in a bucket that it shares is gone when a full one would be.
        bucket = meter.bucket(name) if record is party.key or now < party.key.at + full else None
        before.setdefault(route, []).append(_Former(record, meter, name, bucket, (record, route, name) in after))
    poured: set[Bucket] = set()
    joined = [(line, *_joined(party, api, line, before, {line.route for line in lines}, poured, now)) for line in lines]
    for bucket in poured:
        bucket.lent, bucket.since = level_at(bucket, now), now
    filled = {line.route for line, level, _ in joined if level}
    for line, level, own in joined:
        if line.route in filled:
            put(party.holder(line).metered(api, line.route, unit, now), line, level, own, now)
    for former in [former for formers in before.values() for former in formers]:
        if former.bucket is not None and not former.stays and not level_at(former.bucket, now):
            former.meter.buckets = [bucket for bucket in former.meter.buckets if bucket is not former.bucket]


def _joined(
    party: Party, api: str, line: ThrottleLine, before: Mapping[str, list[_Former]], routes: Container[str],
    poured: set[Bucket], now: int,
) -> tuple[int, int]:  # fmt: skip
    """One throttle under another plan: its bucket's level, and how much of that no other bucket holds.

    What was charged the same calls, or more, tells the least that the level must be. What was charged calls that this
    bucket knows nothing of (the key's own before the account's, a route's before the plan's) is poured in, once.
    """
    record = party.holder(line)
    meter = record.meter(api, line.route, line.unit)
    level, own = converted(meter.bucket(line.name) if meter else None, line, now)
    alike = line.route in before
    formers = before.get(line.route if alike else "", [])
    pours = [] if line.route else [dropped for route, dropped in before.items() if route not in routes]
    if not alike or all(former.record is not record or former.name != line.name for former in formers):
        same = [former for former in formers if former.record is record]
        away = [former for former in formers if former.record is not record and not (alike and former.stays)]
        if same or not alike or record is party.key:
            whole, part = _missed(line, same or away, now)
            level, own = max(level, whole), max(own, part if same and alike else 0)
        else:
            pours.append(away)
    found = [_missed(line, formers, now) for formers in pours]
    more = min(sum(part for _, part in found), max(0, line.burst - level))
    poured.update(former.bucket for formers in pours for former in formers if former.bucket is not None)
    return max([level + more, *(whole for whole, _ in found)]), own + more


def level_at(bucket: Bucket, now: int) -> int:
    """A bucket's level at ``now``, in units times its scale."""
    level = bucket.level - bucket.drain * (now - bucket.at)
    return max(0, level)


def _missed(line: ThrottleLine, formers: list[_Former], now: int) -> tuple[int, int]:
    """What charges to these buckets, which all were charged the same calls, would have left in a throttle's own.

    A slower bucket's level is at least what this one's would be, so the lowest of those is safe; where all were
    faster, the highest is what they promised to keep.
    """
    buckets = [former.bucket for former in formers if former.bucket is not None]
    slower = [bucket for bucket in buckets if bucket.drain * line.scale <= line.drain * bucket.scale]
    levels = [converted(bucket, line, now) for bucket in slower or buckets] or [(0, 0)]
    pick = min if slower else max
    return pick(level for level, _ in levels), pick(own for _, own in levels)


def converted(bucket: Bucket | None, line: ThrottleLine, now: int) -> tuple[int, int]:
    """A bucket's level in a throttle's terms, and how much of that no other bucket holds; both rounded up."""
    if bucket is None:
        return 0, 0
    level = level_at(bucket, now)
    own = level - max(0, bucket.lent - bucket.drain * (now - bucket.since))
    return -(-level * line.scale // bucket.scale), -(-own * line.scale // bucket.scale)


def put(meter: Meter, line: ThrottleLine, level: int, own: int, now: int) -> None:
    """Give a throttle its bucket, at a level of which no other bucket holds ``own``."""
    bucket = Bucket(line.name, line.scale, line.drain, level, now, level - own, now)
    meter.buckets = [*(old for old in meter.buckets if old.name != line.name), bucket]

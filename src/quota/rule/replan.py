"""Throttles under a changed plan: a part of the rule, as pure as ``charge.py``, which alone calls it.

The key's own meter remembers the throttles that it was last charged under. Where its plan has others, its calls were
charged to other buckets than they will be, and those take over what they did not see: from buckets of other names, of
the key in place of the account, of the plan in place of a route, and the other way round. So whatever the toggling,
what one key takes of a limit is never more than the larger of its plans would let it take. A key's bucket that comes
beside its account's, which stays as tight, begins empty. Where keys share a bucket, one of them may find what it takes
over fuller than its own calls made it, for as long as that drains.

The throttles of a plan for several apis have one bucket together, and each api remembers what its own calls were
charged under. As an api's calls come to buckets of other apis than before, what they left in those is poured into
these, once; where a bucket of several is left, an api's own takes all of it over. So after a move too much may be told,
never too little.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

from .limits import OWN
from .meter import Bucket, Meter
from .record import Record
from .subject import Subject, own_refs

if TYPE_CHECKING:
    from .entries import ThrottleRef
    from .limits import CompiledThrottle, Throttles


class _Former(NamedTuple):
    """A bucket of the key's calls under the plan before; ``stays``: and under this one, at most as much."""

    record: Record
    meter: Meter
    name: str
    bucket: Bucket | None
    stays: bool


def move(subject: Subject, api: str, unit: str, throttles: Throttles, now: int) -> bool:
    """Bring an advanced subject's buckets of one unit to the plan of these throttles; whether it was under another."""
    throttle_refs, limits = throttles
    origin = subject.key.metered(api, "", unit, now)
    left, origin.throttle_refs = origin.throttle_refs, throttle_refs
    if throttle_refs and throttle_refs[0].name.startswith(OWN):
        left = own_refs(left)
    if not left:
        return False
    apis = limits[0].apis
    across = any((old.apis or api) != apis for old in left)
    after = {(subject.record(shared=limit.shared), limit.route, limit.name): limit for limit in limits if not across}
    before: dict[str, list[_Former]] = {}
    for old in left:
        record = subject.record(shared=old.shared)
        meter = record.metered(old.apis or api, old.route, unit, now)
        # What an idle key left in a bucket that it shares is gone when a full one would be.
        mine = record is subject.key or (now - subject.key.at) * old.drain < old.burst
        new = after.get((record, old.route, old.name))
        stays = new is not None and _as_tight(new, old)
        bucket = meter.bucket(old.name) if mine else None
        before.setdefault(old.route, []).append(_Former(record, meter, old.name, bucket, stays))
    routes = {limit.route for limit in limits}
    dropped = [formers for route, formers in before.items() if route not in routes]
    take_over = _poured if across else _joined
    joined = [(limit, *take_over(subject, limit, before, dropped, now)) for limit in limits]
    filled = {limit.route for limit, level, _ in joined if level}
    for limit, level, own in joined:
        if limit.route in filled:
            put(subject.record(shared=limit.shared).metered(apis, limit.route, unit, now), limit, level, own, now)
    for former in [former for formers in before.values() for former in formers]:
        bucket, route = former.bucket, former.meter.route
        if bucket is None or (former.record, route, former.name) in after:
            continue
        if not level_at(bucket, now):
            former.meter.buckets = [other for other in former.meter.buckets if other is not bucket]
        elif routes & {"", route}:
            bucket.shared_level, bucket.since = level_at(bucket, now), now
    return True


def _as_tight(new: CompiledThrottle, old: ThrottleRef) -> bool:
    """Tell whether a throttle lets no more through than another did."""
    return new.drain * old.scale <= old.drain * new.scale and new.burst * old.scale <= old.burst * new.scale


def _joined(
    subject: Subject, limit: CompiledThrottle, before: Mapping[str, list[_Former]],
    dropped: list[list[_Former]],
    now: int,
) -> tuple[int, int]:  # fmt: skip
    """One throttle under another plan: its bucket's level, and how much of a route's no other bucket holds.

    What was charged the same calls, or more, tells the least that the level must be. The calls on a route that has no
    throttle of its own any more are news to the plan's: what they left is poured in, once.
    """
    record = subject.record(shared=limit.shared)
    level, own = _there(record, limit, now)
    alike = limit.route in before
    formers = before.get(limit.route if alike else "", [])
    if not alike or all(former.record is not record or former.name != limit.name for former in formers):
        beside = [former for former in formers if former.record is record]
        across = [former for former in formers if not (alike and former.stays and record is subject.key)]
        whole, part = _missed(limit, beside or across, now)
        level, own = max(level, whole), max(own, part if alike else 0)
    found = [] if limit.route else [_missed(limit, formers, now) for formers in dropped]
    return _with_more(limit, level, found), own


def _poured(
    subject: Subject, limit: CompiledThrottle, before: Mapping[str, list[_Former]], dropped: list[list[_Former]],
    now: int,
) -> tuple[int, int]:  # fmt: skip
    """One throttle under a plan for other apis: its bucket had none of these calls, so all that they left is news."""
    level, own = _there(subject.record(shared=limit.shared), limit, now)
    alike = [before.get(limit.route) or before.get("", [])]
    found = [_missed(limit, formers, now) for formers in (alike if limit.route else [before.get("", []), *dropped])]
    whole = _with_more(limit, level, found)
    return whole, own + whole - level


def _there(record: Record, limit: CompiledThrottle, now: int) -> tuple[int, int]:
    """Return what the bucket of a throttle holds already, as ``converted`` does."""
    meter = record.meter(limit.apis, limit.route, limit.unit)
    return converted(meter.bucket(limit.name) if meter else None, limit, now)


def _with_more(limit: CompiledThrottle, level: int, found: list[tuple[int, int]]) -> int:
    """Pour into a bucket what it has not heard of, while there is room; it holds at least all of each of these."""
    more = min(sum(part for _, part in found), max(0, limit.burst - level))
    return max([level + more, *(whole for whole, _ in found)])


def level_at(bucket: Bucket, now: int) -> int:
    """A bucket's level at ``now``, in units times its scale."""
    level = bucket.level - bucket.drain * (now - bucket.at)
    return max(0, level)


def _missed(limit: CompiledThrottle, formers: list[_Former], now: int) -> tuple[int, int]:
    """Work out what charges to these buckets, all charged the same calls, would have left in a throttle's own.

    A slower bucket's level is at least what this one's would be, so the lowest of those is safe; where all were
    faster, the highest is what they promised to keep.
    """
    buckets = [former.bucket for former in formers if former.bucket is not None]
    slower = [bucket for bucket in buckets if bucket.drain * limit.scale <= limit.drain * bucket.scale]
    levels = [converted(bucket, limit, now) for bucket in slower or buckets] or [(0, 0)]
    pick = min if slower else max
    return pick(level for level, _ in levels), pick(own for _, own in levels)


def converted(bucket: Bucket | None, limit: CompiledThrottle, now: int) -> tuple[int, int]:
    """A bucket's level in a throttle's terms, and how much of that no other bucket holds; both rounded up."""
    if bucket is None:
        return 0, 0
    level = level_at(bucket, now)
    own = level - max(0, bucket.shared_level - bucket.drain * (now - bucket.since))
    return -(-level * limit.scale // bucket.scale), -(-own * limit.scale // bucket.scale)


def put(meter: Meter, limit: CompiledThrottle, level: int, own: int, now: int) -> None:
    """Give a throttle its bucket, at a level of which no other bucket holds ``own``."""
    bucket = Bucket(limit.name, limit.scale, limit.drain, level, now, level - own, now)
    meter.buckets = [*(old for old in meter.buckets if old.name != limit.name), bucket]

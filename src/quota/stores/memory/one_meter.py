"""The memory store's fastest form: a headroom of one meter, which owns its key's count.

While it is open, the meter's total and the record's latest instant live in it, so that a call touches one object in
place of three, which is most of its time where there are a million keys. Whoever reads the record asks for them back
first (``flush``), under the same lock.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from ...decision import Decision
from ...key import KeyOrCaller
from ...limit import REQUESTS
from ...operations.headroom import Headroom, SeveralMeters, Told
from ...operations.request import INFO, barred, refused, wants
from ...operations.shape import DEFAULT, unrouted
from ...process.locks import wait_for
from ...rule.limits import MAX_UNITS, Place, Stands
from ...rule.meter import Bucket, Meter
from ...rule.record import MINUTE_US, Record, minute_of


class Asked:
    """All that a key's calls ask first, found by its id and its secrets."""

    __slots__ = ()

    lock: Any
    key_entry: Any
    until: int

    def take_otherwise(  # noqa: C901 -- in line: a call more is a floor's quarter
        self, now: int, cost: Any, api: str, route: str | None, address: str | None, scope: str | None, dry: bool | None
    ) -> Decision | None:
        """Decide a call by a headroom of the key on several meters."""
        key_entry = self.key_entry
        for room in key_entry.rooms:
            shape = room.shape
            if shape.api == api and (
                (route == shape.route or (shape.wide and shape.covers(route)))
                if shape.route
                else route is None or unrouted(shape.own, route)
            ):
                break
        else:
            return None
        amounts = shape.standard if cost is DEFAULT else shape.asked(cost)
        if amounts is None or key_entry.room is not self or (dry is None and room.slots):
            return None
        if (scope is not None or room.key.networks) and barred(room.key, address, scope):
            return None
        decision: Told = Told()
        stripe = key_entry.stripe
        lock, allowed, mine = stripe.lock, None, False
        try:
            if not lock.acquire(False):  # noqa: FBT003 -- by keyword it takes twice as long
                wait_for(lock)
            if not stripe.busy:  # else a signal handler asks in the middle of its thread's call, and is told so
                mine = stripe.busy = True
                if self.until:
                    self.flush() if dry else self.close()
                allowed = room.take(decision, amounts, now, dry)
                mine = stripe.busy = False
            lock.release()
        except BaseException:
            if mine:
                stripe.busy = False
            if lock._is_owned():
                lock.release()
            raise
        if allowed is None or allowed or dry or wants[0].get(INFO) is False:
            return None if allowed is None else decision
        return refused(decision, api, route)

    def flush(self) -> None:
        """Bring the record up to date."""

    def close(self) -> None:
        """Hand the count back; ``open`` goes on from there."""

    def invalidate(self) -> None:
        """Close for good, and whatever serves the key: what it was worked out from is about to change."""
        self.close()
        key_entry = self.key_entry
        key_entry.rooms = ()
        if key_entry.record is not None:
            key_entry.record.version += 1


class NoMeter(Asked):
    """All that a key's calls ask while none of its headrooms is on one meter."""

    __slots__ = ("key_entry", "lock")

    until = 0
    version = -1
    take = Asked.take_otherwise

    def __init__(self, key_entry: Any) -> None:
        self.key_entry = key_entry
        self.lock = key_entry.stripe.lock


class Span(NamedTuple):
    """Bounds of one key while no window rolls: equal for most keys of a plan, which then share one.

    ``hard``: the total above which a quota refuses. ``end``: until when all this holds.
    """

    hard: int
    end: int
    places: tuple[Place, ...]
    bases: tuple[int, ...]


class _Hot(Headroom):
    """All that every call reads and writes beside the shape, next to each other in memory."""

    __slots__ = ("at", "lock", "soft", "total")

    at: int
    lock: Any
    soft: int
    total: int


class OneMeter(Asked, _Hot):
    """Room of one key for requests on one meter, with one throttle at most.

    Good from ``at`` until the record changes otherwise. ``until``: when the next minute begins, 0 while it is closed.
    ``soft``: the total up to which nothing happens. ``version``: the record's when it was laid, -1 before and after.

    With six windows beside the hot ones it takes 128 bytes, and Python's allocator begins each at a cache line: what is
    hot is one line, not two. ``__slots__`` of seven would undo that.
    """

    __slots__ = ("bucket", "key", "key_entry", "span", "token", "version")

    bucket: Bucket
    key: KeyOrCaller
    key_entry: Any
    span: Span
    token: int

    def __init__(self, key_entry: Any) -> None:
        self.key_entry = key_entry
        self.lock = key_entry.stripe.lock
        self.at = self.until = 0
        self.version = -1

    @property
    def tokens(self) -> tuple[int, ...]:  # type: ignore[override]
        """The record's own number."""
        return self.token, 0

    def takes(self, decision: Told) -> Mapping[str, int]:
        """See ``Headroom.takes``."""
        return {REQUESTS: decision._amounts}

    def read(self, decision: Told) -> Stands:
        """See ``Headroom.read``."""
        found, span = decision._found, self.span
        return span.places, span.bases, (found,) if self.shape.throttle is None else (found, decision._level)

    def take(  # noqa: C901, PLR0912 -- in line: a call more is a tenth of its time
        self, now: int, cost: Any, api: str, route: str | None, address: str | None, scope: str | None, dry: bool | None
    ) -> Decision | None:
        """Decide a call, here or by another headroom of the key; None where the rule must.

        ``dry``: for ``peek``; None of a call that would keep its slots, which is not decided here where there are any.
        """
        units = 1 if cost is DEFAULT else cost if type(cost) is int and 0 < cost <= MAX_UNITS else _alone(cost)
        shape = self.shape
        plain = api == shape.api and (route is None or unrouted(shape.own, route))
        while units and plain and (scope is None or scope in self.key.scopes):
            decision: Told = Told()
            lock = self.lock
            allowed = None
            try:
                if not lock.acquire(False):  # noqa: FBT003 -- by keyword it takes twice as long
                    wait_for(lock)
                if self.at <= now < self.until and shape.live:
                    total = self.total + units
                    throttle = shape.throttle
                    if throttle is None:
                        allowed = True if total <= self.soft else False if total > self.span.hard else None
                    else:
                        bucket = self.bucket
                        level = bucket.level - throttle.drain * (now - bucket.at)
                        poured = units * throttle.scale + (level if level > 0 else 0)  # noqa: FURB136 -- a call
                        if total > self.span.hard or poured > throttle.burst:
                            allowed = False
                            decision._level = level if level > 0 else 0  # noqa: FURB136 -- a call
                        elif total <= self.soft:
                            allowed = True
                            decision._level = poured
                            if not dry:
                                bucket.level = poured
                                bucket.at = now
                    if dry:
                        decision._dry = True
                    elif allowed:
                        self.total, self.at = total, now
                lock.release()
            except BaseException:
                if lock._is_owned():
                    lock.release()
                raise
            if allowed is not None:
                decision.allowed, decision._room = allowed, self  # in pairs: of four a tuple would be made
                decision._now, decision._amounts = now, units
                if allowed:
                    decision._found = total
                    return decision
                decision._found = total - units
                return decision if dry or wants[0].get(INFO) is False else refused(decision, api, route)
            if not self.turn(now):
                break
        return self.take_otherwise(now, cost, api, route, address, scope, dry)

    def lay(self, room: SeveralMeters) -> None:
        """Take over what was worked out for a record on which nothing is due."""
        shape = self.shape = room.shape
        self.key, self.token = room.key, room.tokens[0]
        ((_, _, soft, hard),) = room.cells
        if shape.throttle is not None:
            self.bucket = room.pours[0][0]
        self.soft = soft
        self.span = shape.share("span", Span(hard, room.end, room.places, room.bases))  # type: ignore[arg-type]
        self.version = room.own_version  # last: what was interrupted before is worked out again

    @property
    def meter(self) -> Meter:
        """Return what is counted on while this is closed."""
        return self.key_entry.record.meter(self.shape.api, "", REQUESTS)  # type: ignore[no-any-return] # it was laid on it

    def open(self, record: Record) -> None:
        """Own the count from now on."""
        self.at = record.at
        self.total = self.meter.total
        self._go_on(record, record.at - record.at % MINUTE_US)

    def _go_on(self, record: Record, minute: int) -> None:
        """Serve calls until the minute, or all that it was laid for, is over, or a reservation lapses."""
        end = minute + MINUTE_US
        self.until = self.shape.share("until", min(end, self.span.end, record.due or end))

    def flush(self) -> None:
        """Bring the record up to date while open: all that was admitted since was in the minute of ``at``."""
        if not self.until:
            return
        record, meter = self.key_entry.record, self.meter
        if meter.total != self.total:
            record.turn_minute(self.at)
            record.last_used = minute_of(self.at)
            # In this order: what is interrupted on the way is done again, and notes the same readings.
            record.at = self.at
            meter.total = self.total

    def close(self) -> None:
        """Hand the count back; ``open`` goes on from there."""
        self.flush()
        self.until = 0

    def invalidate(self) -> None:
        """Close for good, and whatever serves the key."""
        super().invalidate()
        self.version = -1

    def turn(self, now: int) -> bool:
        """Go on in the minute of ``now``, or behind another kind of call, where that is all that was in the way.

        Nothing of it is noted yet: only an admission may change the record, and this call may be refused. Until there
        is one, ``at`` is the start of the minute: a clock that is stepped back behind it finds the general path.
        """
        if self.version < 0:
            return False
        stripe = self.key_entry.stripe
        stripe.let_through()
        with stripe.lock:
            stripe.check()
            try:
                stripe.busy = True
                record = self.key_entry.record
                if not self.until:
                    good = record is not None and self.version == record.version and self.shape.live
                    if good and record.at <= now < self.span.end and record.quiet(now):
                        self.open(record)
                    return self.until > 0
                good = 0 < self.until <= now < self.span.end and self.at <= now and self.shape.live
                if not good or not record.quiet(now):
                    return False
                self.flush()
                self.at = now - now % MINUTE_US
                self._go_on(record, self.at)
                return True
            finally:
                stripe.busy = False


def _alone(cost: object) -> int | None:
    """The requests of a cost by unit that names nothing else; None of any other."""
    units = cost.get(REQUESTS) if type(cost) is dict and len(cost) == 1 else None
    return units if type(units) is int and 0 < units <= MAX_UNITS else None

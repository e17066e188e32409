"""The memory store's fast path: what ``Ledger.consume`` runs on, one lane for each key.

A lane that is open owns its key's count: the meter's total and the record's latest instant live in the lane, so that a
call touches one object in place of three, which is most of its time where there are a million keys. Whoever reads the
record asks for them back first (``hand_back``), under the same lock.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

from ...clock import pause, to_us
from ...decision import Bounds
from ...errors import StoreBusy
from ...key import Subject
from ...limit import REQUESTS
from ...operations.headroom import Headroom
from ...plan import UsagePlan
from ...rule.charge import bounds
from ...rule.limits import Course, QuotaLine, Terms, ThrottleLine
from ...rule.record import MINUTE_US, Bucket, Meter, Record

T = TypeVar("T")
TRIES = 100


def wait_for(lock: Any) -> None:
    """Take a lock that another thread holds, after letting that thread run.

    A thread that blocks is handed the lock while the interpreter runs another one, which then blocks in its turn: once
    begun, that goes on, and every call costs two switches of threads (eight threads were measured at a tenth of one's
    throughput). So blocking comes last, for a holder that takes long.
    """
    for turn in range(TRIES):
        pause(0 if turn < 10 else 0.000_05)
        if lock.acquire(blocking=False):
            return
    lock.acquire()


class Stripe:
    """The accounts that share one lock, and the round of records to be looked over for dead windows.

    ``accounts``: those that are not one key's own, by their names.
    ``rooms``: what serves the calls of a key that its lane does not, by that lane: the newest first.
    ``callers``: those without a key who have a record here, a round of its own.
    ``busy``: an operation of many steps holds the lock. The lock knows its owner, so that an interrupt between taking
    it and the block that gives it back cannot leave it taken; ``busy`` is what a signal handler then finds.
    """

    __slots__ = ("accounts", "busy", "callers", "callers_floor", "floor", "lock", "rooms", "round")

    def __init__(self) -> None:
        self.lock: Any = threading.RLock()
        self.accounts: dict[str, Account] = {}
        self.rooms: dict[Lane, tuple[Headroom, ...]] = {}
        self.round: deque[Seat | Account] = deque()
        self.callers: deque[Seat] = deque()
        self.floor = self.callers_floor = 0
        self.busy = False

    def let_through(self) -> None:
        """Let an operation that is under way end, before its lock is blocked on; see ``wait_for``."""
        for turn in range(TRIES):
            if not self.busy:
                return
            pause(0 if turn < 10 else 0.000_05)

    def check(self) -> None:
        """Refuse who holds the lock already, in the middle of another operation."""
        if self.busy:
            raise StoreBusy("called from a signal handler or a finalizer in the middle of a call of its own thread")

    @contextmanager
    def at_rest(self) -> Iterator[None]:
        """Nothing else happens on the stripe. ``MemoryStore.apply`` and ``Lane.turn`` say the same in line."""
        self.let_through()
        with self.lock:
            self.check()
            try:
                self.busy = True
                yield
            finally:
                self.busy = False

    def prune(self, now: int, terms: Terms) -> None:
        """Look over two records for each change (a key and its account): what is dead for two windows is forgotten."""
        for _ in range(2):
            if len(self.round) > 1:
                place = self.round.popleft()
                if self.look_over(place, now, terms):
                    self.round.append(place)

    def look_over(self, place: Seat | Account, now: int, terms: Terms) -> bool:
        """Forget what is dead; whether there is a record that is not."""
        record = place.record
        if record is None:
            return False
        lane = place.lane if isinstance(place, Seat) else None
        if lane is not None:
            lane.hand_back()
        dead_at, floor = record.dead_after(terms.retention, terms.late)
        if dead_at + terms.max_skew > now:
            return True
        if terms.late:
            self.floor = max(self.floor, floor)
        else:
            self.callers_floor = max(self.callers_floor, floor)
        if lane is not None:
            lane.shut()
        record.version += 1
        place.record = None
        if isinstance(place, Account) and not place.members:
            self.accounts.pop(place.name, None)
        return False

    def sweep(self) -> None:
        """Look for what was removed: as many keys may come and go as will, though no call looks over the round."""
        for _ in range(min(2, len(self.round))):
            if self.round[0].record is None:
                self.round.popleft()
            else:
                self.round.rotate(-1)


class Account:
    """Whose usage is counted where it is not one key's own: the keys that share it, and what they used together."""

    __slots__ = ("members", "name", "record", "shared", "stripe")

    def __init__(self, name: str, stripe: Stripe) -> None:
        self.name = name
        self.stripe = stripe
        self.members: list[Seat] = []
        self.shared = False
        self.record: Record | None = None


class On:
    """The plans that a key is on, by api: one object for all keys that are on the same. ``plans``: looked up."""

    __slots__ = ("ids", "plans")

    def __init__(self, ids: Mapping[str, str]) -> None:
        self.ids = ids
        self.plans: Mapping[str, UsagePlan] | None = None


class Seat:
    """A key's or a caller's place in the store. ``account``: None while it is alone in an account of its own name."""

    __slots__ = ("account", "key", "lane", "on", "record", "stripe")

    def __init__(self, key: Subject, account: Account | None, stripe: Stripe, on: On) -> None:
        self.key: Any = key
        self.account = account
        self.stripe = stripe
        self.on = on
        self.record: Record | None = None
        self.lane = Lane(self)


class Track:
    """What the lanes of one plan share. ``live``: whether the plan stands; a change of it closes all lanes at once.

    ``own``: the routes with limits or costs of their own, which no lane serves. ``simple``: whether lanes can serve at
    all: one meter, at most one throttle.
    """

    __slots__ = ("_shared", "course", "live", "own", "plan", "simple", "throttle")

    def __init__(self, plan: UsagePlan) -> None:
        self.plan = plan
        self.course = plan.course(None)
        self.own = frozenset(plan.routes) | frozenset(plan.costs)
        self.throttle = next((line for line in self.course.lines if isinstance(line, ThrottleLine)), None)
        lines = self.course.lines
        self.simple = (
            sum(isinstance(line, ThrottleLine) for line in lines) <= 1
            and all(line.unit == REQUESTS and not line.route for line in lines)
            and self.course.cost == {REQUESTS: 1}
        )
        self.live = True
        self._shared: dict[str, Any] = {}

    def share(self, name: str, value: T) -> T:
        """The value, or the equal one that the latest lane has: most keys' are equal, and one object stays in cache."""
        latest: T | None = self._shared.get(name)
        if latest is not None and latest == value:
            return latest
        self._shared[name] = value
        return value


class _Hot:
    """What every call reads and writes, next to each other in memory."""

    __slots__ = ("at", "lock", "quiet", "total", "track", "until")

    at: int
    lock: Any
    quiet: int
    total: int
    track: Track
    until: int


class Lane(_Hot):
    """The fast path of one key: what ``bounds`` worked out, good from ``at`` until the record changes otherwise.

    ``until``: when the next minute begins, 0 while closed. ``quiet``: the total up to which nothing happens.
    ``version``: the record's when the bounds were worked out. What decisions read of it (a ``Frame``) never changes:
    another window is another lane.

    With six slots beside the hot ones a lane takes 128 bytes, and Python's allocator begins each at a cache line: what
    is hot is one line, not two. ``__slots__`` of seven would undo that.
    """

    __slots__ = ("bounds", "bucket", "key", "seat", "token", "version")

    bounds: Bounds
    bucket: Bucket
    key: Subject
    token: int

    def __init__(self, seat: Any) -> None:
        self.seat = seat
        self.lock = seat.stripe.lock
        self.at = self.until = 0
        self.version = -1

    @property
    def plan(self) -> UsagePlan:
        return self.track.plan

    @property
    def course(self) -> Course:
        return self.track.course

    @property
    def tokens(self) -> tuple[int, int]:
        return self.token, 0

    def lay(self, track: Track, record: Record, meter: Meter, now: int) -> None:
        """Work out the bounds of a record on which nothing is due."""
        course, key = track.course, self.seat.key
        self.track, self.key = track, key
        self.token = record.token
        ceiling, quiet, end = bounds(course, record, meter)
        expiries = [key.expires_at, *(secret.expires_at for secret in key.secrets)]
        ends = [end, *(to_us(expiry) for expiry in expiries if expiry is not None)]
        if track.throttle is not None:
            self.bucket = meter.bucket(track.throttle.name)  # type: ignore[assignment] # a settled record has it
        slots = []
        for line in course.lines:
            slot = meter.slot(line.name) if isinstance(line, QuotaLine) else None
            slots.append((line, slot.base, slot.extra, slot.end) if slot else (line, 0, 0, 0))
        self.bounds = track.share("bounds", Bounds(ceiling, min(end for end in ends if end > now), tuple(slots)))
        self.quiet = self.bounds.ceiling if quiet == ceiling else track.share("quiet", quiet)
        self.version = record.version  # last: what was interrupted before is worked out again

    @property
    def meter(self) -> Meter:
        """What is counted on while the lane is closed."""
        return self.seat.record.meter("", "", REQUESTS)  # type: ignore[no-any-return] # a lane was laid on it

    def open(self, record: Record) -> None:
        """Own the count from now on."""
        self.at = record.at
        self.total = self.meter.total
        turn = record.at - record.at % MINUTE_US + MINUTE_US
        self.until = self.track.share("until", min(turn, self.bounds.end))

    def hand_back(self) -> None:
        """Bring the record up to date with an open lane: all that it admitted since was in the minute of ``at``."""
        if not self.until:
            return
        record, meter = self.seat.record, self.meter
        if meter.total != self.total:
            record.turn_minute(self.at)
            # In this order: what is interrupted on the way is done again, and notes the same readings.
            record.at = self.at
            meter.total = self.total

    def close(self) -> None:
        """Hand the count back; ``open`` goes on from there."""
        self.hand_back()
        self.until = 0

    def shut(self) -> None:
        """Close for good, and whatever serves the key: what it was worked out from is about to change."""
        self.close()
        self.version = -1
        seat = self.seat
        seat.stripe.rooms.pop(self, None)
        if seat.record is not None:
            seat.record.version += 1

    def turn(self, now: int) -> bool:
        """Go on in the minute of ``now``, or behind another kind of call, where that is all that was in the way.

        Nothing of it is noted yet: only an admission may change the record, and this call may be refused. Until there
        is one, ``at`` is the start of the minute: a clock that is stepped back behind it finds the general path.
        """
        if self.version < 0:
            return False
        stripe = self.seat.stripe
        stripe.let_through()
        with stripe.lock:
            stripe.check()
            try:
                stripe.busy = True
                if not self.until:
                    record = self.seat.record
                    good = record is not None and self.version == record.version and self.track.live
                    if good and record.at <= now < self.bounds.end:
                        self.open(record)
                    return self.until > 0
                if not (0 < self.until <= now < self.bounds.end and self.at <= now and self.track.live):
                    return False
                self.hand_back()
                minute = now - now % MINUTE_US
                self.at, self.until = minute, self.track.share("until", min(minute + MINUTE_US, self.bounds.end))
                return True
            finally:
                stripe.busy = False

"""One process: plain objects under striped locks. Exact; live windows are never evicted, dead ones are pruned."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from ..charge import Course, Line, Party, ThrottleLine, bounds
from ..clock import to_us
from ..decision import Frame, Reason
from ..errors import InvalidValue, PlanConflict, UnknownKey, UnknownPlan
from ..key import ApiKey, new_number
from ..operations import perform, usable
from ..plan import REQUESTS, UsagePlan
from ..record import MINUTE_US, Bucket, Meter, Record
from ..store import COMMON, Entry, Request, make_terms, split_url, whole_option


class _Account:
    """Whose usage is counted: the only key's own record until a second key joins, then one of its own."""

    __slots__ = ("members", "name", "record", "shared", "stripe")

    def __init__(self, name: str, stripe: _Stripe) -> None:
        self.name = name
        self.stripe = stripe
        self.members: list[_Seat] = []
        self.shared = False
        self.record: Record | None = None


class _Seat:
    """One key's place in the store. ``lanes``: the references under which its fast paths are found."""

    __slots__ = ("account", "key", "lanes", "plans", "record")

    def __init__(self, key: ApiKey, account: _Account) -> None:
        self.key = key
        self.account = account
        self.plans: dict[str, str] = {}
        self.record: Record | None = None
        self.lanes: tuple[bytes | str, ...] = ()


class _Stripe:
    """The accounts that share one lock, and the round of records to be looked over for dead windows."""

    __slots__ = ("floor", "lock", "round")

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.round: deque[_Seat | _Account] = deque()
        self.floor = 0


class Lane:
    """The fast path of one key on one course: what ``bounds`` worked out, good while the record's version stands.

    ``Ledger.consume`` runs on it. ``turn``: when the next minute begins. ``live``: shared by all lanes of a plan, so
    that a change of plan closes them at once.
    """

    __slots__ = (
        "bucket", "burst", "ceiling", "drain", "frame", "live", "lock", "meter", "quiet", "record", "scale", "turn",
        "until", "version",
    )  # fmt: skip

    frame: Frame
    lock: threading.Lock
    record: Record
    meter: Meter
    bucket: Bucket | None
    live: list[bool]
    version: int
    ceiling: int
    quiet: int
    until: int
    turn: int
    burst: int
    scale: int
    drain: int


class MemoryStore:
    """Keys, plans and counts in this process's memory, gone with it.

    ``stripes``: how many locks the accounts are spread over. ``max_skew``: seconds a clock may be behind what was
    recorded before ``ClockSkew``. ``request_ttl``: seconds a ``request_id`` is remembered. ``retention``: days of
    history.
    """

    exact_across_failover = True

    def __init__(
        self, *, stripes: int = 64, max_skew: float = 300, request_ttl: float = 86_400, retention: int = 35
    ) -> None:
        if type(stripes) is not int or not 1 <= stripes <= 65_536:
            raise InvalidValue("stripes", stripes, "a whole number of locks, 1 to 65536")
        self.terms = make_terms(max_skew=max_skew, request_ttl=request_ttl, retention=retention)
        self._stripes = [_Stripe() for _ in range(stripes)]
        self._directory = threading.RLock()
        self._plans: dict[str, UsagePlan] = {}
        self._seats: dict[str, _Seat] = {}
        self._digests: dict[bytes, _Seat] = {}
        self._accounts: dict[str, _Account] = {}
        self._live: dict[str, list[bool]] = {}
        self.lanes: dict[bytes | str, Lane] = {}

    def apply(self, request: Request) -> Any:
        """Perform the request under the lock of its key's account."""
        while True:
            seat = self._digests.get(request.digest) if request.digest else self._seats.get(request.key_id or "")
            if seat is None:
                return perform(request, None, None, self.terms)
            account = seat.account
            with account.stripe.lock:
                if self._seats.get(seat.key.id) is not seat:
                    continue
                entry = Entry(seat.key, {api: self._plans[id_] for api, id_ in seat.plans.items()}, account.shared)
                party = self._party(seat)
                result = perform(request, entry, party, self.terms)
                if party.changed:
                    self._keep(seat, party)
                    self._prune(account.stripe, request.now)
                if request.op == "consume" and request.route is None and request.api == "":
                    self._open_lane(request, seat, entry, party)
                return result

    def _party(self, seat: _Seat) -> Party:
        account, floor = seat.account, seat.account.stripe.floor
        own = seat.record or Record(new_number(), floor)
        joint = (account.record or Record(new_number(), floor)) if account.shared else None
        return Party(own, joint, owned=False)

    def _keep(self, seat: _Seat, party: Party) -> None:
        if seat.record is None:
            seat.account.stripe.round.append(seat)
            seat.record = party.key
        if party.account is not None and seat.account.record is None:
            seat.account.stripe.round.append(seat.account)
            seat.account.record = party.account

    def _prune(self, stripe: _Stripe, now: int) -> None:
        """Look over one record for each change: what lies dead for two windows is forgotten behind the floor."""
        if len(stripe.round) < 2:
            return
        place = stripe.round.popleft()
        record = place.record
        if record is None:
            return
        dead_at, floor = record.dead_after(self.terms.retention)
        if dead_at + self.terms.max_skew > now:
            stripe.round.append(place)
            return
        stripe.floor = max(stripe.floor, floor)
        place.record = None
        record.version = -2  # as no lane's is, closed ones included

    def _open_lane(self, request: Request, seat: _Seat, entry: Entry, party: Party) -> None:
        """Open the fast path for what was just decided, where it can serve and is not open yet."""
        ref = request.digest or seat.key.id
        record, plan = seat.record, entry.plans.get("")
        if record is None or plan is None or entry.shared or request.now < record.at:
            return
        old = self.lanes.get(ref)
        if old is not None and old.version == record.version and old.live[0] and request.now < old.until:
            return
        course = plan.course(None)
        meter = record.meter("", "", REQUESTS)
        if not _simple(course) or meter is None or usable(request, entry) is not Reason.OK:
            return
        if party.settled(course, request.now, self.terms) is not party:
            return
        lane = Lane()
        lane.record, lane.meter, lane.version = record, meter, record.version
        lane.live = self._live.setdefault(plan.id, [True])
        lane.lock = seat.account.stripe.lock
        lane.ceiling, lane.quiet, lane.until = bounds(course, record, meter)
        expiries = [seat.key.expires_at, *(s.expires_at for s in seat.key.secrets if s.digest == request.digest)]
        lane.until = min([lane.until, *(to_us(expiry) for expiry in expiries if expiry is not None)])
        lane.turn = record.at - record.at % MINUTE_US + MINUTE_US
        lane.bucket, lane.burst, lane.scale, lane.drain = None, 0, 0, 0
        slots: list[tuple[Line, int, int, int]] = []
        for line in course.lines:
            if isinstance(line, ThrottleLine):
                lane.bucket, lane.burst, lane.scale, lane.drain = (
                    meter.bucket(line.name), line.burst, line.scale, line.drain)  # fmt: skip
                slots.append((line, 0, 0, 0))
            elif slot := meter.slot(line.name):
                slots.append((line, slot.base, slot.extra, slot.end))
        lane.frame = Frame(seat.key, plan, course, (record.token, 0), tuple(slots))
        self.lanes[ref] = lane
        if ref not in seat.lanes:
            seat.lanes = (*seat.lanes, ref)

    def _close_lanes(self, seat: _Seat) -> None:
        for ref in seat.lanes:
            lane = self.lanes.pop(ref, None)
            if lane is not None:
                lane.version = -1
        seat.lanes = ()

    @contextmanager
    def _everything(self) -> Iterator[None]:
        """The directory and every account at rest, for a change that binds on the very next call of all."""
        with self._directory, ExitStack() as locks:
            for stripe in self._stripes:
                locks.enter_context(stripe.lock)
            yield

    @contextmanager
    def _at_rest(self, key_id: str) -> Iterator[_Seat]:
        """The directory and one key at rest; its fast paths are closed."""
        with self._directory:
            seat = self._seats.get(key_id)
            if seat is None:
                raise UnknownKey(key_id)
            with seat.account.stripe.lock:
                self._close_lanes(seat)
                yield seat

    def put_plan(self, plan: UsagePlan, replace: bool) -> None:
        with self._everything():
            old = self._plans.get(plan.id)
            if old == plan:
                return
            if old is not None and not replace:
                raise PlanConflict(plan.id, "a different plan has this id; replace_plan() replaces it")
            if old is not None and old.api != plan.api:
                self._move(plan, old.api)
            self._plans[plan.id] = plan
            self._bury(plan.id)

    def _bury(self, plan_id: str) -> None:
        """Close every lane of a plan at once."""
        self._live.pop(plan_id, [True])[0] = False

    def _move(self, plan: UsagePlan, old_api: str) -> None:
        seats = [seat for seat in self._seats.values() if seat.plans.get(old_api) == plan.id]
        for seat in seats:
            if plan.api in seat.plans:
                raise PlanConflict(plan.id, f"key {seat.key.id} has another plan for the api {plan.api!r}")
        for seat in seats:
            del seat.plans[old_api]
            seat.plans[plan.api] = plan.id

    def drop_plan(self, plan_id: str) -> None:
        with self._everything():
            plan = self.get_plan(plan_id)
            for seat in self._seats.values():
                if seat.plans.get(plan.api) == plan_id:
                    del seat.plans[plan.api]
            del self._plans[plan_id]
            self._bury(plan_id)

    def get_plan(self, plan_id: str) -> UsagePlan:
        plan = self._plans.get(plan_id)
        if plan is None:
            raise UnknownPlan(plan_id)
        return plan

    def list_plans(self) -> list[UsagePlan]:
        with self._directory:
            return [self._plans[id_] for id_ in sorted(self._plans)]

    def add_key(self, key: ApiKey, plan_id: str | None) -> None:
        with self._directory:
            if key.id in self._seats:
                raise PlanConflict(key.id, "an API key has this id already")
            self._check_digests(key, None)
            plan = None if plan_id is None else self.get_plan(plan_id)
            account = self._accounts.get(key.account)
            if account is None:
                stripe = self._stripes[hash(key.account) % len(self._stripes)]
                account = self._accounts[key.account] = _Account(key.account, stripe)
            with account.stripe.lock:
                if account.members and not account.shared:
                    self._split(account)
                seat = _Seat(key, account)
                account.members.append(seat)
                if plan is not None:
                    seat.plans[plan.api] = plan.id
                self._seats[key.id] = seat
                for secret in key.secrets:
                    self._digests[secret.digest] = seat

    def _split(self, account: _Account) -> None:
        """A second key joins: what the first one used is the account's count, and goes on being its own."""
        first = account.members[0]
        self._close_lanes(first)
        account.shared = True
        if first.record is not None:
            account.record = first.record.copy()
            account.record.requests = None
            account.stripe.round.append(account)

    def _check_digests(self, key: ApiKey, seat: _Seat | None) -> None:
        for secret in key.secrets:
            if self._digests.get(secret.digest, seat) is not seat:
                raise PlanConflict(key.id, "another API key has this secret")

    def change_key(self, key_id: str, change: Callable[[ApiKey], ApiKey]) -> ApiKey:
        with self._at_rest(key_id) as seat:
            key = change(seat.key)
            self._check_digests(key, seat)
            # In this order: a secret that stays is never unknown, not even for an instant.
            for secret in key.secrets:
                self._digests[secret.digest] = seat
            for stale in {secret.digest for secret in seat.key.secrets} - {secret.digest for secret in key.secrets}:
                del self._digests[stale]
            seat.key = key
            return key

    def drop_key(self, key_id: str) -> None:
        with self._at_rest(key_id) as seat:
            account = seat.account
            account.members.remove(seat)
            if not account.members and account.name == key_id:
                account.record = None
                del self._accounts[account.name]
            elif not account.shared and seat.record is not None:
                account.record, account.shared = seat.record, True
                account.stripe.round.append(account)
            seat.record = None
            del self._seats[key_id]
            for secret in seat.key.secrets:
                del self._digests[secret.digest]

    def get_key(self, key_id: str) -> ApiKey:
        seat = self._seats.get(key_id)
        if seat is None:
            raise UnknownKey(key_id)
        return seat.key

    def list_keys(self) -> list[ApiKey]:
        with self._directory:
            return [self._seats[id_].key for id_ in sorted(self._seats)]

    def plans_of(self, key_id: str) -> list[UsagePlan]:
        with self._directory:
            self.get_key(key_id)
            plans = self._seats[key_id].plans
            return [self._plans[plans[api]] for api in sorted(plans)]

    def associate(self, key_id: str, plan_id: str) -> None:
        with self._at_rest(key_id) as seat:
            seat.plans[self.get_plan(plan_id).api] = plan_id

    def dissociate(self, key_id: str, plan_id: str) -> None:
        with self._at_rest(key_id) as seat:
            plan = self.get_plan(plan_id)
            if seat.plans.get(plan.api) != plan_id:
                raise PlanConflict(plan_id, f"key {key_id} is not on this plan")
            del seat.plans[plan.api]

    def close(self) -> None:
        """Nothing is held open."""


def _simple(course: Course) -> bool:
    """Whether the fast path can serve: one meter, at most one throttle."""
    throttles = sum(isinstance(line, ThrottleLine) for line in course.lines)
    return throttles <= 1 and all(line.unit == REQUESTS and not line.route for line in course.lines)


def open_url(url: str, *, asynchronous: bool = False) -> MemoryStore:  # noqa: ARG001 -- memory never waits
    """``memory://?stripes=64&max_skew=300&request_ttl=86400&retention=35``."""
    parts, options = split_url(url)
    if parts.netloc or parts.path.strip("/"):
        raise InvalidValue("store", url, "memory:// and nothing behind it but options")
    own = {name: whole_option(options, name) for name in ("stripes", *COMMON) if name in options}
    if options:
        raise InvalidValue("store", ", ".join(options), f"the options {', '.join(('stripes', *COMMON))}")
    return MemoryStore(**own)

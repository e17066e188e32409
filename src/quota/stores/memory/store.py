"""One process: plain objects under striped locks. Exact; live windows are never evicted, dead ones are pruned."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from ...errors import InvalidValue, PlanConflict, UnknownKey, UnknownPlan
from ...key import ApiKey, Caller, new_number
from ...operations import perform
from ...operations.request import Entry, Request
from ...plan import UsagePlan
from ...process.atomic import Step, at_once
from ...process.forks import across_forks
from ...rule.party import Party
from ...rule.record import Record
from ..base import COMMON, check_distinct, is_new, make_terms, shown_url, split_url, whole_option
from .binding import Binding, Shapes
from .callers import Callers
from .directory import Directory
from .entries import Account, On, Seat, Stripe
from .one_meter import NoMeter, OneMeter


class MemoryStore(Callers, Directory, Binding):
    """Keys, plans and counts in this process's memory, gone with it.

    ``stripes``: how many locks the accounts are spread over. ``max_skew``: seconds a clock may be behind what was
    recorded. ``request_ttl``: seconds a ``request_id`` is remembered. ``retention``: days of history. ``most_callers``:
    callers that are counted one by one at any time; more than that share as many counts among them.
    """

    exact_across_failover = True

    def __init__(
        self, *, stripes: int = 64, most_callers: int = 65_536, max_skew: float = 300, request_ttl: float = 86_400,
        retention: int = 35,
    ) -> None:  # fmt: skip
        if type(stripes) is not int or not 1 <= stripes <= 65_536:
            raise InvalidValue("stripes", stripes, "a whole number of locks, 1 to 65536")
        self._bound_callers(most_callers, stripes)
        self.terms = make_terms(max_skew=max_skew, request_ttl=request_ttl, retention=retention)
        self._directory = threading.RLock()
        self._stripes = [Stripe() for _ in range(stripes)]
        across_forks(self._directory, *(stripe.lock for stripe in self._stripes))
        self._plans: dict[str, UsagePlan] = {}
        self._sorted: list[str] | None = None
        self._shapes: dict[str, Shapes] = {}
        self._ons: dict[frozenset[tuple[str, str]], On] = {}
        self.rooms: dict[
            bytes | str | Caller, OneMeter | NoMeter
        ] = {}  # of every key, by its id and by its secrets' digests

    def _seat(self, ref: bytes | str | None) -> Seat | None:
        room = self.rooms.get(ref) if ref else None
        return None if room is None else room.seat

    def apply(self, request: Request) -> Any:
        """Perform the request under the lock of its key's account."""
        if request.caller is not None:
            return self._apply_to_caller(request, request.caller)
        ref = request.digest or request.key_id
        while True:
            seat = self._seat(ref)
            if seat is None:
                return perform(request, None, None, self.terms)
            stripe = seat.stripe
            stripe.let_through()
            with stripe.lock:
                if self._seat(ref) is not seat:
                    continue
                stripe.check()
                try:
                    stripe.busy = True
                    return self._perform(request, seat)
                finally:
                    stripe.busy = False

    def _perform(self, request: Request, seat: Seat) -> Any:
        account = seat.account
        seat.room.close()
        joint = account if account is not None and account.shared else None
        entry = Entry(seat.key, seat.on.plans or self._look_up(seat), joint is not None)
        party = Party(self._copy(seat), self._copy(joint) if joint else None)
        result = perform(request, entry, party, self.terms)
        if party.changed:
            self._keep(seat, party.key, joint, party.account)
            seat.stripe.prune(request.now, self.terms)
        if seat.record is not None and (joint is None or joint.record is not None):
            self._bind(request, seat, entry, Party(seat.record, joint.record if joint else None))
        return result

    def _look_up(self, seat: Seat) -> Mapping[str, UsagePlan]:
        if isinstance(seat.key, Caller):
            return self._plan_of(seat.key)
        on = seat.on
        on.plans = plans = {api: self._plans[id_] for api, id_ in on.ids.items()}
        return plans

    @staticmethod
    def _copy(place: Seat | Account) -> Record:
        """Return the record of a place for a request to change, or a new one where there is none."""
        if place.record is not None:
            return place.record.copy()
        stripe, caller = place.stripe, isinstance(place, Seat) and isinstance(place.key, Caller)
        return Record(new_number(), stripe.callers_floor if caller else stripe.floor)

    def _keep(self, seat: Seat, own: Record, account: Account | None, joint: Record | None) -> None:
        """Make the changed copies the truth, in one write: an interrupt comes before all of it or after."""
        steps: list[Step] = []
        for place, copy in ((seat, own), (account, joint)):
            if place is None or copy is None:
                continue
            record = place.record or Record()
            steps += record.changes(copy)
            if place.record is None:
                caller = isinstance(place, Seat) and isinstance(place.key, Caller)
                steps.append((setattr, place, "record", record))
                steps += self._kept(seat) if caller else [(place.stripe.round.append, place)]
        at_once(*steps)

    @contextmanager
    def _everything(self) -> Iterator[None]:
        """The directory and every account at rest, for a change that binds on the very next call of all."""
        with self._directory, ExitStack() as locks:
            for stripe in self._stripes:
                locks.enter_context(stripe.at_rest())
            for on in self._ons.values():
                on.plans = None
            yield

    @contextmanager
    def _at_rest(self, key_id: str) -> Iterator[Seat]:
        """The directory and one key at rest; its fast path is closed."""
        with self._directory:
            seat = self._seat(key_id)
            if seat is None:
                raise UnknownKey(key_id)
            with seat.stripe.at_rest():
                seat.room.shut()
                yield seat

    def _on(self, ids: dict[str, str]) -> On:
        return self._ons.setdefault(frozenset(ids.items()), On(ids))

    def put_plan(self, plan: UsagePlan, replace: bool | UsagePlan) -> None:
        with self._everything():
            old = self._plans.get(plan.id)
            if not is_new(plan, old, replace):
                return
            moved = self._moved(plan, old.api) if old is not None and old.api != plan.api else []
            at_once(*self._buried(plan.id), *moved, (self._plans.__setitem__, plan.id, plan))

    def _buried(self, plan_id: str) -> list[Step]:
        """The steps that end every headroom of a plan."""
        shapes = self._shapes.get(plan_id) or Shapes()
        ended = [*shapes.common.values(), *shapes.own]
        return [*((setattr, shape, "live", False) for shape in ended), (self._shapes.pop, plan_id, None)]

    def _all_seats(self) -> list[Seat]:
        return [room.seat for ref, room in self.rooms.items() if type(ref) is str]

    def _moved(self, plan: UsagePlan, old_api: str) -> list[Step]:
        """The steps that move the keys of a plan to its new api."""
        seats = [seat for seat in self._all_seats() if seat.on.ids.get(old_api) == plan.id]
        for seat in seats:
            if plan.api in seat.on.ids:
                raise PlanConflict(plan.id, f"key {seat.key.id} has another plan for the api {plan.api!r}")
        ids = [{**self._without(seat, old_api).ids, plan.api: plan.id} for seat in seats]
        left_by_all = [(self._ons.pop, on) for on in self._ons if (old_api, plan.id) in on]
        return [*((setattr, s, "on", self._on(mine)) for s, mine in zip(seats, ids, strict=True)), *left_by_all]

    def drop_plan(self, plan_id: str) -> None:
        with self._everything():
            plan = self.get_plan(plan_id)
            left = [seat for seat in self._all_seats() if seat.on.ids.get(plan.api) == plan_id]
            steps = [(setattr, seat, "on", self._without(seat, plan.api)) for seat in left]
            left_by_all = [(self._ons.pop, ids) for ids in self._ons if (plan.api, plan_id) in ids]
            at_once(*self._buried(plan_id), *steps, *left_by_all, (self._plans.pop, plan_id))

    def _without(self, seat: Seat, api: str) -> On:
        return self._on({other: id_ for other, id_ in seat.on.ids.items() if other != api})

    def get_plan(self, plan_id: str) -> UsagePlan:
        plan = self._plans.get(plan_id)
        if plan is None:
            raise UnknownPlan(plan_id)
        return plan

    def list_plans(self) -> list[UsagePlan]:
        with self._directory:
            return [self._plans[id_] for id_ in sorted(self._plans)]

    def add_key(self, key: ApiKey, plan_id: str | None, *more: str) -> None:
        self.add_keys([(key, [id_ for id_ in (plan_id, *more) if id_ is not None])])

    def add_keys(self, keys: Sequence[tuple[ApiKey, Sequence[str]]]) -> None:
        with self._directory, ExitStack() as locks:
            check_distinct(keys)
            for key, _ in keys:
                if key.id in self.rooms:
                    raise PlanConflict(key.id, "an API key has this id already")
                self._check_digests(key, None)
            ons = [self._on({plan.api: plan.id for plan in map(self.get_plan, ids)}) for _, ids in keys]
            numbers = [hash(key.account) % len(self._stripes) for key, _ in keys]
            for number in sorted(set(numbers)):
                locks.enter_context(self._stripes[number].at_rest())
            joining = Counter(key.account for key, _ in keys)
            accounts: dict[str, Account | None] = {}
            steps: list[Step] = []
            refs: dict[bytes | str | Caller, OneMeter | NoMeter] = {}
            for (key, _), number, on in zip(keys, numbers, ons, strict=True):
                stripe = self._stripes[number]
                if key.account not in accounts:
                    accounts[key.account] = self._account_of(key, stripe, joining[key.account], steps)
                seat = Seat(key, accounts[key.account], stripe, on)
                if seat.account is not None:
                    steps.append((seat.account.members.append, seat))
                refs |= self._references(seat)
            self._sorted = None
            at_once(*steps, (self.rooms.update, refs))

    def _check_digests(self, key: ApiKey, seat: Seat | None) -> None:
        for secret in key.secrets:
            if self._seat(secret.digest) not in (None, seat):
                raise PlanConflict(key.id, "another API key has this secret")

    def change_key(self, key_id: str, change: Callable[[ApiKey], ApiKey]) -> ApiKey:
        with self._at_rest(key_id) as seat:
            key = change(seat.key)
            self._check_digests(key, seat)
            stale = {secret.digest for secret in seat.key.secrets} - {secret.digest for secret in key.secrets}
            # In this order: a secret that stays is never unknown, not even for an instant.
            gone = [(self.rooms.pop, digest) for digest in stale]
            at_once((setattr, seat, "key", key), (self.rooms.update, self._references(seat, key)), *gone)
            return key

    def drop_key(self, key_id: str) -> None:
        with self._at_rest(key_id) as seat:
            account, steps = seat.account, list[Step]()
            self._sorted = None
            if account is not None:
                steps.append((account.members.remove, seat))
                heir = account.record if account.shared else seat.record
                if account.members == [seat] and (account.name == key_id or heir is None):
                    steps += [(setattr, account, "record", None), (seat.stripe.accounts.pop, account.name)]
                elif not account.shared and heir is not None:
                    steps += [(setattr, account, "record", heir), (setattr, account, "shared", True)]
                    steps.append((account.stripe.round.append, account))
            gone = [(self.rooms.pop, ref) for ref in (key_id, *(secret.digest for secret in seat.key.secrets))]
            at_once(*steps, (setattr, seat, "record", None), *gone)
            seat.stripe.sweep()

    def get_key(self, key_id: str) -> ApiKey:
        seat = self._seat(key_id)
        if seat is None:
            raise UnknownKey(key_id)
        key: ApiKey = seat.key
        return key

    def plans_of(self, key_id: str) -> list[UsagePlan]:
        with self._directory:
            self.get_key(key_id)
            return [self._plans[id_] for _, id_ in sorted(self.rooms[key_id].seat.on.ids.items())]

    def associate(self, key_id: str, plan_id: str) -> None:
        with self._at_rest(key_id) as seat:
            seat.on = self._on({**seat.on.ids, self.get_plan(plan_id).api: plan_id})

    def dissociate(self, key_id: str, plan_id: str) -> None:
        with self._at_rest(key_id) as seat:
            plan = self.get_plan(plan_id)
            if seat.on.ids.get(plan.api) != plan_id:
                raise PlanConflict(plan_id, f"key {key_id} is not on this plan")
            seat.on = self._without(seat, plan.api)

    def close(self) -> None:
        """Nothing is held open."""


_OPTIONS = ("stripes", "most_callers", *COMMON)


def open_url(url: str, *, asynchronous: bool = False) -> MemoryStore:  # noqa: ARG001 -- memory never waits
    """``memory://?stripes=64&max_skew=300&request_ttl=86400&retention=35&most_callers=65536``."""
    parts, options = split_url(url)
    if parts.netloc or parts.path.strip("/"):
        raise InvalidValue("store", shown_url(url), "memory:// and nothing behind it but options")
    own = {name: whole_option(options, name) for name in _OPTIONS if name in options}
    if options:
        raise InvalidValue("store", shown_url(", ".join(options)), f"the options {', '.join(_OPTIONS)}")
    return MemoryStore(**own)

"""One process: plain objects under striped locks. Exact; live windows are never evicted, dead ones are pruned."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

from ...errors import InvalidValue, PlanConflict, UnknownKey
from ...event import By, Event, key_added, key_changed
from ...key import ApiKey, Caller, new_number
from ...operations import perform
from ...operations.request import Entry, Request, by_api
from ...plan import UsagePlan
from ...process.atomic import Step
from ...process.forks import across_forks
from ...rule.record import Record
from ...rule.subject import Subject
from ..base import COMMON, check_distinct, make_options
from .binding import Shapes
from .callers import Callers
from .directory import Directory
from .entries import AccountEntry, KeyEntry, KeyPlans, Rooms, Stripe
from .plans import associations

if TYPE_CHECKING:
    from ...operations.report import KeyRecord


class MemoryStore(Callers, Directory):
    """Keys, plans and counts in this process's memory, gone with it.

    ``stripes``: how many locks the accounts are spread over. ``max_skew``: seconds a clock may be behind what was
    recorded. ``request_ttl``: seconds a ``request_id`` is remembered. ``retention``: days of history. ``most_callers``:
    callers that are counted one by one at any time; more than that share as many counts among them. ``most_events``:
    events that are kept at any time.
    """

    exact_across_failover = True

    def __init__(
        self, *, stripes: int = 64, most_callers: int = 65_536, most_events: int = 10_000, max_skew: float = 300,
        request_ttl: float = 86_400, retention: int = 35,
    ) -> None:  # fmt: skip
        if type(stripes) is not int or not 1 <= stripes <= 65_536:
            raise InvalidValue("stripes", stripes, "a whole number of locks, 1 to 65536")
        self._bound_callers(most_callers, stripes)
        self.options = make_options(max_skew=max_skew, request_ttl=request_ttl, retention=retention)
        self._directory = threading.RLock()
        self._accounts: dict[str, AccountEntry] = {}
        self._stripes = [Stripe(self._accounts) for _ in range(stripes)]
        across_forks(self._directory, *(stripe.lock for stripe in self._stripes))
        if type(most_events) is not int or not 1 <= most_events <= 10**9:
            raise InvalidValue("most_events", most_events, "a whole number of events, 1 to 1000000000")
        from .outbox import MemoryOutbox  # noqa: PLC0415 -- paid for by who opens a store in memory

        self._outbox = MemoryOutbox(most_events, self.options)
        self._plans: dict[str, UsagePlan] = {}
        self._sorted: list[str] | None = None
        self._removed: dict[str, KeyRecord] = {}
        self._lives = count(1)
        self._shapes: dict[str, Shapes] = {}
        self._shared_key_plans: WeakValueDictionary[frozenset[tuple[str, Any]], KeyPlans] = WeakValueDictionary()
        self.rooms: Rooms = {}

    def _key_entry(self, ref: bytes | str | None) -> KeyEntry | None:
        room = self.rooms.get(ref) if ref else None
        return None if room is None else room.key_entry

    def apply(self, request: Request) -> Any:
        """Perform the request under the lock of its key's account."""
        if request.caller is not None:
            return self._apply_to_caller(request, request.caller)
        if request.account is not None:
            return self._apply_to_account(request, request.account)
        ref = request.digest or request.key_id
        while True:
            key_entry = self._key_entry(ref)
            if key_entry is None:
                return perform(request, None, None, self.options)
            stripe = key_entry.stripe
            stripe.let_through()
            with stripe.lock:
                if self._key_entry(ref) is not key_entry or key_entry.stripe is not stripe:
                    continue
                stripe.check()
                try:
                    stripe.busy = True
                    if not request.above or all(place.stripe is stripe for place in self._above(request, key_entry)):
                        return self._perform(request, key_entry)
                finally:
                    stripe.busy = False
            return self._apply_across(request, str(key_entry.key.id))

    def _perform(self, request: Request, key_entry: KeyEntry) -> Any:
        account = key_entry.account
        key_entry.room.close()
        if request.op in ("reserve", "commit", "cancel") or (request.ttl and request.op == "consume"):
            from .holding import decided  # noqa: PLC0415 -- loaded where something is held

            told = decided(request, key_entry, known=self.rooms.get(request.ref) is key_entry.room)
            if told:
                self._reopen(key_entry, request.now)
                return told[0]
        joint = account if account is not None and account.shared else None
        above = [] if account is None else self._above(request, key_entry)
        entry = self._entry(key_entry, shared=joint is not None)
        if joint is not None or above:
            entry = entry._replace(uppers=tuple([self._upper(place) for place in (joint, *above) if place is not None]))
        places: list[KeyEntry | AccountEntry | None] = [key_entry, joint, *above]
        subject = Subject(*[None if place is None else self._copy(place) for place in places])  # type: ignore[arg-type] # the key's is there
        result = perform(request, entry, subject, self.options)
        if subject.changed:
            self._keep(places, subject)
            key_entry.stripe.prune(request.now, self.options)
        if all(place is None or place.record is not None for place in places):
            bound = Subject(*[None if place is None else place.record for place in places])  # type: ignore[arg-type] # as above
            self._bind(request, key_entry, entry, bound)
        return result

    def _entry(self, key_entry: KeyEntry | AccountEntry, *, shared: bool = False) -> Entry:
        key_plans = key_entry.key_plans
        if isinstance(key_entry, AccountEntry):
            _, plans, later = self._upper(key_entry)
            return Entry(key_entry.said(), plans, scheduled=later)
        plans = key_plans.plans or self._look_up(key_entry)
        return Entry(key_entry.key, plans, shared, key_plans.scheduled)

    def _look_up(self, key_entry: KeyEntry | AccountEntry) -> Mapping[str, UsagePlan]:
        if isinstance(key_entry, KeyEntry) and isinstance(key_entry.key, Caller):
            return self._plan_of(key_entry.key)
        key_plans = key_entry.key_plans
        key_plans.scheduled = tuple([(self._plans[id_], at) for id_, at in key_plans.later])
        key_plans.plans = plans = {api: self._plans[id_] for api, id_ in key_plans.ids.items()}
        return plans

    @staticmethod
    def _latest(key_entry: KeyEntry | AccountEntry, now: int) -> int:
        """Return the latest instant that its records know, or ``now``: what was due by then stays made."""
        own = [key_entry] if isinstance(key_entry, KeyEntry) else [] if key_entry.shared else key_entry.members
        for one in own:
            one.room.flush()
        account = key_entry.account if isinstance(key_entry, KeyEntry) else key_entry
        above = [place.record for place in account.line() if place.shared] if account is not None else []
        return max([now, *[record.at for record in (*[one.record for one in own], *above) if record]])

    @staticmethod
    def _copy(place: KeyEntry | AccountEntry) -> Record:
        """Return the record of a place for a request to change, or a new one where there is none."""
        if place.record is not None:
            return place.record.copy()
        stripe, caller = place.stripe, isinstance(place, KeyEntry) and isinstance(place.key, Caller)
        return Record(new_number(), stripe.callers_floor if caller else stripe.floor)

    def _keep(self, places: Sequence[KeyEntry | AccountEntry | None], subject: Subject) -> None:
        """Make the changed copies the truth, in one write: an interrupt comes before all of it or after."""
        steps: list[Step] = []
        for place, copy in zip(places, (subject.key, subject.account, *subject.above), strict=True):
            if place is None or copy is None:
                continue
            record = place.record or Record()
            steps += record.changes(copy)
            if place.record is None:
                steps.append((setattr, place, "record", record))
                if isinstance(place, KeyEntry) and isinstance(place.key, Caller):
                    steps += self._kept(place)
                else:
                    steps.append((place.stripe.round.append, place))
        self._outbox.at_once(steps, subject.told)

    @contextmanager
    def _everything(self) -> Iterator[None]:
        """The directory and every account at rest, for a change that binds on the very next call of all."""
        with self._directory, ExitStack() as locks:
            for stripe in self._stripes:
                locks.enter_context(stripe.exclusive())
            for key_plans in self._shared_key_plans.values():
                key_plans.plans = None
            yield

    @contextmanager
    def _exclusive(self, key_id: str) -> Iterator[KeyEntry]:
        """The directory and one key at rest; its fast path is closed."""
        with self._directory:
            key_entry = self._known(key_id)
            with key_entry.stripe.exclusive():
                key_entry.room.invalidate()
                yield key_entry

    def _known(self, key_id: str) -> KeyEntry:
        key_entry = self._key_entry(key_id)
        if key_entry is None:
            raise UnknownKey(key_id)
        return key_entry

    def _key_plans(self, ids: dict[str, str], later: tuple[tuple[str, int], ...] = ()) -> KeyPlans:
        return self._shared_key_plans.setdefault(frozenset([*ids.items(), *later]), KeyPlans(ids, later))

    def _on(self, entry: Entry) -> KeyPlans:
        """Return what keys on these plans share."""
        later = sorted((plan.id, at) for plan, at in entry.scheduled)
        return self._key_plans({api: plan.id for api, plan in entry.plans.items()}, tuple(later))

    def add_keys(self, keys: Sequence[tuple[ApiKey, Sequence[str]]], by: By | None = None) -> None:
        with self._directory, ExitStack() as locks:
            check_distinct(keys)
            for key, _ in keys:
                if key.id in self.rooms:
                    raise PlanConflict(key.id, "an API key has this id already")
                self._check_digests(key, None)
            plans = [[self.get_plan(id_) for id_ in ids] for _, ids in keys]
            for (key, _), on in zip(keys, plans, strict=True):
                if len(on) > 1:
                    associations().check_apart(key.id, on)
            ons = [self._key_plans({api: plan.id for api, plan in by_api(on).items()}) for on in plans]
            told = [one for (key, _), on in zip(keys, plans, strict=True) for one in key_added(key, on, by)]
            stripes = [self._stripe(key.account) for key, _ in keys]
            for stripe in sorted(set(stripes), key=self._stripes.index):
                locks.enter_context(stripe.exclusive())
            joining = Counter(key.account for key, _ in keys)
            accounts: dict[str, AccountEntry | None] = {}
            steps: list[Step] = []
            refs: Rooms = {}
            for (key, _), stripe, key_plans in zip(keys, stripes, ons, strict=True):
                if key.account not in accounts:
                    accounts[key.account] = self._account_of(key, stripe, joining[key.account], steps)
                key_entry = KeyEntry(key, accounts[key.account], stripe, key_plans)
                if key_entry.account is not None:
                    steps.append((key_entry.account.members.append, key_entry))
                refs |= self._references(key_entry)
            self._sorted = None
            self._outbox.at_once([*steps, (self.rooms.update, refs)], told)

    def _check_digests(self, key: ApiKey, key_entry: KeyEntry | None) -> None:
        for secret in key.secrets:
            if self._key_entry(secret.digest) not in (None, key_entry):
                raise PlanConflict(key.id, "another API key has this secret")

    def change_key(self, key_id: str, change: Callable[[ApiKey], ApiKey], by: By | None = None) -> ApiKey:
        with self._exclusive(key_id) as key_entry:
            key = change(key_entry.key)
            self._check_digests(key, key_entry)
            stale = {secret.digest for secret in key_entry.key.secrets} - {secret.digest for secret in key.secrets}
            # In this order: a secret that stays is never unknown, not even for an instant.
            gone = [(self.rooms.pop, digest) for digest in stale]
            steps = [(setattr, key_entry, "key", key), (self.rooms.update, self._references(key_entry, key)), *gone]
            self._outbox.at_once(steps, key_changed(key_entry.key, key, by))
            return self._told(key_entry)

    def drop_key(self, key_id: str, by: By | None = None) -> None:
        from .reports import drop_key  # noqa: PLC0415 -- few programs remove keys

        with self._exclusive(key_id) as key_entry:
            drop_key(self, key_entry, by)

    def get_key(self, key_id: str) -> ApiKey:
        return self._told(self._known(key_id))

    def associate(self, key_id: str, plan_id: str, at: int | str | None, now: int, by: By | None = None) -> None:
        self._place(key_id, plan_id, partial(associations().associated, at=at), now, by)

    def dissociate(self, key_id: str, plan_id: str, now: int, by: By | None = None) -> None:
        self._place(key_id, plan_id, associations().dissociated, now, by)

    def _place(self, key_id: str, plan_id: str, change: Callable[..., Entry], now: int, by: By | None) -> None:
        with self._exclusive(key_id) as key_entry:
            entry, latest, plan = self._entry(key_entry), self._latest(key_entry, now), self.get_plan(plan_id)
            new = change(entry, plan, now=latest)
            steps: list[Step] = [(setattr, key_entry, "key_plans", self._on(new))]
            self._outbox.at_once(steps, associations().placed(entry, new, plan, latest, by))

    def last_used(self, key_id: str) -> int:
        key_entry = self._known(key_id)
        with key_entry.stripe.exclusive():
            key_entry.room.flush()
            return (key_entry.record and key_entry.record.last_used) or key_entry.last_used

    def events(self, after: int, limit: int) -> list[Event]:
        return self._outbox.events(after, limit)

    def close(self) -> None:
        """Nothing is held open."""


_OPTIONS = ("stripes", "most_callers", "most_events", *COMMON)


def open_url(url: str, *, asynchronous: bool = False) -> MemoryStore:  # noqa: ARG001 -- memory never waits
    """``memory://?stripes=64&max_skew=300&request_ttl=86400&retention=35&most_callers=65536``."""
    from ..urls import shown_url, split_url, whole_option  # noqa: PLC0415 -- most stores in memory are opened by no URL

    parts, options = split_url(url)
    if parts.netloc or parts.path.strip("/"):
        raise InvalidValue("store", shown_url(url), "memory:// and nothing behind it but options")
    own = {name: whole_option(options, name) for name in _OPTIONS if name in options}
    if options:
        raise InvalidValue("store", shown_url(", ".join(options)), f"the options {', '.join(_OPTIONS)}")
    return MemoryStore(**own)

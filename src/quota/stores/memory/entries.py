"""All that the memory store keeps of a key, and of an account that keys share."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any

from ...account import Account
from ...key import Caller, KeyOrCaller
from ...operations.headroom import SeveralMeters
from ...operations.request import Scheduled
from ...plan import UsagePlan
from ...process.locks import Exclusive
from ...rule.limits import StoreOptions
from ...rule.record import Record
from .one_meter import NoMeter, OneMeter


class Stripe(Exclusive):
    """The accounts that share one lock, and the round of records to be looked over for dead windows.

    ``callers``: those without a key who have a record here, a round of its own. ``accounts``: of the whole store, those
    that are not one key's own, by their names.
    """

    __slots__ = ("accounts", "callers", "callers_floor", "floor", "round")

    def __init__(self, accounts: dict[str, AccountEntry]) -> None:
        super().__init__()
        self.accounts = accounts
        self.round: deque[KeyEntry | AccountEntry] = deque()
        self.callers: deque[KeyEntry] = deque()
        self.floor = self.callers_floor = 0

    def prune(self, now: int, options: StoreOptions) -> None:
        """Look over two records for each change (a key and its account): what is dead for two windows is forgotten."""
        for _ in range(2):
            if len(self.round) > 1:
                place = self.round.popleft()
                if self.look_over(place, now, options):
                    self.round.append(place)

    def look_over(self, place: KeyEntry | AccountEntry, now: int, options: StoreOptions) -> bool:
        """Forget what is dead; tell whether there is a record that is not."""
        record = place.record
        if record is None or place.stripe is not self:
            return False
        room = place.room if isinstance(place, KeyEntry) else None
        if room is not None:
            room.flush()
        dead_at, floor = record.dead_after(options.retention, options.late)
        if dead_at + options.max_skew > now:
            return True
        if options.late:
            self.floor = max(self.floor, floor)
        else:
            self.callers_floor = max(self.callers_floor, floor)
        if isinstance(place, KeyEntry):
            place.room.invalidate()
            place.last_used = record.last_used
        record.version += 1
        place.record = None
        if isinstance(place, AccountEntry) and not place.members and place.account is None:
            self.accounts.pop(place.name, None)
        return False

    def sweep(self) -> None:
        """Look for what was removed: as many keys may come and go as will, though no call looks over the round."""
        for _ in range(min(2, len(self.round))):
            if self.round[0].record is None:
                self.round.popleft()
            else:
                self.round.rotate(-1)


class KeyPlans:
    """The plans that a key is on, by api: one object for all keys that are on the same.

    ``later``: plans that it goes to, with the instants. ``plans``, ``scheduled``: both looked up; None until then.
    """

    __slots__ = ("__weakref__", "ids", "later", "plans", "scheduled")

    def __init__(self, ids: Mapping[str, str], later: tuple[tuple[str, int], ...] = ()) -> None:
        self.ids = ids
        self.later = later
        self.plans: Mapping[str, UsagePlan] | None = None
        self.scheduled: tuple[Scheduled, ...] = ()

    def names(self, plan_id: str) -> bool:
        """Tell whether a plan is one that the keys are on, or go to."""
        return plan_id in self.ids.values() or any(id_ == plan_id for id_, _ in self.later)


NO_PLANS = KeyPlans({})
"""Of accounts that nobody put on a plan."""
NO_PLANS.plans = {}


class AccountEntry:
    """An account that is not one key's own: the keys that share it, and what they used together.

    ``account``: None of one that a key made and that nothing else was said of. ``shared``: it has a count, as it has
    more than one key, a child or a plan. ``key_plans``: the plans of its own.
    """

    __slots__ = ("account", "children", "key_plans", "members", "name", "parent", "record", "shared", "stripe")

    def __init__(self, name: str, stripe: Stripe) -> None:
        self.name = name
        self.stripe = stripe
        self.account: Account | None = None
        self.parent: AccountEntry | None = None
        self.children: dict[str, AccountEntry] = {}
        self.key_plans = NO_PLANS
        self.members: list[KeyEntry] = []
        self.shared = False
        self.record: Record | None = None

    def said(self) -> Account:
        """Return what was said of it."""
        return self.account or Account(self.name)

    def line(self) -> list[AccountEntry]:
        """Return it and the accounts above, the nearest first."""
        return [self, *(self.parent.line() if self.parent else ())]

    def below(self) -> list[AccountEntry]:
        """Return it and all accounts below."""
        return [self, *(found for child in self.children.values() for found in child.below())]

    def height(self) -> int:
        """Return how many accounts are below it in a line."""
        return max((1 + child.height() for child in self.children.values()), default=0)


class KeyEntry:
    """A key's or a caller's place in the store. ``account``: None while it is alone in an account of its own name.

    ``room``: what its calls ask. ``rooms``: what serves those that are not on one meter, the newest first.
    ``last_used``: the minute of its last admission, once its record is forgotten.
    """

    __slots__ = ("account", "key", "key_plans", "last_used", "record", "room", "rooms", "stripe")

    def __init__(self, key: KeyOrCaller, account: AccountEntry | None, stripe: Stripe, key_plans: KeyPlans) -> None:
        self.key: Any = key
        self.account = account
        self.stripe = stripe
        self.key_plans = key_plans
        self.record: Record | None = None
        self.last_used = 0
        self.rooms: tuple[SeveralMeters, ...] = ()
        self.room: OneMeter | NoMeter = NoMeter(self)


Rooms = dict[bytes | str | Caller, OneMeter | NoMeter]
"""The rooms of keys, by their ids and by their secrets' digests, and of callers."""

"""All that a store is: a directory of keys and plans, and one atomic step per request. Data in, data out."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from inspect import iscoroutinefunction
from typing import TYPE_CHECKING, Any, Protocol

from ..account import Account
from ..errors import InvalidValue, PlanConflict, UnknownPlan
from ..event import By, Event
from ..key import ApiKey
from ..operations.request import Request
from ..plan import UsagePlan
from ..rule.limits import StoreOptions

if TYPE_CHECKING:
    from ..operations.report import KeyUsage, ReportDays
    from ..rule.record import Record

PERIOD_END, IF_FREE = "period_end", "if_free"
"""In place of an instant: the end of the longest calendar quota of the plan that a key leaves."""


class Store(Protocol):
    """Where keys, plans and counts live. Every method is atomic; the same conformance machine runs over all stores.

    What changes something writes the event that tells of it in the same step; ``by``: who makes the change, and when.

    Raises:
        StoreBusy: contended for longer than the store's timeout; nothing happened.
        StoreUnavailable: the store cannot be reached; says whether anything may have happened.
    """

    exact_across_failover: bool

    def apply(self, request: Request) -> Any:
        """Perform the request on its key's entry and records, and keep what it changed."""

    def put_plan(self, plan: UsagePlan, replace: bool | UsagePlan, now: int, by: By | None = None) -> None:
        """Add a plan; ``PlanConflict`` when a different one has its id, unless it may be replaced.

        ``now``, here as elsewhere: what is scheduled for then or before is made, as is what a record is past.
        ``replace``: a plan where only that very one may be; ``UnknownPlan`` when it is gone.
        """

    def drop_plan(self, plan_id: str, now: int, by: By | None = None, expected: UsagePlan | None = None) -> None:
        """Remove a plan, its associations and what is scheduled for it; ``UnknownPlan`` when there is none.

        ``expected``: where only that very plan may be removed, else ``PlanConflict``.
        """

    def get_plan(self, plan_id: str) -> UsagePlan:
        """The plan; ``UnknownPlan`` when there is none."""

    def list_plans(self) -> list[UsagePlan]:
        """All plans, by id."""

    def add_keys(self, keys: Sequence[tuple[ApiKey, Sequence[str]]], by: By | None = None) -> None:
        """Add keys, each on plans of different apis, all of them or none.

        ``PlanConflict`` when an id or a secret is there already, ``UnknownPlan``.
        """

    def change_key(self, key_id: str, change: Callable[[ApiKey], ApiKey], by: By | None = None) -> ApiKey:
        """Replace a key by what a pure function makes of it, atomically; ``UnknownKey`` when there is none."""

    def drop_key(self, key_id: str, by: By | None = None) -> None:
        """Remove a key and its counts, but for its days of usage; ``UnknownKey`` when there is none."""

    def get_key(self, key_id: str) -> ApiKey:
        """The key, with all that was scheduled and is not made yet; ``UnknownKey`` when there is none."""

    def list_keys(
        self, after: str | None, limit: int | None, plan_id: str | None, account: str | None, now: int
    ) -> list[ApiKey]:
        """Keys in the order of their ids (by code points), beyond ``after``, at most ``limit``; ``UnknownPlan``.

        ``plan_id``: of the plan that they are on at ``now``.
        """

    def last_used(self, key_id: str) -> int:
        """The minute of a key's last admission, in microseconds; 0 where there was none; ``UnknownKey``."""

    def report(self, days: ReportDays, after: str, most: int, by_account: bool) -> list[KeyUsage]:
        """Return what keys used, removed ones too: the first ``most`` beyond a place, fewer at the end.

        In the order of their ids; ``by_account``: of their accounts, and then of their ids.
        """

    def removed(self, key_id: str, now: int) -> list[Record]:
        """Return what is kept of removed keys of an id, the first one first: see ``operations.report.closed``."""

    def purge(self, key_ids: Sequence[str], account: str | None, gone: bool, by: By) -> bool:
        """Leave nothing of keys that were removed, nor of an account and those of its keys that were.

        That is what is kept of their usage, remembered requests and events; one event tells that somebody was erased,
        where ``gone``, or anything was there, which is returned.
        """

    def associate(self, key_id: str, plan_id: str, at: int | str | None, now: int, by: By | None = None) -> None:
        """Put a key on a plan, in place of the one it has for the same api; ``UnknownKey``, ``UnknownPlan``.

        ``at``: the instant, or ``"period_end"``, when it goes there; None for at once, ``"if_free"`` for at once and in
        place of none, else ``PlanConflict``. See ``associations``.
        """

    def dissociate(self, key_id: str, plan_id: str, now: int, by: By | None = None) -> None:
        """Take a key off a plan; ``UnknownKey``, ``UnknownPlan``, ``PlanConflict`` when it is not on it."""

    def events(self, after: int, limit: int) -> list[Event]:
        """Events whose number is beyond ``after``, in their order and at most ``limit``."""

    def add_account(self, account: Account, by: By | None = None) -> None:
        """Add an account below its parent; one that a key made becomes this one.

        ``PlanConflict`` when another one has its id, ``UnknownAccount``, ``InvalidValue`` beyond four levels.
        """

    def change_account(self, account_id: str, change: Callable[[Account], Account], by: By | None = None) -> Account:
        """Replace an account by what a pure function makes of it, atomically; raises as ``add_account``."""

    def drop_account(self, account_id: str, by: By | None = None) -> None:
        """Remove an account and its counts; ``UnknownAccount``, ``InvalidValue`` while it has keys or children."""

    def get_account(self, account_id: str) -> Account:
        """The account; ``UnknownAccount`` when there is none."""

    def list_accounts(
        self, after: str | None = None, limit: int | None = None, parent: str | None = None
    ) -> list[Account]:
        """Accounts in the order of their ids, beyond ``after``, at most ``limit``; ``parent``: the children of one."""

    def place_account(
        self, account_id: str, plan_id: str, on: bool, at: int | str | None, now: int, by: By | None = None
    ) -> None:
        """Put an account on a plan or take it off, as ``associate`` and ``dissociate`` do keys; ``UnknownAccount``."""

    def close(self) -> None:
        """Give back what the store holds open. Closing twice is fine."""


class AsyncStore(Protocol):
    """A ``Store`` whose methods are awaited, for ``AsyncLedger``."""

    exact_across_failover: bool

    def apply(self, request: Request, /) -> Awaitable[Any]:
        """As ``Store.apply``; every other method likewise."""

    def close(self) -> Awaitable[None]:
        """As ``Store.close``."""


def check_distinct(keys: Sequence[tuple[ApiKey, Sequence[str]]]) -> None:
    """Refuse keys that contradict one another: an id or a secret comes once among all."""
    ids: set[str] = set()
    digests: set[bytes] = set()
    for key, _ in keys:
        if key.id in ids:
            raise PlanConflict(key.id, "an API key has this id already")
        ids.add(key.id)
        for secret in key.secrets:
            if secret.digest in digests:
                raise PlanConflict(key.id, "another API key has this secret")
            digests.add(secret.digest)


def is_new(plan: UsagePlan, old: UsagePlan | None, replace: bool | UsagePlan) -> bool:
    """Tell whether a plan is to be written; raise where it may not replace the one that is there."""
    if old is None and isinstance(replace, UsagePlan):
        raise UnknownPlan(plan.id)
    if old is None or old == plan:
        return old is None
    if replace is False:
        raise PlanConflict(plan.id, "a different plan has this id; replace_plan() replaces it")
    if replace is not True:
        check_expected(old, replace)
    return True


def check_expected(plan: UsagePlan, expected: UsagePlan | None) -> None:
    """Raise ``PlanConflict`` where a plan is another one than is expected, if one is."""
    if expected is not None and plan != expected:
        raise PlanConflict(plan.id, "it was changed meanwhile; what was expected is not what is there")


COMMON = ("max_skew", "request_ttl", "retention")
"""The options that every store takes: whole seconds, seconds and days."""


def check_store(store: object, awaits: str | None = None) -> None:
    """Refuse what is no store and, where ``awaits`` is who it would be for, one whose answers are awaited."""
    if isinstance(store, type) or not callable(getattr(store, "apply", None)):
        raise InvalidValue("store", store, "a store, or the URL of one")
    if awaits and any(iscoroutinefunction(getattr(store, name, None)) for name in ("apply", "put_plan", "list_plans")):
        # Its answers would be coroutines, and a coroutine is truthy: every call would be let in.
        raise InvalidValue("store", type(store), f"a store that is not awaited; this one is for {awaits}")


def make_options(*, max_skew: float = 300, request_ttl: float = 86_400, retention: int = 35) -> StoreOptions:
    """The terms of a store from its options: seconds, seconds and days."""
    for field, value in (("max_skew", max_skew), ("request_ttl", request_ttl), ("retention", retention)):
        if type(value) not in (int, float) or not 0 <= value < 10**9:
            raise InvalidValue(field, value, "a number of seconds (retention: whole days), at least 0 and below 10^9")
    if type(retention) is not int:
        raise InvalidValue("retention", retention, "whole days")
    return StoreOptions(int(max_skew * 1_000_000), int(request_ttl * 1_000_000), retention)


def tell_clock(store: Any, clock: Callable[[], int]) -> None:
    """Tell a store that asks (a remote one) which clock its ledger reads: the system's is compared with a server's."""
    use_clock = getattr(store, "use_clock", None)
    if use_clock is not None:
        use_clock(clock)

"""The pure steps of plans, keys and associations: what to ask the store, and what to make of its answer.

The docstrings here are those of the methods of ``Ledger`` and ``AsyncLedger``.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Generator, Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any, Final, Generic, TypeVar

import attrs

from ..account import Account, Holder
from ..clock import Clock, span_us, to_datetime, to_us
from ..errors import InvalidValue, check_text
from ..key import ApiKey, IssuedKey, Secret, import_secret, mint, new_id
from ..operations.request import Request, check_secrets
from ..plan import UsagePlan

T = TypeVar("T")


class Unchanged(enum.Enum):
    """In place of a value that is not given, where None means something."""

    UNCHANGED = "unchanged"

    def __repr__(self) -> str:
        return "UNCHANGED"


UNCHANGED: Final = Unchanged.UNCHANGED
MOST_AT_ONCE = 10_000
PAGE = 500
"""Keys that reports and erasures ask for at once."""

Asking = Generator["Step[Any]", Any, T]
"""Several steps, each of which may go by the answer to the one before; its answer is what it returns."""
Telling = Generator["Step[Any] | T", Any, None]
"""Steps with parts of the answer in between, each of which is told as it comes."""


class Step(Generic[T]):
    """Ask ``method`` of the store, then ``conclude``, which alone answers when ``method`` is empty.

    ``deciding``: the request may be decided without the store, where the caller said so.
    """

    __slots__ = ("args", "conclude", "deciding", "method")

    def __init__(
        self, method: str, args: tuple[Any, ...], conclude: Callable[[Any], T], deciding: Request | None = None
    ) -> None:
        self.method = method
        self.args = args
        self.conclude = conclude
        self.deciding = deciding


def concluding(step: T) -> T:
    """A step whose run time annotations tell what it concludes: those of the ledgers' methods are the same ones."""
    annotations = step.__annotations__
    kind, bracket, concluded = annotations["return"].partition("[")
    if bracket and kind in ("Step", "Asking"):
        annotations["return"] = concluded[:-1]
    return step


def same(answer: Any) -> Any:
    """The store's answer as it is."""
    return answer


class Administration:
    """Plans, keys and which key is on which plan."""

    def __init__(self, clock: Clock, actor: str | None = None) -> None:
        if not callable(clock):
            raise InvalidValue("clock", clock, "a callable returning whole microseconds since the epoch")
        self._clock = clock
        self._actor = None if actor is None else check_text("actor", actor)

    def _by(self) -> tuple[str | None, int]:
        return self._actor, self._now()

    def _now(self) -> int:
        now = self._clock()
        if type(now) is not int:
            raise InvalidValue("clock", now, "a callable returning whole microseconds since the epoch")
        return now

    def add_plan(self, plan: UsagePlan) -> Step[UsagePlan]:
        """Add a usage plan. An equal one again changes nothing, a different one of its id is ``PlanConflict``."""
        by = self._by()
        return Step("put_plan", (_plan(plan), False, by[1], by), lambda _: plan)

    def replace_plan(self, plan: UsagePlan, *, expected: UsagePlan | None = None) -> Step[UsagePlan]:
        """Add or replace a usage plan. It binds on the next call everywhere, and what was used stays used.

        ``expected``: replace this very plan alone, so that nobody's change is lost; ``PlanConflict`` where it is
        another by now, ``UnknownPlan`` where it is gone.
        """
        replace = True if expected is None else _plan(expected, "expected")
        by = self._by()
        return Step("put_plan", (_plan(plan), replace, by[1], by), lambda _: plan)

    def remove_plan(self, plan: UsagePlan | str, *, expected: UsagePlan | None = None) -> Step[None]:
        """Remove a usage plan; its keys are then on no plan, and what is scheduled for it is dropped.

        ``expected``: as of ``replace_plan``. Raises ``UnknownPlan``.
        """
        by = self._by()
        wanted = None if expected is None else _plan(expected, "expected")
        return Step("drop_plan", (plan_id_of(plan), by[1], by, wanted), same)

    def get_plan(self, plan: UsagePlan | str) -> Step[UsagePlan]:
        """The usage plan as it is now. Raises ``UnknownPlan``."""
        return Step("get_plan", (plan_id_of(plan),), same)

    def issue_key(
        self,
        name: str,
        plan: UsagePlan | str | None = None,
        *,
        id: str | None = None,  # noqa: A002 -- the public contract
        account: Account | str | None = None,
        expires_at: datetime | None = None,
        prefix: str = "qk",
        metadata: Mapping[str, str] | None = None,
        networks: Iterable[str] = (),
        scopes: Iterable[str] = (),
    ) -> Step[IssuedKey]:
        """Make an API key with a secret of its own, on a plan if one is given: ``key, secret = issue_key("Key123")``.

        The secret is returned once and never stored. ``account``: whose usage is counted, by default the key's own.
        ``networks``: CIDR blocks that it may be used from, any by default. ``scopes``: what calls may ask for.
        Raises ``UnknownPlan``, ``PlanConflict`` for an id that is taken, ``InvalidValue`` for a field out of bounds.
        """
        more = {"expires_at": expires_at, "metadata": metadata, "networks": networks, "scopes": scopes}
        return self._add_key(plan, mint(prefix), name, id, account, **more)

    def issue_keys(
        self,
        names: Iterable[str],
        plan: UsagePlan | str | None = None,
        *,
        prefix: str = "qk",
        account: Account | str | None = None,
    ) -> Step[list[IssuedKey]]:
        """Make an API key for each name, all of them or none, in one step; else as ``issue_key``.

        ``account``: that all of them share; by default each has its own. At most 10,000 at once.
        """
        if isinstance(names, str) or not isinstance(names, Iterable):
            raise InvalidValue("names", names, "several names, as in a list")
        given = list(names)
        if len(given) > MOST_AT_ONCE:
            raise InvalidValue("names", f"{len(given)} names", f"at most {MOST_AT_ONCE} at once")
        on = [] if plan is None else [plan_id_of(plan)]
        issued = [self._new_key(mint(prefix), name, account=account) for name in given]
        if not issued:
            return Step("", (), lambda _: [])
        return Step("add_keys", ([(one.key, on) for one in issued], self._by()), lambda _: issued)

    def import_key(
        self,
        secret: str,
        name: str,
        plan: UsagePlan | str | None = None,
        *,
        id: str | None = None,  # noqa: A002 -- the public contract
        account: Account | str | None = None,
        expires_at: datetime | None = None,
        metadata: Mapping[str, str] | None = None,
        networks: Iterable[str] = (),
        scopes: Iterable[str] = (),
    ) -> Step[IssuedKey]:
        """Make an API key of a secret from elsewhere, 20 to 128 visible ASCII characters; else as ``issue_key``.

        Raises ``InvalidSecret``, and ``PlanConflict`` when another key has this secret.
        """
        more = {"expires_at": expires_at, "metadata": metadata, "networks": networks, "scopes": scopes}
        return self._add_key(plan, import_secret(secret), name, id, account, **more)

    def _add_key(
        self, plan: UsagePlan | str | None, secret: str, name: str, id_: str | None, account: Any, **more: Any
    ) -> Step[IssuedKey]:
        more["metadata"] = {} if more["metadata"] is None else more["metadata"]
        issued = self._new_key(secret, name, id_, account, **more)
        on = [] if plan is None else [plan_id_of(plan)]
        return Step("add_keys", ([(issued.key, on)], self._by()), lambda _: issued)

    def _new_key(
        self, secret: str, name: str, id_: str | None = None, account: Account | str | None = None, **more: Any
    ) -> IssuedKey:
        id_ = new_id() if id_ is None else id_
        created = to_datetime(self._now())
        mine = id_ if account is None else account.id if isinstance(account, Account) else account
        return IssuedKey(ApiKey(id_, name, mine, created_at=created, secrets=(Secret.of(secret),), **more), secret)

    def update_key(
        self,
        key: ApiKey | str,
        *,
        name: str | Unchanged = UNCHANGED,
        expires_at: datetime | Unchanged | None = UNCHANGED,
        metadata: Mapping[str, str] | Unchanged = UNCHANGED,
        networks: Iterable[str] | Unchanged = UNCHANGED,
        scopes: Iterable[str] | Unchanged = UNCHANGED,
    ) -> Step[ApiKey]:
        """Change what is given of a key, from the next call on everywhere; the rest, and its counts, stay.

        ``expires_at``: None for never. ``metadata``, ``networks``, ``scopes``: in place of those that it has. Raises
        ``UnknownKey``, ``InvalidValue`` for a field out of bounds, and then nothing is changed.
        """
        given = {"expires_at": expires_at, "metadata": metadata, "networks": networks, "scopes": scopes}
        return self._change(key, changed(ApiKey("any", "any", "any"), name=name, **given), same)

    def rotate_key(self, key: ApiKey | str, overlap: timedelta | int = timedelta(0)) -> Step[IssuedKey]:
        """Give a key a new secret; the old ones go on for ``overlap`` (microseconds when an int), never beyond the key.

        Rotation never touches usage. Raises ``UnknownKey``, ``InvalidValue`` before more than 256 secrets of a key are
        good at the same time.
        """
        overlap_us = span_us(overlap, "overlap")
        if overlap_us < 0:
            raise InvalidValue("overlap", overlap, "zero or more")
        now = self._now()
        found: list[str] = []

        def change(old: ApiKey) -> ApiKey:
            found[:] = [mint(old.secrets[0].prefix if old.secrets and old.secrets[0].prefix else "qk")]
            kept = []
            for secret in old.secrets:
                ends = [to_us(end) for end in (secret.expires_at, old.expires_at) if end is not None]
                until = min([now + overlap_us, *ends])
                if until > now:
                    kept.append(attrs.evolve(secret, expires_at=to_datetime(until)))
            check_secrets(kept, overlap)
            return attrs.evolve(old, secrets=(Secret.of(found[0]), *kept))

        return self._change(key, change, lambda new: IssuedKey(new, found[0]))

    def enable_key(self, key: ApiKey | str) -> Step[ApiKey]:
        """Let a key be used again. Raises ``UnknownKey``."""
        return self._change(key, lambda old: attrs.evolve(old, enabled=True), same)

    def disable_key(self, key: ApiKey | str) -> Step[ApiKey]:
        """Refuse a key from the very next call on; its counts stay. Raises ``UnknownKey``."""
        return self._change(key, lambda old: attrs.evolve(old, enabled=False), same)

    def _change(
        self, key: ApiKey | str, change: Callable[[ApiKey], ApiKey], conclude: Callable[[ApiKey], T]
    ) -> Step[T]:
        by = self._by()
        return Step("change_key", (key_id(key), change, by), lambda new: conclude(to_come(new, by[1])))

    def remove_key(self, key: ApiKey | str) -> Step[None]:
        """Remove a key: its secrets are nobody's from the next call on. Raises ``UnknownKey``.

        What it used by day is told until the store's ``retention`` ends, for bills (``usage``, ``usage_report``). A key
        that is made under its id begins anew. The counts of an account that it shared stay, and what it holds there
        goes back as it lapses: to have it back at once, cancel it before (``list_reservations``).
        """
        return Step("drop_key", (key_id(key), self._by()), same)

    def last_used(self, key: ApiKey | str) -> Step[datetime | None]:
        """Tell the minute of a key's last admission; None where there was none. Raises ``UnknownKey``.

        Refusals, peeks, refunds and grants do not count. Over a ``LeasedStore`` it is when units were leased: they are
        spent within that minute, but for a process that cannot ask the store, which spends what it has until its end.
        """
        return Step("last_used", (key_id(key),), lambda minute: to_datetime(minute) if minute else None)


def changed(any_one: Holder, **given: Any) -> Callable[[Holder], Holder]:
    """Check what is given of a key or an account, and return what changes it."""
    fields = {field: value for field, value in given.items() if value is not UNCHANGED}
    checked = attrs.evolve(any_one, **fields)
    fields = {field: getattr(checked, field) for field in fields}
    return lambda old: attrs.evolve(old, **fields)


def to_come(who: Holder, now: int) -> Holder:
    """Return a key or an account that tells of the changes of plan alone that are still to come."""
    if not who.scheduled:
        return who  # nearly always
    return attrs.evolve(who, scheduled=tuple(change for change in who.scheduled if to_us(change.at) > now))


def _plan(plan: object, field: str = "plan") -> UsagePlan:
    if not isinstance(plan, UsagePlan):
        raise InvalidValue(field, plan, "a UsagePlan")
    return plan


def at_least_one(field: str, number: object) -> int:
    """Check how many things may be told at most; what no engine can count to is all of them."""
    if type(number) is not int or number < 1:
        raise InvalidValue(field, number, "a whole number, at least 1")
    return min(number, 2**53)


def plan_id_of(plan: UsagePlan | str) -> str:
    """Return the id of a plan that is given as the object or its id."""
    return plan.id if isinstance(plan, UsagePlan) else check_text("plan", plan)


def key_id(key: ApiKey | str, field: str = "key") -> str:
    """A key given as the object or its id."""
    return key.id if isinstance(key, ApiKey) else check_text(field, key)

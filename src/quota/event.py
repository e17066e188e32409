"""The outbox: one event for each change of keys, plans and limits, and for each threshold that a charge crosses.

A store writes *drafts* in the very step that makes the change, and numbers them there.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from datetime import datetime
from typing import Any, NamedTuple

import attrs

from .account import Account
from .clock import DAY_US, system_clock, to_datetime
from .key import ApiKey, Caller, KeyOrCaller
from .plan import UsagePlan
from .rule.limits import CompiledLimit, Crossing

By = tuple[str | None, int]
"""The actor who makes a change, None where nobody was named, and the instant of it."""


class Event(NamedTuple):
    """Something that was changed, or a threshold that was crossed: see ``Ledger.events``.

    ``cursor``: its number; a later event has a higher one. ``actor``: who made the change, None where nobody was named
    and where a charge crossed. ``key``: the id of the key that it is about; None where it is about a plan or a whole
    account. ``limit``, ``percent``: the threshold that was crossed. ``before``, ``after``: what became other of a key,
    an account, a plan or a limit, the whole of it where it came or went; never a secret, nor what would find one.
    """

    cursor: int
    at: datetime
    kind: str
    actor: str | None = None
    key: str | None = None
    account: str | None = None
    plan: str | None = None
    api: str | None = None
    limit: str | None = None
    percent: int | None = None
    before: Mapping[str, Any] | None = None
    after: Mapping[str, Any] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON can hold it, as ``quota events --json`` tells it."""
        return self._asdict() | {"at": self.at.isoformat()}


_WHOLE = (ApiKey, Account, UsagePlan)


class Draft(NamedTuple):
    """An event before it has a number. ``before`` and ``after``: keys, accounts and plans, or mappings."""

    at: int
    kind: str
    actor: str | None = None
    key: str | None = None
    account: str | None = None
    plan: str | None = None
    api: str | None = None
    limit: str | None = None
    percent: int | None = None
    before: Any = None
    after: Any = None

    def since(self, retention: int) -> int:
        """Return the instant before which events are forgotten as this one comes."""
        return self.at - retention * DAY_US

    def plain(self) -> list[Any]:
        """Return its fields as JSON can hold them, none of them a secret."""
        before, after = _shown(self.before), _shown(self.after)
        if before and after and isinstance(self.after, _WHOLE):
            other = [name for name in {**before, **after} if before.get(name) != after.get(name)]
            before, after = ({name: of.get(name) for name in other} for of in (before, after))
        return [*self[:-2], before, after]


def event(cursor: int, plain: list[Any]) -> Event:
    """Make the event of a draft that was written down."""
    at, *rest = plain
    return Event(cursor, to_datetime(at), *rest)


def _shown(value: Any) -> dict[str, Any] | None:
    """Return a key, an account, a plan or a mapping as it may be told."""
    return value.to_dict() if isinstance(value, _WHOLE) else value


def _apis(plan: UsagePlan) -> str:
    """Return the api that a plan governs, or all of them in one text."""
    return ", ".join(plan.apis)


def _of(by: By | None, kind: str, **fields: Any) -> tuple[Draft]:
    actor, at = by or (None, system_clock())
    return (Draft(at, kind, actor, **fields),)


def key_added(key: ApiKey, plans: list[UsagePlan], by: By | None) -> tuple[Draft]:
    """Tell of a key that was issued or imported, and of the plan that it is on."""
    first = plans[0] if plans else None
    plan, api = (first.id, _apis(first)) if first else (None, None)
    return _of(by, "key.issued", key=key.id, account=key.account, plan=plan, api=api, after=key)


def key_changed(old: ApiKey, new: ApiKey, by: By | None) -> tuple[Draft, ...]:
    """Tell of a key that became another one; nothing where it did not."""
    if old == new:
        return ()
    if old.secrets != new.secrets:
        kind = "key.rotated"
    elif attrs.evolve(old, enabled=new.enabled) == new:
        kind = "key.enabled" if new.enabled else "key.disabled"
    else:
        kind = "key.updated"
    return _of(by, kind, key=new.id, account=new.account, before=old, after=new)


def key_removed(key: ApiKey, by: By | None) -> tuple[Draft]:
    """Tell of a key that was removed."""
    return _of(by, "key.removed", key=key.id, account=key.account, before=key)


def erased(by: By | None) -> tuple[Draft]:
    """Tell that a key or an account was erased, and not which."""
    return _of(by, "erased")


def is_of(event: Event, keys: Container[str], account: str | None) -> bool:
    """Tell whether an event names one of these keys, or the account, if only as another one's parent."""
    above = [of.get("parent") for of in (event.before, event.after) if of]
    return event.key in keys or (account is not None and account in (event.account, *above))


def account_changed(old: Account | None, new: Account | None, by: By | None) -> tuple[Draft, ...]:
    """Tell of an account that was added, changed or removed."""
    account = new or old
    if account is None or old == new:
        return ()
    kind = "account.added" if old is None else "account.updated" if new else "account.removed"
    return _of(by, kind, account=account.id, before=old, after=new)


def plan_changed(old: UsagePlan | None, new: UsagePlan | None, by: By | None) -> tuple[Draft, ...]:
    """Tell of a plan that was added, replaced or removed."""
    plan = new or old
    if plan is None or old == new:
        return ()
    kind = "plan.added" if old is None else "plan.replaced" if new else "plan.removed"
    return _of(by, kind, plan=plan.id, api=_apis(plan), before=old, after=new)


def association_changed(
    who: ApiKey | Account, plan: UsagePlan, before: dict[str, str] | None, after: dict[str, str] | None, by: By | None
) -> tuple[Draft, ...]:
    """Tell of who was put on a plan, is to go to one at an instant, or was taken off; nothing where nobody was."""
    if before == after:
        return ()
    ids = [before.get(name) for name in ("plan", "next")] if before else []
    gone = plan.id in ids and (not after or plan.id not in (after.get("plan"), after.get("next")))
    kind = "plan.dissociated" if gone else "plan.associated"
    more = {"plan": plan.id, "api": _apis(plan), "before": before, "after": after}
    return _of(by, kind, **_whose(who), **more)


def _whose(who: KeyOrCaller | Account) -> dict[str, str | None]:
    """Name the key and the account of an event."""
    return {"key": None, "account": who.id} if isinstance(who, Account) else {"key": who.id, "account": who.account}


def crossed(told: tuple[Any, ...], key: KeyOrCaller, plan: str | None, api: str) -> tuple[Draft, ...]:
    """Make drafts of what an operation told: thresholds that a charge crossed, beside drafts that it made itself."""
    if isinstance(key, Caller):
        return ()
    found = []
    for one in told:
        if isinstance(one, Crossing):
            after = {"used": one.used, "limit": one.whole, "resets_at": to_datetime(one.end).isoformat()}
            own = one.limit.holder  # an account, whose plan it is
            whose = (None, own) if own else (None if one.limit.shared else key.id, key.account)
            limit = one.limit.told, one.percent
            of = None if own else plan
            found.append(Draft(one.at, "limit.crossed", None, *whose, of, api, *limit, None, after))
        else:
            found.append(one)
    return tuple(found)


def limit_changed(by: By, kind: str, limit: CompiledLimit, before: Any, after: Any, **where: Any) -> tuple[Draft]:
    """Tell of a limit that an operator changed for one key or account. ``where``: the key, the plan's id, the api."""
    fields = {**_whose(where.pop("key")), "limit": limit.told, "before": before, "after": after, **where}
    return _of(by, kind, **fields | ({"key": None} if limit.shared else {}))

"""The memory store's accounts: the tree that they are in. All of one are on its root's stripe, as are their keys."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from ...account import Account
from ...errors import UnknownAccount
from ...event import By, account_changed
from ...operations import perform
from ...operations.request import Request
from ...process.atomic import Step
from ...rule.subject import Subject
from ..accounts import check_empty, check_parent, is_new
from ..associations import change_of, placed, told
from .entries import AccountEntry, Stripe
from .one_meter import NoMeter


def _known(store: Any, account_id: str) -> AccountEntry:
    entry: AccountEntry | None = store._accounts.get(account_id)
    if entry is None or not _told(entry):
        raise UnknownAccount(account_id)
    return entry


def get_account(store: Any, account_id: str) -> Account:
    """See ``Store.get_account``."""
    with store._directory:
        return _shown(store, _known(store, account_id))


def _shown(store: Any, entry: AccountEntry) -> Account:
    """Return an account that tells which plans it goes to."""
    return told(entry.said(), store._upper(entry).scheduled)


def list_accounts(
    store: Any, after: str | None = None, limit: int | None = None, parent: str | None = None
) -> list[Account]:
    """See ``Store.list_accounts``."""
    with store._directory:
        among = store._accounts if parent is None else _known(store, parent).children
        ids = [id_ for id_, entry in among.items() if (after is None or id_ > after) and _told(entry)]
        return [_shown(store, among[id_]) for id_ in sorted(ids)[:limit]]


def add_account(store: Any, account: Account, by: By | None = None) -> None:
    """See ``Store.add_account``."""
    with store._everything():
        entry = store._accounts.get(account.id)
        if not is_new(account, entry and entry.account):
            return
        steps: list[Step] = []
        if entry is None:
            entry = AccountEntry(account.id, store._stripe(account.id))
            steps.append((store._accounts.__setitem__, account.id, entry))
            own = store._key_entry(account.id)
            if own is not None and own.account is None and own.key.account == account.id:
                entry.members.append(own)  # at once: it goes with its account to the stripe of a parent
                steps.append((setattr, own, "account", entry))
        steps += _placed(store, entry, account)
        store._outbox.at_once(steps, account_changed(None, account, by))


def change_account(store: Any, account_id: str, change: Callable[[Account], Account], by: By | None = None) -> Account:
    """See ``Store.change_account``."""
    with store._everything():
        entry = _known(store, account_id)
        old = entry.said()
        account = change(old)
        if account != old:
            store._outbox.at_once(_placed(store, entry, account), account_changed(old, account, by))
        return _shown(store, entry)


def _placed(store: Any, entry: AccountEntry, account: Account) -> list[Step]:
    """Return the steps that make an entry an account, below its parent."""
    old, parent = entry.parent, None if account.parent is None else _known(store, account.parent)
    steps: list[Step] = [(setattr, entry, "account", account)]
    if parent is old:
        return steps
    if parent is not None:
        check_parent(account, [above.name for above in parent.line()], entry.height())
        steps += _begun(store, parent)
        steps.append((parent.children.__setitem__, entry.name, entry))
    if old is not None:
        steps.append((old.children.pop, entry.name))
    steps.append((setattr, entry, "parent", parent))
    stripe = store._stripes[hash(entry.name) % len(store._stripes)] if parent is None else parent.stripe
    return [*steps, *(step for moved in entry.below() for step in _moved_to(store, moved, stripe))]


def _begun(store: Any, entry: AccountEntry) -> list[Step]:
    """Return the steps that give an account a count, if it has none: it has a child or a plan from now on."""
    return [(setattr, entry, "account", entry.said()), *(() if entry.shared else store._split(entry, entry.members))]


def _moved_to(store: Any, entry: AccountEntry, stripe: Stripe) -> list[Step]:
    """Return the steps that bring an account and its keys to another stripe; nothing serves these keys any more."""
    old, steps = entry.stripe, list[Step]()
    for key_entry in entry.members:
        key_entry.room.invalidate()
    if stripe is old:
        return steps
    steps.append((setattr, stripe, "floor", max(stripe.floor, old.floor)))
    places: list[Any] = [entry, *entry.members]
    for place in places:
        steps.append((setattr, place, "stripe", stripe))
        if place.record is not None:
            steps.append((stripe.round.append, place))
    for key_entry in entry.members:
        room = NoMeter(key_entry)
        room.lock = stripe.lock
        refs = dict.fromkeys((key_entry.key.id, *(secret.digest for secret in key_entry.key.secrets)), room)
        steps += [(setattr, key_entry, "room", room), (store.rooms.update, refs)]
    return steps


def drop_account(store: Any, account_id: str, by: By | None = None) -> None:
    """See ``Store.drop_account``."""
    with store._everything():
        entry = _known(store, account_id)
        check_empty(account_id, [member.key.id for member in entry.members], [*entry.children])
        steps: list[Step] = [(entry.parent.children.pop, account_id)] if entry.parent else []
        steps += [(setattr, entry, "record", None), (store._accounts.pop, account_id)]
        store._outbox.at_once(steps, account_changed(entry.said(), None, by))


def place_account(
    store: Any, account_id: str, plan_id: str, on: bool, at: int | str | None, now: int, by: By | None = None
) -> None:
    """See ``Store.place_account``."""
    with store._everything():
        entry, plan = _known(store, account_id), store.get_plan(plan_id)
        old, latest = store._entry(entry), store._latest(entry, now)
        new = change_of(on, at)(old, plan=plan, now=latest)
        for below in entry.below():
            for key_entry in below.members:
                key_entry.room.invalidate()
        steps = [*_begun(store, entry), (setattr, entry, "key_plans", store._on(new))]
        store._outbox.at_once(steps, placed(old, new, plan, latest, by))


def apply_to_account(store: Any, request: Request, account_id: str) -> Any:
    """Perform a request about an account itself, under the lock of its tree."""
    with store._directory:  # which tree it is in stays so meanwhile
        entry = store._accounts.get(account_id)
        if entry is None or not _told(entry):
            return perform(request, None, None, store.options)
        with entry.stripe.exclusive():
            above = entry.parent.line() if entry.parent else []
            found = store._entry(entry)._replace(uppers=tuple(map(store._upper, above)))
            subject = Subject(store._copy(entry), None, *map(store._copy, above))
            answer = perform(request, found, subject, store.options)
            if subject.changed and entry.shared:
                store._keep([entry, None, *above], subject)
            return answer


def apply_across(store: Any, request: Request, key_id: str) -> Any:
    """Perform a request about a charge that was counted on accounts of another tree than the key's is now."""
    with store._directory, ExitStack() as locks:
        key_entry = store._key_entry(key_id)
        if key_entry is None:
            return perform(request, None, None, store.options)
        stripes = {key_entry.stripe, *(place.stripe for place in store._above(request, key_entry))}
        for stripe in sorted(stripes, key=store._stripes.index):
            locks.enter_context(stripe.exclusive())
        return store._perform(request, key_entry)


def _told(entry: AccountEntry) -> bool:
    """Tell whether an account is there: it was added, or a key that has another id is in it."""
    return entry.account is not None or any(member.key.id != entry.name for member in entry.members)

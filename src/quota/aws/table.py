"""Imports, put into a ledger all or nothing: the rows of a CSV of keys, each key with its plans in one step."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from copy import copy
from typing import Any, TypeVar

import attrs

from ..errors import PlanConflict, StoreBusy, UnknownKey, UnknownPlan
from ..key import ApiKey, digest
from ..ledger.sync import Ledger
from ..plan import UsagePlan
from ..stores.sqlite import SQLiteStore
from .keys_csv import CsvKey

NewKey = tuple[ApiKey, list[str]]
"""A key and the plans that it is put on."""

T = TypeVar("T")
Undo = list[Callable[[], object]]
Wanted = tuple[CsvKey, ApiKey | None, list[UsagePlan]]
Counted = Callable[[Sequence[Any], str], AbstractContextManager[Iterable[Any]]]
"""Goes through what is worked on, and may tell how far it got."""


def uncounted(items: Sequence[Any], _: str) -> AbstractContextManager[Iterable[Any]]:
    """The items as they are."""
    return nullcontext(items)


def all_or_nothing(ledger: Ledger, work: Callable[[Ledger, Undo], T]) -> T:
    """Return what ``work`` makes of a ledger. What it raises takes back all that it did.

    In a SQLite file it is one transaction, which a crash undoes too; elsewhere ``work`` notes how its steps are undone.
    """
    undo: Undo = []
    if isinstance(ledger.store, SQLiteStore):
        view = copy(ledger)

        def inside(store: SQLiteStore) -> T:
            view.store = store
            return work(view, undo)

        return ledger.store.in_one_step(inside)
    try:
        return work(ledger, undo)
    except BaseException:
        for step in reversed(undo):
            with suppress(UnknownKey, UnknownPlan, PlanConflict):  # somebody else changed that since, and it is theirs
                step()
        raise


def add_rows(
    ledger: Ledger,
    rows: Sequence[CsvKey],
    warnings: list[str],
    make: Callable[[CsvKey], ApiKey],
    change: Callable[[ApiKey, CsvKey], ApiKey],
    *,
    strict: bool = False,
    reaches: Callable[[UsagePlan], Sequence[str]] = lambda plan: plan.apis,
    counted: Counted = uncounted,
) -> list[str]:
    """Add what is new, replace what is there, put keys on their plans; return the ids, in the order of the rows.

    All or nothing. Where ``strict`` nothing is done if there are warnings. ``make`` a key of a row; ``change`` a key
    that is there to what the row says. ``reaches``: what a plan governs; of two plans that meet there a key has one.
    """

    def add(view: Ledger, undo: Undo) -> list[str]:
        found = _look(view, rows, warnings, reaches)
        return [] if strict and warnings else _add(view, found, make, change, undo, counted)

    return all_or_nothing(ledger, add)


def _look(
    ledger: Ledger,
    rows: Sequence[CsvKey],
    warnings: list[str],
    reaches: Callable[[UsagePlan], Sequence[str]],
) -> list[Wanted]:
    """Return each row with the key that is there, if one is, and the plans that it is to be put on."""
    known = {secret.digest: key for key in ledger.list_keys() for secret in key.secrets}
    plans = {plan.id: plan for plan in ledger.list_plans()}
    wanted = []
    for row in rows:
        old = known.get(digest(row.secret))
        on = [] if old is None else ledger.list_plans(old)
        wanted.append((row, old, _choose(row, plans, on, reaches, warnings)))
    return wanted


def _add(
    ledger: Ledger,
    wanted: Sequence[Wanted],
    make: Callable[[CsvKey], ApiKey],
    change: Callable[[ApiKey, CsvKey], ApiKey],
    undo: Undo,
    counted: Counted,
) -> list[str]:
    new = [(make(row), [plan.id for plan in on]) for row, old, on in wanted if old is None]
    made = iter(new)
    there = [(row, old, on) for row, old, on in wanted if old is not None]
    with counted(there, "keys that are there") as each:
        for row, old, on in each:
            _replace(ledger, old, row, change, undo)
            for plan in on:
                _associate(ledger, old, plan, undo)
    add_keys(ledger, new, undo, counted)
    return [next(made)[0].id if old is None else old.id for _, old, _ in wanted]


def add_keys(ledger: Ledger, keys: Sequence[NewKey], undo: Undo, counted: Counted = uncounted) -> None:
    """Add keys, each with all its plans in one step: whatever ends this, a key is there as it is meant or not at all.

    In a SQLite file that is the transaction's; elsewhere what was done by then is in ``undo``.
    """
    if isinstance(ledger.store, SQLiteStore):  # on a server, any number in one step would hold everybody up
        ledger.store.add_keys(keys, ledger._steps._by())
        return
    with counted(keys, "keys") as each:
        for key, of in each:
            with _undone(ledger, key, undo):
                ledger.store.add_keys([(key, of)], ledger._steps._by())


@contextmanager
def _undone(ledger: Ledger, key: ApiKey, undo: Undo) -> Iterator[None]:
    """Note how to undo what adds a key, also where nobody knows if it did: interrupted, or a reply was lost.

    One that somebody else has changed since stays: who imports the same at once was told of it.
    """

    def drop() -> None:
        if ledger.get_key(key.id) == key:
            ledger.remove_key(key.id)

    try:
        yield
    except (PlanConflict, UnknownPlan, StoreBusy):
        raise  # nothing was added, and a key of this id is another's
    except BaseException:
        undo.append(drop)
        raise
    undo.append(drop)


def _choose(
    row: CsvKey,
    plans: Mapping[str, UsagePlan],
    on: Sequence[UsagePlan],
    reaches: Callable[[UsagePlan], Sequence[str]],
    warnings: list[str],
) -> list[UsagePlan]:
    """The plans that a row's key is to be put on; of two for one api the first, which is told."""
    found: dict[str, UsagePlan] = {}
    for id_ in row.plans:
        plan = plans.get(id_)
        if plan is None:
            warnings.append(f"line {row.line}: there is no plan {id_!r}: the key is not put on it")
            continue
        mine = {*plan.apis, *reaches(plan)}
        rivals = [other for other in found.values() if mine & {*other.apis, *reaches(other)}]
        # Of those it is on, the one for the same apis is left for this one; from another that meets it none moves it.
        rivals += [other for other in on if {*other.apis} != {*plan.apis} and mine & {*reaches(other)}]
        if rivals:
            warnings.append(
                f"line {row.line}: {rivals[0].id!r} and {id_!r} are for one api: the key is put on the first"
            )
        else:
            found[id_] = plan
    return list(found.values())


def _replace(ledger: Ledger, old: ApiKey, row: CsvKey, change: Callable[[ApiKey, CsvKey], ApiKey], undo: Undo) -> None:
    new = change(old, row)
    if new == old:
        return
    by = ledger._steps._by()
    made = ledger.store.change_key(old.id, lambda key: change(key, row), by)
    undo.append(lambda: ledger.store.change_key(old.id, lambda key: _changed_back(key, made, old), by))


def _changed_back(key: ApiKey, made: ApiKey, old: ApiKey) -> ApiKey:
    """Return a key with the fields as they were that an import made what they still are."""
    fields = ("name", "enabled", "metadata")
    same = [field for field in fields if getattr(key, field) == getattr(made, field)]
    return attrs.evolve(key, **{field: getattr(old, field) for field in same})


def _associate(ledger: Ledger, key: ApiKey, plan: UsagePlan, undo: Undo) -> None:
    before = next((old for old in ledger.list_plans(key) if not {*old.apis}.isdisjoint(plan.apis)), None)
    if before == plan:
        return
    ledger.associate(key, plan)
    undo.append(lambda: ledger.associate(key, before) if before else ledger.dissociate(key, plan))

"""Keys from API Gateway's CSV, all or nothing with ``--strict``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress

import attrs
import typer

from ...aws.keys_csv import DESCRIPTIONS, CsvKey, as_metadata, parse_csv
from ...clock import system_clock, to_datetime
from ...errors import PlanConflict, StoreBusy, UnknownKey, UnknownPlan
from ...key import ApiKey, Secret, digest, new_id
from ...ledger.sync import Ledger
from ...plan import UsagePlan
from ..common import PARTLY, WrongUse, opened
from ..show import counted, print_json, say, tell

NewKey = tuple[ApiKey, list[str]]
"""A key and the plans that it is put on."""


def import_table(store: str | None, name: str, text: str, *, strict: bool, revive: bool, as_json: bool) -> None:
    """Import the rows of a file; one whose key is there already replaces its name, description, state and plans.

    ``revive``: a secret that nobody knows is imported though a key of its name is there with another, too.
    """
    shown = "standard input" if name == "-" else name
    rows, warnings = parse_csv(shown, text)
    # A store is not made for what will be refused.
    with opened(store, create=not (strict and warnings) and not any(row.plans for row in rows)) as ledger:
        known = {secret.digest: key for key in ledger.list_keys() for secret in key.secrets}
        if not revive:
            rows = _without_rotated(rows, known, warnings)
        warnings += [
            f"line {row.line}: the key {old.id} was disabled, and the file enables it again"
            for row in rows
            if row.enabled and (old := known.get(digest(row.secret))) and not old.enabled
        ]
        plans = {plan.id: plan for plan in ledger.list_plans()}
        wanted = [(row, _plans(row, plans, warnings)) for row in rows]
        if strict and warnings:
            for warning in warnings:
                tell(f"{shown}: {warning}")
            raise WrongUse(f"{shown}: nothing is imported: --strict, and {len(warnings)} warnings")
        done = _import(ledger, wanted, known)
    for warning in warnings:
        tell(f"{shown}: {warning}")
    if as_json:
        print_json({**done, "warnings": warnings})
    else:
        replaced = f", replaced {len(done['replaced'])}" if done["replaced"] else ""
        say(f"imported {len(done['imported'])} keys{replaced}")
    if warnings:
        raise typer.Exit(PARTLY)


def _without_rotated(rows: list[CsvKey], known: Mapping[bytes, ApiKey], warnings: list[str]) -> list[CsvKey]:
    """The rows but those that may bring back a secret that was rotated away: its key has its name and another.

    Several keys may have one name: one whose secret is in the file is no such key, unless it was minted here.
    """
    here = {digest(row.secret) for row in rows}
    named = {
        key.name
        for key in known.values()
        if any(secret.prefix for secret in key.secrets) or not any(secret.digest in here for secret in key.secrets)
    }
    kept = []
    for row in rows:
        if digest(row.secret) not in known and row.name in named:
            warnings.append(
                f"line {row.line} is left out: a key named {row.name!r} is there with another secret, and this one "
                "may have been rotated away (--revive imports it)"
            )
        else:
            kept.append(row)
    return kept


def _import(
    ledger: Ledger, wanted: list[tuple[CsvKey, list[UsagePlan]]], known: Mapping[bytes, ApiKey]
) -> dict[str, list[str]]:
    """All or nothing; new keys with their plans in one step, and all of them in one where the store can."""
    new = [(_new(row), [plan.id for plan in on]) for row, on in wanted if digest(row.secret) not in known]
    there = [(row, on, known[digest(row.secret)]) for row, on in wanted if digest(row.secret) in known]
    undo: list[Callable[[], object]] = []
    try:
        with counted(there, "keys that are there") as each:
            for row, on, old in each:
                key = _replace(ledger, row, old, undo)
                for plan in on:
                    _associate(ledger, key, plan, undo)
        add_keys(ledger, new, undo)
    except BaseException:
        for step in reversed(undo):
            step()
        raise
    return {"imported": [key.id for key, _ in new], "replaced": [old.id for _, _, old in there]}


def add_keys(ledger: Ledger, keys: Sequence[NewKey], undo: list[Callable[[], object]]) -> None:
    """Add keys, each with all its plans in one step: whatever ends this, a key is there as it is meant or not at all.

    All of them are added in one step where the store can; what was done by then is in ``undo``.
    """
    together = getattr(ledger.store, "add_keys", None)
    if together is not None:
        with _undone(ledger, [key.id for key, _ in keys], undo):
            together(keys)
        return
    with counted(keys, "keys") as each:
        for key, of in each:
            with _undone(ledger, [key.id], undo):
                ledger.store.add_key(key, None, *of)


@contextmanager
def _undone(ledger: Ledger, ids: list[str], undo: list[Callable[[], object]]) -> Iterator[None]:
    """Note how to undo what adds keys, also where nobody knows if it did: interrupted, or a reply was lost."""

    def drop() -> None:
        for id_ in ids:
            with suppress(UnknownKey):
                ledger.remove_key(id_)

    try:
        yield
    except (PlanConflict, UnknownPlan, StoreBusy):
        raise  # nothing was added, and a key of this id is another's
    except BaseException:
        undo.append(drop)
        raise
    undo.append(drop)


def _plans(row: CsvKey, plans: Mapping[str, UsagePlan], warnings: list[str]) -> list[UsagePlan]:
    found: dict[str, UsagePlan] = {}
    for id_ in row.plans:
        if id_ not in plans:
            warnings.append(f"line {row.line}: there is no plan {id_!r}: the key is not put on it")
        elif plans[id_].api in found:
            earlier = found[plans[id_].api].id
            warnings.append(f"line {row.line}: {earlier!r} and {id_!r} are for one api: the key is put on the first")
        else:
            found[plans[id_].api] = plans[id_]
    return list(found.values())


def _new(row: CsvKey) -> ApiKey:
    id_ = new_id()
    return ApiKey(
        id=id_, name=row.name, account=id_, enabled=row.enabled, created_at=to_datetime(system_clock()),
        metadata=as_metadata(row.description), secrets=(Secret.of(row.secret),),
    )  # fmt: skip


def _replace(ledger: Ledger, row: CsvKey, old: ApiKey, undo: list[Callable[[], object]]) -> ApiKey:
    described = as_metadata(row.description)
    before = {name: text for name, text in old.metadata.items() if not described or name not in DESCRIPTIONS}
    metadata = {**before, **described}

    def change(key: ApiKey) -> ApiKey:
        return attrs.evolve(key, name=row.name, enabled=row.enabled, metadata=metadata)

    def change_back(key: ApiKey) -> ApiKey:
        return attrs.evolve(key, name=old.name, enabled=old.enabled, metadata=old.metadata)

    if change(old) == old:
        return old
    new = ledger.store.change_key(old.id, change)
    undo.append(lambda: ledger.store.change_key(old.id, change_back))
    return new


def _associate(ledger: Ledger, key: ApiKey, plan: UsagePlan, undo: list[Callable[[], object]]) -> None:
    before = next((old for old in ledger.list_plans(key) if old.api == plan.api), None)
    if before == plan:
        return
    ledger.associate(key, plan)
    undo.append(lambda: ledger.associate(key, before) if before else ledger.dissociate(key, plan))

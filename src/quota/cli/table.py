"""Keys from API Gateway's CSV, all or nothing with ``--strict``."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import attrs

from ..clock import system_clock, to_datetime
from ..key import ApiKey, Secret, digest, new_id
from ..keys_csv import CsvKey, parse_csv
from ..ledger import Ledger
from ..plan import UsagePlan
from .common import WrongUse, opened
from .show import print_json, say, tell


def import_table(store: str | None, name: str, text: str, *, strict: bool, as_json: bool) -> None:
    """Import the rows of a file; one whose key is there already replaces its name, description, state and plans."""
    rows, warnings = parse_csv("standard input" if name == "-" else name, text)
    # A store is not made for what will be refused.
    with opened(store, create=not (strict and warnings) and not any(row.plans for row in rows)) as ledger:
        _import(ledger, name, rows, warnings, strict=strict, as_json=as_json)


def _import(ledger: Ledger, name: str, rows: list[CsvKey], warnings: list[str], *, strict: bool, as_json: bool) -> None:
    plans = {plan.id: plan for plan in ledger.list_plans()}
    known = {secret.digest: key for key in ledger.list_keys() for secret in key.secrets}
    wanted = [(row, _plans(row, plans, warnings)) for row in rows]
    if strict and warnings:
        for warning in warnings:
            tell(f"{name}: {warning}")
        raise WrongUse(f"{name}: nothing is imported: --strict, and {len(warnings)} warnings")
    undo: list[Callable[[], object]] = []
    done: dict[str, list[str]] = {"imported": [], "replaced": []}
    try:
        for row, on in wanted:
            old = known.get(digest(row.secret))
            key = _add(ledger, row, undo) if old is None else _replace(ledger, row, old, undo)
            for plan in on:
                _associate(ledger, key, plan, undo)
            done["imported" if old is None else "replaced"].append(key.id)
    except BaseException:
        for step in reversed(undo):
            step()
        raise
    for warning in warnings:
        tell(f"{name}: {warning}")
    if as_json:
        print_json({**done, "warnings": warnings})
    else:
        replaced = f", replaced {len(done['replaced'])}" if done["replaced"] else ""
        say(f"imported {len(done['imported'])} keys{replaced}")


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


def _add(ledger: Ledger, row: CsvKey, undo: list[Callable[[], object]]) -> ApiKey:
    """Straight into the store: a disabled key is never enabled, not even for an instant."""
    id_ = new_id()
    key = ApiKey(
        id=id_, name=row.name, account=id_, enabled=row.enabled, created_at=to_datetime(system_clock()),
        metadata=_metadata(row), secrets=(Secret.of(row.secret),),
    )  # fmt: skip
    ledger.store.add_key(key, None)
    undo.append(lambda: ledger.remove_key(id_))
    return key


def _replace(ledger: Ledger, row: CsvKey, old: ApiKey, undo: list[Callable[[], object]]) -> ApiKey:
    metadata = {**old.metadata, **_metadata(row)}

    def change(key: ApiKey) -> ApiKey:
        return attrs.evolve(key, name=row.name, enabled=row.enabled, metadata=metadata)

    def change_back(key: ApiKey) -> ApiKey:
        return attrs.evolve(key, name=old.name, enabled=old.enabled, metadata=old.metadata)

    new = ledger.store.change_key(old.id, change)
    undo.append(lambda: ledger.store.change_key(old.id, change_back))
    return new


def _metadata(row: CsvKey) -> dict[str, str]:
    return {"description": row.description} if row.description else {}


def _associate(ledger: Ledger, key: ApiKey, plan: UsagePlan, undo: list[Callable[[], object]]) -> None:
    before = next((old for old in ledger.list_plans(key) if old.api == plan.api), None)
    ledger.associate(key, plan)
    undo.append(lambda: ledger.associate(key, before) if before else ledger.dissociate(key, plan))

"""Keys from API Gateway's CSV, all or nothing with ``--strict``."""

from __future__ import annotations

from collections.abc import Mapping

import attrs
import typer

from ...aws.keys_csv import DESCRIPTIONS, CsvKey, as_metadata, parse_csv
from ...aws.table import add_rows
from ...clock import system_clock, to_datetime
from ...key import ApiKey, Secret, digest, new_id
from ..common import PARTLY, WrongUse, opened, several
from ..show import counted, print_json, say, tell


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
        ids = add_rows(ledger, rows, warnings, _new, _changed, strict=strict, counted=counted)
    for warning in warnings:
        tell(f"{shown}: {warning}")
    if strict and warnings:
        raise WrongUse(f"{shown}: nothing is imported: --strict, and {several(len(warnings), 'warning')}")
    there = {key.id for key in known.values()}
    imported, replaced = ([id_ for id_ in ids if (id_ in there) is old] for old in (False, True))
    if as_json:
        print_json({"imported": imported, "replaced": replaced, "warnings": warnings})
    else:
        say(f"imported {several(len(imported), 'key')}" + (f", replaced {len(replaced)}" if replaced else ""))
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


def _new(row: CsvKey) -> ApiKey:
    id_ = new_id()
    return ApiKey(
        id=id_, name=row.name, account=id_, enabled=row.enabled, created_at=to_datetime(system_clock()),
        metadata=as_metadata(row.description), secrets=(Secret.of(row.secret),),
    )  # fmt: skip


def _changed(old: ApiKey, row: CsvKey) -> ApiKey:
    described = as_metadata(row.description)
    before = {name: text for name, text in old.metadata.items() if not described or name not in DESCRIPTIONS}
    return attrs.evolve(old, name=row.name, enabled=row.enabled, metadata={**before, **described})

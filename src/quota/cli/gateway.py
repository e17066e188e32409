"""quota import-aws and export-aws."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated

import attrs
import typer

from ..aws.keys_csv import parse_csv
from ..aws.read import Found, from_aws, parse_json
from ..aws.table import NewKey, Undo, add_keys, all_or_nothing
from ..aws.write import to_aws, to_text
from ..errors import PlanConflict
from ..key import ApiKey, digest
from ..ledger.sync import Ledger
from ..plan import UsagePlan
from .common import PARTLY, JsonOption, StoreOption, WrongUse, opened, read_text, several, to_pairs
from .show import print_json, say, tell

PLANS, KEYS, PLAN_KEYS = "usage-plans.json", "api-keys.json", "usage-plan-keys-{}.json"

_NOTHING = "nothing is imported"


def import_aws(
    directory: Annotated[
        Path | None, typer.Argument(metavar="DIR", help=f"Has {PLANS}, {KEYS} and {PLAN_KEYS.format('PLAN')}.")
    ] = None,
    plans: Annotated[str | None, typer.Option("--plans", metavar="FILE", help="What get-usage-plans printed.")] = None,
    keys: Annotated[
        str | None, typer.Option("--keys", metavar="FILE", help="What get-api-keys --include-values printed.")
    ] = None,
    plan_keys: Annotated[
        list[str] | None,
        typer.Option("--plan-keys", metavar="PLAN=FILE", help="What get-usage-plan-keys printed of a plan; repeat."),
    ] = None,
    api: Annotated[
        str | None,
        typer.Option("--api", metavar="API", help="The api of all plans; by default each plan's stages, apiId/stage."),
    ] = None,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Import API Gateway's plans and keys, all or nothing. Reads what the AWS CLI printed."""
    found = _read(directory, plans, keys, plan_keys or [], api)
    with opened(store, create=True) as ledger:
        new_plans, new_keys = all_or_nothing(ledger, partial(_import, found=found))
    for note in found.notes:
        tell(note)
    links = sum(len(of) for _, of in found.keys)
    there = len(found.plans) + len(found.keys) - len(new_plans) - len(new_keys)
    if as_json:
        print_json({
            "plans": [plan.id for plan in found.plans], "keys": [key.id for key, _ in found.keys],
            "associations": links, "notes": found.notes, "warnings": found.warnings,
        })  # fmt: skip
    else:
        already = f"; {there} of these were there already" if there else ""
        say(
            f"imported {several(len(found.plans), 'plan')}, {several(len(found.keys), 'key')}"
            f" and {several(links, 'association')}{already}"
        )
    if found.warnings:
        if not as_json:
            tell(f"{len(found.warnings)} of the limits do not bind as they did: see above (exit status {PARTLY})")
        raise typer.Exit(PARTLY)


def _read(
    directory: Path | None, plans: str | None, keys: str | None, plan_keys: Sequence[str], api: str | None
) -> Found:
    of_plan = to_pairs("plan-keys", list(plan_keys), "PLAN=FILE")
    if directory is not None:
        if plans is not None or keys is not None or plan_keys:
            raise WrongUse("give a directory, or --plans, --keys and --plan-keys")
        plans, keys = str(directory / PLANS), str(directory / KEYS)
        head, tail = PLAN_KEYS.split("{}")
        try:
            names = sorted(path.name for path in directory.iterdir())
        except OSError as error:
            raise WrongUse(f"{directory}: {error.strerror}") from None
        of_plan = {
            name[len(head) : -len(tail)]: str(directory / name)
            for name in names
            if name.startswith(head) and name.endswith(tail)
        }
    if plans is None and keys is None:
        raise WrongUse("give what the AWS CLI printed: a directory, or --plans, --keys and --plan-keys PLAN=FILE")
    items = [[] if name is None else parse_json(name, read_text(name)) for name in (plans, keys)]
    return from_aws(
        items[0], items[1], {plan: parse_json(name, read_text(name)) for plan, name in of_plan.items()}, api
    )


def _check(ledger: Ledger, found: Found) -> tuple[list[UsagePlan], list[NewKey]]:
    """The plans and keys that are new. What is there is not touched; what contradicts it is an error.

    An equal plan or key is none: an import that was killed half way is finished by the same command.
    """
    plans = {plan.id: plan for plan in ledger.list_plans()}
    keys = {key.id: key for key in ledger.list_keys()}
    owners = {secret.digest: key.id for key in keys.values() for secret in key.secrets}
    new: list[NewKey] = []
    for plan in found.plans:
        if plans.get(plan.id, plan) != plan:
            raise PlanConflict(plan.id, f"a different plan has this id already; {_NOTHING}")
    for key, of in found.keys:
        if owners.setdefault(key.secrets[0].digest, key.id) != key.id:
            raise PlanConflict(key.id, f"another key has its value already; {_NOTHING}")
        there = keys.get(key.id)
        if there is None:
            new.append((key, of))
        elif differs := _differs(ledger, there, key, of):
            raise PlanConflict(key.id, f"a key has this id already, and {differs}; {_NOTHING}")
    ids = [key.id for key, _ in found.keys]
    if len(set(ids)) < len(ids):
        raise PlanConflict(next(id_ for id_ in ids if ids.count(id_) > 1), f"two keys have this id; {_NOTHING}")
    return [plan for plan in found.plans if plan.id not in plans], new


def _differs(ledger: Ledger, there: ApiKey, key: ApiKey, of: Sequence[str]) -> str:
    """Return how a key that is there differs from the file's; what was rotated away or switched off since stays so."""
    if there.secrets != key.secrets:
        return "it has another secret: it was rotated since, or is another key"
    fields = [field.name for field in attrs.fields(ApiKey) if getattr(there, field.name) != getattr(key, field.name)]
    if fields:
        return f"it differs in {', '.join(fields)}"
    on = [plan.id for plan in ledger.list_plans(key.id)]
    return (
        "" if sorted(on) == sorted(of) else f"it is on {', '.join(on) or 'no plan'}, not on {', '.join(of) or 'none'}"
    )


def _import(ledger: Ledger, undo: Undo, found: Found) -> tuple[list[UsagePlan], list[NewKey]]:
    """Add what is new, and return it; ``undo`` says how it is taken back."""
    plans, keys = _check(ledger, found)
    for plan in plans:
        ledger.add_plan(plan)
        undo.append(partial(ledger.remove_plan, plan, expected=plan))
    add_keys(ledger, keys, undo)
    return plans, keys


def export_aws(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Where the files go; made when it is not there.")],
    secrets: Annotated[
        list[str] | None,
        typer.Option("--secrets", metavar="FILE", help="get-api-keys' JSON, or CSV, that has the values; repeat."),
    ] = None,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Export plans and keys as API Gateway's files. They are what the AWS CLI prints."""
    values = {digest(value): value for name in secrets or [] for value in _values(name)}
    with opened(store) as ledger:
        plans = ledger.list_plans()
        keys = [(key, [plan.id for plan in ledger.list_plans(key)]) for key in ledger.list_keys()]
    written = to_aws(plans, keys, values)
    files = {PLANS: to_text(written.plans), KEYS: to_text(written.keys)}
    files |= {PLAN_KEYS.format(_file_name(plan)): to_text(items) for plan, items in written.plan_keys.items()}
    _make(directory, files)
    for name, text in files.items():
        _write(directory / name, text)
    for note in written.notes:
        tell(note)
    if as_json:
        print_json({"directory": str(directory), "files": sorted(files), "notes": written.notes})
    else:
        say(f"wrote {several(len(written.plans), 'plan')} and {several(len(written.keys), 'key')} to {directory}")


def _make(directory: Path, files: Iterable[str]) -> None:
    """A place for the files of one export: no other's are in it, which would be read with them."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        stale = sorted({path.name for path in directory.glob(PLAN_KEYS.format("*"))} - set(files))
    except OSError as error:
        raise WrongUse(f"{directory}: {error.strerror}") from None
    if stale:
        raise WrongUse(f"{directory} has {stale[0]} of another export: remove it, or name a new directory")


def _file_name(plan_id: str) -> str:
    if "/" in plan_id or "\\" in plan_id:
        raise WrongUse(f"plan {plan_id!r} cannot name a file: export a plan whose id has no slash")
    return plan_id


def _values(name: str) -> list[str]:
    text = read_text(name)
    if text.lstrip()[:1] in ("{", "["):
        return [str(item["value"]) for item in parse_json(name, text) if item.get("value")]
    rows, warnings = parse_csv(name, text)
    for warning in warnings:
        tell(f"{name}: {warning}")
    return [row.secret for row in rows]


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, "utf-8")
    except (OSError, ValueError) as error:
        raise WrongUse(f"{path}: {getattr(error, 'strerror', None) or error}") from None


def register(app: typer.Typer) -> None:
    """Add the commands to the root."""
    example = "Example: quota import-aws --plans plans.json --keys keys.json --plan-keys n371pt=gold.json"
    app.command("import-aws", epilog=example)(import_aws)
    app.command("export-aws", epilog="Example: quota export-aws gateway/ --secrets keys.json")(export_aws)

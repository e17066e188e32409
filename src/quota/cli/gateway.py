"""quota import-aws and export-aws."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from ..aws import Found, Item, dump, from_aws, parse_json
from ..aws_write import to_aws, to_text
from ..errors import InvalidValue, PlanConflict
from ..key import digest
from ..keys_csv import parse_csv
from ..ledger import Ledger
from ..plan import UsagePlan
from .common import JsonOption, StoreOption, WrongUse, opened, read_text, to_pairs
from .show import print_json, say, tell

PLANS, KEYS, PLAN_KEYS = "usage-plans.json", "api-keys.json", "usage-plan-keys-{}.json"

_REST = ("plans", "keys")


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
        str | None, typer.Option("--api", help="The api of all plans; by default each plan's stages, apiId/stage.")
    ] = None,
    rest: Annotated[
        Path | None, typer.Option("--rest", metavar="FILE", help="Write what has no counterpart there, for export-aws.")
    ] = None,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Build the plans, keys and associations that API Gateway's command line printed; all or nothing."""
    found = _read(directory, plans, keys, plan_keys or [], api)
    with opened(store, create=True) as ledger:
        _build(ledger, found)
    if rest is not None:
        _write(rest, dump(found.rest, indent=2) + "\n")
    for note in found.notes:
        tell(note)
    links = sum(len(of) for _, of in found.keys)
    if as_json:
        print_json({
            "plans": [plan.id for plan in found.plans], "keys": [key.id for key, _ in found.keys],
            "associations": links, "notes": found.notes,
        })  # fmt: skip
    else:
        say(f"imported {len(found.plans)} plans, {len(found.keys)} keys and {links} associations")


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


def _check(ledger: Ledger, found: Found) -> list[UsagePlan]:
    """The plans that are new; what is there already is not touched, and what contradicts it is an error."""
    plans = {plan.id: plan for plan in ledger.list_plans()}
    keys = ledger.list_keys()
    ids = {key.id for key in keys}
    digests = {secret.digest for key in keys for secret in key.secrets}
    for plan in found.plans:
        if plans.get(plan.id, plan) != plan:
            raise PlanConflict(plan.id, "a different plan has this id already; nothing is imported")
    for key, _ in found.keys:
        if key.id in ids:
            raise PlanConflict(key.id, "a key has this id already; nothing is imported")
        if key.secrets[0].digest in digests:
            raise PlanConflict(key.id, "another key has its value already; nothing is imported")
        ids.add(key.id)
        digests.add(key.secrets[0].digest)
    return [plan for plan in found.plans if plan.id not in plans]


def _build(ledger: Ledger, found: Found) -> None:
    """All or nothing: everything is looked at first, and what was made is taken back if something goes wrong."""
    new = _check(ledger, found)
    undo: list[tuple[Callable[[str], object], str]] = []
    try:
        for plan in new:
            ledger.add_plan(plan)
            undo.append((ledger.remove_plan, plan.id))
        for key, of in found.keys:
            ledger.store.add_key(key, of[0] if of else None)
            undo.append((ledger.remove_key, key.id))
            for plan_id in of[1:]:
                ledger.associate(key, plan_id)
    except BaseException:
        for step, id_ in reversed(undo):
            step(id_)
        raise


def export_aws(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Where the files go; made when it is not there.")],
    secrets: Annotated[
        list[str] | None,
        typer.Option("--secrets", metavar="FILE", help="get-api-keys' JSON, or CSV, that has the values; repeat."),
    ] = None,
    rest: Annotated[
        str | None, typer.Option("--rest", metavar="FILE", help="What import-aws found no counterpart for.")
    ] = None,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write plans, keys and associations as API Gateway's command line prints them."""
    values = {digest(value): value for name in secrets or [] for value in _values(name)}
    kept = None if rest is None else _rest(rest)
    with opened(store) as ledger:
        plans = ledger.list_plans()
        keys = [(key, [plan.id for plan in ledger.list_plans(key)]) for key in ledger.list_keys()]
    try:
        written = to_aws(plans, keys, values, kept)
    except (AttributeError, KeyError, TypeError) as error:
        raise InvalidValue(rest or "items", str(error), "what import-aws --rest wrote") from None
    files = {PLANS: to_text(written.plans), KEYS: to_text(written.keys)}
    files |= {PLAN_KEYS.format(_file_name(plan)): to_text(items) for plan, items in written.plan_keys.items()}
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WrongUse(f"{directory}: {error.strerror}") from None
    for name, text in files.items():
        _write(directory / name, text)
    for note in written.notes:
        tell(note)
    if as_json:
        print_json({"directory": str(directory), "files": sorted(files), "notes": written.notes})
    else:
        say(f"wrote {len(written.plans)} plans and {len(written.keys)} keys to {directory}")


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


def _rest(name: str) -> dict[str, dict[str, Item]]:
    try:
        data: Any = json.loads(read_text(name))
    except (ValueError, RecursionError) as error:
        raise InvalidValue(name, str(error), "what import-aws --rest wrote, complete") from None
    if not isinstance(data, dict) or any(name not in _REST or type(part) is not dict for name, part in data.items()):
        raise InvalidValue(name, type(data), "what import-aws --rest wrote")
    return data


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

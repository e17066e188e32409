"""quota key issue, import: what makes keys, and shows a secret once."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from ...key import ApiKey, IssuedKey
from ...ledger.sync import Ledger
from ..common import (
    JsonOption,
    StoreOption,
    Unshown,
    WrongUse,
    complete_plan,
    opened,
    read_secret,
    read_text,
    to_instant,
    to_pairs,
)
from ..show import key_data, print_json, show_key, tell
from .names import issue_table
from .table import import_table

PlansOption = Annotated[
    list[str] | None,
    typer.Option(
        "--plan", metavar="PLAN", help="Put it on this plan; repeat for other APIs.", autocompletion=complete_plan
    ),
]
IdOption = Annotated[
    str | None, typer.Option("--id", metavar="ID", help="An id of your own; by default ten letters and digits.")
]
AccountOption = Annotated[
    str | None, typer.Option("--account", metavar="ACCOUNT", help="Whose usage is counted; by default its own.")
]
ExpiresOption = Annotated[
    str | None,
    typer.Option("--expires", metavar="WHEN", help="2026-12-31, 2026-12-31T18:00+01:00, or 30d from now."),
]
NetworksOption = Annotated[
    list[str] | None,
    typer.Option("--network", metavar="CIDR", help="May be used from here, as 10.0.0.0/8; repeat. Else: anywhere."),
]
ScopesOption = Annotated[
    list[str] | None, typer.Option("--scope", metavar="SCOPE", help="May be used for this, in a word of yours; repeat.")
]
MetadataOption = Annotated[list[str] | None, typer.Option("--meta", metavar="NAME=VALUE", help="To remember; repeat.")]


def issue(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="What people call it.")] = None,
    csv: Annotated[
        str | None, typer.Option("--csv", metavar="FILE", help="Issue a key for each Name of a CSV; - is stdin.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="With --csv: a new file for names, secrets and ids.")
    ] = None,
    plan: PlansOption = None,
    id_: IdOption = None,
    account: AccountOption = None,
    expires: ExpiresOption = None,
    prefix: Annotated[str, typer.Option("--prefix", metavar="PREFIX", help="What the secret begins with.")] = "qk",
    meta: MetadataOption = None,
    networks: NetworksOption = None,
    scopes: ScopesOption = None,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Issue a key. Its secret goes to standard output, once: it is stored nowhere."""
    if csv is not None or out is not None:
        if (
            csv is None
            or out is None
            or any(value is not None for value in (name, id_, expires, meta, networks, scopes))
        ):
            raise WrongUse(
                "--csv FILE says the names and --out FILE gets the secrets: "
                "only --plan (once), --account, --prefix, --store and --json go with them"
            )
        issue_table(store, csv, out, plan or [], account, prefix, as_json=as_json)
        return
    if name is None:
        raise WrongUse("a key has a name: quota key issue NAME (or --csv FILE --out FILE)")
    metadata = to_pairs("meta", meta or [], "NAME=VALUE")
    expires_at = None if expires is None else to_instant("expires", expires)
    with opened(store, create=not plan) as ledger:
        plans = check_plans(ledger, plan)
        issued = ledger.issue_key(
            name, plans[0] if plans else None, id=id_, account=account, expires_at=expires_at, prefix=prefix,
            metadata=metadata, networks=networks or (), scopes=scopes or (),
        )  # fmt: skip
        _attach(ledger, issued.key, plans[1:])
        with shown("the key is removed again", lambda: ledger.remove_key(issued.key)):
            show_issued(ledger, issued, "issued", as_json=as_json)
    if not plans and not as_json:
        tell(f"it is on no plan, so its calls are refused; put it on one: quota key attach {issued.key.id} PLAN")


def import_(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="What people call it.")] = None,
    source: Annotated[
        str, typer.Option("--secret-file", metavar="FILE", help="Where the secret is; - is standard input.")
    ] = "-",
    csv: Annotated[
        str | None, typer.Option("--csv", metavar="FILE", help="Import API Gateway's CSV: Name, Key, ...; - is stdin.")
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="With --csv: all or nothing, warnings are errors.")] = False,
    revive: Annotated[
        bool, typer.Option("--revive", help="With --csv: though a key of the same name has another secret by now.")
    ] = False,
    plan: PlansOption = None,
    id_: IdOption = None,
    account: AccountOption = None,
    expires: ExpiresOption = None,
    meta: MetadataOption = None,
    networks: NetworksOption = None,
    scopes: ScopesOption = None,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Import a key whose secret comes from elsewhere.

    It is read from standard input or a file, never from the arguments, which others can see.
    """
    if csv is not None:
        if (
            any(value is not None for value in (name, plan, id_, account, expires, meta, networks, scopes))
            or source != "-"
        ):
            raise WrongUse("--csv says the keys: only --strict, --revive, --store and --json go with it")
        import_table(store, csv, read_text(csv), strict=strict, revive=revive, as_json=as_json)
        return
    if name is None or strict or revive:
        raise WrongUse(
            "a key has a name: quota key import NAME < secret.txt (or --csv FILE, with --strict or --revive or not)"
        )
    metadata = to_pairs("meta", meta or [], "NAME=VALUE")
    expires_at = None if expires is None else to_instant("expires", expires)
    secret = read_secret(source)
    with opened(store, create=not plan) as ledger:
        plans = check_plans(ledger, plan)
        imported = ledger.import_key(
            secret, name, plans[0] if plans else None, id=id_, account=account, expires_at=expires_at,
            metadata=metadata, networks=networks or (), scopes=scopes or (),
        )  # fmt: skip
        _attach(ledger, imported.key, plans[1:])
        show_key(ledger, imported.key, "imported", as_json=as_json)


def check_plans(ledger: Ledger, ids: list[str] | None) -> list[str]:
    """Return the plans, before anything is made: all there, and each for an API of its own."""
    plans = [ledger.get_plan(id_) for id_ in ids or []]
    apis = [api for plan in plans for api in plan.apis]
    if len({*apis}) < len(apis):
        raise WrongUse("a key has one plan for each api, and two of these are for the same")
    return [plan.id for plan in plans]


def _attach(ledger: Ledger, key: ApiKey, plans: list[str]) -> None:
    for plan in plans:
        ledger.associate(key, plan)


@contextmanager
def shown(undone: str, undo: Callable[[], object]) -> Iterator[None]:
    """A secret that nobody could see is of no use to anybody: what made it is undone."""
    try:
        yield
        sys.stdout.flush()
    except OSError as error:
        undo()
        raise Unshown(f"the secret could not be written ({error.strerror or error}): {undone}") from None


def show_issued(ledger: Ledger, issued: IssuedKey, done: str, *, as_json: bool) -> None:
    """The secret alone on standard output, so that it can be caught; everything else beside it."""
    key, secret = issued
    if as_json:
        print_json({"key": key_data(key, ledger.list_plans(key)), "secret": secret})
        return
    tell(f"{done} key {key.id} ({key.name}); its secret is not shown again:")
    print(secret)


def register(app: typer.Typer) -> None:
    """Add the commands to ``quota key``."""
    app.command(epilog='Example: quota key issue "Ada\'s laptop" --plan gold --expires 90d')(issue)
    app.command("import", epilog="Example: quota key import 'Partner' --plan gold < secret.txt")(import_)

"""quota key: issue, import, list, show, rotate, enable, disable, remove, attach, detach, forget."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated

import attrs
import typer

from ..clock import system_clock, to_datetime
from ..key import ApiKey, IssuedKey
from ..ledger.sync import Ledger
from .common import (
    JsonOption,
    KeyArgument,
    PlanArgument,
    StoreOption,
    Unshown,
    WrongUse,
    YesOption,
    complete_plan,
    confirm,
    find_key,
    opened,
    read_secret,
    read_text,
    to_instant,
    to_pairs,
    to_span,
)
from .show import at, key_data, print_json, print_table, say, state_of, tell
from .table import import_table

app = typer.Typer(help="API keys: who may call.", no_args_is_help=True)

PlansOption = Annotated[
    list[str] | None,
    typer.Option(
        "--plan", metavar="PLAN", help="Put it on this plan; repeat for other APIs.", autocompletion=complete_plan
    ),
]
IdOption = Annotated[str | None, typer.Option("--id", help="An id of your own; by default ten letters and digits.")]
AccountOption = Annotated[str | None, typer.Option("--account", help="Whose usage is counted; by default its own.")]
ExpiresOption = Annotated[
    str | None,
    typer.Option("--expires", metavar="WHEN", help="2026-12-31, 2026-12-31T18:00+01:00, or 30d from now."),
]
MetadataOption = Annotated[list[str] | None, typer.Option("--meta", metavar="NAME=VALUE", help="To remember; repeat.")]


@app.command(epilog='Example: quota key issue "Ada\'s laptop" --plan gold --expires 90d')
def issue(
    name: Annotated[str, typer.Argument(metavar="NAME", help="What people call it.")],
    plan: PlansOption = None,
    id_: IdOption = None,
    account: AccountOption = None,
    expires: ExpiresOption = None,
    prefix: Annotated[str, typer.Option("--prefix", help="What the secret begins with.")] = "qk",
    meta: MetadataOption = None,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Issue a key. Its secret goes to standard output, once: it is stored nowhere."""
    metadata = to_pairs("meta", meta or [], "NAME=VALUE")
    expires_at = None if expires is None else to_instant("expires", expires)
    with opened(store, create=not plan) as ledger:
        plans = _check_plans(ledger, plan)
        issued = ledger.issue_key(
            name, plans[0] if plans else None, id=id_, account=account, expires_at=expires_at, prefix=prefix,
            metadata=metadata,
        )  # fmt: skip
        _attach(ledger, issued.key, plans[1:])
        with _shown("the key is removed again", lambda: ledger.remove_key(issued.key)):
            _show_issued(ledger, issued, "issued", as_json=as_json)


@app.command("import", epilog="Example: quota key import 'Partner' --plan gold < secret.txt")
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
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Import a key whose secret comes from elsewhere: from standard input or a file, never from the arguments."""
    if csv is not None:
        if any(value is not None for value in (name, plan, id_, account, expires, meta)) or source != "-":
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
        plans = _check_plans(ledger, plan)
        imported = ledger.import_key(
            secret, name, plans[0] if plans else None, id=id_, account=account, expires_at=expires_at, metadata=metadata
        )
        _attach(ledger, imported.key, plans[1:])
        _show(ledger, imported.key, "imported", as_json=as_json)


@app.command("list", epilog="Example: quota key list --plan gold")
def list_(
    plan: Annotated[
        str | None,
        typer.Option("--plan", metavar="PLAN", help="Only keys on this plan.", autocompletion=complete_plan),
    ] = None,
    account: Annotated[str | None, typer.Option("--account", help="Only keys of this account.")] = None,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the keys; never their secrets, only how those end."""
    with opened(store) as ledger:
        if plan is not None:
            ledger.get_plan(plan)
        found = [(key, ledger.list_plans(key)) for key in ledger.list_keys() if account in (None, key.account)]
    found = [(key, plans) for key, plans in found if plan is None or plan in {one.id for one in plans}]
    if as_json:
        print_json({"keys": [key_data(key, plans) for key, plans in found]})
        return
    now = to_datetime(system_clock())
    rows = [
        (
            key.id, key.name, ", ".join(one.id for one in plans), state_of(key, now),
            at(key.expires_at) if key.expires_at else "", key.account if key.account != key.id else "", _hints(key),
        ) for key, plans in found
    ]  # fmt: skip
    print_table(("key", "name", "plans", "state", "expires", "account", "secrets"), rows)


@app.command(epilog='Example: quota key show "Ada\'s laptop"')
def show(key: KeyArgument, store: StoreOption = None, as_json: JsonOption = False) -> None:
    """Show a key: its plans, state, account, metadata, and how its secrets end."""
    with opened(store) as ledger:
        _show(ledger, find_key(ledger, key), "key", as_json=as_json)


@app.command(epilog='Example: quota key rotate "Ada\'s laptop" --overlap 1h')
def rotate(
    key: KeyArgument,
    overlap: Annotated[
        str, typer.Option("--overlap", metavar="SPAN", help="How long the old secrets go on, as 30m, 1h or 7d.")
    ] = "0s",
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Give a key a new secret, on standard output, once. What it used stays used."""
    length = to_span("overlap", overlap)
    with opened(store) as ledger:
        found = find_key(ledger, key)
        rotated = ledger.rotate_key(found, length)

        def back(now: ApiKey) -> ApiKey:
            return attrs.evolve(now, secrets=found.secrets) if now.secrets == rotated.key.secrets else now

        with _shown("the key has its old ones again", lambda: ledger.store.change_key(found.id, back)):
            _show_issued(ledger, rotated, "rotated", as_json=as_json)


@app.command(epilog="Example: quota key enable 8f3k2m9x1q")
def enable(key: KeyArgument, store: StoreOption = None, as_json: JsonOption = False) -> None:
    """Let a key be used again."""
    with opened(store) as ledger:
        _show(ledger, ledger.enable_key(find_key(ledger, key)), "enabled", as_json=as_json)


@app.command(epilog="Example: quota key disable 8f3k2m9x1q")
def disable(key: KeyArgument, store: StoreOption = None, as_json: JsonOption = False) -> None:
    """Refuse a key from the next call on, everywhere. Its counts stay."""
    with opened(store) as ledger:
        _show(ledger, ledger.disable_key(find_key(ledger, key)), "disabled", as_json=as_json)


@app.command(epilog="Example: quota key remove 8f3k2m9x1q --yes")
def remove(key: KeyArgument, yes: YesOption = False, store: StoreOption = None, as_json: JsonOption = False) -> None:
    """Remove a key and its counts; those of an account that it shared stay."""
    with opened(store) as ledger:
        found = find_key(ledger, key)
        confirm(f"remove {found.id} ({found.name}) and its counts?", yes=yes)
        ledger.remove_key(found)
    if as_json:
        print_json({"removed": found.id})
    else:
        say(f"removed key {found.id} ({found.name})")


@app.command(epilog='Example: quota key attach "Ada\'s laptop" gold')
def attach(key: KeyArgument, plan: PlanArgument, store: StoreOption = None, as_json: JsonOption = False) -> None:
    """Put a key on a plan; from another one for the same API it is moved, and what was used stays used."""
    with opened(store) as ledger:
        found = find_key(ledger, key)
        ledger.associate(found, plan)
        _show(ledger, found, "attached", as_json=as_json)


@app.command(epilog='Example: quota key detach "Ada\'s laptop" gold')
def detach(key: KeyArgument, plan: PlanArgument, store: StoreOption = None, as_json: JsonOption = False) -> None:
    """Take a key off a plan."""
    with opened(store) as ledger:
        found = find_key(ledger, key)
        ledger.dissociate(found, plan)
        _show(ledger, found, "detached", as_json=as_json)


@app.command(epilog='Example: quota key forget "Ada\'s laptop" --yes')
def forget(key: KeyArgument, yes: YesOption = False, store: StoreOption = None, as_json: JsonOption = False) -> None:
    """Drop a key's counts: the repair after a wild clock, when calls end in 'the clock reads ...'."""
    with opened(store) as ledger:
        found = find_key(ledger, key)
        confirm(f"forget all that {found.id} ({found.name}) used?", yes=yes)
        ledger.forget(found)
        _show(ledger, found, "forgot the counts of", as_json=as_json)


def _check_plans(ledger: Ledger, ids: list[str] | None) -> list[str]:
    """The plans, before anything is made: all there, and each for an API of its own."""
    plans = [ledger.get_plan(id_) for id_ in ids or []]
    if len({plan.api for plan in plans}) < len(plans):
        raise WrongUse("a key has one plan for each api, and two of these are for the same")
    return [plan.id for plan in plans]


def _attach(ledger: Ledger, key: ApiKey, plans: list[str]) -> None:
    for plan in plans:
        ledger.associate(key, plan)


def _hints(key: ApiKey) -> str:
    return ", ".join(f"...{secret.hint}" for secret in key.secrets)


@contextmanager
def _shown(undone: str, undo: Callable[[], object]) -> Iterator[None]:
    """A secret that nobody could see is of no use to anybody: what made it is undone."""
    try:
        yield
        sys.stdout.flush()
    except OSError as error:
        undo()
        raise Unshown(f"the secret could not be written ({error.strerror or error}): {undone}") from None


def _show_issued(ledger: Ledger, issued: IssuedKey, done: str, *, as_json: bool) -> None:
    """The secret alone on standard output, so that it can be caught; everything else beside it."""
    key, secret = issued
    if as_json:
        print_json({"key": key_data(key, ledger.list_plans(key)), "secret": secret})
        return
    tell(f"{done} key {key.id} ({key.name}); its secret is not shown again:")
    print(secret)


def _show(ledger: Ledger, key: ApiKey, done: str, *, as_json: bool) -> None:
    plans = ledger.list_plans(key)
    if as_json:
        print_json(key_data(key, plans))
        return
    say(f"{done} {key.id} ({key.name})")
    rows = [
        ("state", str(state_of(key, to_datetime(system_clock())))),
        ("plans", ", ".join(f"{plan.id} for {plan.api}" if plan.api else plan.id for plan in plans) or "none"),
    ]
    if key.account != key.id:
        rows.append(("account", key.account))
    if key.created_at is not None:
        rows.append(("created", at(key.created_at)))
    if key.expires_at is not None:
        rows.append(("expires", at(key.expires_at)))
    for secret in key.secrets:
        until = f" until {at(secret.expires_at)}" if secret.expires_at else ""
        rows += [("secret", f"...{secret.hint}{until}")]
    rows += [(f"meta {name}", value) for name, value in key.metadata.items()]
    for what, value in rows:
        say(f"  {what}: {value}")

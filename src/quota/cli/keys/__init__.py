"""quota key: issue, import, list, show, update, rotate, enable, disable, remove, erase, attach, detach, forget."""

from __future__ import annotations

from typing import Annotated

import attrs
import typer

from ...clock import system_clock, to_datetime
from ...key import ApiKey
from ...ledger.administration import UNCHANGED
from ..common import (
    AtOption,
    JsonOption,
    KeyArgument,
    PlanArgument,
    StoreOption,
    WrongUse,
    YesOption,
    complete_plan,
    confirm,
    find_key,
    opened,
    to_date,
    to_instant,
    to_pairs,
    to_span,
)
from ..show import at, key_data, print_json, print_table, say, show_key, state_of
from . import erasing, issuing
from .issuing import MetadataOption, NetworksOption, ScopesOption, show_issued, shown

app = typer.Typer(help="API keys: who may call.", no_args_is_help=True)
issuing.register(app)


@app.command("list", epilog="Example: quota key list --plan gold")
def list_(
    plan: Annotated[
        str | None,
        typer.Option("--plan", metavar="PLAN", help="Only keys on this plan.", autocompletion=complete_plan),
    ] = None,
    account: Annotated[
        str | None, typer.Option("--account", metavar="ACCOUNT", help="Only keys of this account.")
    ] = None,
    after: Annotated[str | None, typer.Option("--after", metavar="ID", help="Only keys beyond this id.")] = None,
    limit: Annotated[int | None, typer.Option("--limit", metavar="COUNT", help="At most so many.")] = None,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the keys in the order of their ids. Of their secrets it shows how they end, no more."""
    with opened(store) as ledger:
        keys = ledger.list_keys(after=after, limit=limit, plan=plan, account=account)
        found = [(key, ledger.list_plans(key)) for key in keys]
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
    """Show a key: plans, state, account, metadata, secrets' ends."""
    with opened(store) as ledger:
        show_key(ledger, find_key(ledger, key), "key", as_json=as_json)


@app.command(epilog='Example: quota key update "Ada\'s laptop" --network 203.0.113.0/24 --scope read --expires never')
def update(
    key: KeyArgument,
    name: Annotated[str | None, typer.Option("--name", metavar="NAME", help="What people call it.")] = None,
    expires: Annotated[
        str | None, typer.Option("--expires", metavar="WHEN", help="2026-12-31, 30d from now, or never.")
    ] = None,
    meta: MetadataOption = None,
    networks: NetworksOption = None,
    scopes: ScopesOption = None,
    no_meta: Annotated[bool, typer.Option("--no-meta", help="Remember nothing with it any more.")] = False,
    any_network: Annotated[bool, typer.Option("--any-network", help="Let it be used from anywhere.")] = False,
    no_scope: Annotated[bool, typer.Option("--no-scope", help="Take all its scopes.")] = False,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Change what is given of a key, from the next call on. It takes the place of what there was."""
    for option, values, none in (
        ("--meta or --no-meta", meta, no_meta), ("--network or --any-network", networks, any_network),
        ("--scope or --no-scope", scopes, no_scope),
    ):  # fmt: skip
        if values and none:
            raise WrongUse(f"either {option}, not both")
    metadata = {} if no_meta else to_pairs("meta", meta, "NAME=VALUE") if meta else UNCHANGED
    expires_at = None if expires == "never" else to_instant("expires", expires) if expires else UNCHANGED
    with opened(store) as ledger:
        found = ledger.update_key(
            find_key(ledger, key), name=UNCHANGED if name is None else name, expires_at=expires_at, metadata=metadata,
            networks=() if any_network else networks or UNCHANGED, scopes=() if no_scope else scopes or UNCHANGED,
        )  # fmt: skip
        show_key(ledger, found, "updated", as_json=as_json)


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

        with shown(
            "the key has its old ones again", lambda: ledger.store.change_key(found.id, back, ledger._steps._by())
        ):
            show_issued(ledger, rotated, "rotated", as_json=as_json)


@app.command(epilog="Example: quota key enable 8f3k2m9x1q")
def enable(key: KeyArgument, store: StoreOption = None, as_json: JsonOption = False) -> None:
    """Let a key be used again."""
    with opened(store) as ledger:
        show_key(ledger, ledger.enable_key(find_key(ledger, key)), "enabled", as_json=as_json)


@app.command(epilog="Example: quota key disable 8f3k2m9x1q")
def disable(key: KeyArgument, store: StoreOption = None, as_json: JsonOption = False) -> None:
    """Refuse a key from the next call on, everywhere. Its counts stay."""
    with opened(store) as ledger:
        show_key(ledger, ledger.disable_key(find_key(ledger, key)), "disabled", as_json=as_json)


@app.command(epilog="Example: quota key remove 8f3k2m9x1q --yes")
def remove(key: KeyArgument, yes: YesOption = False, store: StoreOption = None, as_json: JsonOption = False) -> None:
    """Remove a key and its counts. Its days of usage are told until retention ends, those of its account stay."""
    with opened(store) as ledger:
        found = find_key(ledger, key)
        confirm(f"remove {found.id} ({found.name}) and its counts?", yes=yes)
        ledger.remove_key(found)
    if as_json:
        print_json({"removed": found.id})
    else:
        say(f"removed key {found.id} ({found.name})")


@app.command(epilog='Example: quota key attach "Ada\'s laptop" gold')
def attach(
    key: KeyArgument,
    plan: PlanArgument,
    at: AtOption = None,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Put a key on a plan. From another one for the same API it is moved, and what was used stays used.

    With --at it goes there by itself at that instant, everywhere at once; the last one said stands.
    """
    when = to_date(at)
    with opened(store) as ledger:
        found = find_key(ledger, key)
        ledger.associate(found, plan, at=when)
        show_key(ledger, ledger.get_key(found), "attached", as_json=as_json)


@app.command(epilog='Example: quota key detach "Ada\'s laptop" gold')
def detach(key: KeyArgument, plan: PlanArgument, store: StoreOption = None, as_json: JsonOption = False) -> None:
    """Take a key off a plan, or off its way to it."""
    with opened(store) as ledger:
        found = find_key(ledger, key)
        ledger.dissociate(found, plan)
        show_key(ledger, ledger.get_key(found), "detached", as_json=as_json)


@app.command(epilog='Example: quota key forget "Ada\'s laptop" --yes')
def forget(key: KeyArgument, yes: YesOption = False, store: StoreOption = None, as_json: JsonOption = False) -> None:
    """Drop a key's counts: the repair after a wild clock. That is when calls end in 'the clock reads ...'."""
    with opened(store) as ledger:
        found = find_key(ledger, key)
        confirm(f"forget all that {found.id} ({found.name}) used?", yes=yes)
        ledger.forget(found)
        show_key(ledger, found, "forgot the counts of", as_json=as_json)


def _hints(key: ApiKey) -> str:
    return ", ".join(f"...{secret.hint}" for secret in key.secrets)


erasing.register(app)

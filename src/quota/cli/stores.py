"""quota store: migrate, check, prune, backup."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from ..ledger.sync import Ledger
from .common import UNAVAILABLE, JsonOption, StoreOption, WrongUse, opened
from .show import BAD, print_json, say

app = typer.Typer(help="The store itself.", no_args_is_help=True)


@app.command(epilog="Example: quota store migrate --store sqlite:///usage.db")
def migrate(store: StoreOption = None, as_json: JsonOption = False) -> None:
    """Make the store what this version needs: a new one, or an older one brought up to date. Twice is fine."""
    with opened(store, create=True) as ledger:
        step = getattr(_behind(ledger), "migrate", None)
        version = step() if step is not None else None
        ledger.list_plans()  # a store that needs no such step is there when it answers
    if as_json:
        print_json({"migrated": True, "version": version})
    else:
        say("the store is up to date" + (f" (schema {version})" if version is not None else ""))


@app.command(epilog="Example: quota store check")
def check(store: StoreOption = None, as_json: JsonOption = False) -> None:
    """Look the store over: that it answers, is whole, and that every key can be read. Exit status 3 when not."""
    with opened(store) as ledger:
        step = getattr(_behind(ledger), "check", None)
        problems = list(step()) if step is not None else []
        plans, keys = ledger.list_plans(), ledger.list_keys()
        for key in keys:
            ledger.list_plans(key)
            for plan in plans:
                ledger.usage(key, api=plan.api)
    if as_json:
        print_json({"ok": not problems, "problems": problems, "plans": len(plans), "keys": len(keys)})
    else:
        for problem in problems:
            say(problem, style=BAD)
        say(f"{len(plans)} plans, {len(keys)} keys: {f'{len(problems)} problems' if problems else 'all is well'}")
    if problems:
        raise typer.Exit(UNAVAILABLE)


@app.command(epilog="Example: quota store prune")
def prune(store: StoreOption = None, as_json: JsonOption = False) -> None:
    """Drop what is dead now: windows long over, history beyond its retention. It goes by itself too, bit by bit."""
    with opened(store) as ledger:
        pruned = _step(ledger, "prune")()
    if as_json:
        print_json({"pruned": pruned})
    else:
        say(f"pruned {pruned:,} records")


@app.command(epilog="Example: quota store backup usage-2026-01-31.db")
def backup(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Where to; a file that is there is not touched.")],
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Copy the store to a file, whole and of one moment, while others go on using it."""
    with opened(store) as ledger:
        step = _step(ledger, "backup")
        if file.exists():
            raise WrongUse(f"{file} is there already: a backup never replaces a file")
        folder = file.absolute().parent
        if not folder.is_dir() or not os.access(folder, os.W_OK):
            raise WrongUse(f"{file}: {folder} is no directory that can be written to")
        step(file)
    if as_json:
        print_json({"backup": str(file), "bytes": file.stat().st_size})
    else:
        say(f"backed up to {file} ({file.stat().st_size:,} bytes)")


def _behind(ledger: Ledger) -> Any:
    """The store that is looked after: where units are leased, the one that they are leased from."""
    return getattr(ledger.store, "store", ledger.store)


def _step(ledger: Ledger, name: str) -> Callable[..., Any]:
    store = _behind(ledger)
    step = getattr(store, name, None)
    if step is None:
        kind = type(store).__name__
        raise WrongUse(f"{kind} has no {name}: {_INSTEAD[name]}")
    return step  # type: ignore[no-any-return]


_INSTEAD = {
    "prune": "what is dead goes by itself there",
    "backup": "use what its engine has (pg_dump, Redis's RDB or AOF files)",
}

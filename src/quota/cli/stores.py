"""quota store: migrate, check, prune, backup; and quota events, its outbox."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from ..clock import pause
from ..event import Event
from ..ledger.sync import Ledger
from .common import UNAVAILABLE, JsonOption, StoreOption, WrongUse, opened, several
from .show import BAD, print_json, print_table, say

app = typer.Typer(help="The store: make, check, prune, copy.", no_args_is_help=True)


@app.command(epilog="Example: quota store migrate --store sqlite:///usage.db")
def migrate(store: StoreOption = None, as_json: JsonOption = False) -> None:
    """Make a new store, or bring an older one up to date. Twice is fine."""
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
    """Look whether the store answers and is whole. Every key is read; exit status 3 when something is wrong."""
    with opened(store) as ledger:
        step = getattr(_behind(ledger), "check", None)
        problems = list(step()) if step is not None else []
        plans, keys = ledger.list_plans(), ledger.list_keys()
        for key in keys:
            ledger.list_plans(key)
            for api in dict.fromkeys(api for plan in plans for api in plan.apis):
                ledger.usage(key, api=api)
    if as_json:
        print_json({"ok": not problems, "problems": problems, "plans": len(plans), "keys": len(keys)})
    else:
        for problem in problems:
            say(problem, style=BAD)
        found = several(len(problems), "problem") if problems else "all is well"
        say(f"{several(len(plans), 'plan')}, {several(len(keys), 'key')}: {found}")
    if problems:
        raise typer.Exit(UNAVAILABLE)


@app.command(epilog="Example: quota store prune")
def prune(store: StoreOption = None, as_json: JsonOption = False) -> None:
    """Drop windows long over and history beyond its retention. They go by themselves too, bit by bit."""
    with opened(store) as ledger:
        pruned = _step(ledger, "prune")()
    if as_json:
        print_json({"pruned": pruned})
    else:
        say(f"pruned {several(pruned, 'record')}")


@app.command(epilog="Example: quota store backup usage-2026-01-31.db")
def backup(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Where to; a file that is there is not touched.")],
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Copy the store to a file while others go on using it. The copy is whole and of one moment."""
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


def register(root: typer.Typer) -> None:
    """Add the command that stands alone."""
    root.command(epilog="Example: quota events --after 120 --follow")(events)


def events(
    after: Annotated[int, typer.Option("--after", metavar="N", help="Those beyond this cursor.")] = 0,
    limit: Annotated[int, typer.Option("--limit", metavar="N", help="At most so many.")] = 1000,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as they come, until stopped.")] = False,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Tell what changed, by whom, and what crossed a limit. It is the store's outbox.

    The last cursor is where to go on. With --follow and --json each event is a line.
    """
    with opened(store) as ledger:
        if not follow:
            found = ledger.events(after=after, limit=limit)
            if as_json:
                print_json({"events": [event.to_dict() for event in found]})
            else:
                print_table(_EVENT, [_row(event) for event in found], right=("cursor",), whole=("at", "kind"))
            return
        for event in _following(ledger, after, limit):
            print(json.dumps(event.to_dict()) if as_json else "  ".join(_row(event)), flush=True)


_EVENT = ("cursor", "at", "kind", "by", "about", "what")
_POLL = 0.5
"""Seconds between looks for what came since."""


def _following(ledger: Ledger, after: int, limit: int) -> Iterator[Event]:
    while True:
        found = ledger.events(after=after, limit=limit)
        yield from found
        after = found[-1].cursor if found else after
        if not found:
            pause(_POLL)


def _row(event: Event) -> list[str]:
    about = [event.key or (event.account and f"account {event.account}"), event.plan and f"plan {event.plan}"]
    if event.kind == "limit.crossed" and event.after:
        what = f"{event.percent} % of {event.limit}: {event.after['used']:,} of {event.after['limit']:,}"
    elif event.before is None or event.after is None:
        what = event.limit or ""
    else:
        what = ", ".join(f"{name}: {event.before.get(name)} -> {value}" for name, value in event.after.items())
        what = f"{event.limit}: {what}" if event.limit else what
    at = event.at.isoformat(timespec="seconds").replace("+00:00", "Z")
    return [str(event.cursor), at, event.kind, event.actor or "", ", ".join(filter(None, about)), what]

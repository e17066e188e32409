"""quota account: add, list, show, tree, update, remove, erase, attach, detach, forget."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Annotated, Any, NamedTuple

import typer
from rich.text import Text

from ...account import Account
from ...clock import system_clock, to_datetime
from ...errors import UnknownAccount, UnknownKey
from ...key import ApiKey
from ...ledger.administration import UNCHANGED
from ...ledger.sync import Ledger
from ...plan import UsagePlan
from ...status import LimitStatus
from ..common import (
    AtOption,
    JsonOption,
    PlanArgument,
    StoreOption,
    WrongUse,
    YesOption,
    complete_account,
    confirm,
    opened,
    to_date,
    to_pairs,
)
from ..show import (
    Cell,
    after,
    bar,
    can_show,
    fits,
    going,
    key_data,
    on_plans,
    print_json,
    print_table,
    say,
    show_limits,
)
from .issuing import MetadataOption, PlansOption, check_plans

app = typer.Typer(help="Accounts: keys and teams that are counted together.", no_args_is_help=True)

AccountArgument = Annotated[
    str, typer.Argument(metavar="ACCOUNT", help="The account's id.", autocompletion=complete_account)
]
ParentOption = Annotated[
    str | None,
    typer.Option("--parent", metavar="ACCOUNT", help="The account above it.", autocompletion=complete_account),
]
CalledOption = Annotated[
    str | None, typer.Option("--name", metavar="NAME", help="What people call it; by default the id.")
]


@app.command(epilog="Example: quota account add search --parent acme --plan team --name 'Search team'")
def add(
    account: Annotated[str, typer.Argument(metavar="ACCOUNT", help="An id of yours; 'key issue --account' names it.")],
    parent: ParentOption = None,
    plan: PlansOption = None,
    name: CalledOption = None,
    meta: MetadataOption = None,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Add an account, for keys or below another one. Adding an equal one again changes nothing."""
    metadata = to_pairs("meta", meta or [], "NAME=VALUE")
    with opened(store, create=parent is None and not plan) as ledger:
        plans = check_plans(ledger, plan)
        added = ledger.add_account(account, parent=parent, name=name, metadata=metadata)
        for id_ in plans:
            ledger.associate(added, id_)
        _show(ledger, added, "added", as_json=as_json)


@app.command("list", epilog="Example: quota account list --parent acme")
def list_(
    parent: Annotated[
        str | None,
        typer.Option("--parent", metavar="ACCOUNT", help="Only right below this.", autocompletion=complete_account),
    ] = None,
    after_id: Annotated[str | None, typer.Option("--after", metavar="ID", help="Only those beyond this id.")] = None,
    limit: Annotated[int | None, typer.Option("--limit", metavar="COUNT", help="At most so many.")] = None,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the accounts in the order of their ids. A key's own, of which nothing was said, is left out."""
    with opened(store) as ledger:
        accounts = ledger.list_accounts(parent=parent, after=after_id, limit=limit)
        found = [(account, ledger.list_plans(account)) for account in accounts]
    if as_json:
        print_json({"accounts": [key_data(account, plans) for account, plans in found]})
        return
    rows = [
        (account.id, account.name, account.parent or "", ", ".join(plan.id for plan in plans))
        for account, plans in found
    ]
    print_table(("account", "name", "parent", "plans"), rows)


@app.command(epilog="Example: quota account show search")
def show(account: AccountArgument, store: StoreOption = None, as_json: JsonOption = False) -> None:
    """Show an account, its plans, and where its limits stand. What is above and below it is shown too."""
    with opened(store) as ledger:
        _show(ledger, ledger.get_account(account), "account", as_json=as_json)


@app.command(epilog="Example: quota account tree acme --keys")
def tree(
    account: Annotated[
        str | None, typer.Argument(metavar="ACCOUNT", help="Only it and below.", autocompletion=complete_account)
    ] = None,
    keys: Annotated[bool, typer.Option("--keys", help="With the keys of each.")] = False,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show the accounts as a tree, with where limits stand."""
    with opened(store) as ledger:
        top = None if account is None else ledger.get_account(account)
        below: dict[str | None, list[Account]] = {}
        for found in ledger.list_accounts():
            below.setdefault(found.parent, []).append(found)
        tops = below.pop(None, []) if top is None else [top]
        branches = [_branch(ledger, one, below, keys=keys) for one in tops]
    if as_json:
        print_json({"accounts": [_branch_data(branch, keys=keys) for branch in branches]})
    elif branches:
        _show_tree(branches)
    else:
        say("there are no accounts; 'quota account add' makes one")


@app.command(epilog="Example: quota account update search --parent other")
def update(
    account: AccountArgument,
    parent: ParentOption = None,
    name: CalledOption = None,
    meta: MetadataOption = None,
    no_parent: Annotated[bool, typer.Option("--no-parent", help="Let no account be above it.")] = False,
    no_meta: Annotated[bool, typer.Option("--no-meta", help="Remember nothing with it any more.")] = False,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Change what is given of an account. Calls count on a new parent from the next one on, everywhere."""
    for option, value, none in (("--parent or --no-parent", parent, no_parent), ("--meta or --no-meta", meta, no_meta)):
        if value and none:
            raise WrongUse(f"either {option}, not both")
    metadata = {} if no_meta else to_pairs("meta", meta, "NAME=VALUE") if meta else UNCHANGED
    with opened(store) as ledger:
        found = ledger.update_account(
            ledger.get_account(account), parent=None if no_parent else UNCHANGED if parent is None else parent,
            name=UNCHANGED if name is None else name, metadata=metadata,
        )  # fmt: skip
        _show(ledger, found, "updated", as_json=as_json)


@app.command(epilog="Example: quota account remove search --yes")
def remove(
    account: AccountArgument, yes: YesOption = False, store: StoreOption = None, as_json: JsonOption = False
) -> None:
    """Remove an account and its counts. One that has keys, or accounts below it, is refused."""
    with opened(store) as ledger:
        found = ledger.get_account(account)
        confirm(f"remove the account {found.id} ({found.name}) and its counts?", yes=yes)
        ledger.remove_account(found)
    if as_json:
        print_json({"removed": found.id})
    else:
        say(f"removed account {found.id} ({found.name})")


@app.command(epilog="Example: quota account attach search team")
def attach(
    account: AccountArgument,
    plan: PlanArgument,
    at: AtOption = None,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Put an account on a plan. It limits all calls of its keys and below, beside their own plans.

    With --at it goes there by itself at that instant, everywhere at once; the last one said stands.
    """
    when = to_date(at)
    with opened(store) as ledger:
        found = ledger.get_account(account)
        ledger.associate(found, plan, at=when)
        _show(ledger, ledger.get_account(account), "attached", as_json=as_json)


@app.command(epilog="Example: quota account detach search team")
def detach(
    account: AccountArgument, plan: PlanArgument, store: StoreOption = None, as_json: JsonOption = False
) -> None:
    """Take an account off a plan, or off its way to it. What was used stays used."""
    with opened(store) as ledger:
        found = ledger.get_account(account)
        ledger.dissociate(found, plan)
        _show(ledger, ledger.get_account(account), "detached", as_json=as_json)


@app.command(epilog="Example: quota account forget search --yes")
def forget(
    account: AccountArgument, yes: YesOption = False, store: StoreOption = None, as_json: JsonOption = False
) -> None:
    """Drop an account's counts, not those of its keys. It is the repair after a wild clock."""
    with opened(store) as ledger:
        found = ledger.get_account(account)
        confirm(f"forget all that {found.id} ({found.name}) used?", yes=yes)
        ledger.forget(found)
        _show(ledger, found, "forgot the counts of", as_json=as_json)


def _show(ledger: Ledger, account: Account, done: str, *, as_json: bool) -> None:
    """An account, and what was done to it."""
    plans = ledger.list_plans(account)
    limits = ledger.status(account)
    if as_json:
        more = {"limits": [status.to_dict() for status in limits]} if done == "account" else {}
        print_json({**key_data(account, plans), **more})
        return
    say(f"{done} {account.id} ({account.name})")
    line = [account]
    while line[-1].parent is not None:
        line.append(ledger.get_account(line[-1].parent))
    rows = [("plans", on_plans(plans) or "none"), *going(account)]
    if line[1:]:
        rows.insert(0, ("below", ", below ".join(above.id for above in line[1:])))
    if done == "account":
        rows.append(("keys", str(len(ledger.list_keys(account=account.id)))))
        rows.append(("accounts right below", str(len(ledger.list_accounts(parent=account)))))
    rows += [(f"meta {name}", value) for name, value in account.metadata.items()]
    for what, value in rows:
        say(f"  {what}: {value}")
    if done == "account":
        show_limits(limits, to_datetime(system_clock()))


class _Branch(NamedTuple):
    """An account or a key, where its own limits stand, and what is below it."""

    who: Account | ApiKey
    plans: list[UsagePlan]
    limits: list[LimitStatus]
    keys: Sequence[_Branch] = ()
    below: Sequence[_Branch] = ()


def _branch(ledger: Ledger, account: Account, below: dict[str | None, list[Account]], *, keys: bool) -> _Branch:
    members = ledger.list_keys(account=account.id) if keys else []
    branches = [_branch(ledger, child, below, keys=keys) for child in below.pop(account.id, [])]
    return _Branch(*_own(ledger, account), [_Branch(*_own(ledger, key)) for key in members], branches)


def _own(ledger: Ledger, who: Account | ApiKey) -> tuple[Account | ApiKey, list[UsagePlan], list[LimitStatus]]:
    """Return who it is, its plans, and the limits that are counted on it; none of one that was removed meanwhile."""
    with suppress(UnknownAccount, UnknownKey):
        return who, ledger.list_plans(who), [status for status in ledger.status(who) if status.holder == who.id]
    return who, [], []


def _branch_data(branch: _Branch, *, keys: bool) -> dict[str, Any]:
    data = {**key_data(branch.who, branch.plans), "limits": [status.to_dict() for status in branch.limits]}
    if keys:
        data["keys"] = [
            {"id": one.who.id, "name": one.who.name, "limits": [status.to_dict() for status in one.limits]}
            for one in branch.keys
        ]
    return {**data, "below": [_branch_data(one, keys=keys) for one in branch.below]}


def _show_tree(branches: list[_Branch]) -> None:
    """A row for each limit; in fewer columns where a terminal is narrow. Figures are never folded."""
    now = to_datetime(system_clock())
    full = ("account", "plans", "limit", "used", "of", "", "resets")
    for width, columns in ((20, full), (10, full), (10, full[:-1]), (0, full[:-2]), (0, ("account", *full[2:-2]))):
        rows = [row for branch in branches for row in _rows(branch, now, width, "", "")]
        shown = [[row[full.index(column)] for column in columns] for row in rows]
        if fits((columns, *shown)):
            break
    print_table(columns, shown, right=("used", "of"), whole=("", "resets"))


def _rows(branch: _Branch, now: datetime, width: int, first: str, further: str) -> Iterator[list[Cell]]:
    """Yield the rows of an account or a key and of all below; ``first``, ``further``: what stands before names."""
    who, children = branch.who, [*branch.keys, *branch.below]
    tee, last, pipe = ("├─ ", "└─ ", "│  ") if can_show("├─└│") else ("|- ", "`- ", "|  ")
    named = f"{who.id} ({who.name})" if who.name != who.id else who.id
    label = Text(first + ("key " if isinstance(who, ApiKey) else "") + named)
    plans = ", ".join(plan.id for plan in branch.plans)
    for status in branch.limits or (None,):
        yield [label, plans, *(_standing(status, who.id, now, width) if status else [""] * 5)]
        label, plans = Text(further + (pipe if children else "")), ""
    for child in children:
        ends = child is children[-1]
        yield from _rows(child, now, width, further + (last if ends else tee), further + ("   " if ends else pipe))


def _standing(status: LimitStatus, holder: str, now: datetime, width: int) -> list[Cell]:
    whole = max(0, status.limit + status.extra)
    return [
        status.name.removeprefix(f"{holder}: "), f"{status.used:,}", f"{whole:,}", bar(status.used, whole, width),
        after(status.resets_at, now, briefly=True) if status.used and status.resets_at else "",
    ]  # fmt: skip

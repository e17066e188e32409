"""quota reservation list, show, commit, cancel, extend."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Annotated, Any

import typer

from ...clock import system_clock, to_datetime
from ...ledger.reservations.handle import Reservation
from ..common import HolderArgument, JsonOption, StoreOption, find_holder, opened, to_cost
from ..show import after, print_json, say

app = typer.Typer(no_args_is_help=True, help="Calls in flight: list, show, commit, cancel, extend.")

ReservationArgument = Annotated[str, typer.Argument(metavar="ID", help="As 'quota reservation list' tells it.")]


def _data(held: Reservation) -> dict[str, Any]:
    return {
        "id": held.id, "key": held.key, "api": held.api, "route": held.route, "held": dict(held.held),
        "spent": dict(held.spent), "at": held.decision.at.isoformat(), "expires_at": held.expires_at.isoformat(),
    }  # fmt: skip


def _units(units: dict[str, int]) -> str:
    return ", ".join(f"{number} {unit}" for unit, number in units.items()) or "nothing"


def _say(held: Reservation) -> None:
    where = f" on {held.route}" if held.route else ""
    ends = after(held.expires_at, to_datetime(system_clock()))
    units = f"holds {_units({**held.held})}, spent {_units({**held.spent})}"
    say(f"{held.id}: key {held.key}{where}, {units}, lapses {ends}")


@app.command("list", epilog='Example: quota reservation list "Ada\'s laptop"')
def list_(
    who: HolderArgument,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the calls in flight of a key or an account. The first to lapse comes first."""
    with opened(store) as ledger:
        found = ledger.list_reservations(find_holder(ledger, who))
    if as_json:
        print_json({"reservations": [_data(held) for held in found]})
        return
    for held in found:
        _say(held)
    if not found:
        say("nothing is in flight")


def _settled(id_: str, store: str | None, settle: Callable[[Reservation], Any], *, as_json: bool, done: str) -> None:
    with opened(store) as ledger:
        held = ledger.reservation(id_)
        settle(held)
        told = _data(held)
    if as_json:
        print_json(told)
    elif done:
        say(f"{held.id} is {done}")
    else:
        _say(held)


@app.command(epilog="Example: quota reservation show 4be1c3.Key123 --json")
def show(id_: ReservationArgument, store: StoreOption = None, as_json: JsonOption = False) -> None:
    """Show one: whose it is, what it holds, when it lapses."""
    _settled(id_, store, lambda _: None, as_json=as_json, done="")


@app.command(epilog="Example: quota reservation commit 4be1c3.Key123 --actual '812 tokens'")
def commit(
    id_: ReservationArgument,
    actual: Annotated[
        str | None,
        typer.Option("--actual", metavar="COST", help="All that was used, what was spent included; else all of it."),
    ] = None,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Turn it into what was used, and give the rest and its slot back."""
    cost = None if actual is None else to_cost(actual)
    _settled(id_, store, lambda held: held.commit(cost), as_json=as_json, done="committed")


@app.command(epilog="Example: quota reservation cancel 4be1c3.Key123")
def cancel(id_: ReservationArgument, store: StoreOption = None, as_json: JsonOption = False) -> None:
    """Give back what was not spent, and its slot. This frees one that is stuck."""
    _settled(id_, store, lambda held: held.cancel(), as_json=as_json, done="cancelled")


@app.command(epilog="Example: quota reservation extend 4be1c3.Key123 600")
def extend(
    id_: ReservationArgument,
    seconds: Annotated[int, typer.Argument(metavar="SECONDS", help="Hold it so long from now on.")],
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Hold it longer, unless it has lapsed."""
    _settled(id_, store, lambda held: held.extend(timedelta(seconds=seconds)), as_json=as_json, done="")

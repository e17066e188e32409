"""quota grant, set-remaining, override: a limit changed for one key or account."""

from __future__ import annotations

from collections import Counter
from typing import Annotated

import typer

from ...account import Account
from ...clock import system_clock, to_datetime
from ...errors import InvalidValue
from ...key import ApiKey
from ...ledger.sync import Ledger
from ...limit import Concurrency, Quota
from ...limit_text import parse_limit
from ...status import LimitOverride, LimitStatus
from ..common import (
    ApiOption,
    HolderArgument,
    JsonOption,
    RouteOption,
    StoreOption,
    WrongUse,
    find_holder,
    opened,
    to_instant,
    with_those_above,
)
from ..show import own_until, own_value, print_json, print_table, say, show_limits, show_own

LimitArgument = Annotated[str, typer.Argument(metavar="LIMIT", help="The quota's name, such as requests/day.")]


def grant(
    key: HolderArgument,
    limit: LimitArgument,
    units: Annotated[int, typer.Argument(metavar="UNITS", help="How many more.")],
    api: ApiOption = "",
    route: RouteOption = None,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Admit more units of a quota, in this window only."""
    with opened(store) as ledger:
        status = ledger.grant(find_holder(ledger, key), limit, units, api=api, route=route)
    _show_status(status, as_json=as_json)


def set_remaining(
    key: HolderArgument,
    limit: LimitArgument,
    remaining: Annotated[int, typer.Argument(metavar="REMAINING", help="How many are left then.")],
    api: ApiOption = "",
    route: RouteOption = None,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Set how many units of a quota remain in its window. API Gateway calls it UpdateUsage."""
    with opened(store) as ledger:
        status = ledger.set_remaining(find_holder(ledger, key), limit, remaining, api=api, route=route)
    _show_status(status, as_json=as_json)


def override(
    who: HolderArgument,
    limit: Annotated[
        str | None,
        typer.Argument(metavar="LIMIT", help="Its name, such as requests/day; by default all are listed."),
    ] = None,
    value: Annotated[
        str | None,
        typer.Argument(metavar="VALUE", help="Units of a quota, calls at once, or a throttle as '5/s burst 10'."),
    ] = None,
    until: Annotated[
        str | None, typer.Option("--until", metavar="WHEN", help="2026-12-31, or 30d from now; else for good.")
    ] = None,
    clear: Annotated[bool, typer.Option("--clear", help="Take it back: the plan's own limit holds again.")] = False,
    api: ApiOption = "",
    route: RouteOption = None,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Give one key or account a limit of its own.

    It stands in place of its plan's, and what was used stays used. Without a LIMIT those are listed.
    """
    if limit is None:
        if clear or until is not None:
            raise WrongUse("a LIMIT is missing: --clear and --until are of one")
        _list_overrides(who, store, as_json=as_json)
        return
    if clear == (value is not None) or (clear and until is not None):
        raise WrongUse("either a VALUE, with --until or without, or --clear")
    found = None if value is None else int(value) if value.isascii() and value.isdigit() else parse_limit(value)
    if isinstance(found, (Quota, Concurrency)):
        raise InvalidValue("VALUE", value, "a number of units or calls, or a throttle such as '5/s burst 10'")
    end = None if until is None else to_instant("until", until)
    with opened(store) as ledger:
        holder = find_holder(ledger, who)
        try:
            status = ledger.override_limit(holder, limit, found, until=end, api=api, route=route)
        except InvalidValue as error:
            if error.field != "value":
                raise
            accepted = error.accepted.replace("a Throttle", "a throttle such as '5/s burst 10'")
            raise InvalidValue("VALUE", value, accepted) from None
    _show_status(status, as_json=as_json)


def _list_overrides(who: str, store: str | None, *, as_json: bool) -> None:
    """All that a key or an account, or one above it, has in place of its plans' limits, those of routes too."""
    with opened(store) as ledger:
        holder = find_holder(ledger, who)
        plans = [plan for one in with_those_above(ledger, holder) for plan in ledger.list_plans(one)]
        found: list[tuple[str | None, LimitStatus]] = [(None, status) for status in _own(ledger, holder, None)]
        everywhere = Counter(_place(status) for _, status in found)
        for route in dict.fromkeys(route for plan in plans for route in plan.routes):
            known = everywhere.copy()
            for status in _own(ledger, holder, route):
                known[_place(status)] -= 1
                found += [(route, status)] if known[_place(status)] < 0 else []
    if as_json:
        print_json({"overrides": [{"route": route, "limit": status.to_dict()} for route, status in found]})
    elif found:
        rows = [
            (status.name, route or "", status.holder, own_value(status), own_until(status)) for route, status in found
        ]
        print_table(("limit", "route", "counted on", "value", "holds"), rows, whole=("value", "holds"))
    else:
        say(f"{holder.id} has no limits of its own on the plans that it is on")


def _own(ledger: Ledger, who: ApiKey | Account, route: str | None) -> list[LimitStatus]:
    return [status for status in ledger.status(who, route=route) if status.override is not None]


def _place(status: LimitStatus) -> tuple[str, str, LimitOverride | None]:
    return status.holder, status.name, status.override


def _show_status(status: LimitStatus, *, as_json: bool) -> None:
    if as_json:
        print_json(status.to_dict())
    else:
        show_limits([status], to_datetime(system_clock()))
        show_own([status])


def register(app: typer.Typer) -> None:
    """Add the commands to the root."""
    app.command(epilog='Example: quota grant "Ada\'s laptop" requests/day 500')(grant)
    app.command("set-remaining", epilog='Example: quota set-remaining "Ada\'s laptop" requests/day 100')(set_remaining)
    app.command(epilog="Example: quota override ada requests/day 5000 --until 2026-12-31")(override)

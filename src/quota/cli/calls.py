"""quota consume, check, usage."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import date, timedelta
from typing import Annotated, Any

import typer

from ..account import Account
from ..clock import system_clock, to_datetime
from ..decision import Decision
from ..errors import InvalidValue, UnknownKey
from ..key import ApiKey
from ..ledger.sync import Ledger
from ..limit import Quota
from ..operations.shape import DEFAULT
from ..operations.usage import UsageRecord
from ..plan import UsagePlan
from .charts import daily
from .common import (
    REFUSED,
    ApiOption,
    HolderArgument,
    JsonOption,
    PlotOption,
    RouteOption,
    StoreOption,
    WrongUse,
    complete_key,
    find_holder,
    find_key,
    opened,
    read_secret,
    to_cost,
    with_those_above,
)
from .show import (
    WARN,
    key_data,
    on_plans,
    print_json,
    say,
    show_adjustments,
    show_decision,
    show_goings,
    show_limits,
    show_own,
    show_refusal,
    state_of,
)  # fmt: skip

CallerArgument = Annotated[
    str,
    typer.Argument(
        metavar="KEY",
        help="The key's id or name; or -, and its secret on standard input.",
        autocompletion=complete_key,
    ),
]
CostOption = Annotated[
    str | None,
    typer.Option(
        "--cost", metavar="COST", help="As 3, or '1 requests, 812 tokens'; by default what the plan says, else 1."
    ),
]
RequestOption = Annotated[
    str | None, typer.Option("--request-id", metavar="ID", help="A retry with the same id is charged once.")
]
AddressOption = Annotated[
    str | None, typer.Option("--address", metavar="IP", help="Where it comes from, for keys with networks.")
]
ScopeOption = Annotated[
    str | None, typer.Option("--scope", metavar="SCOPE", help="What it is for: a scope that the key must have.")
]
SinceOption = Annotated[
    str | None, typer.Option("--since", metavar="DAY", help="From this UTC day on; by default 14 days.")
]
UntilOption = Annotated[str | None, typer.Option("--until", metavar="DAY", help="Up to this UTC day, it included.")]
_DAYS = 14


def _call(*, would: bool) -> Callable[..., None]:
    """The command that makes one call, or that says what it would get."""

    def ask(
        key: CallerArgument,
        cost: CostOption = None,
        api: ApiOption = "",
        route: RouteOption = None,
        request_id: RequestOption = None,
        address: AddressOption = None,
        scope: ScopeOption = None,
        store: StoreOption = None,
        as_json: JsonOption = False,
    ) -> None:
        where: Any = {"api": api, "route": route, "request_id": request_id, "address": address, "scope": scope}
        with opened(store) as ledger:
            decide = ledger.peek if would else ledger.consume
            decision = decide(_caller(ledger, key), DEFAULT if cost is None else to_cost(cost), **where)
            _answer(decision, as_json=as_json, would=would)

    return ask


def _caller(ledger: Ledger, text: str) -> ApiKey | str:
    return read_secret("-") if text == "-" else find_key(ledger, text)


def _answer(decision: Decision, *, as_json: bool, would: bool = False) -> None:
    with suppress(BrokenPipeError):  # whoever stopped reading may still ask for the exit status
        if as_json:
            print_json(decision.to_dict())
        else:
            show_decision(decision, would=would)
    if not decision:
        raise typer.Exit(REFUSED)


def usage(
    key: HolderArgument,
    api: ApiOption = "",
    route: RouteOption = None,
    since: SinceOption = None,
    until: UntilOption = None,
    plot: PlotOption = None,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show where a key's limits stand, and what was used by day. Tells why a call would be refused now."""
    _check_days(since, until)
    if plot is not None:
        from .plot import check_plot  # noqa: PLC0415 -- matplotlib is slow, and an extra

        check_plot(plot)
    with opened(store) as ledger:
        try:
            found = find_holder(ledger, key)
        except UnknownKey:
            if _show_removed(ledger, key, api, since, until, as_json=as_json):
                return
            raise
        now = to_datetime(system_clock())
        first = since if since is not None else None if until is not None else now.date() - timedelta(days=_DAYS - 1)
        records = ledger.usage(found, api=api, since=first, until=until)
        decision = ledger.peek(found, api=api, route=route) if isinstance(found, ApiKey) else None
        limits = ledger.status(found, api=api, route=route)
        plans, line = ledger.list_plans(found), with_those_above(ledger, found)
    if plot is not None:
        from .plot import plot_usage  # noqa: PLC0415 -- as above

        own = f"{found.id}: " if isinstance(found, Account) else ""
        plot_usage(plot, found, _quotas(plans, api, own), records)
    if as_json:
        kind = "key" if isinstance(found, ApiKey) else "account"
        why = {} if decision is None else {"reason": decision.reason.value}
        print_json({
            kind: key_data(found, plans), "api": api, **why,
            "limits": [status.to_dict() for status in limits],
            "days": [record.to_dict() for record in records],
        })  # fmt: skip
        return
    state = f", {state_of(found, now)}" if isinstance(found, ApiKey) else ""
    say(f"{found.id} ({found.name}) on {on_plans(plans) or 'no plan'}{state}")
    if decision is not None and isinstance(found, ApiKey) and not decision:
        show_refusal(decision, found, plans)
    show_goings(line)
    show_limits(limits, now, () if decision is None else decision.violated)
    show_own(limits)
    show_adjustments(limits)
    _show_days(records)
    if plot is not None:
        say(f"drawn: {plot}")


def _show_removed(ledger: Ledger, key: str, api: str, since: str | None, until: str | None, *, as_json: bool) -> bool:
    """Show the usage of a key that was removed; False where nothing of it is kept."""
    try:
        records = ledger.usage(key, api=api, since=since, until=until)
    except (UnknownKey, InvalidValue):
        return False
    if as_json:
        days = [record.to_dict() for record in records]
        print_json({"removed": key, "api": api, "limits": [], "days": days})
        return True
    say(f"{key} was removed; its usage is told until the store's retention ends", style=WARN)
    _show_days(records)
    return True


def _check_days(since: str | None, until: str | None) -> None:
    """Days that are none are the ledger's to refuse."""
    with suppress(ValueError):
        if since is not None and until is not None and date.fromisoformat(since) > date.fromisoformat(until):
            raise WrongUse(f"--since {since} is after --until {until}: no day is meant")


def _quotas(plans: Sequence[UsagePlan], api: str, own: str) -> dict[str, Quota]:
    plan = next((plan for plan in plans if api in plan.apis), None)
    return {own + limit.name: limit for limit in plan.limits if isinstance(limit, Quota)} if plan else {}


def _show_days(records: list[UsageRecord]) -> None:
    if not records:
        say("nothing was used on these days")
    for name in dict.fromkeys(record.limit for record in records):
        say()
        say(f"{name}, used by day (UTC)")
        for line in daily([(record.day, record.used) for record in records if record.limit == name]):
            say(line)


def register(app: typer.Typer) -> None:
    """Add the commands to the root."""
    consumes = (
        "Make one call. Every limit is checked and, if all have room, taken from. Exit status 1 when it is refused."
    )
    app.command(
        "consume", help=consumes, epilog="Example: quota consume \"Ada's laptop\" --cost 3 --route 'GET /export'"
    )(_call(would=False))
    checks = "Say what a call would get, and why, changing nothing. Exit status 1 when it would be refused."
    app.command("check", help=checks, epilog='Example: quota check "Ada\'s laptop" --json')(_call(would=True))
    app.command(epilog='Example: quota usage "Ada\'s laptop" --since 2026-01-01 --plot usage.svg')(usage)

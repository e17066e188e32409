"""quota plan: add, list, show, replace, remove, export, sync."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from ...errors import InvalidPlan, InvalidValue, PlanConflict
from ...ledger.sync import Ledger
from ...plan import UsagePlan
from ..common import (
    JsonOption,
    PlanArgument,
    StoreOption,
    WrongUse,
    YesOption,
    complete_plan,
    confirm,
    opened,
    read_text,
    several,
    to_cost,
    to_pairs,
)
from ..show import print_json, print_table, say
from . import file
from .holders import Going, accounts_on, going_to, some

app = typer.Typer(help="Usage plans: what their keys may use.", no_args_is_help=True)
file.register(app)

_FIELDS = {"id", "limits", "name", "api", "apis", "routes", "costs", "alerts", "metadata"}

IdArgument = Annotated[str | None, typer.Argument(metavar="PLAN", help="The plan's id.", autocompletion=complete_plan)]
LimitsArgument = Annotated[
    str | None, typer.Argument(metavar="LIMITS", help="Such as '1000/day, 10/s burst 20'; '' for none.")
]
NameOption = Annotated[str | None, typer.Option("--name", metavar="NAME", help="A name for people; by default the id.")]
GovernsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--api",
        metavar="API",
        help="Which API it governs: a key has one plan for each. Repeat: it counts them together.",
    ),
]
RoutesOption = Annotated[
    list[str] | None,
    typer.Option("--route", metavar="ROUTE=LIMITS", help="A route's own limits, as 'GET /search=5/s burst 5'; repeat."),
]
CostsOption = Annotated[
    list[str] | None,
    typer.Option("--cost", metavar="ROUTE=COST", help="What a call of a route costs, as 'GET /export=20'; repeat."),
]
AlertsOption = Annotated[
    list[int] | None, typer.Option("--alert", metavar="PERCENT", help="Tell when so much is used (80 and 100); repeat.")
]
FromOption = Annotated[
    str | None,
    typer.Option("--from", metavar="FILE", help="What 'plan show' or 'plan list' printed with --json; - is stdin."),
]


@app.command(epilog="Example: quota plan add gold '10000/day, 50/s burst 100' --route 'GET /export=3/day as exports'")
def add(
    plan: IdArgument = None,
    limits: LimitsArgument = None,
    name: NameOption = None,
    api: GovernsOption = None,
    route: RoutesOption = None,
    cost: CostsOption = None,
    alert: AlertsOption = None,
    source: FromOption = None,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Add a usage plan. Adding an equal one again changes nothing; a different one of its id is refused."""
    plans = _plans(plan, limits, name, api, route, cost, alert, source)
    with opened(store, create=True) as ledger:
        known = {found.id: found for found in ledger.list_plans()}
        for new in plans:
            if known.get(new.id, new) != new:
                raise PlanConflict(new.id, "a different plan has this id; 'quota plan replace' replaces it")
        for new in plans:
            ledger.add_plan(new)
    _say(plans, as_json=as_json, lone=source is None)


@app.command(epilog="Example: quota plan replace gold '20000/day, 50/s burst 100'")
def replace(
    plan: IdArgument = None,
    limits: LimitsArgument = None,
    name: NameOption = None,
    api: GovernsOption = None,
    route: RoutesOption = None,
    cost: CostsOption = None,
    alert: AlertsOption = None,
    source: FromOption = None,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Add or replace a usage plan. It binds on the next call everywhere, and what was used stays used."""
    plans = _plans(plan, limits, name, api, route, cost, alert, source)
    with opened(store, create=True) as ledger:
        for new in plans:
            ledger.replace_plan(new)
    _say(plans, as_json=as_json, lone=source is None)


@app.command("list", epilog="Example: quota plan list --json")
def list_(store: StoreOption = None, as_json: JsonOption = False) -> None:
    """List all usage plans."""
    with opened(store) as ledger:
        plans = ledger.list_plans()
    if as_json:
        print_json({"plans": [plan.to_dict() for plan in plans]})
        return
    rows = [
        (plan.id, str(plan) or "no limits", ", ".join(plan.apis), plan.name if plan.name != plan.id else "")
        for plan in plans
    ]
    print_table(("plan", "limits", "api", "name"), rows)


@app.command(epilog="Example: quota plan show gold")
def show(plan: PlanArgument, store: StoreOption = None, as_json: JsonOption = False) -> None:
    """Show a usage plan: its limits, routes, costs, keys and accounts."""
    with opened(store) as ledger:
        found = ledger.get_plan(plan)
        keys, accounts, going = ([], [], []) if as_json else _holders(ledger, found.id)
    if as_json:
        print_json(found.to_dict())
        return
    say(f"plan {found.id}" + (f" ({found.name})" if found.name != found.id else ""))
    rows = [("api", ", ".join(found.apis))] if found.apis != ("",) else []
    rows += [("limit", str(limit)) for limit in found.limits]
    rows += [(f"on {route}", ", ".join(map(str, own))) for route, own in found.routes.items()]
    rows += [(f"cost of {route}", _cost(cost)) for route, cost in found.costs.items()]
    rows += [("alerts at", ", ".join(f"{percent} %" for percent in found.alerts) or "none"), ("keys", str(len(keys)))]
    rows += [("accounts", str(len(accounts)))] if accounts else []
    rows += [("going to it", some(going))] if going else []
    for what, value in rows:
        say(f"  {what}: {value}")


@app.command(epilog="Example: quota plan remove gold --yes")
def remove(plan: PlanArgument, yes: YesOption = False, store: StoreOption = None, as_json: JsonOption = False) -> None:
    """Remove a usage plan. Its keys are then on no plan and refused, its accounts are limited by it no more.

    What they used is not forgotten.
    """
    with opened(store) as ledger:
        found = ledger.get_plan(plan)
        keys, accounts, going = _holders(ledger, found.id)
        who = [f"{several(len(keys), 'key')} on {found.id} will be refused"] if keys else []
        who += [f"{several(len(accounts), 'account')} on it will be limited by it no more"] if accounts else []
        who += [f"{some(going)} will not go to it"] if going else []
        if who:
            confirm(f"{'; '.join(who)}: remove it?", yes=yes)
        ledger.remove_plan(found)
    if as_json:
        print_json({
            "removed": found.id, "keys": keys, "accounts": accounts, "going": [one.to_dict() for one in going],
        })  # fmt: skip
    else:
        were = [several(len(ids), what) for ids, what in ((keys, "key"), (accounts, "account")) if ids]
        told = [f"on it: {' and '.join(were)}"] if were else []
        told += [f"dropped with it: {some(going)}"] if going else []
        say("; ".join([f"removed plan {found.id}", *told]))


def _holders(ledger: Ledger, plan_id: str) -> tuple[list[str], list[str], list[Going]]:
    """Return the keys and the accounts on a plan, and who goes to it."""
    accounts = [account.id for account in accounts_on(ledger).get(plan_id, ())]
    return [key.id for key in ledger.list_keys(plan=plan_id)], accounts, going_to(ledger).get(plan_id, [])


def _cost(cost: Any) -> str:
    return str(cost) if isinstance(cost, int) else ", ".join(f"{units} {unit}" for unit, units in cost.items())


def _plans(
    id_: str | None,
    limits: str | None,
    name: str | None,
    api: list[str] | None,
    routes: list[str] | None,
    costs: list[str] | None,
    alerts: list[int] | None,
    source: str | None,
) -> list[UsagePlan]:
    given = [id_, limits, name, api, routes, costs, alerts]
    if source is not None:
        if any(value is not None for value in given):
            raise WrongUse("--from says the whole plan: no other argument goes with it")
        return _from(source)
    if id_ is None or limits is None:
        raise WrongUse("a plan has an id and limits, such as: quota plan add gold '1000/day' (or --from FILE)")
    own: Any = to_pairs("route", routes or [], "ROUTE=LIMITS")
    prices = {route: to_cost(text) for route, text in to_pairs("cost", costs or [], "ROUTE=COST").items()}
    more: dict[str, Any] = {"name": name, "apis": api or (), "routes": own, "costs": prices}
    more |= {} if alerts is None else {"alerts": alerts}
    parts: Any = limits if limits.strip() else ()
    return [UsagePlan(id_, parts, **more)]


def _from(source: str) -> list[UsagePlan]:
    where = "standard input" if source == "-" else source
    try:
        data = json.loads(read_text(source))
    except (ValueError, RecursionError) as error:
        raise InvalidValue(where, str(error), "what 'quota plan show --json' prints, complete") from None
    if isinstance(data, dict) and set(data) == {"plans"}:
        data = data["plans"]
    found = data if isinstance(data, list) else [data]
    plans = []
    for number, item in enumerate(found, 1):
        if not isinstance(item, dict) or not {"id", "limits"} <= set(item) <= _FIELDS:
            raise InvalidValue(f"{where}, plan {number}", item, f"an object with {', '.join(sorted(_FIELDS))}")
        try:
            plans.append(UsagePlan(**item))
        except InvalidPlan as error:
            raise InvalidPlan(f"{where}, plan {item['id']}: {error.field}", error.value, error.accepted) from None
    return plans


def _say(plans: list[UsagePlan], *, as_json: bool, lone: bool) -> None:
    if as_json:
        print_json(plans[0].to_dict() if lone else {"plans": [plan.to_dict() for plan in plans]})
        return
    for plan in plans:
        say(f"plan {plan.id}: {plan or 'no limits'}")

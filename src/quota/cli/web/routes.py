"""quota routes: the names that an application's framework gives its routes."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Annotated, Any

import typer

from ...web.routes import KnownRoutes, templates
from ..common import REFUSED, JsonOption, StoreOption, WrongUse, opened
from ..show import print_json, tell

AppArgument = Annotated[
    str, typer.Argument(metavar="MODULE:APP", help="Where the application is, as servers are told it: shop.main:app.")
]
WantedOption = Annotated[
    str | None, typer.Option("--plan", metavar="PLAN", help="Show what this plan names and the application has not.")
]


def routes(app: AppArgument, plan: WantedOption = None, store: StoreOption = None, as_json: JsonOption = False) -> None:
    """List an application's routes as a plan names them.

    Those of Starlette, FastAPI, Flask and Django, with what is mounted.

    With --plan: the routes that a plan has limits or costs for and the application does not have; status 1 if any.
    """
    found = templates(_loaded(app))
    if found is None:
        raise WrongUse(f"{app}: no framework that names its routes is known there; they are named by method and path")
    known = KnownRoutes(found)
    if plan is None:
        names = known.names()
        if as_json:
            print_json({"routes": names})
        else:
            print("\n".join(names))
        return
    with opened(store) as ledger:
        wanted = ledger.get_plan(plan)
    missing = known.missing(dict.fromkeys([*wanted.routes, *wanted.costs]))
    if as_json:
        print_json({"missing": [{"route": name, "near": near} for name, near in missing.items()]})
    else:
        for name, near in missing.items():
            print(f"{name} (near it: {', '.join(near)})" if near else name)
        if not missing:
            tell(f"the application has all routes of the plan {plan}")
    if missing:
        raise typer.Exit(REFUSED)


def _loaded(text: str) -> Any:
    """Return the application that a text names. A factory is called: ``shop:create_app()``."""
    module, _, name = text.partition(":")
    name, calls = name.removesuffix("()"), name.endswith("()")
    if not all(map(str.isidentifier, [*module.split("."), *name.split(".")])):
        raise WrongUse(f"{text}: expected MODULE:APP, as in shop.main:app, or MODULE:FACTORY()")
    sys.path.insert(0, "")
    try:
        found: Any = import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as error:
        raise WrongUse(f"{text}: {error}") from None
    finally:
        sys.path.remove("")
    return found() if calls else found


def register(app: typer.Typer) -> None:
    """Add the command to the root."""
    app.command("routes", epilog="Example: quota routes shop.main:app --plan free")(routes)

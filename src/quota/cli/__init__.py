"""The command line: ``quota``. Needs the extra ``cli`` (typer and rich)."""

from __future__ import annotations

import functools
import os
import sys
from typing import Annotated, Any

import typer
import typer.core

from .. import __version__
from ..errors import ClockSkew, QuotaError, StoreBusy, StoreUnavailable
from ..replay.output import UNWRITTEN, answer
from ..replay.report import plain
from . import calls, gateway, keys, plans, replaying, stores
from .common import OK, UNAVAILABLE, WRONG_USE, Unshown, root_actor, root_store
from .keys import accounts, billing, limits, reservations
from .web import routes, serve

_ClickException: type[Exception] = typer.BadParameter.__mro__[2]
"""Whatever Click it is: newer Typers bring a copy of their own."""

_INTERRUPTED = 130
_BUG = 70


class _InOrder(typer.core.TyperGroup):
    """Commands are listed as people come to need them."""

    def list_commands(self, ctx: Any) -> list[str]:
        return sorted(
            super().list_commands(ctx), key=lambda name: _ORDER.index(name) if name in _ORDER else len(_ORDER)
        )


_ORDER = [
    "plan", "key", "account", "consume", "check", "usage", "report", "top", "grant", "set-remaining", "events",
    "override", "replay", "demo",
]  # fmt: skip


def build(*, plain: bool = False) -> typer.Typer:
    """The application. ``plain``: help without boxes and colours."""
    app = typer.Typer(
        name="quota",
        cls=_InOrder,
        no_args_is_help=True,
        rich_markup_mode=None if plain else "rich",
        pretty_exceptions_enable=False,
    )

    @app.callback(
        epilog="Exit status: 0 done or allowed, 1 refused, 2 wrong use, 3 no store, 4 done but for what is told."
    )
    def root(
        store: Annotated[
            str | None,
            typer.Option("--store", metavar="URL", help="Where keys, plans and counts live, for any command."),
        ] = None,
        actor: Annotated[
            str | None,
            typer.Option("--actor", metavar="NAME", help="Who does it, for quota events: $QUOTA_ACTOR or your login."),
        ] = None,
        version: Annotated[  # noqa: ARG001 -- its callback answers
            bool, typer.Option("--version", is_eager=True, callback=_version, help="Print the version.")
        ] = False,
    ) -> None:
        """API keys, usage plans and an exact ledger: who may call how much, counted to the last unit."""
        root_store.set(store)
        root_actor.set(actor)

    groups = {"plan": plans, "key": keys, "account": accounts, "reservation": reservations, "store": stores}
    for name, group in groups.items():
        app.add_typer(group.app, name=name)
    for module in (calls, limits, billing, gateway, replaying, routes, serve, stores):
        module.register(app)
    return app


def _version(wanted: bool) -> None:
    if wanted:
        print(f"quota {__version__}")
        raise typer.Exit


def main(arguments: list[str] | None = None) -> int:
    """Run a command and return its exit status. Whatever goes wrong is one line on standard error."""
    return answer(lambda: _run(arguments))


@functools.cache
def _command(*, plain: bool) -> Any:
    """The application as Click has it: all that a command of a process in its own right costs, so it is made once."""
    return typer.main.get_command(build(plain=plain))


def _run(arguments: list[str] | None) -> int:
    command = _command(plain=not sys.stdout.isatty())
    token, actor = root_store.set(None), root_actor.set(None)
    try:
        status = int(command.main(args=arguments, prog_name="quota", standalone_mode=False) or OK)
    except typer.Exit as done:
        return int(done.exit_code)
    except SystemExit as done:
        if isinstance(done.__context__, BrokenPipeError):  # Click's answer to it is status 1, which is a refusal here
            raise done.__context__ from None
        raise
    except (Exception, KeyboardInterrupt) as error:
        if isinstance(error, OSError) and error.filename is None:
            raise  # standard output's
        status, message = _told(error)
        if status == _BUG and os.environ.get("QUOTA_DEBUG"):
            raise
        if message:
            print(f"quota: {plain(message, 2000)}", file=sys.stderr)
        return status
    else:
        if status == _INTERRUPTED:  # some Typers tell it so
            print("quota: stopped", file=sys.stderr)
        return status
    finally:
        root_store.reset(token)
        root_actor.reset(actor)


def _told(error: BaseException) -> tuple[int, str]:
    """The exit status, and what went wrong in one line."""
    if isinstance(error, (StoreBusy, StoreUnavailable, ClockSkew)):
        return UNAVAILABLE, str(error)
    if isinstance(error, QuotaError):
        return UNWRITTEN if isinstance(error, Unshown) else WRONG_USE, str(error)
    if isinstance(error, (typer.Abort, KeyboardInterrupt)):
        return _INTERRUPTED, "stopped"
    if type(error).__name__ == "NoArgsIsHelpError":
        print(error)
        return WRONG_USE, ""
    if isinstance(error, _ClickException):
        said: Any = error
        context = getattr(said, "ctx", None)
        message = " ".join(str(said.format_message()).split())
        path = context.command_path if context is not None else "quota"
        return WRONG_USE, f"{message} ('{path} --help' says more)"
    return _BUG, f"{type(error).__name__}: {error} (a bug: QUOTA_DEBUG=1 shows where)"

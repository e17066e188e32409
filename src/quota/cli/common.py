"""All that every command shares.

The store it works on, how its arguments are read, and what went wrong, in one line.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from datetime import datetime, timedelta, timezone
from getpass import getpass, getuser
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

import typer

from ..account import Account, line_of
from ..clock import system_clock, to_datetime
from ..errors import InvalidCost, InvalidValue, QuotaError, StoreUnavailable, UnknownAccount, UnknownKey
from ..key import ApiKey
from ..ledger.sync import Ledger
from ..limit import Cost, parse_cost
from ..stores.urls import shown_url

DEFAULT_STORE = "sqlite:///quota.db"
OK, REFUSED, WRONG_USE, UNAVAILABLE, PARTLY = 0, 1, 2, 3, 4
"""Exit statuses: allowed or done, refused, wrong use, the store cannot be used, done but for what is told."""

_PAGE = 500
_UNITS = {"s": 1, "m": 60, "min": 60, "h": 3600, "d": 86_400, "w": 604_800}
_SPAN = re.compile(r"(?:\s*\d{1,9}\s*(?:s|m|min|h|d|w))+\s*", re.ASCII)
_COST = re.compile(r"\s*(\d{1,16})(?:\s+(\S+))?\s*", re.ASCII)
_SECRET = re.compile(r"[A-Za-z0-9_-]{1,16}_[0-9A-Za-z]{34}")

root_store: ContextVar[str | None] = ContextVar("root_store", default=None)
"""All that ``quota --store URL COMMAND`` said."""

root_actor: ContextVar[str | None] = ContextVar("root_actor", default=None)
"""All that ``quota --actor NAME COMMAND`` said."""

project_ledger: ContextVar[Ledger | None] = ContextVar("project_ledger", default=None)
"""The ledger of the project whose command runs; no command closes it."""

StoreOption = Annotated[
    str | None,
    typer.Option(
        "--store", metavar="URL", help="Where keys, plans and counts live: $QUOTA_STORE, else sqlite:///quota.db."
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
ApiOption = Annotated[
    str, typer.Option("--api", metavar="API", help="Which API the call is to, where a key has plans for several.")
]
RouteOption = Annotated[str | None, typer.Option("--route", metavar="ROUTE", help="The route, as the plan names it.")]


def _complete(context: typer.Context, incomplete: str, ids: Callable[[Ledger], list[str]]) -> list[str]:
    """Ids for the shell to complete: of a local store alone, and never an error."""
    said = [part.params.get("store") for part in (context, context.find_root())]
    url = next(filter(None, [*said, os.environ.get("QUOTA_STORE")]), DEFAULT_STORE)
    try:
        if sqlite_path(url) is None:
            return []
        with opened(url) as ledger:
            return [id_ for id_ in ids(ledger) if id_.startswith(incomplete)]
    except Exception:  # noqa: BLE001 -- a shell waits for words, not for reasons
        return []


def complete_key(ctx: typer.Context, incomplete: str) -> list[str]:
    """The ids of keys that begin so."""
    return _complete(ctx, incomplete, lambda ledger: [key.id for key in ledger.list_keys()])


def complete_account(ctx: typer.Context, incomplete: str) -> list[str]:
    """The ids of accounts that begin so."""
    return _complete(ctx, incomplete, lambda ledger: [account.id for account in ledger.list_accounts()])


def complete_plan(ctx: typer.Context, incomplete: str) -> list[str]:
    """The ids of plans that begin so."""
    return _complete(ctx, incomplete, lambda ledger: [plan.id for plan in ledger.list_plans()])


KeyArgument = Annotated[
    str,
    typer.Argument(metavar="KEY", help="The key's id, or its name where no other has it.", autocompletion=complete_key),
]
HolderArgument = Annotated[
    str,
    typer.Argument(
        metavar="KEY",
        help="A key's id, or its name where no other has it; or an account's id.",
        autocompletion=lambda ctx, incomplete: [*complete_key(ctx, incomplete), *complete_account(ctx, incomplete)],
    ),
]
PlanArgument = Annotated[str, typer.Argument(metavar="PLAN", help="The plan's id.", autocompletion=complete_plan)]
AtOption = Annotated[
    str | None,
    typer.Option(
        "--at", metavar="WHEN", help="2027-01-01, 30d from now, or period-end: when its longest quota begins anew."
    ),
]
PlotOption = Annotated[Path | None, typer.Option("--plot", metavar="FILE", help="Draw it too: FILE.svg or FILE.png.")]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


def several(count: int, noun: str) -> str:
    """``1 key``, ``1,200 keys``."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


class WrongUse(QuotaError):
    """A command that cannot be meant: the message says it all."""


class _Unnamed(UnknownKey):
    """Neither an id nor a name of a key; ``nor`` says what else it is not."""

    nor = ""

    def __str__(self) -> str:
        return f"{super().__str__()} or that name{self.nor}"


class Unshown(QuotaError):
    """A secret that could not be printed, and what was done about it."""


@contextmanager
def opened(store: str | None, *, create: bool = False) -> Iterator[Ledger]:
    """The ledger on the store that was asked for. ``create``: whether it may be a new file."""
    given, said = project_ledger.get(), store or root_store.get()
    actor = _actor()
    if given is not None and not said:
        yield given if actor is None else given.acting(actor)
        return
    url = said or os.environ.get("QUOTA_STORE") or DEFAULT_STORE
    if ":" not in url:
        named = shown_url(url)
        raise WrongUse(f"the store {named!r} is no URL; a file is meant by sqlite:///{named}")
    path = sqlite_path(url)
    if path is not None and not create and not path.exists():
        raise StoreUnavailable(
            f"there is no store {path} yet: adding a plan or issuing a key makes it; --store names another"
        )
    try:
        ledger = Ledger(url, actor=actor)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] not in ("redis", "psycopg", "psycopg_pool"):
            raise
        raise StoreUnavailable(str(error)) from None
    with ledger:
        yield ledger


def _actor() -> str | None:
    """Whom the outbox names: who was said, else what the environment says, else whose account this is."""
    try:
        return root_actor.get() or os.environ.get("QUOTA_ACTOR") or getuser()
    except (KeyError, OSError):
        return None


def sqlite_path(url: str) -> Path | None:
    """The file of a SQLite store; None for any other store, and for one in memory."""
    if not url.lower().startswith("sqlite:"):
        return None
    path = urlsplit(url).path.removeprefix("/")
    return Path(path) if path and path != ":memory:" else None


def find_key(ledger: Ledger, text: str) -> ApiKey:
    """The key of an id, or of a name that only one key has."""
    try:
        return ledger.get_key(text)
    except (UnknownKey, InvalidValue):
        named = [key for key in ledger.list_keys() if key.name == text]
    if len(named) > 1:
        ids = ", ".join([key.id for key in named[:5]] + ["..."] * bool(named[5:]))
        raise WrongUse(f"{len(named)} keys have the name {text!r}: say which by id ({ids})")
    if named:
        return named[0]
    if _SECRET.fullmatch(text):
        raise WrongUse("that looks like a secret: give the key's id or name, or - and the secret on standard input")
    raise _Unnamed(text)


def find_holder(ledger: Ledger, text: str) -> ApiKey | Account:
    """The key of an id, else the account of it, else the key of a name that only one key has."""
    account = None
    with suppress(UnknownAccount, InvalidValue):
        account = ledger.get_account(text)
    try:
        key = find_key(ledger, text)
    except QuotaError as error:
        if account is None:
            if isinstance(error, _Unnamed):
                error.nor = ", and no account that id"
            raise
        return account
    if account is not None and not key.id == key.account == text:
        raise WrongUse(
            f"{text!r} is an account, and the key {key.id} has this id or name too: give its id, or rename it"
        )
    return key


def with_those_above(ledger: Ledger, who: ApiKey | Account) -> list[ApiKey | Account]:
    """Return a key or an account, and the accounts above it, the nearest first."""
    return [who, *line_of(who.account if isinstance(who, ApiKey) else who.parent, ledger.get_account)]


def every_key(ledger: Ledger) -> Iterator[ApiKey]:
    """Yield all keys, a page at a time."""
    after: str | None = None
    while True:
        page = ledger.list_keys(after=after, limit=_PAGE)
        yield from page
        if len(page) < _PAGE:
            return
        after = page[-1].id


def read_secret(source: str) -> str:
    """A secret from a file or, for ``-``, standard input; asked for, unseen, at a terminal."""
    if source == "-" and sys.stdin.isatty():
        return getpass("secret: ")
    text = read_text(source).removesuffix("\n").removesuffix("\r")
    if "\n" in text:
        raise WrongUse(f"{source}: a secret is one line")
    return text


def read_text(source: str) -> str:
    """A file's text, or standard input's for ``-``."""
    try:
        data = sys.stdin.buffer.read() if source == "-" else Path(source).read_bytes()
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise WrongUse(f"{source}: not UTF-8 text (byte {error.start + 1})") from None
    except (OSError, ValueError) as error:
        raise WrongUse(f"{source}: {getattr(error, 'strerror', None) or error}") from None


def to_span(field: str, text: str) -> timedelta:
    """``90s``, ``30m``, ``1h30m``, ``2d``, ``1w``."""
    if not _SPAN.fullmatch(text):
        raise InvalidValue(field, text, "a length of time such as 30m, 1h30m or 2d")
    parts = re.findall(r"(\d+)\s*(min|[smhdw])", text)
    try:
        return timedelta(seconds=sum(int(number) * _UNITS[unit] for number, unit in parts))
    except OverflowError:
        raise InvalidValue(field, text, "a length of time that is not millions of years") from None


def to_instant(field: str, text: str) -> datetime:
    """``2026-12-31``, ``2026-12-31T18:00:00+01:00`` (UTC where no zone is said), or ``30d`` from now."""
    try:
        instant = datetime.fromisoformat(text)
    except ValueError:
        if not _SPAN.fullmatch(text):
            raise InvalidValue(field, text, "an ISO 8601 date or time, or a length of time from now as 30d") from None
        try:
            return to_datetime(system_clock()) + to_span(field, text)
        except OverflowError:
            raise InvalidValue(field, text, "an instant before the year 10000") from None
    return instant if instant.tzinfo else instant.replace(tzinfo=timezone.utc)


def to_date(at: str | None) -> datetime | Literal["period_end"] | None:
    """Read ``--at`` of a change of plan."""
    if at in ("period-end", "period_end"):
        return "period_end"
    try:
        return None if at is None else to_instant("at", at)
    except InvalidValue as error:
        raise InvalidValue("at", at, f"{error.accepted}, or period-end") from None


def to_cost(text: str) -> Cost:
    """``3``, or units by unit: ``1 requests, 812 tokens``."""
    cost: dict[str, int] = {}
    for part in text.split(","):
        found = _COST.fullmatch(part)
        unit = (found[2] or "requests") if found else ""
        if found is None or unit in cost:
            raise InvalidCost("cost", text, "a number such as 3, or numbers of units such as '1 requests, 812 tokens'")
        cost[unit] = int(found[1])
    parse_cost(cost)
    return cost["requests"] if set(cost) == {"requests"} else cost


def to_pairs(field: str, texts: list[str], form: str) -> dict[str, str]:
    """``NAME=VALUE`` options. Names may hold a ``=``; values do not where ``form`` says that they come last."""
    pairs: dict[str, str] = {}
    for text in texts:
        name, separator, value = text.rpartition("=") if form.startswith("ROUTE") else text.partition("=")
        if not separator or not name.strip():
            raise InvalidValue(field, text, form)
        if name.strip() in pairs:
            raise InvalidValue(field, text, f"{name.strip()} once")
        pairs[name.strip()] = value.strip()
    return pairs


def confirm(question: str, *, yes: bool) -> None:
    """Ask at a terminal, on standard error; elsewhere, and with ``--yes``, go on."""
    if not yes and sys.stdin.isatty():
        typer.confirm(question, abort=True, err=True)

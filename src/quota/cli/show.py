"""The way that things are shown: tables and colours on a terminal, plain text when piped, JSON for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from itertools import pairwise
from typing import Any, TypeVar

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from ..account import Account
from ..clock import system_clock, to_datetime, to_us
from ..decision import Decision, Reason
from ..key import ApiKey
from ..ledger.sync import Ledger
from ..plan import UsagePlan
from ..status import LimitStatus

T = TypeVar("T")
Cell = str | Text
GOOD, WARN, BAD, QUIET = "cyan", "yellow", "bold red", "dim"
"""Never by colour alone: whatever is coloured says the same in words or shapes."""

_SPANS = (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1))


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Rich ends the program here, with status 1: a refusal. That is for the command to say."""
        raise  # noqa: PLE0704 -- it is called while the error is handled


def console(*, stderr: bool = False, soft_wrap: bool = True) -> Console:
    """A console that shows text as it is: nothing in a name is markup."""
    return _Console(stderr=stderr, highlight=False, markup=False, emoji=False, soft_wrap=soft_wrap)


def say(text: Cell = "", style: str | None = None) -> None:
    """A line of the answer."""
    console().print(text, style=style)


def tell(text: Cell, style: str | None = None) -> None:
    """A line beside the answer, on standard error."""
    console(stderr=True).print(text, style=style)


def print_json(data: Any) -> None:
    """The answer for programs: ASCII, so that no terminal or pipe changes it."""
    print(json.dumps(data, indent=2))


def print_table(
    columns: Sequence[str], rows: Iterable[Sequence[Cell]], right: Sequence[str] = (), whole: Sequence[str] = ()
) -> None:
    """A table; when piped, plain columns two spaces apart that nothing cuts or wraps.

    ``right``: aligned there. These, and those in ``whole``, are not folded where a terminal is narrow.
    """
    found = [list(row) for row in rows]
    if sys.stdout.isatty():
        table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
        for column in columns:
            aligned = column in right
            table.add_column(
                column, justify="right" if aligned else "left", overflow="fold", no_wrap=aligned or column in whole
            )
        for row in found:
            table.add_row(*row)
        console(soft_wrap=False).print(table)
        return
    lines = [list(columns), *([str(cell) for cell in row] for row in found)]
    widths = [max(len(line[at]) for line in lines) for at in range(len(columns))]
    for line in lines:
        cells = [
            cell.rjust(width) if column in right else cell.ljust(width)
            for cell, width, column in zip(line, widths, columns, strict=True)
        ]
        print("  ".join(cells).rstrip())


@contextmanager
def counted(items: Sequence[T], what: str) -> Iterator[Iterable[T]]:
    """The items, counted on standard error while they are gone through, when it is a terminal."""
    if not sys.stderr.isatty():
        yield items
        return
    columns = (TextColumn(f"{{task.completed:>9,}} of {len(items):,} {what}"), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console(stderr=True, soft_wrap=False), transient=True) as shown:
        yield shown.track(items)


def bar(part: int, whole: int, width: int = 20) -> Text:
    """Return how full something is; more than full shows as ``!`` at the end."""
    full, empty = ("█", "░") if can_show("█░") else ("#", ".")
    filled = width if part >= whole else min(width - 1, -(-part * width // whole))
    style = BAD if part >= whole else WARN if part * 100 >= whole * 80 else GOOD
    shown = full * filled + empty * (width - filled)
    return Text(shown[:-1] + "!" if part > whole else shown, style=style)


def can_show(text: str) -> bool:
    """Tell whether standard output's encoding has these characters."""
    try:
        text.encode(sys.stdout.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def at(instant: datetime) -> str:
    """An instant for people, in UTC: ``2026-01-16 00:00:00Z``."""
    return f"{instant:%Y-%m-%d %H:%M:%S}Z"


def span(seconds: int) -> str:
    """``14 h 59 min``: two units, rounded up to the smaller."""
    for (unit, size), (small, smaller) in pairwise(_SPANS):
        if seconds >= size:
            parts = -(-seconds // smaller)
            whole, rest = divmod(parts, size // smaller)
            return f"{whole} {unit} {rest} {small}" if rest else f"{whole} {unit}"
    return f"{max(0, seconds)} s"


def after(instant: datetime, now: datetime, *, briefly: bool = False) -> str:
    """``2026-01-16 00:00:00Z (in 14 h 59 min)``; briefly ``in 14 h 59 min``."""
    seconds = -((to_us(now) - to_us(instant)) // 1_000_000)
    if briefly:
        return f"in {span(seconds)}"
    return f"{at(instant)} (in {span(seconds)})" if seconds > 0 else at(instant)


def key_data(key: ApiKey | Account, plans: Iterable[UsagePlan]) -> dict[str, Any]:
    """A key or an account for ``--json``: of its secrets only the hints, never what would find them."""
    return {**key.to_dict(), "plans": [plan.id for plan in plans]}


def on_plans(plans: Iterable[UsagePlan]) -> str:
    """The plans that a key or an account is on, each with its api; nothing where there are none."""
    return ", ".join(plan.id if plan.apis == ("",) else f"{plan.id} for {_and(plan.apis)}" for plan in plans)


def _and(apis: Sequence[str]) -> str:
    """Name several apis in a sentence; the one without a name by quotes."""
    names = [api or repr(api) for api in apis]
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def show_goings(line: Iterable[ApiKey | Account]) -> None:
    """Tell to which plans a key or an account goes, and those above it: ``line`` begins with itself."""
    for number, who in enumerate(line):
        whose = f"account {who.id} " if number else ""
        for change in who.scheduled:
            say(f"{whose}goes to {change.plan} at {at(change.at)}", style=WARN)


def going(who: ApiKey | Account) -> list[tuple[str, str]]:
    """The rows of the plans that a key or an account goes to."""
    return [("goes to", f"{change.plan} at {at(change.at)}") for change in who.scheduled]


def state_of(key: ApiKey, now: datetime) -> Text:
    """enabled, disabled or expired."""
    if not key.enabled:
        return Text("disabled", style=WARN)
    if key.expires_at is not None and key.expires_at <= now:
        return Text("expired", style=WARN)
    return Text("enabled")


def show_key(ledger: Ledger, key: ApiKey, done: str, *, as_json: bool) -> None:
    """A key, and what was done to it."""
    plans = ledger.list_plans(key)
    shows = done == "key"
    last_used = ledger.last_used(key) if shows else None
    if as_json:
        more = {"last_used": last_used and last_used.isoformat()} if shows else {}
        print_json({**key_data(key, plans), **more})
        return
    say(f"{done} {key.id} ({key.name})")
    rows = [
        ("state", str(state_of(key, to_datetime(system_clock())))),
        ("plans", on_plans(plans) or "none"),
    ]
    rows += going(key)
    if key.account != key.id:
        rows.append(("account", key.account))
    if key.created_at is not None:
        rows.append(("created", at(key.created_at)))
    if key.expires_at is not None:
        rows.append(("expires", at(key.expires_at)))
    if shows:
        rows.append(("last used", f"{last_used:%Y-%m-%d %H:%M}Z" if last_used else "never"))
    for secret in key.secrets:
        until = f" until {at(secret.expires_at)}" if secret.expires_at else ""
        rows += [("secret", f"...{secret.hint}{until}")]
    rows += [("network", network) for network in key.networks] + [("scope", scope) for scope in key.scopes]
    rows += [(f"meta {name}", value) for name, value in key.metadata.items()]
    for what, value in rows:
        say(f"  {what}: {value}")


def show_decision(decision: Decision, *, would: bool = False) -> None:
    """A decision for people: the outcome, every limit, and when to try again."""
    if decision.allowed:
        say("would be allowed; the limits then:" if would else "allowed", style=GOOD)
    else:
        names = f" ({', '.join(decision.violated)})" if decision.violated else ""
        say(f"{'would be refused' if would else 'refused'}: {decision.reason.value}{names}", style=BAD)
        hint = _HINTS.get(decision.reason.value)
        if hint:
            say(hint)
    show_limits(decision.limits, decision.at, decision.violated)
    if decision.retry_at is not None:
        say(f"it would be allowed at {after(decision.retry_at, decision.at)}")
    elif decision.violated:
        say("it would never be allowed: it costs more than the limit")
    for name, percent in decision.crossed:
        say(f"{name}: {percent} % reached", style=WARN)


_HINTS = {
    "UNKNOWN_KEY": "no key has this secret: mistyped, rotated away, or removed",
    "DISABLED_KEY": "'quota key enable' lets it be used again",
    "ADDRESS_NOT_ALLOWED": "the key has networks, and none of them contains the call's address (--address)",
    "SCOPE_NOT_ALLOWED": "the key does not have the scope that the call asked for",
    "NO_PLAN": "the key is on no plan for this api: 'quota key attach' puts it on one",
}


def show_refusal(decision: Decision, key: ApiKey, plans: Sequence[UsagePlan]) -> None:
    """Tell why a call made now is refused, and what would change that."""
    reason = decision.reason
    names = f" ({', '.join(decision.violated)})" if decision.violated else ""
    say(f"calls are refused: {reason.value}{names}", style=BAD)
    if reason is Reason.EXPIRED_KEY and key.expires_at is not None and key.expires_at <= decision.at:
        say(f"it expired at {at(key.expires_at)}")
    elif reason is Reason.NO_PLAN and plans:
        others = ", ".join(f"{api!r} (plan {plan.id})" for plan in plans for api in plan.apis)
        say(f"the key has no plan for this api, and one for {others}: --api says which is meant")
    elif reason.value in _HINTS:
        say(_HINTS[reason.value])
    elif decision.retry_at is not None:
        say(f"the next call is allowed at {after(decision.retry_at, decision.at)}")
    elif decision.violated:
        say("no call is ever allowed: one costs more than the limit")


def own_value(status: LimitStatus) -> str:
    """Tell what an override gives."""
    value = status.limit if status.override is None else status.override.value
    return f"{value:,}" if isinstance(value, int) else value


def own_until(status: LimitStatus) -> str:
    """Tell until when an override holds."""
    return (
        "for good" if status.override is None or status.override.until is None else f"until {at(status.override.until)}"
    )


def show_own(limits: Iterable[LimitStatus]) -> None:
    """Tell which limits are one's own, and until when."""
    for status in limits:
        if status.override is not None:
            say(f"{status.name}: {own_value(status)} in place of its plan's, {own_until(status)}", style=WARN)


def show_adjustments(limits: Iterable[LimitStatus]) -> None:
    """Tell what was granted or taken away in this window, and what was used beyond a limit."""
    for status in limits:
        if status.extra:
            done = f"{status.extra:,} more were granted" if status.extra > 0 else f"{-status.extra:,} were taken away"
            say(f"{status.name}: {done} in this window", style=WARN)
        if status.over:
            say(f"{status.name}: {status.over:,} {status.unit} were used beyond it", style=WARN)


def show_limits(limits: Iterable[LimitStatus], now: datetime, violated: Sequence[str] = ()) -> None:
    """Where limits stand, with a bar and when each is empty again; in few words on a narrow terminal."""
    found = list(limits)
    columns = ("limit", "used", "of", "remaining", "", "resets")
    for width, briefly in ((20, False), (20, True), (10, True)):
        rows = [_limit_row(status, now, status.name in violated, width, briefly=briefly) for status in found]
        if fits((columns, *rows)):
            break
    if rows:
        print_table(columns, rows, right=("used", "of", "remaining"), whole=("", "resets"))


def _limit_row(status: LimitStatus, now: datetime, refused: bool, width: int, *, briefly: bool) -> list[Cell]:
    # What was granted or taken moves what is full: remaining alone tells.
    whole = status.used + status.remaining if status.remaining else min(status.used, status.limit)
    return [
        Text(status.name, style=BAD if refused else ""), f"{status.used:,}", f"{status.limit:,}",
        f"{status.remaining:,}", bar(status.used, whole, width),
        "nothing used" if not status.used else "never" if status.resets_at is None
        else after(status.resets_at, now, briefly=briefly),
    ]  # fmt: skip


def fits(rows: Sequence[Sequence[Cell]]) -> bool:
    """Tell whether a table, its columns' names among the rows, is shown without folding anything."""
    width = sum(max(cell_len(str(row[at])) for row in rows) + 3 for at in range(len(rows[0]))) - 3
    return not sys.stdout.isatty() or width <= console().width

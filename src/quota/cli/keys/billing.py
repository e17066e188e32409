"""quota report, top: what all keys used, and which are nearest to their limits. Both stream, however many keys."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from enum import StrEnum
from heapq import nlargest
from itertools import islice
from typing import Annotated, Any, TypeVar

import typer
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from ...clock import system_clock, to_datetime
from ...errors import ClockSkew, UnknownKey
from ...key import ApiKey
from ...ledger.sync import Ledger
from ...limit import REQUESTS
from ...operations.usage import UsageTotal
from ...refusals import most_refused as top_refused
from ...status import LimitStatus
from ..common import JsonOption, StoreOption, WrongUse, every_key, opened, project_ledger
from ..show import after, bar, console, print_json, print_table, say

T = TypeVar("T")

_ROWS = 1000
"""Lines of a table that are laid out together where it is piped."""

OneApiOption = Annotated[str | None, typer.Option("--api", metavar="API", help="Only of this API; of all by default.")]


class By(StrEnum):
    """Whom totals are of."""

    KEY = "key"
    ACCOUNT = "account"
    PLAN = "plan"


@contextmanager
def _following(items: Iterable[T], what: str) -> Iterator[Iterator[T]]:
    """The items, counted on standard error while they come where it is a terminal and they go elsewhere."""
    if not sys.stderr.isatty() or sys.stdout.isatty():
        yield iter(items)
        return
    columns = SpinnerColumn(), TextColumn(f"{{task.completed:>9,}} {what}"), TimeElapsedColumn()
    with Progress(*columns, console=console(stderr=True, soft_wrap=False), transient=True) as shown:
        yield iter(shown.track(items, total=None))


def report(
    since: Annotated[str, typer.Option("--since", metavar="DAY", help="From this UTC day on.")],
    until: Annotated[str, typer.Option("--until", metavar="DAY", help="Up to this UTC day, it included.")],
    by: Annotated[By, typer.Option("--by", metavar="key|account|plan", help="Whom to add up for.")] = By.KEY,
    api: OneApiOption = None,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV, for spreadsheets and billing.")] = False,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Tell what every key, account or plan used: for bills."""
    if as_csv and as_json:
        raise WrongUse("either --csv or --json, not both")
    with opened(store) as ledger:
        totals = ledger.usage_report(since, until, by=by.value, api=api)
        with _following(totals, "told") as following:
            if as_csv:
                rows = csv.writer(sys.stdout, lineterminator="\n")
                rows.writerow((by.value, "api", "unit", "used"))
                rows.writerows((_plain(one.id), _plain(one.api), _plain(one.unit), one.used) for one in following)
            elif as_json:
                _stream_json({"since": since, "until": until, "by": by.value, "api": api}, following)
            else:
                _show_totals(by.value, following)


def _plain(text: str) -> str:
    """Return a cell that no spreadsheet takes for a formula."""
    return f"'{text}" if text[:1] in ("=", "+", "-", "@", "\t", "\r") else text


def _stream_json(head: dict[str, Any], totals: Iterator[UsageTotal]) -> None:
    """One total a line: whole JSON in the end, and never all of it in memory."""
    print(json.dumps(head)[:-1] + ', "totals": [', end="")
    separator = "\n"
    for one in totals:
        print(f"{separator}{json.dumps(one.to_dict())}", end="")
        separator = ",\n"
    print("\n]}")


def _show_totals(by: str, totals: Iterator[UsageTotal]) -> None:
    columns = (by, "api", "unit", "used")
    some = list(islice(totals, None if sys.stdout.isatty() else _ROWS))
    if not some:
        say("nothing was used on these days")
    while some:
        print_table(columns, [(one.id, one.api, one.unit, f"{one.used:,}") for one in some], right=("used",))
        some = list(islice(totals, _ROWS))


def top(
    count: Annotated[int, typer.Option("--count", "-n", metavar="COUNT", min=1, max=10_000, help="How many.")] = 10,
    most_used: Annotated[bool, typer.Option("--most-used", help="Those that used most, in place of nearest.")] = False,
    most_refused: Annotated[
        bool, typer.Option("--most-refused", help="Those that this process refused most, where quota.decisions is on.")
    ] = False,
    since: Annotated[
        str | None, typer.Option("--since", metavar="DAY", help="Most used since; today by default.")
    ] = None,
    until: Annotated[
        str | None, typer.Option("--until", metavar="DAY", help="Most used until; today by default.")
    ] = None,
    unit: Annotated[str, typer.Option("--unit", metavar="UNIT", help="Of which unit: most used.")] = REQUESTS,
    api: OneApiOption = None,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show the keys nearest to a limit. Or those that used most, or were refused most."""
    if not most_used and (since is not None or until is not None or unit != REQUESTS):
        raise WrongUse("--since, --until and --unit are of --most-used")
    if most_refused and (most_used or api is not None or project_ledger.get() is None):
        raise WrongUse(
            "--most-refused stands alone, and is told within the program that refuses: by call_command of Django, in "
            "any other by quota.refusals.most_refused()"
        )
    with opened(store) as ledger:
        if most_refused:
            _show_most_refused(ledger, count, as_json=as_json)
        elif most_used:
            today = to_datetime(system_clock()).date().isoformat()
            totals = ledger.usage_report(since or until or today, until or today, api=api)
            _show_most_used(ledger, totals, unit, count, as_json=as_json)
        else:
            _show_nearest(ledger, api, count, as_json=as_json)


def _show_most_used(ledger: Ledger, totals: Iterator[UsageTotal], unit: str, count: int, *, as_json: bool) -> None:
    with _following(totals, "looked at") as following:
        found = nlargest(count, (one for one in following if one.unit == unit), key=lambda one: one.used)
    named = [(one, _name(ledger, one.id)) for one in found]
    if as_json:
        print_json({"most_used": [{**one.to_dict(), "name": name} for one, name in named]})
    elif not named:
        say("nothing was used on these days")
    else:
        most = found[0].used
        rows = [
            (one.id, name or "removed", one.api, f"{one.used:,}", bar(one.used, max(most, one.used + 1)))
            for one, name in named
        ]
        print_table(("key", "name", "api", unit, ""), rows, right=(unit,))


def _show_most_refused(ledger: Ledger, count: int, *, as_json: bool) -> None:
    found = [(id_, _name(ledger, id_), times) for id_, times in top_refused(count)]
    if as_json:
        print_json({"most_refused": [{"id": id_, "name": name, "refused": times} for id_, name, times in found]})
    elif not found:
        say("this process refused no key while the logger quota.decisions was enabled for INFO")
    else:
        rows = [(id_, name or "removed", f"{times:,}") for id_, name, times in found]
        print_table(("key", "name", "refused"), rows, right=("refused",))


def _name(ledger: Ledger, id_: str) -> str | None:
    try:
        return ledger.get_key(id_).name
    except UnknownKey:
        return None


def _show_nearest(ledger: Ledger, api: str | None, count: int, *, as_json: bool) -> None:
    with _following(_fullest(ledger, api), "keys looked at") as following:
        found = nlargest(count, (one for one in following if one is not None), key=lambda one: one[0])
    if as_json:
        print_json({"nearest": [
            {"id": key.id, "name": key.name, "limit": status.to_dict()} for _, key, status in found
        ]})  # fmt: skip
        return
    if not found:
        say("no key has used anything of its limits")
        return
    now = to_datetime(system_clock())
    rows = [
        (
            key.id, key.name, status.name, f"{status.used:,}", f"{_whole(status):,}", bar(status.used, _whole(status)),
            after(status.resets_at, now, briefly=True) if status.resets_at else "never",
        ) for _, key, status in found
    ]  # fmt: skip
    print_table(("key", "name", "limit", "used", "of", "", "resets"), rows, right=("used", "of"), whole=("", "resets"))


def _fullest(ledger: Ledger, api: str | None) -> Iterator[tuple[float, ApiKey, LimitStatus] | None]:
    """Each key's fullest limit and how full it is; None of one that has used nothing, or none that can tell."""
    for key in every_key(ledger):
        limits: tuple[LimitStatus, ...] = ()
        with suppress(UnknownKey, ClockSkew):  # removed meanwhile; or its record is ahead of this clock
            limits = ledger.status(key, api=api)
        used = [(status.used / _whole(status), key, status) for status in limits if status.used and _whole(status)]
        yield max(used, key=lambda one: one[0], default=None)


def _whole(status: LimitStatus) -> int:
    """Return what is full of a limit, with what was granted or taken."""
    return max(0, status.limit + status.extra)


def register(app: typer.Typer) -> None:
    """Add the commands to the root."""
    app.command(epilog="Example: quota report --since 2026-03-01 --until 2026-03-31 --by account --csv > march.csv")(
        report
    )
    app.command(epilog="Example: quota top --most-used --since 2026-03-01")(top)

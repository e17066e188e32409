"""quota replay and demo."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated

import typer
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.text import Text

from ..clock import to_datetime
from ..logs import LogFile, field_of, open_log
from ..plan import UsagePlan
from ..replay import replay as run
from ..report import Report, plain, share, to_json
from ..suggest import SHAPE, Suggestion, Watcher, to_percent
from .charts import traffic
from .common import JsonOption, PlotOption, StoreOption, WrongUse, complete_plan, opened
from .show import BAD, GOOD, at, console, fits, print_json, print_table, say

_LONG = 4 << 20
_MOST_PLANS = 20

PlansOption = Annotated[
    list[str] | None,
    typer.Option(
        "--plan",
        metavar="LIMITS",
        help="'300/day, 2/s burst 20', or the id of a plan in the store; repeat.",
        autocompletion=complete_plan,
    ),
]
TopOption = Annotated[int, typer.Option("--top", min=0, max=10**6, help="How many of the clients hit hardest to show.")]


def replay(
    log: Annotated[str, typer.Argument(metavar="LOG", help="Combined, common or JSON lines, gzip too; - is stdin.")],
    plan: PlansOption = None,
    key: Annotated[
        str, typer.Option("--key", help="Who a client is: ip, user, path, header:NAME, field:NAME, re:PATTERN.")
    ] = "ip",
    field: Annotated[
        list[str] | None, typer.Option("--field", metavar="NAME=WHERE", help="Where JSON lines have it; repeat.")
    ] = None,
    late: Annotated[
        int, typer.Option("--late", metavar="SECONDS", help="Put lines in order that are late by up to so much.")
    ] = 60,
    suggest: Annotated[
        str | None,
        typer.Option("--suggest", metavar="PERCENT", help="The smallest limits that never refuse so many clients."),
    ] = None,
    plot: PlotOption = None,
    top: TopOption = 10,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Run a recorded access log through plans, side by side: how many would have been refused, when, and who."""
    plans = _plans(plan or [], store)
    if not plans and suggest is None:
        raise WrongUse("give a --plan, such as --plan '300/day, 2/s burst 20', or --suggest 99")
    if plot is not None:
        from .plot import check_plot  # noqa: PLC0415 -- matplotlib is slow, and an extra

        check_plot(plot)
        if not plans:
            raise WrongUse("--plot draws what plans would have done: give a --plan")
    percent = None if suggest is None else to_percent(suggest)
    watcher = None if percent is None else Watcher(plans[0] if plans else UsagePlan("suggested", SHAPE))
    fields = dict(field_of(text) for text in field or [])
    with open_log(log) as lines, _progress(lines) as progress:
        reports = run(lines, plans, key=key, fields=fields, late=late, progress=progress, watch=watcher)
    found = watcher.suggest(percent) if watcher is not None and percent is not None else None
    if plot is not None:
        from .plot import plot_reports  # noqa: PLC0415 -- as above

        plot_reports(plot, log, reports)
    if as_json:
        print_json({**to_json(log, reports, top), "suggestion": found.to_dict() if found else None})
        return
    _show(reports, top)
    if found is not None:
        _show_suggestion(found, first=not reports)
    if plot is not None:
        say(f"drawn: {plot}")


def _plans(texts: Sequence[str], store: str | None) -> list[UsagePlan]:
    """Limits as they are written, or plans of the store by id."""
    if len(texts) > _MOST_PLANS:
        raise WrongUse(f"at most {_MOST_PLANS} plans at a time")
    plans: list[UsagePlan] = []
    for number, text in enumerate(texts, 1):
        if "/" in text or not text.strip():
            plans.append(UsagePlan(f"plan{number}", text))
        else:
            with opened(store) as ledger:
                plans.append(ledger.get_plan(text))
    return plans


@contextmanager
def _progress(lines: LogFile) -> Iterator[Callable[[int], object] | None]:
    """A progress bar on standard error, for a long log at a terminal."""
    if not sys.stderr.isatty() or lines.size is None or lines.size < _LONG:
        yield None
        return
    columns = (TextColumn("{task.fields[lines]:>13,} lines"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console(stderr=True, soft_wrap=False), transient=True) as shown:
        task = shown.add_task("", total=lines.size, lines=0)
        yield lambda number: shown.update(task, completed=lines.position, lines=number)


def _show(reports: Sequence[Report], top: int) -> None:
    if not reports:
        return
    _show_log(reports[0])
    if len(reports) > 1:
        _show_side_by_side(reports)
    for report in reports:
        say()
        name = f"{report.plan.id}: " if len(reports) > 1 else ""
        say(f"{name}{report.plan or 'no limits'}", style="bold")
        summary = f"  allowed {report.allowed:,}{share(report.allowed, report.total)}, refused {report.refused:,}"
        say(Text(summary, style=BAD if report.refused else GOOD))
        for what, counts in (("refused", report.by_reason), ("over limit", report.by_limit)):
            if counts:
                say(f"  {what}: {', '.join(f'{name} {count:,}' for name, count in counts.most_common())}")
        if report.clients_refused and top:
            say(f"  clients hit hardest, of {report.clients_refused:,} ever refused")
            rows = [(plain(client), f"{refused:,}", f"{asked:,}") for client, refused, asked in report.hardest(top)]
            print_table(("client", "refused", "of"), rows, right=("refused", "of"))
        for line in traffic(report.hours):
            say(line)


def _show_log(report: Report) -> None:
    """What the log is, whatever the plan."""
    ends = [at(to_datetime(instant)) for instant in (report.first, report.last) if instant is not None]
    when = f", {' to '.join(ends)}" if ends else ""
    say(f"{report.total:,} requests of {len(report.clients):,} clients (by {report.key}){when}")
    if report.out_of_order:
        late = f", {report.too_late:,} too late for that: they count at the latest time" if report.too_late else ""
        say(f"{report.out_of_order:,} lines were out of order and put in order{late}")
    if report.malformed:
        say(f"{report.malformed:,} malformed lines left out, such as")
        for number, text in report.samples:
            say(f"  line {number}: {plain(text)}")


def _show_side_by_side(reports: Sequence[Report]) -> None:
    rows: list[Sequence[str]] = []
    for report in reports:
        hit = report.hardest(1)
        rows.append((
            report.plan.id, str(report.plan) or "no limits", f"{report.allowed:,}", f"{report.refused:,}",
            f"{report.refused * 1000 // report.total / 10 if report.total else 0:.1f} %", f"{report.clients_refused:,}",
            f"{plain(hit[0][0], 40)} ({hit[0][1]:,})" if hit else "",
        ))  # fmt: skip
    say()
    columns = ["plan", "limits", "allowed", "refused", "share", "clients refused", "hit hardest"]
    if not fits([columns, *rows]):  # it stands below, and the limits need the room
        columns, rows = columns[:-1], [row[:-1] for row in rows]
    print_table(columns, rows, right=("allowed", "refused", "share", "clients refused"))


def _show_suggestion(found: Suggestion, *, first: bool) -> None:
    if not first:
        say()
    percent = found.to_dict()["percent"]
    say(f"the smallest limits that never refuse {percent} % of {found.clients:,} clients ({found.spared:,}):")
    say(f"  {found.plan}", style="bold")


def demo() -> None:
    """Show the mission step by step on the real library, then a recorded log under a plan."""
    from ..demo import HEADER, REPLAYED, Walk, sample_report  # noqa: PLC0415 -- only what is asked for

    say("The mission, on the real library:\n")
    colours = {"200 ": GOOD, "403 ": BAD, "429 ": BAD}
    rows = [
        (step, what, Text(answer, style=colours.get(answer[:4], "")), used)
        for step, what, answer, used in Walk().rows()
    ]
    print_table(HEADER, rows, right=("usage",))
    say(f"\nRecorded traffic, replayed: what would {REPLAYED!r} have refused?\n")
    _show([sample_report()], 5)


def register(app: typer.Typer) -> None:
    """Add the commands to the root."""
    app.command(epilog="Example: quota replay access.log --plan '300/day, 2/s burst 20' --plan 2000/day --suggest 99")(
        replay
    )
    app.command(epilog="Example: quota demo")(demo)

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
from ..errors import UnknownPlan
from ..ledger.sync import Ledger
from ..plan import UsagePlan
from ..replay.log_files import LogFile, open_logs
from ..replay.logs import field_of
from ..replay.report import Report, check_understood, plain, remarks, share, to_json
from ..replay.run import replay as run
from ..replay.suggest import SHAPE, Suggestion, Watcher, to_percent
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
        help="'300/day, 2/s burst 20', or the id of a plan in the store, or ids of one key's plans, a+b; repeat.",
        autocompletion=complete_plan,
    ),
]
TopOption = Annotated[
    int, typer.Option("--top", metavar="COUNT", min=0, max=10**6, help="How many of the clients hit hardest to show.")
]


def replay(
    log: Annotated[
        list[str],
        typer.Argument(metavar="LOG...", help="Access logs, packed too; several are read by time; - is stdin."),
    ],
    plan: PlansOption = None,
    key: Annotated[
        str,
        typer.Option(
            "--key", metavar="WHO", help="Who a client is: ip, user, path, header:NAME, field:NAME, re:PATTERN."
        ),
    ] = "ip",
    api: Annotated[
        list[str] | None,
        typer.Option(
            "--api",
            metavar="RULE",
            help="Which API requests are to: API=path:/PREFIX, API=host:HOST, API=log:FILE, field:NAME, API; repeat.",
        ),
    ] = None,
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
    """Try plans on a recorded access log. Tells how many calls would have been refused, when, and whose."""
    plans = _plans(plan or [], store)
    if not plans and suggest is None:
        raise WrongUse("give a --plan, such as --plan '300/day, 2/s burst 20', or --suggest 99")
    if plot is not None:
        from .plot import check_plot  # noqa: PLC0415 -- matplotlib is slow, and an extra

        check_plot(plot)
        if not plans:
            raise WrongUse("--plot draws what plans would have done: give a --plan")
    percent = None if suggest is None else to_percent(suggest)
    if percent is not None and plans and len(plans[0]) > 1:
        raise WrongUse("--suggest goes by one plan's limits: name that plan first, alone")
    watcher = None if percent is None else Watcher(plans[0][0] if plans else UsagePlan("suggested", SHAPE))
    fields = dict(field_of(text) for text in field or [])
    name = ", ".join(log)
    with open_logs(log) as logs, _progress(logs) as progress:
        wanted = plans or [(UsagePlan("none", ()),)]  # the log is looked at, whatever it is for
        reports = run(logs, wanted, key=key, apis=api or (), fields=fields, late=late, progress=progress, watch=watcher)
    check_understood(name, reports[0])
    found = watcher.suggest(percent) if watcher is not None and percent is not None else None
    if plot is not None:
        from .plot import plot_reports  # noqa: PLC0415 -- as above

        plot_reports(plot, name, reports)
    shown = reports if plans else []
    if as_json:
        print_json({**to_json(name, shown, top), "suggestion": found.to_dict() if found else None})
        return
    _show(shown, top)
    if found is not None:
        _show_suggestion(found, None if plans else reports[0])
    if plot is not None:
        say(f"drawn: {plot}")


def _plans(texts: Sequence[str], store: str | None) -> list[tuple[UsagePlan, ...]]:
    """Limits as they are written, or plans of the store by id, several of one key too."""
    if len(texts) > _MOST_PLANS:
        raise WrongUse(f"at most {_MOST_PLANS} plans at a time")
    plans: list[tuple[UsagePlan, ...]] = []
    for number, text in enumerate(texts, 1):
        if "/" in text or not text.strip():
            plans.append((UsagePlan(f"plan{number}", text),))
        else:
            with opened(store) as ledger:
                plans.append(_of_store(ledger, text))
    return plans


def _of_store(ledger: Ledger, text: str) -> tuple[UsagePlan, ...]:
    """The plan of this id, or those of the ids between each ``+``."""
    try:
        return (ledger.get_plan(text),)
    except UnknownPlan:
        if "+" not in text:
            raise
        return tuple(ledger.get_plan(id_.strip()) for id_ in text.split("+"))


@contextmanager
def _progress(logs: Sequence[LogFile]) -> Iterator[Callable[[int], object] | None]:
    """A progress bar on standard error, for long logs at a terminal."""
    total = sum(log.size or 0 for log in logs)
    if not sys.stderr.isatty() or total < _LONG or any(log.size is None for log in logs):
        yield None
        return
    columns = (TextColumn("{task.fields[lines]:>13,} lines"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console(stderr=True, soft_wrap=False), transient=True) as shown:
        task = shown.add_task("", total=total, lines=0)
        yield lambda number: shown.update(task, completed=sum(log.position for log in logs), lines=number)


def _show(reports: Sequence[Report], top: int) -> None:
    if not reports:
        return
    _show_log(reports[0])
    if len(reports) > 1:
        _show_side_by_side(reports)
    for report in reports:
        say()
        name = f"{report.id}: " if len(reports) > 1 and not report.more else ""
        say(f"{name}{report.limits}", style="bold")
        summary = f"  allowed {report.allowed:,}{share(report.allowed, report.total)}, refused {report.refused:,}"
        say(Text(summary, style=BAD if report.refused else GOOD))
        for api, (allowed, refused) in sorted(report.apis.items()):
            say(f"  {plain(api) or 'no API'}: allowed {allowed:,}, refused {refused:,}")
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
    """Return what the log is, whatever the plan."""
    ends = [at(to_datetime(instant)) for instant in (report.first, report.last) if instant is not None]
    when = f", {' to '.join(ends)}" if ends else ""
    say(f"{report.total:,} requests of {len(report.clients):,} clients (by {report.key}){when}")
    for line in remarks(report):
        say(line)


def _show_side_by_side(reports: Sequence[Report]) -> None:
    rows: list[Sequence[str]] = []
    for report in reports:
        hit = report.hardest(1)
        rows.append((
            report.id, report.limits, f"{report.allowed:,}", f"{report.refused:,}",
            f"{report.refused * 1000 // report.total / 10 if report.total else 0:.1f} %", f"{report.clients_refused:,}",
            f"{plain(hit[0][0], 40)} ({hit[0][1]:,})" if hit else "",
        ))  # fmt: skip
    say()
    columns = ["plan", "limits", "allowed", "refused", "share", "clients refused", "hit hardest"]
    if not fits([columns, *rows]):  # it stands below, and the limits need the room
        columns, rows = columns[:-1], [row[:-1] for row in rows]
    print_table(columns, rows, right=("allowed", "refused", "share", "clients refused"))


def _show_suggestion(found: Suggestion, log: Report | None) -> None:
    """Behind the plans, or alone, and then with what there is to say about the log."""
    if log is None:
        say()
    percent = found.to_dict()["percent"]
    say(f"the smallest limits that never refuse {percent} % of {found.clients:,} clients ({found.spared:,}):")
    say(f"  {found.plan}", style="bold")
    for line in remarks(log) if log else []:
        say(line)


def demo() -> None:
    """Show the library at work, step by step. A recorded log under a plan comes last."""
    from ..replay.demo import HEADER, REPLAYED, Walk, sample_report  # noqa: PLC0415 -- only what is asked for

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

"""Pictures of usage and of replays: matplotlib, colours that the colour-blind tell apart, shapes that print keeps."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta, timezone
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ..account import Account
from ..clock import DAY_US, to_datetime
from ..key import ApiKey
from ..limit import Quota
from ..operations.usage import UsageRecord
from ..replay.report import Report
from ..rule.record import HOUR_US
from .common import WrongUse

_BLUE, _ORANGE, _BLACK, _GREY = "#0072B2", "#E69F00", "#000000", "#666666"
"""Of Okabe and Ito's palette; refused bars are hatched and limits dashed as well."""

_FORMATS = (".svg", ".png")
_MOST_HOURS = 24 * 10
_MOST_NAMES = 10
_TITLE = 56


def check_plot(path: Path) -> None:
    """Before anything is worked out: whether it can be drawn there. Raises ``WrongUse``."""
    if path.suffix.lower() not in _FORMATS:
        raise WrongUse(f"--plot {path}: expected a name that ends in .svg or .png")
    if not path.absolute().parent.is_dir():
        raise WrongUse(f"--plot {path}: there is no directory {path.parent}")
    if find_spec("matplotlib") is None:
        raise WrongUse("--plot needs matplotlib: pip install matplotlib")


def _figure(panels: int, title: str) -> tuple[Any, list[Any]]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415 -- an extra
    from matplotlib.figure import Figure  # noqa: PLC0415 -- as above

    figure = Figure(figsize=(9, 1.2 + 2.8 * panels), layout="constrained")
    FigureCanvasAgg(figure)
    shown = figure.suptitle(_literal(title), x=0.01, ha="left", fontsize=13)
    with warnings.catch_warnings(action="ignore"):  # a letter that no font has is drawn as a box
        while shown.get_window_extent().x1 > figure.bbox.x1:
            title = _short(title, len(title) * 9 // 10)
            shown.set_text(_literal(title))
    axes = figure.subplots(panels, 1, squeeze=False)[:, 0]
    for ax in axes:
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(axis="y", color="#dddddd", linewidth=0.8)
        ax.set_axisbelow(True)
    return figure, list(axes)


def _short(text: str, longest: int) -> str:
    return text if len(text) <= longest else text[: longest - 3] + "..."


def _literal(text: str) -> str:
    """Text in which nothing is a formula."""
    return text.replace("$", r"\$")


def _save(figure: Any, path: Path) -> None:
    import matplotlib as mpl  # noqa: PLC0415 -- an extra

    # The same picture is the same file: no random ids, no date.
    with mpl.rc_context({"svg.hashsalt": "quota", "svg.fonttype": "path"}):
        metadata = {"Date": None} if path.suffix.lower() == ".svg" else {"Software": None}
        try:
            with warnings.catch_warnings(action="ignore"):  # as above
                figure.savefig(path, dpi=150, metadata=metadata)
        except OSError as error:
            raise WrongUse(f"--plot {path}: {error.strerror or error}") from None


def _hours_axis(ax: Any, instants: Sequence[datetime]) -> None:
    from matplotlib import dates  # noqa: PLC0415 -- an extra

    typed: Any = dates  # it has types in part only
    locator = typed.AutoDateLocator(minticks=2, maxticks=9, tz=timezone.utc)
    ax.xaxis.set_major_locator(locator)
    ax.xaxis.set_major_formatter(typed.ConciseDateFormatter(locator, tz=timezone.utc))
    ax.set_xlim(min(instants) - timedelta(hours=1), max(instants) + timedelta(hours=1))


def _days_axis(ax: Any, instants: Sequence[datetime]) -> None:
    """A day's name below the middle of its bar."""
    first, last = min(instants), max(instants)
    step = -(-((last - first).days + 1) // _MOST_NAMES)
    named = [first + timedelta(days=number) for number in range(0, (last - first).days + 1, step)]
    years = len({day.year for day in named}) > 1
    ax.set_xticks(named, [f"{day.day} {day:%b %Y}" if years else f"{day.day} {day:%b}" for day in named])
    ax.set_xlim(first - timedelta(days=1), last + timedelta(days=1))
    ax.set_xlabel(f"UTC, {first.year}" if not years else "UTC", loc="right", fontsize=9, color=_GREY)


def plot_usage(path: Path, key: ApiKey | Account, quotas: Mapping[str, Quota], records: Sequence[UsageRecord]) -> None:
    """Units used by day against each quota; for windows of several days also what the window had used by then."""
    names = list(dict.fromkeys(record.limit for record in records)) or ["nothing used"]
    figure, axes = _figure(len(names), f"Used by day (UTC): {key.name}")
    for ax, name in zip(axes, names, strict=True):
        rows = [record for record in records if record.limit == name]
        quota = quotas.get(name)
        noon = [datetime(r.day.year, r.day.month, r.day.day, 12, tzinfo=timezone.utc) for r in rows]
        used = [record.used for record in rows]
        ax.bar(noon, used, width=0.8, color=_BLUE, label="used that day")
        _title(ax, str(quota) if quota else name)
        ax.set_ylabel(quota.unit if quota else "units")
        if quota is not None:
            ax.axhline(quota.limit, color=_BLACK, linestyle="--", linewidth=1.4, label=f"limit: {quota.limit:,}")
            if quota.period.every in ("week", "month", "year") or quota.period.count > 1:
                window = [max(0, quota.limit - record.remaining) for record in rows]
                ax.plot(noon, window, color=_ORANGE, marker="o", markersize=4, label="used in the window by then")
        ax.set_ylim(0, 1.12 * max([*used, quota.limit if quota else 1]))
        _frame(ax, noon, by_day=True)
    _save(figure, path)


def _frame(ax: Any, instants: Sequence[datetime], *, by_day: bool) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator  # noqa: PLC0415 -- an extra

    if not instants:
        ax.set_xticks([])
    elif by_day:
        _days_axis(ax, instants)
    else:
        _hours_axis(ax, instants)
    ax.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    ax.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=3, frameon=False, fontsize=9)


def _title(ax: Any, text: str) -> None:
    ax.set_title(_literal(_short(text, _TITLE)), loc="left", fontsize=11)


def plot_reports(path: Path, log: str, reports: Sequence[Report]) -> None:
    """Requests by hour, or by day for long logs, allowed and refused: one panel a plan, on one scale."""
    figure, axes = _figure(len(reports), f"What each plan would have done: {Path(log).name}")
    hours = sorted({hour for report in reports for hour in report.hours})
    by_day = bool(hours) and hours[-1] - hours[0] > _MOST_HOURS * HOUR_US
    length = DAY_US if by_day else HOUR_US
    step = timedelta(microseconds=length)
    most = 1
    for ax, report in zip(axes, reports, strict=True):
        table = sorted((report.days if by_day else report.hours).items())
        middle = [to_datetime(start) + step / 2 for start, _ in table]
        allowed, refused = ([counts[at] for _, counts in table] for at in (0, 1))
        ax.bar(middle, allowed, width=step * 0.9, color=_BLUE, label=f"allowed: {report.allowed:,}")
        ax.bar(
            middle, refused, bottom=allowed, width=step * 0.9, color=_ORANGE, hatch="////", edgecolor=_BLACK,
            linewidth=0.3, label=f"refused: {report.refused:,}",
        )  # fmt: skip
        most = max([most, *(sum(counts) for _, counts in table)])
        name = f"{report.id}: " if len(reports) > 1 and not report.more else ""
        _title(ax, f"{name}{report.limits}")
        ax.set_ylabel("requests a day" if by_day else "requests an hour")
        _frame(ax, middle, by_day=by_day)
    for ax in axes:
        ax.set_ylim(0, 1.08 * most)
    _save(figure, path)

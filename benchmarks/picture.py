"""One picture: what one decision costs, ours and everybody's, as multiples of the hand-written floor."""

from __future__ import annotations

import statistics
from pathlib import Path

from benchmarks.measure import Timing

GROUPS = {
    "one limit, key known": [
        ("quota", "quota, known key"), ("token-bucket (no lock)", "token-bucket"), ("limitra", "limitra"),
        ("limits", "limits"), ("throttled-py", "throttled-py, fixed window"), ("limits, with its window's stats", "limits + stats"),
        ("PyrateLimiter", "PyrateLimiter"),
    ],
    "one limit, secret presented": [
        ("floor + SHA-256", "floor + SHA-256"), ("whole job by hand", "whole job by hand"), ("quota", "quota, secret"),
    ],
    "three limits, secret presented (peers: key known)": [
        ("quota", "quota, three limits, secret"), ("quota, refused", "quota, refused, three limits, secret"),
        ("PyrateLimiter", "PyrateLimiter, three rates"), ("limits, three hits", "limits, three hits"),
    ],
}  # fmt: skip
BLUE, ORANGE, GREY = (
    "#0072B2",
    "#E69F00",
    "#999999",
)  # Okabe and Ito: told apart by all eyes, and in grey by their depth


def draw(timings: dict[str, Timing], path: Path) -> None:
    """Bars from the floor on, with the middle half of the rounds as whiskers."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    mpl.rcParams.update({"svg.hashsalt": "quota", "font.size": 10})
    figure, ax = plt.subplots(figsize=(9, 6.2), layout="constrained")
    floor = timings["floor"].rounds
    row, ticks, labels = 0.0, [], []
    for title, bars in GROUPS.items():
        ax.text(1.3, row, title, va="center", fontweight="bold")
        row += 1
        for label, name in bars:
            ratios = sorted(one / base for one, base in zip(timings[name].rounds, floor, strict=True))
            middle, quarter = statistics.median(ratios), len(ratios) // 4
            ours, hand = (
                label.startswith("quota"),
                not name.startswith("quota") and name in ("floor + SHA-256", "whole job by hand"),
            )
            ax.barh(
                row, middle, 0.72, color=BLUE if ours else GREY if hand else ORANGE, hatch=None if ours else "//" if not hand else "..",
                edgecolor="white" if not ours else BLUE, linewidth=0.5,
                xerr=[[middle - ratios[quarter]], [ratios[-1 - quarter] - middle]], error_kw={"elinewidth": 1, "capsize": 2},
            )  # fmt: skip
            ax.text(ratios[-1 - quarter] + 0.4, row, f"{middle:.1f}", va="center")
            ticks.append(row)
            labels.append(label)
            row += 1
        row += 0.4
    ax.axvline(1, color="black", linewidth=1, linestyle="--")
    ax.text(1.1, row - 0.2, "floor: lock, look up, compare, store", va="center", fontsize=9)
    ax.set_yticks(ticks, labels)
    ax.set_ylim(row + 0.3, -0.7)
    ax.set_xlim(0, ax.get_xlim()[1] * 1.04)
    ax.set_xlabel("processor time of one decision, floor = 1 (less is better)")
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)

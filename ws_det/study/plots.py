"""Draw the numbers of several arms, each seed a point."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter

from ws_det.files import write_png

Group = Mapping[str, Sequence[float]]
Line = tuple[Sequence[float] | Sequence[str], Sequence[float], Sequence[float], Sequence[float]]


def draw_points(panels: Mapping[str, Mapping[str, Group]], path: Path) -> None:
    """Draw a panel under the other, each with groups side by side, each with arms in columns.

    Args:
        panels: By label of the vertical axis, then by name of the group, then by arm: a number
            for each seed.
        path: PNG to write.
    """
    figure = Figure(figsize=(8.5, 2.6 * len(panels) + 0.6), layout="constrained")
    FigureCanvasAgg(figure)  # no display, and pyplot's state stays the user's
    axes = figure.subplots(len(panels), 1, squeeze=False)[:, 0]
    for ax, (label, groups) in zip(axes, panels.items()):
        arms = list(dict.fromkeys(arm for group in groups.values() for arm in group))
        width = len(arms) + 1.5
        for index, group in enumerate(groups.values()):
            for arm, values in group.items():
                x = index * width + arms.index(arm)
                color = f"C{arms.index(arm)}"
                ax.plot([x] * len(values), values, "o", color=color, alpha=0.6, markersize=5)
                middle = fmean(values)
                ax.plot([x - 0.35, x + 0.35], [middle] * 2, color=color, linewidth=2.5)
        ax.set_xticks([i * width + (len(arms) - 1) / 2 for i in range(len(groups))], list(groups))
        ax.tick_params(axis="x", length=0)
        ax.set_ylabel(label)
        ax.grid(axis="y", alpha=0.3)
        ax.spines[["top", "right"]].set_visible(False)
    handles = [
        axes[0].plot([], [], "o-", color=f"C{index}", label=arm)[0]
        for index, arm in enumerate(arms)
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=4, frameon=False, fontsize=9)
    write_png(figure, path, dpi=110)


def by_batch(
    arms: Iterable[Mapping[str, Any]], labels: Mapping[str, str]
) -> dict[str, dict[str, Group]]:
    """Panels for ``draw_points`` with a group for each batch size.

    Args:
        arms: With ``arm``, ``batch`` and the numbers: what ``mean_spread`` gives, or None.
        labels: Which number is in a panel, by the panel's label.
    """
    arms = list(arms)
    batches = sorted({arm["batch"] for arm in arms})
    return {
        label: {
            f"batch {batch}": {
                arm["arm"]: arm[key]["values"] for arm in arms if arm["batch"] == batch and arm[key]
            }
            for batch in batches
        }
        for label, key in labels.items()
    }


def draw_lines(
    panels: Mapping[str, Mapping[str, Line]], path: Path, note: str, log: bool = False
) -> None:
    """Draw panels, two in a row, each with a line and bars for each arm.

    Args:
        panels: By title, then by arm: places, which are numbers or names; the line; the lower and
            the upper ends of the bars.
        path: PNG to write.
        note: Written below all: what line and bars are.
        log: Whether the vertical axes are logarithmic.
    """
    rows = (len(panels) + 1) // 2
    figure = Figure(figsize=(8.5, 3 * rows + 0.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, 2, squeeze=False).flatten()
    arms = list(dict.fromkeys(arm for lines in panels.values() for arm in lines))
    for ax, (title, lines) in zip(axes, panels.items()):
        for arm, (places, middle, low, high) in lines.items():
            named = isinstance(places[0], str)
            at = list(range(len(places))) if named else places
            apart = (at[-1] - at[0]) / max(1, len(at) - 1) * 0.13  # of the bars of two arms
            at = [x + apart * (arms.index(arm) - (len(arms) - 1) / 2) for x in at]
            color = f"C{arms.index(arm)}"
            ax.plot(at, middle, "o-", color=color, markersize=3, linewidth=1.8)
            ax.vlines(at, low, high, color=color, linewidth=1.2, alpha=0.5)
            if named:
                ax.set_xticks(range(len(places)), places, rotation=45, ha="right", fontsize=8)
        if log:
            ax.set_yscale("log")
            ax.yaxis.set_major_formatter("{x:g}")
            ax.yaxis.set_minor_formatter(LogFormatter())  # silent over more than a decade
        ax.set_title(title, fontsize=10)
        ax.grid(alpha=0.3)
        ax.spines[["top", "right"]].set_visible(False)
    handles = [
        axes[0].plot([], [], "o-", color=f"C{index}", label=arm)[0]
        for index, arm in enumerate(arms)
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=4, frameon=False, fontsize=9)
    figure.supxlabel(note, fontsize=9)
    write_png(figure, path, dpi=110)

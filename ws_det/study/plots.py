"""Draw the numbers of several arms, each seed a point."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

Group = Mapping[str, Sequence[float]]


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
    figure.savefig(path, dpi=110)

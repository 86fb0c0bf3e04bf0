"""Draw how losses and APs went over a training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ws_det.files import write_png


def draw_curves(
    losses: Mapping[str, np.ndarray],
    aps: Sequence[Mapping[str, Any]],
    last: int,
    path: str | Path,
) -> None:
    """Draw losses and, if there are any, APs over iterations.

    Args:
        losses: By name, one value per iteration, the last one of iteration ``last``; ``loss`` is
            their total.
        aps: Points like ``{"iter": 2000, "box AP": 0.4, "mask AP": 0.3}``, some maybe without.
        last: Number of the last iteration.
        path: PNG to write.
    """
    words = list(dict.fromkeys(word for point in aps for word in point if word != "iter"))
    aps = aps if words else ()  # other evaluators have no AP
    figure = Figure(figsize=(11 if aps else 6, 4.2), layout="constrained")
    FigureCanvasAgg(figure)  # no display, and pyplot's state stays the user's
    axes = figure.subplots(1, 2 if aps else 1, squeeze=False)[0]
    _draw_losses(axes[0], losses, last)
    if aps:
        _draw_aps(axes[1], aps, words)
    for ax in axes:
        ax.set_xlabel("iteration")
        ax.grid(alpha=0.3)
        ax.spines[["top", "right"]].set_visible(False)
    write_png(figure, path, dpi=120)


def _draw_losses(ax: Axes, losses: Mapping[str, np.ndarray], last: int) -> None:
    for index, name in enumerate(sorted(losses, key=lambda name: (name != "loss", name))):
        values = np.asarray(losses[name], float)
        iterations = np.arange(last - len(values) + 1, last + 1)
        width = max(1, len(values) // 40)
        smooth = np.convolve(values, np.ones(width) / width, mode="valid")
        total = name == "loss"
        if total:
            ax.plot(iterations, values, color="black", alpha=0.12, linewidth=0.8)
        color = "black" if total else f"C{index - 1}"
        label = "total" if total else name.replace("loss_", "").replace("_", " ")
        ax.plot(
            iterations[width - 1 :],
            smooth,
            color=color,
            label=label,
            linewidth=2.2 if total else 1.3,
        )
    ax.set_title(f"training loss (mean of {width} iterations)" if width > 1 else "training loss")
    ax.set_ylabel("loss")
    ax.set_ylim(bottom=0)
    ax.legend(frameon=False)


def _draw_aps(ax: Axes, aps: Sequence[Mapping[str, Any]], words: Sequence[str]) -> None:
    for index, word in enumerate(words):
        points = [(point["iter"], point[word]) for point in aps if word in point]
        if points:
            ax.plot(*zip(*points), marker="o", color=f"C{index}", label=word)
            ax.annotate(
                f"{points[-1][1]:.3f}",
                points[-1],
                xytext=(0, -17 if index % 2 else 8),
                textcoords="offset points",
                ha="center",
                color=f"C{index}",
            )
    ax.set_title("validation (COCO AP, 0.50:0.95)")
    ax.set_ylabel("AP")
    ax.set_ylim(0, 1)
    ax.set_xlim(left=0)
    ax.legend(frameon=False)

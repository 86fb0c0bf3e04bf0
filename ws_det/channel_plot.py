"""Draw the channels of a detector, and how many of each layer are nearly dead."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from ws_det.files import write_png

_WIDEST = 6.0  # of the normalized mean: what is farther is drawn at the border


def draw_channels(summary: Mapping[str, Any], path: Path) -> None:
    """Draw mean and deviation of every channel, and the nearly dead ones over depth.

    Args:
        summary: As ``channel_report.summarize`` gives it.
        path: PNG to write.
    """
    colors = _colors(list(summary["parts"]))
    figure = Figure(figsize=(9, 9.5), layout="constrained")
    FigureCanvasAgg(figure)  # no display, and pyplot's state stays the user's
    above, below = figure.subplots(2, 1, height_ratios=(3, 2))
    _draw_scatter(above, summary, colors)
    _draw_depth(below, summary, colors)
    figure.legend(
        *above.get_legend_handles_labels(),
        loc="outside lower center",
        ncols=3,
        frameon=False,
        markerscale=1.4,
    )
    for ax in (above, below):
        ax.spines[["top", "right"]].set_visible(False)
    write_png(figure, path, dpi=120)


def _colors(parts: Sequence[str]) -> dict[str, Any]:
    """Shades of one scale for the stages of the backbone, others for what comes after."""
    stages = [part for part in parts if part.startswith("backbone")]
    after = [part for part in parts if part not in stages]
    shades = matplotlib.colormaps["viridis"](np.linspace(0, 0.8, len(stages)))
    others = matplotlib.colormaps["autumn_r"](np.linspace(0.1, 0.6, len(after)))
    return dict(zip((*stages, *after), (*shades, *others)))


def _draw_scatter(ax: Axes, summary: Mapping[str, Any], colors: Mapping[str, Any]) -> None:
    layers = summary["layers"].values()
    part, mean, std, active = (
        np.concatenate([np.broadcast_to(layer[key], len(layer["mean"])) for layer in layers])
        for key in ("part", "mean", "std", "active")
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        normalized = np.where(mean == 0, 0, mean / std)
    x = np.clip(normalized, -_WIDEST, _WIDEST)
    moving = std[std > 0]
    lowest = moving.min() if len(moving) else 1.0
    y = np.maximum(std, lowest)  # a logarithm has no 0
    dead = active < summary["nearly_dead_below"]
    size = 18 if len(x) < 5000 else 7
    for name, color in colors.items():
        own = part == name
        ax.scatter(x[own], y[own], s=size, color=color, alpha=0.6, linewidths=0, label=name)
    label = f"{dead.sum()} nearly dead: above 0 in less than {summary['nearly_dead_below']:.0%}"
    ring = dict(facecolors="none", edgecolors="crimson", linewidths=size / 15)
    ax.scatter(x[dead], y[dead], s=2.5 * size, label=label, **ring)
    ax.axvline(0, color="black", linewidth=0.8, alpha=0.4)
    ax.set_xlim(-_WIDEST * 1.04, _WIDEST * 1.04)
    ax.set_yscale("log")
    ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.yaxis.set_major_formatter("{x:g}")
    ax.yaxis.set_minor_formatter(NullFormatter())
    ax.set_xlabel(f"mean / deviation (farther than {_WIDEST:g}: at the border)")
    ax.set_ylabel("deviation")
    ax.set_title(f"what enters the nonlinearities: {len(x)} channels")
    ax.grid(alpha=0.25)


def _draw_depth(ax: Axes, summary: Mapping[str, Any], colors: Mapping[str, Any]) -> None:
    layers = list(summary["layers"].values())
    below = summary["nearly_dead_below"]
    shares = [100 * np.mean(np.asarray(layer["active"]) < below) for layer in layers]
    ax.bar(range(len(layers)), shares, color=[colors[layer["part"]] for layer in layers])
    runs = groupby(range(len(layers)), key=lambda index: layers[index]["part"])
    for part, indices in runs:
        *_, last = first, *_ = list(indices)
        ax.axvline(last + 0.5, color="black", linewidth=0.5, alpha=0.3)
        ax.annotate(
            part.removeprefix("backbone.").rpartition(".")[2],
            ((first + last) / 2, 1),
            xycoords=("data", "axes fraction"),
            xytext=(0, 4),
            textcoords="offset points",
            rotation=30,
            ha="left",
            fontsize=9,
        )
    ax.set_xticks([])
    ax.set_xlim(-0.5, len(layers) - 0.5)
    ax.set_ylim(0, max(5.0, 1.05 * max(shares)))
    ax.set_xlabel("layer, in the order of use")
    ax.set_ylabel("nearly dead channels, %")
    ax.grid(axis="y", alpha=0.25)

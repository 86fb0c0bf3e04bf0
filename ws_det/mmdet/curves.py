"""Draw how losses and APs went, as ``curves.png`` in the work dir."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from mmengine.dist import master_only
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from ws_det.mmdet.report import write_json

_APS = {"coco/bbox_mAP": "box AP", "coco/segm_mAP": "mask AP"}


@HOOKS.register_module(force=True)
class CurvesHook(Hook):
    """Draw ``curves.png`` after each validation and at the end of training, on rank 0.

    MMEngine does not record at which iteration an AP was measured, and a checkpoint is saved
    before the validation of its iteration. So the APs are kept in ``curves.json``.
    """

    def __init__(self) -> None:
        self._aps: list[dict[str, Any]] = []

    @master_only
    def before_train(self, runner: Runner) -> None:
        """Take up the APs of the run that is resumed; those of another run are past."""
        path = Path(runner.work_dir, "curves.json")
        kept = json.loads(path.read_text()) if path.is_file() else []
        self._aps = [point for point in kept if point["iter"] <= runner.iter]

    @master_only
    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Keep the APs and draw."""
        found = {word: metrics[key] for key, word in _APS.items() if key in (metrics or {})}
        if found:
            self._aps.append({"iter": runner.iter, **found})
            write_json(Path(runner.work_dir, "curves.json"), self._aps)
        self.after_train(runner)

    @master_only
    def after_train(self, runner: Runner) -> None:
        """Draw what is recorded so far; nothing if no loss is."""
        losses = {
            key[len("train/") :]: history.data[0]
            for key, history in runner.message_hub.log_scalars.items()
            if key.startswith("train/") and "loss" in key
        }
        if "loss" in losses:
            path = Path(runner.work_dir, "curves.png")
            draw_curves(losses, self._aps, runner.iter, path)


def draw_curves(
    losses: Mapping[str, np.ndarray],
    aps: Sequence[Mapping[str, Any]],
    last: int,
    path: str | Path,
) -> None:
    """Draw losses and, if there are any, APs over iterations.

    Args:
        losses: by name, one value per iteration, the last one of iteration ``last``; ``loss`` is
            their total.
        aps: points like ``{"iter": 2000, "box AP": 0.4, "mask AP": 0.3}``.
        last: number of the last iteration.
        path: PNG to write.
    """
    figure = Figure(figsize=(11 if aps else 6, 4.2), layout="constrained")
    FigureCanvasAgg(figure)  # no display, and pyplot's state stays the user's
    axes = figure.subplots(1, 2 if aps else 1, squeeze=False)[0]
    _draw_losses(axes[0], losses, last)
    if aps:
        _draw_aps(axes[1], aps)
    for ax in axes:
        ax.set_xlabel("iteration")
        ax.grid(alpha=0.3)
        ax.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120)


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


def _draw_aps(ax: Axes, aps: Sequence[Mapping[str, Any]]) -> None:
    for index, word in enumerate(_APS.values()):
        points = [(point["iter"], point[word]) for point in aps if word in point]
        if points:
            ax.plot(*zip(*points), marker="o", color=f"C{index}", label=word)
            ax.annotate(
                f"{points[-1][1]:.3f}",
                points[-1],
                xytext=(0, -17 if index else 8),
                textcoords="offset points",
                ha="center",
                color=f"C{index}",
            )
    ax.set_title("validation (COCO AP, 0.50:0.95)")
    ax.set_ylabel("AP")
    ax.set_ylim(0, 1)
    ax.set_xlim(left=0)
    ax.legend(frameon=False)

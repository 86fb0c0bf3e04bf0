"""Smoothness: Lipschitz probes along the training of GN and GN+WS."""

from __future__ import annotations

from pathlib import Path
from statistics import fmean, median
from typing import Any

from torch.nn import functional as F

from ws_det.markdown import table
from ws_det.smoothness import probe_smoothness
from ws_det.study.grid import RATES, Grid, data_sentence, search_table
from ws_det.study.plots import draw_lines
from ws_det.study.runs import Results, Run
from ws_det.study.training import Moment, train
from ws_det.study.verdicts import cell, mean_spread, verdict

TITLE = "Smoothness: the loss along the gradient"
ARMS = {"GN": {"norm": "GN", "kernel": "plain"}, "GN+WS": {"norm": "GN", "kernel": "ws"}}
GRID = Grid(ARMS, (32,), seeds=(0, 1, 2), final="ws_det.study.smoothness:train_and_probe")
POINTS = 10
# The same steps for both arms, whatever rate each of them trains at.
LENGTHS = RATES
_NUMBERS = {
    "loss": "loss",
    "loss_range": "range of the loss",
    "gradient_norm": "norm of the gradient",
    "relative_gradient_norm": "norm of the gradient, relative",
    "beta": "beta",
    "relative_beta": "beta, relative",
}


def plan(results: Results, quick: bool = False) -> list[Run]:
    """The search for both arms, then the seeds at the best rate."""
    return GRID.plan(results, quick)


def train_and_probe(settings: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Train, and probe at evenly spread steps on the batch that comes next.

    Returns:
        What ``train`` returns, and ``points``: the probe's numbers with ``progress``.
    """
    points: list[dict[str, Any]] = []

    def watch(moment: Moment) -> None:
        due = [round(index / POINTS * moment.steps) for index in range(POINTS)]
        if moment.step not in due:
            return

        def loss() -> Any:
            return F.cross_entropy(moment.model(moment.images), moment.labels)

        numbers = probe_smoothness(moment.model, loss, LENGTHS).numbers()
        numbers["loss_range"] = numbers["loss_max"] - numbers["loss_min"]
        points.append({"progress": moment.step / moment.steps, **numbers})

    return {**train(settings, folder, watch), "points": points}


def summarize(results: Results) -> dict[str, Any]:
    """Each number over training, the median of each run, and the verdicts."""
    summary = GRID.summarize(results)
    for arm in summary["arms"].values():
        runs = [run["points"] for run in arm.pop("runs")]
        arm["progress"] = [point["progress"] for point in runs[0]]
        arm["over_training"] = {
            key: [[point[key] for point in run] for run in runs] for key in _NUMBERS
        }
        arm["median"] = {
            key: mean_spread([median(values) for values in curves])
            for key, curves in arm["over_training"].items()
        }
    claims = {
        "relative_gradient_norm": "WS makes the loss smoother (GN's relative gradient is larger)",
        "relative_beta": "WS makes the gradient smoother (GN's relative beta is larger)",
    }
    found = {
        key: [arm["median"][key]["values"] for arm in summary["arms"].values()] for key in claims
    }
    summary["verdicts"] = [
        verdict(f"smoothness: {claim}", *found[key])
        for key, claim in claims.items()
        if len(found[key]) == len(ARMS)
    ]
    return summary


def section(summary: dict[str, Any]) -> str:
    """The text and the tables."""
    rows = [
        [arm["arm"], *(cell(arm["median"][key]) for key in _NUMBERS)]
        for arm in summary["arms"].values()
    ]
    return "\n\n".join(
        [
            f"Network and schedule of the classification above at batch {GRID.batches[0]}, "
            f"{len(GRID.seeds)} seeds. At {POINTS} points of the training, steps of "
            f"{', '.join(f'{length:g}' for length in LENGTHS)} times the gradient go along the "
            f"negative gradient of one batch (after arXiv:1805.11604), the same lengths for both "
            f"arms: how far the loss ranges on them, and how much the gradient changes over the "
            f"distance at most (the effective beta smoothness). {data_sentence(summary)}",
            "A norm makes the loss invariant to the scale of a kernel, and WS to its shift too, so "
            "raw weights have no scale that both arms share: kernels that are twice as large have "
            "gradients half as large and a quarter of the curvature, and train no smoother. "
            "*Relative* numbers measure every filter in units of its own norm. The verdicts use "
            "those; the absolute ones stand beside them.",
            "Each arm is probed where its own training passes, and the better a batch is fitted, "
            "the smaller are its gradients and their changes: so the loss at the points stands in "
            "the first column.",
            "The median over the points of a run, mean ± standard deviation over the seeds:",
            table(["", *_NUMBERS.values()], rows),
            search_table(summary),
        ]
    )


def draw(summary: dict[str, Any], path: Path) -> None:
    """A panel for each number over training, a line for each arm."""
    panels = {}
    for key in ("loss_range", "relative_gradient_norm", "relative_beta", "beta"):
        panels[_NUMBERS[key]] = {
            arm["arm"]: (
                arm["progress"],
                [fmean(values) for values in zip(*arm["over_training"][key])],
                [min(values) for values in zip(*arm["over_training"][key])],
                [max(values) for values in zip(*arm["over_training"][key])],
            )
            for arm in summary["arms"].values()
        }
    draw_lines(panels, path, "share of the training; line: mean, bars: range of the seeds", True)

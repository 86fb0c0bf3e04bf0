"""Elimination singularities: the channels before the nonlinearities, over training and by depth."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from ws_det.diagnostics import (
    NEARLY_DEAD,
    ChannelStatistics,
    channel_statistics,
    share_nearly_dead,
)
from ws_det.markdown import table
from ws_det.study.grid import Grid, data_sentence, search_table
from ws_det.study.plots import draw_lines
from ws_det.study.runs import Results, Run
from ws_det.study.training import Moment, train
from ws_det.study.verdicts import cell, mean_spread, verdict

TITLE = "Elimination singularities over training"
ARMS = {
    "BN": {"norm": "BN", "kernel": "plain"},
    "GN": {"norm": "GN", "kernel": "plain"},
    "GN+WS": {"norm": "GN", "kernel": "ws"},
    "BCN": {"norm": "BCN", "kernel": "plain"},
    "BCN+WS": {"norm": "BCN", "kernel": "ws"},
}
GRID = Grid(ARMS, (2,), seeds=(0, 1, 2), final="ws_det.study.singularities:train_and_measure")
POINTS = 10
_NUMBERS = {
    "mean": "abs. normalized mean",
    "mean_spread": "its spread over channels",
    "deviation": "deviation",
    "deviation_spread": "its spread over channels",
    "nearly_dead": "nearly dead, %",
}


def plan(results: Results, quick: bool = False) -> list[Run]:
    """The search for every arm, then the seeds at the best rate."""
    return GRID.plan(results, quick)


def train_and_measure(settings: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Train, and measure the channels on the validation images at evenly spread steps.

    Returns:
        What ``train`` returns, and ``points``: ``progress``, ``all`` channels in one, and
        ``layers`` by name in the order of use.
    """
    points: list[dict[str, Any]] = []

    def watch(moment: Moment) -> None:
        # Not at the start: there BN has no statistics yet to be evaluated with.
        due = {round((index + 1) / POINTS * moment.steps) - 1 for index in range(POINTS)}
        if moment.step in due:
            found = channel_statistics(moment.model, [moment.validation.images])
            points.append(
                {
                    "progress": (moment.step + 1) / moment.steps,
                    "all": numbers(found),
                    "layers": {name: numbers({name: own}) for name, own in found.items()},
                }
            )

    return {**train(settings, folder, watch), "points": points}


def numbers(statistics: Mapping[str, ChannelStatistics]) -> dict[str, float]:
    """Mean and spread over channels; a constant channel has no normalized mean and only is dead."""
    means = torch.cat([own.normalized_mean for own in statistics.values()]).abs()
    means = means[means.isfinite()]
    deviations = torch.cat([own.std for own in statistics.values()])
    found = {"nearly_dead": 100 * share_nearly_dead(statistics)}
    for key, values in (("mean", means), ("deviation", deviations)):
        found[key] = values.mean().item() if len(values) else 0.0
        found[f"{key}_spread"] = values.std(correction=0).item() if len(values) else 0.0
    return found


def summarize(results: Results) -> dict[str, Any]:
    """Each number over training, by depth at the end, the mean of each run, and the verdicts."""
    summary = GRID.summarize(results)
    for arm in summary["arms"].values():
        runs = [run["points"] for run in arm.pop("runs")]
        arm["progress"] = [point["progress"] for point in runs[0]]
        arm["over_training"] = {
            key: [[point["all"][key] for point in run] for run in runs] for key in _NUMBERS
        }
        last = [run[-1]["layers"] for run in runs]
        arm["layers"] = list(last[0])
        arm["by_depth"] = {
            key: [[layers[name][key] for name in arm["layers"]] for layers in last]
            for key in _NUMBERS
        }
        arm["mean"] = {
            key: mean_spread([fmean(values) for values in curves])
            for key, curves in arm["over_training"].items()
        }
    means = {arm["arm"]: arm["mean"] for arm in summary["arms"].values()}
    claims = [
        ("GN's channels are further from mean 0 than BN's", "mean", "GN", "BN"),
        ("GN's channels are further from mean 0 than GN+WS's", "mean", "GN", "GN+WS"),
        ("GN's channels are further from mean 0 than BCN's", "mean", "GN", "BCN"),
        ("GN+WS's channels are further from mean 0 than BCN+WS's", "mean", "GN+WS", "BCN+WS"),
        ("GN's deviations differ more than GN+WS's", "deviation_spread", "GN", "GN+WS"),
        ("GN has more channels nearly dead than GN+WS, %", "nearly_dead", "GN", "GN+WS"),
    ]
    summary["verdicts"] = [
        verdict(f"singularities: {claim}", means[high][key]["values"], means[low][key]["values"])
        for claim, key, high, low in claims
        if high in means and low in means
    ]
    return summary


def section(summary: dict[str, Any]) -> str:
    """The text and the tables."""
    rows = [
        [arm["arm"], *(cell(arm["mean"][key], 2) for key in _NUMBERS)]
        for arm in summary["arms"].values()
    ]
    return "\n\n".join(
        [
            f"Network and schedule of the classification above at batch {GRID.batches[0]}, "
            f"{len(GRID.seeds)} seeds. At {POINTS} points of the training, what enters each "
            f"nonlinearity is measured per channel over the validation images, in evaluation; BCN "
            f"is its micro-batch form (EstBN), and the arm without WS and its claim were added "
            f"after the others had been seen. A channel whose mean is far below 0, in units of "
            f"its deviation, is set to 0 by the ReLU: near an elimination singularity. Nearly dead "
            f"is one above 0 in less than "
            f"{NEARLY_DEAD:.0%} of its cells. {data_sentence(summary)}",
            "The mean over the points of a run, of all channels; mean ± standard deviation over "
            "the seeds:",
            table(["", *_NUMBERS.values()], rows),
            search_table(summary),
        ]
    )


def draw(summary: dict[str, Any], path: Path) -> None:
    """Mean and spread over channels, over training and by depth, a line for each arm."""
    panels: dict[str, Any] = {}
    for where, places in (("over_training", "progress"), ("by_depth", "layers")):
        for key in ("mean", "deviation"):
            title = f"{_NUMBERS[key]}, {'over training' if places == 'progress' else 'by depth'}"
            panels[title] = {
                arm["arm"]: (
                    arm[places],
                    *_bars(arm[where][key], arm[where][f"{key}_spread"]),
                )
                for arm in summary["arms"].values()
            }
    draw_lines(panels, path, "line: mean over channels and seeds, bars: deviation over channels")


def _bars(means: list[list[float]], spreads: list[list[float]]) -> tuple[list[float], ...]:
    middle = [fmean(values) for values in zip(*means)]
    spread = [fmean(values) for values in zip(*spreads)]
    low = [max(0.0, m - s) for m, s in zip(middle, spread)]
    return middle, low, [m + s for m, s in zip(middle, spread)]

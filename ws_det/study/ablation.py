"""WS by its parts: the mean alone, the deviation alone, both."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ws_det.markdown import table
from ws_det.study.grid import EPOCHS, Grid, data_sentence, search_table
from ws_det.study.plots import by_batch, draw_points
from ws_det.study.runs import Results, Run
from ws_det.study.verdicts import cell, mean_spread, verdict

TITLE = "WS by its parts"
TAKES_IMAGES = True
ARMS = {
    "GN": {"norm": "GN", "kernel": "plain"},
    "GN, mean only": {"norm": "GN", "kernel": "mean"},
    "GN, deviation only": {"norm": "GN", "kernel": "deviation"},
    "GN+WS": {"norm": "GN", "kernel": "ws"},
}
GRID = Grid(ARMS, batches=(2,), seeds=(0, 1, 2, 3, 4))
# Top-1 error of ResNet-50 on ImageNet, arXiv:1903.10520
_PUBLISHED = {"GN": 24.81, "GN, mean only": 23.96, "GN, deviation only": 24.60, "GN+WS": 23.72}


def plan(results: Results, quick: bool = False, images: str | None = None) -> list[Run]:
    """The search for every arm, then the seeds at the best rate."""
    return GRID.plan(results, quick, images)


def summarize(results: Results) -> dict[str, Any]:
    """Error, loss and training loss of each arm, and the verdicts."""
    summary = GRID.summarize(results)
    for arm in summary["arms"].values():
        runs = arm.pop("runs")
        arm["error"] = mean_spread([100 * (1 - run["accuracy"]) for run in runs])
        for key in ("loss", "train_loss"):
            numbers = [run[key] for run in runs if run[key] is not None]
            arm[key] = mean_spread(numbers) if numbers else None
    errors = {arm["arm"]: arm["error"]["values"] for arm in summary["arms"].values()}
    # The paper's order, neighbour by neighbour, and its ends.
    pairs = [
        ("GN", "GN, deviation only"),
        ("GN, deviation only", "GN, mean only"),
        ("GN, mean only", "GN+WS"),
        ("GN", "GN, mean only"),
        ("GN", "GN+WS"),
    ]
    summary["verdicts"] = [
        verdict(
            f"ablation: {higher} has more errors than {lower}",
            errors[higher], errors[lower], "% error",
        )
        for higher, lower in pairs
        if higher in errors and lower in errors
    ]  # fmt: skip
    # "to accelerate deep network training", says the abstract.
    fits = {arm["arm"]: arm["train_loss"] for arm in summary["arms"].values()}
    if fits.get("GN") and fits.get("GN+WS"):
        sides = [fits[arm]["values"] for arm in ("GN", "GN+WS")]
        summary["verdicts"].append(
            verdict("ablation: GN has a larger training loss than GN+WS", *sides)
        )
    return summary


def section(summary: dict[str, Any]) -> str:
    """The text and the tables."""
    rows = [
        [
            arm["arm"],
            cell(arm["error"], 2),
            *(cell(arm[key]) if arm[key] else "diverged" for key in ("loss", "train_loss")),
            f"{_PUBLISHED[arm['arm']]:.2f}",
        ]
        for arm in summary["arms"].values()
    ]
    heads = ["", "held-out error, %", "held-out loss", "training loss, last epoch"]
    return "\n\n".join(
        [
            f"Network and schedule of the classification above at batch {GRID.batches[0]}, "
            f"{EPOCHS} epochs, {len(GRID.seeds)} seeds, GN throughout. Only the kernels differ: as "
            f"they are, their mean removed, divided by their deviation, or both. Beside it the WS "
            f"paper's ablation (arXiv:1903.10520). The claim on the training loss was added after "
            f"the numbers had been seen. {data_sentence(summary)}",
            table([*heads, "paper: top-1 error, R50 on ImageNet"], rows),
            search_table(summary),
        ]
    )


def draw(summary: dict[str, Any], path: Path) -> None:
    """Error and loss, a column of points for each arm."""
    labels = {"held-out error, %": "error", "held-out loss": "loss"}
    draw_points(by_batch(summary["arms"].values(), labels), path)

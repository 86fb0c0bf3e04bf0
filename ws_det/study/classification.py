"""Classification: BN, GN, GN+WS and BCN+WS at batch sizes from 2 to 128."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ws_det.markdown import table
from ws_det.study.grid import EPOCHS, Grid, data_sentence, search_table
from ws_det.study.plots import by_batch, draw_points
from ws_det.study.runs import Results, Run
from ws_det.study.verdicts import cell, mean_spread, verdict

TITLE = "Classification: batch sizes from 2 to 128"
TAKES_IMAGES = True
ARMS = {
    "BN": {"norm": "BN", "kernel": "plain"},
    "GN": {"norm": "GN", "kernel": "plain"},
    "GN+WS": {"norm": "GN", "kernel": "ws"},
    "BCN+WS": {"norm": "BCN", "kernel": "ws"},
}
GRID = Grid(ARMS, batches=(2, 32, 128), seeds=(0, 1, 2))
# Accuracy in percent of BN and of "GN+WS", by batch size: README of _SOURCE at commit d08d575
_PUBLISHED = {2: (18.78, 91.86), 64: (92.49, 92.82), 128: (92.93, 92.90)}
_SOURCE = "https://github.com/ThomasEhling/Weight_Standardization"


def plan(results: Results, quick: bool = False, images: str | None = None) -> list[Run]:
    """The search for every arm and batch size, then the seeds at the best rate."""
    return GRID.plan(results, quick, images)


def summarize(results: Results) -> dict[str, Any]:
    """Accuracy, loss and seconds per epoch of each arm and batch size, and the verdicts."""
    summary = GRID.summarize(results)
    for arm in summary["arms"].values():
        runs = arm.pop("runs")
        arm["accuracy"] = mean_spread([100 * run["accuracy"] for run in runs])
        for key in ("loss", "epoch_seconds"):
            numbers = [run[key] for run in runs if run[key] is not None]
            arm[key] = mean_spread(numbers) if numbers else None
    summary["verdicts"] = _verdicts(summary["arms"])
    return summary


def _verdicts(arms: dict[str, Any]) -> list[dict[str, Any]]:
    claims = [
        ("at batch 2 GN+WS is above BN", ("GN+WS", 2), ("BN", 2)),
        ("at batch 2 BCN+WS is above BN", ("BCN+WS", 2), ("BN", 2)),
        ("at batch 2 GN+WS is above GN", ("GN+WS", 2), ("GN", 2)),
        ("at batch 32 GN+WS is above GN", ("GN+WS", 32), ("GN", 32)),
        ("at batch 128 GN+WS is above GN", ("GN+WS", 128), ("GN", 128)),
        ("BN loses accuracy from batch 128 to batch 2", ("BN", 128), ("BN", 2)),
        ("at batch 128 BN is above GN+WS", ("BN", 128), ("GN+WS", 128)),
    ]
    found = []
    for claim, *sides in claims:
        keys = [f"{arm}, batch {batch}" for arm, batch in sides]
        if all(key in arms for key in keys):
            values = [arms[key]["accuracy"]["values"] for key in keys]
            found.append(verdict(f"classification: {claim}", *values, unit="% accuracy"))
    return found


def section(summary: dict[str, Any]) -> str:
    """The text and the tables."""
    arms = summary["arms"]
    batches = [b for b in GRID.batches if any(a["batch"] == b for a in arms.values())]

    def by_batch(key: str, digits: int) -> list[list[str]]:
        return [
            [arm, *(_cell(arms.get(f"{arm}, batch {batch}"), key, digits) for batch in batches)]
            for arm in ARMS
        ]

    heads = [f"batch {batch}" for batch in batches]
    published = [
        [str(batch), f"{bn:.2f}", f"{gn_ws:.2f}"] for batch, (bn, gn_ws) in _PUBLISHED.items()
    ]
    return "\n\n".join(
        [
            f"A residual network of seven 3x3 convolutions (78,000 weights), trained by SGD with "
            f"momentum 0.9 and a cosine schedule for {EPOCHS} epochs at every batch size: the same "
            f"images seen, in fewer steps at larger batches. {len(GRID.seeds)} seeds. BCN is the "
            f"micro-batch form (EstBN) at every batch size. {data_sentence(summary)}",
            table(["held-out accuracy, %", *heads], by_batch("accuracy", 2)),
            table(["held-out loss", *heads], by_batch("loss", 3)),
            table(
                ["seconds per epoch, one thread, other runs beside", *heads],
                by_batch("epoch_seconds", 2),
            ),
            f"A [reproduction by others]({_SOURCE}) (Keras, Fashion-MNIST, 10 epochs) gives these, "
            f"in percent. They say little about WS: its function is passed as Keras's "
            f"`kernel_regularizer`, which changes the loss at most and never a kernel, so that the "
            f"last column is GN; and of the histories kept beside them, the one of BN at batch 2 "
            f"ends at 79.4% validation accuracy.",
            table(["batch", "BN", '"GN+WS"'], published),
            search_table(summary),
        ]
    )


def draw(summary: dict[str, Any], path: Path) -> None:
    """Accuracy and loss, a column of points for each arm and batch size."""
    labels = {"held-out accuracy, %": "accuracy", "held-out loss": "loss"}
    draw_points(by_batch(summary["arms"].values(), labels), path)


def _cell(arm: dict[str, Any] | None, key: str, digits: int) -> str:
    return cell(arm[key], digits) if arm and arm[key] else "diverged" if arm else ""

"""The trainings of a study of classification: a search for each arm, then the seeds."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ws_det.markdown import table
from ws_det.study.images import check_images
from ws_det.study.runs import Results, Run
from ws_det.study.verdicts import best_rate

RATES = (0.01, 0.05, 0.2, 1.0)  # at batch 32; in proportion to the batch
SEARCH_SEED = 100
EPOCHS, SEARCH_EPOCHS = 5, 3
TRAIN = "ws_det.study.training:train"


@dataclass(frozen=True)
class Grid:
    """Arms at batch sizes with seeds, each arm and batch size at a learning rate of its own.

    Attributes:
        arms: By name: ``norm`` and ``kernel``, as ``ws_det.study.network.build`` takes them.
        batches: Batch sizes.
        seeds: Of the runs that are reported, none of them ``SEARCH_SEED``.
        final: The function of those runs, if it is not ``TRAIN``.
    """

    arms: Mapping[str, Mapping[str, str]]
    batches: tuple[int, ...]
    seeds: tuple[int, ...]
    final: str = TRAIN

    def plan(self, results: Results, quick: bool = False, images: str | None = None) -> list[Run]:
        """The search for every arm and batch size; the seeds where the search is done.

        Args:
            results: Of the runs that are done.
            quick: Two arms, one batch size, rate and seed, an epoch of 32 images.
            images: A folder of Fashion-MNIST's files instead of scikit-learn's digits.

        Raises:
            InputError: If scikit-learn or a file is missing.
        """
        check_images(images)
        runs = []
        for batch in self.batches[-1:] if quick else self.batches:
            for arm in list(self.arms)[:2] if quick else self.arms:
                search = [
                    self._run(arm, batch, rate, SEARCH_SEED, quick, images)
                    for rate in (RATES[2:3] if quick else RATES)
                ]
                runs += search
                if all(run.name in results for run in search):
                    rate = self._best(arm, batch, results)
                    seeds = self.seeds[:1] if quick else self.seeds
                    runs += [self._run(arm, batch, rate, seed, quick, images) for seed in seeds]
        return runs

    def summarize(self, results: Results) -> dict[str, Any]:
        """``data``; ``search``: the validation losses; ``arms``: what the seeds returned."""
        search, arms = {}, {}
        for arm in self.arms:
            for batch in self.batches:
                final = [_name(arm, batch, seed) for seed in self.seeds]
                final = [results[name] for name in final if name in results]
                if final:
                    key, rate = f"{arm}, batch {batch}", self._best(arm, batch, results)
                    losses = self._losses(arm, batch, results)
                    search[key] = {f"{rate:g}": loss for rate, loss in losses.items()}
                    arms[key] = {"arm": arm, "batch": batch, "rate": rate, "runs": final}
        data = next(arm["runs"][0]["data"] for arm in arms.values())
        return {"data": data, "search": search, "arms": arms}

    def _losses(self, arm: str, batch: int, results: Results) -> dict[float, float | None]:
        names = {rate: _search_name(arm, batch, rate) for rate in RATES}
        return {rate: results[n]["loss"] for rate, n in names.items() if n in results}

    def _best(self, arm: str, batch: int, results: Results) -> float:
        losses = self._losses(arm, batch, results)
        return best_rate({r: -math.inf if v is None else -v for r, v in losses.items()})

    def _run(
        self, arm: str, batch: int, rate: float, seed: int, quick: bool, images: str | None
    ) -> Run:
        searching = seed == SEARCH_SEED
        settings = {
            **self.arms[arm],
            "batch": batch,
            "lr": rate * batch / 32,
            "epochs": 1 if quick else SEARCH_EPOCHS if searching else EPOCHS,
            "seed": seed,
            "images": images,
            "judged": "validation" if searching else "held_out",
            "limit": 32 if quick else None,
        }
        if searching:
            return Run(_search_name(arm, batch, rate), TRAIN, settings)
        return Run(_name(arm, batch, seed), self.final, settings)


def data_sentence(summary: Mapping[str, Any]) -> str:
    """Which images, and how they are split."""
    data = summary["data"]
    return (
        f"The images are {data['name']} ({data['size']} x {data['size']} pixels), split once for "
        f"all runs: {data['train']} to learn from, {data['validation']} to choose the learning "
        f"rate, {data['held_out']} held out for the numbers here."
    )


def search_table(summary: Mapping[str, Any]) -> str:
    """How the learning rates were found: a sentence and a table."""
    searched = [rate for rate in RATES if any(f"{rate:g}" in s for s in summary["search"].values())]
    rows = [
        [
            key,
            *(_loss(losses, rate) for rate in searched),
            f"{summary['arms'][key]['rate']:g}",
        ]
        for key, losses in summary["search"].items()
    ]
    return (
        f"The learning rate of each row (at batch 32; scaled in proportion to the batch): the one "
        f"with the least loss on the validation images after {SEARCH_EPOCHS} epochs, with a seed "
        f"that is none of those reported:\n\n"
        + table(["validation loss at rate", *(f"{rate:g}" for rate in searched), "chosen"], rows)
    )


def _loss(losses: Mapping[str, float | None], rate: float) -> str:
    if f"{rate:g}" not in losses:
        return ""
    loss = losses[f"{rate:g}"]
    return "diverged" if loss is None else f"{loss:.3f}"


def _search_name(arm: str, batch: int, rate: float) -> str:
    return f"search_{_slug(arm)}_b{batch}_lr{rate:g}"


def _name(arm: str, batch: int, seed: int) -> str:
    return f"{_slug(arm)}_b{batch}_s{seed}"


def _slug(arm: str) -> str:
    return arm.lower().replace(" + ", "-").replace("+", "-").replace(", ", "-").replace(" ", "-")

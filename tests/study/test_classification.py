"""The studies of classification and of WS by its parts, end to end at their smallest.

Oracle: numbers written by hand for the verdicts; pixels for the plots.
"""

from __future__ import annotations

import json
from functools import partial
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.study.cases import run_plan

pytest.importorskip("sklearn", reason="the digits are scikit-learn's")
pytest.importorskip("matplotlib", reason="the plots are matplotlib's")

from matplotlib.image import imread

from ws_det.study import ablation, classification


def invented(study: ModuleType, accuracies: dict[tuple[str, int], list[float]]) -> dict[str, Any]:
    """Results of a whole plan with these accuracies, 0.5 where none is given."""
    data = {"name": "digits", "size": 8, "train": 1, "validation": 1, "held_out": 1}
    results: dict[str, Any] = {}
    while new := [run for run in study.plan(results) if run.name not in results]:
        for run in new:
            arm = next(
                arm
                for arm, kind in study.ARMS.items()
                if all(run.settings[key] == value for key, value in kind.items())
            )
            values = accuracies.get((arm, run.settings["batch"]), [0.5] * 9)
            accuracy = values[run.settings["seed"] % 100]
            results[run.name] = {
                "accuracy": accuracy, "loss": 1 - accuracy, "train_loss": 0.1,
                "epoch_seconds": 2.0, "data": data,
            }  # fmt: skip
    return results


@pytest.mark.parametrize("name", ["classification", "ablation"])
def test_the_smallest_plan_goes_from_runs_to_the_page(name: str, tmp_path: Path) -> None:
    study = import_module(f"ws_det.study.{name}")
    results = run_plan(partial(study.plan, quick=True), tmp_path)
    assert len(results) == 4
    summary = json.loads(json.dumps(study.summarize(results)))
    assert "scikit-learn's handwritten digits" in study.section(summary)
    study.draw(summary, tmp_path / "plot.png")
    assert imread(tmp_path / "plot.png")[..., :3].min() < 0.1  # something is drawn


def test_classification_judges_the_claims_by_every_seed() -> None:
    numbers = {
        ("BN", 2): [0.6, 0.7, 0.65], ("GN+WS", 2): [0.9, 0.92, 0.91], ("GN", 2): [0.95, 0.9, 0.8],
        ("BCN+WS", 2): [0.8, 0.82, 0.69], ("BN", 128): [0.98, 0.97, 0.99],
        ("GN+WS", 128): [0.991, 0.992, 0.993],
    }  # fmt: skip
    summary = classification.summarize(invented(classification, numbers))
    verdicts = {v["claim"]: v["verdict"] for v in summary["verdicts"]}
    assert verdicts["classification: at batch 2 GN+WS is above BN"] == "shown"
    assert verdicts["classification: at batch 2 BCN+WS is above BN"] == "not shown at this size"
    assert verdicts["classification: at batch 2 GN+WS is above GN"] == "not shown at this size"
    assert verdicts["classification: BN loses accuracy from batch 128 to batch 2"] == "shown"
    assert verdicts["classification: at batch 128 BN is above GN+WS"] == "contradicted"
    section = classification.section(summary)
    assert "| BN | 65.00 ± 5.00 | 50.00 ± 0.00 | 98.00 ± 1.00 |" in section
    assert "| 2 | 18.78 | 91.86 |" in section


def test_ablation_judges_the_order_of_the_paper() -> None:
    numbers = {
        ("GN", 2): [0.5] * 5, ("GN, deviation only", 2): [0.6] * 5,
        ("GN, mean only", 2): [0.7, 0.8, 0.7, 0.7, 0.7], ("GN+WS", 2): [0.6] * 5,
    }  # fmt: skip
    results = invented(ablation, numbers)
    for seed in range(5):
        results[f"gn-ws_b2_s{seed}"]["train_loss"] = 0.05
    summary = ablation.summarize(results)
    assert [v["verdict"] for v in summary["verdicts"]] == [
        "shown", "shown", "contradicted", "shown", "shown", "shown",
    ]  # fmt: skip
    assert summary["verdicts"][-1]["figures"].startswith("0.1 ")
    row = "| GN, mean only | 28.00 ± 4.47 | 0.280 ± 0.045 | 0.100 ± 0.000 | 23.96 |"
    assert row in ablation.section(summary)

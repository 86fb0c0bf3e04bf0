"""Probes along the training of GN and GN+WS, end to end at its smallest.

Oracle: the training without probes; numbers written by hand for the verdicts.
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("sklearn", reason="the digits are scikit-learn's")
pytest.importorskip("matplotlib", reason="the plots are matplotlib's")

from matplotlib.image import imread

from tests.study.cases import run_plan
from ws_det.study import smoothness
from ws_det.study.training import train


def test_the_smallest_plan_goes_from_runs_to_the_page(tmp_path: Path) -> None:
    results = run_plan(partial(smoothness.plan, quick=True), tmp_path)
    assert len(results) == 4
    summary = json.loads(json.dumps(smoothness.summarize(results)))
    assert len(summary["verdicts"]) == 2
    assert "| GN+WS | " in smoothness.section(summary)
    smoothness.draw(summary, tmp_path / "plot.png")
    assert imread(tmp_path / "plot.png")[..., :3].min() < 0.1


def test_probes_do_not_change_the_training(tmp_path: Path) -> None:
    settings = {
        "norm": "BCN", "kernel": "ws", "batch": 16, "lr": 0.1, "epochs": 1, "seed": 0,
        "images": None, "judged": "held_out", "limit": 320,
    }  # fmt: skip
    probed = smoothness.train_and_probe(settings, tmp_path)
    plain = train(settings, tmp_path)
    assert [point["progress"] for point in probed["points"]] == [i / 10 for i in range(10)]
    for key in ("accuracy", "loss", "train_loss"):
        assert probed[key] == plain[key]


def test_the_verdicts_are_of_relative_numbers_and_the_median() -> None:
    def run(relative_beta: list[float]) -> dict[str, Any]:
        keys = ("loss", "loss_range", "gradient_norm", "relative_gradient_norm", "beta")
        points = [
            {"progress": i / 3, "relative_beta": value, **dict.fromkeys(keys, 1.0)}
            for i, value in enumerate(relative_beta)
        ]
        data = {"name": "digits", "size": 8, "train": 1, "validation": 1, "held_out": 1}
        return {"loss": 1.0, "points": points, "data": data}

    results = {run.name: {"loss": 1.0} for run in smoothness.plan({})}
    for seed in (0, 1, 2):
        results[f"gn_b32_s{seed}"] = run([1.0, 5.0 + seed, 100.0])
        results[f"gn-ws_b32_s{seed}"] = run([1000.0, 2.0 + seed, 1.0])
    summary = smoothness.summarize(results)
    assert summary["arms"]["GN, batch 32"]["median"]["relative_beta"]["values"] == [5, 6, 7]
    assert [v["verdict"] for v in summary["verdicts"]] == ["not shown at this size", "shown"]

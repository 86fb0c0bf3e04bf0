"""One training of the classification studies. Oracle: what a network must learn from digits."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("sklearn", reason="the digits are scikit-learn's")

from ws_det.study.network import build
from ws_det.study.training import DECAY, Moment, kernels_of, optimizer_of, train

SETTINGS = {
    "norm": "GN", "kernel": "ws", "batch": 32, "lr": 0.1, "epochs": 2, "seed": 0,
    "images": None, "judged": "held_out", "limit": 384,
}  # fmt: skip


def run(folder: Path, watch: Any = None, **changed: Any) -> dict[str, Any]:
    result = train({**SETTINGS, **changed}, folder, watch)
    return {key: value for key, value in result.items() if key != "epoch_seconds"}


def test_it_learns_and_the_seed_decides(tmp_path: Path) -> None:
    result = run(tmp_path)
    # 0.9 here after 24 steps; chance is 0.1
    assert result["accuracy"] > 0.6 and result["loss"] < 1.5
    assert result == run(tmp_path) != run(tmp_path, seed=1)
    assert result["data"]["held_out"] == 773
    assert run(tmp_path, judged="validation")["accuracy"] != result["accuracy"]


def test_a_watcher_sees_every_step_and_changes_nothing(tmp_path: Path) -> None:
    seen: list[Moment] = []

    def watch(moment: Moment) -> None:
        assert moment.model.training
        seen.append(moment)

    assert run(tmp_path, watch) == run(tmp_path)
    assert [moment.step for moment in seen] == list(range(24)) and seen[0].steps == 24
    assert seen[0].images.shape == (32, 1, 8, 8)
    # two epochs, each with every image once
    labels = torch.cat([moment.labels for moment in seen]).view(2, -1)
    assert torch.equal(labels[0].bincount(), labels[1].bincount())
    # one step of warm-up, then a cosine from the peak to nothing
    expected = [0.1 * (1 + math.cos(math.pi * step / 24)) / 2 for step in range(24)]
    assert [moment.lr for moment in seen] == pytest.approx(expected)


def test_a_diverged_run_ends_early_and_says_so(tmp_path: Path) -> None:
    seen: list[Moment] = []
    result = run(tmp_path, seen.append, lr=1e30, epochs=5, kernel="plain", norm="BN")
    assert result["train_loss"] is None and len(seen) < 60
    assert 0 <= result["accuracy"] < 0.3


def test_kernels_alone_decay() -> None:
    model = build("BCN", "ws")
    optimizer, _, _ = optimizer_of(model, SETTINGS, 384)
    decaying, others = optimizer.param_groups
    assert decaying["weight_decay"] == DECAY and others["weight_decay"] == 0
    assert [id(p) for p in decaying["params"]] == [id(p) for p in kernels_of(model)]
    names = {id(p): name for name, p in model.named_parameters()}
    assert all(p.ndim in (2, 4) for p in decaying["params"])
    assert len(decaying["params"]) + len(others["params"]) == len(names)

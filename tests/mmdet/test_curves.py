"""CurvesHook in real, tiny runs. Oracles: the numbers the model and the metric gave out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("mmdet")

import torch
from mmengine.evaluator import BaseMetric
from mmengine.model import BaseModel
from mmengine.runner import Runner
from torch import Tensor, nn

from ws_det.curves import draw_curves
from ws_det.mmdet import curves


class Model(BaseModel):
    """One weight, two losses: both 0.81 of before after a step of gradient descent with 0.05."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, inputs: Tensor, mode: str = "tensor") -> Any:
        if mode == "loss":
            return {"loss_cls": self.weight**2 / 2, "loss_mask": self.weight**2 / 2}
        return [{}]


class Metric(BaseMetric):
    """A box AP of 0.1, 0.2, ... in the first, second, ... validation; no masks."""

    default_prefix = "coco"

    def __init__(self, before: int) -> None:
        super().__init__()
        self.calls = before

    def process(self, data_batch: Any, data_samples: Any) -> None:
        self.results.append(0)

    def compute_metrics(self, results: list) -> dict[str, float]:
        self.calls += 1
        return {"bbox_mAP": self.calls / 10}


def train(work_dir: Path, max_iters: int, before: int = 0, resume: bool = False) -> None:
    data = dict(
        dataset=[{"inputs": 0.0}] * 4,
        sampler=dict(type="DefaultSampler", shuffle=False),
        batch_size=1,
    )
    Runner(
        Model(),
        str(work_dir),
        train_dataloader=data,
        val_dataloader=data,
        val_evaluator=[Metric(before)],
        train_cfg=dict(by_epoch=False, max_iters=max_iters, val_interval=3),
        val_cfg=dict(),
        optim_wrapper=dict(optimizer=dict(type="SGD", lr=0.05)),
        default_hooks=dict(checkpoint=dict(type="CheckpointHook", by_epoch=False, interval=3)),
        custom_hooks=[dict(type="CurvesHook")],
        resume=resume,
        experiment_name=f"{work_dir.parent.name}-{max_iters}-{before}",
    ).train()


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[tuple]:
    """The arguments of every drawing."""
    calls: list[tuple] = []
    monkeypatch.setattr(
        curves, "draw_curves", lambda *args: calls.append(args) or draw_curves(*args)
    )
    return calls


def test_draws_what_was_measured(tmp_path: Path, drawn: list[tuple]) -> None:
    """Also after a resume, from a checkpoint that knows nothing of its own validation."""
    train(tmp_path / "run", 6)
    assert (tmp_path / "run" / "curves.png").is_file()
    train(tmp_path / "run", 9, before=2, resume=True)
    losses, aps, last, path = drawn[-1]
    assert sorted(losses) == ["loss", "loss_cls", "loss_mask"] and last == 9
    np.testing.assert_allclose(losses["loss"], 0.9 ** (2 * np.arange(9)), rtol=1e-5)  # float32
    np.testing.assert_allclose(losses["loss_cls"], losses["loss"] / 2, rtol=1e-6)
    points = [(point["iter"], point["box AP"]) for point in aps]
    assert points == [(3, 0.1), (6, 0.2), (9, pytest.approx(0.3))]
    assert path == tmp_path / "run" / "curves.png"
    assert json.loads((tmp_path / "run" / "curves.json").read_text()) == aps


def test_new_run_forgets_the_old_one(tmp_path: Path, drawn: list[tuple]) -> None:
    """In the same work dir, without resume."""
    train(tmp_path / "run", 6)
    train(tmp_path / "run", 3, before=4)
    losses, aps, _, _ = drawn[-1]
    assert len(losses["loss"]) == 3 and aps == [{"iter": 3, "box AP": 0.5}]

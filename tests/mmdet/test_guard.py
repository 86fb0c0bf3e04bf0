"""NaN in a real Mask R-CNN under MMEngine's loop. Oracle: where it was planted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from mmdet.registry import MODELS
from mmdet.testing import demo_mm_inputs
from mmengine.config import Config
from mmengine.runner import Runner
from torch.utils.data import DataLoader

import ws_det.mmdet  # noqa: F401
from ws_det.errors import InputError


def batch(number: int, value: float = 1.0) -> dict[str, Any]:
    data = demo_mm_inputs(1, [(3, 64, 96)], num_classes=80, with_mask=True)
    data["inputs"] = [image.float() * value for image in data["inputs"]]
    for sample in data["data_samples"]:
        sample.set_metainfo(dict(img_path=f"{number}.jpg", img_id=number))
    return data


def runner(config: Path, folder: Path, batches: list[dict], **hook: str) -> Runner:
    torch.manual_seed(0)
    return Runner(
        model=MODELS.build(Config.fromfile(config).model),
        work_dir=str(folder),
        train_dataloader=DataLoader(batches, collate_fn=lambda items: items[0]),
        optim_wrapper=dict(
            type="OptimWrapper", optimizer=dict(type="SGD", lr=0.001), clip_grad=dict(max_norm=10)
        ),
        train_cfg=dict(type="EpochBasedTrainLoop", max_epochs=1),
        custom_hooks=[dict(type="NanGuardHook", **hook)],
        experiment_name=folder.name,
    )


def test_a_planted_infinity_stops_the_training(tiny_config: Path, tmp_path: Path) -> None:
    run = runner(tiny_config, tmp_path, [batch(0), batch(1)])

    def plant(model: Any, _: Any) -> None:  # not before: a Runner initializes weights
        with torch.no_grad():
            model.neck.fpn_convs[1].conv.weight[0, 0] = float("inf")

    run.model.register_forward_pre_hook(plant)
    with pytest.raises(InputError, match=r"iteration 1, first .* neck\.\S+ .* on 0\.jpg \(id 0\)"):
        run.train()
    (report,) = json.loads((tmp_path / "nonfinite_iter_1.json").read_text())["ranks"]
    assert report["layer"] == "neck.fpn_convs.1.conv" and report["input_is_finite"]
    assert report["parameter"] == "neck.fpn_convs.1.conv.weight"
    assert "nan" in report["losses"].values() and "loss_mask" in report["losses"]


def test_pixels_that_are_nan_are_skipped(tiny_config: Path, tmp_path: Path) -> None:
    """Oracle: the weights are finite and moved only in the two good steps."""
    data = [batch(0), batch(1, float("nan")), batch(2)]
    run = runner(tiny_config, tmp_path, data, on_nan="skip")
    weights = []
    run.model.register_forward_pre_hook(
        lambda model, _: weights.append(model.backbone.conv1.weight.detach().clone())
    )
    run.train()
    (report,) = json.loads((tmp_path / "nonfinite_iter_2.json").read_text())["ranks"]
    assert report["layer"] == "backbone.conv1" and not report["input_is_finite"]
    assert report["images_of_the_pass"] == ["1.jpg (id 1)"] and report["parameter"] is None
    first, bad, last = weights[0], weights[1], weights[-1]
    assert not torch.equal(first, bad) and torch.equal(bad, last)
    assert all(value.isfinite().all() for value in run.model.state_dict().values())
    assert not torch.equal(run.model.backbone.conv1.weight, last)

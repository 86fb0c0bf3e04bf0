"""NaN in a real Mask R-CNN of Detectron2. Oracle: where it was planted.

Its proposals raise FloatingPointError by themselves, without saying where it came from.
"""

from __future__ import annotations

import json
from itertools import cycle

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.structures import BitMasks, Boxes, Instances

from tests.detectron2.parts import TINY, yaml_config
from ws_det.detectron2.data import image_names
from ws_det.detectron2.trainer import AccumulatingTrainer
from ws_det.errors import InputError
from ws_det.guard import NanGuard


def image(number, value=1.0):
    truth = Instances((64, 96))
    truth.gt_boxes = Boxes(torch.tensor([[8.0, 8.0, 40.0, 40.0]]))
    truth.gt_classes = torch.tensor([1])
    masks = torch.zeros(1, 64, 96, dtype=torch.bool)
    masks[:, 8:40, 8:40] = True
    truth.gt_masks = BitMasks(masks)
    pixels = torch.randint(0, 256, (3, 64, 96)).float() * value
    return [{"image": pixels, "instances": truth, "file_name": f"{number}.jpg", "image_id": number}]


def trainer(folder, batches, on_nan="stop", **options):
    model = build_model(
        yaml_config(options={**TINY, "INPUT.MASK_FORMAT": "bitmask", "MODEL.RESNETS.DEPTH": 50})
    )
    guard = NanGuard(model, image_names, str(folder), on_nan)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
    made = AccumulatingTrainer(model, optimizer, seed=0, guard=guard, **options)
    made.data_loader = cycle(batches)
    return made


def test_a_planted_infinity_stops_the_training(tmp_path):
    made = trainer(tmp_path, [image(0)], max_norm=1.0)
    with torch.no_grad():
        made.model.backbone.fpn_output3.weight[0, 0] = float("inf")
    with pytest.raises(InputError, match=r"first .* backbone\.fpn_output3 .* on 0\.jpg \(id 0\)"):
        made.train(0, 2)
    (report,) = json.loads((tmp_path / "nonfinite_iter_0.json").read_text())["ranks"]
    assert report["parameter"] == "backbone.fpn_output3.weight" and report["input_is_finite"]


@pytest.mark.parametrize("options", [{}, {"max_norm": 1.0}, {"max_norm": 1.0, "amp": True}])
def test_pixels_that_are_nan_are_skipped(tmp_path, options):
    """Two passes a step, the second step has the bad image. Oracle: the weights around it."""
    data = [image(0), image(1), image(2), image(3, float("nan"))]
    made = trainer(tmp_path, data, "skip", accumulation=2, **options)
    weights = []
    made.model.register_forward_pre_hook(
        lambda model, _: weights.append(model.backbone.fpn_lateral2.weight.detach().clone())
    )
    made.train(0, 3)
    (report,) = json.loads((tmp_path / "nonfinite_iter_1.json").read_text())["ranks"]
    assert report["layer"] == "backbone.bottom_up.stem.conv1" and not report["input_is_finite"]
    assert report["images_of_the_pass"] == ["3.jpg (id 3)"]
    assert report["images_of_the_step"] == ["2.jpg (id 2)", "3.jpg (id 3)"]
    assert torch.equal(weights[2], weights[-1]) and not torch.equal(weights[0], weights[2])
    assert made.iter == 3 and all(v.isfinite().all() for v in made.model.state_dict().values())

"""What Detectron2 does with a whole model besides training it, on tiny ones with our layers."""

from __future__ import annotations

import copy

import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import GeneralizedRCNNWithTTA, build_model
from detectron2.modeling.roi_heads import build_box_head, build_mask_head
from detectron2.solver import build_optimizer, get_default_optimizer_params
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from tests.detectron2.parts import TINY, yaml_config

NORMS = ["GN", "BCN", "EstBN"]


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("part", [build_box_head, build_mask_head])
def test_heads_without_rois(norm, part):
    """Oracle: nothing was seen, so statistics stay, and every gradient is there and is zero."""
    cfg = yaml_config(norm, TINY)
    head = part(cfg, ShapeSpec(channels=16, width=7, height=7)).train()
    before = copy.deepcopy(head.state_dict())
    x = torch.randn(0, 16, 7, 7, requires_grad=True)
    layers = head.layers if part is build_mask_head else head
    layers(x).sum().backward()
    assert x.grad.shape == x.shape
    for name, parameter in head.named_parameters():
        assert parameter.grad is not None and not parameter.grad.any(), name
    for name, tensor in head.state_dict().items():
        assert torch.equal(tensor, before[name]), name


@pytest.mark.parametrize("norm", NORMS)
def test_weight_decay_of_norms(norm):
    """Oracle: the names; what belongs to a norm is under ``norm``, in BCN also its inner norm."""
    cfg = yaml_config(norm, TINY)
    cfg.SOLVER.WEIGHT_DECAY, cfg.SOLVER.WEIGHT_DECAY_NORM = 0.5, 0.25
    model = build_model(cfg)
    groups = get_default_optimizer_params(model, weight_decay=0.5, weight_decay_norm=0.25)
    for made in (groups, build_optimizer(cfg, model).param_groups):
        decay = {p: group["weight_decay"] for group in made for p in group["params"]}
        for name, parameter in model.named_parameters():
            assert decay[parameter] == (0.25 if ".norm." in name else 0.5), name
    count = sum(".norm." in name for name, _ in model.named_parameters())
    assert count == 69 * (4 if norm == "BCN" else 2)


@pytest.mark.parametrize("norm", NORMS)
def test_moving_average_of_a_model(norm):
    """Oracle: the average taken by hand; the statistics of the copy are those of the model."""
    model = build_model(yaml_config(norm, TINY)).backbone
    start = {name: p.detach().clone() for name, p in model.named_parameters()}
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.75))
    average.update_parameters(model)  # the first call copies
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)
    model.train()(torch.randn(1, 3, 64, 64))
    average.update_parameters(model)
    for name, parameter in average.module.named_parameters():
        torch.testing.assert_close(parameter, start[name] + 0.25)
    buffers = dict(model.named_buffers())
    for name, buffer in average.module.named_buffers():
        assert torch.equal(buffer, buffers[name]), name
    assert [type(m) for m in average.module.modules()] == [type(m) for m in model.modules()]


@pytest.mark.parametrize("norm", NORMS)
def test_deep_copies_compute_the_same(norm):
    """Oracle: the model itself, and that a copy has its own weights and statistics."""
    model = build_model(yaml_config(norm, TINY)).backbone
    twin = copy.deepcopy(model)
    x = torch.randn(1, 3, 64, 64)
    model.train()(x)
    assert any(
        not torch.equal(a, b) for a, b in zip(model.buffers(), twin.buffers(), strict=True)
    ) == (norm != "GN")
    twin.train()(x)
    for ours, theirs in zip(twin.eval()(x).values(), model.eval()(x).values(), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("norm", ["GN", "BCN"])
def test_test_time_augmentation(norm, in_float64):
    """Oracle: with the image alone as its only variant, the model's own boxes and masks.

    In float64: a pixel of a mask may sit on 0.5.
    """
    cfg = yaml_config(
        norm,
        TINY | {
            "MODEL.ROI_HEADS.SCORE_THRESH_TEST": 0.0,
            "TEST.AUG.MIN_SIZES": [64],
            "TEST.AUG.MAX_SIZE": 96,
            "TEST.AUG.FLIP": False,
        },
    )  # fmt: skip
    model = build_model(cfg)
    with torch.no_grad():
        model.backbone(torch.randn(2, 3, 64, 96))
    image = {"image": torch.randint(0, 256, (3, 64, 96), dtype=torch.uint8)}
    image |= {"height": 64, "width": 96}
    model.eval().double()
    before = copy.deepcopy(model.state_dict())
    with torch.no_grad():
        expected = model([image])[0]["instances"]
        got = GeneralizedRCNNWithTTA(cfg, model)([image])[0]["instances"]
        flipped = cfg.clone()
        flipped.TEST.AUG.FLIP = True
        assert len(GeneralizedRCNNWithTTA(flipped, model)([image])[0]["instances"]) > 0
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())
    assert len(expected) > 0 and expected.scores.dtype == torch.float64
    torch.testing.assert_close(got.scores, expected.scores.float())  # float32 in Detectron2
    torch.testing.assert_close(got.pred_boxes.tensor, expected.pred_boxes.tensor)
    assert torch.equal(got.pred_masks, expected.pred_masks)

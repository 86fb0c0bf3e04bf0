"""Standardizations of the heads that share their convolutions over levels. Oracle: a count by hand.

What needs no framework is in tests/test_counts.py.
"""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("mmdet", reason="needs MMDetection")

from mmdet.registry import MODELS
from mmengine.config import Config
from torch import nn

import ws_det.mmdet  # noqa: F401
from tests.conftest import REPO
from ws_det import EstBatchNorm2d, WSConv2d, config_path
from ws_det.bench.counts import OperatorCounter

LAYERS = dict(conv_cfg=dict(type="WSConv2d"), norm_cfg=dict(type="GN", num_groups=4))
HEADS = ("RetinaHead", "FCOSHead", "ATSSHead")


@pytest.mark.parametrize("kind", HEADS)
def test_one_standardization_a_convolution_a_level(kind: str) -> None:
    """Two stacked convolutions in each of two branches, over five levels; a step twice."""
    anchors = {} if kind == "FCOSHead" else dict(
        anchor_generator=dict(
            type="AnchorGenerator", ratios=[1.0], octave_base_scale=4, scales_per_octave=1,
            strides=[8, 16, 32, 64, 128],
        )
    )  # fmt: skip
    head = MODELS.build(
        dict(type=kind, num_classes=2, in_channels=8, feat_channels=8, stacked_convs=2)
        | anchors | LAYERS
    )  # fmt: skip
    convs = [m for m in head.modules() if isinstance(m, WSConv2d)]
    assert len(convs) == 4
    levels = tuple(torch.randn(1, 8, size, size) for size in (32, 16, 8, 4, 2))
    optimizer = torch.optim.SGD(head.parameters(), lr=0.1)
    for _ in range(2):
        with OperatorCounter() as counter:
            outputs = head(levels)
            sum(level.square().sum() for branch in outputs for level in branch).backward()
            optimizer.step()
        assert sum(m.__class__ is nn.GroupNorm for m in head.modules()) == 4
        assert counter.counts["native_group_norm"] == 4 * len(levels)
        assert counter.counts["native_layer_norm"] == len(convs) * len(levels)


def test_bytes_of_a_step_are_those_in_the_guide() -> None:
    """Oracle: 4 bytes for each trained parameter and each estimate of the real models."""
    doc = (REPO / "docs/training.md").read_text()
    counted = []
    for norm in ("gn", "bcn"):
        cfg = Config.fromfile(config_path(f"mask-rcnn_r50_fpn_{norm}-ws-all_2x_coco"))
        with torch.device("meta"):
            model = MODELS.build(cfg.model)
        counted.append(4 * sum(p.numel() for p in model.parameters() if p.requires_grad))
    layers = [m for m in model.modules() if isinstance(m, EstBatchNorm2d)]
    counted.append(4 * sum(2 * layer.num_features for layer in layers))
    assert all(f"| {number:,} |" in doc for number in counted), counted
    assert f"the {len(layers)} BCN layers" in doc

"""WS and BCN folded in Detectron2's blocks, where no config describes the result.

Oracle: the model before, in float64, where rounding stays below 1e-12 of the largest value.
"""

from __future__ import annotations

from itertools import chain

import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_backbone
from detectron2.modeling.meta_arch.retinanet import RetinaNetHead
from torch import nn

from tests.detectron2.parts import TINY, yaml_config
from tests.test_norm_fold import assert_same, settled
from ws_det import convert_to_ws, fold_ws
from ws_det.detectron2 import get_norm


@pytest.mark.parametrize("estimate", [True, False])
def test_backbone(estimate):
    """Every BCN becomes a GroupNorm alone: Detectron2's convolution carries its norm."""
    model = settled(build_backbone(yaml_config("BCN", TINY | {"MODEL.WS.ESTIMATE": estimate})))
    x = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    expected = model(x)
    fold_ws(model, bcn=True)
    for level, out in model(x).items():
        assert_same(out, expected[level])
    kinds = {type(m).__name__ for m in model.modules()}
    assert "GroupNorm" in kinds and not kinds & {"WSConv2d", "BatchNorm2d", "BatchChannelNorm2d"}


def test_retinanet_head():
    """One convolution and one norm serve all levels."""
    head = RetinaNetHead(
        input_shape=[ShapeSpec(channels=8)] * 2, num_classes=2, num_anchors=1,
        conv_dims=[8, 8], norm=get_norm("BCN", num_groups=4),
    )  # fmt: skip
    head = settled(convert_to_ws(head))
    xs = [torch.randn(1, 8, size, size, dtype=torch.float64) for size in (8, 4)]
    expected = head(xs)
    fold_ws(head, bcn=True)
    for ours, theirs in zip(chain(*head(xs)), chain(*expected), strict=True):
        assert_same(ours, theirs)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in head.modules())

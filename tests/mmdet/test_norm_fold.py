"""WS and BCN folded in MMDetection's blocks, where no config describes the result.

Oracle: the model before, in float64, where rounding stays below 1e-12 of the largest value.
"""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("mmdet")

from mmdet.models.backbones import Res2Net, ResNet, ResNeXt
from mmdet.models.necks import FPN
from torch import nn

import ws_det.mmdet  # noqa: F401
from tests.test_norm_fold import assert_same, settled
from ws_det import fold_ws

LAYERS = {
    "conv_cfg": {"type": "WSConv2d"},
    "norm_cfg": {"type": "BCN", "num_groups": 4, "estimate": True},
}
BLOCKS = {
    "ResNet-18": lambda: ResNet(18, base_channels=16, norm_eval=False, **LAYERS),
    "ResNet-50": lambda: ResNet(50, base_channels=8, norm_eval=False, deep_stem=True, **LAYERS),
    "ResNeXt": lambda: ResNeXt(
        depth=50, groups=4, base_width=4, base_channels=8, norm_eval=False, **LAYERS
    ),
    "Res2Net": lambda: Res2Net(depth=50, scales=4, base_width=8, norm_eval=False, **LAYERS),
}


@pytest.mark.parametrize("name", BLOCKS)
def test_backbones(name):
    """Every BCN becomes a GroupNorm alone: the convolution before it is known."""
    model = nn.Sequential(BLOCKS[name]())
    settled(model)
    x = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    expected = model(x)
    fold_ws(model, bcn=True)
    for ours, theirs in zip(model(x), expected, strict=True):
        assert_same(ours, theirs)
    kinds = {type(m).__name__ for m in model.modules()}
    assert "GroupNorm" in kinds and not kinds & {"WSConv2d", "BatchNorm2d", "BatchChannelNorm2d"}


def test_fpn():
    model = settled(nn.ModuleList([FPN([8, 16], 8, 3, **LAYERS)]))[0]
    xs = [torch.randn(1, c, s, s, dtype=torch.float64) for c, s in ((8, 16), (16, 8))]
    expected = model(xs)
    fold_ws(model, bcn=True)
    for ours, theirs in zip(model(xs), expected, strict=True):
        assert_same(ours, theirs)

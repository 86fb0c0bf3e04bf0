"""Torch's ``fuse_conv_bn_eval`` on Detectron2's convolution with WS.

Neither Detectron2 nor fvcore fuses batch norms by itself. Oracle: the convolution with its norm, in
float64, where rounding stays below 1e-12 of values around 10.
"""

from __future__ import annotations

import pytest
import torch
from detectron2.layers import Conv2d, FrozenBatchNorm2d
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from ws_det.detectron2 import WSConv2d


@pytest.mark.parametrize("norm", [nn.BatchNorm2d, FrozenBatchNorm2d])
def test_fuse_conv_bn_eval(norm):
    conv = WSConv2d(4, 8, 3, bias=False, norm=norm(8), activation=torch.relu)
    for tensor, low, high in (
        (conv.norm.weight, -2, 2), (conv.norm.bias, -1, 1),
        (conv.norm.running_mean, -1, 1), (conv.norm.running_var, 0.5, 3),
    ):  # fmt: skip
        nn.init.uniform_(tensor, low, high)
    conv = conv.double().eval()
    fused = fuse_conv_bn_eval(conv, conv.norm)
    fused.norm = None
    assert type(fused) is Conv2d
    x = torch.randn(2, 4, 9, 9, dtype=torch.float64)
    torch.testing.assert_close(fused(x), conv(x), rtol=0, atol=1e-12)


def test_fx_goes_on_training():
    """One node, not a kernel of the day of tracing. Oracle: the layer, after its weight changed."""
    model = nn.Sequential(WSConv2d(4, 8, 3, norm=nn.GroupNorm(2, 8), activation=torch.relu))
    graph, x = torch.fx.symbolic_trace(model), torch.randn(2, 4, 9, 9)
    with torch.no_grad():
        model[0].weight.cos_()
    out = graph(x)
    assert torch.equal(out, model(x))
    out.sum().backward()
    assert model[0].weight.grad.any()

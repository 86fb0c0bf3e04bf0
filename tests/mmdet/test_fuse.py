"""mmcv's ``fuse_conv_bn`` and MMEngine's ``efficient_conv_bn_eval`` on WS convolutions.

Oracle: the model before, in float64, where rounding stays below 1e-12 of the largest value.
"""

from __future__ import annotations

import copy

import pytest
import torch

pytest.importorskip("mmdet")

from mmcv.cnn import ConvModule, fuse_conv_bn
from mmdet.models.backbones import ResNet
from mmengine.model.efficient_conv_bn_eval import turn_on_efficient_conv_bn_eval
from torch import nn

import ws_det.mmdet  # noqa: F401
from ws_det import BatchChannelNorm2d, WSConv2d, fold_ws

WS = {"type": "WSConv2d"}


def settled(model):
    """The model in eval mode, its batch norms with statistics and signs of their own."""
    for bn in model.modules():
        if isinstance(bn, nn.BatchNorm2d):
            nn.init.uniform_(bn.weight, -1.5, 1.5)
            nn.init.normal_(bn.running_mean)
            nn.init.uniform_(bn.running_var, 0.5, 3)
    model.double().eval()  # a ResNet returns None from eval()
    return model


def conv_block(norm="BN", **options):
    # alone it cannot be traced, a plain one neither: its arguments are branched on
    return nn.Sequential(ConvModule(4, 8, 3, conv_cfg=WS, norm_cfg={"type": norm, **options}))


def resnet(norm="BN", **options):
    norm_cfg = {"type": norm, **options}
    return ResNet(50, base_channels=8, conv_cfg=WS, norm_cfg=norm_cfg, norm_eval=False)


def outputs(model, x):
    out = model(x)
    return out if isinstance(out, tuple) else (out,)


def assert_same(model, changed, x):
    for got, expected in zip(outputs(changed, x), outputs(model, x), strict=True):
        largest = expected.abs().max().item()
        assert largest > 0.1
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-12 * largest)


MODELS = {
    "ConvModule": (conv_block, (2, 4, 9, 9)),
    "ResNet": (resnet, (1, 3, 64, 64)),
}


@pytest.mark.parametrize("folded", [False, True])
@pytest.mark.parametrize("kind", MODELS)
def test_fuse_conv_bn(kind, folded):
    """No WS convolution and no batch norm is left, before or after ``fold_ws``."""
    build, shape = MODELS[kind]
    model = settled(build())
    fused = copy.deepcopy(model)
    fused = fuse_conv_bn(fold_ws(fused) if folded else fused)
    assert_same(model, fused, torch.randn(shape, dtype=torch.float64))
    assert not any(isinstance(m, (WSConv2d, nn.BatchNorm2d)) for m in fused.modules())


@pytest.mark.parametrize("norm", [{"norm": "BCN", "num_groups": 4}, {"norm": "EstBN"}])
def test_fuse_conv_bn_leaves_other_norms(norm):
    """What it cannot fuse stays, so nothing is lost."""
    model = settled(resnet(**norm))
    fused = fuse_conv_bn(copy.deepcopy(model))
    assert_same(model, fused, torch.randn(1, 3, 64, 64, dtype=torch.float64))
    kinds = [[type(m) for m in changed.modules()] for changed in (fused, model)]
    assert kinds[0] == kinds[1] and (WSConv2d in kinds[0])


def test_efficient_conv_bn_eval_of_a_conv_module():
    """In eval mode, and with gradients while the batch norm alone is in eval mode."""
    plain = settled(conv_block())[0]
    module = copy.deepcopy(plain)
    module.turn_on_efficient_conv_bn_eval()
    x = torch.randn(2, 4, 9, 9, dtype=torch.float64)
    assert_same(plain, module, x)
    weights = torch.randn(2, 8, 7, 7, dtype=torch.float64)
    for model in (plain, module):
        model.train()
        model.norm.eval()
        (model(x) * weights).sum().backward()
    for ours, theirs in zip(module.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=0, atol=1e-10)  # of 1 to 100


@pytest.mark.parametrize("kind", MODELS)
def test_efficient_conv_bn_eval_of_a_graph(kind):
    """What the key ``efficient_conv_bn_eval`` of a config turns on, in both modes of the norms."""
    build, shape = MODELS[kind]
    model = settled(build())
    changed = nn.ModuleDict({"part": copy.deepcopy(model)})
    turn_on_efficient_conv_bn_eval(changed, "part")
    x = torch.randn(shape, dtype=torch.float64)
    assert_same(model, changed["part"], x)
    for both in (model, changed["part"]):
        both.train()
    assert_same(model, changed["part"], x)


def test_efficient_conv_bn_eval_leaves_bcn():
    """It asks for a batch norm right after a convolution, and BCN is none."""
    model = settled(conv_block("BCN", num_groups=4))
    changed = nn.ModuleDict({"part": copy.deepcopy(model)})
    turn_on_efficient_conv_bn_eval(changed, "part")
    assert isinstance(model[0].norm, BatchChannelNorm2d)
    assert_same(model, changed["part"], torch.randn(2, 4, 9, 9, dtype=torch.float64))

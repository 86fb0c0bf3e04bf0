"""The WS convolution of Detectron2 against Detectron2's own, and conversion in both directions."""

from __future__ import annotations

import copy

import pytest
import torch
from detectron2.layers import Conv2d, FrozenBatchNorm2d
from detectron2.modeling.backbone.resnet import BasicStem, BottleneckBlock
from torch import nn

import ws_det
from ws_det import BatchChannelNorm2d, convert_to_ws, fold_ws, plan_conversion, standardize_weight
from ws_det.detectron2 import WSConv2d
from ws_det.errors import InputError

FLOAT32 = dict(rtol=1e-5, atol=1e-5)  # two orders of summation


@pytest.mark.parametrize("options", [{}, dict(groups=2), dict(stride=2, dilation=2)])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("norm", [None, lambda: nn.GroupNorm(2, 8)])
@pytest.mark.parametrize("activation", [None, nn.ReLU()])
def test_equals_detectron2_with_standardized_kernel(options, bias, norm, activation):
    """Oracle: Detectron2's class with the standardized kernel; batches of 2 and of 0."""
    own = dict(norm=norm and norm(), activation=activation, bias=bias, padding=1, **options)
    conv = WSConv2d(4, 8, 3, **own)
    plain = copy.deepcopy(Conv2d(4, 8, 3, **own))
    assert isinstance(conv, Conv2d) and conv.state_dict().keys() == plain.state_dict().keys()
    state = conv.state_dict()
    plain.load_state_dict(state | {"weight": standardize_weight(state["weight"])})
    for batch in (2, 0):
        x = torch.randn(batch, 4, 9, 8)
        torch.testing.assert_close(conv(x), plain(x), **FLOAT32)
    conv(x).sum().backward()  # x is empty here
    assert all(p.grad is not None and not p.grad.any() for p in conv.parameters())


def test_padding_mode_is_refused():
    """Oracle: Detectron2's class, which pads with zeros whatever the mode."""
    x = torch.randn(1, 4, 6, 6)
    zeros, reflect = (Conv2d(4, 8, 3, padding=1, padding_mode=m) for m in ("zeros", "reflect"))
    reflect.load_state_dict(zeros.state_dict())
    assert torch.equal(zeros(x), reflect(x))
    with pytest.raises(InputError, match="padding_mode='reflect' has no effect"):
        WSConv2d(4, 8, 3, padding=1, padding_mode="reflect")
    before = convert_to_ws(nn.Sequential(zeros, nn.GroupNorm(2, 8)))(x)
    after = convert_to_ws(nn.Sequential(reflect, nn.GroupNorm(2, 8)))(x)
    assert torch.equal(before, after)


def block(norm):
    return nn.Sequential(
        BasicStem(3, 8, norm=norm),
        BottleneckBlock(8, 16, bottleneck_channels=8, stride=2, num_groups=2, norm=norm),
    )


def group_norm(channels):
    return nn.GroupNorm(4, channels)


def test_conversion_and_folding_of_detectron2_blocks():
    """Oracle: the block with standardized kernels loaded by hand; its five convolutions."""
    model = block(group_norm).eval()
    parameters = dict(model.named_parameters())
    by_hand = copy.deepcopy(model)
    for conv in by_hand.modules():
        if isinstance(conv, Conv2d):
            conv.weight.data = standardize_weight(conv.weight.data)
    x = torch.randn(2, 3, 33, 33)
    assert convert_to_ws(model) is model
    assert sum(type(m) is WSConv2d for m in model.modules()) == 5
    assert all(parameters[name] is p for name, p in model.named_parameters())
    converted = model(x)
    # Five layers deep, each normalized, two orders of summation.
    torch.testing.assert_close(converted, by_hand(x), rtol=1e-4, atol=1e-4)
    fold_ws(model)
    assert sum(type(m) is Conv2d for m in model.modules()) == 5
    torch.testing.assert_close(model(x), converted, **FLOAT32)
    with pytest.raises(RuntimeError, match="folded already"):
        fold_ws(model)


def test_which_convolutions_a_norm_follows():
    """Oracle: Detectron2's order is convolution, norm, activation; a sibling counts as well."""
    cases = [
        (Conv2d(4, 8, 3, norm=nn.GroupNorm(2, 8)), "convert"),
        (Conv2d(4, 8, 3, norm=FrozenBatchNorm2d(8)), "convert"),
        (Conv2d(4, 8, 3), "skip"),
        (Conv2d(4, 8, 3, activation=nn.ReLU()), "skip"),
        (nn.Sequential(Conv2d(4, 8, 3), nn.GroupNorm(2, 8)), "convert"),
        (Conv2d(8, 8, 1, groups=8, norm=nn.GroupNorm(2, 8)), "skip"),
    ]
    assert [plan_conversion(module)[0].action for module, _ in cases] == [a for _, a in cases]


def test_norms_of_detectron2_blocks_are_swapped():
    """Oracle: no batch norm outside BCN is left, and the affine parameters are the old ones."""
    model = block("BN")
    weight = model[0].conv1.norm.weight
    convert_to_ws(model, norm=lambda c: BatchChannelNorm2d(c, 4, estimate=True))
    assert model[0].conv1.norm.bn.weight is weight
    assert not any(isinstance(m, nn.BatchNorm2d) for m in model.modules())
    assert model(torch.randn(1, 3, 33, 33)).shape == (1, 16, 5, 5)


def test_frozen_norms_cannot_be_swapped():
    """Oracle: InputError and nothing changed, for Detectron2's default norm; BCN's own may stay."""
    model = block("FrozenBN")
    before = [type(m) for m in model.modules()]
    with pytest.raises(InputError, match=r"0\.conv1\.norm: FrozenBatchNorm2d has no parameters"):
        convert_to_ws(model, norm=group_norm)
    assert [type(m) for m in model.modules()] == before
    frozen = BasicStem(3, 8, norm=lambda c: BatchChannelNorm2d(c, 4)).freeze()
    convert_to_ws(frozen, norm=group_norm)
    assert isinstance(frozen.conv1.norm.bn, FrozenBatchNorm2d)


def test_freeze_of_a_block():
    """Oracle: Detectron2's freeze, after which nothing of a block may move in training.

    It puts a FrozenBatchNorm2d in place of a BatchNorm2d, the inner one of BCN's large-batch form
    too, and knows no other norm: EstBN has to see by itself that it is frozen.
    """
    for estimate in (True, False):
        stem = BasicStem(3, 8, norm=lambda c, e=estimate: BatchChannelNorm2d(c, 4, estimate=e))
        convert_to_ws(stem)
        x = torch.randn(2, 3, 32, 32)
        stem(x)  # statistics of some kind
        expected = stem.eval()(x)
        stem.freeze().train()
        assert isinstance(stem.conv1.norm.bn, FrozenBatchNorm2d) == (not estimate)
        before = copy.deepcopy(stem.state_dict())
        out = stem(x)
        torch.testing.assert_close(out, expected, **FLOAT32)
        assert all(torch.equal(t, before[name]) for name, t in stem.state_dict().items())
        norm = stem.conv1.norm
        empty = torch.randn(0, 8, 5, 5, requires_grad=True)
        norm(empty).sum().backward()
        assert empty.grad.shape == (0, 8, 5, 5)
        image = x.clone().requires_grad_()
        stem(image).sum().backward()  # FrozenBatchNorm2d computes otherwise when it needs these
        assert image.grad.isfinite().all() and image.grad.any()


def test_both_kinds_of_convolution_in_one_model():
    """Oracle: the classes; torch's own become ws_det's, Detectron2's become the adapter's."""
    model = nn.Sequential(
        Conv2d(3, 8, 3, norm=nn.GroupNorm(2, 8)), nn.Conv2d(8, 8, 3), nn.GroupNorm(2, 8)
    )
    convert_to_ws(model)
    assert [type(m) for m in model[:2]] == [WSConv2d, ws_det.WSConv2d]
    fold_ws(model)
    assert [type(m) for m in model[:2]] == [Conv2d, nn.Conv2d]

"""Torch's own ways to fuse a batch norm, called on WS convolutions.

Oracle: the two layers one after the other, in float64, where rounding stays below 1e-12 of values
around 10.
"""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.ao.quantization.quantize_fx import fuse_fx
from torch.fx.experimental.optimization import fuse, optimize_for_inference
from torch.nn.utils.fusion import fuse_conv_bn_eval

from ws_det import FORMULAS, InputError, WSConv1d, WSConv2d, WSConv3d, WSConvTranspose2d, fold_ws
from ws_det.fold import is_folded

NORMS = {3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}
SIZES = {3: (9,), 4: (7, 9), 5: (5, 6, 7)}


def pair(conv):
    """A convolution and a batch norm that turns signs around, in eval mode."""
    bn = NORMS[conv.weight.ndim](conv.out_channels)
    for tensor, low, high in (
        (bn.weight, -2, 2), (bn.bias, -1, 1), (bn.running_mean, -1, 1), (bn.running_var, 0.5, 3),
    ):  # fmt: skip
        nn.init.uniform_(tensor, low, high)
    return nn.Sequential(conv, bn).double().eval()


def input_of(model):
    conv = model[0]
    return torch.randn(2, conv.in_channels, *SIZES[conv.weight.ndim], dtype=torch.float64)


def assert_same(got, expected):
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)


LAYERS = {
    "1d": lambda: WSConv1d(4, 8, 3),
    "2d": lambda: WSConv2d(4, 8, 3, bias=False),
    "reflected": lambda: WSConv2d(4, 8, 3, padding=1, padding_mode="reflect"),
    "grouped": lambda: WSConv2d(4, 8, 3, groups=2),
    "channels_last": lambda: WSConv2d(4, 8, 3).to(memory_format=torch.channels_last),
    "3d": lambda: WSConv3d(4, 8, 3),
    "scale alone": lambda: WSConv2d(4, 8, 3, center=False),
    "mean alone": lambda: WSConv2d(4, 8, 3, scale=False),
    "transposed": lambda: WSConvTranspose2d(4, 8, 3),
    **{f"adaptive {name}": lambda name=name: WSConv2d(4, 8, 3, formula=name, adaptive=True)
       for name in FORMULAS},
}  # fmt: skip


@pytest.mark.parametrize("layer", LAYERS)
def test_fuse_conv_bn_eval(layer):
    """And it leaves the two layers alone; the fused one is marked as a folded one is."""
    model = pair(LAYERS[layer]())
    if getattr(model[0], "adaptive", False):
        nn.init.uniform_(model[0].weight_gamma, 0.5, 1.5)
        nn.init.uniform_(model[0].weight_beta, 0.5, 1.5)
    before, x = copy.deepcopy(model), input_of(model)
    fused = fuse_conv_bn_eval(*model, transpose=layer == "transposed")
    assert_same(fused(x), before(x))
    assert_same(model(x), before(x))
    assert type(fused) is type(model[0]).__bases__[-1]
    assert is_folded(fused.state_dict()) and not is_folded(model.state_dict())
    if layer != "transposed":
        with pytest.raises(RuntimeError, match="folded model cannot be trained"):
            fused.train()(x)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_fusing_kernels_of_other_types(dtype):
    """Against float64, to a few roundings of the type: each of the 36 elements has three."""
    model = pair(WSConv2d(4, 8, 3)).to(dtype)
    fused = fuse_conv_bn_eval(*model).double()
    exact = copy.deepcopy(model).double()
    x = input_of(model)
    error = (fused(x) - exact(x)).norm() / exact(x).norm()
    assert error < 4 * torch.finfo(dtype).eps


def test_a_norm_of_another_type():
    """mmcv's product of a float16 kernel and a float32 norm is float32. Oracle: both in float32."""
    model = pair(WSConv2d(4, 8, 3, bias=False)).float()
    conv, bn = model[0].half(), model[1]
    kernel = conv.standardized_weight().detach().float()
    factor = bn.weight / torch.sqrt(bn.running_var + bn.eps)
    conv.weight = nn.Parameter(conv.weight * factor.view(-1, 1, 1, 1))
    assert type(conv) is nn.Conv2d and conv.weight.dtype == torch.float32
    torch.testing.assert_close(conv.weight, kernel * factor.view(-1, 1, 1, 1))


def test_an_empty_filter():
    """An all-zero filter has no factor; none is needed, it is standardized to zero."""
    model = pair(WSConv2d(4, 8, 3))
    nn.init.zeros_(model[0].weight[2])
    x = input_of(model)
    assert_same(fuse_conv_bn_eval(*model)(x), model(x))


@pytest.mark.parametrize("transform", [fuse, fuse_fx, optimize_for_inference])
def test_fx(transform):
    """What looks for a plain convolution by its class leaves ours, which is one node of a graph."""
    model = pair(WSConv2d(4, 8, 3))
    x = input_of(model)
    expected = model(x)
    if transform is optimize_for_inference:  # it takes float32 alone: 1e-5 of 10
        model, x, expected = model.float(), x.float(), expected.float()
    graph = transform(model)
    torch.testing.assert_close(graph(x), expected, rtol=0, atol=1e-12 if x.is_floating_point() and
                               x.dtype == torch.float64 else 1e-4)  # fmt: skip
    assert any(isinstance(module, WSConv2d) for module in graph.modules())


def test_fx_goes_on_training():
    """Oracle: the model that was traced, its output and its gradients."""
    model = nn.Sequential(WSConv2d(4, 8, 3), nn.GroupNorm(2, 8), WSConvTranspose2d(8, 4, 2))
    graph, x = torch.fx.symbolic_trace(copy.deepcopy(model)), torch.randn(2, 4, 8, 8)
    for traced in (graph, model):
        traced(x).square().sum().backward()
    for ours, theirs in zip(graph.parameters(), model.parameters(), strict=True):
        assert torch.equal(ours.grad, theirs.grad)


@pytest.mark.parametrize("size", [(17, 17), [18, 17]])
def test_fx_keeps_an_output_size(size):
    """As an argument, by name, and computed in the graph. Oracle: the model that was traced."""

    class Up(nn.Module):
        def __init__(self):
            super().__init__()
            self.up = WSConvTranspose2d(4, 4, 3, stride=2, padding=1)

        def forward(self, input, like):
            first = self.up(input, size)
            return first, self.up(input, output_size=size), self.up(input, like.shape[2:])

    model = Up()
    graph, x = torch.fx.symbolic_trace(model), torch.randn(1, 4, 9, 9)
    like = x.new_empty(1, 1, 17, 18)
    for got, expected in zip(graph(x, like), model(x, like)):
        assert torch.equal(got, expected)
    assert [node.op for node in graph.graph.nodes].count("call_module") == 3


def test_called_with_a_rescaled_kernel():
    """As ``efficient_conv_bn_eval`` does it. Oracle: the layers in a row, also their gradients."""
    model = pair(WSConv2d(4, 8, 3))
    other, x = copy.deepcopy(model), input_of(model)
    conv, bn = model
    factor = bn.weight / torch.sqrt(bn.running_var + bn.eps)
    got = conv._conv_forward(
        x, conv.weight * factor.view(-1, 1, 1, 1), bn.bias + factor * (conv.bias - bn.running_mean)
    )
    expected = other(x)
    assert_same(got, expected)
    weights = torch.randn_like(got)
    for out in (got, expected):
        (out * weights).sum().backward()
    for ours, theirs in zip(model.parameters(), other.parameters(), strict=True):
        assert_same(ours.grad, theirs.grad)


def test_called_with_its_own_kernel():
    conv = WSConv2d(4, 8, 3)
    x = torch.randn(1, 4, 6, 6)
    assert torch.equal(conv._conv_forward(x, conv.weight, conv.bias), conv(x))


def test_called_with_another_kernel():
    """One sentence: LoRA's sum, for example, is neither the kernel nor a multiple of it."""
    conv = WSConv2d(4, 8, 3)
    with pytest.raises(InputError, match=r"^WSConv2d can be called .*: call fold_ws\(model\)"):
        conv._conv_forward(torch.randn(1, 4, 6, 6), conv.weight + 0.1, conv.bias)


def test_the_factor_of_an_empty_filter_that_has_a_mean():
    """One sentence: the kernel is 0 * factor + beta, whose factor nobody can tell."""
    conv = WSConv2d(4, 8, 3, adaptive=True)
    nn.init.zeros_(conv.weight[2])
    conv.weight_beta[2] = 1.0
    with pytest.raises(InputError, match="WSConv2d can be called"):
        conv._conv_forward(torch.randn(1, 4, 6, 6), conv.weight * 2, conv.bias)


NEW_WEIGHTS = {
    "of another layer": lambda old: nn.Parameter(torch.randn_like(old)),
    "a copy": lambda old: nn.Parameter(old.detach().clone()),
    "itself": lambda old: old,
    "in half precision": lambda old: nn.Parameter(old.detach().half()),
    "in double precision": lambda old: nn.Parameter(old.detach().double()),
    "without storage": lambda old: nn.Parameter(old.detach().to("meta")),
}


@pytest.mark.parametrize("kind", NEW_WEIGHTS)
def test_other_new_weights_stay_raw(kind):
    """Weights are also tied, cast and moved. Oracle: the parameter that was set."""
    conv = WSConv2d(4, 8, 3)
    weight = NEW_WEIGHTS[kind](conv.weight)
    conv.weight = weight
    assert type(conv) is WSConv2d and conv.weight is weight


def test_loading_assigns_raw_weights():
    """Those of a step that only decayed are a multiple of what is there, and yet raw."""
    conv = WSConv2d(4, 8, 3)
    state = {key: value * 0.99 for key, value in conv.state_dict().items()}
    conv.load_state_dict(state, assign=True)
    assert type(conv) is WSConv2d and torch.equal(conv.weight, state["weight"])


def test_a_class_of_ones_own():
    """Oracle: one sentence, and nothing changed: a plain convolution would lose what it does."""

    class Doubled(WSConv2d):
        def forward(self, input):
            return 2 * super().forward(input)

    model = pair(Doubled(4, 8, 3))
    for fold in (lambda: fuse_conv_bn_eval(*model), lambda: fold_ws(model)):
        with pytest.raises(InputError, match="Doubled cannot be folded"):
            fold()
    assert type(model[0]) is Doubled and model[0].formula == "ws"

"""The arithmetic against loops over single filters, in float64."""

import math

import pytest
import torch

from ws_det.functional import FORMULAS, standardize_weight

# A float32 result keeps about seven digits; sums over a filter of some hundred elements lose one.
FLOAT32 = dict(rtol=1e-5, atol=1e-6)
FLOAT64 = dict(rtol=1e-11, atol=1e-12)

# Written from DESIGN's sources, not from FORMULAS: (unbiased, epsilon inside the root, epsilon).
SOURCES = {
    "ws": (True, False, 1e-5),
    "bcn": (True, True, 1e-5),
    "paper": (False, False, 1e-5),
    "bit": (False, True, 1e-10),
    "timm": (False, True, 1e-6),
}


def loop_oracle(weight, formula, center=True, scale=True):
    """WS of a plain kernel, one filter and one element at a time, in Python floats."""
    unbiased, inside, eps = SOURCES[formula]
    out = []
    for filter_ in weight.double().tolist():
        flat = torch.tensor(filter_, dtype=torch.float64).flatten().tolist()
        mean = math.fsum(flat) / len(flat)
        var = math.fsum((x - mean) ** 2 for x in flat) / (len(flat) - unbiased)
        deviation = math.sqrt(var + eps) if inside else math.sqrt(var) + eps
        out.append([(x - (mean if center else 0.0)) / (deviation if scale else 1.0) for x in flat])
    return torch.tensor(out, dtype=torch.float64).view(weight.shape)


@pytest.mark.parametrize("formula", FORMULAS)
@pytest.mark.parametrize("shape", [(5, 7), (4, 3, 5), (8, 4, 3, 3), (4, 2, 3, 3, 3), (6, 2, 1, 1)])
def test_equals_loop_over_filters(formula, shape):
    """Oracle: Python floats, each formula written out again."""
    weight = 0.1 * torch.randn(shape, dtype=torch.float64) + 0.03
    expected = loop_oracle(weight, formula)
    torch.testing.assert_close(standardize_weight(weight, formula=formula), expected, **FLOAT64)
    single = standardize_weight(weight.float(), formula=formula)
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), expected, **FLOAT32)


def test_every_formula_has_a_source():
    """A formula without an oracle in this file would go untested."""
    assert FORMULAS.keys() == SOURCES.keys()


@pytest.mark.parametrize("center, scale", [(True, False), (False, True), (False, False)])
def test_ablations_equal_loop(center, scale):
    """Oracle: the loop without its mean, without its deviation, without both."""
    weight = torch.randn(6, 5, 3, 3, dtype=torch.float64) + 0.2
    out = standardize_weight(weight, center=center, scale=scale)
    torch.testing.assert_close(out, loop_oracle(weight, "ws", center, scale), **FLOAT64)


@pytest.mark.parametrize("formula", FORMULAS)
@pytest.mark.parametrize("center, scale", [(True, True), (True, False), (False, True)])
def test_gradcheck(formula, center, scale):
    """Oracle: finite differences in float64, of a plain and of a grouped transposed kernel."""
    weight = torch.randn(4, 3, 3, 2, dtype=torch.float64, requires_grad=True)
    options = dict(formula=formula, center=center, scale=scale)
    assert torch.autograd.gradcheck(lambda w: standardize_weight(w, **options), weight)
    transposed = dict(options, transposed=True, groups=2)
    assert torch.autograd.gradcheck(lambda w: standardize_weight(w, **transposed), weight)


@pytest.mark.parametrize("formula", FORMULAS)
@pytest.mark.parametrize("spread", [1.0, 1e-5])
def test_gradient_equals_autograd_of_the_formula(formula, spread):
    """Oracle: autograd through the formula's own words; gradcheck alone is good to 1e-3.

    At a spread of 1e-5 epsilon weighs as much as the deviation, so that its place shows.
    """
    unbiased, inside, eps = SOURCES[formula]
    weight = (spread * torch.randn(4, 3, 3, 2, dtype=torch.float64)).requires_grad_()
    centered = weight - weight.mean((1, 2, 3), keepdim=True)
    var = weight.var((1, 2, 3), keepdim=True, correction=int(unbiased))
    expected = centered / ((var + eps).sqrt() if inside else var.sqrt() + eps)
    factor = torch.randn_like(expected)
    (expected_grad,) = torch.autograd.grad((expected * factor).sum(), weight)
    (grad,) = torch.autograd.grad(
        (standardize_weight(weight, formula=formula) * factor).sum(), weight
    )
    torch.testing.assert_close(grad, expected_grad, **FLOAT64)


def test_gain_and_bias_and_their_gradients():
    """Oracle: out * gain + bias per output channel, and finite differences."""
    weight = torch.randn(4, 3, 2, dtype=torch.float64, requires_grad=True)
    gain = torch.randn(4, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(4, dtype=torch.float64, requires_grad=True)
    out = standardize_weight(weight, gain=gain, bias=bias)
    expected = loop_oracle(weight.detach(), "ws") * gain.view(4, 1, 1) + bias.view(4, 1, 1)
    torch.testing.assert_close(out, expected, **FLOAT64)
    assert torch.autograd.gradcheck(
        lambda w, g, b: standardize_weight(w, gain=g, bias=b), (weight, gain, bias)
    )


def test_scaled_std_conv_is_reachable():
    """Oracle: timm's ScaledStdConv2d (NFNet) as published, through torch's own batch_norm."""
    weight, gain, gamma = torch.randn(8, 4, 3, 3), torch.rand(8) + 0.5, 1.7
    scale = gamma / math.sqrt(weight[0].numel())
    expected = torch.nn.functional.batch_norm(
        weight.reshape(1, 8, -1), None, None, weight=gain * scale, training=True, eps=1e-6
    ).view_as(weight)
    out = standardize_weight(weight, formula="timm", gain=gain * scale)
    torch.testing.assert_close(out, expected, **FLOAT32)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_kernels_have_float32_statistics(dtype):
    """Oracle: the loop on the rounded kernel. Half a unit in the last place is what rounding costs.

    Values near 1000 overflow float16 when squared, which statistics in float16 would show.
    """
    weight = (300 * torch.randn(4, 64, 3, 3) + 1000).to(dtype)
    out = standardize_weight(weight)
    assert out.dtype == dtype
    # Outputs are below 4 in size, where numbers lie 2 eps apart: one rounding costs half of it.
    error = (out.double() - loop_oracle(weight, "ws")).abs().max()
    assert error <= 1.01 * torch.finfo(dtype).eps


def test_autocast_changes_nothing():
    """Oracle: the call without autocast, bit by bit, gradient too."""
    weight = torch.randn(8, 4, 3, 3, requires_grad=True)
    out = standardize_weight(weight)
    (expected,) = torch.autograd.grad(out.square().sum() + out[0].sum(), weight)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = standardize_weight(weight)
        (grad,) = torch.autograd.grad(cast.square().sum() + cast[0].sum(), weight)
    assert cast.dtype == torch.float32
    assert torch.equal(cast, out) and torch.equal(grad, expected)


def test_channels_last_kernels():
    """Oracle: the contiguous kernel. The memory format is kept, as the convolution wants it."""
    for weight in (torch.randn(6, 4, 3, 3), torch.randn(6, 4, 3, 3, 3)):
        memory_format = torch.channels_last if weight.ndim == 4 else torch.channels_last_3d
        last = weight.to(memory_format=memory_format).requires_grad_()
        out = standardize_weight(last)
        assert out.is_contiguous(memory_format=memory_format)
        torch.testing.assert_close(out, standardize_weight(weight), **FLOAT32)
        out.square().sum().backward()
        assert last.grad.isfinite().all()


@pytest.mark.parametrize("groups", [1, 2])
def test_transposed_kernel_is_standardized_per_output_channel(groups):
    """Oracle: the kernel of output channel o collected by hand, then mean 0 and std 1."""
    inputs, outputs = 6, 4
    weight = torch.randn(inputs, outputs // groups, 3, 3, dtype=torch.float64) + 0.3
    out = standardize_weight(weight, eps=0.0, transposed=True, groups=groups)
    for o in range(outputs):
        group, inside = divmod(o, outputs // groups)
        rows = slice(group * inputs // groups, (group + 1) * inputs // groups)
        filter_ = weight[rows, inside]
        expected = (filter_ - filter_.mean()) / filter_.std()
        torch.testing.assert_close(out[rows, inside], expected, **FLOAT64)


@pytest.mark.parametrize("formula", FORMULAS)
@pytest.mark.parametrize("value", [0.0, 1.0, 0.1, -3e4])
@pytest.mark.parametrize("center, scale", [(True, True), (True, False), (False, True)])
def test_constant_filters_stay_finite(formula, value, center, scale):
    """Oracle: IEEE arithmetic; torch.std's own gradient at a constant filter is NaN."""
    weight = torch.full((3, 7, 3, 3), value, requires_grad=True)
    out = standardize_weight(weight, formula=formula, center=center, scale=scale)
    (out * torch.randn_like(out)).sum().backward()
    assert out.isfinite().all()
    assert weight.grad.isfinite().all()
    if value == 0.0:
        assert not out.any()


@pytest.mark.parametrize("formula", FORMULAS)
def test_invariant_to_affine_change_of_each_filter(formula):
    """Oracle: the paper's invariance w -> a * w + b, a > 0. With eps = 0 it is exact."""
    weight = torch.randn(5, 4, 3, 3, dtype=torch.float64)
    factor = torch.rand(5, 1, 1, 1, dtype=torch.float64) + 0.1
    shift = torch.randn(5, 1, 1, 1, dtype=torch.float64)
    changed = standardize_weight(factor * weight + shift, eps=0.0, formula=formula)
    expected = standardize_weight(weight, eps=0.0, formula=formula)
    torch.testing.assert_close(changed, expected, **FLOAT64)


@pytest.mark.parametrize("formula", FORMULAS)
def test_gradient_is_orthogonal_to_kernel_and_ones(formula):
    """Oracle: what the invariance means for the gradient (arXiv:1903.10520, equation 11)."""
    weight = torch.randn(5, 4, 3, 3, dtype=torch.float64, requires_grad=True)
    out = standardize_weight(weight, eps=0.0, formula=formula)
    (grad,) = torch.autograd.grad((out * torch.randn_like(out)).sum(), weight)
    rows, grad_rows = weight.detach().flatten(1), grad.flatten(1)
    torch.testing.assert_close(grad_rows.sum(1), torch.zeros(5).double(), **FLOAT64)
    torch.testing.assert_close((grad_rows * rows).sum(1), torch.zeros(5).double(), **FLOAT64)


@pytest.mark.skipif(
    not hasattr(torch.compiler, "is_compiling"),
    reason="the compiler of this torch cannot trace an autograd function",
)
@pytest.mark.parametrize("formula", FORMULAS)
@pytest.mark.parametrize("spread", [1.0, 1e-5, 0.0])
def test_compiled_equals_eager(formula, spread):
    """Oracle: the native kernels; filters of all sizes, constant ones too. Float64."""
    torch._dynamo.reset()
    compiled = torch.compile(standardize_weight, backend="aot_eager")
    weight = (spread * torch.randn(6, 4, 3, 3, dtype=torch.float64) + 0.5).requires_grad_()
    grad = torch.randn_like(weight)
    results = []
    for function in (compiled, standardize_weight):
        out = function(weight, formula=formula)
        results.append((out, *torch.autograd.grad(out, weight, grad)))
    for own, other in zip(*results, strict=True):
        scale = other.abs().max().clamp_min(1)
        torch.testing.assert_close(own / scale, other / scale, rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: standardize_weight(torch.ones(8, 1, 1, 1)), r"\(8, 1, 1, 1\) has fan-in 1"),
        (
            lambda: standardize_weight(torch.ones(8, 1, 1, 1), transposed=True, groups=8),
            "fan-in 1",
        ),
        (lambda: standardize_weight(torch.ones(8)), "two or more dimensions"),
        (lambda: standardize_weight(torch.ones(8, 2), formula="std"), "'std'.*ws, bcn"),
        (lambda: standardize_weight(torch.ones(8, 2), eps=-1.0), "-1.0"),
        (lambda: standardize_weight(torch.ones(8, 2), eps=float("nan")), "nan"),
    ],
)
def test_bad_input_raises_with_the_value(call, message):
    """Oracle: ValueError whose message has the value."""
    with pytest.raises(ValueError, match=message):
        call()

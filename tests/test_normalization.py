"""The arithmetic of BCN against loops over channels, torch's own norms and its autograd."""

import math

import pytest
import torch

from ws_det import normalization

FLOAT64 = dict(rtol=1e-11, atol=1e-12)


def est_bn_oracle(inputs, momentum, eps):
    """EstBN over several steps, channel by channel, as the authors' code computes it."""
    channels = inputs[0].shape[1]
    mean, var, outputs = [0.0] * channels, [1.0] * channels, []
    for x in inputs:
        out = torch.empty_like(x)
        for c in range(channels):
            values = x[:, c].flatten().tolist()
            batch_mean = math.fsum(values) / len(values)
            batch_var = math.fsum((v - mean[c]) ** 2 for v in values) / len(values)  # OLD mean
            mean[c] += momentum * (batch_mean - mean[c])
            var[c] += momentum * (batch_var - var[c])
            out[:, c] = (x[:, c] - mean[c]) / math.sqrt(var[c] + eps)  # the updated statistics
        outputs.append(out)
    return outputs, mean, var


@pytest.mark.parametrize("momentum", [0.1, 1.0])
def test_est_batch_norm_equals_loop_over_ten_steps(momentum):
    """Oracle: the authors' code as a loop, statistics and outputs after each of ten steps."""
    inputs = [3 * torch.randn(2, 3, 4, 5, dtype=torch.float64) + 1 for _ in range(10)]
    mean, var = torch.zeros(3, dtype=torch.float64), torch.ones(3, dtype=torch.float64)
    expected, *statistics = est_bn_oracle(inputs, momentum, 1e-5)
    for x, out in zip(inputs, expected, strict=True):
        got = normalization.est_batch_norm(x, mean, var, training=True, momentum=momentum)
        torch.testing.assert_close(got, out, **FLOAT64)
    assert mean.tolist() == pytest.approx(statistics[0], rel=1e-11, abs=1e-12)
    assert var.tolist() == pytest.approx(statistics[1], rel=1e-11)


def test_est_batch_norm_passes_no_gradient_through_statistics():
    """Oracle: the derivative of an affine map with constant statistics."""
    x = torch.randn(2, 3, 4, 4, dtype=torch.float64, requires_grad=True)
    mean, var = torch.zeros(3, dtype=torch.float64), torch.ones(3, dtype=torch.float64)
    out = normalization.est_batch_norm(x, mean, var, training=True)
    weights = torch.randn_like(out)
    (grad,) = torch.autograd.grad((out * weights).sum(), x)
    torch.testing.assert_close(grad, weights / (var + 1e-5).sqrt().view(1, 3, 1, 1), **FLOAT64)


def test_est_batch_norm_used_twice_before_backward():
    """Oracle: autograd's own check; heads share a norm over levels, and its buffers move."""
    weight = torch.ones(3, requires_grad=True)
    mean, var = torch.zeros(3), torch.ones(3)
    levels = [torch.randn(1, 3, size, size) for size in (8, 4)]
    outs = [normalization.est_batch_norm(x, mean, var, weight, training=True) for x in levels]
    sum(out.square().sum() for out in outs).backward()
    assert weight.grad.isfinite().all()


def test_channel_norm_equals_authors_code():
    """Oracle: the BCN release's lines for the channel half, one affine pair per group."""
    x = torch.randn(3, 8, 5, 4, dtype=torch.float64)
    weight, bias = torch.randn(1, 4, 1).double(), torch.randn(1, 4, 1).double()
    rows = x.view(1, 3 * 4, -1)
    rows = torch.batch_norm(rows, None, None, None, None, True, 0, 1e-5, False)
    expected = (weight * rows.view(3, 4, -1) + bias).view_as(x)
    torch.testing.assert_close(normalization.channel_norm(x, 4, weight, bias), expected, **FLOAT64)


CASES = ["running", "estimate", "batch"]


def two_norms(x, running, parameters, groups, case, eps=1e-5):
    """The oracle: batch norm and group norm of torch, one after the other."""
    inner_weight, inner_bias, weight, bias = parameters
    mean, var = running
    if case == "batch":
        out = torch.nn.functional.batch_norm(
            x, mean, var, inner_weight, inner_bias, training=True, momentum=0.1, eps=eps
        )
    else:
        out = normalization.est_batch_norm(
            x, mean, var, inner_weight, inner_bias, training=case == "estimate", eps=eps
        )
    return normalization.channel_norm(out, groups, weight, bias, eps)


def one_pass(x, running, parameters, groups, case, eps=1e-5):
    mean, var = running
    with torch.no_grad():
        moments = normalization.channel_moments(x)
        if case == "batch":
            count = x.numel() // x.shape[1]
            mean, var = normalization.update_running_statistics(*moments, mean, var, 0.1, count)
        elif case == "estimate":
            mean, var = normalization.update_estimates(*moments, mean, var, 0.1)
    return normalization.batch_channel_norm(
        x, mean, var, *parameters, moments, batch_statistics=case == "batch", eps=eps
    )


def results(function, case, dtype, shift=3.0, cells=(6, 5)):
    """Output, statistics and all gradients for the same random numbers."""
    generator = torch.Generator().manual_seed(4)

    def draw(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)

    x = (draw(3, 8, *cells) * 2 + shift).requires_grad_()
    parameters = [p.requires_grad_() for p in (draw(8), draw(8), draw(1, 4, 1), draw(1, 4, 1))]
    running = draw(8), draw(8).square() + 0.5
    out = function(x, running, parameters, 4, case)
    gradients = torch.autograd.grad(out, [x, *parameters], draw(*x.shape))
    return [out.detach(), *running, *gradients]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    # Rounding, and sums of 30 to 90 terms whose parts cancel.
    [(torch.float64, 1e-12), (torch.float32, 2e-5)],
)
def test_one_pass_equals_two_norms(case, dtype, tolerance):
    """Oracle: torch's batch norm and group norm in a row, forward and backward."""
    found, expected = (results(function, case, dtype) for function in (one_pass, two_norms))
    for own, other in zip(found, expected, strict=True):
        scale = other.abs().max()
        torch.testing.assert_close(own / scale, other / scale, rtol=0, atol=tolerance)


@pytest.mark.parametrize("case", CASES)
def test_a_relu_in_place_may_follow(case):
    """As in every detector's block. Oracle: a ReLU that copies."""
    found, expected = (
        results(lambda *a, f=f: f(one_pass(*a)), case, torch.float64)
        for f in (torch.relu_, torch.relu)
    )
    assert all(torch.equal(own, other) for own, other in zip(found, expected, strict=True))


@pytest.mark.parametrize("cells", [(6, 5), (70, 60)])  # sums in one step and in two
@pytest.mark.parametrize("case", CASES)
def test_compiled_equals_eager(case, cells):
    """Oracle: the native kernels. Float32, and sums in another order around another centre."""
    compiled = torch.compile(one_pass, backend="aot_eager")
    found, expected = (results(f, case, torch.float32, cells=cells) for f in (compiled, one_pass))
    for own, other in zip(found, expected, strict=True):
        scale = other.abs().max()
        torch.testing.assert_close(own / scale, other / scale, rtol=0, atol=2e-5)


def test_moments_far_from_zero():
    """Oracle: float64. A mean 1000 deviations from zero leaves 4 of float32's 7 digits."""
    x = torch.randn(2, 3, 40, 40) + 1000
    compiled = torch.compile(normalization.channel_moments, backend="aot_eager")
    for moments in (normalization.channel_moments(x), compiled(x)):
        torch.testing.assert_close(moments[0].double(), x.double().mean((2, 3)), rtol=1e-6, atol=0)
        var = x.double().var((2, 3), correction=0)
        torch.testing.assert_close(moments[1].double(), var, rtol=1e-3, atol=0)


def test_constant_channels_stay_finite():
    """Oracle: zero variance gives the biases, as in torch's norms."""
    found, expected = [], []
    for function, values in ((one_pass, found), (two_norms, expected)):
        x = torch.full((2, 8, 3, 3), 0.1, requires_grad=True)
        groups = [torch.ones(1, 4, 1), torch.full((1, 4, 1), 0.7)]
        parameters = [torch.ones(8), torch.zeros(8), *groups]
        out = function(x, (torch.zeros(8), torch.ones(8)), parameters, 4, "batch")
        values += [out.detach(), torch.autograd.grad(out.sum(), x)[0]]
    for own, other in zip(found, expected, strict=True):
        # Both deviations are sqrt(1e-5), so terms of 1e5 cancel in the gradient, to 7 digits.
        torch.testing.assert_close(own, other, rtol=0, atol=0.1)


def test_double_backward_says_so():
    """Oracle: torch's error, not a wrong number."""
    x = torch.randn(2, 8, 3, 3, requires_grad=True)
    parameters = [torch.ones(8), torch.zeros(8), torch.ones(1, 4, 1), torch.zeros(1, 4, 1)]
    out = one_pass(x, (torch.zeros(8), torch.ones(8)), parameters, 4, "batch")
    (grad,) = torch.autograd.grad(out.square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="differentiate twice"):
        grad.square().sum().backward()

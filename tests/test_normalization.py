"""The halves of BCN against loops over channels and the authors' lines."""

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

"""BCN in one pass against torch's own norms in a row, and their autograd."""

import pytest
import torch

from ws_det.fused_bcn import batch_channel_norm
from ws_det.moments import center, move_estimates, move_running_statistics
from ws_det.normalization import channel_norm, est_batch_norm

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
        out = est_batch_norm(
            x, mean, var, inner_weight, inner_bias, training=case == "estimate", eps=eps
        )
    return channel_norm(out, groups, weight, bias, eps)


def one_pass(x, running, parameters, groups, case, eps=1e-5):
    mean, var = running
    with torch.no_grad():
        centered, moments = center(x)
        if case == "batch":
            count = x.numel() // x.shape[1]
            offset, var = move_running_statistics(moments, mean, var, 0.1, count)
        elif case == "estimate":
            offset, _, var = move_estimates(moments, mean, var, 0.1)
        else:
            offset = moments[0] - mean + moments[1]
    return batch_channel_norm(
        x, centered, moments, offset, var, *parameters,
        batch_statistics=case == "batch", eps=eps,
    )  # fmt: skip


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

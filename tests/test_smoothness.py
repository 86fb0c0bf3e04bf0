"""Probes of smoothness. Oracle: a quadratic loss, whose gradient and Hessian are known."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ws_det.errors import InputError
from ws_det.layers import WSConv2d
from ws_det.norms import BatchChannelNorm2d
from ws_det.smoothness import probe_smoothness


def quadratic(model: nn.Linear, hessian: Tensor) -> Callable[[], Tensor]:
    """w' H w / 2 of the weight alone, a row after the other."""
    return lambda: model.weight.flatten() @ hessian @ model.weight.flatten() / 2


def network() -> tuple[nn.Module, Callable[[], Tensor]]:
    """One with all that a pass changes: two kinds of running statistics and dropout."""
    model = nn.Sequential(
        WSConv2d(3, 8, 3, padding=1),
        BatchChannelNorm2d(8, 4, estimate=True),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Conv2d(8, 4, 3),
        nn.BatchNorm2d(4),
        nn.Flatten(),
        nn.LazyLinear(5),
    )
    images, labels = torch.randn(6, 3, 7, 7), torch.arange(6) % 5
    model(images)
    return model, lambda: F.cross_entropy(model(images), labels)


def test_a_quadratic_loss() -> None:
    model = nn.Linear(3, 2, bias=True).double()
    root = torch.randn(6, 6, dtype=torch.float64)
    hessian = root @ root.T
    lengths = [0.01, 0.1, 0.4]
    found = probe_smoothness(model, quadratic(model, hessian), lengths)
    w = model.weight.detach().flatten()
    g = hessian @ w
    rows = model.weight.detach().norm(dim=1).repeat_interleave(3)
    assert found.loss == pytest.approx((w @ hessian @ w / 2).item())
    for index, length in enumerate(lengths):
        at = w - length * g
        assert found.losses[index] == pytest.approx((at @ hessian @ at / 2).item())
        assert found.distances[index] == pytest.approx(length * g.norm().item())
        assert found.gradient_changes[index] == pytest.approx(length * (hessian @ g).norm().item())
    # along one direction the curvature of a quadratic is the same at every length
    assert found.beta == pytest.approx(((hessian @ g).norm() / g.norm()).item())
    relative = (rows * (hessian @ g)).norm() / (g / rows).norm()
    assert found.relative_beta == pytest.approx(relative.item())
    assert found.gradient_norm == pytest.approx(g.norm().item())
    assert found.relative_gradient_norm == pytest.approx((rows * g).norm().item())
    assert found.loss_range == (min(found.loss, *found.losses), max(found.loss, *found.losses))
    assert found.numbers()["loss_max"] == found.loss_range[1]


def test_beta_is_the_largest_over_the_lengths() -> None:
    """cosh: the gradient changes faster the further one goes beyond 0."""
    model = nn.Linear(1, 1, bias=False).double()
    model.weight.data.fill_(1.0)
    lengths = [3.0, 0.1]
    found = probe_smoothness(model, lambda: model.weight.cosh().sum(), lengths)
    g = math.sinh(1)
    ratios = [abs(math.sinh(1 - s * g) - g) / (s * g) for s in lengths]
    assert found.beta == pytest.approx(max(ratios)) and ratios[0] > 1.3 * ratios[1]


def test_everything_is_as_before_to_the_bit() -> None:
    model, loss = network()
    loss().backward()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    grads = [parameter.grad.clone() for parameter in model.parameters()]
    random = torch.get_rng_state()
    probe_smoothness(model, loss, [0.1, 10.0])
    assert torch.equal(random, torch.get_rng_state())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(torch.equal(p.grad, grad) for p, grad in zip(model.parameters(), grads))
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_everything_is_as_before_after_an_error() -> None:
    model, loss = network()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    random, calls = torch.get_rng_state(), []

    def broken() -> Tensor:
        calls.append(1)
        value = loss()
        return value * math.nan if len(calls) == 3 else value

    with pytest.raises(InputError, match=r"the loss is nan after a step of length 0\.2: give"):
        probe_smoothness(model, broken, [0.1, 0.2])
    assert torch.equal(random, torch.get_rng_state())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_every_evaluation_starts_alike() -> None:
    """With other estimates or dropped cells a step of no length would change the loss."""
    model, loss = network()
    found = probe_smoothness(model, loss, [0.5, 1e-12, 0.1])
    assert found.losses[1] == found.loss and found.gradient_changes[1] == 0
    other = probe_smoothness(model, loss, [0.1, 0.5])
    assert found.losses[::-2] == other.losses and found.distances[::-2] == other.distances


def test_relative_numbers_do_not_know_the_scale_of_a_filter() -> None:
    """A norm undoes the scale and WS the shift too, so the network computes the same."""
    conv = WSConv2d(3, 8, 3, bias=False, eps=0.0)
    model = nn.Sequential(conv, nn.GroupNorm(4, 8), nn.ReLU(), nn.Flatten()).double()
    images = torch.randn(4, 3, 5, 5, dtype=torch.float64)
    conv.weight.data -= conv.weight.data.mean((1, 2, 3), keepdim=True)

    def loss() -> Tensor:
        return (model(images) ** 3).mean()

    # so short that a curvature is a derivative
    found = probe_smoothness(model, loss, [1e-6])
    conv.weight.data *= 4
    scaled = probe_smoothness(model, loss, [1e-6])
    assert scaled.gradient_norm == pytest.approx(found.gradient_norm / 4)
    assert scaled.beta == pytest.approx(found.beta / 16, rel=1e-3)
    assert scaled.relative_gradient_norm == pytest.approx(found.relative_gradient_norm)
    assert scaled.relative_beta == pytest.approx(found.relative_beta, rel=1e-3)


@pytest.mark.parametrize("lengths", [[], [0.1, 0.0], [-1.0], [math.nan]])
def test_lengths_are_above_zero(lengths: list[float]) -> None:
    model = nn.Linear(2, 2)
    with pytest.raises(InputError, match=r"the lengths of the steps are .*: give some above 0"):
        probe_smoothness(model, lambda: model.weight.sum(), lengths)


def test_a_model_without_kernels_is_refused() -> None:
    model = nn.BatchNorm2d(3)
    with pytest.raises(InputError, match="BatchNorm2d has no convolution or linear layer"):
        probe_smoothness(model, lambda: model.weight.sum(), [0.1])

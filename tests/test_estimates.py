"""EstBN over the passes of a step. Oracles: one pass of all images, and one model per image."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from ws_det import BatchChannelNorm2d, EstBatchNorm2d
from ws_det.estimates import StepEstimates
from ws_det.normalization import est_batch_norm

# Sums of float64 in another order.
CLOSE = dict(rtol=1e-12, atol=1e-12)


def images(step: int, passes: int) -> Tensor:
    generator = torch.Generator().manual_seed(step)
    scale = torch.arange(1, passes + 1).view(-1, 1, 1, 1)
    return torch.randn(passes, 4, 6, 5, generator=generator, dtype=torch.float64) * scale + step


def net() -> nn.Sequential:
    torch.manual_seed(0)
    bcn = BatchChannelNorm2d(4, 2, estimate=True, momentum=0.3)
    return nn.Sequential(EstBatchNorm2d(4, momentum=0.3), nn.Conv2d(4, 4, 3), bcn).double()


def take_steps(model: nn.Module, passes: int, steps: int = 3) -> None:
    estimates = StepEstimates(model)
    for step in range(steps):
        for number, image in enumerate(images(step, passes).split(1)):
            estimates.begin_pass()
            model(image)
            estimates.end_pass(last=number == passes - 1)


@pytest.mark.parametrize("passes", [1, 2, 4])
def test_passes_of_one_image_move_the_estimates_as_one_pass_of_all(passes: int) -> None:
    """Oracle: the formula on all images at once. What they are made of is the same in both."""
    model = net()
    take_steps(model, passes)
    mean, var = torch.zeros(4).double(), torch.ones(4).double()
    for step in range(3):
        est_batch_norm(images(step, passes), mean, var, training=True, momentum=0.3)
    torch.testing.assert_close(model[0].running_mean, mean, **CLOSE)
    torch.testing.assert_close(model[0].running_var, var, **CLOSE)
    assert model[0].num_batches_tracked == 3 * passes


def test_passes_are_as_good_as_ranks() -> None:
    """Oracle: a model per image from the same estimates, averaged, deeper layers included."""
    model, oracle = net(), net()
    take_steps(model, 3)
    for step in range(3):
        ranks = []
        for image in images(step, 3).split(1):
            ranks.append(copy.deepcopy(oracle))
            ranks[-1](image)
        for name, buffer in oracle.named_buffers():
            if buffer.is_floating_point():
                buffer.copy_(sum(dict(rank.named_buffers())[name] for rank in ranks) / 3)
    for name, buffer in oracle.named_buffers():
        if buffer.is_floating_point():
            torch.testing.assert_close(dict(model.named_buffers())[name], buffer, **CLOSE)


def test_between_two_steps_the_estimates_are_those_of_the_last_step() -> None:
    model = net()
    before = {n: b.clone() for n, b in model.named_buffers() if b.is_floating_point()}
    estimates = StepEstimates(model)
    estimates.begin_pass()
    model(images(0, 1))
    assert not torch.equal(model[0].running_mean, before["0.running_mean"])
    estimates.end_pass(last=False)
    assert all(torch.equal(dict(model.named_buffers())[n], b) for n, b in before.items())


def test_estimates_that_are_not_finite_are_given_up() -> None:
    """Oracle: the estimates before; the steps before and after count."""
    model = net()
    take_steps(model, 2, steps=1)
    before = [b.clone() for b in model.buffers() if b.is_floating_point()]
    estimates = StepEstimates(model)
    for number, value in enumerate((float("nan"), 1.0)):
        estimates.begin_pass()
        model(images(0, 1) * value)
        estimates.end_pass(last=number == 1)
    after = [b for b in model.buffers() if b.is_floating_point()]
    assert all(map(torch.equal, before, after))
    take_steps(model, 2, steps=1)
    assert all(not torch.equal(b, a) and a.isfinite().all() for b, a in zip(before, after))


def test_frozen_and_absent_layers_are_left_alone() -> None:
    model = net().requires_grad_(False)
    before = copy.deepcopy(model.state_dict())
    take_steps(model, 2)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    take_steps(nn.Conv2d(4, 4, 3).double(), 2)

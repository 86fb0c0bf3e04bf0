"""What enters each nonlinearity. Oracle: the same network written out step by step."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ws_det import BatchChannelNorm2d
from ws_det.activations import Activations


class Block(nn.Module):
    """A residual block; the shortcut's norm runs last before the sum enters the nonlinearity."""

    def __init__(self, act: Callable[[Tensor], Tensor], in_place: bool) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
        self.conv2, self.norm2 = nn.Conv2d(4, 6, 1), nn.GroupNorm(2, 6)
        self.shortcut = nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6))
        self.predictor = nn.Conv2d(6, 5, 1)
        self.act, self.in_place = act, in_place

    def forward(self, x: Tensor) -> Tensor:
        out = self.norm2(self.conv2(self.act(self.norm1(self.conv1(x)))))
        shortcut = self.shortcut(x)
        if self.in_place:
            out += shortcut
        else:
            out = out + shortcut
        return self.act(self.predictor(self.act(out)))  # behind a convolution, of no norm


def seen(model: nn.Module, x: Tensor) -> list[tuple[str, Tensor]]:
    """Copies, for what is seen may be overwritten."""
    found: list[tuple[str, Tensor]] = []
    with Activations(model, lambda name, input: found.append((name, input.clone()))):
        model(x)
    return found


@pytest.mark.parametrize(
    ("act", "in_place"),
    [
        (F.relu, False),
        (F.relu_, True),
        (torch.relu, True),
        (Tensor.relu_, False),
        (nn.ReLU(inplace=True), True),
        (nn.ReLU6(), False),
        (nn.LeakyReLU(0.1, inplace=True), True),
        (nn.SiLU(inplace=True), True),
        (nn.PReLU(), False),
        (nn.GELU(), False),
    ],
)
def test_a_residual_block(act: Callable[[Tensor], Tensor], in_place: bool) -> None:
    block, x = Block(act, in_place).eval(), torch.randn(2, 3, 5, 5)
    with torch.no_grad():
        first = block.norm1(block.conv1(x))
        second = block.norm2(block.conv2(act(first.clone()))) + block.shortcut(x)
        found = seen(block, x)
    assert [name for name, _ in found] == ["norm1", "norm2"]
    assert torch.equal(found[0][1], first) and torch.equal(found[1][1], second)


def test_the_hooks_are_gone_afterwards() -> None:
    block, x = Block(nn.ReLU(), True).eval(), torch.randn(1, 3, 5, 5)
    seen(block, x)
    found: list[str] = []
    with torch.no_grad():
        block(x)
    assert not block.norm1._forward_hooks and not found


def test_bcn_is_one_norm() -> None:
    norm = BatchChannelNorm2d(4, num_groups=2)
    norm.bn = nn.SyncBatchNorm(4)  # which BCN runs as a module of its own
    model = nn.Sequential(nn.Conv2d(3, 4, 1), norm, nn.ReLU()).eval()
    x = torch.randn(2, 3, 4, 4)
    ((name, input),) = seen(model, x)
    assert name == "1" and torch.equal(input, model[:2](x))


def test_a_norm_behind_which_channels_are_mixed_is_not_seen() -> None:
    model = nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 1), nn.ReLU()).eval()
    assert not seen(model, torch.randn(1, 3, 2, 2))


def test_what_a_nonlinearity_gave_is_behind_no_norm() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.conv = nn.BatchNorm2d(3), nn.Conv2d(3, 3, 1)

        def forward(self, x: Tensor) -> Tensor:
            x = self.norm(x).relu_()
            return F.relu_(x + self.conv(x))

    assert [name for name, _ in seen(Block().eval(), torch.randn(1, 3, 2, 2))] == ["norm"]


def test_what_keeps_channels_apart_may_be_between() -> None:
    between = nn.Sequential(nn.Dropout2d(), nn.MaxPool2d(2), nn.Upsample(scale_factor=2))
    model = nn.Sequential(nn.InstanceNorm2d(3, affine=True), between, nn.ReLU(inplace=True)).eval()
    x = torch.randn(1, 3, 4, 4)
    ((name, input),) = seen(model, x)
    assert name == "0" and torch.equal(input, between(model[0](x)))

"""The small residual network that the studies of classification train."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from ws_det.layers import WSConv2d
from ws_det.norms import BatchChannelNorm2d

GROUPS = 8
WIDTHS = (16, 32, 64)  # of the stages, each at half the resolution of the one before

NORMS: dict[str, Callable[[int], nn.Module]] = {
    "BN": nn.BatchNorm2d,
    "GN": lambda channels: nn.GroupNorm(GROUPS, channels),
    "BCN": lambda channels: BatchChannelNorm2d(channels, GROUPS, estimate=True),
}

# The parts of WS, as the paper's ablation has them; None is a plain convolution.
KERNELS: dict[str, dict[str, Any] | None] = {
    "plain": None,
    "mean": {"scale": False},
    "deviation": {"center": False},
    "ws": {},
}


class Block(nn.Module):
    """Two 3x3 convolutions beside a shortcut, a norm after each convolution.

    Args:
        inputs: Channels that come in.
        channels: Channels that go out.
        stride: Of the first convolution and the shortcut.
        conv: ``conv(inputs, outputs, size, stride)`` makes a convolution.
        norm: ``norm(channels)`` makes a norm.
    """

    def __init__(
        self,
        inputs: int,
        channels: int,
        stride: int,
        conv: Callable[[int, int, int, int], nn.Module],
        norm: Callable[[int], nn.Module],
    ) -> None:
        super().__init__()
        self.conv1 = conv(inputs, channels, 3, stride)
        self.norm1 = norm(channels)
        self.conv2 = conv(channels, channels, 3, 1)
        self.norm2 = norm(channels)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != channels:
            self.shortcut = nn.Sequential(conv(inputs, channels, 1, stride), norm(channels))
        self.relu = nn.ReLU()

    def forward(self, input: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, channels, H / stride, W / stride)."""
        out = self.relu(self.norm1(self.conv1(input)))
        return self.relu(self.norm2(self.conv2(out)) + self.shortcut(input))


def build(norm: str, kernel: str, classes: int = 10) -> nn.Module:
    """A network of seven 3x3 convolutions and 78,000 weights for grey images.

    The last layer is linear and follows no norm, so WS is not for it.

    Args:
        norm: A key of ``NORMS``.
        kernel: A key of ``KERNELS``.
        classes: Classes told apart.
    """
    options = KERNELS[kernel]

    def conv(inputs: int, outputs: int, size: int, stride: int) -> nn.Module:
        shape = dict(stride=stride, padding=size // 2, bias=False)
        if options is None:
            made = nn.Conv2d(inputs, outputs, size, **shape)
        else:
            made = WSConv2d(inputs, outputs, size, **shape, **options)
        nn.init.kaiming_normal_(made.weight, mode="fan_out", nonlinearity="relu")
        return made

    model = nn.Sequential()
    model.add_module("conv", conv(1, WIDTHS[0], 3, 1))
    model.add_module("norm", NORMS[norm](WIDTHS[0]))
    model.add_module("relu", nn.ReLU())
    for index, (inputs, channels) in enumerate(zip((WIDTHS[0], *WIDTHS), WIDTHS)):
        block = Block(inputs, channels, 1 + bool(index), conv, NORMS[norm])
        model.add_module(f"block{index + 1}", block)
    model.add_module("pool", nn.AdaptiveAvgPool2d(1))
    model.add_module("flatten", nn.Flatten())
    model.add_module("linear", nn.Linear(WIDTHS[-1], classes))
    return model

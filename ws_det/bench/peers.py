"""The peers: their own code where it is installed, otherwise their published formulas.

The formulas are written with the operations that the sources use, because it is their cost that
is compared: mmcv's ``ConvWS`` and ``ConvAWS``, timm's ``StdConv2d``, the BCN authors' release.
"""

from __future__ import annotations

from collections.abc import Callable
from types import FunctionType, SimpleNamespace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Peer(NamedTuple):
    """Another way to standardize a kernel.

    Attributes:
        name: Whose; ``(formula)`` in it says that the code is ours after their formula.
        standardize: Kernel -> standardized kernel.
        formula: The formula of ws_det that computes the same.
    """

    name: str
    standardize: Callable[[Tensor], Tensor]
    formula: str


def formula_peers() -> list[Peer]:
    """The two of mmcv and timm's, written from their formulas."""
    return [
        Peer("mmcv ConvWS (formula)", _conv_ws, "ws"),
        Peer("mmcv ConvAWS (formula)", _conv_aws, "bcn"),
        Peer("timm StdConv2d (formula)", _std_conv, "timm"),
    ]


def timm_peer() -> Peer | None:
    """The code of timm itself, if it is installed and can be imported."""
    try:
        from timm.layers import StdConv2d
    except (ImportError, RuntimeError):  # the latter by torchvision, if it is of another torch
        return None

    forward = without_convolution(StdConv2d.forward)

    def standardize(weight: Tensor) -> Tensor:
        layer = SimpleNamespace(
            weight=weight, out_channels=weight.shape[0], eps=1e-6, same_pad=False, bias=None,
            stride=1, padding=0, dilation=1, groups=1,
        )  # fmt: skip
        return forward(layer, weight)

    return Peer("timm StdConv2d", standardize, "timm")


def without_convolution(function: FunctionType) -> FunctionType:
    """A copy of a peer's function whose ``F.conv2d`` hands back the kernel that it is given."""

    def kernel(input: Tensor, weight: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return weight

    names = {**function.__globals__, "F": SimpleNamespace(**{**vars(F), "conv2d": kernel})}
    return FunctionType(function.__code__, names, argdefs=function.__defaults__)


def _conv_ws(weight: Tensor) -> Tensor:
    rows = weight.view(weight.size(0), -1)
    mean = rows.mean(dim=1, keepdim=True).view(-1, 1, 1, 1)
    std = rows.std(dim=1, keepdim=True).view(-1, 1, 1, 1)
    return (weight - mean) / (std + 1e-5)


def _conv_aws(weight: Tensor) -> Tensor:
    rows = weight.view(weight.size(0), -1)
    mean = rows.mean(dim=1).view(-1, 1, 1, 1)
    std = torch.sqrt(rows.var(dim=1) + 1e-5).view(-1, 1, 1, 1)
    gain, bias = torch.ones_like(std), torch.zeros_like(mean)
    return gain * ((weight - mean) / std) + bias


def _std_conv(weight: Tensor) -> Tensor:
    rows = weight.reshape(1, weight.shape[0], -1)
    out = F.batch_norm(rows, None, None, training=True, momentum=0.0, eps=1e-6)
    return out.reshape_as(weight)


class AuthorsEstBN(nn.Module):
    """Estimate-based batch normalization, one elementwise operation after the other.

    The authors read the rate from a buffer; here it is a number, which costs them nothing.
    """

    def __init__(self, channels: int, rate: float = 0.1) -> None:
        super().__init__()
        self.rate = rate
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))
        self.register_buffer("num_batches_tracked", torch.tensor(0))

    def forward(self, input: Tensor) -> Tensor:
        """(N, C, H, W) -> the same shape."""
        if self.training:
            with torch.no_grad():
                rows = input.transpose(0, 1).contiguous().view(input.shape[1], -1)
                mean = rows.mean(dim=1)
                centered = rows - self.running_mean.view(-1, 1)
                var = torch.mean(centered * centered, dim=1)
                for buffer, statistic in ((self.running_mean, mean), (self.running_var, var)):
                    buffer.data.mul_(1 - self.rate).add_(self.rate * statistic)
        out = input - self.running_mean.view(1, -1, 1, 1)
        out = out / torch.sqrt(self.running_var + 1e-5).view(1, -1, 1, 1)
        return self.weight.view(1, -1, 1, 1) * out + self.bias.view(1, -1, 1, 1)


class AuthorsBCN(nn.Module):
    """BCN as its authors publish it; parameters and buffers as BatchChannelNorm2d has them."""

    def __init__(self, channels: int, groups: int, estimate: bool) -> None:
        super().__init__()
        self.groups = groups
        self.weight = nn.Parameter(torch.ones(1, groups, 1))
        self.bias = nn.Parameter(torch.zeros(1, groups, 1))
        self.bn = AuthorsEstBN(channels) if estimate else nn.BatchNorm2d(channels)

    def forward(self, input: Tensor) -> Tensor:
        """(N, C, H, W) -> the same shape."""
        images, groups = input.shape[0], self.groups
        out = self.bn(input).view(1, images * groups, -1)
        out = torch.batch_norm(out, None, None, None, None, True, 0, 1e-5, True)
        out = self.weight * out.view(images, groups, -1) + self.bias
        return out.view_as(input)

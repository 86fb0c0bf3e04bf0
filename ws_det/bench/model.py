"""ResNet-50 with FPN in torch alone, as Mask R-CNN has it, and the kernels of the whole detector.

The groups of the norms follow from the channels, so that a narrow model serves quick runs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Norm = Callable[[int], nn.Module]


def group_norm(channels: int) -> nn.GroupNorm:
    """32 groups as published, less where there are not that many channels."""
    return nn.GroupNorm(min(32, channels), channels)


class ResNetFPN(nn.Module):
    """Backbone and neck: (N, 3, H, W) -> five levels, strides 4 to 64.

    Args:
        norm: Builds a norm from its channels.
        depths: Blocks of each stage; the default is ResNet-50.
        width: Channels of the stem.
        channels: Of every level.
    """

    def __init__(
        self,
        norm: Norm = group_norm,
        depths: Sequence[int] = (3, 4, 6, 3),
        width: int = 64,
        channels: int = 256,
    ) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            _conv_norm(3, width, 7, norm, stride=2), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1)
        )
        self.stages, inputs = nn.ModuleList(), width
        for stage, depth in enumerate(depths):
            inner, stride = width * 2**stage, 2 if stage else 1
            blocks = [_Bottleneck(inputs, inner, stride, norm)]
            blocks += [_Bottleneck(4 * inner, inner, 1, norm) for _ in range(depth - 1)]
            self.stages.append(nn.Sequential(*blocks))
            inputs = 4 * inner
        outputs = [4 * width * 2**stage for stage in range(len(depths))]
        self.laterals = nn.ModuleList(_conv_norm(c, channels, 1, norm) for c in outputs)
        self.outputs = nn.ModuleList(_conv_norm(channels, channels, 3, norm) for _ in outputs)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """(N, 3, H, W) -> the levels, finest first."""
        out, levels = self.stem(images), []
        for stage, lateral in zip(self.stages, self.laterals):
            out = stage(out)
            levels.append(lateral(out))
        for fine in range(len(levels) - 2, -1, -1):
            size = levels[fine].shape[2:]
            levels[fine] = levels[fine] + F.interpolate(levels[fine + 1], size=size)
        levels = [output(level) for output, level in zip(self.outputs, levels)]
        return (*levels, F.max_pool2d(levels[-1], 1, 2))


def mask_rcnn_kernels(quick: bool = False) -> list[torch.Size]:
    """Shapes of all kernels that WS standardizes in a Mask R-CNN R50-FPN, 31.5 M weights.

    Args:
        quick: Those of a narrow model with a block a stage instead.
    """
    with torch.device("meta"):
        model = ResNetFPN(**quick_sizes(quick))
    kernels = [m.weight.shape for m in model.modules() if isinstance(m, nn.Conv2d)]
    return kernels + 8 * [kernels[-1]]  # 4 in the box head and 4 in the mask head, as in FPN


def quick_sizes(quick: bool) -> dict[str, object]:
    """Arguments of a ResNetFPN that runs in no time, or none."""
    return dict(depths=(1, 1, 1, 1), width=8, channels=16) if quick else {}


class _Bottleneck(nn.Module):
    def __init__(self, inputs: int, inner: int, stride: int, norm: Norm) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            _conv_norm(inputs, inner, 1, norm),
            nn.ReLU(inplace=True),
            _conv_norm(inner, inner, 3, norm, stride),
            nn.ReLU(inplace=True),
            _conv_norm(inner, 4 * inner, 1, norm),
        )
        fits = inputs == 4 * inner and stride == 1
        self.shortcut = nn.Identity() if fits else _conv_norm(inputs, 4 * inner, 1, norm, stride)

    def forward(self, input: Tensor) -> Tensor:
        return F.relu(self.residual(input) + self.shortcut(input), inplace=True)


def _conv_norm(inputs: int, outputs: int, size: int, norm: Norm, stride: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, size, stride, size // 2, bias=False)
    return nn.Sequential(conv, norm(outputs))

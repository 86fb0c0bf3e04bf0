"""ResNet-50 with FPN in torch alone. Oracle: published numbers, and the arithmetic of strides."""

from __future__ import annotations

from collections import Counter

import torch
from torch import nn

from ws_det import WSConv2d, convert_to_ws
from ws_det.bench.model import ResNetFPN, mask_rcnn_kernels, quick_sizes


def test_kernels_of_mask_rcnn() -> None:
    """53 kernels in ResNet-50, 23,454,912 weights without its classifier; 256 channels in the rest.

    Lateral 1x1 from 256 to 2048 channels, 4 outputs, and 8 in the heads, 3x3 of 256.
    """
    kernels = mask_rcnn_kernels()
    assert len(kernels) == 53 + 4 + 4 + 8
    rest = 256 * (256 + 512 + 1024 + 2048) + 12 * 256 * 256 * 9
    assert sum(kernel.numel() for kernel in kernels) == 23_454_912 + rest
    assert Counter(kernels)[(256, 256, 3, 3)] == 12 + 6  # and the third stage of ResNet


def test_resnet50_has_its_published_parameters() -> None:
    """25,557,032 with a classifier of 2048 x 1000 + 1000; a norm has as many as batch norm."""
    with torch.device("meta"):
        model = ResNetFPN()
    backbone = [*model.stem.parameters(), *model.stages.parameters()]
    assert sum(p.numel() for p in backbone) == 25_557_032 - 2048 * 1000 - 1000


def test_levels_have_strides_4_to_64() -> None:
    levels = ResNetFPN(**quick_sizes(True))(torch.randn(1, 3, 64, 128))
    assert [tuple(level.shape) for level in levels] == [
        (1, 16, 64 // stride, 128 // stride) for stride in (4, 8, 16, 32, 64)
    ]


def test_every_convolution_converts() -> None:
    model = convert_to_ws(ResNetFPN(**quick_sizes(True)))
    convs = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    assert all(isinstance(conv, WSConv2d) for conv in convs)
    assert len(convs) == len(mask_rcnn_kernels(quick=True)) - 8

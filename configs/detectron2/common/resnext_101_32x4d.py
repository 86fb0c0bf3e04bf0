"""Stages of ResNeXt-101 32x4d, whose groups have 4 channels in res2: 32 * 4 = 128 in all.

``make_default_stages``, which the other backbones use, cannot say the width of a group.
"""

from detectron2.config import LazyCall as L
from detectron2.modeling.backbone import BottleneckBlock, ResNet

stages = [
    L(ResNet.make_stage)(
        block_class=BottleneckBlock,
        num_blocks=blocks,
        stride_per_block=[stride] + [1] * (blocks - 1),
        in_channels=inputs,
        bottleneck_channels=width,
        out_channels=outputs,
        num_groups=32,
        norm="${....norm}",
        stride_in_1x1=False,
    )
    for blocks, stride, inputs, width, outputs in (
        (3, 1, 64, 128, 256),
        (4, 2, 256, 256, 512),
        (23, 2, 512, 512, 1024),
        (3, 2, 1024, 1024, 2048),
    )
]

"""Which format keys are of. Oracle: keys of each project, and of networks that are none of ours."""

from __future__ import annotations

import pytest

from ws_det.formats import recognize

RESNET = ["conv1.weight", "layer1.0.conv1.weight", "layer1.0.bn1.weight"]


@pytest.mark.parametrize(
    ("keys", "name"),
    [
        (["backbone.conv1.weight"], "mmdet"),
        (["neck.fpn_convs.0.conv.weight", "bbox_head.retina_cls.weight"], "mmdet"),
        (["conv1.weight", "gn1.weight"], "mmdet"),
        (["layer3.1.bcn2.bn.running_mean"], "mmdet"),
        ([*RESNET, "layer1.0.bn1.running_mean"], "mmdet"),
        ([*RESNET, "layer1.0.bn1.running_mean", "fc.weight"], "torchvision"),
        (["backbone.body.layer1.0.conv1.weight"], "torchvision"),
        ([*RESNET, "fc.weight"], "jhu"),  # no running statistics: GN
        (["conv1.weight", "bn1.pbn.running_mean", "fc.weight"], "jhu"),
        (["backbone.body.stem.conv1.weight"], "jhu"),
        (["res2.0.conv1.weight", "stem.conv1.weight"], "detectron2"),
        (["backbone.bottom_up.res5.2.conv3.norm.weight"], "detectron2"),
        (["backbone.fpn_output3.weight"], "detectron2"),
        (["stem.conv.weight", "stages.0.blocks.0.conv1.weight"], "timm"),
        (["resnet/root_block/standardized_conv2d/kernel"], "bit"),
    ],
)
def test_known(keys: list[str], name: str) -> None:
    assert recognize(keys).name == name


@pytest.mark.parametrize(
    "keys",
    [
        [],
        ["weight", "bias"],
        ["stages.0.blocks.0.norm1.weight", "stages.0.blocks.0.attn.w_msa.qkv.weight"],  # Swin
        ["features.0.0.weight", "classifier.1.weight"],  # MobileNet
        ["stem.0.weight", "stem.conv1.weight"],  # a deep stem, another network's stem
    ],
)
def test_unknown(keys: list[str]) -> None:
    assert recognize(keys) is None

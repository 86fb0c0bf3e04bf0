"""torchvision's own models, there and back, and what a converted network computes."""

from __future__ import annotations

from collections import OrderedDict
from functools import partial
from random import random

import pytest
import torch
from torch import Tensor, nn

from ws_det.formats import convert_state, recognize

models = pytest.importorskip("torchvision.models", reason="needs torchvision")

# The fork of the WS authors has no norms in RetinaNet's head, nor two hidden convolutions in RPN.
ROUTES = [
    ("maskrcnn_resnet50_fpn", "jhu"),
    ("maskrcnn_resnet50_fpn_v2", "mmdet"),
    ("maskrcnn_resnet50_fpn_v2", "detectron2"),
    ("retinanet_resnet50_fpn", "jhu"),
    ("retinanet_resnet50_fpn_v2", "mmdet"),
    ("retinanet_resnet50_fpn_v2", "detectron2"),
]


def filled(build: str) -> OrderedDict[str, Tensor]:
    """A detector's state dict with numbers in it, one per tensor where rows stay in order."""
    with torch.device("meta"):
        make = getattr(models.detection, build)
        state = make(weights=None, weights_backbone=None).state_dict()
    for key, tensor in state.items():
        ordered = any(name in key for name in ("cls", "bbox", "logits"))
        values = torch.rand(tensor.shape) if ordered else torch.full(tensor.shape, random())
        state[key] = values.to(tensor.dtype)
    return state


def unwrapped(state: dict[str, Tensor]) -> OrderedDict[str, Tensor]:
    return OrderedDict((key.removeprefix("module."), value) for key, value in state.items())


def without_background(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """All but what torchvision has for the box, the mask and the anchors of the background."""
    state = dict(state)
    for key, tensor in state.items():
        if "bbox_pred" in key and "roi_heads" in key:
            state[key] = tensor[4:]
        elif "mask_fcn_logits" in key:
            state[key] = tensor[1:]
        elif "classification_head.cls_logits" in key:
            state[key] = tensor.unflatten(0, (9, 91))[:, 1:]
    return state


@pytest.mark.parametrize(("build", "to"), ROUTES)
def test_detectors_there_and_back(build: str, to: str) -> None:
    """Oracle: torchvision's models."""
    state = filled(build)
    assert recognize(state).name == "torchvision"
    there = convert_state(state, to)
    assert there.unmatched == there.needless == []
    back = convert_state(unwrapped(there.state), "torchvision")
    expected, found = without_background(state), without_background(back.state)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], tensor) for key, tensor in expected.items())


def test_every_key_of_mmdetections_mask_rcnn_with_gn() -> None:
    """Oracle: torchvision's Mask R-CNN with GN in each place; there and back is exact."""
    registry = pytest.importorskip("mmdet.registry", reason="needs MMDetection")
    from mmengine.config import Config
    from mmengine.registry import DefaultScope

    import ws_det.mmdet

    cfg = Config.fromfile(ws_det.config_path("mask-rcnn_r50_fpn_gn-ws-all_2x_coco"))
    gn = partial(nn.GroupNorm, 32)
    parts = models.detection
    with DefaultScope.overwrite_default_scope("mmdet"), torch.device("meta"):
        state = registry.MODELS.build(cfg.model).state_dict()
        body = models.resnet50(norm_layer=gn)
        theirs = parts.MaskRCNN(
            parts.backbone_utils._resnet_fpn_extractor(body, 5, norm_layer=gn),
            num_classes=81,
            box_head=parts.faster_rcnn.FastRCNNConvFCHead(
                (256, 7, 7), [256] * 4, [1024], norm_layer=gn
            ),
            mask_head=parts.mask_rcnn.MaskRCNNHeads(256, [256] * 4, 1, norm_layer=gn),
        )
    for key, tensor in state.items():
        state[key] = (
            torch.rand(tensor.shape) if "roi_head" in key else torch.full(tensor.shape, random())
        )
    there = convert_state(state, "torchvision")
    assert there.unmatched == there.needless == []
    shapes = {key: tensor.shape for key, tensor in theirs.state_dict().items()}
    assert {key: tensor.shape for key, tensor in there.state.items()} == shapes
    back = convert_state(there.state, "mmdet").state
    assert back.keys() == state.keys()
    assert all(torch.equal(back[key], tensor) for key, tensor in state.items())


def test_names_from_before_version_0_13() -> None:
    """Oracle: the hooks with which torchvision's modules take such names up."""
    old = {
        "backbone.fpn.inner_blocks.0.weight": "neck.lateral_convs.0.conv.weight",
        "backbone.fpn.layer_blocks.3.weight": "neck.fpn_convs.3.conv.weight",
        "rpn.head.conv.weight": "rpn_head.rpn_conv.weight",
        "roi_heads.mask_head.mask_fcn2.weight": "roi_head.mask_head.convs.1.conv.weight",
    }
    state = OrderedDict((key, torch.rand(1, 1, 1, 1)) for key in old)
    state["backbone.body.conv1.weight"] = torch.rand(1, 1, 7, 7)
    state["backbone.fpn.inner_blocks.3.weight"] = torch.rand(1, 1, 1, 1)
    converted = convert_state(state, "mmdet")
    assert converted.unmatched == []
    assert all(converted.state[name] is state[key] for key, name in old.items())


def test_resnet_computes_the_same_in_mmdet() -> None:
    """Oracle: torchvision's stages. Equal to the last bit on one machine; float32 elsewhere."""
    registry = pytest.importorskip("mmdet.registry", reason="needs MMDetection")
    theirs = models.resnet18().eval()
    for name, buffer in theirs.named_buffers():
        if "running" in name:
            buffer.uniform_(0.5, 1.5)
    ours = registry.MODELS.build(dict(type="mmdet.ResNet", depth=18))
    ours.eval()
    ours.load_state_dict(convert_state(theirs.state_dict(), "mmdet").state)
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected = nn.Sequential(*list(theirs.children())[:-2])(images)
        assert torch.allclose(ours(images)[-1], expected, rtol=1e-4, atol=1e-5)

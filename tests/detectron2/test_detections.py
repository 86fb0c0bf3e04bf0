"""A converted detector finds the same objects, in either direction, on real images.

Oracle: the detector before its conversion, in its own framework. Both see the same pixels, and
what tells apart the frameworks then is arithmetic in another order. Weights are random; predictors
are scaled so that scores are spread between 0 and 1.
"""

from __future__ import annotations

import re

import pytest
import torch
from detectron2.modeling import build_model
from torch import Tensor

import ws_det
from tests.detectron2.parts import yaml_config
from ws_det.formats import convert_state

np = pytest.importorskip("numpy")
mmdet = pytest.importorskip("mmdet.registry", reason="needs MMDetection beside Detectron2")

from mmdet.structures import DetDataSample  # noqa: E402
from mmengine.config import Config  # noqa: E402
from mmengine.registry import DefaultScope  # noqa: E402
from PIL import Image  # noqa: E402

import ws_det.mmdet  # noqa: E402

MEAN, STD = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]


def build_theirs(norm, depth, proposals, most):
    """MMDetection's, from our config."""
    cfg = Config.fromfile(ws_det.config_path(f"mask-rcnn_r50_fpn_{norm}-ws-all_2x_coco")).model
    cfg.backbone.update(depth=depth, init_cfg=None)
    if depth == 18:
        cfg.neck.in_channels = [64, 128, 256, 512]
    cfg.test_cfg.rpn.update(nms_pre=proposals, max_per_img=proposals)
    cfg.test_cfg.rcnn.max_per_img = most
    with DefaultScope.overwrite_default_scope("mmdet"):
        return mmdet.MODELS.build(cfg).eval()


def build_ours(norm, depth, proposals, most):
    """Detectron2's."""
    resnet = {"MODEL.RESNETS.DEPTH": depth}
    if depth == 18:
        resnet["MODEL.RESNETS.RES2_OUT_CHANNELS"] = 64
    options = {
        "MODEL.RPN.PRE_NMS_TOPK_TEST": proposals,
        "MODEL.RPN.POST_NMS_TOPK_TEST": proposals,
        "TEST.DETECTIONS_PER_IMAGE": most,
        "MODEL.PIXEL_MEAN": MEAN,
        "MODEL.PIXEL_STD": STD,
        "INPUT.FORMAT": "RGB",
    }
    name = {"gn": "GN", "bcn": "BCN"}[norm]
    return build_model(yaml_config(name, resnet | options)).eval()


def build_their_retinanet():
    """MMDetection's, with Detectron2's ReLU before level 7 and its boxes clipped after the NMS."""
    base = "mmdet::_base_/models/retinanet_r50_fpn.py"
    with DefaultScope.overwrite_default_scope("mmdet"):
        cfg = Config.fromstring(f"_base_ = [{base!r}]", ".py").model
        cfg.backbone.update(depth=18, init_cfg=None, frozen_stages=-1)
        cfg.neck.update(in_channels=[64, 128, 256, 512], relu_before_extra_convs=True)
        cfg.bbox_head.num_classes = 3
        cfg.bbox_head.bbox_coder.clip_border = False
        cfg.test_cfg.max_per_img = 20
        return mmdet.MODELS.build(cfg).eval()


def build_our_retinanet():
    """Detectron2's own."""
    options = {
        "MODEL.META_ARCHITECTURE": "RetinaNet",
        "MODEL.RESNETS.DEPTH": 18,
        "MODEL.RESNETS.RES2_OUT_CHANNELS": 64,
        "MODEL.RETINANET.NUM_CLASSES": 3,
        "TEST.DETECTIONS_PER_IMAGE": 20,
        "MODEL.PIXEL_MEAN": MEAN,
        "MODEL.PIXEL_STD": STD,
        "INPUT.FORMAT": "RGB",
    }
    cfg = yaml_config("BN", options, retinanet=True)
    cfg.MODEL.FPN.NORM = cfg.MODEL.RETINANET.NORM = ""
    cfg.MODEL.BACKBONE.NAME = "build_retinanet_resnet_fpn_backbone"
    return build_model(cfg).eval()


def randomize(model):
    """Norms nowhere at their start values, and predictors that are sure of something."""
    for name, tensor in model.state_dict().items():
        if name.endswith("running_var") or (tensor.ndim in (1, 3) and name.endswith("weight")):
            tensor.uniform_(0.5, 1.5)
        elif name.endswith(("running_mean", "bias")) or re.search("rpn_cls|objectness", name):
            tensor.normal_(0, 0.1)
        elif re.search("fc_cls|cls_score|retina_cls", name):
            tensor.normal_(0, 0.3)
        elif re.search("_reg|anchor_deltas|bbox_pred", name):
            tensor.normal_(0, 0.01)


def read(path, short):
    """An image as (3, H, W), RGB, of sizes that no framework pads."""
    image = Image.open(path).convert("RGB")
    scale = short / min(image.size)
    size = [max(32, round(side * scale / 32) * 32) for side in image.size]
    return torch.from_numpy(np.array(image.resize(size))).permute(2, 0, 1).contiguous()


@torch.no_grad()
def detect_theirs(model, image: Tensor):
    sample = DetDataSample()
    size = tuple(image.shape[1:])
    sample.set_metainfo(
        dict(img_shape=size, ori_shape=size, pad_shape=size, scale_factor=(1.0, 1.0))
    )
    with DefaultScope.overwrite_default_scope("mmdet"):
        found = model.test_step(dict(inputs=[image.flip(0)], data_samples=[sample]))[0]
    found = found.pred_instances
    boxes = found.bboxes.clamp(min=0).minimum(torch.tensor(size[::-1] * 2))
    masks = found.masks if "masks" in found else np.zeros((len(found), 1, 1), bool)
    return boxes, found.scores, found.labels, torch.as_tensor(masks)


@torch.no_grad()
def detect_ours(model, image: Tensor):
    height, width = image.shape[1:]
    found = model([dict(image=image, height=height, width=width)])[0]["instances"]
    masks = found.pred_masks if found.has("pred_masks") else torch.zeros(len(found), 1, 1).bool()
    return found.pred_boxes.tensor, found.scores, found.pred_classes, masks


def matched(ours, theirs):
    """How many of their detections are among ours, and the mask IoU of the matches."""
    boxes, scores, labels, masks = ours
    used = torch.zeros(len(boxes), dtype=torch.bool)
    ious = []
    for box, score, label, mask in zip(*theirs, strict=True):
        near = (
            ((boxes - box).abs().amax(1) < 0.1)
            & ((scores - score).abs() < 1e-3)
            & (labels == label)
            & ~used
        )
        if near.any():
            index = near.float().argmax()
            used[index] = True
            both, either = (mask & masks[index]).sum(), (mask | masks[index]).sum()
            ious.append(float(both / either.clamp_min(1)) if either else 1.0)
    return len(ious), ious


def compare(theirs, ours, to, images):
    """The share of detections that agree, their number, and the mask IoUs of those that do."""
    source, target = (theirs, ours) if to == "detectron2" else (ours, theirs)
    converted = convert_state(source.state_dict(), to)
    assert (converted.unmatched, converted.needless) == ([], [])
    target.load_state_dict(converted.state)
    total, found, agreed, ious = 0, 0, 0, []
    for image in images:
        a, b = detect_ours(ours, image), detect_theirs(theirs, image)
        count, overlaps = matched(a, b)
        total += max(len(a[0]), len(b[0]))
        agreed += count
        found += len(b[0])
        ious += overlaps
    print(
        f"to {to}: {agreed} of {total} detections in {len(images)} images agree "
        f"({agreed / total:.2%}), mask IoU {min(ious, default=0):.4f} and more"
    )
    return agreed / total, total, ious


def compare_random(theirs, ours, to, images):
    randomize(theirs if to == "detectron2" else ours)
    return compare(theirs, ours, to, images)


@pytest.mark.parametrize("to", ["detectron2", "mmdet"])
@pytest.mark.parametrize("norm", ["gn", "bcn"])
def test_same_detections(norm, to, tiny_coco):
    """On two images, with a ResNet-18."""
    images = [read(path, 128) for path in sorted(tiny_coco.rglob("*.jpg"))[:2]]
    models = (build(norm, 18, 40, 20) for build in (build_theirs, build_ours))
    share, total, ious = compare_random(*models, to, images)
    assert total >= 20
    assert share >= 0.99
    assert min(ious) > 0.95


def test_same_detections_of_retinanet(tiny_coco):
    """Whose anchors are in two orders; the way back is the exact reverse (test_formats.py)."""
    images = [read(path, 128) for path in sorted(tiny_coco.rglob("*.jpg"))[:2]]
    theirs, ours = build_their_retinanet(), build_our_retinanet()
    randomize(theirs)
    with torch.no_grad():
        normalized = (images[0] - torch.tensor(MEAN).view(3, 1, 1)) / 58
        logits = theirs.bbox_head(theirs.extract_feat(normalized[None]))[0][0]
        theirs.bbox_head.retina_cls.weight *= 2 / logits.std()  # no two scores are 1
    share, total, _ = compare(theirs, ours, "detectron2", images)
    assert total >= 20
    assert share >= 0.99


@pytest.mark.slow
@pytest.mark.parametrize("to", ["detectron2", "mmdet"])
@pytest.mark.parametrize("norm", ["gn", "bcn"])
def test_same_detections_on_all_images(norm, to, tiny_coco):
    """With a ResNet-50, on all images there are."""
    images = [read(path, 320) for path in sorted(tiny_coco.rglob("*.jpg"))]
    models = (build(norm, 50, 300, 100) for build in (build_theirs, build_ours))
    share, total, _ = compare_random(*models, to, images)
    assert total >= 10 * len(images)
    assert share >= 0.99

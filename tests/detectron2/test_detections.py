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
    return found.bboxes, found.scores, found.labels, torch.as_tensor(found.masks)


@torch.no_grad()
def detect_ours(model, image: Tensor):
    height, width = image.shape[1:]
    found = model([dict(image=image, height=height, width=width)])[0]["instances"]
    return found.pred_boxes.tensor, found.scores, found.pred_classes, found.pred_masks


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


def compare(norm, to, images, *size):
    theirs, ours = (build(norm, *size) for build in (build_theirs, build_ours))
    source, target = (theirs, ours) if to == "detectron2" else (ours, theirs)
    randomize(source)
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
        f"{norm} R{size[0]} to {to}: {agreed} of {total} detections in {len(images)} images agree "
        f"({agreed / total:.2%}), mask IoU {min(ious):.4f} and more"
    )
    return agreed / total, total, ious


@pytest.mark.parametrize("to", ["detectron2", "mmdet"])
@pytest.mark.parametrize("norm", ["gn", "bcn"])
def test_same_detections(norm, to, tiny_coco):
    """On two images, with a ResNet-18."""
    paths = sorted(tiny_coco.rglob("*.jpg"))[:2]
    share, total, ious = compare(norm, to, [read(path, 128) for path in paths], 18, 40, 20)
    assert total >= 20
    assert share >= 0.99
    assert min(ious) > 0.95


@pytest.mark.slow
@pytest.mark.parametrize("to", ["detectron2", "mmdet"])
@pytest.mark.parametrize("norm", ["gn", "bcn"])
def test_same_detections_on_all_images(norm, to, tiny_coco):
    """With a ResNet-50, on all images there are."""
    images = [read(path, 320) for path in sorted(tiny_coco.rglob("*.jpg"))]
    share, total, _ = compare(norm, to, images, 50, 300, 100)
    assert total >= 10 * len(images)
    assert share >= 0.99

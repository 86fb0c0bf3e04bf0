"""Passes of one image against one pass of all, in Detectron2's Mask R-CNN with GN+WS.

Oracle: the one pass. The sizes, the anchors and the numbers of objects are equal, and the samplers
take all there is, so that every mean but that of the masks is over as many samples for each image.
"""

from __future__ import annotations

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils.events import EventStorage

from tests.detectron2.parts import TINY, yaml_config

ALL = {
    "MODEL.RPN.BATCH_SIZE_PER_IMAGE": 20_000,
    "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": 20_000,
    "MODEL.ROI_HEADS.IOU_THRESHOLDS": [0.95],  # the objects alone are positive
    # Every anchor is a proposal: of nearly equal scores, rounding would choose others.
    "MODEL.RPN.NMS_THRESH": 1.0,
    "MODEL.RPN.PRE_NMS_TOPK_TRAIN": 20_000,
    "MODEL.RPN.POST_NMS_TOPK_TRAIN": 20_000,
    "INPUT.MASK_FORMAT": "bitmask",
}
TWO = [[9, 9, 46, 40], [50, 20, 90, 50]]  # no anchor fits


def image(seed, boxes):
    truth = Instances((64, 96))
    truth.gt_boxes = Boxes(torch.tensor(boxes).float())
    truth.gt_classes = torch.arange(len(boxes)) % 2
    masks = torch.zeros(len(boxes), 64, 96, dtype=torch.bool)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes, strict=True):
        mask[y1:y2, x1:x2] = True
    truth.gt_masks = BitMasks(masks)
    generator = torch.Generator().manual_seed(seed)
    return {"image": torch.rand(3, 64, 96, generator=generator) * 255, "instances": truth}


def both(model, images):
    """Losses and gradients of one pass of all, and the means over passes of one."""
    found = []
    for passes in ([images], [[part] for part in images]):
        model.zero_grad()
        with EventStorage():
            terms = [model(part) for part in passes]
        means = {name: sum(t[name] for t in terms) / len(passes) for name in terms[0]}
        sum(means.values()).backward()
        gradients = [p.grad.clone() for p in model.parameters() if p.requires_grad]
        found.append(({name: loss.item() for name, loss in means.items()}, gradients))
    return found


@pytest.fixture
def model():
    torch.manual_seed(0)
    return build_model(yaml_config(options=TINY | ALL)).train()


EQUAL = [image(1, TWO), image(2, [[4, 30, 30, 60], [40, 4, 80, 44]])]


def test_equal_counts_give_equal_losses(model):
    """In float32, which the 50 tiny layers round: 1e-6 was seen."""
    one_pass, passes = both(model, EQUAL)
    # abs: that of the box regression is 1e-5, a mean of differences between equal boxes
    assert passes[0] == pytest.approx(one_pass[0], rel=1e-5, abs=1e-7)


def test_equal_counts_give_equal_gradients(model, in_float64):
    """Of the whole detector in float64, relative to the largest entry; 2e-15 was seen."""
    images = [
        {"image": one["image"].double(), "instances": double(one["instances"])} for one in EQUAL
    ]
    one_pass, passes = both(model.double(), images)
    scale = max(g.abs().max() for g in one_pass[1])
    for own, expected in zip(passes[1], one_pass[1], strict=True):
        torch.testing.assert_close(own / scale, expected / scale, rtol=0, atol=1e-12)


def double(truth):
    boxes = Boxes(truth.gt_boxes.tensor)
    boxes.tensor = boxes.tensor.double()  # which Boxes itself would make float32
    return Instances((64, 96), **{**truth.get_fields(), "gt_boxes": boxes})


def test_unequal_counts_differ_in_the_masks(model):
    """One object beside three: the masks' mean is over objects in the one, images in the other."""
    images = [image(1, TWO[:1]), image(2, [*TWO, [10, 44, 30, 60]])]
    (one_pass, _), (passes, _) = both(model, images)
    with EventStorage():
        alone = [model([part])["loss_mask"].item() for part in images]
    assert passes["loss_mask"] != pytest.approx(one_pass["loss_mask"], rel=1e-5)
    assert one_pass["loss_mask"] == pytest.approx((alone[0] + 3 * alone[1]) / 4, rel=1e-4)
    assert passes["loss_mask"] == pytest.approx(sum(alone) / 2, rel=1e-6)

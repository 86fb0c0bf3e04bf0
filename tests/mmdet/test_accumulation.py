"""Passes of one image against one pass of all, in a real Mask R-CNN with GN+WS.

In float64: of proposals with nearly equal scores, rounding would choose others.

Oracle: the one pass. The sizes, the anchors and the numbers of objects are equal, and the samplers
take all there is, so that every mean but that of the masks is over as many samples for each image.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmdet.structures.mask import BitmapMasks
from mmengine.config import Config
from mmengine.structures import InstanceData
from torch import Tensor, nn

import ws_det.mmdet  # noqa: F401

pytestmark = pytest.mark.usefixtures("in_float64")


def image(seed: int, boxes: list[list[int]]) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randn(3, 64, 96, generator=generator).double() * 50 + 120
    masks = torch.zeros(len(boxes), 64, 96)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes):
        mask[y1:y2, x1:x2] = 1
    sample = DetDataSample(metainfo=dict(img_shape=(64, 96), batch_input_shape=(64, 96)))
    sample.metainfo.update(scale_factor=(1.0, 1.0), ori_shape=(64, 96))
    sample.gt_instances = InstanceData(
        bboxes=torch.tensor(boxes).double(),
        labels=torch.arange(len(boxes)) % 2,
        masks=BitmapMasks(masks.byte().numpy(), 64, 96),
    )
    return dict(inputs=[pixels], data_samples=[sample])


def losses_of(model: nn.Module, batch: dict[str, Any]) -> dict[str, Tensor]:
    data = model.data_preprocessor(batch, training=True)
    losses = model(**data, mode="loss")
    return {n: sum(v) if isinstance(v, list) else v for n, v in losses.items() if "loss" in n}


def both(model: nn.Module, images: list[dict[str, Any]]) -> list[tuple[dict, list[Tensor]]]:
    """Losses and gradients of one pass of all, and the means over passes of one."""
    whole = {key: [part[key][0] for part in images] for key in ("inputs", "data_samples")}
    found = []
    for passes in ([whole], images):
        model.zero_grad()
        terms = [losses_of(model, part) for part in passes]
        means = {name: sum(t[name] for t in terms) / len(passes) for name in terms[0]}
        sum(means.values()).backward()
        gradients = [p.grad.clone() for p in model.parameters() if p.grad is not None]
        found.append(({name: loss.item() for name, loss in means.items()}, gradients))
    return found


@pytest.fixture
def model(tiny_config: Path) -> nn.Module:
    cfg = Config.fromfile(tiny_config).model
    everything = dict(num=100_000)
    cfg.train_cfg.rpn.update(sampler=cfg.train_cfg.rpn.sampler | everything)
    cfg.train_cfg.rpn.assigner.update(neg_iou_thr=0.7)  # no anchor is left out
    cfg.train_cfg.rcnn.sampler.update(everything)
    cfg.train_cfg.rcnn.assigner.update(pos_iou_thr=0.95, neg_iou_thr=0.95, min_pos_iou=0.95)
    cfg.train_cfg.rpn_proposal.update(max_per_img=8)
    cfg.roi_head.bbox_head.num_classes = cfg.roi_head.mask_head.num_classes = 2
    torch.manual_seed(0)
    built = MODELS.build(cfg)
    built.init_weights()
    return built.train().double()


TWO = [[8, 8, 40, 40], [50, 20, 90, 50]]


def test_equal_counts_give_equal_losses_and_gradients(model: nn.Module) -> None:
    """To 1e-6: what is divided by counts is float32 in MMDetection, and some losses are."""
    one_pass, passes = both(model, [image(1, TWO), image(2, [[4, 30, 30, 60], [40, 4, 80, 44]])])
    assert passes[0] == pytest.approx(one_pass[0], rel=1e-6)
    scale = max(g.abs().max() for g in one_pass[1])
    for own, expected in zip(passes[1], one_pass[1], strict=True):
        torch.testing.assert_close(own / scale, expected / scale, rtol=0, atol=1e-6)


def test_unequal_counts_differ_in_the_masks(model: nn.Module) -> None:
    """One object beside three: the masks' mean is over objects in the one, images in the other."""
    images = [image(1, TWO[:1]), image(2, [*TWO, [10, 44, 30, 60]])]
    (one_pass, _), (passes, _) = both(model, images)
    assert passes["loss_mask"] != pytest.approx(one_pass["loss_mask"], rel=1e-5)
    alone = [losses_of(model, part)["loss_mask"].item() for part in images]
    assert one_pass["loss_mask"] == pytest.approx((alone[0] + 3 * alone[1]) / 4, rel=1e-4)
    assert passes["loss_mask"] == pytest.approx(sum(alone) / 2, rel=1e-6)

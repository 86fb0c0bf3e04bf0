"""A detector of MMDetection moves to WS without losing what it learned.

Oracle: the plain detector's own output, to 1e-4 of the largest number: float32 kernels are taken
apart and put together again, and the difference passes through some 30 layers.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmdet.structures.mask import BitmapMasks
from mmengine.config import Config
from mmengine.runner import load_checkpoint
from mmengine.structures import InstanceData
from torch import Tensor, nn

from ws_det import fit
from ws_det.adopt import adopt_ws
from ws_det.mmdet.config import load_config

NORMS = {"BN": dict(type="BN"), "GN": dict(type="GN", num_groups=8)}


def build(config: Path, norm: str, conv: dict | None) -> nn.Module:
    cfg: Config = load_config(str(config)).model
    for part in (cfg.backbone, cfg.neck, cfg.roi_head.mask_head):
        part.conv_cfg, part.norm_cfg = conv, NORMS[norm]
    return MODELS.build(cfg)


def learned(model: nn.Module) -> nn.Module:
    """As if trained without WS: means and deviations of filters, and statistics, are anything."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 4:
                parameter.mul_(torch.rand(len(parameter), 1, 1, 1) + 0.5)
                parameter.add_(0.3 * parameter.std() * torch.randn(len(parameter), 1, 1, 1))
        for name, buffer in model.named_buffers():
            if name.endswith(("running_mean", "running_var")):
                buffer.add_(0.2 * torch.rand_like(buffer))
    return model.eval()


@torch.no_grad()
def outputs(model: nn.Module) -> dict[str, Tensor]:
    """Of all levels and heads, for two images and the same regions."""
    images = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(1))
    levels = model.extract_feat(images)
    rois = torch.tensor([[0.0, 4, 4, 60, 50], [1.0, 10, 0, 90, 60]])
    scores, boxes = model.rpn_head(levels)
    found = model.roi_head._bbox_forward(levels, rois)
    masks = model.roi_head._mask_forward(levels, rois)["mask_preds"]
    every = {f"level {i}": level for i, level in enumerate(levels)}
    every |= {f"rpn {i}": t for i, t in enumerate((*scores, *boxes))}
    return every | {"cls": found["cls_score"], "box": found["bbox_pred"], "mask": masks}


@pytest.mark.parametrize("adopted", [True, False])
@pytest.mark.parametrize("norm", NORMS)
def test_mask_rcnn_moves_to_ws(norm: str, adopted: bool, tiny_config: Path, tmp_path: Path) -> None:
    """From the adopted file, and from the plain one, which is adapted as it is loaded."""
    plain = learned(build(tiny_config, norm, None))
    ws = build(tiny_config, norm, dict(type="WSConv2d", adaptive=True))
    state = adopt_ws(plain.state_dict()) if adopted else plain.state_dict()
    torch.save({"state_dict": state}, tmp_path / "c.pth")
    fit.check_start(ws, state, "c.pth", "")
    load_checkpoint(ws, str(tmp_path / "c.pth"), strict=True)
    before, after = outputs(plain), outputs(ws.eval())
    for name, expected in before.items():
        assert (after[name] - expected).abs().max() <= 1e-4 * expected.abs().max(), name

    start = {name: p.detach().clone() for name, p in ws.named_parameters()}
    optimizer = torch.optim.SGD(ws.train().parameters(), lr=1e-4)
    for _ in range(3):
        losses, _ = ws.parse_losses(ws.loss(torch.randn(1, 3, 64, 96), [sample()]))
        assert losses.isfinite()
        optimizer.zero_grad()
        losses.backward()
        optimizer.step()
    moved = [name for name, p in ws.named_parameters() if not torch.equal(p, start[name])]
    assert {name for name in start if name.startswith("backbone")} <= set(moved)


def sample() -> DetDataSample:
    """One object on an image of 64 x 96."""
    masks = np.zeros((1, 64, 96), np.uint8)
    masks[:, 8:48, 8:40] = 1
    truth = InstanceData(
        bboxes=torch.tensor([[8.0, 8, 40, 48]]),
        labels=torch.tensor([1]),
        masks=BitmapMasks(masks, 64, 96),
    )
    size = (64, 96)
    meta = dict(img_shape=size, pad_shape=size, batch_input_shape=size, scale_factor=(1, 1))
    found = DetDataSample(gt_instances=truth, metainfo=meta)
    found.ignored_instances = InstanceData(bboxes=torch.empty(0, 4))
    return found

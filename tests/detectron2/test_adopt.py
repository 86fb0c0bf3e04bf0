"""A detector of Detectron2 moves to WS without losing what it learned.

Oracle: the plain detector's own output, to 1e-4 of the largest number: float32 kernels are taken
apart and put together again, and the difference passes through some 60 layers.
"""

from __future__ import annotations

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils.events import EventStorage
from torch import Tensor, nn

from tests.detectron2.parts import TINY, yaml_config
from ws_det import fit
from ws_det.adopt import adopt_ws
from ws_det.detectron2.weights import SafeCheckpointer

PLAIN = {
    "MODEL.BACKBONE.NAME": "build_resnet_fpn_backbone",
    "MODEL.ROI_BOX_HEAD.NAME": "FastRCNNConvFCHead",
    "MODEL.ROI_MASK_HEAD.NAME": "MaskRCNNConvUpsampleHead",
}
# Detectron2's GN has 32 groups.
WIDE = {"MODEL.RESNETS.STEM_OUT_CHANNELS": 32, "MODEL.RESNETS.WIDTH_PER_GROUP": 32,
        "MODEL.RESNETS.RES2_OUT_CHANNELS": 32, "MODEL.FPN.OUT_CHANNELS": 32,
        "MODEL.ROI_BOX_HEAD.CONV_DIM": 32, "MODEL.ROI_MASK_HEAD.CONV_DIM": 32,
        "MODEL.WS.NUM_GROUPS": 32, "INPUT.MASK_FORMAT": "bitmask"}  # fmt: skip


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
    """Of all levels and heads, for the same regions."""
    image = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(1))
    levels = model.backbone(image)
    names = model.roi_heads.box_in_features
    boxes = [Boxes(torch.tensor([[4.0, 4, 60, 50], [10, 0, 90, 60]]))]
    pooled = model.roi_heads.box_pooler([levels[name] for name in names], boxes)
    scores, deltas = model.roi_heads.box_predictor(model.roi_heads.box_head(pooled))
    masks = model.roi_heads.mask_pooler([levels[name] for name in names], boxes)
    masks = model.roi_heads.mask_head.layers(masks)
    objects, _ = model.proposal_generator.rpn_head(list(levels.values()))
    return {**levels, "cls": scores, "box": deltas, "mask": masks, "rpn": objects[0]}


@pytest.mark.parametrize("adopted", [True, False])
@pytest.mark.parametrize("norm", ["BN", "FrozenBN", "GN"])
def test_mask_rcnn_moves_to_ws(norm, adopted, tmp_path):
    """From the adopted file, and from the plain one, which is adapted as it is loaded."""
    plain = build_model(yaml_config(norm, TINY | WIDE | PLAIN))
    if norm == "FrozenBN":  # as a BN model leaves its statistics, or a random model explodes
        bn = build_model(yaml_config("BN", TINY | WIDE | PLAIN)).train()
        for _ in range(20):
            bn.backbone(50 * torch.randn(2, 3, 64, 96))
        plain.load_state_dict(bn.state_dict(), strict=False)
    plain = learned(plain)
    ws = build_model(yaml_config(norm, TINY | WIDE | {"MODEL.WS.ADAPTIVE": True}))
    state = adopt_ws(plain.state_dict()) if adopted else plain.state_dict()
    torch.save({"model": state}, tmp_path / "c.pth")
    fit.check_start(ws, state, "c.pth", "")
    left = SafeCheckpointer(ws).load(str(tmp_path / "c.pth"))
    assert set(left) == {"__author__"} or not left
    before, after = outputs(plain), outputs(ws.eval())
    for name, expected in before.items():
        assert (after[name] - expected).abs().max() <= 1e-4 * expected.abs().max(), name

    truth = Instances((64, 96), gt_boxes=Boxes(torch.tensor([[8.0, 8, 40, 48]])))
    truth.gt_classes = torch.tensor([1])
    truth.gt_masks = BitMasks(torch.zeros(1, 64, 96, dtype=torch.bool))
    start = {name: p.detach().clone() for name, p in ws.named_parameters()}
    optimizer = torch.optim.Adam(ws.train().parameters(), lr=1e-4)
    for _ in range(3):
        image = torch.randint(256, (3, 64, 96), dtype=torch.uint8)
        with EventStorage():
            losses = sum(ws([{"image": image, "instances": truth}]).values())
        assert losses.isfinite()
        optimizer.zero_grad()
        losses.backward()
        optimizer.step()
    kernels = {n: p for n, p in ws.backbone.named_parameters() if p.ndim == 4}
    moved = [n for n, p in kernels.items() if not torch.equal(p, start[f"backbone.{n}"])]
    assert len(moved) == len(kernels)

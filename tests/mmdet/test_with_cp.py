"""MMDetection's ``with_cp=True``, by which blocks are computed again in backward, with WS and BCN.

Oracle: the same Mask R-CNN without it, in float64.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch
from mmdet.models.backbones import resnet
from mmdet.registry import MODELS
from mmengine.config import Config
from torch import Tensor, nn

import ws_det.mmdet  # noqa: F401
from tests.mmdet.test_accumulation import image, losses_of
from ws_det.bench.counts import saved_bytes
from ws_det.estimates import StepEstimates

pytestmark = pytest.mark.usefixtures("in_float64")
NORMS = {
    "GN": dict(type="GN", num_groups=8),
    "EstBN": dict(type="EstBN"),
    "BCN": dict(type="BCN", num_groups=8),
    "BCN with estimates": dict(type="BCN", num_groups=8, estimate=True),
}
IMAGES = [image(1, [[8, 8, 40, 40], [50, 20, 90, 50]]), image(2, [[4, 30, 30, 60]])]


@pytest.fixture(params=[True, False], ids=["reentrant", "not reentrant"])
def reentrant(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """MMDetection leaves the choice to torch, which takes the first and is to take the other."""
    chosen = partial(resnet.cp.checkpoint, use_reentrant=request.param)
    monkeypatch.setattr(resnet.cp, "checkpoint", chosen)
    return request.param


def build(tiny_config: Path, norm: str, with_cp: bool) -> nn.Module:
    cfg = Config.fromfile(tiny_config).model
    cfg.backbone.update(depth=50, base_channels=8, with_cp=with_cp)
    cfg.neck.update(in_channels=[32, 64, 128, 256])
    for part in (cfg.backbone, cfg.neck, cfg.roi_head.mask_head):
        part.norm_cfg = NORMS[norm]
    cfg.roi_head.bbox_head.num_classes = cfg.roi_head.mask_head.num_classes = 2
    torch.manual_seed(0)
    model = MODELS.build(cfg)
    model.init_weights()
    return model.train().double()


def step(model: nn.Module) -> tuple[list[dict[str, Tensor]], dict[str, Tensor], dict[str, Tensor]]:
    """Losses, gradients and statistics of a step of two passes, as our hook moves them."""
    steps = StepEstimates(model)
    losses = []
    for i, batch in enumerate(IMAGES):
        torch.manual_seed(i)  # of the samplers
        steps.begin_pass()
        losses.append(losses_of(model, batch))
        sum(losses[-1].values()).backward()
        steps.end_pass(last=batch is IMAGES[-1])
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    moved = {name: b.clone() for name, b in model.named_buffers() if "running" in name}
    return losses, gradients, moved


@pytest.mark.parametrize("norm", NORMS)
def test_a_whole_mask_rcnn(tiny_config: Path, norm: str, reentrant: bool) -> None:
    losses, gradients, statistics = step(build(tiny_config, norm, with_cp=False))
    found = step(build(tiny_config, norm, with_cp=True))
    for got, expected in zip(found[0], losses, strict=True):
        assert got.keys() == expected.keys()
        for name, value in expected.items():
            # Where labels are float32, torch computes a cross-entropy so, but not its gradient.
            tolerance = 1e-12 if value.dtype == torch.float64 else 1e-6
            assert got[name].item() == pytest.approx(value.item(), rel=tolerance), name
    largest = max(float(value.abs().max()) for value in gradients.values())
    for got, expected in ((found[1], gradients), (found[2], statistics)):
        assert got.keys() == expected.keys()
        for name, value in expected.items():
            assert value.dtype == torch.float64
            scale = largest if expected is gradients else float(value.abs().max())
            assert float((got[name] - value).abs().max()) <= 1e-12 * scale, name
    means = [value for name, value in statistics.items() if name.endswith("running_mean")]
    assert bool(means) == (norm != "GN") and all(value.any() for value in means)


def kept(tiny_config: Path, norm: str, with_cp: bool) -> int:
    model, x = build(tiny_config, norm, with_cp), IMAGES[0]["inputs"][0][None]
    return saved_bytes(lambda: model.neck(model.backbone(x)), model.state_dict().values())


@pytest.mark.parametrize("norm", NORMS)
def test_what_it_saves(tiny_config: Path, norm: str) -> None:
    """Of the bytes that a forward pass of backbone and neck keeps for backward."""
    all_of_them, some = (kept(tiny_config, norm, with_cp) for with_cp in (False, True))
    print(f"{norm}: {all_of_them} bytes kept for backward, {some} with with_cp=True")
    assert some < 0.6 * all_of_them

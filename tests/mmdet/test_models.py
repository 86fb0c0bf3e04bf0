"""WS and BCN in the backbones, necks and heads of MMDetection, each one forward and backward.

Oracle: the module's own structure (where a plain norm would stand, BCN stands, after a WS
convolution) and autograd: the loss reaches every parameter, and every estimate has moved.
"""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch

mmdet = pytest.importorskip("mmdet")

from mmdet.models.roi_heads import bbox_heads, mask_heads  # noqa: E402
from mmdet.registry import MODELS  # noqa: E402
from mmdet.testing import demo_mm_inputs  # noqa: E402
from mmdet.utils import register_all_modules  # noqa: E402
from mmengine.config import ConfigDict  # noqa: E402
from torch import nn  # noqa: E402
from torch.utils._pytree import tree_flatten  # noqa: E402

import ws_det.mmdet  # noqa: E402, F401
from ws_det import BatchChannelNorm2d, WSConv1d, WSConv2d  # noqa: E402

register_all_modules(init_default_scope=True)

LAYERS = {
    "conv_cfg": {"type": "WSConv2d"},
    "norm_cfg": {"type": "BCN", "num_groups": 8, "estimate": True},
}
BACKBONES = {
    "ResNet": {"depth": 18, "base_channels": 16},
    "ResNeXt": {"depth": 50, "groups": 32, "base_width": 4},
    "Res2Net": {"depth": 50, "scales": 4, "base_width": 8},
    "RegNet": {"arch": "regnetx_400mf"},
}
BBOX = {"in_channels": 16, "conv_out_channels": 32, "fc_out_channels": 16, "num_classes": 5}
CONV = {"in_channels": 16, "conv_out_channels": 16, "num_convs": 2, "num_classes": 5}
ROI, ROI_LARGE = (3, 16, 7, 7), (3, 16, 14, 14)
LEVELS = [(1, 16, 16, 16), (1, 16, 8, 8)]
# head -> its arguments and the shapes of what its forward takes
ROI_HEADS: dict[str, tuple[dict[str, Any], list]] = {
    "ConvFCBBoxHead": (BBOX | {"num_cls_convs": 2}, [ROI]),
    "Shared4Conv1FCBBoxHead": (BBOX, [ROI]),
    "DoubleConvFCBBoxHead": (BBOX | {"num_convs": 2, "num_fcs": 1}, [ROI] * 2),
    "SCNetBBoxHead": (BBOX | {"num_shared_convs": 2, "num_shared_fcs": 1}, [ROI]),
    "FCNMaskHead": (CONV, [ROI_LARGE]),
    "HTCMaskHead": (CONV, [ROI_LARGE] * 2),
    "SCNetMaskHead": (CONV, [ROI_LARGE]),
    "CoarseMaskHead": (CONV | {"num_fcs": 1, "fc_out_channels": 16}, [ROI_LARGE]),
    "DynamicMaskHead": (
        CONV | {"dynamic_conv_cfg": {
            "type": "DynamicConv", "in_channels": 16, "feat_channels": 8, "out_channels": 16,
            "input_feat_shape": 14, "with_proj": False, "norm_cfg": {"type": "LN"}}},
        [ROI_LARGE, (3, 16)],
    ),
    "GridHead": ({"num_convs": 2, "in_channels": 16, "point_feat_channels": 8}, [ROI_LARGE]),
    "FusedSemanticHead": (CONV | {"num_ins": 2, "fusion_level": 0}, [LEVELS]),
    "SCNetSemanticHead": (CONV | {"num_ins": 2, "fusion_level": 0}, [LEVELS]),
    "GlobalContextHead": (CONV, [LEVELS]),
    "MaskPointHead": (
        {"in_channels": 16, "fc_channels": 16, "num_classes": 5, "conv_cfg": {"type": "WSConv1d"},
         "norm_cfg": {"type": "GN", "num_groups": 8}},  # its points are no (N, C, H, W)
        [(3, 16, 20), (3, 5, 20)],
    ),
}  # fmt: skip
ANCHORS = {"sampler": {"type": "PseudoSampler"}, "allowed_border": -1, "pos_weight": -1}
MAX_IOU = {"type": "MaxIoUAssigner", "pos_iou_thr": 0.5, "neg_iou_thr": 0.4, "ignore_iof_thr": -1}
TRAIN_CFG = {
    "RetinaHead": ANCHORS | {"assigner": MAX_IOU},
    "FCOSHead": None,
    "ATSSHead": ANCHORS | {"assigner": {"type": "ATSSAssigner", "topk": 9}},
}
DENSE_HEADS = {
    "RetinaHead": {"anchor_generator": {
        "type": "AnchorGenerator", "octave_base_scale": 4, "scales_per_octave": 3,
        "ratios": [0.5, 1.0, 2.0], "strides": [8, 16]}},
    "FCOSHead": {"strides": [8, 16], "regress_ranges": ((-1, 64), (64, 1e8))},
    "ATSSHead": {"loss_bbox": {"type": "GIoULoss"}, "anchor_generator": {
        "type": "AnchorGenerator", "ratios": [1.0], "octave_base_scale": 8,
        "scales_per_octave": 1, "strides": [8, 16]}},
}  # fmt: skip


def build(kind: str, **arguments: Any) -> nn.Module:
    torch.manual_seed(0)
    module = MODELS.build(ConfigDict(type=kind, **{**LAYERS, **arguments}))
    module.init_weights()
    module.train()  # returns None in MMDetection's backbones
    return module


def make(shape: Any) -> Any:
    return [make(level) for level in shape] if isinstance(shape, list) else torch.randn(shape)


def check(module: nn.Module, loss: torch.Tensor) -> None:
    """Every norm is ours behind a WS convolution, learns, and has moved its estimate."""
    loss.backward()
    without = [n for n, p in module.named_parameters() if p.requires_grad and p.grad is None]
    assert not without
    grads = [p.grad for p in module.parameters() if p.requires_grad]
    assert torch.isfinite(loss) and all(torch.isfinite(grad).all() for grad in grads)
    norms = [m for m in module.modules() if isinstance(m, BatchChannelNorm2d)]
    assert all(norm.bn.running_mean.abs().sum() > 0 for norm in norms)


def spread(outputs: Any) -> torch.Tensor:
    """A loss that treats no output like another, so that no gradient cancels out."""
    leaves = [x for x in tree_flatten(outputs)[0] if isinstance(x, torch.Tensor)]
    return sum((leaf * torch.randn_like(leaf)).sum() for leaf in leaves)


def counts(module: nn.Module) -> tuple[int, int]:
    kinds = ((WSConv1d, WSConv2d), (BatchChannelNorm2d, nn.GroupNorm))
    return tuple(sum(isinstance(m, kind) for m in module.modules()) for kind in kinds)


@pytest.mark.parametrize("kind", BACKBONES)
def test_backbone(kind: str) -> None:
    backbone = build(kind, **BACKBONES[kind], frozen_stages=-1, norm_eval=False)
    check(backbone, spread(backbone(torch.randn(2, 3, 64, 64))))
    convs, norms = counts(backbone)
    assert convs == norms == sum(isinstance(m, nn.Conv2d) for m in backbone.modules())


@pytest.mark.parametrize("kind", ["FPN", "PAFPN"])
def test_neck(kind: str) -> None:
    neck = build(kind, in_channels=[16, 16], out_channels=16, num_outs=2)
    check(neck, spread(neck(make(LEVELS))))
    convs, norms = counts(neck)
    assert convs == norms == sum(isinstance(m, nn.Conv2d) for m in neck.modules())


@pytest.mark.parametrize("kind", ROI_HEADS)
def test_roi_head(kind: str) -> None:
    arguments, shapes = ROI_HEADS[kind]
    head = build(kind, **arguments)
    check(head, spread(head(*[make(shape) for shape in shapes])))
    convs, norms = counts(head)
    own_norms = 1 if kind == "GridHead" else 0  # a GroupNorm after its deconvolution
    assert convs == norms - own_norms > 0


@pytest.mark.parametrize("kind", ["ConvFCBBoxHead", "Shared4Conv1FCBBoxHead", "FCNMaskHead"])
def test_roi_head_without_any_roi(kind: str) -> None:
    arguments, [shape] = ROI_HEADS[kind]
    head = build(kind, **arguments)
    before = {name: buffer.clone() for name, buffer in head.named_buffers()}
    spread(head(torch.randn(0, *shape[1:]))).backward()
    assert all(p.grad is not None for p in head.parameters())  # else DDP waits for it
    assert all(torch.equal(buffer, before[name]) for name, buffer in head.named_buffers())


def test_the_table_has_every_roi_head_that_takes_a_convolution() -> None:
    """Oracle: the signatures of MMDetection's own heads."""
    takers = set()
    for module in (bbox_heads, mask_heads):
        for name in module.__all__:
            signatures = [
                inspect.signature(base.__init__).parameters
                for base in getattr(module, name).__mro__
                if "__init__" in vars(base)
            ]
            if any("conv_cfg" in signature for signature in signatures):
                takers.add(name)
    # Shared2FC has no convolution
    assert takers - {"Shared2FCBBoxHead"} == set(ROI_HEADS)


@pytest.mark.parametrize("kind", DENSE_HEADS)
def test_dense_head(kind: str) -> None:
    head = build(
        kind, num_classes=5, in_channels=16, feat_channels=16, stacked_convs=2,
        train_cfg=TRAIN_CFG[kind], **DENSE_HEADS[kind],
    )  # fmt: skip
    samples = demo_mm_inputs(1, [[3, 128, 128]], num_classes=5)["data_samples"]
    samples[0].set_metainfo({"pad_shape": (128, 128)})
    losses = head.loss(make(LEVELS), samples)
    check(head, sum(sum(value) if isinstance(value, list) else value for value in losses.values()))
    assert counts(head) == (4, 4)  # two towers of two

"""What a yaml can name: every part built by Detectron2's own builders, in its own models."""

from __future__ import annotations

import copy
import importlib
from collections import Counter

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.layers import CycleBatchNormList, FrozenBatchNorm2d, ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, META_ARCH_REGISTRY, build_backbone, build_model
from detectron2.modeling.roi_heads import build_box_head, build_mask_head
from detectron2.structures import Boxes, Instances, PolygonMasks
from detectron2.utils.events import EventStorage
from torch import nn

import ws_det.detectron2.registry
from tests.detectron2.parts import TINY, yaml_config
from ws_det import BatchChannelNorm2d, EstBatchNorm2d, WSConv2d, convert, plan_conversion
from ws_det.detectron2 import add_ws_config
from ws_det.errors import InputError
from ws_det.layers import WeightStandardized


def image(height=64, width=64, boxes=((8, 8, 40, 40), (20, 10, 60, 50))):
    """One entry of a batch as Detectron2's mappers make it."""
    instances = Instances((height, width))
    instances.gt_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4))
    instances.gt_classes = torch.arange(len(boxes)) % 3
    instances.gt_masks = PolygonMasks([[[x, y, u, y, u, v, x, v]] for x, y, u, v in boxes])
    pixels = torch.randint(0, 256, (3, height, width), dtype=torch.uint8)
    return {"image": pixels, "instances": instances, "height": height, "width": width}


def norms(model):
    kinds = (nn.GroupNorm, nn.BatchNorm2d, EstBatchNorm2d, FrozenBatchNorm2d)
    return Counter(type(m).__name__ for m in model.modules() if isinstance(m, kinds))


# (norm in the yaml, what counts of it a Mask R-CNN R50-FPN has: 53 + 8 + 4 + 4 layers)
NORMS = [
    ("GN", {"GroupNorm": 69}),
    ("BCN", {"BatchChannelNorm2d": 69, "EstBatchNorm2d": 69}),
    ("EstBN", {"EstBatchNorm2d": 69}),
    ("BN", {"BatchNorm2d": 69}),
    ("FrozenBN", {"FrozenBatchNorm2d": 69}),
]


@pytest.mark.parametrize("norm, counts", NORMS)
def test_mask_rcnn(norm, counts):
    """Oracle: the arithmetic of the architecture; a training step and an inference that run."""
    model = build_model(yaml_config(norm, TINY))
    plan = Counter(c.reason for c in plan_conversion(model))
    # RPN has 3, the mask head its deconvolution and its predictor
    assert plan == {"is a WS convolution": 69, "no norm follows it": 5}
    assert norms(model) == counts
    with EventStorage():
        losses = model.train()([image(), image(boxes=())])
    sum(losses.values()).backward()
    trained = [p for p in model.parameters() if p.requires_grad]
    assert all(p.grad is not None for p in trained)
    if norm != "FrozenBN":  # its statistics fit pretrained weights, so random ones overflow
        assert all(p.grad.isfinite().all() for p in trained)
    assert len(model.eval()([image()])) == 1


@pytest.mark.parametrize("norm", ["GN", "BCN", "BN"])
def test_retinanet(norm):
    """Oracle: 53 + 6 + 2 WS layers; cls_score, bbox_pred, P6 and P7 are plain."""
    model = build_model(yaml_config(norm, TINY, retinanet=True))
    plan = Counter(c.reason for c in plan_conversion(model))
    assert plan == {"is a WS convolution": 61, "no norm follows it": 4}
    cycles = [m for m in model.head.modules() if isinstance(m, CycleBatchNormList)]
    assert len(cycles) == (2 if norm == "BN" else 0)
    with EventStorage():
        losses = model.train()([image(), image()])
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in model.parameters())
    assert len(model.eval()([image()])) == 1


def test_cascade():
    """Oracle: three box heads, each with WS."""
    model = build_model(
        yaml_config(
            "GN",
            TINY | {
                "MODEL.ROI_HEADS.NAME": "CascadeROIHeads",
                "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG": True,
            },
        )
    )  # fmt: skip
    assert Counter(c.reason for c in plan_conversion(model))["is a WS convolution"] == 77


@pytest.mark.parametrize(
    "depth, options, convolutions",
    [
        (18, {"MODEL.RESNETS.RES2_OUT_CHANNELS": 64}, 20),
        (34, {"MODEL.RESNETS.RES2_OUT_CHANNELS": 64}, 36),
        (50, {"MODEL.RESNETS.NUM_GROUPS": 32, "MODEL.RESNETS.WIDTH_PER_GROUP": 4}, 53),
        (101, {}, 104),
        (152, {}, 155),
    ],
)
def test_resnet_depths(depth, options, convolutions):
    """Oracle: the arithmetic of the architectures, each convolution with its norm."""
    cfg = yaml_config("GN", options | {"MODEL.RESNETS.DEPTH": depth})
    cfg.MODEL.BACKBONE.NAME = "build_ws_resnet_backbone"
    with torch.device("meta"):
        backbone = build_backbone(cfg)
    kinds = Counter(type(m) for m in backbone.modules())
    assert kinds[ws_det.detectron2.WSConv2d] == kinds[nn.GroupNorm] == convolutions


@pytest.mark.parametrize("estimate", [True, False])
def test_freeze_at(estimate):
    """Oracle: Detectron2's meaning of FREEZE_AT=2, stem and res2: no gradient, no statistics."""
    options = TINY | {"MODEL.BACKBONE.FREEZE_AT": 2, "MODEL.WS.ESTIMATE": estimate}
    backbone = build_backbone(yaml_config("BCN", options)).train()
    before = copy.deepcopy(backbone.state_dict())
    backbone(torch.randn(2, 3, 64, 64))["p2"].sum().backward()
    for name, parameter in backbone.named_parameters():
        frozen = name.startswith(("bottom_up.stem", "bottom_up.res2"))
        assert parameter.requires_grad != frozen, name
    moved = {n for n, t in backbone.state_dict().items() if not torch.equal(t, before[n])}
    statistics = {n for n in before if n.endswith("running_mean")}
    assert {n for n in statistics if n not in moved} == {
        n for n in statistics if n.startswith(("bottom_up.stem", "bottom_up.res2"))
    }


def test_options_of_the_node_reach_the_layers():
    """Oracle: the attributes of every layer."""
    options = TINY | {
        "MODEL.WS.ESTIMATE": False, "MODEL.WS.MOMENTUM": 0.2, "MODEL.WS.FORMULA": "bit",
    }  # fmt: skip
    for retinanet in (False, True):
        model = build_model(yaml_config("BCN", options, retinanet))
        layers = list(model.modules())
        assert {m.formula for m in layers if isinstance(m, WeightStandardized)} == {"bit"}
        bcn = [m for m in layers if isinstance(m, BatchChannelNorm2d)]
        assert {(m.num_groups, type(m.bn), m.bn.momentum) for m in bcn} == {
            (4, nn.BatchNorm2d, 0.2)
        }


def test_fpn_without_norm_stays_plain():
    """Oracle: Detectron2's default FPN.NORM is none, and WS needs one."""
    cfg = yaml_config("GN", TINY | {"MODEL.FPN.NORM": ""})
    plan = plan_conversion(build_backbone(cfg))
    assert {c.name for c in plan if c.reason == "no norm follows it"} == {
        f"fpn_{kind}{level}" for kind in ("lateral", "output") for level in (2, 3, 4, 5)
    }


def build_heads(cfg):
    shape = ShapeSpec(channels=16, width=7, height=7)
    return build_box_head(cfg, shape), build_mask_head(cfg, shape)


@pytest.mark.parametrize(
    "build, options, message",
    [
        (build_backbone, {"MODEL.RESNETS.NORM": ""}, "MODEL.RESNETS.NORM='' puts no norm"),
        (build_backbone, {"MODEL.RESNETS.NORM": "GroupNorm"}, "unknown norm 'GroupNorm'"),
        (build_backbone, {"MODEL.FPN.NORM": "XN"}, "unknown norm 'XN'"),
        (build_backbone, {"MODEL.WS.NUM_GROUPS": 5}, "num_groups=5 does not divide the 8 "),
        (build_backbone, {"MODEL.WS.FORMULA": "gn"}, "unknown WS formula 'gn'"),
        (build_heads, {"MODEL.ROI_BOX_HEAD.NORM": ""}, "MODEL.ROI_BOX_HEAD.NORM='' puts no"),
        (build_heads, {"MODEL.ROI_BOX_HEAD.NUM_CONV": 0}, "nothing to convert: WSFastRCNNConvFC"),
        (build_heads, {"MODEL.ROI_MASK_HEAD.NORM": ""}, "MODEL.ROI_MASK_HEAD.NORM='' puts no"),
    ],
)
def test_bad_settings_are_refused(build, options, message):
    """Oracle: InputError, one sentence with the value."""
    with pytest.raises(InputError, match=message):
        build(yaml_config("GN", TINY | options))


def test_a_config_without_our_node_is_refused():
    """Oracle: InputError that says what to call."""
    cfg = get_cfg()
    cfg.MODEL.BACKBONE.NAME = "build_ws_resnet_backbone"
    with pytest.raises(InputError, match=r"call ws_det.detectron2.add_ws_config\(cfg\)"):
        build_backbone(cfg)


def test_add_ws_config_twice_keeps_what_was_set():
    """Oracle: the node after the first call."""
    cfg = yaml_config("GN", {"MODEL.WS.NUM_GROUPS": 16, "SOLVER.ACCUMULATION_STEPS": 4})
    before = cfg.clone()
    add_ws_config(cfg)
    assert cfg == before


def test_the_config_of_the_user_is_left_alone():
    """Oracle: a frozen config, its text before and after."""
    cfg = yaml_config("BCN", TINY)
    cfg.freeze()
    before = cfg.dump()
    build_model(cfg)
    assert cfg.dump() == before and cfg.is_frozen()


def test_importing_again_is_harmless():
    """Oracle: parts still found and buildable, each pairing registered once."""
    count = len(convert._pairings)
    importlib.reload(ws_det.detectron2.registry)
    importlib.reload(ws_det.detectron2)
    assert len(convert._pairings) == count
    test_fpn_without_norm_stays_plain()


def test_a_name_held_by_another_project_is_an_error():
    """Oracle: InputError that names the holder; nothing is overwritten."""
    held = META_ARCH_REGISTRY._obj_map["WSRetinaNet"]
    META_ARCH_REGISTRY._obj_map["WSRetinaNet"] = nn.Identity
    try:
        with pytest.raises(InputError, match=r"WSRetinaNet is already registered by torch\.nn"):
            ws_det.detectron2.registry.register_parts()
        assert META_ARCH_REGISTRY.get("WSRetinaNet") is nn.Identity
    finally:
        META_ARCH_REGISTRY._obj_map["WSRetinaNet"] = held
    assert "build_ws_resnet_backbone" in BACKBONE_REGISTRY
    assert WSConv2d not in convert.WS_CLASSES

"""Renaming of MMDetection's keys, against the keys of Detectron2's own models.

That the renamed tensors also compute the same is test_parity.py's to show.
"""

from __future__ import annotations

from collections import OrderedDict

import pytest
import torch
from detectron2.modeling import build_backbone, build_model

from tests.detectron2.parts import TINY, yaml_config
from ws_det.detectron2 import WSConv2d
from ws_det.detectron2.keys import from_mmdet, is_mmdet, left_over
from ws_det.fold import fold_ws, is_folded


def meta_state(build):
    with torch.device("meta"):
        return build().state_dict()


def test_every_key_of_a_torchvision_resnet():
    """Oracle: Detectron2's R50 with BN, the same architecture; the classifier is left over."""
    torchvision = pytest.importorskip("torchvision.models")
    state = meta_state(torchvision.resnet50)
    cfg = yaml_config("BN")
    cfg.MODEL.BACKBONE.NAME = "build_ws_resnet_backbone"
    expected = meta_state(lambda: build_backbone(cfg))
    assert is_mmdet(state) and not is_mmdet(expected)
    renamed = from_mmdet(state)
    assert {k: v.shape for k, v in renamed.items()} == {k: v.shape for k, v in expected.items()}
    assert left_over(state) == ["fc.weight", "fc.bias"]


@pytest.mark.parametrize("norm", ["GN", "BCN", "EstBN", ""])
def test_every_key_of_a_detector(norm):
    """Oracle: the keys of Detectron2's FPN backbone; all heads are left over, by name."""
    mmdet = pytest.importorskip("mmdet.registry", reason="needs MMDetection")
    import ws_det.mmdet  # noqa: F401

    cfg = dict(type=norm, **({} if norm == "EstBN" else dict(num_groups=32))) if norm else None
    if norm == "BCN":
        cfg["estimate"] = True
    own = dict(conv_cfg=dict(type="WSConv2d") if norm else None)
    backbone = dict(type="mmdet.ResNet", depth=18, norm_cfg=cfg or dict(type="BN"), **own)
    neck = dict(type="mmdet.FPN", in_channels=[64, 128, 256, 512], out_channels=256, num_outs=5)
    with torch.device("meta"):
        detector = torch.nn.ModuleDict(
            {
                "backbone": mmdet.MODELS.build(backbone),
                "neck": mmdet.MODELS.build(neck | dict(norm_cfg=cfg, **own)),
                "bbox_head": torch.nn.Linear(2, 2),
            }
        )
    state = detector.state_dict()
    resnet = {"MODEL.RESNETS.DEPTH": 18, "MODEL.RESNETS.RES2_OUT_CHANNELS": 64}
    names = {"MODEL.RESNETS.NORM": norm or "BN", "MODEL.FPN.NORM": norm}
    expected = meta_state(lambda: build_backbone(yaml_config(norm or "GN", resnet | names)))
    # MMDetection's BasicBlock has a shortcut in stages 2 to 4 as Detectron2's
    assert {k: v.shape for k, v in from_mmdet(state).items()} == {
        f"backbone.{k}": v.shape for k, v in expected.items()
    }
    assert left_over(state) == ["bbox_head.weight", "bbox_head.bias"]


def test_levels_of_retinanet():
    """Oracle: MMDetection's start_level=1 means P3 to P5, which Detectron2 calls by that number."""
    state = OrderedDict()
    for i in range(3):
        state[f"neck.lateral_convs.{i}.conv.weight"] = i
        state[f"neck.fpn_convs.{i}.gn.weight"] = 10 + i
    state["neck.fpn_convs.3.conv.weight"] = state["neck.fpn_convs.4.conv.weight"] = None
    assert is_mmdet(state)
    assert from_mmdet(state) == {
        **{f"backbone.fpn_lateral{3 + i}.weight": i for i in range(3)},
        **{f"backbone.fpn_output{3 + i}.norm.weight": 10 + i for i in range(3)},
    }
    assert left_over(state) == ["neck.fpn_convs.3.conv.weight", "neck.fpn_convs.4.conv.weight"]


def test_keys_of_detectron2_are_no_mmdet_keys():
    """Oracle: Detectron2's own Mask R-CNN, of which nothing can be renamed."""
    state = build_model(yaml_config("GN", TINY)).state_dict()
    assert not is_mmdet(state) and not from_mmdet(state)


def test_folded_weights_stay_marked():
    """Oracle: is_folded, and the WS convolution that refuses them."""
    model = torch.nn.Module()
    model.conv1 = WSConv2d(3, 8, 7)
    fold_ws(model)
    renamed = from_mmdet(model.state_dict())
    assert list(renamed) == ["stem.conv1.weight", "stem.conv1.bias"] and is_folded(renamed)
    stem = torch.nn.ModuleDict({"stem": torch.nn.ModuleDict({"conv1": WSConv2d(3, 8, 7)})})
    with pytest.raises(RuntimeError, match=r"stem\.conv1\.weight is folded"):
        stem.load_state_dict(renamed)

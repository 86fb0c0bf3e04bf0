"""Detectron2's names for weights, against the keys and shapes of its own models.

That converted tensors also compute the same is test_parity.py's and test_detections.py's to show.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from random import random

import pytest
import torch
from detectron2.modeling import build_backbone, build_model
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator

from tests.detectron2.parts import TINY, yaml_config
from tests.detectron2.test_configs import build, load
from ws_det import config_path
from ws_det.detectron2 import WSConv2d
from ws_det.errors import InputError
from ws_det.fold import fold_ws, is_folded
from ws_det.formats import convert_state, recognize

# our config of MMDetection -> ours of Detectron2 for the same network
COUNTERPARTS = {
    "mask-rcnn_r50_fpn_gn-ws-all_2x_coco": "mask_rcnn_R_50_FPN_2x_gn_ws",
    "mask-rcnn_r50_fpn_bcn-ws-all_2x_coco": "mask_rcnn_R_50_FPN_2x_bcn_ws.yaml",
}
CASCADE = (
    "cascade-mask-rcnn_r50_fpn_gn-ws-all_20e_coco",
    "cascade_mask_rcnn_R_50_FPN_3x_gn_ws.yaml",
)
RETINANET = ("retinanet_r50_fpn_gn-ws-all_1x_coco", "retinanet_R_50_FPN_1x_gn_ws.yaml")


def filled(model):
    """The state dict of a model, with numbers in it, one per tensor where rows stay in order."""
    state = model.state_dict()
    for key, tensor in state.items():
        ordered = re.search(r"cls|reg|anchor_deltas|bbox_pred|predictor|logits", key)
        values = torch.rand(tensor.shape) if ordered else torch.full(tensor.shape, random())
        state[key] = values.to(tensor.dtype)
    return state


def theirs_and_ours(theirs, ours):
    """What MMDetection's and Detectron2's model of two configs store."""
    mmdet = pytest.importorskip("mmdet.registry", reason="needs MMDetection beside Detectron2")
    from mmengine.config import Config
    from mmengine.registry import DefaultScope

    import ws_det.mmdet  # noqa: F401

    with DefaultScope.overwrite_default_scope("mmdet"), torch.device("meta"):
        model = mmdet.MODELS.build(Config.fromfile(config_path(theirs)).model)
    return filled(model), filled(build(load(ours)))


def shapes(state):
    return {key: tensor.shape for key, tensor in state.items()}


def assert_same(found, expected):
    """The same tensors to the bit, in any order, and the versions of the same norms."""
    assert found.keys() == expected.keys()
    for key, tensor in expected.items():
        assert torch.equal(found[key], tensor), key
    assert found._metadata.items() <= expected._metadata.items()


@pytest.mark.parametrize(("theirs", "ours"), COUNTERPARTS.items())
def test_every_key_of_a_detector_both_ways(theirs, ours):
    """Oracle: the two models store the same shapes under these names; there and back is exact."""
    theirs, ours = theirs_and_ours(theirs, ours)
    for state, other, to, back in (
        (theirs, ours, "detectron2", "mmdet"),
        (ours, theirs, "mmdet", "detectron2"),
    ):
        converted = convert_state(state, to)
        assert converted.source.name == back == recognize(state).name
        assert converted.unmatched == converted.needless == []
        assert shapes(converted.state) == shapes(other)
        assert_same(convert_state(converted.state, back).state, state)


def test_cascade():
    """Oracle: the two models. MMDetection's has a mask head per stage, Detectron2's has one."""
    theirs, ours = theirs_and_ours(*CASCADE)
    converted = convert_state(theirs, "detectron2")
    masks = {key for key in theirs if ".mask_head." in key}
    assert set(converted.unmatched) == masks and len(masks) == 3 * 16
    others = {key: s for key, s in shapes(ours).items() if ".mask_head." not in key}
    assert shapes(converted.state) == others
    back = convert_state(converted.state, "mmdet").state
    assert all(torch.equal(back[key], theirs[key]) for key in theirs.keys() - masks)


def test_retinanet():
    """Oracle: the two models. What each side alone has is unmatched, or added as zeros."""
    theirs, ours = theirs_and_ours(*RETINANET)
    converted = convert_state(theirs, "detectron2")
    # MMDetection normalizes the levels above the backbone as well
    extra = {key for key in theirs if key.startswith(("neck.fpn_convs.3.", "neck.fpn_convs.4."))}
    assert set(converted.unmatched) == extra and len(extra) == 6
    biases = {f"head.{part}_subnet.{i}.bias" for part in ("cls", "bbox") for i in (0, 3, 6, 9)}
    assert all(not converted.state[key].any() for key in biases)
    top = {key for key in ours if ".top_block." in key}
    assert shapes(converted.state) == {k: s for k, s in shapes(ours).items() if k not in top}
    back = convert_state(converted.state, "mmdet")
    assert back.unmatched == [] and set(back.needless) == biases
    assert all(torch.equal(back.state[key], theirs[key]) for key in theirs.keys() - extra)

    converted = convert_state(ours, "mmdet")
    assert set(converted.unmatched) == biases  # they are not zero, and no place holds them
    back = convert_state(converted.state, "detectron2").state
    assert all(torch.equal(back[key], ours[key]) for key in ours.keys() - biases)
    # what test_detections.py sets for equal detections
    for setting in ("relu_before_extra_convs=True", "clip_border=False"):
        assert any(setting in note for note in converted.notes)


def test_order_of_retinanet_anchors():
    """Oracle: the boxes that both anchor generators make for one cell, of two sizes."""
    prior = pytest.importorskip("mmdet.models.task_modules.prior_generators")
    octaves = [2 ** (i / 2) for i in range(2)]
    theirs = prior.AnchorGenerator(
        strides=[8], ratios=[0.5, 1.0, 2.0], octave_base_scale=4, scales_per_octave=2
    ).base_anchors[0]
    ours = DefaultAnchorGenerator(
        sizes=[[32 * octave for octave in octaves]], aspect_ratios=[[0.5, 1.0, 2.0]], strides=[8]
    ).cell_anchors
    ours = next(iter(ours))
    state = OrderedDict(
        {
            "backbone.layer1.0.conv1.weight": torch.zeros(8, 8, 1, 1),
            "bbox_head.retina_reg.bias": theirs.flatten(),
            "bbox_head.retina_cls.bias": torch.arange(6.0).repeat_interleave(5),
        }
    )
    converted = convert_state(state, "detectron2").state
    assert torch.allclose(converted["head.bbox_pred.bias"].view(6, 4), ours, atol=1e-4)
    classes = converted["head.cls_score.bias"].view(6, 5)[:, 0].long()
    assert torch.allclose(theirs[classes], ours, atol=1e-4)  # float32 boxes of up to 100 pixels


def test_deep_rpn():
    """Oracle: Detectron2's RPN with two hidden convolutions."""
    options = TINY | {"MODEL.RPN.CONV_DIMS": [16, 16]}
    state = filled(build_model(yaml_config("GN", options)))
    converted = convert_state(state, "mmdet")
    assert converted.unmatched == []
    assert "rpn_head.rpn_conv.1.conv.weight" in converted.state
    assert_same(convert_state(converted.state, "detectron2").state, state)


def test_every_key_of_a_torchvision_resnet():
    """Oracle: Detectron2's R50 with BN, the same architecture, which has no classifier."""
    torchvision = pytest.importorskip("torchvision.models")
    with torch.device("meta"):
        model = torchvision.resnet50()
    state = filled(model)
    cfg = yaml_config("BN")
    cfg.MODEL.BACKBONE.NAME = "build_ws_resnet_backbone"
    with torch.device("meta"):
        expected = build_backbone(cfg).state_dict()
    converted = convert_state(state, "detectron2")
    assert shapes(converted.state) == shapes(expected)
    assert (converted.unmatched, converted.needless) == ([], ["fc.weight", "fc.bias"])
    back = convert_state(converted.state, "torchvision").state
    assert all(torch.equal(back[key], state[key]) for key in back)
    assert state.keys() - back.keys() == {"fc.weight", "fc.bias"}


def test_levels_of_retinanet():
    """Oracle: MMDetection's start_level=1 means P3 to P5, which Detectron2 calls by that number."""
    state = OrderedDict()
    for i in range(3):
        state[f"neck.lateral_convs.{i}.conv.weight"] = torch.full((1, 1, 1, 1), i)
        state[f"neck.fpn_convs.{i}.conv.weight"] = torch.full((1, 1, 3, 3), 10 + i)
    state["neck.fpn_convs.3.conv.weight"] = torch.full((1, 1, 3, 3), 20)
    converted = convert_state(state, "detectron2").state
    assert {key: int(tensor.flatten()[0]) for key, tensor in converted.items()} == {
        **{f"backbone.fpn_lateral{3 + i}.weight": i for i in range(3)},
        **{f"backbone.fpn_output{3 + i}.weight": 10 + i for i in range(3)},
        "backbone.top_block.p6.weight": 20,
    }


def test_what_old_versions_stored_is_not_needed():
    """Oracle: buffers that Detectron2 computes from its config."""
    state = filled(build_model(yaml_config("GN", TINY)))
    old = {
        "pixel_mean": torch.zeros(3, 1, 1),
        "proposal_generator.anchor_generator.cell_anchors.0": torch.zeros(3, 4),
    }
    converted = convert_state(OrderedDict(state | old), "mmdet")
    assert (converted.unmatched, converted.needless) == ([], list(old))


def test_a_network_without_fpn_is_unmatched():
    """Oracle: Detectron2's C4 detectors call the backbone otherwise."""
    with pytest.raises(InputError, match=r"backbone\.stem\.conv1\.weight.* of no known format"):
        convert_state({"backbone.stem.conv1.weight": torch.zeros(1, 1, 1, 1)}, "mmdet")


def test_folded_weights_stay_marked():
    """Oracle: is_folded, and the WS convolution that refuses them."""
    model = torch.nn.Module()
    model.conv1 = WSConv2d(3, 8, 7)
    fold_ws(model)
    state = model.state_dict()
    state["layer1.0.conv1.weight"] = torch.zeros(8, 8, 1, 1)
    renamed = convert_state(state, "detectron2").state
    del renamed["res2.0.conv1.weight"]
    assert list(renamed) == ["stem.conv1.weight", "stem.conv1.bias"] and is_folded(renamed)
    stem = torch.nn.ModuleDict({"stem": torch.nn.ModuleDict({"conv1": WSConv2d(3, 8, 7)})})
    with pytest.raises(RuntimeError, match=r"stem\.conv1\.weight is folded"):
        stem.load_state_dict(renamed)

"""Conversion between formats. Oracle: keys written out by hand, and the tensors that went in."""

from __future__ import annotations

from collections import OrderedDict

import pytest
import torch
from torch import Tensor

from ws_det.errors import InputError
from ws_det.formats import FORMATS, convert_state, recognize

# One row per kind of weight: canonical order of MMDetection, then the names of the others.
SHAPES = {
    "backbone.conv1.weight": (2, 3, 7, 7),
    "backbone.gn1.weight": (2,),
    "backbone.layer1.0.conv3.weight": (2, 2, 1, 1),
    "backbone.layer4.2.gn2.bias": (2,),
    "backbone.layer2.0.downsample.0.weight": (2, 2, 1, 1),
    "backbone.layer2.0.downsample.1.weight": (2,),
    "neck.lateral_convs.0.conv.weight": (2, 2, 1, 1),
    "neck.lateral_convs.3.gn.bias": (2,),
    "neck.lateral_convs.3.conv.weight": (2, 2, 1, 1),
    "neck.fpn_convs.2.conv.weight": (2, 2, 3, 3),
    "neck.fpn_convs.2.gn.weight": (2,),
    "rpn_head.rpn_conv.weight": (2, 2, 3, 3),
    "rpn_head.rpn_cls.bias": (3,),
    "rpn_head.rpn_reg.weight": (12, 2, 1, 1),
    "roi_head.bbox_head.shared_convs.0.conv.weight": (2, 2, 3, 3),
    "roi_head.bbox_head.shared_convs.3.conv.weight": (2, 2, 3, 3),
    "roi_head.bbox_head.shared_convs.3.gn.weight": (2,),
    "roi_head.bbox_head.shared_fcs.0.weight": (4, 98),
    "roi_head.bbox_head.fc_cls.bias": (6,),
    "roi_head.bbox_head.fc_reg.weight": (20, 4),
    "roi_head.bbox_head.fc_reg.bias": (20,),
    "roi_head.mask_head.convs.1.conv.weight": (2, 2, 3, 3),
    "roi_head.mask_head.convs.1.gn.weight": (2,),
    "roi_head.mask_head.upsample.bias": (2,),
    "roi_head.mask_head.conv_logits.weight": (5, 2, 1, 1),
}
BOX, MASK = "roi_heads.box", "roi_heads.mask"
NAMES = {
    "detectron2": [
        "backbone.bottom_up.stem.conv1.weight",
        "backbone.bottom_up.stem.conv1.norm.weight",
        "backbone.bottom_up.res2.0.conv3.weight",
        "backbone.bottom_up.res5.2.conv2.norm.bias",
        "backbone.bottom_up.res3.0.shortcut.weight",
        "backbone.bottom_up.res3.0.shortcut.norm.weight",
        "backbone.fpn_lateral2.weight",
        "backbone.fpn_lateral5.norm.bias",
        "backbone.fpn_lateral5.weight",
        "backbone.fpn_output4.weight",
        "backbone.fpn_output4.norm.weight",
        "proposal_generator.rpn_head.conv.weight",
        "proposal_generator.rpn_head.objectness_logits.bias",
        "proposal_generator.rpn_head.anchor_deltas.weight",
        f"{BOX}_head.conv1.weight",
        f"{BOX}_head.conv4.weight",
        f"{BOX}_head.conv4.norm.weight",
        f"{BOX}_head.fc1.weight",
        f"{BOX}_predictor.cls_score.bias",
        f"{BOX}_predictor.bbox_pred.weight",
        f"{BOX}_predictor.bbox_pred.bias",
        f"{MASK}_head.mask_fcn2.weight",
        f"{MASK}_head.mask_fcn2.norm.weight",
        f"{MASK}_head.deconv.bias",
        f"{MASK}_head.predictor.weight",
    ],
    "torchvision": [
        "backbone.body.conv1.weight",
        "backbone.body.bn1.weight",
        "backbone.body.layer1.0.conv3.weight",
        "backbone.body.layer4.2.bn2.bias",
        "backbone.body.layer2.0.downsample.0.weight",
        "backbone.body.layer2.0.downsample.1.weight",
        "backbone.fpn.inner_blocks.0.0.weight",
        "backbone.fpn.inner_blocks.3.1.bias",
        "backbone.fpn.inner_blocks.3.0.weight",
        "backbone.fpn.layer_blocks.2.0.weight",
        "backbone.fpn.layer_blocks.2.1.weight",
        "rpn.head.conv.0.0.weight",
        "rpn.head.cls_logits.bias",
        "rpn.head.bbox_pred.weight",
        f"{BOX}_head.0.0.weight",
        f"{BOX}_head.3.0.weight",
        f"{BOX}_head.3.1.weight",
        f"{BOX}_head.5.weight",
        f"{BOX}_predictor.cls_score.bias",
        f"{BOX}_predictor.bbox_pred.weight",
        f"{BOX}_predictor.bbox_pred.bias",
        f"{MASK}_head.1.0.weight",
        f"{MASK}_head.1.1.weight",
        f"{MASK}_predictor.conv5_mask.bias",
        f"{MASK}_predictor.mask_fcn_logits.weight",
    ],
    # from the modules that the authors' fork of maskrcnn-benchmark builds
    "jhu": [
        "backbone.body.stem.conv1.weight",
        "backbone.body.stem.bn1.weight",
        "backbone.body.layer1.0.conv3.weight",
        "backbone.body.layer4.2.bn2.bias",
        "backbone.body.layer2.0.downsample.0.weight",
        "backbone.body.layer2.0.downsample.1.weight",
        "backbone.fpn.fpn_inner1.0.weight",
        "backbone.fpn.fpn_inner4.1.bias",
        "backbone.fpn.fpn_inner4.0.weight",
        "backbone.fpn.fpn_layer3.0.weight",
        "backbone.fpn.fpn_layer3.1.weight",
        "rpn.head.conv.weight",
        "rpn.head.cls_logits.bias",
        "rpn.head.bbox_pred.weight",
        f"{BOX}.feature_extractor.xconvs.0.weight",
        f"{BOX}.feature_extractor.xconvs.9.weight",
        f"{BOX}.feature_extractor.xconvs.10.weight",
        f"{BOX}.feature_extractor.fc6.weight",
        f"{BOX}.predictor.cls_score.bias",
        f"{BOX}.predictor.bbox_pred.weight",
        f"{BOX}.predictor.bbox_pred.bias",
        f"{MASK}.feature_extractor.mask_fcn2.0.weight",
        f"{MASK}.feature_extractor.mask_fcn2.1.weight",
        f"{MASK}.predictor.conv5_mask.bias",
        f"{MASK}.predictor.mask_fcn_logits.weight",
    ],
}
BACKGROUND_FIRST = ("torchvision", "jhu")


def detector() -> OrderedDict[str, Tensor]:
    state = OrderedDict((key, torch.randn(shape)) for key, shape in SHAPES.items())
    state._metadata = OrderedDict({"backbone.layer2.0.downsample.0": {"ws_folded": True}})
    return state


def unwrapped(state: dict[str, Tensor]) -> OrderedDict[str, Tensor]:
    return OrderedDict((key.removeprefix("module."), value) for key, value in state.items())


@pytest.mark.parametrize("to", NAMES)
def test_every_kind_of_weight_in_a_detector(to: str) -> None:
    state = detector()
    converted = convert_state(state, to)
    assert (converted.source.name, converted.unmatched, converted.needless) == ("mmdet", [], [])
    prefix = "module." if to == "jhu" else ""
    assert list(converted.state) == [prefix + name for name in NAMES[to]]
    for (key, tensor), found in zip(state.items(), converted.state.values(), strict=True):
        if to not in BACKGROUND_FIRST or not any(n in key for n in ("fc_", "conv_logits")):
            assert found is tensor, key
    marked = NAMES[to][list(SHAPES).index("backbone.layer2.0.downsample.0.weight")]
    assert converted.state._metadata == {prefix + marked[: -len(".weight")]: {"ws_folded": True}}


@pytest.mark.parametrize("to", NAMES)
def test_there_and_back_to_the_bit(to: str) -> None:
    state = detector()
    there = unwrapped(convert_state(state, to).state)
    assert recognize(there).name == to
    back = convert_state(there, "mmdet").state
    assert list(back) == list(state)
    assert all(torch.equal(back[key], tensor) for key, tensor in state.items())


@pytest.mark.parametrize("first", NAMES)
@pytest.mark.parametrize("second", NAMES)
def test_between_the_others(first: str, second: str) -> None:
    """The background's own box and mask, which nothing reads, are all that may get lost."""
    if first == second:
        return
    state = unwrapped(convert_state(detector(), first).state)
    there = convert_state(state, second)
    assert there.unmatched == there.needless == []
    back = unwrapped(convert_state(unwrapped(there.state), first).state)
    assert list(back) == list(state)
    assert all(torch.equal(back[key], tensor) for key, tensor in state.items())


@pytest.mark.parametrize("to", BACKGROUND_FIRST)
def test_background(to: str) -> None:
    """Oracle: five classes, the background last in MMDetection, and first there."""
    state = detector()
    names = dict(zip(SHAPES, NAMES[to], strict=True))
    found = unwrapped(convert_state(state, to).state)
    classes = state["roi_head.bbox_head.fc_cls.bias"]
    assert found[names["roi_head.bbox_head.fc_cls.bias"]].tolist() == [classes[5], *classes[:5]]
    boxes = found[names["roi_head.bbox_head.fc_reg.weight"]]
    assert torch.equal(boxes[4:], state["roi_head.bbox_head.fc_reg.weight"])
    assert not boxes[:4].any()
    masks = found[names["roi_head.mask_head.conv_logits.weight"]]
    assert masks.shape[0] == 6 and not masks[0].any()


@pytest.mark.parametrize("to", sorted(FORMATS.keys() - {"mmdet", "bit"}))
@pytest.mark.parametrize("norm", ["gn", "bn", "bcn"])
def test_backbone_alone(to: str, norm: str) -> None:
    """Oracle: what MMDetection calls each norm, by the tensors that it has."""
    leaves = {"weight": 2, "bias": 2}
    if norm == "bn":
        leaves |= {"running_mean": 2, "running_var": 2, "num_batches_tracked": ()}
    state = OrderedDict({"conv1.weight": torch.randn(2, 3, 7, 7)})
    for place in (f"{norm}1", f"layer1.0.{norm}1", "layer1.0.downsample.1"):
        if norm == "bcn":
            state |= {f"{place}.{leaf}": torch.randn(1, 2, 1) for leaf in ("weight", "bias")}
            state |= {f"{place}.bn.{leaf}": torch.randn(4) for leaf in ("weight", "running_mean")}
        else:
            state |= {f"{place}.{leaf}": torch.randn(size) for leaf, size in leaves.items()}
    for place in ("layer1.0.conv1", "layer1.0.downsample.0"):
        state[f"{place}.weight"] = torch.randn(2, 2, 1, 1)
    source = FORMATS["mmdet"]  # torchvision's ResNets with BN look the same
    there = convert_state(state, to, source)
    assert there.unmatched == there.needless == []
    stem = {"detectron2": "stem.conv1.norm", "jhu": "module.bn1"}.get(to, "bn1")
    assert f"{stem}.weight" in there.state
    if norm == "bcn":
        inner = "pbn" if to == "jhu" else "bn"
        assert f"{stem}.{inner}.running_mean" in there.state
    back = convert_state(unwrapped(there.state), "mmdet", FORMATS[to]).state
    assert list(back) == list(state)
    assert all(torch.equal(back[key], tensor) for key, tensor in state.items())


def test_both_names_of_the_batch_norm_in_a_bcn() -> None:
    """Oracle: the README of BCN says bn, its ImageNet code pbn; the rate of EstBN is not ours."""
    for inner in ("bn", "pbn"):
        state = OrderedDict({"layer1.0.conv1.weight": torch.zeros(1, 1, 1, 1)})
        state["layer1.0.bn1.weight"] = torch.zeros(1, 2, 1)
        state[f"layer1.0.bn1.{inner}.running_var"] = torch.zeros(4)
        state[f"layer1.0.bn1.{inner}.weight"] = torch.zeros(4)
        state[f"layer1.0.bn1.{inner}.estbn_moving_speed"] = torch.zeros(1)
        converted = convert_state(state, "mmdet")
        assert converted.source.name == "jhu"
        assert "layer1.0.bcn1.bn.running_var" in converted.state
        assert converted.needless == [f"layer1.0.bn1.{inner}.estbn_moving_speed"]


def test_what_has_no_place_is_named() -> None:
    state = detector()
    strange = {
        "backbone.layer1.0.conv2.conv_offset.weight": torch.zeros(1, 1, 1, 1),  # deformable
        "roi_head.bbox_head.cls_convs.0.conv.weight": torch.zeros(1, 1, 1, 1),
        "backbone.layer1.1.conv1.weight": torch.zeros(2),  # of another shape than any kernel
        "backbone.layer1.1.conv2.weight": "text",
        "epoch": 3,
    }
    converted = convert_state(OrderedDict(state | strange), "detectron2")
    assert converted.unmatched == list(strange)
    assert len(converted.state) == len(state)


def test_a_convolution_goes_with_its_norm_or_not_at_all() -> None:
    """Oracle: Detectron2 has no norm on the levels above the backbone."""
    state = detector() | {
        "neck.fpn_convs.4.conv.weight": torch.zeros(2, 2, 3, 3),
        "neck.fpn_convs.4.gn.weight": torch.zeros(2),
    }
    converted = convert_state(OrderedDict(state), "detectron2")
    assert converted.unmatched == ["neck.fpn_convs.4.conv.weight", "neck.fpn_convs.4.gn.weight"]


def test_a_bias_before_a_norm_has_no_place() -> None:
    """Oracle: mmcv's ConvModule has none there, and would leave it out without a word."""
    state = detector()
    state["neck.fpn_convs.2.conv.bias"] = torch.ones(2)
    assert convert_state(state, "detectron2").unmatched == ["neck.fpn_convs.2.conv.bias"]


@pytest.mark.parametrize(
    ("state", "to", "words"),
    [
        ({}, "mmdet", "no known format"),
        ({"conv1_w": torch.zeros(1), "conv1_gn_s": torch.zeros(1)}, "mmdet", "names of Caffe2"),
        ({"a.weight": torch.zeros(1)}, "mmdet", "a.weight.* no known format"),
        (
            {
                "layer1.0.conv1.weight": torch.zeros(1, 1, 1, 1),
                "gn1.weight": torch.zeros(1),
                "bn1.weight": torch.zeros(1),
            },
            "mmdet",
            "of MMDetection already",
        ),
        (
            {
                "neck.lateral_convs.0.gn.weight": torch.zeros(1),
                "neck.lateral_convs.0.bn.weight": torch.zeros(1),
            },
            "detectron2",
            "the same weight under two names",
        ),
        (
            {"neck.lateral_convs.0.conv.weight": torch.zeros(1, 1, 1, 1)}
            | {"bbox_head.retina_reg.bias": torch.zeros(7)},
            "detectron2",
            "no number of anchors",
        ),
        (
            {"neck.lateral_convs.0.conv.weight": torch.zeros(1, 1, 1, 1)}
            | {"bbox_head.retina_reg.bias": torch.zeros(8)},
            "detectron2",
            "2 anchors .* not of 3 ratios",
        ),
        (
            {"neck.lateral_convs.0.conv.weight": torch.zeros(1, 1, 1, 1)}
            | {"roi_head.bbox_head.fc_cls.bias": torch.zeros(6)}
            | {"roi_head.mask_head.conv_logits.bias": torch.zeros(1)},
            "jhu",
            "mask head for .1. of .5. classes",
        ),
        (
            {"neck.lateral_convs.0.conv.weight": torch.zeros(1, 1, 1, 1)}
            | {"roi_head.bbox_head.fc_cls.bias": torch.zeros(6)}
            | {"roi_head.bbox_head.fc_reg.bias": torch.zeros(4)},
            "torchvision",
            "4 outputs for 5 classes",
        ),
    ],
)
def test_refused(state: dict[str, Tensor], to: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        convert_state(state, to)

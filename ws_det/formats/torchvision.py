"""torchvision: ResNets and ResNeXts, and detectors with FPN of one stage or two.

Before its version 0.13 convolutions with no norm had a name one level higher; such are read.
"""

from __future__ import annotations

import re
from collections.abc import Collection

from ws_det.errors import InputError
from ws_det.formats import rows
from ws_det.formats.layout import LAST_LEVEL, Layout, lowest_level, numbers, with_norms
from ws_det.formats.names import Pair
from ws_det.formats.spec import Format, State

_ROI = "roi_heads"


def resnet_pairs(stem: str, stages: str) -> list[Pair]:
    """The names of a ResNet in torchvision, which many others took over.

    Args:
        stem: What stands before those of the stem.
        stages: What stands before those of the stages.
    """
    canonical, theirs = "backbone.layer{s}.{b}", f"{stages}layer{{s}}.{{b}}"
    return [
        ("backbone.stem_conv", f"{stem}conv1"),
        ("backbone.stem_norm", f"{stem}bn1"),
        (f"{canonical}.conv{{n}}", f"{theirs}.conv{{n}}"),
        (f"{canonical}.norm{{n}}", f"{theirs}.bn{{n}}"),
        (f"{canonical}.downsample_conv", f"{theirs}.downsample.0"),
        (f"{canonical}.downsample_norm", f"{theirs}.downsample.1"),
    ]


def classifier_pairs() -> list[Pair]:
    """A ResNet with its classifier."""
    return list(with_norms([*resnet_pairs("", ""), ("classifier", "fc")]))


def _survey(modules: Collection[str]) -> Layout:
    laterals = numbers(r"backbone\.fpn\.inner_blocks\.(\d+)", modules)
    return Layout(
        detector=not any(re.match(r"(conv1|layer\d)\b", module) for module in modules),
        lowest=lowest_level(laterals),
        box_convs=1 + max(numbers(_ROI + r"\.box_head\.(\d+)\.0$", modules), default=-1),
    )


def _pairs(layout: Layout) -> list[Pair]:
    if not layout.detector:
        return classifier_pairs()
    pairs = resnet_pairs("backbone.body.", "backbone.body.")
    for level in range(layout.lowest, LAST_LEVEL + 1):
        for kind, name in (("lateral", "inner"), ("output", "layer")):
            theirs = f"backbone.fpn.{name}_blocks.{level - layout.lowest}"
            pairs += _module(f"fpn.{kind}{level}", theirs, theirs)
    for level in range(LAST_LEVEL + 1, LAST_LEVEL + 3):
        pairs.append((f"fpn.extra{level}.conv", f"backbone.fpn.extra_blocks.p{level}"))
    pairs += [
        ("rpn.convs.{i}", "rpn.head.conv.{i}.0"),
        ("rpn.convs.0", "rpn.head.conv"),
        ("rpn.cls", "rpn.head.cls_logits"),
        ("rpn.reg", "rpn.head.bbox_pred"),
        ("box.cls", f"{_ROI}.box_predictor.cls_score"),
        ("box.reg", f"{_ROI}.box_predictor.bbox_pred"),
        ("mask.deconv", f"{_ROI}.mask_predictor.conv5_mask"),
        ("mask.predictor", f"{_ROI}.mask_predictor.mask_fcn_logits"),
    ]
    if layout.box_convs:
        # one Sequential: the convolutions, Flatten, then each linear layer and its ReLU
        pairs += _module("box.convs.{i}", f"{_ROI}.box_head.{{i}}")
        pairs.append(("box.fcs.{i}", f"{_ROI}.box_head.{{i*2+{layout.box_convs + 1}}}"))
    else:
        pairs.append(("box.fcs.{i}", f"{_ROI}.box_head.fc{{i+6}}"))
    mask = f"{_ROI}.mask_head"
    pairs += _module("mask.convs.{i}", f"{mask}.{{i}}", f"{mask}.mask_fcn{{i+1}}")
    for ours, theirs in (("cls", "classification_head"), ("reg", "regression_head")):
        tower = f"head.{theirs}.conv"
        pairs += _module(f"retina.{ours}_convs.{{i}}", f"{tower}.{{i}}", f"{tower}.{{i*2}}")
    pairs += [
        ("retina.cls", "head.classification_head.cls_logits"),
        ("retina.reg", "head.regression_head.bbox_reg"),
    ]
    return list(with_norms(pairs))


def _module(canonical: str, theirs: str, before: str = "") -> list[Pair]:
    """A Conv2dNormActivation, and the name of its convolution before there were such."""
    pairs = [(f"{canonical}.conv", f"{theirs}.0"), (f"{canonical}.norm", f"{theirs}.1")]
    return [*pairs, (f"{canonical}.conv", before)] if before else pairs


def _to_canonical(state: State) -> State:
    rows.background_to_end(state)
    rows.drop_background_class(state)
    return state


def _from_canonical(state: State) -> State:
    classes, boxes = (len(state.get(f"box.{name}.bias", ())) for name in ("cls", "reg"))
    if classes and boxes not in (0, 4 * (classes - 1)):
        raise InputError(
            f"a box head with {boxes} outputs for {classes - 1} classes has no counterpart in "
            f"torchvision, which has a box for each: convert to another format"
        )
    rows.background_to_front(state)
    rows.add_background_class(state)
    return state


TORCHVISION = Format(
    name="torchvision",
    title="torchvision",
    survey=_survey,
    pairs=_pairs,
    to_canonical=_to_canonical,
    from_canonical=_from_canonical,
    classifies=True,
)

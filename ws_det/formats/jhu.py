"""The WS and BCN authors' releases (Johns Hopkins University).

Their ImageNet networks have torchvision's names, so that GN and BCN are called bn, and the batch
norm in a BCN is called pbn (in the README of BCN: bn). Their detectors are those of
maskrcnn-benchmark. Sources: joe-siyuan-qiao/pytorch-classification (models/imagenet/resnet.py),
joe-siyuan-qiao/Batch-Channel-Normalization (imagenet/models/layers.py),
joe-siyuan-qiao/maskrcnn-benchmark (maskrcnn_benchmark/modeling).
"""

from __future__ import annotations

import re
from collections.abc import Collection

from ws_det.formats import rows
from ws_det.formats.layout import LAST_LEVEL, Layout, numbers, with_norms
from ws_det.formats.names import Pair
from ws_det.formats.spec import Format, State
from ws_det.formats.torchvision import resnet_pairs

_BOX, _MASK = "roi_heads.box.feature_extractor", "roi_heads.mask.feature_extractor"
_INNER = ("pbn", "bn")


def _survey(modules: Collection[str]) -> Layout:
    box = numbers(re.escape(_BOX) + r"\.xconvs\.(\d+)$", modules)
    return Layout(
        detector=not any(re.match(r"(conv1|layer\d)\b", module) for module in modules),
        one_stage="rpn.head.cls_tower.0" in modules,
        # without norms every other place is a ReLU's, which has no weights
        normed=("box",) if any(index % 2 for index in box) else (),
    )


def _pairs(layout: Layout) -> list[Pair]:
    if not layout.detector:
        return list(with_norms([*resnet_pairs("", ""), ("classifier", "fc")], _INNER))
    pairs = resnet_pairs("backbone.body.stem.", "backbone.body.")
    for level in range(2, LAST_LEVEL + 1):
        for kind, name in (("lateral", "inner"), ("output", "layer")):
            theirs = f"backbone.fpn.fpn_{name}{level - 1}"
            pairs += _sequence(f"fpn.{kind}{level}", theirs, "fpn" in layout.normed)
    for level in range(LAST_LEVEL + 1, LAST_LEVEL + 3):
        pairs.append((f"fpn.extra{level}.conv", f"backbone.fpn.top_blocks.p{level}"))
    if layout.one_stage:
        for ours, theirs in (("cls", "cls"), ("reg", "bbox")):
            pairs.append((f"retina.{ours}_convs.{{i}}.conv", f"rpn.head.{theirs}_tower.{{i*2}}"))
        pairs += [("retina.cls", "rpn.head.cls_logits"), ("retina.reg", "rpn.head.bbox_pred")]
        return list(with_norms(pairs, _INNER))
    if not layout.deep_rpn:
        pairs.append(("rpn.convs.0", "rpn.head.conv"))
    pairs += [("rpn.cls", "rpn.head.cls_logits"), ("rpn.reg", "rpn.head.bbox_pred")]
    step = 3 if "box" in layout.normed else 2
    pairs.append(("box.convs.{i}.conv", f"{_BOX}.xconvs.{{i*{step}}}"))
    if step == 3:
        pairs.append(("box.convs.{i}.norm", f"{_BOX}.xconvs.{{i*3+1}}"))
    pairs += _sequence("mask.convs.{i}", f"{_MASK}.mask_fcn{{i+1}}", "mask" in layout.normed)
    pairs += [
        ("box.fcs.{i}", f"{_BOX}.fc{{i+6}}"),
        ("box.cls", "roi_heads.box.predictor.cls_score"),
        ("box.reg", "roi_heads.box.predictor.bbox_pred"),
        ("mask.deconv", "roi_heads.mask.predictor.conv5_mask"),
        ("mask.predictor", "roi_heads.mask.predictor.mask_fcn_logits"),
    ]
    return list(with_norms(pairs, _INNER))


def _sequence(canonical: str, theirs: str, normed: bool) -> list[Pair]:
    """A convolution alone, or followed by a norm in a Sequential; both are read."""
    alone, first = (f"{canonical}.conv", theirs), (f"{canonical}.conv", f"{theirs}.0")
    norm = (f"{canonical}.norm", f"{theirs}.1")
    return [first, alone, norm] if normed else [alone, first, norm]


def _to_canonical(state: State) -> State:
    rows.background_to_end(state)
    return state


def _from_canonical(state: State) -> State:
    rows.background_to_front(state)
    return state


JHU = Format(
    name="jhu",
    title="the WS and BCN authors' releases",
    survey=_survey,
    pairs=_pairs,
    to_canonical=_to_canonical,
    from_canonical=_from_canonical,
    needless=re.compile(r"rpn\.anchor_generator\.cell_anchors\.\d+|.+\.estbn_moving_speed"),
    prefix="module.",
    classifies=True,
)

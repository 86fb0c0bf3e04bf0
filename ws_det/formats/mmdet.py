"""MMDetection: ResNets and ResNeXts, and detectors with FPN of one stage, two, or a cascade."""

from __future__ import annotations

import re
from collections.abc import Collection

from ws_det.formats.layout import LAST_LEVEL, Layout, lowest_level, numbers, with_norms
from ws_det.formats.names import Pair
from ws_det.formats.spec import Format


def _survey(modules: Collection[str]) -> Layout:
    return Layout(
        detector=not any(re.match(r"(conv1|layer\d)\b", module) for module in modules),
        lowest=lowest_level(numbers(r"neck\.lateral_convs\.(\d+)\.", modules)),
        deep_rpn="rpn_head.rpn_conv.0.conv" in modules,
    )


def _pairs(layout: Layout) -> list[Pair]:
    top = "backbone." if layout.detector else ""
    block = "layer{s}.{b}"
    pairs = [
        ("backbone.stem_conv", f"{top}conv1"),
        ("backbone.stem_norm", f"{top}{{norm}}1"),
        (f"backbone.{block}.conv{{n}}", f"{top}{block}.conv{{n}}"),
        (f"backbone.{block}.norm{{n}}", f"{top}{block}.{{norm}}{{n}}"),
        (f"backbone.{block}.downsample_conv", f"{top}{block}.downsample.0"),
        (f"backbone.{block}.downsample_norm", f"{top}{block}.downsample.1"),
    ]
    if not layout.detector:
        return list(with_norms(pairs))
    for level in range(layout.lowest, LAST_LEVEL + 1):
        index = level - layout.lowest
        pairs += _module(f"fpn.lateral{level}", f"neck.lateral_convs.{index}")
        pairs += _module(f"fpn.output{level}", f"neck.fpn_convs.{index}")
    # the convolutions of the levels above the backbone follow in the same list
    for level in range(LAST_LEVEL + 1, LAST_LEVEL + 3):
        pairs += _module(f"fpn.extra{level}", f"neck.fpn_convs.{level - layout.lowest}")
    if layout.deep_rpn:
        pairs.append(("rpn.convs.{i}", "rpn_head.rpn_conv.{i}.conv"))
    else:
        pairs.append(("rpn.convs.0", "rpn_head.rpn_conv"))
    pairs += [("rpn.cls", "rpn_head.rpn_cls"), ("rpn.reg", "rpn_head.rpn_reg")]
    for stage in ("", ".{k}"):
        box, mask = f"roi_head.bbox_head{stage}", f"roi_head.mask_head{stage}"
        pairs += _module(f"box{stage}.convs.{{i}}", f"{box}.shared_convs.{{i}}")
        pairs += _module(f"mask{stage}.convs.{{i}}", f"{mask}.convs.{{i}}")
        pairs += [
            (f"box{stage}.fcs.{{i}}", f"{box}.shared_fcs.{{i}}"),
            (f"box{stage}.cls", f"{box}.fc_cls"),
            (f"box{stage}.reg", f"{box}.fc_reg"),
            (f"mask{stage}.deconv", f"{mask}.upsample"),
            (f"mask{stage}.predictor", f"{mask}.conv_logits"),
        ]
    for branch in ("cls", "reg"):
        pairs += _module(f"retina.{branch}_convs.{{i}}", f"bbox_head.{branch}_convs.{{i}}")
        pairs.append((f"retina.{branch}", f"bbox_head.retina_{branch}"))
    return list(with_norms(pairs))


def _module(canonical: str, theirs: str) -> list[Pair]:
    """A ConvModule of mmcv."""
    return [(f"{canonical}.conv", f"{theirs}.conv"), (f"{canonical}.norm", f"{theirs}.{{norm}}")]


MMDET = Format(name="mmdet", title="MMDetection", survey=_survey, pairs=_pairs)

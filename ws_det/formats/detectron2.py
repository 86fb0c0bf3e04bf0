"""Detectron2: ResNets and ResNeXts, and detectors with FPN of one stage, two, or a cascade.

The tensors mean the same as in MMDetection, because both put the stride of a bottleneck where they
are told, MMDetection's ``style="pytorch"`` being Detectron2's ``STRIDE_IN_1X1=False``, and both add
the upsampled level before the output convolution of an FPN. RetinaNet's anchors are in another
order, by scale, then by ratio, and its convolutions keep their bias before a norm.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Collection

import torch

from ws_det.formats.layout import LAST_LEVEL, Layout, norm_of, numbers, with_norms
from ws_det.formats.names import Pair
from ws_det.formats.rows import swap_anchor_order
from ws_det.formats.spec import Format, State

_RETINA_CONV = re.compile(r"(retina\.\w+_convs\.\d+\.conv)\.(weight|bias)")


def _survey(modules: Collection[str]) -> Layout:
    tower = numbers(r"head\.(?:cls|bbox)_subnet\.(\d+)$", modules)
    return Layout(
        detector=not any(re.match(r"(stem|res\d)\b", module) for module in modules),
        deep_rpn="proposal_generator.rpn_head.conv.conv0" in modules,
        # without norms every other place is a ReLU's, which has no weights
        normed=("retina",) if any(index % 2 for index in tower) else (),
    )


def _pairs(layout: Layout) -> list[Pair]:
    top = "backbone.bottom_up." if layout.detector else ""
    pairs = [
        *_conv("backbone.stem_conv", f"{top}stem.conv1"),
        *_conv("backbone.layer{s}.{b}.conv{n}", f"{top}res{{s+1}}.{{b}}.conv{{n}}"),
        *_conv("backbone.layer{s}.{b}.downsample_conv", f"{top}res{{s+1}}.{{b}}.shortcut"),
    ]
    if not layout.detector:
        return list(with_norms(pairs))
    for level in range(2, LAST_LEVEL + 1):
        for kind in ("lateral", "output"):
            pairs += _conv(f"fpn.{kind}{level}.conv", f"backbone.fpn_{kind}{level}")
    for level in range(LAST_LEVEL + 1, LAST_LEVEL + 3):
        pairs.append((f"fpn.extra{level}.conv", f"backbone.top_block.p{level}"))
    rpn = "proposal_generator.rpn_head"
    if layout.deep_rpn:
        pairs.append(("rpn.convs.{i}", f"{rpn}.conv.conv{{i}}"))
    else:
        pairs.append(("rpn.convs.0", f"{rpn}.conv"))
    pairs += [("rpn.cls", f"{rpn}.objectness_logits"), ("rpn.reg", f"{rpn}.anchor_deltas")]
    for stage in ("", ".{k}"):
        pairs += _conv(f"box{stage}.convs.{{i}}.conv", f"roi_heads.box_head{stage}.conv{{i+1}}")
        pairs += [
            (f"box{stage}.fcs.{{i}}", f"roi_heads.box_head{stage}.fc{{i+1}}"),
            (f"box{stage}.cls", f"roi_heads.box_predictor{stage}.cls_score"),
            (f"box{stage}.reg", f"roi_heads.box_predictor{stage}.bbox_pred"),
        ]
    # one mask head, in a cascade too
    pairs += _conv("mask.convs.{i}.conv", "roi_heads.mask_head.mask_fcn{i+1}")
    pairs += [
        ("mask.deconv", "roi_heads.mask_head.deconv"),
        ("mask.predictor", "roi_heads.mask_head.predictor"),
    ]
    step = 3 if "retina" in layout.normed else 2
    for ours, theirs in (("cls", "cls"), ("reg", "bbox")):
        pairs.append((f"retina.{ours}_convs.{{i}}.conv", f"head.{theirs}_subnet.{{i*{step}}}"))
        if step == 3:
            pairs.append((f"retina.{ours}_convs.{{i}}.norm", f"head.{theirs}_subnet.{{i*3+1}}"))
    pairs += [("retina.cls", "head.cls_score"), ("retina.reg", "head.bbox_pred")]
    return list(with_norms(pairs))


def _conv(canonical: str, theirs: str) -> list[Pair]:
    """A convolution of Detectron2, which has its norm inside."""
    return [(canonical, theirs), (norm_of(canonical), f"{theirs}.norm")]


def _to_canonical(state: State) -> State:
    """Sort the anchors; leave out the biases that say nothing, which other formats do not have."""
    swap_anchor_order(state, from_ratios=False)
    for key in list(state):
        match = _RETINA_CONV.fullmatch(key)
        normed = match and match[2] == "bias" and f"{norm_of(match[1])}.weight" in state
        if normed and not state[key].any():
            del state[key]
    return state


def _from_canonical(state: State) -> State:
    swap_anchor_order(state, from_ratios=True)
    complete = OrderedDict()
    for key, tensor in state.items():
        complete[key] = tensor
        match = _RETINA_CONV.fullmatch(key)
        if match and match[2] == "weight" and f"{match[1]}.bias" not in state:
            complete[f"{match[1]}.bias"] = torch.zeros(tensor.shape[0], dtype=tensor.dtype)
    return complete


DETECTRON2 = Format(
    name="detectron2",
    title="Detectron2",
    survey=_survey,
    pairs=_pairs,
    to_canonical=_to_canonical,
    from_canonical=_from_canonical,
    # computed from the config; older versions stored them
    needless=re.compile(r"pixel_(mean|std)|.*\banchor_generator\.cell_anchors\.\d+|linear\.\w+"),
    retina_bias=True,
)

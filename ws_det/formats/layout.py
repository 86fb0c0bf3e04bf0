"""The canonical names of a network's modules, between which and its own a format translates.

    backbone.stem_conv                                   backbone.layer{s}.{b}.conv{n}, s from 1
    backbone.layer{s}.{b}.downsample_conv                classifier
    fpn.lateral{l}.conv fpn.output{l}.conv fpn.extra{l}.conv    l is the level, of stride 2 ** l
    rpn.convs.{i} rpn.cls rpn.reg
    box.convs.{i}.conv box.fcs.{i} box.cls box.reg       in a cascade box.{k}.convs and so on
    mask.convs.{i}.conv mask.deconv mask.predictor       likewise
    retina.cls_convs.{i}.conv retina.reg_convs.{i}.conv retina.cls retina.reg

A norm is called as its convolution, with ``norm`` for ``conv``; the batch norm in a BCN is below
it, ``.bn``. Canonical is MMDetection's order: the background is the last class and has no box and
no mask, and the anchors of a cell are sorted by ratio, then by scale.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass

from ws_det.formats.names import Pair

LAST_LEVEL = 5  # of a ResNet's last stage
_NORM = re.compile(r"norm(\d*|\{n\})$")  # of a module or of a template


@dataclass(frozen=True)
class Layout:
    """What the name of a module depends on besides the module.

    Args:
        detector: Whether the backbone is a part of a detector or all there is.
        lowest: The lowest level of the FPN.
        deep_rpn: Whether the RPN has several hidden convolutions.
        box_convs: Number of convolutions in the box head.
        one_stage: Whether the detector is a RetinaNet.
        normed: Parts whose convolutions have norms, as ``"fpn"``.
    """

    detector: bool
    lowest: int = 2
    deep_rpn: bool = False
    box_convs: int = 0
    one_stage: bool = False
    normed: Collection[str] = ()


def survey(modules: Collection[str], detector: bool) -> Layout:
    """The layout of a network given by the canonical names of its modules."""
    return Layout(
        detector=detector,
        lowest=min(numbers(r"fpn\.lateral(\d+)\.conv", modules), default=2),
        deep_rpn="rpn.convs.1" in modules,
        box_convs=1 + max(numbers(r"box\.convs\.(\d+)\.conv", modules), default=-1),
        one_stage="retina.cls" in modules,
        normed={module.partition(".")[0] for module in modules if is_norm(module)},
    )


def lowest_level(laterals: Iterable[int]) -> int:
    """The level of lateral convolution 0: the highest serves the last stage of the backbone."""
    return max(LAST_LEVEL - max(laterals, default=LAST_LEVEL - 2), 0)


def is_norm(module: str) -> bool:
    """Whether a canonical name is that of a norm."""
    return _NORM.search(module) is not None


def convolution_of(norm: str) -> str:
    """The canonical name of the convolution before a norm."""
    return _NORM.sub(r"conv\1", norm)


def norm_of(convolution: str) -> str:
    """The canonical name of the norm behind a convolution, which it may not have."""
    return re.sub(r"conv(\d*|\{n\})$", r"norm\1", convolution)


def with_norms(pairs: Iterable[Pair], inner: Iterable[str] = ("bn",)) -> Iterator[Pair]:
    """The pairs, and for those of norms the pairs of the batch norm inside, where it is a BCN.

    Args:
        pairs: Of canonical templates and those of a format.
        inner: What the format calls the batch norm in a BCN, the name to be written first.
    """
    for canonical, theirs in pairs:
        yield canonical, theirs
        if is_norm(canonical):
            yield from ((f"{canonical}.bn", f"{theirs}.{name}") for name in inner)


def numbers(pattern: str, modules: Iterable[str]) -> list[int]:
    """The number in each module name that starts with a pattern."""
    return [int(match[1]) for match in map(re.compile(pattern).match, modules) if match]

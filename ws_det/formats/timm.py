"""timm: its ResNets have torchvision's names; its ResNetV2 are the pre-activation ones of BiT."""

from __future__ import annotations

from collections.abc import Collection

from ws_det.formats.layout import Layout
from ws_det.formats.names import Pair
from ws_det.formats.spec import Format
from ws_det.formats.torchvision import classifier_pairs

_V2 = "stages.{s}.blocks.{b}"


def _survey(modules: Collection[str]) -> Layout:
    return Layout(detector=False)


def _pairs(layout: Layout) -> list[Pair]:
    if layout.detector:
        return []
    return [
        *classifier_pairs(),
        ("v2.stem", "stem.conv"),
        ("v2.{s}.{b}.conv{n}", f"{_V2}.conv{{n}}"),
        ("v2.{s}.{b}.norm{n}", f"{_V2}.norm{{n}}"),
        ("v2.{s}.{b}.downsample_conv", f"{_V2}.downsample.conv"),
        ("v2.last_norm", "norm"),
        ("v2.head", "head.fc"),
    ]


TIMM = Format(
    name="timm",
    title="timm's pre-activation ResNetV2",
    survey=_survey,
    pairs=_pairs,
    classifies=True,
)

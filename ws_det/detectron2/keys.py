"""The keys of an MMDetection backbone and FPN under the names that Detectron2 has for them.

The tensors stay as they are. They mean the same in both, because both put the stride of a
bottleneck where they are told, MMDetection's ``style="pytorch"`` being Detectron2's
``STRIDE_IN_1X1=False``, and both add the upsampled level before the output convolution of an FPN.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

# What MMDetection calls a norm: the letters of its type, then the number of its convolution.
_NORM = r"(?:bn|gn|bcn|estbn|in|ln)"
_RENAMES = (
    (re.compile(r"conv1\.(.+)"), r"stem.conv1.\1"),
    (re.compile(_NORM + r"1\.(.+)"), r"stem.conv1.norm.\1"),
    (re.compile(r"layer(\d)\.(\d+)\.conv(\d)\.(.+)"), r"res\1.\2.conv\3.\4"),
    (re.compile(rf"layer(\d)\.(\d+)\.{_NORM}(\d)\.(.+)"), r"res\1.\2.conv\3.norm.\4"),
    (re.compile(r"layer(\d)\.(\d+)\.downsample\.0\.(.+)"), r"res\1.\2.shortcut.\3"),
    (re.compile(r"layer(\d)\.(\d+)\.downsample\.1\.(.+)"), r"res\1.\2.shortcut.norm.\3"),
)
_FPN = re.compile(rf"neck\.(lateral|fpn)_convs\.(\d+)\.(conv|{_NORM})\.(.+)")
_MMDET = re.compile(r"(backbone\.)?layer\d\.\d+\.|neck\.(lateral|fpn)_convs\.")


def is_mmdet(state: Mapping[str, Any]) -> bool:
    """Whether a state dict has the keys of an MMDetection ResNet or FPN, alone or in a detector.

    The keys of a torchvision ResNet, and so of most published ImageNet weights, are the same.
    """
    return any(_MMDET.match(key) for key in state)


def from_mmdet(state: Mapping[str, Any]) -> OrderedDict[str, Any]:
    """Rename the weights of a backbone and an FPN; :func:`left_over` names those that it drops.

    Args:
        state: State dict of an MMDetection ResNet, whose names are then those below Detectron2's
            ResNet (``stem.conv1.weight``, ``res2.0...``), or of a detector, whose backbone
            and neck are then ``backbone.bottom_up.stem...`` and ``backbone.fpn_lateral2...``.

    Returns:
        The same tensors under new names, with the metadata of their modules, so that folded
        weights stay marked.
    """
    first = _first_level(state)
    renamed = OrderedDict((name, state[key]) for key in state if (name := _rename(key, first)))
    metadata = OrderedDict()
    for module, entry in getattr(state, "_metadata", {}).items():
        if name := _rename(f"{module}.weight", first):
            metadata[name.removesuffix(".weight")] = entry
    renamed._metadata = metadata
    return renamed


def left_over(state: Mapping[str, Any]) -> list[str]:
    """The keys that :func:`from_mmdet` drops.

    They are heads, a classifier, and the levels that an FPN adds above the backbone: RetinaNet's
    P6 and P7, which MMDetection normalizes and Detectron2 does not.
    """
    first = _first_level(state)
    return [key for key in state if not _rename(key, first)]


def _rename(key: str, first: int) -> str | None:
    """The name in Detectron2 of one key, None if it has none; ``first`` is the lowest FPN level."""
    if fpn := _FPN.fullmatch(key):
        kind, index, part, rest = fpn.groups()
        level = first + int(index)
        if level > _LAST:
            return None
        kind = "lateral" if kind == "lateral" else "output"
        return f"backbone.fpn_{kind}{level}.{'' if part == 'conv' else 'norm.'}{rest}"
    below = key.removeprefix("backbone.")
    prefix = "backbone.bottom_up." if below != key else ""
    for pattern, name in _RENAMES:
        if match := pattern.fullmatch(below):
            # MMDetection counts stages from 1, Detectron2 from 2: a stage's stride is 2 ** number.
            stage = re.sub(r"^res(\d)", lambda m: f"res{int(m[1]) + 1}", match.expand(name))
            return prefix + stage
    return None


_LAST = 5  # the level of a ResNet's last stage


def _first_level(state: Mapping[str, Any]) -> int:
    """The lowest FPN level: its lateral convolutions serve the last stages of the backbone."""
    indices = [int(m[2]) for key in state if (m := _FPN.match(key)) and m[1] == "lateral"]
    return _LAST - max(indices, default=0)

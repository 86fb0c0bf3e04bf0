"""Tell the format of a state dict by its keys."""

from __future__ import annotations

import re
from collections.abc import Iterable

from ws_det.formats.bit import BIT
from ws_det.formats.detectron2 import DETECTRON2
from ws_det.formats.jhu import JHU
from ws_det.formats.mmdet import MMDET
from ws_det.formats.spec import Format
from ws_det.formats.timm import TIMM
from ws_det.formats.torchvision import TORCHVISION

FORMATS = {f.name: f for f in (MMDET, DETECTRON2, JHU, TORCHVISION, TIMM, BIT)}

# The first pattern that a key starts with decides.
_SIGNS = (
    (r".*root_block/standardized_conv2d/kernel$", BIT),
    (r"stages\.\d+\.blocks\.\d+\.conv1\.", TIMM),
    (r"(backbone\.bottom_up\.)?res[2-5]\.\d+\.conv\d\.", DETECTRON2),
    (r"backbone\.fpn_(lateral|output)\d\.", DETECTRON2),
    (r"backbone\.body\.stem\.", JHU),
    (r"backbone\.body\.(conv1|layer\d)\.", TORCHVISION),
    (r"backbone\.(conv1|layer\d)\.", MMDET),
    (r"neck\.(lateral|fpn)_convs\.", MMDET),
    (r"(layer\d\.\d+\.)?(gn|bcn|estbn)\d\.", MMDET),
    # norms called bn: a BCN or, without running statistics, a GN
    (r"(layer\d\.\d+\.)?bn\d\.p?bn\.", JHU),
)


def recognize(state: Iterable[str]) -> Format | None:
    """The format of a state dict.

    ResNets of torchvision, of timm, and of MMDetection with BN have the same names; with a
    classifier they count as torchvision's. timm's with GN have those of the WS authors.

    Args:
        state: Its keys, without the ``module.`` of DDP.

    Returns:
        The format, None if it is none of ours.
    """
    keys = list(state)
    for pattern, found in _SIGNS:
        sign = re.compile(pattern)
        if any(sign.match(key) for key in keys):
            return found
    if not any(re.match(r"layer\d\.\d+\.conv\d\.weight", key) for key in keys):
        return None
    has_norms = any(re.match(r"(layer\d\.\d+\.)?bn\d\.", key) for key in keys)
    if has_norms and not any(key.endswith(".running_mean") for key in keys):
        return JHU
    return TORCHVISION if "fc.weight" in keys else MMDET

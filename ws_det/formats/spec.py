"""What a format says of itself."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Callable, Collection
from dataclasses import dataclass

from torch import Tensor

from ws_det.formats.layout import Layout
from ws_det.formats.names import Pair

State = OrderedDict[str, Tensor]


def _same(state: State) -> State:
    return state


def _same_key(key: str, tensor: Tensor) -> str:
    return key


@dataclass(frozen=True)
class Format:
    """The names that a project has for the modules of its networks.

    Args:
        name: For ``--to``.
        title: In words.
        survey: The layout of a network, by the module names that the format has for it.
        pairs: Templates of canonical names and the format's own, for a layout.
        to_canonical: Changes tensors, under canonical names, that the format has otherwise.
        from_canonical: The reverse.
        to_key: A key of the format as torch would have it.
        from_key: The reverse, for the key of a tensor.
        needless: Keys that nothing but the format has a use for.
        prefix: Of every key.
        classifies: Whether a network without heads ends in a classifier.
        retina_bias: Whether a convolution before a norm in RetinaNet's head has a bias.
    """

    name: str
    title: str
    survey: Callable[[Collection[str]], Layout]
    pairs: Callable[[Layout], list[Pair]]
    to_canonical: Callable[[State], State] = _same
    from_canonical: Callable[[State], State] = _same
    to_key: Callable[[str], str] = str
    from_key: Callable[[str, Tensor], str] = _same_key
    needless: re.Pattern[str] = re.compile(r".+\.estbn_moving_speed")
    prefix: str = ""
    classifies: bool = False
    retina_bias: bool = False

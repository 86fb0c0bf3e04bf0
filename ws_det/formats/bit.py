"""BiT, the pre-activation ResNets of big_transfer, as their ``.npz`` files have them.

Source: google-research/big_transfer (bit_pytorch/models.py): paths with slashes, blocks and units
counted from 1 with two digits for a unit, kernels of (H, W, I, O).
"""

from __future__ import annotations

import re
from collections import OrderedDict

from torch import Tensor

from ws_det.formats.layout import Layout
from ws_det.formats.names import Pair
from ws_det.formats.spec import Format, State

_LEAVES = {"kernel": "weight", "gamma": "weight", "beta": "bias", "bias": "bias"}
_UNIT = re.compile(r"/unit(\d\d+)/")


def _dotted(key: str) -> str:
    """A path of BiT as a key of torch; a key that is none stays as it is."""
    path, _, leaf = key.removeprefix("resnet/").rpartition("/")
    if leaf not in _LEAVES or not path or "." in key:
        return key
    path = _UNIT.sub(lambda m: f"/unit{int(m[1])}/", path)
    return f"{path.replace('/', '.')}.{_LEAVES[leaf]}"


def _slashed(key: str, tensor: Tensor) -> str:
    """The reverse of :func:`_dotted`; what a weight is called depends on the tensor."""
    path, _, leaf = key.rpartition(".")
    if leaf == "weight":
        leaf = "kernel" if tensor.ndim == 4 else "gamma"
    elif path.endswith("group_norm"):
        leaf = "beta"
    path = re.sub(r"\.unit(\d+)\.", lambda m: f".unit{int(m[1]):02d}.", path)
    return f"resnet/{path.replace('.', '/')}/{leaf}"


def _pairs(layout: Layout) -> list[Pair]:
    pairs = [
        ("v2.stem", "root_block.standardized_conv2d"),
        ("v2.{s}.{b}.downsample_conv", "block{s+1}.unit{b+1}.a.proj.standardized_conv2d"),
        ("v2.last_norm", "group_norm"),
        ("v2.head", "head.conv2d"),
    ]
    for number, letter in ((1, "a"), (2, "b"), (3, "c")):
        unit = f"block{{s+1}}.unit{{b+1}}.{letter}"
        pairs.append((f"v2.{{s}}.{{b}}.conv{number}", f"{unit}.standardized_conv2d"))
        pairs.append((f"v2.{{s}}.{{b}}.norm{number}", f"{unit}.group_norm"))
    return pairs


def _to_canonical(state: State) -> State:
    return OrderedDict((key, _permuted(tensor, (3, 2, 0, 1))) for key, tensor in state.items())


def _from_canonical(state: State) -> State:
    return OrderedDict((key, _permuted(tensor, (2, 3, 1, 0))) for key, tensor in state.items())


def _permuted(tensor: Tensor, order: tuple[int, ...]) -> Tensor:
    return tensor.permute(order).contiguous() if tensor.ndim == 4 else tensor


BIT = Format(
    name="bit",
    title="BiT",
    survey=lambda modules: Layout(detector=False),
    pairs=_pairs,
    to_canonical=_to_canonical,
    from_canonical=_from_canonical,
    to_key=_dotted,
    from_key=_slashed,
    classifies=True,
)

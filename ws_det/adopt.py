"""Move an ordinary BN or GN detector to WS without changing what it computes."""

from __future__ import annotations

import re
from collections import OrderedDict
from typing import Any

import torch

from ws_det.errors import InputError
from ws_det.family import is_dense, norm_family
from ws_det.functional import weight_mean_and_deviation

# What MMDetection and torchvision call the norm of a convolution named conv or conv1.
_NORMS = ("bn", "gn", "in", "ln", "norm")


def adopt_ws(state: dict[str, Any], formula: str = "ws") -> OrderedDict[str, Any]:
    """Add to every kernel that a norm follows its deviation and mean, as adaptive WS has them.

    A detector whose convolutions are adaptive WS then computes what it did before, and trains with
    WS from there: ``weight_gamma * standardized + weight_beta`` is the kernel. A plain checkpoint
    that is loaded into such a detector is given the same on the way; the file is for other tools,
    and loads into ``ConvAWS`` of mmcv too.

    Args:
        state: Of a detector or a backbone, with the names of MMDetection, Detectron2 or
            torchvision.
        formula: That of the detector's WS convolutions, a key of ``ws_det.FORMULAS``.

    Returns:
        The same tensors and the new ones, with the metadata.

    Raises:
        InputError: If the weights were trained with WS or are folded, if no kernel has a norm
            beside it, or if the formula is unknown.
    """
    family = norm_family(state)
    if family.ws or family.folded:
        raise InputError(
            f"the weights {'are folded' if family.folded else 'were trained with WS'}, there is "
            f"nothing to adopt: use them as they are"
        )
    adopted: OrderedDict[str, Any] = OrderedDict()
    for key, value in state.items():
        adopted[key] = value
        if not followed_by_norm(state, key) or value[0].numel() == 1:
            continue
        mean, deviation = weight_mean_and_deviation(value.detach(), formula=formula)
        shape = (len(value), *[1] * (value.ndim - 1))
        adopted[f"{key}_gamma"] = deviation.reshape(shape)
        adopted[f"{key}_beta"] = mean.reshape(shape)
    if len(adopted) == len(state):
        raise InputError(
            "no kernel in the weights has a norm beside it, which WS needs: give those of a "
            "detector with BN or GN, named as in MMDetection, Detectron2 or torchvision"
        )
    adopted._metadata = getattr(state, "_metadata", OrderedDict())
    return adopted


def followed_by_norm(state: dict[str, Any], key: str) -> bool:
    """Whether ``key`` is a convolution's kernel and a norm of as many channels follows it.

    Args:
        state: With the names of MMDetection, Detectron2 or torchvision.
        key: One of them.

    Returns:
        As far as the names tell: where a convolution carries a norm, where both have the same
        number in a block, and where the norm is the next in a sequence.
    """
    kernel = state[key]
    if not (_is_float(kernel) and kernel.ndim in (3, 4, 5) and kernel.numel()):
        return False
    parent, _, name = key.removesuffix(".weight").rpartition(".")
    prefix = f"{parent}." if parent else ""
    names = [f"{prefix}{name}.norm"]
    if match := re.fullmatch(r"conv(\d*)", name):
        names += [f"{prefix}{norm}{match[1]}" for norm in _NORMS]
    if name.isdecimal():
        names += [f"{prefix}{int(name) + 1}"]
        if parent.endswith("convs"):  # Res2Net's two lists
            names += [f"{parent.removesuffix('convs')}bns.{name}"]
    weights = (state.get(f"{name}.weight") for name in names)
    return any(_is_float(w) and w.shape == kernel.shape[:1] for w in weights)


def _is_float(value: Any) -> bool:
    return is_dense(value) and value.dtype in (
        torch.float16,
        torch.bfloat16,
        torch.float32,
        torch.float64,
    )

"""Fold a WS model for inference: plain convolutions with the standardized kernels baked in."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ws_det import layers
from ws_det.plain import become_plain, plain_class


def fold_ws(module: nn.Module) -> nn.Module:
    """Bake the standardized kernels into plain convolutions, in place.

    The result needs no ws_det and has the state-dict keys that it had, so it is marked: the
    metadata of its state dict say ``ws_folded``, which a WS convolution refuses to load, and its
    convolutions refuse to run in training mode with gradients.

    Args:
        module: A model with WS convolutions.

    Returns:
        ``module``.

    Raises:
        RuntimeError: If it is folded already.
        ValueError: If it has no WS convolution, or one of a class that cannot be folded. Nothing
            has been changed then.
    """
    if any(hasattr(child, "ws_folded") for child in module.modules()):
        raise RuntimeError("this model is folded already: folding twice would standardize twice")
    convs = [m for m in module.modules() if isinstance(m, layers.WeightStandardized)]
    if not convs:
        raise ValueError("nothing to fold: the model has no WS convolution")
    for conv in convs:
        plain_class(conv)  # which refuses what cannot be folded before anything is changed
    with torch.no_grad():
        # All kernels before the first change, for convolutions that share one.
        kernels = [conv.standardized_weight() for conv in convs]
    for conv, kernel in zip(convs, kernels, strict=True):
        become_plain(conv, nn.Parameter(kernel, requires_grad=conv.weight.requires_grad))
    return module


def is_folded(state_dict: dict[str, Any]) -> bool:
    """Whether a state dict, with its metadata, comes from a folded model."""
    metadata = getattr(state_dict, "_metadata", {})
    return any(entry.get("ws_folded", False) for entry in metadata.values())

"""Fold a WS model for inference: plain convolutions with the standardized kernels baked in."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ws_det import layers, norm_fold
from ws_det.plain import become_plain, is_marked, plain_class


def fold_ws(module: nn.Module, *, bcn: bool = False) -> nn.Module:
    """Bake the standardized kernels into plain convolutions, in place.

    EstBN becomes the batch norm that it is in evaluation. The result needs no ws_det, but for BCN,
    also to load it from a pickle, and has the state-dict keys that it had, so it is marked: the
    metadata of its state dict say so, which a WS convolution refuses to load, and what was folded
    refuses to run in training mode with gradients. That refusal is not in a pickle.

    Args:
        module: A model with WS convolutions.
        bcn: Whether to fold BCN too: its batch norm into the convolution before it, which gets a
            bias, and the rest into a GroupNorm. This changes the keys to those of a model that no
            config of a framework describes: for torch, TorchScript and ONNX. Which convolution
            comes before is read from the structure, as by :func:`ws_det.convert_to_ws`.

    Returns:
        ``module``, or with ``bcn`` what it becomes if it is itself a BCN.

    Raises:
        RuntimeError: If it is folded already.
        ValueError: If there is nothing to fold, or a WS convolution of a class that cannot be
            folded, or whose weight is computed at every call. Nothing has been changed then.
    """
    if any(hasattr(child, "ws_folded") for child in module.modules()):
        raise RuntimeError("this model is folded already: folding twice would standardize twice")
    convs = [m for m in module.modules() if isinstance(m, layers.WeightStandardized)]
    est_bns = norm_fold.est_bns(module)
    if not (convs or est_bns or (bcn and norm_fold.bcns(module))):
        raise ValueError("nothing to fold: the model has no WS convolution, and no EstBN or BCN")
    for conv in convs:
        plain_class(conv)  # which refuses what cannot be folded before anything is changed
    with torch.no_grad():
        # All kernels before the first change, for convolutions that share one.
        kernels = [conv.standardized_weight() for conv in convs]
    for conv, kernel in zip(convs, kernels, strict=True):
        become_plain(conv, nn.Parameter(kernel, requires_grad=conv.weight.requires_grad))
    for norm in est_bns:
        norm_fold.fold_est_bn(norm)
    return norm_fold.fold_bcns(module) if bcn else module


def is_folded(state_dict: dict[str, Any]) -> bool:
    """Whether a state dict, with its metadata, comes from a folded model."""
    metadata = getattr(state_dict, "_metadata", {})
    return any(is_marked(entry) for entry in metadata.values())

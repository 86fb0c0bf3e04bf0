"""Fold a WS model for inference: plain convolutions with the standardized kernels baked in."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ws_det import convert, layers

_REFUSAL = (
    "a folded model cannot be trained, its kernels are no longer standardized: train the model "
    "from before fold_ws, or call eval() for inference"
)


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
        ValueError: If it has no WS convolution.
    """
    if any(hasattr(child, "ws_folded") for child in module.modules()):
        raise RuntimeError("this model is folded already: folding twice would standardize twice")
    convs = [m for m in module.modules() if isinstance(m, layers.WeightStandardized)]
    if not convs:
        raise ValueError("nothing to fold: the model has no WS convolution")
    with torch.no_grad():
        # All kernels before the first change, for convolutions that share one.
        kernels = [conv.standardized_weight() for conv in convs]
    plain_classes = {ws: plain for plain, ws in convert.WS_CLASSES.items()}
    for conv, kernel in zip(convs, kernels, strict=True):
        if conv.adaptive:
            del conv.weight_gamma, conv.weight_beta
        for option in ("formula", "eps", "correction", "eps_inside", "center", "scale", "adaptive"):
            delattr(conv, option)
        conv.__class__ = plain_classes[type(conv)]
        conv.weight = nn.Parameter(kernel, requires_grad=conv.weight.requires_grad)
        conv.ws_folded = True
        # The public register_state_dict_post_hook came with torch 2.5, this one is in all.
        conv._register_state_dict_hook(_mark)
        if not conv.transposed:  # there TorchScript has no types that fit every call
            conv.register_forward_pre_hook(_refuse_training)
    return module


def is_folded(state_dict: dict[str, Any]) -> bool:
    """Whether a state dict, with its metadata, comes from a folded model."""
    metadata = getattr(state_dict, "_metadata", {})
    return any(entry.get("ws_folded", False) for entry in metadata.values())


def _mark(conv: nn.Module, state_dict: dict, prefix: str, local_metadata: dict) -> None:
    local_metadata["ws_folded"] = True


# TorchScript compiles hooks, for which it needs the types.
def _refuse_training(self: nn.Module, input: tuple[Tensor]) -> None:
    if not torch.jit.is_scripting() and self.training and torch.is_grad_enabled():
        raise RuntimeError(_REFUSAL)

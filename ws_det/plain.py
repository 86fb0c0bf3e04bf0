"""What a folded WS convolution is: a plain one, marked, that refuses to be trained on."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ws_det.errors import InputError

_REFUSAL = (
    "a folded model cannot be trained, its kernels are no longer standardized: train the model "
    "from before fold_ws, or call eval() for inference"
)


def plain_class(conv: nn.Module) -> type[nn.Module]:
    """The class of a WS convolution without WS, the last one that it is made of.

    Raises:
        InputError: For a subclass of a WS convolution, whose code a plain one would lose.
    """
    plain = type(conv).__bases__[-1]
    if hasattr(plain, "standardized_weight"):
        raise InputError(
            f"{type(conv).__name__} cannot be folded, a plain convolution would lose its code: "
            f"replace it by {plain.__name__} for inference, or fold it by hand"
        )
    return plain


def become_plain(conv: nn.Module, kernel: nn.Parameter) -> None:
    """Turn a WS convolution into the plain one with this kernel, in place.

    Raises:
        InputError: As ``plain_class``.
    """
    target = plain_class(conv)
    if conv.adaptive:
        del conv.weight_gamma, conv.weight_beta
    for option in ("formula", "eps", "correction", "eps_inside", "center", "scale", "adaptive"):
        delattr(conv, option)
    conv.__class__ = target
    conv.weight = kernel
    # A transposed one has no guard: there TorchScript has no types that fit every call.
    mark(conv, guard=not conv.transposed)


def mark(module: nn.Module, guard: bool = True) -> None:
    """Mark a module as folded, also in the metadata of its state dict.

    Args:
        module: The module.
        guard: Whether it refuses to run in training mode with gradients.
    """
    module.ws_folded = True
    # The public register_state_dict_post_hook came with torch 2.5, this one is in all.
    module._register_state_dict_hook(_mark_state)
    if guard:
        module.register_forward_pre_hook(_refuse_training)


def _mark_state(module: nn.Module, state_dict: dict, prefix: str, local_metadata: dict) -> None:
    local_metadata["ws_folded"] = True


# TorchScript compiles hooks, for which it needs the types.
def _refuse_training(self: nn.Module, input: tuple[Tensor]) -> None:
    if not torch.jit.is_scripting() and self.training and torch.is_grad_enabled():
        raise RuntimeError(_REFUSAL)

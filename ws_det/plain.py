"""What a folded WS convolution is: a plain one, marked, that refuses to be trained on."""

from __future__ import annotations

import copy
from collections import OrderedDict
from typing import Any

import torch
from torch import nn

from ws_det.errors import InputError

_REFUSAL = (
    "a folded model cannot be trained, its kernels are no longer standardized: train the model "
    "from before fold_ws, or call eval() for inference"
)
# "WS" in ASCII. A module's version is what torch itself writes into the metadata of a state dict;
# the layers of torch that are folded to ask no more than whether it is below 2.
_FOLDED_VERSION = 0x5753


def plain_class(conv: nn.Module) -> type[nn.Module]:
    """The class of a WS convolution without WS, the last one that it is made of.

    Raises:
        InputError: For a subclass of a WS convolution, whose code a plain one would lose, and for a
            weight that is computed from others, which would be computed again.
    """
    if "weight" not in conv._parameters:
        raise InputError(
            f"{type(conv).__name__} cannot be folded, its weight is computed from other tensors "
            f"at every call (pruning, weight norm, spectral norm): make it permanent first, by "
            f"prune.remove, remove_weight_norm, remove_spectral_norm or remove_parametrizations"
        )
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
    mark(conv)


def mark(module: nn.Module) -> None:
    """Mark a module as folded, also in the metadata of its state dict.

    From now on it refuses to run in training mode with gradients. The mark is data and stays in a
    pickle; the refusal is code of ws_det, and a pickle goes without it.
    """
    module.ws_folded = True
    module._version = _FOLDED_VERSION
    if not module._forward_pre_hooks:  # a handle to a hook holds on to the dict that it is in
        module._forward_pre_hooks = _Guards()
    module.register_forward_pre_hook(_refuse_training)


def is_marked(metadata: dict[str, Any]) -> bool:
    """Whether a module's entry in the metadata of a state dict says that it is folded."""
    return metadata.get("version") == _FOLDED_VERSION or bool(metadata.get("ws_folded"))


class _Guards(OrderedDict):
    """Forward pre-hooks of a folded module, whose own is for this process and eager calls alone.

    A module's call goes by ``items``, TorchScript, which compiles the hooks, by ``values``.
    """

    def values(self) -> list[Any]:
        """The hooks of others."""
        return [hook for hook in super().values() if hook is not _refuse_training]

    def __reduce__(self) -> tuple[Any, ...]:
        return OrderedDict, ([item for item in self.items() if item[1] is not _refuse_training],)

    def __deepcopy__(self, memo: dict[int, Any]) -> _Guards:
        return _Guards((key, copy.deepcopy(hook, memo)) for key, hook in self.items())


def _refuse_training(module: nn.Module, inputs: tuple[Any, ...]) -> None:
    if module.training and torch.is_grad_enabled():
        raise RuntimeError(_REFUSAL)

"""See what enters each nonlinearity behind a norm, in any model.

Frameworks call nonlinearities as modules, one of them several times in a block, and as functions,
often in place on the sum with a shortcut. One mechanism sees them all: torch's function mode, in
which every call passes by before it runs. A tensor is followed from the norm that it came out of.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakTensorKeyDictionary

# Names of torch's functions, without the underscores of those that work in place.
_NONLINEARITIES = {"relu", "relu6", "leaky_relu", "prelu", "rrelu", "elu", "celu", "selu"}
_NONLINEARITIES |= {"gelu", "silu", "mish", "hardtanh", "hardswish", "softplus"}
# What may lie between a norm and a nonlinearity and leaves a channel what it is.
_KEEPING = {"add", "sub", "mul", "div", "dropout", "dropout2d", "feature_dropout", "interpolate"}
_KEEPING |= {"max_pool2d", "avg_pool2d", "adaptive_avg_pool2d", "adaptive_max_pool2d"}
_KEEPING |= {"to", "float", "half", "bfloat16", "double", "contiguous", "clone", "detach"}


class Activations(TorchFunctionMode):
    """While entered, tells what enters the nonlinearities behind the norms of a model.

    A nonlinearity is behind a norm if nothing between them mixes channels, and a sum is behind the
    norm of its first summand that has one.

    Args:
        model: It.
        see: Called with the name of the norm and the input of the nonlinearity, which is
            overwritten afterwards if that works in place.

    Attributes:
        norms: Names of the model's norms, without those inside others: BCN's batch norm is a part
            of it.
    """

    def __init__(self, model: nn.Module, see: Callable[[str, Tensor], None]) -> None:
        super().__init__()
        norms = {module: name for name, module in model.named_modules() if _is_norm(module)}
        inner = {part for norm in norms for part in norm.modules() if part is not norm}
        self.norms = {m: name or type(m).__name__ for m, name in norms.items() if m not in inner}
        self._see = see
        self._handles: list[Any] = []
        # By the tensor itself, for as long as it lives.
        self._behind = WeakTensorKeyDictionary()

    def __enter__(self) -> Activations:
        self._handles = [norm.register_forward_hook(self._know) for norm in self.norms]
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        for handle in self._handles:
            handle.remove()

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Look at a call and make it."""
        kwargs = kwargs or {}
        kind = getattr(func, "__name__", "").strip("_")
        operands = [v for v in (*args[:2], kwargs.get("input")) if isinstance(v, Tensor)]
        norm = next((found for v in operands if (found := self._behind.get(v))), None)
        if kind in _NONLINEARITIES and norm:
            self._see(norm, operands[0])
        result = func(*args, **kwargs)
        if isinstance(result, Tensor):
            if kind in _KEEPING and norm:
                self._behind[result] = norm
            elif kind in _NONLINEARITIES:
                self._behind.pop(result, None)  # in place it is the tensor that entered
        return result

    def _know(self, norm: nn.Module, inputs: Any, output: Any) -> None:
        if isinstance(output, Tensor):
            self._behind[output] = self.norms[norm]


def _is_norm(module: nn.Module) -> bool:
    # Detectron2 and torchvision have a frozen one each, of one name, that is no batch norm.
    frozen = type(module).__name__ == "FrozenBatchNorm2d"
    return frozen or isinstance(module, (_BatchNorm, _InstanceNorm, nn.GroupNorm))

"""One standardization a step for a convolution that a head applies to several levels.

A kernel is kept by weak reference only: the graph of the step holds it, because the convolution
saved it for backward, and lets it go after backward. So nothing is held between steps, and
nothing has to be told that a step ends.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.utils.weak import TensorWeakRef

from ws_det.compiling import is_compiling

# Beside the modules and not in them, so that copying and pickling a module does not see it.
_kept: WeakKeyDictionary[nn.Module, tuple[TensorWeakRef, Any]] = WeakKeyDictionary()
_saving_hooks = getattr(torch._C._autograd, "_top_saved_tensors_default_hooks", None)


def shared(
    module: nn.Module,
    compute: Callable[[], Tensor],
    tensors: Sequence[Tensor],
    options: tuple[Any, ...],
) -> Tensor:
    """``compute()``, or its result of before in the same step.

    It is computed anew without gradients (nothing would hold it), after its own backward, after a
    change that autograd sees, and where autograd's saved tensors are intercepted, as by activation
    checkpointing, which counts them.

    Args:
        module: Whose result it is.
        compute: Gives a tensor with a graph of its own.
        tensors: What it is computed from, the parameter first.
        options: What else.

    Returns:
        The tensor.
    """
    if not _may_share(tensors[0]):
        return compute()
    now = options, [(tensor.data_ptr(), tensor._version, tensor.dtype) for tensor in tensors]
    reference, then = _kept.get(module, (None, None))
    kept = reference() if reference is not None and then == now else None
    if kept is None:
        kept = compute()
        if kept.requires_grad:
            _kept[module] = TensorWeakRef(kept), now
            kept.register_hook(lambda grad: _forget(module))
    return kept


def _may_share(parameter: Tensor) -> bool:
    return (
        not is_compiling()  # the compiler itself shares equal computations
        and torch.is_grad_enabled()
        and type(parameter) is nn.Parameter  # no stand-in of a transform or a functional call
        and _saving_hooks is not None
        and _saving_hooks(True) is None
        and torch._C._current_graph_task_id() == -1  # in backward only a checkpoint recomputes
    )


def _forget(module: nn.Module) -> None:
    _kept.pop(module, None)

"""Count what times only hint at: bytes that are kept for backward, and operators that run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


def saved_bytes(call: Callable[[], object], ignore: Iterable[Tensor] = ()) -> int:
    """Bytes of the memory that a forward pass keeps for its backward pass.

    A storage counts once and whole, however many tensors and layers keep it. What an autograd
    function keeps without ``save_for_backward`` is not seen.

    Args:
        call: The forward pass.
        ignore: Tensors that are there anyhow: the model's parameters and buffers.
    """
    ignored = {tensor.untyped_storage().data_ptr() for tensor in ignore}
    sizes: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in ignored:
            sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        call()
    return sum(sizes.values())


def operators(call: Callable[[], object]) -> int:
    """How many operators a call runs; on a GPU nearly each is a kernel launch."""
    with OperatorCounter() as counter:
        call()
    return counter.counts.total()


class OperatorCounter(TorchDispatchMode):
    """Counts the operators that torch runs inside ``with``, in ``counts`` by name.

    Views are left out: they compute nothing.
    """

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Count one operator and run it."""
        if not func.is_view:
            self.counts[func._schema.name.removeprefix("aten::")] += 1
        return func(*args, **(kwargs or {}))

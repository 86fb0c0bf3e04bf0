"""Whether somebody traces or transforms the code that runs, and what a compiler must not undo."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad


def _never() -> bool:
    return False


# Before torch 2.4, which our operations cannot be described to, it traces the native kernels.
_known = hasattr(torch.library, "register_fake")
is_compiling = torch.compiler.is_compiling if _known else _never

# The same in every torch.
is_traced = getattr(torch.compiler, "is_compiling", getattr(torch._utils, "is_compiling", _never))

# Since torch 2.7; before, an exported graph of BCN calls an operation of ws_det.
is_exporting = getattr(torch.compiler, "is_exporting", _never)


def is_transformed() -> bool:
    """Whether torch.func (vmap, grad, jvp, ...) or forward-mode AD is at work.

    They derive torch's operations by rules of their own, and know none for autograd functions.
    """
    if is_compiling():
        return False
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


def in_onnx_export() -> bool:
    """Whether one of torch's exporters to ONNX is tracing."""
    return torch.onnx.is_in_onnx_export()


# As torch.compiler.assume_constant_result does, without loading the compiler: it takes torch's own
# function for False, also where it serves the exporter.
in_onnx_export._dynamo_marked_constant = True


def computed_once(*values: Tensor) -> tuple[Tensor, ...]:
    """Small tensors that a compiler must take as they are, and not compute again where needed.

    In backward it would compute statistics from buffers that have moved since, with wrong
    gradients (seen with torch 2.13), and in a loop it would compute them for every element.
    """
    if not is_compiling():
        return values
    flat = _copy(torch.cat([value.reshape(-1) for value in values]))
    parts = flat.split([value.numel() for value in values])
    return tuple(part.view(value.shape) for part, value in zip(parts, values))


def opaque(
    schema: str, function: Callable[..., Any], fake: Callable[..., Any]
) -> Callable[..., Any]:
    """Make an operation that a compiler cannot look into, and calls when its graph runs.

    Torch takes a definition once a process, so a module that is loaded again finds its own. Not by
    ``torch.library.custom_op``, whose calls cost six times as much.

    Args:
        schema: As ``torch.library`` takes it.
        function: What it does; no argument is changed in place.
        fake: Tensors like its results, for a compiler; torch 2.4 or later asks for it.

    Returns:
        The operation.
    """
    ours, name = torch.ops.ws_det, schema.partition("(")[0]
    if not hasattr(ours, "library"):
        ours.library = torch.library.Library("ws_det", "FRAGMENT")
    if not hasattr(ours, name):
        ours.library.define(schema)
        ours.library.impl(name, function, "CompositeExplicitAutograd")
        if hasattr(torch.library, "register_fake"):
            torch.library.register_fake(f"ws_det::{name}", fake, lib=ours.library)
    return getattr(ours, name).default


_copy = opaque("copy(Tensor values) -> Tensor", torch.clone, torch.empty_like)

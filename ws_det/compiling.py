"""Whether torch.compile or an export to ONNX is tracing."""

from __future__ import annotations

import torch


def _never() -> bool:
    return False


# Since torch 2.3; before, a compiler traces the native kernels, which is as right.
is_compiling = getattr(torch.compiler, "is_compiling", _never)


def in_onnx_export() -> bool:
    """Whether one of torch's exporters to ONNX is tracing."""
    return torch.onnx.is_in_onnx_export()


# As torch.compiler.assume_constant_result does, without loading the compiler: it takes torch's own
# function for False, also where it serves the exporter.
in_onnx_export._dynamo_marked_constant = True

"""Whether torch.compile is tracing, asked where a compiler needs other operations than a kernel."""

from __future__ import annotations

import torch


def _never() -> bool:
    return False


# Since torch 2.3; before, a compiler traces the native kernels, which is as right.
is_compiling = getattr(torch.compiler, "is_compiling", _never)

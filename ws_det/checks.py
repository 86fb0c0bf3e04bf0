"""Check what a run needs of the machine, before it writes anything."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from ws_det.errors import InputError


def check_writable(path: str, flag: str) -> None:
    """Check that a file or folder can be made, by trying in the nearest folder that exists.

    Root passes every permission check, and read-only mounts fail only when they are written to.

    Args:
        path: What is to be written.
        flag: Of the tool, which gives the path.

    Raises:
        InputError: If it cannot be written.
    """
    target = Path(path).absolute()
    existing = next(p for p in (target, *target.parents) if os.path.lexists(p))
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        raise InputError(
            f"{path} cannot be written ({existing}: {error.strerror}): give another {flag}"
        ) from None


def check_gpus(processes: int, gpus: int) -> None:
    """Refuse more processes on this machine than GPUs; without any GPU the CPUs serve all.

    Raises:
        InputError: If there are more processes than GPUs.
    """
    if 0 < gpus < processes:
        raise InputError(
            f"{processes} processes were started on this machine but it has {gpus} "
            f"GPU{'s' * (gpus > 1)}: start {gpus}, or hide the GPUs with CUDA_VISIBLE_DEVICES=-1 "
            f"to run on the CPU"
        )

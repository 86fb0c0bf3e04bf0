"""Check what a run needs of the machine, before it writes anything."""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from pathlib import Path

from ws_det.errors import InputError


def check_writable(path: str, flag: str) -> None:
    """Check that a folder can be made and written to, by trying in the nearest that exists.

    Root passes every permission check, and read-only mounts fail only when they are written to.

    Args:
        path: Of the folder.
        flag: Of the tool, which gives the path.

    Raises:
        InputError: If it cannot be written.
    """
    _try(Path(path).absolute(), path, flag)


def check_file(path: str, flag: str) -> None:
    """Check that a file can be made or replaced, see ``files.replacing``.

    Args:
        path: Of the file.
        flag: Of the tool, which gives the path.

    Raises:
        InputError: If it cannot be written.
    """
    target = Path(os.path.realpath(path))
    if os.path.lexists(target) and not target.is_file():
        what = "a folder" if target.is_dir() else "no regular file"
        raise InputError(f"{path} cannot be written (it is {what}): give another {flag}")
    _try(target.parent, path, flag)


def _try(folder: Path, path: str, flag: str) -> None:
    existing = next(p for p in (folder, *folder.parents) if os.path.lexists(p))
    try:
        with suppress(FileNotFoundError):
            os.lstat(folder)  # a name can be too long
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

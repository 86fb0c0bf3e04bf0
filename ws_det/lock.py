"""Let one run at a time write a folder, by a lock that a killed process does not leave behind."""

from __future__ import annotations

import fcntl
import os
import shlex
import socket
import stat
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from ws_det.checks import check_writable
from ws_det.errors import InputError, warn

LOCK = ".ws_det.lock"
PATIENCE = 10.0  # seconds: torchrun starts a run again while its last processes still end
_POLL = 0.1


@contextmanager
def alone_in(folder: str | Path, flag: str) -> Iterator[None]:
    """Be the only run that writes a folder, which is made if it is not there.

    The lock is one of POSIX on an open file. The system takes it back when the process dies, and a
    forked worker that outlives it does not have it, as it would have one of ``flock``. The file
    says who has the lock; it is removed in the end, and so is a folder that was made for it alone.

    Args:
        folder: Of the run.
        flag: Of the tool, which gives the folder.

    Raises:
        InputError: If the folder cannot be written, or another process has the lock for longer
            than a process takes to die.
    """
    folder = Path(folder).absolute()
    made: set[Path] = set()
    try:
        file = _locked(folder, flag, made)
    except OSError as error:
        file = None
        check_writable(str(folder), flag)
        warn(f"{folder} cannot be locked ({error.strerror}): start no second run in it")
    try:
        yield
    finally:
        if file:
            if _is_at(folder / LOCK, file):
                (folder / LOCK).unlink(missing_ok=True)  # first: who has opened it sees it gone
            file.close()
        for path in sorted(made, reverse=True):
            with suppress(OSError):  # it is not empty
                path.rmdir()


def _locked(folder: Path, flag: str, made: set[Path]) -> BinaryIO:
    """The open file of the lock.

    Args:
        folder: As of ``alone_in``.
        flag: As of ``alone_in``.
        made: Gets the folders that were not there.

    Raises:
        InputError: As ``alone_in``.
        OSError: If there can be no lock here.
    """
    end, told = time.monotonic() + PATIENCE, False
    while True:
        file = _opened_in(folder, made)
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_at(folder / LOCK, file):
                file.truncate(0)
                file.write(_myself().encode(errors="backslashreplace"))
                file.flush()
                return file
        except (BlockingIOError, PermissionError):  # either says that it is taken
            holder = file.read(1000).decode(errors="replace") or "another process"
            if time.monotonic() > end:
                raise InputError(
                    f"{folder} is in use by {holder}: wait until that has ended, end it, or give "
                    f"another {flag}"
                ) from None
            if not told:
                warn(f"{folder} is in use by {holder}: waiting {PATIENCE:.0f} s for its end")
            told = True
            time.sleep(_POLL)
        except BaseException:
            file.close()
            raise
        file.close()


def _opened_in(folder: Path, made: set[Path]) -> BinaryIO:
    """Make the folder and open the file of its lock."""
    for _ in range(100):
        made.update(path for path in (folder, *folder.parents) if not path.exists())
        with suppress(FileNotFoundError, FileExistsError):  # another run removes what it has made
            folder.mkdir(parents=True, exist_ok=True)
            return _opened(folder / LOCK)
    folder.mkdir(parents=True, exist_ok=True)
    return _opened(folder / LOCK)


def _opened(path: Path) -> BinaryIO:
    """Open the file of a lock, and nothing that was put in its place.

    Raises:
        OSError: If it cannot be opened, or is not a file of its own.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    file = os.fdopen(os.open(path, flags, 0o666), "r+b", buffering=0)
    found = os.fstat(file.fileno())
    if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:
        file.close()
        raise OSError(0, f"{path.name} is no file of its own")
    return file


def _is_at(path: Path, file: BinaryIO) -> bool:
    """Whether the one who had the lock before has not removed the file since it was opened."""
    with suppress(OSError):
        return os.path.samestat(os.lstat(path), os.fstat(file.fileno()))
    return False


def _myself() -> str:
    command = shlex.join(sys.argv)[:300]
    since = time.strftime("%Y-%m-%d %H:%M:%S")
    return f"process {os.getpid()} on {socket.gethostname()} since {since} ({command})"

"""Write files so that at any moment the old one is there, or the new one, complete."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from ws_det.errors import InputError, first_line

_LONGEST = 200  # bytes of a name that its part repeats; file systems end names at 255
# Earlier releases put the number of the process where there is a random number now.
_OF_ANY = r".*"
_ENDING = r"\.[0-9a-f]+\.part"


@contextmanager
def replacing(path: str | Path) -> Iterator[BinaryIO]:
    """Write a file beside, and give it its name when all is written and the disk has it.

    The part has a name that nobody can foresee and is made by this call alone, so that nothing
    planted in its place is written through. A killed process leaves its part behind, hidden, and
    the next to write under the same name removes it. Where ``path`` is a link it stays one: the
    file that it leads to is replaced. An old file gives the new one its permissions.

    Args:
        path: Of the file; a folder that is not there is made.

    Yields:
        The part, open for writing; its ``name`` is for writers that want one.

    Raises:
        InputError: If it cannot be written. As after any other exception, an old file is as it was
            and no part is left.
    """
    target = Path(os.path.realpath(path))
    try:
        permissions = _permissions(target)
        target.parent.mkdir(parents=True, exist_ok=True)
        stem = _stem(target)
        _remove(target.parent, re.escape(stem))
        with _new(target.with_name(f".{stem}.{secrets.token_hex(8)}.part")) as file:
            if permissions not in (None, _mode(os.fstat(file.fileno()))):
                os.fchmod(file.fileno(), permissions)
            yield file
            file.flush()
            os.fsync(file.fileno())
            os.replace(file.name, target)
    except (OSError, RuntimeError) as error:
        # torch's writer raises a RuntimeError of its own after the one of the file
        cause = error if isinstance(error, OSError) else error.__context__
        if not isinstance(cause, OSError):
            raise
        raise InputError(
            f"{path} cannot be written ({cause.strerror or first_line(cause)}): free space or give "
            f"another path"
        ) from cause


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Fill a folder beside, and give it its name in the end; see ``replacing``.

    Args:
        path: Of the folder, which is empty or not there.

    Yields:
        The folder to fill.

    Raises:
        OSError: If it cannot be made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    for left in path.parent.iterdir():
        ours = re.fullmatch(rf"\.{re.escape(path.name)}(\.[0-9a-f]{{16}})?\.partial", left.name)
        if ours and left.is_dir() and not left.is_symlink() and not _is_in_use(left):
            shutil.rmtree(left, ignore_errors=True)
    part = path.with_name(f".{path.name}.{secrets.token_hex(8)}.partial")
    part.mkdir()
    descriptor = os.open(part, os.O_RDONLY)
    try:
        _mark_in_use(descriptor)
        yield part
        part.rename(path)
    finally:
        os.close(descriptor)
        shutil.rmtree(part, ignore_errors=True)


def write_text(path: str | Path, text: str) -> None:
    """Write a text as UTF-8, see ``replacing``."""
    content = text.encode("utf-8", "backslashreplace")  # a path may hold what is no Unicode
    with replacing(path) as file:
        file.write(content)


def write_png(figure: Any, path: str | Path, dpi: int) -> None:
    """Write a figure of matplotlib, see ``replacing``."""
    with replacing(path) as file:
        figure.savefig(file, format="png", dpi=dpi)


def remove_parts(folder: str | Path) -> None:
    """Remove the parts of all files in a folder whose writers were killed."""
    _remove(Path(folder), _OF_ANY)


@contextmanager
def _new(part: Path) -> Iterator[BinaryIO]:
    """A new file, marked as being written, and removed in the end if it is still there."""
    with part.open("xb") as file:  # x: never an existing file, nor the target of a link
        try:
            _mark_in_use(file)
            yield file
        finally:
            part.unlink(missing_ok=True)


def _permissions(target: Path) -> int | None:
    """Of the file that is to be replaced, None if there is none.

    Raises:
        OSError: If there is something that is no file: renaming would replace a device too.
    """
    try:
        found = target.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    if stat.S_ISREG(found.st_mode):
        return _mode(found)
    if stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    raise OSError(errno.EINVAL, "It is no regular file")


def _mode(found: os.stat_result) -> int:
    return found.st_mode & 0o777


def _stem(target: Path) -> str:
    return os.fsencode(target.name)[:_LONGEST].decode(errors="ignore")


def _remove(folder: Path, stem: str) -> None:
    """Remove the parts of names that match; a link or a folder called so is left alone."""
    pattern = re.compile(rf"\.{stem}{_ENDING}", re.DOTALL)
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            with suppress(OSError):  # it is gone, or belongs to somebody else
                ours = pattern.fullmatch(entry.name) and entry.is_file(follow_symlinks=False)
                if ours and not _is_in_use(entry.path):
                    os.unlink(entry.path)


def _mark_in_use(file: BinaryIO | int) -> None:
    """Keep others from removing a part that is being written."""
    with suppress(OSError):  # a file system without locks
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _is_in_use(path: str | Path) -> bool:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # a file system without locks
        return False
    finally:
        os.close(descriptor)
    return False

"""What may be in the way of a file that is written, and what a writer must do about it.

A writer takes a path and gives what it wrote to ``check``. The oracles are the bytes of a canary
outside, and the list of all that there is.
"""

from __future__ import annotations

import os
import resource
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ws_det.errors import InputError

Write = Callable[[Path], object]
OLD = b"old"
# Names that parts have had, predictable ones too, and one that the present scheme could give.
PARTS = (".{}.part", f".{{}}.{os.getpid()}.part", ".{}.0123456789abcdef.part")
KEPT = ("links", "dangling links", "folders", "fifos")
REFUSED = ("is a folder", "is a fifo", "parent is a file", "disk full")
CASES = (
    *KEPT, "left parts", "nothing", "old file", "read-only", "private", "is a link",
    "is a dangling link", "parent is a link", "link to a folder", *REFUSED,
)  # fmt: skip


def survives(write: Write, case: str, root: Path, name: str) -> None:
    """Let a writer write ``name`` into a prepared folder, and look at everything after it.

    Args:
        write: Writes more than two bytes.
        case: One of ``CASES``.
        root: An empty folder.
        name: Of the file.
    """
    canary, place = root / "canary", root / "place"
    canary.write_bytes(b"alive")
    place.mkdir()
    path = _prepare(case, root, place / name)
    before = _all(root)
    written = os.path.realpath(path)
    if case in REFUSED or case == "link to a folder":
        limited = _disk_full() if case == "disk full" else _nothing()
        with pytest.raises(InputError, match="cannot be written"), limited:
            write(path)
        assert _all(root) == before
        return
    write(path)
    after = _all(root)
    content = Path(written).read_bytes()
    assert content != OLD and len(content) > 2
    kind, mode, *_ = after.pop(written)
    old = before.pop(written, None)
    umask = os.umask(0)
    os.umask(umask)
    assert (kind, mode) == ("file", old[1] if old else 0o666 & ~umask)
    if case == "left parts":
        before = {p: what for p, what in before.items() if not p.endswith(".part")}
    elif case in KEPT:
        assert sum(p.endswith(".part") for p in after) == len(PARTS)
    assert after == before
    os.chmod(written, 0o644)


def _prepare(case: str, root: Path, path: Path) -> Path:
    """Put a case's things into the folder of a path; return the path to give to the writer."""
    real = root / "real.file"
    if case not in ("nothing", "is a folder", "is a fifo", "is a link", "is a dangling link",
                    "link to a folder", "parent is a file"):  # fmt: skip
        path.write_bytes(OLD)
    for part in PARTS if case in (*KEPT, "left parts") else ():
        planted = path.with_name(part.format(path.name))
        if case == "links":
            planted.symlink_to(root / "canary")
        elif case == "dangling links":
            planted.symlink_to(root / "made")
        elif case == "folders":
            planted.mkdir()
        elif case == "fifos":
            os.mkfifo(planted)
        elif part != PARTS[0]:
            planted.write_bytes(b"half")
    if case in ("read-only", "private"):
        path.chmod(0o444 if case == "read-only" else 0o600)
    elif case in ("is a link", "is a dangling link"):
        path.symlink_to(real)
        if case == "is a link":
            real.write_bytes(OLD)
    elif case == "parent is a link":
        (root / "link").symlink_to(path.parent)
        return root / "link" / path.name
    elif case == "link to a folder":
        path.symlink_to(root)
    elif case == "is a folder":
        path.mkdir()
    elif case == "is a fifo":
        os.mkfifo(path)
    elif case == "parent is a file":
        path.parent.rmdir()
        path.parent.write_bytes(OLD)
    return path


def _all(root: Path) -> dict[str, tuple]:
    """Every path below with its kind, permissions, and bytes or target."""
    found: dict[str, tuple] = {}
    for folder, folders, files in os.walk(root):
        for path in (Path(folder, name) for name in (*folders, *files)):
            mode = path.lstat().st_mode
            kind = {stat.S_IFREG: "file", stat.S_IFLNK: "link"}.get(stat.S_IFMT(mode), "other")
            rest = {"file": path.read_bytes, "link": lambda p=path: os.readlink(p)}
            content = rest[kind]() if kind in rest else None
            found[str(path)] = kind, stat.S_IMODE(mode), stat.S_IFMT(mode), content
    return found


@contextmanager
def _nothing() -> Iterator[None]:
    yield


@contextmanager
def _disk_full() -> Iterator[None]:
    """No file may be longer than two bytes, which fails as a full disk does."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)

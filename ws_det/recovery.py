"""Find what a stopped run left behind: its newest complete checkpoint, and parts of files."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from ws_det.errors import InputError, warn
from ws_det.files import remove_parts as remove_parts

POINTER = "last_checkpoint"  # both frameworks write the name of the newest checkpoint there
_MOST = 10**12  # iterations: thirty years at a thousand a second
_LONGEST = 4096  # bytes of a pointer: no path is longer

Load = Callable[[str], dict[str, Any]]
Part = Callable[[dict[str, Any]], Any]  # of a checkpoint, which can hold anything anywhere


class Found(NamedTuple):
    """A checkpoint that can be read to its end."""

    path: Path
    content: dict[str, Any]


def newest_whole(
    pointer: Path,
    candidates: Iterable[Path],
    load: Load,
    progress: Part,
    peek: Load | None = None,
    run: Part = lambda checkpoint: 0,
) -> Found | None:
    """Find the checkpoint of the last run and the most iterations, and say which cannot be read.

    Both numbers are those in the file: times change when files are copied, anything can be given a
    name, and a run can be killed after it wrote a checkpoint and before ``pointer`` named it.
    ``pointer`` adds a candidate, and decides between files of equal iterations.

    Args:
        pointer: The file with the name of the last checkpoint; it may be missing.
        candidates: The checkpoints of the folder.
        load: Reads one; raises InputError.
        progress: The iteration that one was saved at.
        peek: Reads of one what ``progress`` and ``run`` need, cheaper than ``load``.
        run: The number of its run, see ``next_run``.

    Returns:
        The checkpoint, or None if there is none at all.

    Raises:
        InputError: If there are some, and none is whole.
    """
    refused: list[InputError] = []
    ranked: list[tuple[tuple[int, int], Path]] = []
    for path in _in_order(pointer, candidates, refused):
        try:
            content = (peek or load)(str(path))
            ranked.append(((_run(run(content)), _iteration(progress(content), path)), path))
        except InputError as error:
            refused.append(error)
    for _, path in sorted(ranked, key=lambda one: one[0], reverse=True):  # equal ones stay so
        try:
            content = load(str(path))
            _iteration(progress(content), path)
        except InputError as error:
            refused.append(error)
            continue
        _tell(refused, path)
        return Found(path, content)
    if refused:
        raise InputError(
            f"no checkpoint beside {pointer} is whole ({refused[0]}): delete them to start anew"
        )
    return None


def next_run(candidates: Iterable[Path], peek: Load, run: Part) -> int:
    """The number of a run that begins anew in a folder, 0 if no other was there.

    Its checkpoints keep it, so that those of a run before it are told from them.

    Args:
        candidates: The checkpoints of the folder.
        peek: As of ``newest_whole``.
        run: As of ``newest_whole``.
    """
    last = -1
    for path in candidates:
        with suppress(InputError):
            last = max(last, _run(run(peek(str(path)))))
    return last + 1


def pointed(pointer: Path) -> str | None:
    """The name of the file that a pointer names, without any folder: it is beside the pointer.

    Returns:
        The name, or None if there is no pointer, or it is empty, as a full disk leaves it.

    Raises:
        InputError: If it holds no name of a file.
    """
    if not pointer.is_file():
        return None
    try:
        with pointer.open("rb") as file:
            text = file.read(_LONGEST + 1).decode().strip()
    except (OSError, UnicodeDecodeError):
        text = "\0"
    if not text:
        return None
    name = Path(text).name
    if not name.isprintable() or name in ("", "..") or len(text) > _LONGEST:
        raise InputError(f"{pointer} holds no name of a checkpoint: delete it")
    return name


def _in_order(
    pointer: Path, candidates: Iterable[Path], refused: list[InputError]
) -> list[Path]:
    """The candidates and the one that is named, this one first, the others by their names."""
    paths, named = set(candidates), None
    try:
        named = pointed(pointer)
    except InputError as error:
        refused.append(error)
    if named and named not in {path.name for path in paths}:
        paths.add(pointer.with_name(named))
    return sorted(paths, key=lambda path: (path.name == named, path.name), reverse=True)


def _iteration(value: Any, path: Path) -> int:
    """An iteration of a file.

    Raises:
        InputError: If it is no number of iterations.
    """
    if _counts(value):
        return value
    what = "number out of range" if type(value) is int else type(value).__name__
    what = "nothing" if value is None else f"a {what}"
    raise InputError(f"{path} has {what} where the iteration is to be: it is no state of a run")


def _run(value: Any) -> int:
    """The number of a run; 0 for those of other tools, and for what is none."""
    return value if _counts(value) else 0


def _counts(value: Any) -> bool:
    return type(value) is int and 0 <= value <= _MOST


def _tell(refused: list[InputError], path: Path) -> None:
    """Say in one line what was passed over."""
    if refused:
        reason = str(refused[0]).partition(": ")[0]
        more = f", and {len(refused) - 1} more cannot be resumed" if len(refused) > 1 else ""
        warn(f"{reason}{more}: the run goes on from {path}, the newest whole checkpoint")

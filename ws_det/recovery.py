"""Find what a stopped run left behind: its newest whole checkpoint, and parts of files."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

from ws_det.errors import InputError, warn

POINTER = "last_checkpoint"  # both frameworks write the name of the newest checkpoint there


class Found(NamedTuple):
    """A checkpoint that can be read to its end."""

    path: Path
    content: dict[str, Any]


def newest_whole(
    pointer: Path,
    candidates: Iterable[Path],
    load: Callable[[str], dict[str, Any]],
    progress: Callable[[dict[str, Any]], int],
) -> Found | None:
    """Find the checkpoint to resume from, and say so where it is not the one that was named.

    A run can be killed after it wrote a checkpoint and before it named it, so what is newer than
    ``pointer`` is looked at too. A disk can lose what it was given, so that a named one is broken:
    then the newest before it is taken.

    Args:
        pointer: The file with the name of the last checkpoint; it may be missing.
        candidates: The checkpoints of the run.
        load: Reads one; raises InputError.
        progress: The iteration that one was saved at.

    Returns:
        The checkpoint, or None if there is none at all.

    Raises:
        InputError: If there are some, and none is whole.
    """
    by_age = sorted(candidates, key=lambda path: path.stat().st_mtime_ns, reverse=True)
    named = _named(pointer, by_age)
    time = pointer.stat().st_mtime_ns if named else 0
    newer = [path for path in by_age if path.stat().st_mtime_ns > time and path != named]
    older = [path for path in by_age if path not in newer and path != named]
    refused: list[InputError] = []

    def whole(path: Path) -> Found | None:
        try:
            return Found(path, load(str(path)))
        except InputError as error:
            refused.append(error)
            return None

    last = whole(named) if named else None
    # Of an older run with another name, or a copy in another order: no more than what is named.
    ahead = (whole(path) for path in newer)
    found = next(
        (new for new in ahead if new and not (last and progress(new[1]) <= progress(last[1]))), last
    )
    found = found or next(filter(None, map(whole, older)), None)
    if refused and not found:
        raise InputError(
            f"no checkpoint beside {pointer} is whole ({refused[0]}): delete them to start anew"
        )
    if refused:
        reason = str(refused[0]).partition(": ")[0]
        warn(f"{reason}: the run goes on from {found.path}, the newest whole checkpoint")
    return found


def remove_parts(folder: str | Path) -> None:
    """Remove what writers that were killed left behind, see ``checkpoint.save_checkpoint``."""
    for part in Path(folder).glob(".*.part"):
        part.unlink(missing_ok=True)


def _named(pointer: Path, candidates: list[Path]) -> Path | None:
    name = pointer.read_text().strip() if pointer.is_file() else ""
    if not name:
        return None
    beside = (path for path in candidates if path.name == Path(name).name)
    return next(beside, Path(name) if Path(name).is_file() else pointer.with_name(Path(name).name))

"""Let a run read the annotation files that had to be mended, and its config stay as it is."""

from __future__ import annotations

import json
import os.path as osp
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from ws_det.errors import InputError
from ws_det.files import replacing
from ws_det.mmdet import launch
from ws_det.mmdet.annotations import Reading
from ws_det.mmdet.nodes import dicts_of, with_file


class Change(NamedTuple):
    """What a dataset or an evaluator is to do otherwise than its config says.

    Attributes:
        place: As of ``Reading``.
        index: As of ``Reading``.
        path: Of the annotation file that it reads, absolute; None where that is the config's own.
        maskless: As of ``Reading``.
    """

    place: str
    index: int
    path: str | None
    maskless: bool


def write_copies(readings: Sequence[Reading], work_dir: str) -> list[Change]:
    """Write what was mended below a work dir, on each machine; all processes call this as one.

    Machines may share a disk: the first writes, and what is there is not written again.

    Args:
        readings: By the first process of each machine; it says what is written.
        work_dir: Of the run.

    Returns:
        What changes with it, on every process.

    Raises:
        InputError: If they cannot be written; then nothing is left.
    """
    changes, files = plan(readings, osp.join(work_dir, "annotations"))
    first = launch.is_first()
    for turn in (first, launch.is_local_main() and not first):
        with launch.refuse_together():
            if turn:
                _write(files)
    return launch.from_first(changes)


def plan(
    readings: Sequence[Reading], folder: str
) -> tuple[list[Change], dict[str, dict[str, Any]]]:
    """Name the copies of what was mended.

    Args:
        readings: Of a run; those of one content get one copy.
        folder: Of the copies.

    Returns:
        What changes with them, and the content of each copy by its path.
    """
    changes, files, paths = [], {}, {}
    for reading in readings:
        content, path = reading.mended.content, None
        if reading.mended.changed:
            path = paths.get(id(content)) or _free(folder, reading, files)
            paths[id(content)] = path
            files[path] = content
        if path or reading.maskless:
            changes.append(Change(reading.place, reading.index, path, reading.maskless))
    return changes, files


def apply(changes: Sequence[Change], get: Callable[[str], Any]) -> None:
    """Point datasets and evaluators that are not built yet to their copies.

    Args:
        changes: By ``write_copies``.
        get: Gives the config, changed in place, of ``"train_dataloader"`` and the like.
    """
    for change in changes:
        node = with_file(get(change.place))[change.index]
        if change.path:
            node["ann_file"] = change.path
        for loader in dicts_of(node.get("pipeline")) if change.maskless else ():
            if "with_mask" in loader:
                loader["with_mask"] = False


def describe(readings: Sequence[Reading], changes: Sequence[Change]) -> Iterator[str]:
    """A line of notes for each file that has any, and where its copy is."""
    told: set[str] = set()
    paths = {(change.place, change.index): change.path for change in changes}
    for reading in readings:
        line, copy = reading.mended.describe(reading.path), paths.get(reading[:2])
        line += f" (this run reads {copy})" if copy else ""
        if reading.mended.notes and line not in told:
            told.add(line)
            yield line


def _free(folder: str, reading: Reading, files: dict[str, Any]) -> str:
    """``train_instances.json``; ``train_2_instances.json`` for another file of that name."""
    part, number = reading.place.partition("_")[0], 1
    while True:
        start = part if number == 1 else f"{part}_{number}"
        path = osp.abspath(osp.join(folder, f"{start}_{osp.basename(reading.path)}"))
        if path not in files:
            return path
        number += 1


def _write(files: dict[str, dict[str, Any]]) -> None:
    written: list[Path] = []
    try:
        for path, content in files.items():
            text = json.dumps(content).encode()
            target = Path(path)
            if not target.is_file() or target.read_bytes() != text:
                with replacing(target) as file:
                    file.write(text)
                written.append(target)
    except InputError:
        for target in written:
            target.unlink()
        for folder in {Path(path).parent for path in files}:
            with suppress(OSError):  # it was there before, or is not there
                folder.rmdir()
        raise

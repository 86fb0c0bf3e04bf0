"""Folders as runs, copies, full disks and strangers leave them, to find a checkpoint in.

The oracle keeps its own list of what it wrote: of those that can be read and have a number of
iterations, the one of the last run and then of the most iterations.
"""

from __future__ import annotations

import io
import os
import random
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from ws_det.errors import InputError

Content = Callable[[Any, Any], dict[str, Any]]  # of an iteration and the number of a run
Find = Callable[[Path], "tuple[int, Path] | None"]
NO_NUMBERS = (
    True, "900", float("nan"), torch.tensor(900), -1, 10**13, 10**5000, None, 900.0, [900], {},
)  # fmt: skip
POINTERS = (
    "", " \n", "gone_900.pth", "../outside.pth", "..", "/", "a\0b", "x" * 9000, b"\xff\xfe900.pth",
    "not a checkpoint", ".",
)  # fmt: skip


def bytes_of(content: dict[str, Any]) -> bytes:
    """As ``torch.save`` writes it."""
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


def check(count: int, seed: int, root: Path, name: str, content: Content, find: Find) -> None:
    """Let a framework find what is to be found in random folders.

    Args:
        count: Of the folders.
        seed: Of the first.
        root: An empty folder.
        name: Of checkpoints, with ``{}`` for a number.
        content: What a checkpoint holds.
        find: Returns iteration and path.
    """
    seen: Counter[str] = Counter()
    (root / "outside.pth").write_bytes(bytes_of(content(10**6, 9)))
    for number in range(seed, seed + count):
        draw = random.Random(number)
        folder = root / f"{number} of {count}"
        folder.mkdir()
        good, anything = _fill(folder, draw, name, content, root, seen)
        anything |= _point(folder, draw, good, name, root, seen)
        expected = max(good.values(), default=None)
        try:
            found = find(folder)
        except InputError as error:
            assert not good and anything, (number, error)
            seen["refused"] += 1
        else:
            if expected is None:
                assert found is None and not anything, number
            else:
                assert found and good[found[1]] == expected, (number, found, expected)
                assert found[0] == expected[1], number
                seen["found"] += 1
        shutil.rmtree(folder)
    print(f"{count} folders from seed {seed}: {dict(sorted(seen.items()))}")


def _fill(
    folder: Path, draw: random.Random, name: str, content: Content, root: Path, seen: Counter
) -> tuple[dict[Path, tuple[int, int]], bool]:
    """Write files; return run and iteration of those that can be read, and if there are any."""
    good: dict[Path, tuple[int, int]] = {}
    kinds = ("good", "good", "good", "link", "truncated", "empty", "folder", "dangling", "fifo",
             "no number", "weights", "flipped", "old format")  # fmt: skip
    count = draw.choice((0, 1, 2, 4, 6))
    for index in draw.sample(range(1, 2000), count):
        path, kind = folder / name.format(index), draw.choice(kinds)
        seen[kind] += 1
        at = draw.choice((0, 0, 1, 2)), draw.randrange(1000)
        whole = bytes_of(content(at[1], at[0]))
        if kind == "good":
            path.write_bytes(whole)
        elif kind == "old format":
            state = content(at[1], at[0])
            torch.save(state, path, _use_new_zipfile_serialization=False)
        elif kind == "link":
            path.symlink_to(root / f"{folder.name}.{index}.moved")
            Path(os.readlink(path)).write_bytes(whole)
        elif kind == "truncated":
            path.write_bytes(whole[: draw.randrange(1, len(whole))])
        elif kind == "empty":
            path.touch()
        elif kind == "folder":
            path.mkdir()
        elif kind == "dangling":
            path.symlink_to(root / "nowhere")
        elif kind == "fifo":
            os.mkfifo(path)
        elif kind == "no number":
            path.write_bytes(bytes_of(content(draw.choice(NO_NUMBERS), at[0])))
        elif kind == "weights":
            path.write_bytes(bytes_of({"model": {"w": torch.ones(2)}}))
        elif kind == "flipped":  # in the name of a key, whose check sum is then another
            place = whole.index(b"canary") + 2
            path.write_bytes(whole[:place] + b"!" + whole[place + 1 :])
        if kind in ("good", "link", "old format"):
            good[path] = at
        if path.is_file():
            os.utime(path, (draw.randrange(10**9), draw.randrange(10**9)))
    return good, count > 0


def _point(
    folder: Path, draw: random.Random, good: dict, name: str, root: Path, seen: Counter
) -> bool:
    """Write ``last_checkpoint``; return whether it is a reason to refuse."""
    pointer = folder / "last_checkpoint"
    kind = draw.choice(("none", "one", "one elsewhere", "folder", "odd", "outside"))
    seen[f"pointer: {kind}"] += 1
    if kind == "folder":
        pointer.mkdir()
    elif kind in ("one", "one elsewhere") and good:
        one = draw.choice(sorted(good))
        pointer.write_text(one.name if kind == "one" else f"/another/place/{one.name}")
    elif kind == "outside":
        pointer.write_text(str(root / "outside.pth"))
        return True
    elif kind == "odd":
        odd = draw.choice(POINTERS)
        pointer.write_bytes(odd if isinstance(odd, bytes) else odd.encode())
        return odd not in ("", " \n")
    return False

"""The newest whole checkpoint. Oracle: the iteration written into each file, and the sentences."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ws_det.checkpoint import load_checkpoint, save_checkpoint
from ws_det.errors import InputError
from ws_det.recovery import newest_whole, remove_parts


def write(folder: Path, *iterations: int, named: str | None = None, run: int = 0) -> None:
    """Checkpoints one second apart, then ``last_checkpoint``."""
    start = time = 1_000_000_000
    for time, iteration in enumerate(iterations, start):
        save_checkpoint({"iter": iteration, "run": run}, folder / f"iter_{iteration}.pth")
        os.utime(folder / f"iter_{iteration}.pth", (time, time))
    if named is not None:
        (folder / "last_checkpoint").write_text(named)
        os.utime(folder / "last_checkpoint", (time, time))


def find(folder: Path) -> int | None:
    found = newest_whole(
        folder / "last_checkpoint",
        folder.glob("iter_*.pth"),
        load_checkpoint,
        lambda checkpoint: checkpoint["iter"],
        run=lambda checkpoint: checkpoint.get("run"),
    )
    return found and found.content["iter"]


def test_the_named_one_without_a_word(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, 1, 2, named=f"somewhere/else/{tmp_path.name}/iter_2.pth")
    assert find(tmp_path) == 2
    assert capsys.readouterr().err == ""


def test_an_empty_folder(tmp_path: Path) -> None:
    assert find(tmp_path) is None and find(tmp_path / "missing") is None


@pytest.mark.parametrize("damage", ["truncated", "empty", "missing", "flipped"])
def test_the_newest_before_a_broken_one(
    damage: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path, 1, 2, 3, named="iter_3.pth")
    last = tmp_path / "iter_3.pth"
    whole = last.read_bytes()
    middle = whole.index(b"iter") + 4
    broken = {
        "truncated": whole[:-9],
        "empty": b"",
        "flipped": whole[:middle] + b"\xff" + whole[middle + 1 :],
    }
    last.unlink() if damage == "missing" else last.write_bytes(broken[damage])
    assert find(tmp_path) == 2
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1 and "iter_3.pth" in said[0] and "goes on from" in said[0]
    assert "iter_2.pth" in said[0]


def test_killed_before_it_was_named(tmp_path: Path) -> None:
    """The third was written and not named, or ``last_checkpoint`` was cut to nothing."""
    write(tmp_path, 1, 2, named="iter_2.pth")
    save_checkpoint({"iter": 3}, tmp_path / "iter_3.pth")
    assert find(tmp_path) == 3
    (tmp_path / "last_checkpoint").write_text("")
    assert find(tmp_path) == 3
    (tmp_path / "last_checkpoint").unlink()
    assert find(tmp_path) == 3


def test_a_copy_in_another_order_and_an_older_run(tmp_path: Path) -> None:
    """A copied folder has new times; a file of a longer run before has a smaller number."""
    write(tmp_path, 9)
    write(tmp_path, 1, 2, named="iter_2.pth", run=1)
    assert find(tmp_path) == 2
    os.utime(tmp_path / "iter_1.pth")
    assert find(tmp_path) == 2


def test_none_whole(tmp_path: Path) -> None:
    write(tmp_path, 1, 2, named="iter_2.pth")
    for path in tmp_path.glob("*.pth"):
        path.write_bytes(b"")
    with pytest.raises(InputError, match=r"no checkpoint beside .* is whole .* to start anew"):
        find(tmp_path)


def test_parts_are_removed_and_nothing_else(tmp_path: Path) -> None:
    for name in (".iter_3.pth.77.part", "iter_2.pth", "notes.part", ".hidden"):
        (tmp_path / name).touch()
    remove_parts(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"iter_2.pth", "notes.part", ".hidden"}

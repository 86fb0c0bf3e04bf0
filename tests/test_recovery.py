"""The newest whole checkpoint. Oracle: the iteration written into each file, and the sentences."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from tests import work_dirs
from ws_det.checkpoint import load_checkpoint, save_checkpoint
from ws_det.errors import InputError
from ws_det.recovery import newest_whole, next_run, remove_parts


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


def content(iteration: Any, run: Any) -> dict[str, Any]:
    return {"iter": iteration, "run": run, "canary": torch.ones(3)}


PEEK = partial(load_checkpoint, mapped=True)


def find_any(folder: Path) -> tuple[int, Path] | None:
    found = newest_whole(
        folder / "last_checkpoint",
        folder.glob("iter_*.pth"),
        load_checkpoint,
        lambda checkpoint: checkpoint.get("iter"),
        PEEK,
        lambda checkpoint: checkpoint.get("run"),
    )
    return found and (found.content["iter"], found.path)


def test_random_folders(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    work_dirs.check(250, 0, tmp_path, "iter_{}.pth", content, find_any)
    said = capfd.readouterr()
    print(said.out)
    lines = said.err.splitlines()
    assert lines and all(line.startswith("warning: ") for line in lines)
    assert len(lines) <= 250 and all("goes on from" in line for line in lines)


@pytest.mark.sweep
def test_many_random_folders(tmp_path: Path) -> None:
    work_dirs.check(5000, 1000, tmp_path, "iter_{}.pth", content, find_any)


def test_copied_in_the_order_of_names_and_a_pointer_copied_last(tmp_path: Path) -> None:
    """900 was taken over 1200, and 300 over 600, for their times."""
    write(tmp_path / "copied", 1200, 900)
    assert find(tmp_path / "copied") == 1200
    write(tmp_path / "named", 600, 300, named="iter_300.pth")
    assert find(tmp_path / "named") == 600


def test_a_file_that_vanishes_while_one_looks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before it is looked at, and after: another process has removed it."""
    write(tmp_path, 1, 2, 3, 4)

    def looked(path: str) -> dict[str, Any]:
        (tmp_path / "iter_3.pth").unlink(missing_ok=True)
        seen = PEEK(path)
        if path.endswith("iter_4.pth"):
            os.unlink(path)
        return seen

    found = newest_whole(
        tmp_path / "last_checkpoint",
        [tmp_path / f"iter_{iteration}.pth" for iteration in (1, 2, 3, 4)],
        load_checkpoint,
        lambda checkpoint: checkpoint["iter"],
        looked,
    )
    assert found and found.content["iter"] == 2
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1 and "and 1 more cannot be resumed: the run goes on from" in said[0]


def test_only_one_is_read_in_full(tmp_path: Path) -> None:
    """Ten checkpoints of gigabytes cost one of them. Oracle: what is asked for, and the memory."""
    for iteration in range(10):
        save_checkpoint({"iter": iteration, "w": torch.zeros(10**6)}, tmp_path / f"{iteration}.pth")
    read: list[str] = []
    assert PEEK(tmp_path / "3.pth")["iter"] == 3
    found = newest_whole(
        tmp_path / "last_checkpoint",
        tmp_path.glob("*.pth"),
        lambda path: read.append(path) or load_checkpoint(path),
        lambda checkpoint: checkpoint["iter"],
        PEEK,
    )
    assert found and read == [str(tmp_path / "9.pth")]


def test_the_number_of_a_run(tmp_path: Path) -> None:
    """One more than the highest there, whatever cannot be read."""
    number = partial(next_run, peek=PEEK, run=lambda checkpoint: checkpoint.get("run"))
    assert number([]) == 0 and number([tmp_path / "gone"]) == 0
    write(tmp_path, 5, run=3)
    write(tmp_path, 7, run=2)
    (tmp_path / "iter_9.pth").touch()
    assert number(tmp_path.glob("*.pth")) == 4
    torch.save({"run": "many"}, tmp_path / "odd.pth")
    assert number([tmp_path / "odd.pth"]) == 1

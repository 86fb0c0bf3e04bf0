"""The watcher itself: what it must see, and what is no fault. Oracle: each line names the act."""

from __future__ import annotations

import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.watched import snapshot, watched

FAULTS: dict[str, Callable[[Path, Path], object]] = {
    "open w": lambda inside, outside: (outside / "new").write_text(""),
    "open r": lambda inside, outside: (outside / "canary").read_text(),
    "open ": lambda inside, outside: os.close(os.open(outside / "canary", os.O_RDWR)),
    "os.remove": lambda inside, outside: (outside / "canary").unlink(),
    "os.rename": lambda inside, outside: (outside / "canary").rename(inside / "taken"),
    "os.mkdir": lambda inside, outside: (outside / "folder").mkdir(),
    "os.chmod": lambda inside, outside: (outside / "canary").chmod(0o600),
    "os.utime": lambda inside, outside: (outside / "canary").touch(),
    "os.listdir": lambda inside, outside: os.listdir(outside),
    "shutil.rmtree": lambda inside, outside: shutil.rmtree(outside),
    "open a": lambda inside, outside: (inside / "link").open("a"),  # through a planted link
    "compile": lambda inside, outside: eval("1 + 1"),
    "exec": lambda inside, outside: exec(CODE),
    "pickle.find_class": lambda inside, outside: pickle.loads(pickle.dumps(Path)),
    "subprocess.Popen": lambda inside, outside: subprocess.run(["true"]),
    "os.system": lambda inside, outside: os.system("true"),
    "import": lambda inside, outside: __import__("this_is_no_module"),
}
CODE = compile("1 + 1", "<string>", "exec")


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    inside.mkdir()
    outside.mkdir()
    (outside / "canary").write_text("alive")
    (inside / "link").symlink_to(outside / "canary")
    return inside, outside


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_recorded(folders: tuple[Path, Path], fault: str) -> None:
    with watched(folders[0]) as seen:
        try:
            FAULTS[fault](*folders)
        except ModuleNotFoundError:
            assert fault == "import"
    assert any(line.startswith(fault) for line in seen), seen


def test_work_inside_is_none(folders: tuple[Path, Path]) -> None:
    inside, outside = folders
    with watched(inside, read=(outside,)) as seen:
        (inside / "a").write_text((outside / "canary").read_text())
        (inside / "a").rename(inside / "b")
        (inside / "sub").mkdir()
        (inside / "sub/c").write_text("")
        shutil.rmtree(inside / "sub")
        (inside / "b").unlink()
        (inside / "link").unlink()  # the link, not what it leads to
        Path(sys.modules["pickle"].__file__).read_bytes()
        Path("/proc/self/status").read_text()
    assert seen == []
    (outside / "canary").unlink()  # no longer watched
    assert seen == []


def test_a_snapshot_shows_a_change_without_events(folders: tuple[Path, Path]) -> None:
    before = snapshot(folders[1])
    assert snapshot(folders[1]) == before
    with (folders[1] / "canary").open("r+") as file:
        file.write("A")
    assert snapshot(folders[1]) != before

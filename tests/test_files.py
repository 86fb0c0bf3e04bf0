"""Every writer of files against everything that may be in its way. Oracle: tests/planted.py."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import BinaryIO

import pytest

pytest.importorskip("matplotlib", reason="half of the writers draw")
pytest.importorskip("pycocotools", reason="the pictures need it")

import numpy as np
import torch
from matplotlib.figure import Figure

from tests.conftest import REPO
from tests.planted import CASES, Write, survives
from tests.test_bench_tables import COMPARISON, TIMINGS
from tests.test_channel_report import statistics
from ws_det import files
from ws_det.bench.chart import draw_bars
from ws_det.channel_plot import draw_channels
from ws_det.channel_report import summarize
from ws_det.checkpoint import save_checkpoint
from ws_det.curves import draw_curves
from ws_det.errors import InputError
from ws_det.evaluation import evaluate
from ws_det.evaluation.report import Run, write_report
from ws_det.files import new_folder, remove_parts, replacing, write_text
from ws_det.pictures import Pair, draw_grid
from ws_det.report import write_json
from ws_det.study.plots import draw_lines, draw_points


def report(path: Path) -> None:
    """The page of one object that was found."""
    box = {"image_id": 1, "category_id": 1, "bbox": [1.0, 2.0, 3.0, 4.0]}
    truth = {
        "images": [{"id": 1, "file_name": "1.jpg", "height": 9, "width": 9}],
        "categories": [{"id": 1, "name": "thing"}],
        "annotations": [{**box, "id": 1, "area": 12.0, "iscrowd": 0}],
    }
    found = {"bbox": [{**box, "score": 0.9}]}
    results = evaluate(truth, found, ["bbox"], "pycocotools")
    write_report(path, truth, [Run.of("run", results, found)], "truth.json")


LINE = [1.0, 2.0], [1.0, 2.0], [1.0, 2.0], [1.0, 2.0]
IMAGE = np.zeros((8, 8, 3), np.uint8)
WRITERS: dict[str, Write] = {
    "write_json": lambda path: write_json(path, {"a": [1, 2]}),
    "write_text": lambda path: write_text(path, "text \udcff"),
    "write_report": report,
    "save_checkpoint": lambda path: save_checkpoint({"a": 1}, path),
    "draw_channels": lambda path: draw_channels(summarize(statistics()), path),
    "draw_curves": lambda path: draw_curves({"loss": np.ones(5)}, [], 5, path),
    "draw_grid": lambda path: draw_grid([Pair("x", IMAGE, [], [])], ["a"], path),
    "draw_points": lambda path: draw_points({"y": {"a": {"b": [1.0, 2.0]}}}, path),
    "draw_lines": lambda path: draw_lines({"y": {"a": LINE}}, path, "note"),
    "draw_bars": lambda path: draw_bars([(COMPARISON, TIMINGS)], path),
}


@pytest.mark.parametrize("writer", WRITERS)
def test_every_writer(writer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pixels are not drawn: that a writer hands matplotlib an open file is all that matters."""

    def save(figure: Figure, file: BinaryIO, **options: object) -> None:
        file.write(b"pixels")

    monkeypatch.setattr(Figure, "savefig", save)
    for case in CASES:
        (tmp_path / case).mkdir()
        survives(WRITERS[writer], case, tmp_path / case, "out.file")
    print(f"{writer}: {len(CASES)} cases")


def test_export_is_such_a_writer(tmp_path: Path) -> None:
    """It gives the part's name to torch's exporter, to onnx and to onnxruntime."""
    for package in ("onnx", "onnxruntime", "onnxscript"):
        pytest.importorskip(package)
    from tests.test_export import Levels
    from ws_det.export import export_onnx

    model = Levels(torch.nn.Conv2d(3, 2, 1)).eval()

    def write(path: Path) -> None:
        axes = {"image": {0: "batch"}, "out": {0: "batch"}}
        export_onnx(model, [torch.ones(1, 3, 4, 4)], path, axes, say=lambda line: None)

    for case in CASES:
        (tmp_path / case).mkdir()
        survives(write, case, tmp_path / case, "out.onnx")


def test_a_guessed_name_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Were the name known, a link with it would still not be followed, nor removed."""
    (tmp_path / "canary").write_text("alive")
    monkeypatch.setattr(files.secrets, "token_hex", lambda count: "ab" * count)
    planted = tmp_path / f".x.json.{'ab' * 8}.part"
    planted.symlink_to(tmp_path / "canary")
    with pytest.raises(InputError, match=r"cannot be written \(File exists"):
        write_json(tmp_path / "x.json", 1)
    assert planted.is_symlink() and (tmp_path / "canary").read_text() == "alive"


def test_names_are_not_foreseen(tmp_path: Path) -> None:
    names = set()
    for _ in range(20):
        with replacing(tmp_path / "x") as file:
            names.add(file.name)
            assert os.fstat(file.fileno()).st_nlink == 1
    assert len(names) == 20
    assert all(re.fullmatch(r"\.x\.[0-9a-f]{16}\.part", Path(name).name) for name in names)


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, ValueError, RuntimeError])
def test_whatever_happens_nothing_is_left(error: type[BaseException], tmp_path: Path) -> None:
    (tmp_path / "x").write_text("old")
    with pytest.raises(error), replacing(tmp_path / "x") as file:
        file.write(b"half")
        raise error
    assert (tmp_path / "x").read_text() == "old" and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("name", ["n" * 255, "ü" * 127, "a\nb", "\udcff", "*[x]?", ".part"])
def test_odd_names(name: str, tmp_path: Path) -> None:
    """As long as a file system takes them; what was left under the same name is removed."""
    with replacing(tmp_path / name) as file:
        part = Path(file.name)
    part.write_text("half")
    write_json(tmp_path / name, 1)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_part_in_use_is_left_alone(tmp_path: Path) -> None:
    """Two processes write one file: the last to end has it, and neither fails."""
    code = "import sys, time; from ws_det.files import replacing\nwith replacing(sys.argv[1]) as f:"
    code += "\n f.write(b'theirs'); f.flush(); print(f.name, flush=True); sys.stdin.read()"
    other = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "x")],
        cwd=REPO,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert other.stdout and other.stdin
    part = Path(other.stdout.readline().strip())
    write_json(tmp_path / "x", 1)
    remove_parts(tmp_path)
    assert part.is_file() and json.loads((tmp_path / "x").read_text()) == 1
    other.communicate("")
    assert other.returncode == 0 and (tmp_path / "x").read_text() == "theirs"
    assert list(tmp_path.iterdir()) == [tmp_path / "x"]


def test_killed_in_the_midst(tmp_path: Path) -> None:
    code = "import sys, time; from ws_det.files import replacing\nwith replacing(sys.argv[1]) as f:"
    code += "\n f.write(b'theirs'); f.flush(); print(f.name, flush=True); time.sleep(60)"
    command = [sys.executable, "-c", code, str(tmp_path / "x")]
    for clear in (lambda: remove_parts(tmp_path), lambda: write_json(tmp_path / "x", 1)):
        other = subprocess.Popen(command, cwd=REPO, stdout=subprocess.PIPE, text=True)
        assert other.stdout
        part = Path(other.stdout.readline().strip())
        other.send_signal(signal.SIGKILL)
        other.wait()
        assert part.is_file()
        clear()
        assert not part.exists()


def test_only_parts_are_removed(tmp_path: Path) -> None:
    kept = [".part", "x.12.part", ".x.12.part.txt", ".x.1g.part", ".x.part", ".x.12.parts"]
    for name in (*kept, ".x.12.part", ".x.0123456789abcdef.part", ".a.b.ff.part"):
        (tmp_path / name).touch()
    (tmp_path / ".link.12.part").symlink_to(tmp_path / ".part")
    (tmp_path / ".folder.12.part").mkdir()
    os.mkfifo(tmp_path / ".fifo.12.part")
    remove_parts(tmp_path)
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {*kept, ".link.12.part", ".folder.12.part", ".fifo.12.part"}
    remove_parts(tmp_path / "missing")
    remove_parts(tmp_path / ".part")


def test_a_folder_is_made_beside(tmp_path: Path) -> None:
    """What is planted stays, what was left goes, and half a folder is never seen."""
    (tmp_path / "canary").mkdir()
    (tmp_path / ".set.partial").symlink_to(tmp_path / "canary")
    (tmp_path / f".set.{'0' * 16}.partial").mkdir()
    (tmp_path / ".set.mine.partial").mkdir()
    with new_folder(tmp_path / "set") as part:
        (part / "x").touch()
        assert not (tmp_path / "set").exists() and not list((tmp_path / "canary").iterdir())
    with pytest.raises(KeyError), new_folder(tmp_path / "other") as part:
        raise KeyError
    assert {path.name for path in tmp_path.iterdir()} == {
        "canary", ".set.partial", ".set.mine.partial", "set",
    }  # fmt: skip
    assert (tmp_path / "set/x").is_file() and time.time() - (tmp_path / "set").stat().st_mtime < 60


def test_the_loop_of_links_stays(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    with pytest.raises(InputError, match="cannot be written"):
        write_json(tmp_path / "a", 1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]

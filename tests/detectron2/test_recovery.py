"""What Detectron2's tool resumes from, and that one run writes an output folder.

Oracles: tests/work_dirs.py, tests/planted.py, and another process.
"""

from __future__ import annotations

import torch
from torch import nn

from tests import rivals, work_dirs
from tests.planted import CASES, survives
from tools import train_detectron2
from ws_det.detectron2.weights import SafeCheckpointer, next_run_in, resume_point


def content(iteration, run):
    """As our trainer saves it."""
    progress = {"batch": (1, 1, 1), "images": 1, "run": run}
    model = {"model": {"w": torch.ones(2)}, "canary": 1}
    return {**model, "iteration": iteration, "progress": progress}


def find_in(folder):
    point = resume_point(str(folder))
    if point is None:
        return None
    path = folder / point.rpartition("/")[2]
    assert (folder / "last_checkpoint").read_text() == path.name
    checkpointer = SafeCheckpointer(nn.Linear(1, 1), str(folder))
    assert checkpointer.has_checkpoint() and checkpointer.get_checkpoint_file() == point
    return torch.load(path, weights_only=True)["iteration"], path


def without_pointer_folders(folder):
    """A folder in the place of the pointer cannot be replaced: one sentence."""
    if (folder / "last_checkpoint").is_dir():
        (folder / "last_checkpoint").rmdir()
    return find_in(folder)


def test_random_folders(tmp_path):
    work_dirs.check(80, 700, tmp_path, "model_{}.pth", content, without_pointer_folders)


def test_a_pointer_is_never_followed_out_of_the_folder(tmp_path):
    """Detectron2 itself would join its path. Oracle: no path, or one beside it."""
    (tmp_path / "out").mkdir()
    torch.save(content(5, 0), tmp_path / "outside.pth")
    checkpointer = SafeCheckpointer(nn.Linear(1, 1), str(tmp_path / "out"))
    pointer = tmp_path / "out/last_checkpoint"
    for text in (str(tmp_path / "outside.pth"), "../outside.pth"):
        pointer.write_text(text)
        assert checkpointer.get_checkpoint_file() == str(tmp_path / "out/outside.pth")
    pointer.write_text("")
    assert not checkpointer.has_checkpoint() and resume_point(str(tmp_path / "out")) is None


def test_runs_are_numbered(tmp_path):
    """One that begins anew is told from the one before. Oracle: the numbers in the files."""
    assert next_run_in(str(tmp_path)) == 0
    torch.save(content(9, 0), tmp_path / "model_0000009.pth")
    torch.save(content(4, 2), tmp_path / "model_0000004.pth")
    assert next_run_in(str(tmp_path)) == 3
    assert resume_point(str(tmp_path)) == str(tmp_path / "model_0000004.pth")


def test_one_run_a_folder(bcn_config, coco_set, tmp_path, refusal, monkeypatch):
    flags = ["--config-file", str(bcn_config), "--data-root", str(coco_set), "--dist-url", "auto"]
    flags += ["train.max_iter=3", f"train.output_dir={tmp_path / 'out'}"]
    rivals.check(train_detectron2, flags, tmp_path / "out", refusal, monkeypatch)


def test_outputs_in_the_way_are_refused_at_once(bcn_config, tmp_path, refusal):
    (tmp_path / "file").write_text("old")
    below, flags = f"{tmp_path}/file/x", ["--config-file", bcn_config]
    said = refusal(train_detectron2, *flags, "--show-dir", below)
    assert f"{below} cannot be written" in said and "give another --show-dir" in said
    said = refusal(train_detectron2, *flags, f"train.output_dir={below}")
    assert f"{below} cannot be written" in said and "give another train.output_dir" in said
    assert (tmp_path / "file").read_text() == "old"


def test_checkpoint_and_pointer_are_written_completely(tmp_path):
    def tag(path):
        checkpointer = SafeCheckpointer(nn.Linear(1, 1), str(path.parent))
        checkpointer.tag_last_checkpoint("model_0000001.pth")

    for case in CASES:
        (tmp_path / case).mkdir()
        survives(tag, case, tmp_path / case, "last_checkpoint")
    checkpointer = SafeCheckpointer(nn.Linear(1, 1), str(tmp_path))
    (tmp_path / ".model_1.pth.part").symlink_to(tmp_path / "canary")
    (tmp_path / "real.pth").touch()
    (tmp_path / "model_1.pth").symlink_to(tmp_path / "real.pth")
    checkpointer.save("model_1")
    assert (tmp_path / "model_1.pth").is_symlink() and not (tmp_path / "canary").exists()
    assert "model" in torch.load(tmp_path / "real.pth", weights_only=True)

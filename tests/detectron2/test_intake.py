"""What a Detectron2 run takes from a checkpoint, through the tool. Oracle: a file that code makes.

``test_resume_fuzz`` tries thousands; here are the known ones in one.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.detectron2.conftest import DEMO
from tools import train_detectron2
from ws_det.checkpoint import load_checkpoint
from ws_det.errors import InputError


@pytest.fixture(scope="module")
def train(coco_set: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Train the demo's detector to an iteration, and return its folder."""
    folder = tmp_path_factory.mktemp("run") / "out"

    def start(last: int, *flags: str) -> Path:
        options = [f"train.output_dir={folder}", f"train.max_iter={last}", "train.eval_period=0"]
        options += ["train.checkpointer.period=1", "train.checkpointer.max_to_keep=1"]
        options += ["dataloader.train.num_workers=0"]
        sets = ["--data-root", str(coco_set)]
        train_detectron2.main(["--config-file", DEMO, *sets, *flags, *options])
        return folder

    return start


def test_no_code_runs_and_no_method_is_replaced(
    train: Callable[..., Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """A colleague's file says programs and paths where torch and Detectron2 take anything."""
    folder = train(2)
    path = folder / "model_0000001.pth"
    canary, best = tmp_path / "ran", tmp_path / "best.pth"
    best.write_text("of a colleague")
    code = f"import os\nos.mkdir({str(canary)!r})"
    content: dict[str, Any] = load_checkpoint(path)
    content |= {"meta": {"config": code}, "config": code, "save_dir": str(tmp_path)}
    content["trainer"]["hooks"]["LRScheduler"] = {"get_lr": code, "optimizer": code, "step": code}
    content["trainer"]["hooks"]["PeriodicCheckpointer"] = {"recent_checkpoints": [str(best)]}
    content["trainer"]["optimizer"]["param_groups"][0]["maximize"] = True
    torch.save(content, path)
    (folder / "last_checkpoint").write_text(str(best.with_name(path.name)))
    (folder / "model_final.pth").unlink()
    capfd.readouterr()
    train(3, "--resume")
    assert not canary.exists() and best.read_text() == "of a colleague"
    last = load_checkpoint(folder / "model_final.pth")
    assert last["iteration"] == 2
    assert not last["trainer"]["optimizer"]["param_groups"][0]["maximize"]
    said = capfd.readouterr()
    line = next(line for line in said.err.splitlines() if "are left out" in line)
    assert "meta" in line and str(path) in line

    for file in folder.glob("model_*.pth"):
        torch.save({"model": content["model"], "iteration": 1}, file)
    # Detectron2 would begin at iteration 1, with an optimizer that knows nothing.
    with pytest.raises(InputError, match=r"has weights alone.*without --resume"):
        train(4, "--resume")

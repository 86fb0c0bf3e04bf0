"""Two processes train or evaluate and end, hundreds of times. Oracle: exit codes and threads.

A thread of gloo that is left when Python ends can abort a run that has done all its work.
``WS_DET_ENDS`` is the number of runs of the sweep, ``WS_DET_SEED`` draws what they are.
"""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest
from mmengine.config import Config

from tests.conftest import SLOW, write_set
from tests.ends import check_ends
from tests.mmdet.conftest import CONFIG

MODULES = [
    *("ws_det.mmdet.runner", "mmdet.models", "mmdet.datasets", "mmdet.engine.hooks"),
    *("mmdet.engine.runner", "mmdet.engine.optimizers", "mmdet.visualization"),
    *("hotcoco", "faster_coco_eval", "tests.mmdet.unformatted", *SLOW),
]
BACKENDS = ("hotcoco", "faster-coco-eval", "pycocotools")


def runs(tmp_path: Path, number: int, seed: int) -> dict:
    """The first trains; the others train, or evaluate the first one's checkpoint."""
    root = write_set(tmp_path / "set", train=4, val=2)
    config = tmp_path / "tiny.py"
    config.write_text(CONFIG)
    settings = Config.fromfile(config)
    for loader in ("train", "val", "test"):
        settings[f"{loader}_dataloader"].dataset.serialize_data = False  # a slow collection
    config.write_text("\n".join(f"{key} = {value!r}" for key, value in settings.to_dict().items()))
    draw, starts = random.Random(seed), []
    for index in range(number):
        training = index == 0 or draw.random() < 0.6
        place = tmp_path / (f"work{index % 2}" if training else "test")
        flags = ["--data-root", root, "--launcher", "pytorch", "--work-dir", place]
        options = [f"{part}_evaluator.backend={draw.choice(BACKENDS)}" for part in ("val", "test")]
        workers = draw.choice((0, 0, 0, 1))
        options += [f"{part}_dataloader.num_workers={workers}" for part in ("train", "val", "test")]
        inputs = [config] if training else [config, tmp_path / "work0/epoch_1.pth"]
        tool = "train" if training else "test"
        arguments = [*inputs, *flags, "--cfg-options", *options]
        starts.append([f"tools.{tool}:main", list(map(str, arguments))])
    return {"modules": MODULES, "starts": starts, "log": str(tmp_path / "log")}


def test_ends(tmp_path: Path) -> None:
    check_ends(runs(tmp_path, 4, seed=0))


@pytest.mark.sweep
def test_many_ends(tmp_path: Path) -> None:
    seed = int(os.environ.get("WS_DET_SEED", 0))
    job = runs(tmp_path, int(os.environ.get("WS_DET_ENDS", 250)), seed)
    trainings = sum(function.startswith("tools.train") for function, _ in job["starts"])
    print(f"seed {seed}: {trainings} trainings, {len(job['starts']) - trainings} evaluations")
    check_ends(job)

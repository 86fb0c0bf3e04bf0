"""Two processes train or evaluate and end, hundreds of times, see tests/mmdet/test_ends.py."""

from __future__ import annotations

import os
import random

import pytest

from tests.conftest import SLOW, write_set
from tests.detectron2.conftest import DEMO
from tests.ends import check_ends


def runs(tmp_path, number, seed):
    """The first trains; the others train, or evaluate the first one's weights."""
    root = write_set(tmp_path / "set", train=4, val=2)
    draw, starts = random.Random(seed), []
    for index in range(number):
        training = index == 0 or draw.random() < 0.6
        place = tmp_path / (f"out{index % 2}" if training else "test")
        flags = ["--config-file", DEMO, "--data-root", root, "--num-gpus", 2]
        flags += [] if training else ["--eval-only"]
        workers = draw.choice((0, 0, 0, 1))
        options = [f"dataloader.{part}.num_workers={workers}" for part in ("train", "test")]
        options += ["train.max_iter=2", "train.eval_period=2", "train.log_period=1"]
        options += [f"train.output_dir={place}"]
        options += [] if training else [f"train.init_checkpoint={tmp_path}/out0/model_final.pth"]
        starts.append(["tests.detectron2.rank:main", list(map(str, flags + options))])
    modules = ["tests.detectron2.rank", "hotcoco", *SLOW]
    return {"modules": modules, "starts": starts, "log": str(tmp_path / "log")}


def test_ends(tmp_path):
    check_ends(runs(tmp_path, 4, seed=0))


@pytest.mark.sweep
def test_many_ends(tmp_path):
    seed = int(os.environ.get("WS_DET_SEED", 0))
    job = runs(tmp_path, int(os.environ.get("WS_DET_ENDS", 250)), seed)
    evaluations = sum("--eval-only" in arguments for _, arguments in job["starts"])
    print(f"seed {seed}: {len(job['starts']) - evaluations} trainings, {evaluations} evaluations")
    check_ends(job)

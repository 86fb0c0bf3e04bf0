"""kill -9 at random moments of a Detectron2 run, and of one rank.

Oracle: the run that was never killed, to the bit.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import torch

from tests.conftest import KILLS, REPO, SLOW, kill, run
from tests.detectron2.test_train import assert_same


def test_no_kill_loses_more_than_an_interval(bcn_config, coco_set, tmp_path):
    """A checkpoint each step, and the newest two are kept."""
    steps = 6 + 3 * KILLS
    options = [
        *("--config-file", bcn_config, "--data-root", coco_set),
        *(f"train.max_iter={steps}", "train.eval_period=0", "train.log_period=1"),
        *("train.checkpointer.period=1", "train.checkpointer.max_to_keep=2", "train.seed=7"),
        "train.accumulation_steps=2",
    ]
    options = list(map(str, options))
    done = run("train_detectron2", *options, f"train.output_dir={tmp_path / 'whole'}")
    assert done.returncode == 0, done.stdout[-3000:]
    end = kill(
        {
            "work_dir": str(tmp_path / "killed"),
            "modules": ["ws_det.detectron2.train", *SLOW],
            "tool": "train_detectron2",
            "arguments": [*options, f"train.output_dir={tmp_path / 'killed'}", "--resume"],
            "processes": 1,
            "saved": r"model_(\d+)\.pth",
            "resumed": r"Loading trainer from \S*model_(\d+)\.pth",
        }
    )
    assert end["codes"] == [0]
    first, second = (
        torch.load(tmp_path / name / "model_final.pth", weights_only=True)
        for name in ("whole", "killed")
    )
    assert_same(first, second)
    assert not list((tmp_path / "killed").glob(".*.part"))


def test_a_dead_rank_ends_the_others(bcn_config, coco_set, tmp_path):
    """One of two processes is killed. Oracle: the clock, the sentence and the process table."""
    command = [sys.executable, str(REPO / "tools/train_detectron2.py"), "--dist-url", "auto"]
    command += ["--config-file", str(bcn_config), "--data-root", str(coco_set), "--num-gpus", "2"]
    log = tmp_path / "log"
    with log.open("w") as output:
        parent = subprocess.Popen(
            [*command, "train.checkpointer.period=1", f"train.output_dir={tmp_path / 'out'}"],
            env=os.environ | {"PYTHONPATH": str(REPO), "OMP_NUM_THREADS": "1"},
            stdout=output,
            stderr=output,
        )
        end = time.time() + 120
        while not (tmp_path / "out/last_checkpoint").is_file():
            assert time.time() < end and parent.poll() is None, log.read_text()[-3000:]
            time.sleep(0.05)
        children = Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text().split()
        ranks = [pid for pid in children if "spawn_main" in cmdline(pid)]
        assert len(ranks) == 2
        os.kill(int(ranks[1]), signal.SIGKILL)
        assert parent.wait(timeout=60) == 2
    assert not any(map(cmdline, ranks))
    assert log.read_text().splitlines()[-1].startswith("error: process ")
    assert "--resume" in log.read_text().splitlines()[-1]


def cmdline(pid):
    path = Path(f"/proc/{pid}/cmdline")
    return path.read_text() if path.is_file() else ""

"""Resumed runs on two gloo processes. Oracle: the run that never stopped, to the bit."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conftest import REPO, write_set
from tests.mmdet.conftest import CONFIG
from ws_det.mmdet.weights import load_safely

# EstBN in every norm, two passes a step, and an odd number of iterations an epoch: a step has a
# pass of one epoch and one of the next. Flips, anchors and RoIs are drawn at random.
BCN = """
for part in (model['backbone'], model['neck'], model['roi_head']['mask_head']):
    part['norm_cfg'] = dict(type='BCN', num_groups=8, estimate=True)
optim_wrapper = dict(
    accumulative_counts=2, optimizer=dict(lr=0.005), clip_grad=dict(max_norm=10, norm_type=2))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=4),
    dict(type='MultiStepLR', by_epoch=True, milestones=[1], gamma=0.5)]
default_hooks = dict(
    logger=dict(interval=1),
    checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=1, max_keep_ckpts=20))
val_evaluator = val_dataloader = val_cfg = None
train_dataloader['batch_sampler'] = None
"""
EPOCHS = "train_cfg = dict(max_epochs=2)\n"
ITERATIONS = """
train_cfg = dict(
    _delete_=True, type='IterBasedTrainLoop', max_iters=6, val_interval=100)
train_dataloader['sampler'] = dict(type='InfiniteSampler', shuffle=True)
"""


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("config") / "epochs.py"
    path.write_text(CONFIG + BCN + EPOCHS)
    path.with_name("iterations.py").write_text(CONFIG + BCN + EPOCHS + ITERATIONS)
    return path


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def several(runs: list[list[Any]], processes: int = 2, timeout: int = 240) -> str:
    """The output of trainings, one after the other."""
    command = [sys.executable, "-m", "torch.distributed.run", f"--nproc_per_node={processes}"]
    command += ["--standalone", "-m", "tests.mmdet.several"]
    jobs = [[free_port(), [str(part) for part in run]] for run in runs]
    done = subprocess.run(
        [*command, json.dumps(jobs)],
        env=os.environ | {"PYTHONPATH": str(REPO), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=timeout,
    )
    assert done.returncode == 0, done.stdout[-3000:]
    return done.stdout


def state(path: Path) -> dict[str, Any]:
    """What a run is: without its log, whose times differ."""
    checkpoint = load_safely(str(path))
    return {key: checkpoint[key] for key in ("state_dict", "optimizer", "param_schedulers")}


def assert_same(first: Any, second: Any, path: str = "") -> None:
    assert type(first) is type(second), path
    if isinstance(first, dict):
        assert first.keys() == second.keys(), path
        for key in first:
            assert_same(first[key], second[key], f"{path}.{key}")
    elif isinstance(first, (list, tuple)):
        for index, (one, other) in enumerate(zip(first, second, strict=True)):
            assert_same(one, other, f"{path}.{index}")
    elif isinstance(first, torch.Tensor):
        assert torch.equal(first, second), path
    else:
        assert first == second, path


def test_resume_equals_a_run_that_never_stopped(config: Path, tmp_path: Path) -> None:
    """Stopped in a step: at the end of an epoch, and in the middle of one."""
    root = write_set(tmp_path / "set", train=6)
    plan = {"epochs": (3, 5), "iterations": (3,)}
    runs: list[list[Any]] = []
    for name, stops in plan.items():
        flags = [config.with_name(f"{name}.py"), "--data-root", root, "--work-dir"]
        runs.append([*flags, tmp_path / name])
        runs += [
            [*flags, tmp_path / f"{name}{stop}", "--resume", tmp_path / f"{name}/iter_{stop}.pth"]
            for stop in stops
        ]
    output = several(runs)
    assert "that of 1 pass is in the checkpoint" in output
    for name, stops in plan.items():
        whole = state(tmp_path / name / "iter_6.pth")
        assert any("running_var" in key for key in whole["state_dict"])
        for stop in stops:
            assert not (tmp_path / f"{name}{stop}" / f"iter_{stop}.pth").exists()
            assert_same(whole, state(tmp_path / f"{name}{stop}" / "iter_6.pth"), f"{name}{stop}")

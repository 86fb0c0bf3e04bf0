"""Resumed runs on two gloo processes. Oracle: the run that never stopped, to the bit."""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conftest import REPO, write_set
from tests.killed import free_port
from tests.mmdet.conftest import CONFIG
from tools import train
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


PLAN = {"epochs": (3, 5), "iterations": (3,)}


@pytest.fixture(scope="module")
def runs(config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Whole runs and resumed ones. The stops are in a step: at the end of an epoch, and in one."""
    folder = tmp_path_factory.mktemp("runs")
    root = write_set(folder / "set", train=6)
    jobs: list[list[Any]] = []
    for name, stops in PLAN.items():
        flags = [config.with_name(f"{name}.py"), "--data-root", root, "--work-dir"]
        jobs.append([*flags, folder / name])
        jobs += [
            [*flags, folder / f"{name}{stop}", "--resume", folder / f"{name}/iter_{stop}.pth"]
            for stop in stops
        ]
    output = several(jobs)
    assert "that of 1 pass is in the checkpoint" in output
    assert "The run goes on with" not in output
    return folder


@pytest.mark.parametrize(("name", "stop"), [(n, stop) for n in PLAN for stop in PLAN[n]])
def test_resume_equals_a_run_that_never_stopped(runs: Path, name: str, stop: int) -> None:
    whole = state(runs / name / "iter_6.pth")
    assert any("running_var" in key for key in whole["state_dict"])
    assert not (runs / f"{name}{stop}" / f"iter_{stop}.pth").exists()
    assert_same(whole, state(runs / f"{name}{stop}" / "iter_6.pth"))


@pytest.mark.slow
def test_torchrun_restarts_what_one_dead_rank_ends(
    runs: Path, config: Path, tmp_path: Path
) -> None:
    """One rank is killed. Oracle: torchrun's words, and the end of the run that never stopped."""
    seed = load_safely(str(runs / "epochs/iter_6.pth"))["meta"]["seed"]
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2"]
    command += ["--standalone", "--max-restarts=1", str(REPO / "tools/train.py"), str(config)]
    command += ["--data-root", str(runs / "set"), "--work-dir", str(tmp_path / "work"), "--resume"]
    log = tmp_path / "log"
    with log.open("w") as output:
        torchrun = subprocess.Popen(
            [*command, "--cfg-options", f"randomness.seed={seed}"],
            env=os.environ | {"PYTHONPATH": str(REPO), "OMP_NUM_THREADS": "1"},
            stdout=output,
            stderr=output,
        )
        wait(lambda: (tmp_path / "work/iter_2.pth").is_file(), 120)
        ranks = Path(f"/proc/{torchrun.pid}/task/{torchrun.pid}/children").read_text().split()
        assert len(ranks) == 2
        os.kill(int(ranks[1]), signal.SIGKILL)
        wait(lambda: not Path(f"/proc/{ranks[0]}/cmdline").is_file(), 60)
        assert torchrun.wait(timeout=180) == 0, log.read_text()[-3000:]
    assert "exitcode: -9" in log.read_text() and "resumed epoch: " in log.read_text()
    assert_same(state(runs / "epochs/iter_6.pth"), state(tmp_path / "work/iter_6.pth"))


@pytest.mark.slow
def test_two_machines_that_share_no_folder(runs: Path, config: Path, tmp_path: Path) -> None:
    """docs/training.md's command, two torchruns on one machine. Oracle: two processes of one."""
    seed = load_safely(str(runs / "epochs/iter_6.pth"))["meta"]["seed"]
    command = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc_per_node=1"]
    command += ["--master_addr=127.0.0.1", f"--master_port={free_port()}"]
    training = [str(REPO / "tools/train.py"), str(config), "--launcher", "pytorch"]
    training += ["--data-root", str(runs / "set"), "--cfg-options", f"randomness.seed={seed}"]
    machines = [
        subprocess.Popen(
            [*command, f"--node_rank={node}", *training, "--work-dir", str(tmp_path / str(node))],
            env=os.environ | {"PYTHONPATH": str(REPO), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for node in range(2)
    ]
    said = [machine.communicate(timeout=240)[0] for machine in machines]
    assert [machine.returncode for machine in machines] == [0, 0], said
    assert "for 2 processes x 1 image x 2 passes = 4 images a step" in said[0]
    assert_same(state(runs / "epochs/iter_6.pth"), state(tmp_path / "0/iter_6.pth"))


def wait(condition: Callable[[], bool], seconds: float) -> None:
    end = time.time() + seconds
    while not condition():
        assert time.time() < end
        time.sleep(0.05)


def test_a_broken_checkpoint_and_another_number_of_processes(
    runs: Path, config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Oracle: one process has six iterations an epoch, so after three of two it is at the end."""
    for iteration in (2, 3):
        shutil.copy(runs / f"epochs/iter_{iteration}.pth", tmp_path)
    last = tmp_path / "iter_3.pth"
    last.write_bytes(last.read_bytes()[:-1])
    (tmp_path / "last_checkpoint").write_text(str(last))
    (tmp_path / ".iter_4.pth.123.part").touch()
    flags = [str(config), "--data-root", str(runs / "set"), "--work-dir", str(tmp_path), "--resume"]
    train.main([*flags, "--cfg-options", "train_cfg.max_epochs=1"])
    said = capsys.readouterr()
    assert re.search(r"^warning: .*iter_3.pth .* goes on from .*iter_2.pth", said.err, re.M)
    log = said.out + said.err
    assert "The run goes on with 1 x 1 x 2 for 2 x 1 x 2" in log
    assert "2 images a step for 4" in log and "epoch 1 at iteration 4 of 6" in log
    assert load_safely(str(tmp_path / "iter_6.pth"))["meta"]["iter"] == 6
    assert not list(tmp_path.glob(".*.part"))


def test_a_full_disk(runs: Path, config: Path, tmp_path: Path, refusal: Callable[..., str]) -> None:
    """No file may be longer than half a checkpoint, which fails as a full disk does."""
    old = tmp_path / "iter_4.pth"
    shutil.copy(runs / "epochs/iter_4.pth", old)
    (tmp_path / "last_checkpoint").write_text(str(old))
    flags = [str(config), "--data-root", runs / "set", "--work-dir", tmp_path, "--resume"]
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (old.stat().st_size // 2, limits[1]))
    try:
        said = refusal(train, *flags)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "cannot be written to (File too large): free space" in said and "--resume" in said
    assert_same(state(old), state(runs / "epochs/iter_4.pth"))
    assert not list(tmp_path.glob(".*.part")) and not (tmp_path / "iter_5.pth").exists()


def test_a_validation_that_was_killed_is_made_up_for(
    trained: tuple[Path, str],
    tiny_config: Path,
    coco_set: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """At the end of the only epoch. Oracle: the numbers of the run that was not killed."""
    work_dir, _ = trained
    shutil.copy(work_dir / "epoch_1.pth", tmp_path)
    flags = [tiny_config, "--data-root", coco_set, "--work-dir", tmp_path, "--resume"]
    train.main([*map(str, flags), "--cfg-options", "train_cfg.max_epochs=1"])
    closing = capsys.readouterr().out.splitlines()[-1]
    assert closing.startswith("box AP")
    numbers = (tmp_path / "coco_metrics.json").read_text()
    # The same but for the order in which two processes collect the images.
    assert json.loads(numbers) == json.loads((work_dir / "coco_metrics.json").read_text())
    (tmp_path / "coco_metrics.json").unlink()
    train.main([*map(str, flags), "--cfg-options", "train_cfg.max_epochs=1"])
    assert not (tmp_path / "coco_metrics.json").exists()

"""Loops that are not ours: MMDetection's own tools, and MMEngine's functions for weights.

Oracles: the weights that were written, the checkpoint that the tool wrote.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import mmdet
import pytest
import torch
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.model.weight_init import PretrainedInit
from mmengine.runner import Runner, load_checkpoint
from mmengine.runner.checkpoint import CheckpointLoader, load_from_local

import ws_det
from tests.conftest import REPO, run
from tests.own_loop import BLOCKS
from ws_det.errors import InputError
from ws_det.formats import convert_state

TRAIN = Path(mmdet.__file__).parent / ".mim/tools/train.py"
# Gloo before the Runner: MMEngine's own start of a group wants GPUs. See launch.process_group.
TWO_PROCESSES = """
import runpy, sys
import torch.distributed as dist
from ws_det.leaving import leaving_group
dist.init_process_group("gloo")
sys.argv = [sys.argv[1], *sys.argv[2:]]
with leaving_group():  # or a thread of gloo may abort the process after all its work
    runpy.run_path(sys.argv[0], run_name="__main__")
"""
CPU_DDP = "model_wrapper_cfg=dict(type='MMDistributedDataParallel', device_ids=None, " + (
    "broadcast_buffers=False)\n"
)


@pytest.fixture(autouse=True)
def own_loaders(monkeypatch):
    """MMEngine's own loader of files, for which a run of our tools before has put in ours."""
    monkeypatch.setattr(CheckpointLoader, "_schemes", {"": load_from_local})


@pytest.fixture
def own_config(tiny_config, coco_set, tmp_path):
    """The tiny config with a set of the user's own, written as he would, and lines added."""

    def write(lines=""):
        path = tmp_path / "own.py"
        path.write_text(f"_base_ = {str(tiny_config)!r}\n" + SET.format(root=str(coco_set)) + lines)
        return path

    return write


SET = """
own = dict(data_root={root!r}, metainfo=dict(classes=('box', 'bar')))
train_dataloader = dict(dataset=dict(
    ann_file='annotations/instances_train2017.json', data_prefix=dict(img='train2017/'), **own))
val_dataloader = dict(dataset=dict(
    ann_file='annotations/instances_val2017.json', data_prefix=dict(img='val2017/'), **own))
test_dataloader = val_dataloader
val_evaluator = dict(ann_file={root!r} + '/annotations/instances_val2017.json')
test_evaluator = val_evaluator
model = dict(
    backbone=dict(frozen_stages=1),
    roi_head=dict(bbox_head=dict(num_classes=2), mask_head=dict(num_classes=2)))
"""


def build(path):
    cfg = Config.fromfile(path)
    return MODELS.build(cfg.model)


def start(*arguments, processes=0):
    command = [sys.executable, "-W", "ignore"]
    if processes:
        command += ["-m", "torch.distributed.run", f"--nproc_per_node={processes}", "--standalone"]
    environment = os.environ | {"PYTHONPATH": str(REPO), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [*command, *map(str, arguments)], env=environment, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, timeout=400,
    )  # fmt: skip


def other_names(model, names, tmp_path, wrap=dict, part=""):
    state = {k.removeprefix(part): v for k, v in model.state_dict().items() if k.startswith(part)}
    for value in state.values():
        if value.is_floating_point():
            value.normal_()
    file = tmp_path / f"{names}.pth"
    torch.save(wrap(dict(convert_state(state, names).state)), file)
    return file, {part + key: value.clone() for key, value in state.items()}


def in_model(state):
    return {"model": state, "iteration": 7, "optimizer": {"state": {}}}


@pytest.mark.parametrize("wrap", [dict, in_model])
@pytest.mark.parametrize("names", ["jhu", "detectron2"])
@pytest.mark.parametrize("part", ["", "backbone."], ids=["detector", "backbone"])
def test_load_from_takes_other_names(own_config, names, part, wrap, tmp_path, capsys):
    path = own_config()
    file, state = other_names(build(path), names, tmp_path, wrap, part)
    model = build(path)
    load_checkpoint(model, str(file), map_location="cpu")
    own = model.state_dict()
    assert all(torch.equal(own[key], value) for key, value in state.items())
    assert "are loaded under the names of MMDetection" in capsys.readouterr().err


@pytest.mark.parametrize("names", ["jhu", "detectron2", "timm"])
def test_init_cfg_takes_other_names(own_config, names, tmp_path):
    path = own_config()
    file, state = other_names(build(path).backbone, names, tmp_path)
    backbone = build(path).backbone
    PretrainedInit(str(file))(backbone)
    own = backbone.state_dict()
    assert all(torch.equal(own[key], value) for key, value in state.items())


def test_weights_of_no_known_names_are_refused_under_a_frozen_stem(own_config, tmp_path):
    torch.save({"encoder.0.weight": torch.zeros(16, 3, 7, 7)}, tmp_path / "x.pth")
    with pytest.raises(InputError, match="frozen and would stay random"):
        load_checkpoint(build(own_config()), str(tmp_path / "x.pth"))


def test_scaling_without_the_passes_is_refused(own_config, tmp_path):
    """MMEngine's rate for 4 passes of an image would be that for one."""
    path = own_config(
        "optim_wrapper = dict(accumulative_counts=4)\n"
        "auto_scale_lr = dict(enable=True, base_batch_size=16)\n"
        "custom_hooks = [dict(type='NanGuardHook')]\n"
    )
    cfg = Config.fromfile(path)
    cfg.work_dir = str(tmp_path / "work")
    with pytest.raises(InputError, match="does not count the 4 passes"):
        Runner.from_cfg(cfg).train()


def test_the_block_of_the_page(own_config, tmp_path):
    """docs/own_loop.md: one epoch of MMEngine's own runner, with both hooks."""
    cfg = Config.fromfile(own_config(BLOCKS["mmdet"]))
    cfg.work_dir = str(tmp_path / "work")
    runner = Runner.from_cfg(cfg)
    assert {"NanGuardHook", "SyncEstBNHook"} <= {type(hook).__name__ for hook in runner.hooks}
    runner.train()
    assert (tmp_path / "work/epoch_1.pth").is_file()


@pytest.mark.slow
def test_mmdetections_own_tool(own_config, tmp_path):
    """Its frozen stem is that of Detectron2's weights after training."""
    path = own_config()
    file, state = other_names(build(path), "detectron2", tmp_path, in_model)
    work = tmp_path / "work"
    done = start(TRAIN, path, "--work-dir", work, "--cfg-options", f"load_from={file}")
    assert done.returncode == 0, done.stdout[-3000:]
    trained = torch.load(work / "epoch_1.pth", weights_only=False)["state_dict"]
    assert torch.equal(trained["backbone.conv1.weight"], state["backbone.conv1.weight"])
    assert not torch.equal(
        trained["backbone.layer4.0.conv1.weight"], state["backbone.layer4.0.conv1.weight"]
    )


@pytest.mark.slow
@pytest.mark.parametrize("hooks", ["", "custom_hooks = [dict(type='SyncEstBNHook')]\n"])
def test_estimates_that_nobody_averages(own_config, tmp_path, hooks):
    """BCN on two processes of MMDetection's own tool; the hook ends the warning."""
    bcn = (
        "bcn = dict(norm_cfg=dict(type='BCN', num_groups=8, estimate=True))\n"
        "model['backbone'].update(frozen_stages=-1, norm_eval=False, **bcn)\n"
    )
    path = own_config(bcn + hooks + CPU_DDP)
    script = tmp_path / "two.py"
    script.write_text(TWO_PROCESSES)
    work = tmp_path / "work"
    done = start(
        script, TRAIN, path, "--work-dir", work, "--launcher", "pytorch", processes=2
    )
    assert done.returncode == 0, done.stdout[-3000:]
    assert done.stdout.count("are not averaged over the 2 processes") == (not hooks)


@pytest.mark.slow
def test_a_config_that_our_tool_dumped(tiny_config, coco_set, tmp_path):
    """MMDetection's own tools train and resume from it."""
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    done = run("train", tiny_config, "--data-root", coco_set, "--work-dir", ours)
    assert done.returncode == 0, done.stdout[-3000:]
    done = start(TRAIN, ours / "tiny.py", "--work-dir", theirs)
    assert done.returncode == 0, done.stdout[-3000:]
    assert (theirs / "epoch_1.pth").is_file()
    done = start(
        TRAIN, ours / "tiny.py", "--work-dir", theirs, "--resume",
        "--cfg-options", "train_cfg.max_epochs=2",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:]
    assert (theirs / "epoch_2.pth").is_file()


@pytest.mark.slow
def test_a_supplied_config(coco_set, tmp_path):
    """The demo's detector on a set of two classes, three iterations."""
    config = ws_det.config_path("mask-rcnn_r18_fpn_gn-ws-all_2xb1-demo_shapes.py")
    own = tmp_path / "demo.py"
    own.write_text(f"_base_ = {config!r}\n" + SET.format(root=str(coco_set)).replace(
        "frozen_stages=1", "frozen_stages=-1"))  # fmt: skip
    done = start(
        TRAIN, own, "--work-dir", tmp_path / "work", "--cfg-options", "train_cfg.max_iters=3",
        "train_cfg.val_interval=3", "default_hooks.checkpoint.interval=3",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:]
    assert (tmp_path / "work/iter_3.pth").is_file()

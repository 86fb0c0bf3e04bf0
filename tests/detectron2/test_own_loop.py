"""Loops that are not ours: Detectron2's own scripts and trainers with the two lines of a user.

Oracles: names of weights by hand in tests/test_renaming.py and the formats' own tests; a model that
is read back from the checkpoint that the script wrote. Of the scripts, which Detectron2 does not
install, copies are run, from a checkout in WS_DET_DETECTRON2.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import LazyConfig, instantiate
from detectron2.engine import DefaultTrainer
from detectron2.modeling import build_model
from detectron2.solver import build_optimizer
from omegaconf import OmegaConf

import ws_det
from tests.conftest import REPO
from tests.detectron2.parts import TINY, yaml_config
from tests.own_loop import BLOCKS
from ws_det.detectron2 import loop
from ws_det.detectron2.data import register_set
from ws_det.detectron2.layers import WSConv2d
from ws_det.detectron2.trainer import AccumulatingTrainer
from ws_det.errors import InputError
from ws_det.formats import convert_state

RUN = {
    **TINY,
    "MODEL.ROI_HEADS.NUM_CLASSES": 2,
    "MODEL.RPN.POST_NMS_TOPK_TRAIN": 20,
    "MODEL.RPN.POST_NMS_TOPK_TEST": 20,
    "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": 16,
    "MODEL.DEVICE": "cpu",
    "DATASETS.TRAIN": "('own_train',)",
    "DATASETS.TEST": "('own_val',)",
    "INPUT.MIN_SIZE_TRAIN": "(64,)",
    "INPUT.MAX_SIZE_TRAIN": "96",
    "INPUT.MIN_SIZE_TEST": "64",
    "INPUT.MAX_SIZE_TEST": "96",
    "DATALOADER.NUM_WORKERS": "0",
    "SOLVER.IMS_PER_BATCH": "1",
    "SOLVER.MAX_ITER": "3",
    "SOLVER.STEPS": "(2,)",
    "TEST.EVAL_PERIOD": "0",
}
FROZEN = "backbone.bottom_up.stem.conv1.weight"


@pytest.fixture(autouse=True)
def own_set(coco_set):
    loop._said.clear()
    loop._open.clear()
    register_set(str(coco_set), "own")


@pytest.fixture
def tiny_cfg(tmp_path):
    return yaml_config(
        options={
            **{key: value for key, value in RUN.items() if key not in ("MODEL.DEVICE",)},
            "MODEL.BACKBONE.FREEZE_AT": 2,
            "OUTPUT_DIR": str(tmp_path / "out"),
        }
    )


def trained_elsewhere(cfg, tmp_path, names, part=""):
    """A file of random weights for the model under other names, and the weights themselves."""
    model = build_model(cfg)
    state = {k.removeprefix(part): v for k, v in model.state_dict().items() if k.startswith(part)}
    file = tmp_path / f"{names}.pth"
    torch.save(dict(convert_state(state, names).state), file)
    return file, {part + key: value for key, value in state.items()}


@pytest.mark.parametrize("names", ["mmdet", "jhu"])
@pytest.mark.parametrize("part", ["", "backbone.bottom_up."], ids=["detector", "backbone"])
def test_default_trainer_takes_other_names(tiny_cfg, tmp_path, names, part, capsys):
    """The frozen stem is the file's after training: it was loaded, and nothing trained it."""
    file, state = trained_elsewhere(tiny_cfg, tmp_path, names, part)
    tiny_cfg.MODEL.WEIGHTS = str(file)
    trainer = DefaultTrainer(tiny_cfg)
    trainer.resume_or_load(resume=False)
    own = trainer.model.state_dict()
    assert all(torch.equal(own[key], value) for key, value in state.items())
    assert "are loaded under the names of Detectron2" in capsys.readouterr().err


@pytest.mark.parametrize("wrap", ["state_dict", "model"])
def test_a_whole_file_of_another_project_is_read(tiny_cfg, tmp_path, wrap):
    """MMDetection keeps weights under ``state_dict``, beside what is no weight."""
    file, state = trained_elsewhere(tiny_cfg, tmp_path, "mmdet")
    content = {wrap: torch.load(file), "meta": {"epoch": 3}, "optimizer": {"state": {}}}
    torch.save(content, file)
    model = build_model(tiny_cfg)
    DetectionCheckpointer(model).load(str(file))
    own = model.state_dict()
    assert all(torch.equal(own[key], value) for key, value in state.items())


def test_weights_of_no_known_names_are_refused_under_a_frozen_stem(tiny_cfg, tmp_path):
    torch.save({"encoder.0.weight": torch.zeros(8, 3, 7, 7)}, tmp_path / "x.pth")
    with pytest.raises(InputError, match="frozen and would stay random"):
        DetectionCheckpointer(build_model(tiny_cfg)).load(str(tmp_path / "x.pth"))


def loss_and_step(model, optimizer, passes):
    optimizer.zero_grad()
    for _ in range(passes):
        sum(p.square().sum() for p in model.parameters() if p.requires_grad).backward()
    optimizer.step()


@pytest.mark.parametrize("part", ["backbone", "box head", "mask head"])
def test_a_loop_that_does_not_accumulate_is_refused(tiny_cfg, part):
    """Before the first step changes a weight; whichever part of the model is ours."""
    tiny_cfg.SOLVER.ACCUMULATION_STEPS = 16
    if part != "backbone":
        tiny_cfg.MODEL.BACKBONE.NAME = "build_resnet_fpn_backbone"
        tiny_cfg.MODEL.RESNETS.NORM = tiny_cfg.MODEL.FPN.NORM = "BN"
    if part == "mask head":
        tiny_cfg.MODEL.ROI_BOX_HEAD.NAME = "FastRCNNConvFCHead"
        tiny_cfg.MODEL.ROI_BOX_HEAD.NORM = "BN"
    model = build_model(tiny_cfg)
    optimizer = build_optimizer(tiny_cfg, model)
    before = [parameter.clone() for parameter in model.parameters()]
    with pytest.raises(InputError, match=r"ACCUMULATION_STEPS is 16, .* after 1 backward pass"):
        loss_and_step(model, optimizer, 1)
    assert all(map(torch.equal, before, model.parameters()))


def test_a_loop_that_accumulates_is_not_refused(tiny_cfg):
    tiny_cfg.SOLVER.ACCUMULATION_STEPS = 4
    model = build_model(tiny_cfg)
    optimizer = build_optimizer(tiny_cfg, model)
    for _ in range(2):
        loss_and_step(model, optimizer, 4)


def test_steps_that_mixed_precision_leaves_out_do_not_count_for_passes(tiny_cfg):
    """The scale of the loss makes the first two steps overflow, and they are left out."""
    tiny_cfg.SOLVER.ACCUMULATION_STEPS = 3
    model = build_model(tiny_cfg)
    optimizer = build_optimizer(tiny_cfg, model)

    def train(steps):
        for skipped in steps:
            optimizer.zero_grad()
            sum(p.sum() for p in model.parameters() if p.requires_grad).backward()
            if not skipped:
                optimizer.step()

    with pytest.raises(InputError, match="after 1 backward pass"):
        train([True, True, False, False])


def test_the_config_for_one_gpu_asks(tmp_path):
    """Also when it comes from the file that a run saves."""
    cfg = LazyConfig.load(ws_det.config_path("mask_rcnn_R_50_FPN_2x_gn_ws_1x1_accum16.py"))
    assert cfg.model.train.accumulation_steps == 16 and cfg.model.train.clip_grad.max_norm == 35
    LazyConfig.save(cfg, str(tmp_path / "config.yaml"))
    cfg = LazyConfig.load(str(tmp_path / "config.yaml"))
    cfg.train.accumulation_steps = 8
    assert cfg.model.train.accumulation_steps == 8


def test_another_model_is_none_of_its_business(tiny_cfg):
    """A model that is only evaluated does not stop the training of another."""
    tiny_cfg.SOLVER.ACCUMULATION_STEPS = 4
    kept = build_model(tiny_cfg)
    other = torch.nn.Linear(2, 2)
    loss_and_step(other, torch.optim.SGD(other.parameters(), 0.1), 1)
    assert kept is not None


def test_default_trainer_is_refused_and_ours_is_not(tiny_cfg, capsys):
    tiny_cfg.SOLVER.ACCUMULATION_STEPS, tiny_cfg.SOLVER.CLIP_GRAD_NORM = 2, 35.0
    trainer = DefaultTrainer(tiny_cfg)
    with pytest.raises(InputError, match="ACCUMULATION_STEPS is 2"):
        trainer.train()
    model = build_model(tiny_cfg)
    ours = AccumulatingTrainer(
        model, build_optimizer(tiny_cfg, model), seed=0, accumulation=2, max_norm=35.0
    )
    ours.data_loader = DefaultTrainer.build_train_loader(tiny_cfg)
    capsys.readouterr()
    ours.train(0, 1)
    assert "warning" not in capsys.readouterr().err


def test_clipping_and_skipping_that_nobody_does_are_told_once(tiny_cfg, capsys):
    tiny_cfg.SOLVER.CLIP_GRAD_NORM, tiny_cfg.SOLVER.ON_NAN = 35.0, "skip"
    model = build_model(tiny_cfg)
    loss_and_step(model, build_optimizer(tiny_cfg, model), 1)
    said = capsys.readouterr().err
    assert said.count("SOLVER.CLIP_GRAD_NORM is 35.0") == said.count("SOLVER.ON_NAN is 'skip'") == 1


def test_weights_trained_without_ws_are_told(tiny_cfg, tmp_path, capsys):
    """Detectron2's own names, so that all of them are loaded without a word of its."""
    state = build_model(tiny_cfg).state_dict()
    state = {k: v + 0.1 if v.ndim == 4 else v for k, v in state.items()}  # filters with a mean
    torch.save({"model": state}, tmp_path / "gn.pth")
    DetectionCheckpointer(build_model(tiny_cfg)).load(str(tmp_path / "gn.pth"))
    assert "trained with GN without WS weights" in capsys.readouterr().err


# The page docs/own_loop.md


def test_yaml_block(tmp_path, capsys):
    """The supplied BCN config, shrunken, trains with the hook; that nobody clips is told."""
    space = {}
    exec(BLOCKS["detectron2, yaml"], space)
    cfg = space["cfg"]
    options = {**RUN, "MODEL.WEIGHTS": "", "OUTPUT_DIR": str(tmp_path)}
    cfg.merge_from_list([part for option in options.items() for part in option])
    trainer = space["Trainer"](cfg)
    kinds = [type(hook).__name__ for hook in trainer._hooks]
    assert kinds.index("SyncEstBNHook") < kinds.index("PeriodicCheckpointer")
    trainer._hooks = [hook for hook in trainer._hooks if type(hook).__name__ != "EvalHook"]
    trainer.train()
    assert (tmp_path / "model_final.pth").is_file()
    assert "SOLVER.CLIP_GRAD_NORM is 35.0" in capsys.readouterr().err


def test_accumulation_block(tiny_cfg, capsys):
    tiny_cfg.SOLVER.ACCUMULATION_STEPS, tiny_cfg.SOLVER.CLIP_GRAD_NORM = 2, 35.0
    tiny_cfg.SOLVER.ON_NAN = "skip"
    space = {"cfg": tiny_cfg}
    exec(BLOCKS["detectron2, accumulation"], space)
    assert space["trainer"].iter == 3  # as Detectron2 leaves it after three
    assert "warning" not in capsys.readouterr().err


def test_lazy_block():
    """Oracle: the loop that is refused, whatever the name of the setting's value."""
    space = {}
    exec(BLOCKS["detectron2, lazy"], space)
    cfg = OmegaConf.create({"model": space["model"], "train": {"accumulation_steps": 3}})
    model = instantiate(cfg.model)
    assert any(isinstance(m, WSConv2d) for m in model.modules())
    with pytest.raises(InputError, match=r"train\.accumulation_steps is 3, .* after 2 backward"):
        loss_and_step(model, torch.optim.SGD(model.parameters(), 0.1), 2)


# The scripts themselves


def script(name, tmp_path, edits=()):
    """A copy of one of Detectron2's scripts, with the lines that a user adds."""
    checkout = os.environ.get("WS_DET_DETECTRON2")
    if not checkout:
        pytest.skip("WS_DET_DETECTRON2 is not set to the folder of a Detectron2 checkout")
    text = Path(checkout, "tools", name).read_text()
    for old, new in edits:
        assert old in text
        text = text.replace(old, new, 1)
    path = tmp_path / name
    path.write_text(text)
    return path


def two_lines(coco_set):
    """What a user adds for a yaml config, and a set of his own."""
    imports = (
        "import logging\nimport ws_det.detectron2\nfrom ws_det.detectron2 import add_ws_config\n"
        f"from ws_det.detectron2.data import register_set\n"
        f"register_set({str(coco_set)!r}, 'own')\n"
    )
    return (
        ("import logging\n", imports),
        ("cfg = get_cfg()\n", "cfg = get_cfg()\n    add_ws_config(cfg)\n"),
    )


def start(path, *arguments):
    environment = os.environ | {"PYTHONPATH": str(REPO), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-W", "ignore", str(path), *map(str, arguments)],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=400,
        cwd=path.parent,
    )  # fmt: skip


def yaml_options(tmp_path, **more):
    options = {**RUN, "OUTPUT_DIR": tmp_path / "out", "MODEL.BACKBONE.FREEZE_AT": 2, **more}
    return [part for option in options.items() for part in option]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["train_net.py", "plain_train_net.py"])
def test_detectron2s_yaml_scripts(name, tiny_cfg, coco_set, tmp_path):
    """A supplied config: other names come in, and a loop that does not accumulate is refused."""
    config = ws_det.config_path("mask_rcnn_R_50_FPN_3x_gn_ws.yaml")
    path = script(name, tmp_path, two_lines(coco_set))
    file, state = trained_elsewhere(tiny_cfg, tmp_path, "mmdet")
    weights = {"MODEL.WEIGHTS": file}
    done = start(path, "--config-file", config, *yaml_options(tmp_path, **weights))
    assert done.returncode == 0, done.stdout[-3000:]
    trained = torch.load(tmp_path / "out/model_final.pth")["model"]
    assert torch.equal(trained[FROZEN], state[FROZEN])
    assert "Traceback" not in done.stdout
    done = start(
        path, "--config-file", config,
        *yaml_options(tmp_path, **weights, **{"SOLVER.ACCUMULATION_STEPS": 16}),
    )  # fmt: skip
    assert done.returncode
    assert "InputError: SOLVER.ACCUMULATION_STEPS is 16" in done.stdout.splitlines()[-1]


LAZY = """
from detectron2.config import LazyConfig
import ws_det
from ws_det.detectron2.data import register_set
register_set({coco_set!r}, "own")
cfg = LazyConfig.load(ws_det.config_path({config!r}))
dataloader, lr_multiplier, model, optimizer, train = (
    cfg[key] for key in ("dataloader", "lr_multiplier", "model", "optimizer", "train")
)
dataloader.train.dataset.names, dataloader.test.dataset.names = "own_train", "own_val"
dataloader.evaluator.dataset_name = "own_val"
model.module.roi_heads.num_classes = 2
train.update(max_iter=3, eval_period=0, device="cpu", init_checkpoint="")
"""


@pytest.mark.slow
def test_detectron2s_lazy_script(coco_set, tmp_path):
    """The demo on two processes, with BCN that nobody averages; then one that accumulates."""
    path = script("lazyconfig_train_net.py", tmp_path)
    demo = "mask_rcnn_R_18_FPN_gn_ws_demo_shapes"
    config = tmp_path / "own.py"
    config.write_text(LAZY.format(coco_set=str(coco_set), config=demo) + (
        "from functools import partial\n"
        "model.module.backbone.norm = partial(\n"
        "    ws_det.BatchChannelNorm2d, num_groups=8, estimate=True)\n"
    ))  # fmt: skip
    options = [f"train.output_dir={tmp_path / 'out'}", "train.ddp.device_ids=null"]
    done = start(path, "--config-file", config, "--num-gpus", 2, *options)
    # Detectron2's launch leaves the threads of gloo, of which one may abort its process in the end.
    assert done.returncode == 0 or "SIGABRT" in done.stdout, done.stdout[-3000:]
    assert done.stdout.count("are not averaged over the 2 processes") == 1
    assert "train.clip_grad is 10, which Detectron2's own loops do not read" in done.stdout
    done = start(path, "--config-file", config, *options, "train.accumulation_steps=16")
    assert done.returncode
    assert "InputError: train.accumulation_steps is 16" in done.stdout.splitlines()[-1]

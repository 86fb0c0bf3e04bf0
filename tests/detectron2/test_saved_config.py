"""A run taken up with the config that it saved is the run that never stopped, to the bit."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog

from tests.detectron2.conftest import DEMO
from tests.detectron2.parts import TINY
from tests.detectron2.test_train import assert_same
from tools import train_detectron2
from ws_det.detectron2.data import NamedMapper, register_set
from ws_det.detectron2.train import Job, run

LAZY = (
    "dataloader.train.dataset.names=own_train",
    "dataloader.test.dataset.names=own_val",
    "dataloader.train.total_batch_size=2",
    "model.module.roi_heads.num_classes=2",
    "train.max_iter=4",
    "train.eval_period=0",
    "train.checkpointer.period=2",
)
YAML = {
    **TINY,
    "MODEL.ROI_HEADS.NUM_CLASSES": 2,
    "MODEL.WEIGHTS": "",
    "MODEL.BACKBONE.FREEZE_AT": 0,
    "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": 16,
    "MODEL.RPN.POST_NMS_TOPK_TRAIN": 32,
    "MODEL.RPN.POST_NMS_TOPK_TEST": 16,
    "DATASETS.TRAIN": "('own_train',)",
    "DATASETS.TEST": "('own_val',)",
    "DATALOADER.NUM_WORKERS": 0,
    "INPUT.MIN_SIZE_TRAIN": "(64,)",
    "INPUT.MIN_SIZE_TEST": 64,
    "SOLVER.IMS_PER_BATCH": 2,
    "SOLVER.MAX_ITER": 4,
    "SOLVER.STEPS": "()",
    "SOLVER.CHECKPOINT_PERIOD": 2,
}


# With a sampler that has no seed of its own, and a run without one.
REPEAT = """
from detectron2.config import LazyCall as L
from detectron2.config import LazyConfig
from detectron2.data.samplers import RepeatFactorTrainingSampler

import ws_det

cfg = LazyConfig.load(ws_det.config_path("{demo}"))
dataloader, lr_multiplier, model, optimizer, train = (
    cfg[key] for key in ("dataloader", "lr_multiplier", "model", "optimizer", "train")
)
del train["seed"]
dataloader.train.sampler = L(RepeatFactorTrainingSampler)(
    repeat_factors=L(RepeatFactorTrainingSampler.repeat_factors_from_category_frequency)(
        dataset_dicts="${{dataloader.train.dataset}}", repeat_thresh=0.5
    )
)
"""


@pytest.mark.parametrize("kind", ["lazy", "yaml"])
def test_the_saved_config_takes_up_the_run(kind, coco_set, tmp_path, monkeypatch):
    """Oracle: the run that never stopped: its images, losses, weights and optimizer."""
    register_set(str(coco_set), "own")
    seen: list[int] = []
    read = NamedMapper.__call__

    def recorded(self, dataset_dict):
        seen.append(dataset_dict["image_id"])
        return read(self, dataset_dict)

    monkeypatch.setattr(NamedMapper, "__call__", recorded)
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    if kind == "lazy":
        options, output = LAZY, "train.output_dir="
        config = tmp_path / "repeat.py"
        config.write_text(REPEAT.format(demo=DEMO))
    else:
        options = tuple(f"{key}={value}" for key, value in YAML.items())
        output, config = "OUTPUT_DIR=", "faster_rcnn_R_50_FPN_1x_gn_ws.yaml"
    run(Job(str(config), (*options, f"{output}{whole}")))
    images, seen[:] = seen[:], []
    resumed.mkdir()
    shutil.copy(whole / "model_0000001.pth", resumed)
    (resumed / "last_checkpoint").write_text("model_0000001.pth")
    shutil.copy(whole / "curves.json", resumed)
    run(Job(str(whole / "config.yaml"), (f"{output}{resumed}",), resume=True))
    trained = [images[:8], images[8:]]  # 4 steps of 2 images, then the evaluation
    assert len(seen) == 4 + len(trained[1]) and seen == trained[0][4:] + trained[1]
    assert_same(final(whole), final(resumed))
    # The machine is not the config's: what begins without a GPU may go on with one.
    device = "device: cuda" if kind == "lazy" else "DEVICE: cuda"
    assert device in (whole / "config.yaml").read_text()


def final(folder: Path) -> dict:
    return torch.load(folder / "model_final.pth", weights_only=True)


def test_the_saved_config_of_a_folder(coco_set, tmp_path, refusal):
    """It does not know the folder of --data-root: a sentence, and the same run with the flag."""
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    options = ("train.max_iter=2", "train.eval_period=0", "train.checkpointer.period=1")
    run(Job(DEMO, (*options, f"train.output_dir={whole}"), data_root=str(coco_set)))
    for name in ("data_root_train", "data_root_val"):  # as in a new process
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
    resumed.mkdir()
    for name in ("model_0000000.pth", "curves.json"):
        shutil.copy(whole / name, resumed)
    (resumed / "last_checkpoint").write_text("model_0000000.pth")
    saved, output = str(whole / "config.yaml"), f"train.output_dir={resumed}"
    said = refusal(train_detectron2, "--config-file", saved, "--resume", output)
    assert "no data set is registered as 'data_root_train': give --data-root FOLDER" in said
    run(Job(saved, (output,), resume=True, data_root=str(coco_set)))
    assert_same(final(whole), final(resumed))


@pytest.mark.parametrize(
    "norm",
    [
        "lambda c: nn.GroupNorm(8, c)",
        pytest.param("type('Own', (nn.BatchNorm2d,), {})", marks=pytest.mark.sweep),
    ],
)
def test_a_config_that_no_yaml_can_say(norm, coco_set, tmp_path, refusal):
    """It trains, Detectron2 pickles it, and neither file is run again: a sentence each."""
    out, config = tmp_path / "out", tmp_path / "own.py"
    text = f"from torch import nn\n{REPEAT.format(demo=DEMO)}model.module.backbone.norm = {norm}\n"
    config.write_text(text)
    options = ("train.max_iter=1", "train.eval_period=0", f"train.output_dir={out}")
    run(Job(str(config), options, data_root=str(coco_set)))
    flags = ("--data-root", coco_set, "--resume")
    said = refusal(train_detectron2, "--config-file", out / "config.yaml", *flags)
    if (out / "config.yaml").exists():
        assert "config.yaml, line" in said and "give a config in Python that you trust" in said
    else:  # Detectron2 wrote the pickle alone
        assert "there is no config" in said
    said = refusal(train_detectron2, "--config-file", out / "config.yaml.pkl", *flags)
    assert "config.yaml.pkl is a pickle, which may run code" in said
    run(Job(str(config), ("train.max_iter=2", *options[1:]), str(coco_set), resume=True))

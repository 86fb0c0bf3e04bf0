"""A run taken up with the config that it saved is the run that never stopped, to the bit."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from tests.detectron2.conftest import DEMO
from tests.detectron2.parts import TINY
from tests.detectron2.test_train import assert_same
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


@pytest.mark.parametrize("kind", ["lazy", "yaml", "lazy sampler"])
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
    if kind.startswith("lazy"):
        options, output, config = LAZY, "train.output_dir=", DEMO
        if kind == "lazy sampler":
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


def final(folder: Path) -> dict:
    return torch.load(folder / "model_final.pth", weights_only=True)

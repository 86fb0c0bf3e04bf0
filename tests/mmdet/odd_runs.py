"""Runs on odd annotation files in one process: a model of seconds, and a look at what it was given.

MMEngine spends most of such a run on laying out the text of its config, which is left out here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yapf.yapflib.yapf_api
from mmengine.hooks import Hook
from mmengine.logging import MMLogger
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from tests.mmdet.conftest import CONFIG
from ws_det.mmdet.config import load_config

BOXES = {
    "model.roi_head.mask_head": None,
    "model.roi_head.mask_roi_extractor": None,
    "train_dataloader.dataset.pipeline.1.with_mask": False,
    "val_evaluator.metric": "bbox",
    "test_evaluator.metric": "bbox",
}


@HOOKS.register_module(force=True)
class LookHook(Hook):
    """Keeps what the last run in this process was given.

    Attributes:
        train: For the path of each training image its objects: label, box, mask, by their order.
        truth: The annotations that the evaluator has, None if it has no list.
    """

    train: dict[str, list[Any]]
    truth: list[dict[str, Any]] | None

    def before_train(self, runner: Runner) -> None:
        """Load every image as training does."""
        dataset = runner.train_dataloader.dataset
        LookHook.train = {}
        for index in range(len(dataset)):
            sample = dataset[index]["data_samples"]
            found = sample.gt_instances
            boxes, labels = found.bboxes.tensor.numpy(), found.labels.tolist()
            masks = found.masks.to_ndarray() if "masks" in found else [None] * len(found)
            objects = [*zip(labels, boxes.tolist(), masks, strict=True)]
            LookHook.train[sample.img_path] = objects

    def before_val(self, runner: Runner) -> None:
        """Look into the evaluator."""
        LookHook.truth = runner.val_evaluator.metrics[0]._coco_api.dataset.get("annotations")

    def before_test(self, runner: Runner) -> None:
        """Look into the evaluator."""
        LookHook.truth = runner.test_evaluator.metrics[0]._coco_api.dataset.get("annotations")


def write_config(path: Path, root: Path, settings: Mapping[str, Any]) -> Path:
    """A config of two iterations and one evaluation in one file.

    Args:
        path: Of the config.
        root: Of a set of categories as ``tests.conftest`` has them.
        settings: Options of the config, by dotted key.
    """
    source = path.with_name(f"{path.stem}_source.py")
    source.write_text(CONFIG)
    cfg = load_config(str(source), None, str(root))
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        loader.dataset.serialize_data = False  # which collects garbage for a second
    flip = next(t for t in cfg.train_dataloader.dataset.pipeline if t.type == "RandomFlip")
    flip.prob = 0.0
    cfg.train_cfg = dict(type="IterBasedTrainLoop", max_iters=2, val_interval=2)
    cfg.default_hooks.checkpoint = dict(type="CheckpointHook", by_epoch=False, interval=2)
    cfg.log_processor = dict(type="LogProcessor", by_epoch=False)
    cfg.custom_hooks = [dict(type="LookHook")]
    for key in ("work_dir", "data_root"):
        cfg.pop(key, None)
    cfg.merge_from_dict(dict(settings))
    cfg.dump(str(path))
    return path


@contextmanager
def plain_configs() -> Iterator[None]:
    """Let MMEngine write its configs without making them pretty, and each run draw to its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(yapf.yapflib.yapf_api, "FormatCode", lambda text, **_: (text, True))
        yield


def new_run() -> None:
    """Forget the logger of the run before: MMEngine has one for all runs that begin in a second."""
    MMLogger._instance_dict.clear()


def tree(root: Path) -> set[Path]:
    """Everything below a folder."""
    return set(root.rglob("*"))

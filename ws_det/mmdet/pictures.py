"""Draw the first predictions of a test beside the truth."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mmcv
import numpy as np
from mmdet.structures import DetDataSample
from mmengine.dataset import BaseDataset
from mmengine.dist import master_only
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from ws_det.pictures import Drawn, Pair, decode_mask, draw_grid


@HOOKS.register_module(force=True)
class PicturesHook(Hook):
    """Draw the first predictions of a test beside the truth, on rank 0.

    Args:
        path: PNG to write.
        count: How many images.
    """

    def __init__(self, path: str, count: int = 8) -> None:
        self.path, self.count = path, count
        self._samples: list[DetDataSample] = []

    @master_only
    def after_test_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Any = None,
        outputs: Sequence[DetDataSample] = (),
    ) -> None:
        """Keep the first predictions."""
        self._samples += outputs[: self.count - len(self._samples)]

    @master_only
    def after_test_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Draw them."""
        draw_predictions(runner.test_dataloader.dataset, self._samples, self.path, self.count)
        self._samples = []


def draw_predictions(
    dataset: BaseDataset,
    predictions: Sequence[DetDataSample],
    path: str | Path,
    count: int = 8,
    score_thr: float = 0.5,
) -> None:
    """Draw predictions with ``ws_det.pictures.draw_grid``.

    Args:
        dataset: A ``CocoDataset`` in test mode; it knows the truth, also what the test pipeline
            does not load, and the class names.
        predictions: What the model returned, with ``img_id`` and ``pred_instances``.
        path: PNG to write; its folder is made.
        count: Draw the first so many.
        score_thr: Leave out what scores less.
    """
    infos = {info["img_id"]: info for info in map(dataset.get_data_info, range(len(dataset)))}
    pairs = []
    for sample in predictions[:count]:
        info = infos[sample.img_id]
        image = mmcv.imread(info["img_path"], channel_order="rgb")
        name = Path(info["img_path"]).name
        pairs.append(Pair(name, image, _truth(info), _predicted(sample, score_thr)))
    draw_grid(pairs, dataset.metainfo["classes"], path)


def _truth(info: dict[str, Any]) -> list[Drawn]:
    size = info["height"], info["width"]
    return [
        Drawn(
            instance["bbox_label"],
            np.asarray(instance["bbox"]),
            decode_mask(instance["mask"], size) if instance.get("mask") else None,
            iscrowd=bool(instance["ignore_flag"]),
        )
        for instance in info["instances"]
    ]


def _predicted(sample: DetDataSample, score_thr: float) -> list[Drawn]:
    found = sample.pred_instances.numpy()
    masks = found.get("masks", [None] * len(found))
    return [
        Drawn(int(label), box, mask, float(score))
        for label, box, mask, score in zip(found.labels, found.bboxes, masks, found.scores)
        if score >= score_thr
    ]

"""Draw the predictions of a test: one picture an image, and the first beside the truth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os.path import realpath
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from mmdet.engine.hooks import DetVisualizationHook
from mmdet.structures import DetDataSample
from mmengine.dataset import BaseDataset
from mmengine.dist import master_only
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from ws_det.errors import InputError
from ws_det.mmdet.shown import ShownImages
from ws_det.pictures import Drawn, Pair, decode_mask, draw_grid


@HOOKS.register_module(force=True)
class PicturesHook(Hook):
    """Draw the first predictions of a test beside the truth, on rank 0.

    Args:
        path: PNG to write. Those of several sets go into folders beside it, named after the sets.
        count: How many images, of each set.
    """

    def __init__(self, path: str, count: int = 8) -> None:
        self.path, self.count = path, count
        self._grids: Grids | None = None

    @master_only
    def after_test_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Any = None,
        outputs: Sequence[DetDataSample] = (),
    ) -> None:
        """Keep the first predictions, with their images."""
        if self._grids is None:
            self._grids = Grids(runner.test_dataloader.dataset, self.count)
        for sample in outputs:
            self._grids.add(sample)

    @master_only
    def after_test_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Draw them."""
        grids = self._grids or Grids(runner.test_dataloader.dataset, self.count)
        grids.draw(self.path)
        self._grids = None


@HOOKS.register_module(force=True)
class NamedVisualizationHook(DetVisualizationHook):
    """MMDetection's, whose pictures keep the folders of the images, where it keeps file names only.

    Of ``cam1/0001.jpg`` and ``cam2/0001.jpg`` there are two pictures then; those of several sets
    are in folders named after the sets. Images that OpenCV cannot write become PNGs.
    """

    _images: ShownImages | None = None

    @master_only
    def after_test_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Any,
        outputs: Sequence[DetDataSample],
    ) -> None:
        """Draw a batch.

        Raises:
            InputError: If an image cannot be read, or is not of the size of its prediction.
        """
        if not self.draw or self.test_out_dir is None:
            super().after_test_iter(runner, batch_idx, data_batch, outputs)
            return
        self._images = self._images or ShownImages(runner.test_dataloader.dataset)
        for sample in outputs:
            shown = self._images.find(sample)
            name = shown.name if cv2.haveImageWriter(shown.name) else f"{shown.name}.png"
            target = str(Path(self.test_out_dir, shown.folder, name))
            if realpath(target) == realpath(shown.info["img_path"]):
                raise InputError(
                    f"the picture {target} would replace the image: give another --show-dir"
                )
            try:
                self._visualizer.add_datasample(
                    name,
                    shown.pixels,
                    data_sample=sample,
                    show=self.show,
                    wait_time=self.wait_time,
                    pred_score_thr=self.score_thr,
                    out_file=target,
                )
            except OSError as error:
                raise InputError(
                    f"the picture {target} cannot be written ({error.strerror}): make room, or "
                    f"give another --show-dir"
                ) from error


class Grids:
    """Keeps the first predictions of each set.

    Args:
        dataset: A dataset in test mode; it knows the truth, also what the test pipeline does not
            load, and the class names.
        count: How many to keep of a set.
        score_thr: Leave out what scores less.
    """

    def __init__(self, dataset: BaseDataset, count: int = 8, score_thr: float = 0.5) -> None:
        self._images = ShownImages(dataset)
        self._pairs: dict[str, list[Pair]] = {folder: [] for folder in self._images.classes}
        self._count, self._score_thr = count, score_thr

    def add(self, sample: DetDataSample) -> None:
        """Keep a prediction, if it is one of the first.

        Raises:
            InputError: If its image cannot be read, or is not of its size.
        """
        pairs = self._pairs[self._images.folder_of(sample)]
        if len(pairs) < self._count:
            _, info, name, pixels = self._images.find(sample)
            truth = _truth(info, pixels.shape[:2])
            pairs.append(Pair(name, pixels, truth, _predicted(sample, self._score_thr)))

    def draw(self, path: str | Path) -> None:
        """Write a PNG of each set."""
        for folder, pairs in self._pairs.items():
            target = Path(path).parent / folder / Path(path).name
            draw_grid(pairs, self._images.classes[folder], target)


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
    grids = Grids(dataset, count, score_thr)
    for sample in predictions[:count]:
        grids.add(sample)
    grids.draw(path)


def _truth(info: Mapping[str, Any], size: tuple[int, int]) -> list[Drawn]:
    return [
        Drawn(
            instance["bbox_label"],
            np.asarray(instance["bbox"]),
            decode_mask(instance["mask"], size) if instance.get("mask") else None,
            iscrowd=bool(instance["ignore_flag"]),
        )
        for instance in info.get("instances", ())
    ]


def _predicted(sample: DetDataSample, score_thr: float) -> list[Drawn]:
    if "pred_instances" not in sample:  # a segmenter's
        return []
    found = sample.pred_instances.numpy()
    masks = found.get("masks", [None] * len(found))
    return [
        Drawn(int(label), box, mask, float(score))
        for label, box, mask, score in zip(found.labels, found.bboxes, masks, found.scores)
        if score >= score_thr
    ]

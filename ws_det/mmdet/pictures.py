"""Draw truth beside prediction: the first images of a test set in one PNG."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mmcv
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from mmdet.structures import DetDataSample
from mmengine.dataset import BaseDataset
from mmengine.dist import master_only
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from pycocotools import mask as coco_mask


@dataclass
class _Drawn:
    """One thing to draw: its box x1 y1 x2 y2 and, where they are known, mask (H, W) and score."""

    label: int
    box: np.ndarray
    mask: np.ndarray | None = None
    score: float | None = None
    iscrowd: bool = False


@HOOKS.register_module(force=True)
class PicturesHook(Hook):
    """Draw the first predictions of a test beside the truth, on rank 0.

    Args:
        path: PNG to write.
        count: how many images.
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
        draw_grid(runner.test_dataloader.dataset, self._samples, self.path, self.count)
        self._samples = []


def draw_grid(
    dataset: BaseDataset,
    predictions: Sequence[DetDataSample],
    path: str | Path,
    count: int = 8,
    score_thr: float = 0.5,
) -> None:
    """Write one PNG with two images a row, each as truth and as prediction.

    Args:
        dataset: a ``CocoDataset`` in test mode; it knows the truth, also what the test pipeline
            does not load, and the class names.
        predictions: what the model returned, with ``img_id`` and ``pred_instances``.
        path: PNG to write; its folder is made.
        count: draw the first so many.
        score_thr: leave out what scores less.
    """
    infos = {info["img_id"]: info for info in map(dataset.get_data_info, range(len(dataset)))}
    names = dataset.metainfo["classes"]
    predictions = predictions[:count]
    rows = -(-len(predictions) // 2)
    figure = Figure(figsize=(14, 3.75 * max(rows, 1)), layout="constrained")
    FigureCanvasAgg(figure)  # no display, and pyplot's state stays the user's
    axes = figure.subplots(max(rows, 1), 4, squeeze=False).reshape(-1, 2)
    for ax in axes.ravel():
        ax.set_axis_off()
    for (left, right), sample in zip(axes, predictions):
        info = infos[sample.img_id]
        image = mmcv.imread(info["img_path"], channel_order="rgb")
        _draw(left, image, _truth(info), names, f"{Path(info['img_path']).name}: truth")
        _draw(right, image, _predicted(sample, score_thr), names, "prediction")
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100)


def _truth(info: dict[str, Any]) -> list[_Drawn]:
    size = info["height"], info["width"]
    return [
        _Drawn(
            instance["bbox_label"],
            np.asarray(instance["bbox"]),
            _decode(instance["mask"], size) if instance.get("mask") else None,
            iscrowd=bool(instance["ignore_flag"]),
        )
        for instance in info["instances"]
    ]


def _decode(segmentation: Any, size: tuple[int, int]) -> np.ndarray:
    """Polygons or RLE, compressed or not, to a mask (H, W)."""
    if isinstance(segmentation, list):
        segmentation = coco_mask.merge(coco_mask.frPyObjects(segmentation, *size))
    elif isinstance(segmentation["counts"], list):
        segmentation = coco_mask.frPyObjects(segmentation, *size)
    return coco_mask.decode(segmentation).astype(bool)


def _predicted(sample: DetDataSample, score_thr: float) -> list[_Drawn]:
    found = sample.pred_instances.numpy()
    masks = found.get("masks", [None] * len(found))
    return [
        _Drawn(int(label), box, mask, float(score))
        for label, box, mask, score in zip(found.labels, found.bboxes, masks, found.scores)
        if score >= score_thr
    ]


def _draw(
    ax: Axes, image: np.ndarray, things: Sequence[_Drawn], names: Sequence[str], title: str
) -> None:
    image = image.astype(float)
    masked = [thing for thing in things if thing.mask is not None]
    for thing in masked:
        image[thing.mask] = 0.65 * image[thing.mask] + 0.35 * 255 * _color(thing.label)
    ax.imshow(image.astype(np.uint8))
    ax.set_autoscale_on(False)
    ax.set_title(title, fontsize=10)
    for thing in masked:
        if thing.mask.any() and not thing.mask.all():
            ax.contour(thing.mask, [0.5], colors=[_color(thing.label)], linewidths=2)
    for thing in things:
        color = _color(thing.label)
        x1, y1, x2, y2 = thing.box
        style = "dashed" if thing.iscrowd else "solid"
        ax.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, ec=color, linestyle=style))
        text = names[thing.label] + " crowd" * thing.iscrowd
        text += f" {thing.score:.2f}" if thing.score is not None else ""
        ax.annotate(
            text,
            (max(x1, 0), max(y1, 0.07 * len(image))),  # a label above the image would be cut
            fontsize=8,
            va="bottom",
            bbox=dict(facecolor=color, edgecolor="none", pad=1, alpha=0.9),
            in_layout=False,  # a long one must not shrink the image
        )


def _color(label: int) -> np.ndarray:
    """A colour per class; golden-ratio steps in hue keep neighbours apart."""
    return np.array(colorsys.hsv_to_rgb(label * 0.618 % 1, 0.75, 1.0))

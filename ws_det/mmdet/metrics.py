"""COCO's own twelve numbers, unrounded, from MMDetection's predictions."""

from __future__ import annotations

import io
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from mmdet.datasets.api_wrappers import COCO, COCOeval
from mmdet.evaluation import CocoMetric
from mmengine.fileio import load
from mmengine.registry import METRICS

# In the order of COCOeval.stats. The first six are the names that CocoMetric uses.
STATS = (
    *("mAP", "mAP_50", "mAP_75", "mAP_s", "mAP_m", "mAP_l"),
    *("AR_1", "AR_10", "AR_100", "AR_s", "AR_m", "AR_l"),
)


@METRICS.register_module(force=True)
class CocoTwelveMetric(CocoMetric):
    """CocoMetric with COCO's twelve numbers where it gives six, rounded to three digits.

    Only the images that were predicted are counted, and a model that finds nothing gets zeros
    where CocoMetric gives no numbers at all.
    """

    def compute_metrics(self, results: list[tuple[dict, dict]]) -> dict[str, float]:
        """Evaluate.

        Args:
            results: Truth and prediction of each image, as ``process`` collects them.

        Returns:
            ``{"bbox_mAP": ..., ...}`` for each of ``self.metrics`` and each of ``STATS``; -1
            where the set has no object of a size. With ``classwise``,
            ``{"bbox_<name>_mAP": ...}`` too.
        """
        predictions = [prediction for _, prediction in results]
        classes = self.dataset_meta["classes"]
        self.cat_ids = self._coco_api.get_cat_ids(cat_names=classes)
        image_ids = [prediction["img_id"] for prediction in predictions]
        numbers: dict[str, float] = {}
        # pycocotools prints; the report has a table.
        with TemporaryDirectory() as folder, redirect_stdout(io.StringIO()):
            files = self.results2json(predictions, str(Path(folder, "results")))
            for kind in self.metrics:
                found = _as_coco(self._coco_api, load(files[kind]), kind)
                evaluation = COCOeval(self._coco_api, found, kind)
                evaluation.params.catIds, evaluation.params.imgIds = self.cat_ids, image_ids
                evaluation.evaluate()
                evaluation.accumulate()
                evaluation.summarize()
                stats = evaluation.stats.tolist()
                numbers |= {f"{kind}_{name}": value for name, value in zip(STATS, stats)}
                if self.classwise:
                    numbers |= _per_class(evaluation, kind, classes)
        return numbers


def _as_coco(truth: COCO, found: list[dict[str, Any]], kind: str) -> COCO:
    if kind == "segm":
        for result in found:
            del result["bbox"]  # else sizes are judged by the box's area
    if found:
        return truth.loadRes(found)
    nothing = COCO()  # loadRes looks at the first result to know its kind
    nothing.dataset = {**truth.dataset, "annotations": []}
    nothing.createIndex()
    return nothing


def _per_class(evaluated: COCOeval, kind: str, classes: Sequence[str]) -> dict[str, float]:
    # precision: IoU thresholds, recalls, classes, sizes, detections; -1 where there is no truth
    precision = np.ma.masked_less(evaluated.eval["precision"][:, :, :, 0, -1], 0)
    values = precision.mean((0, 1)).filled(-1.0).tolist()
    return {f"{kind}_{name}_mAP": value for name, value in zip(classes, values)}

"""COCO's own twelve numbers, unrounded, from MMDetection's predictions."""

from __future__ import annotations

import pickle
import sys
from tempfile import TemporaryDirectory
from typing import Any

from mmdet.datasets.api_wrappers import COCO
from mmdet.evaluation import CocoMetric, DumpDetResults
from mmengine.logging import MMLogger
from mmengine.registry import METRICS

from ws_det.evaluation import evaluate
from ws_det.evaluation.detections import coco_results
from ws_det.files import replacing

# In the order of ws_det.report.COLUMNS. The first six are the names that CocoMetric uses.
STATS = (
    *("mAP", "mAP_50", "mAP_75", "mAP_s", "mAP_m", "mAP_l"),
    *("AR_1", "AR_10", "AR_100", "AR_s", "AR_m", "AR_l"),
)


class DumpPredictions(DumpDetResults):
    """MMDetection's, whose file names the classes and is there complete or not at all.

    ``dataset_meta`` has to be set. MMDetection's own tools read the file as they read theirs.
    """

    def compute_metrics(self, results: list) -> dict:
        """Write the predictions of all ranks."""
        meta = self.dataset_meta
        metas = meta if isinstance(meta, list) else [meta or {}]  # of sets that were joined
        names = {tuple(meta.get("classes") or ()) for meta in metas} - {()}
        if len(names) == 1:
            (classes,) = names
            results = [{**image, "classes": classes} for image in results]
        with replacing(self.out_file_path) as file:
            pickle.dump(results, file)
        return {}


@METRICS.register_module(force=True)
class CocoTwelveMetric(CocoMetric):
    """CocoMetric with COCO's twelve numbers where it gives six, rounded to three digits.

    Only the images that were predicted are counted, each once however often a sampler repeats it,
    and a model that finds nothing gets zeros where CocoMetric gives no numbers at all.

    Args:
        args: Of ``CocoMetric``.
        backend: One of ``ws_det.evaluation.BACKENDS``, or ``"auto"`` for the fastest.
        kwargs: Of ``CocoMetric``.
    """

    def __init__(self, *args: Any, backend: str = "auto", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.backend = backend

    def evaluate(self, size: int) -> dict[str, float]:
        """Evaluate what all ranks collected.

        MMEngine cuts the results of all ranks to the length of the set, taking for granted that
        the repeated images come last. Here none is cut: they are told by their ids.
        """
        return super().evaluate(sys.maxsize)

    def compute_metrics(self, results: list[tuple[dict, dict]]) -> dict[str, float]:
        """Evaluate.

        Args:
            results: Truth and prediction of each image, as ``process`` collects them.

        Returns:
            ``{"bbox_mAP": ..., ...}`` for each of ``self.metrics`` and each of ``STATS``; -1
            where the set has no object of a size. With ``classwise``,
            ``{"bbox_<name>_mAP": ...}`` and CocoMetric's ``{"<name>_precision": ...}`` too.
        """
        predictions = {prediction["img_id"]: prediction for _, prediction in results}
        if self._coco_api is None:  # the truth is that of the dataset
            truths = {image["img_id"]: image for image, _ in results}
            with TemporaryDirectory() as folder:
                written = self.gt_to_coco_json(list(truths.values()), f"{folder}/truth")
                self._coco_api = COCO(written)
        self.cat_ids = self._coco_api.get_cat_ids(cat_names=self.dataset_meta["classes"])
        if self.outfile_prefix and predictions:
            self.results2json(list(predictions.values()), self.outfile_prefix)
        found: dict[str, list[dict[str, Any]]] = {kind: [] for kind in self.metrics}
        for image, prediction in predictions.items():
            for kind, detections in coco_results(image, prediction, self.cat_ids).items():
                found.setdefault(kind, []).extend(detections)
        truth = {**self._coco_api.dataset, "categories": self._coco_api.load_cats(self.cat_ids)}
        say = MMLogger.get_current_instance().info
        evaluated = evaluate(truth, found, self.metrics, self.backend, predictions, say)
        numbers: dict[str, float] = {}
        for kind, result in evaluated.items():
            numbers |= {f"{kind}_{s}": v for s, v in zip(STATS, result.stats.values())}
            if self.classwise:
                numbers |= {f"{kind}_{n}_mAP": ap for n, ap in result.per_class.items()}
                # by which MMDetection's save_best knows it: of masks, where there are any
                numbers |= {f"{n}_precision": ap for n, ap in result.per_class.items()}
        return numbers

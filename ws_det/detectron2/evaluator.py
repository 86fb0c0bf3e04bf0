"""COCO's own twelve numbers from Detectron2's predictions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from detectron2.evaluation import COCOEvaluator

from ws_det.detectron2.pictures import PicturesEvaluator as PicturesEvaluator  # its old place
from ws_det.evaluation import evaluate
from ws_det.evaluation.backends import choose
from ws_det.report import write_json


class CocoTwelveEvaluator(COCOEvaluator):
    """COCOEvaluator that keeps all twelve numbers, unrounded, where it gives six.

    It counts an image once however often a sampler repeats it, and a model that finds nothing gets
    zeros where COCOEvaluator gives NaN.

    Args:
        dataset_name: Of a registered set.
        tasks: ``"bbox"`` and ``"segm"``.
        output_dir: For the predictions.
        backend: One of ``ws_det.evaluation.BACKENDS``, or ``"auto"`` for the fastest.

    Attributes:
        report: ``{"bbox": {"AP": ..., ...}, "segm": {...}, "images": N}`` of the last evaluation,
            between 0 and 1, -1 where the set has no object of a size; empty on every rank but 0.
    """

    def __init__(
        self, dataset_name: str, tasks: Sequence[str], output_dir: str, backend: str = "auto"
    ) -> None:
        super().__init__(
            dataset_name,
            tasks,
            output_dir=output_dir,
            use_fast_impl=False,
            allow_cached_coco=False,  # of a set without a file, which may have changed since
        )
        self.backend = choose(backend)
        self.report: dict[str, Any] = {}

    def evaluate(self, img_ids: Any = None) -> dict[str, Any]:
        """Detectron2's results, in percent, and ``report``."""
        self.report = {}
        names = self._metadata.get("thing_classes")
        for prediction in self._predictions if names else ():
            prediction["classes"] = names  # what the labels in instances_predictions.pth are
        return super().evaluate(img_ids)

    def _eval_predictions(self, predictions: Sequence[dict[str, Any]], img_ids: Any = None) -> None:
        images = {prediction["image_id"]: prediction["instances"] for prediction in predictions}
        found = [{**detection} for detections in images.values() for detection in detections]
        ids = self._metadata.get("thing_dataset_id_to_contiguous_id", {})
        ids = {label: category for category, label in ids.items()}
        for detection in found:
            label = detection["category_id"]
            detection["category_id"] = ids.get(label, label)
        path = Path(self._output_dir, "coco_instances_results.json")
        write_json(path, found, indent=None)
        if not self._do_evaluation:
            self._logger.info(f"{self._metadata.name} has no annotations: see {path}")
            return
        say = self._logger.info
        evaluated = evaluate(
            self._coco_api.dataset, found, sorted(self._tasks), self.backend, img_ids, say
        )
        for kind, result in evaluated.items():
            self.report[kind] = result.stats
            self.report["images"] = result.images
            numbers = SimpleNamespace(
                stats=[*result.stats.values()], eval={"precision": result.precision}
            )
            names = self._metadata.get("thing_classes")
            self._results[kind] = self._derive_coco_results(numbers, kind, names)

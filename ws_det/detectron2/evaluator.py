"""COCO's own twelve numbers from Detectron2's predictions, and results of several evaluators."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from detectron2.evaluation import COCOEvaluator, DatasetEvaluators
from detectron2.utils import comm

from ws_det.detectron2.pictures import PicturesEvaluator as PicturesEvaluator  # its old place
from ws_det.evaluation import evaluate
from ws_det.evaluation.backends import choose
from ws_det.report import KINDS, write_json

COCO_KEYPOINTS = 17  # of persons, whose sigmas are pycocotools' own


class CocoTwelveEvaluator(COCOEvaluator):
    """COCOEvaluator that keeps all twelve numbers, unrounded, where it gives six.

    It counts an image once however often a sampler repeats it, and a model that finds nothing gets
    zeros where COCOEvaluator gives NaN.

    Args:
        dataset_name: Of a registered set.
        tasks: ``"bbox"``, ``"segm"`` and ``"keypoints"``, which are evaluated as by COCOEvaluator;
            by default what there is in the predictions.
        output_dir: For the predictions.
        backend: One of ``ws_det.evaluation.BACKENDS``, or ``"auto"`` for the fastest.
        others: ``distributed`` and ``kpt_oks_sigmas`` of COCOEvaluator.

    Attributes:
        report: ``{"bbox": {"AP": ..., ...}, "segm": {...}, "images": N}`` of the last evaluation,
            between 0 and 1, -1 where the set has no object of a size; empty on every rank but 0.
    """

    def __init__(
        self,
        dataset_name: str,
        tasks: Sequence[str] | None,
        output_dir: str,
        backend: str = "auto",
        **others: Any,
    ) -> None:
        super().__init__(
            dataset_name,
            tasks,
            output_dir=output_dir,
            use_fast_impl=False,
            allow_cached_coco=False,  # of a set without a file, which may have changed since
            **others,
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
        tasks = self._tasks or self._tasks_from_predictions(found)
        if "keypoints" in tasks:
            self._eval_keypoints(found, img_ids)
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
        kinds = [kind for kind in KINDS if kind in tasks]
        say = self._logger.info
        evaluated = evaluate(self._coco_api.dataset, found, kinds, self.backend, img_ids, say)
        for kind, result in evaluated.items():
            self.report[kind] = result.stats
            self.report["images"] = result.images
            numbers = SimpleNamespace(
                stats=[*result.stats.values()], eval={"precision": result.precision}
            )
            names = self._metadata.get("thing_classes")
            self._results[kind] = self._derive_coco_results(numbers, kind, names)

    def _eval_keypoints(self, found: Sequence[dict[str, Any]], img_ids: Any) -> None:
        """As COCOEvaluator does, where a sigma is known for each keypoint."""
        first = next((entry["keypoints"] for entry in found if "keypoints" in entry), ())
        sigmas = self._kpt_oks_sigmas if self._do_evaluation else ()
        if first and len(first) // 3 != (len(sigmas) or COCO_KEYPOINTS):
            self._logger.warning("Keypoints are not evaluated: a sigma is needed for each.")
            return
        tasks, folder = self._tasks, self._output_dir
        self._tasks, self._output_dir = ("keypoints",), None  # what is written is ours
        try:
            super()._eval_predictions([{"instances": [{**d} for d in found]}], img_ids)
        finally:
            self._tasks, self._output_dir = tasks, folder


class EveryResult(DatasetEvaluators):
    """Detectron2's, which stops after the last image where two evaluators give one task.

    Here that of the later one gets a number: ``bbox_2``.
    """

    def evaluate(self) -> dict[str, Any]:
        """The results of all evaluators by task; empty on every rank but 0."""
        results: dict[str, Any] = {}
        for evaluator in self._evaluators:
            found = evaluator.evaluate()
            if not comm.is_main_process() or not isinstance(found, Mapping):
                continue
            place = 1
            while any(_numbered(task, place) in results for task in found):
                place += 1
            results |= {_numbered(task, place): numbers for task, numbers in found.items()}
        return results


def _numbered(task: str, place: int) -> str:
    return task if place == 1 else f"{task}_{place}"

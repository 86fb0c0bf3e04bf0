"""COCO's own twelve numbers, by pycocotools itself, and pictures, from Detectron2's predictions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from detectron2.data import MetadataCatalog
from detectron2.data.detection_utils import read_image
from detectron2.evaluation import COCOEvaluator, DatasetEvaluator
from detectron2.structures import BoxMode
from detectron2.utils import comm
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from ws_det.pictures import Drawn, Pair, decode_mask, draw_grid
from ws_det.report import COLUMNS


class CocoTwelveEvaluator(COCOEvaluator):
    """COCOEvaluator that keeps all twelve numbers, unrounded, where it gives six.

    It uses pycocotools instead of Detectron2's unofficial implementation, and a model that finds
    nothing gets zeros where COCOEvaluator gives NaN.

    Attributes:
        report: ``{"bbox": {"AP": ..., ...}, "segm": {...}, "images": N}`` of the last evaluation,
            between 0 and 1, -1 where the set has no object of a size; empty on every rank but 0.
    """

    def __init__(self, dataset_name: str, tasks: Sequence[str], output_dir: str) -> None:
        super().__init__(dataset_name, tasks, output_dir=output_dir, use_fast_impl=False)
        self.report: dict[str, Any] = {}

    def evaluate(self, img_ids: Any = None) -> dict[str, Any]:
        """Detectron2's results, in percent, and ``report``."""
        self.report = {}
        results = super().evaluate(img_ids)
        if self.report:
            self.report["images"] = len(self._coco_api.getImgIds())
        return results

    def _derive_coco_results(
        self, coco_eval: COCOeval | None, iou_type: str, class_names: Sequence[str] | None = None
    ) -> dict[str, float]:
        coco_eval = coco_eval or _nothing_found(self._coco_api, iou_type)
        self.report[iou_type] = dict(zip(COLUMNS, coco_eval.stats.tolist()))
        return super()._derive_coco_results(coco_eval, iou_type, class_names)


class PicturesEvaluator(DatasetEvaluator):
    """Draw the first images of a set as truth and as prediction, on rank 0.

    Args:
        dataset: Detectron2's dataset dicts of the set.
        dataset_name: Knows the classes.
        path: PNG to write.
        count: How many images.
        score_thr: Leave out what scores less.
    """

    def __init__(
        self,
        dataset: Sequence[dict[str, Any]],
        dataset_name: str,
        path: str,
        count: int = 8,
        score_thr: float = 0.5,
    ) -> None:
        self.truth = {d["image_id"]: d for d in dataset}
        self.names = MetadataCatalog.get(dataset_name).thing_classes
        self.path, self.count, self.score_thr = path, count, score_thr
        self.pairs: list[Pair] = []

    def reset(self) -> None:
        """Forget the last evaluation."""
        self.pairs = []

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        """Keep the first predictions."""
        for item, output in zip(inputs, outputs):
            if len(self.pairs) < self.count and comm.is_main_process():
                self.pairs.append(self._pair(self.truth[item["image_id"]], output["instances"]))

    def evaluate(self) -> None:
        """Draw."""
        if comm.is_main_process():
            draw_grid(self.pairs, self.names, self.path)

    def _pair(self, truth: dict[str, Any], instances: Any) -> Pair:
        size = truth["height"], truth["width"]
        things = [
            Drawn(
                annotation["category_id"],
                np.asarray(
                    BoxMode.convert(annotation["bbox"], annotation["bbox_mode"], BoxMode.XYXY_ABS)
                ),
                decode_mask(annotation["segmentation"], size)
                if annotation.get("segmentation")
                else None,
                iscrowd=bool(annotation.get("iscrowd", 0)),
            )
            for annotation in truth["annotations"]
        ]
        instances = instances.to("cpu")
        found = instances[instances.scores >= self.score_thr]
        masks = found.pred_masks.numpy() if found.has("pred_masks") else [None] * len(found)
        predicted = [
            Drawn(int(label), box, mask, float(score))
            for label, box, mask, score in zip(
                found.pred_classes, found.pred_boxes.tensor.numpy(), masks, found.scores
            )
        ]
        image = read_image(truth["file_name"], format="RGB")
        return Pair(truth["file_name"].rpartition("/")[2], image, things, predicted)


def _nothing_found(truth: COCO, iou_type: str) -> COCOeval:
    nothing = COCO()
    nothing.dataset = {**truth.dataset, "annotations": []}
    nothing.createIndex()
    evaluation = COCOeval(truth, nothing, iou_type)
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return evaluation

"""Draw the first predictions of a Detectron2 test beside the truth."""

from __future__ import annotations

import os.path as osp
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from detectron2.data import MetadataCatalog
from detectron2.evaluation import DatasetEvaluator
from detectron2.structures import BoxMode
from detectron2.utils import comm
from detectron2.utils.file_io import PathManager

from ws_det.images import check_size, read_image
from ws_det.masks import is_size
from ws_det.pictures import Drawn, Pair, decode_mask, draw_grid, name_below


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
        metadata = MetadataCatalog.get(dataset_name)
        self.names = metadata.get("thing_classes") or range(2**31)  # the labels themselves
        self.folder = metadata.get("image_root")
        self.path, self.count, self.score_thr = path, count, score_thr
        self.pairs: list[Pair] = []

    def reset(self) -> None:
        """Forget the last evaluation."""
        self.pairs = []

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        """Keep the first predictions, with their images.

        Raises:
            InputError: If an image cannot be read, or is not of the size by its annotations.
        """
        for item, output in zip(inputs, outputs):
            if len(self.pairs) < self.count and comm.is_main_process():
                self.pairs.append(self._pair(self.truth[item["image_id"]], output))

    def evaluate(self) -> None:
        """Draw."""
        if comm.is_main_process():
            draw_grid(self.pairs, self.names, self.path)

    def _pair(self, truth: Mapping[str, Any], output: Mapping[str, Any]) -> Pair:
        path = truth["file_name"]
        image = read_image(
            PathManager.get_local_path(path), way_out="replace it, or leave out --show-dir"
        )
        stated = truth.get("height"), truth.get("width")
        if is_size(stated):
            check_size(path, image.shape[:2], stated)
        name = name_below(path, self.folder or osp.dirname(path))
        found = self._found(output["instances"]) if "instances" in output else []
        return Pair(name, image, _things(truth, image.shape[:2]), found)

    def _found(self, instances: Any) -> list[Drawn]:
        instances = instances.to("cpu")
        found = instances[instances.scores >= self.score_thr]
        masks = found.pred_masks.numpy() if found.has("pred_masks") else [None] * len(found)
        boxes = found.pred_boxes.tensor.numpy()
        return [
            Drawn(int(label), box, mask, float(score))
            for label, box, mask, score in zip(found.pred_classes, boxes, masks, found.scores)
        ]


def _things(truth: Mapping[str, Any], size: tuple[int, int]) -> list[Drawn]:
    """What is on an image, by its dataset dict; a set without annotations has nothing."""
    return [
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
        for annotation in truth.get("annotations", ())
    ]

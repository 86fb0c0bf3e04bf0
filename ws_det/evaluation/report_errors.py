"""Why a detector loses AP: its errors sorted by type, as TIDE does (arXiv:2008.08115).

Matching is COCO's own at IoU 0.5, with the 100 best detections of a class in an image, and what
lies in a crowd does not count. A detection without a match is, by the first that holds,

- localization: IoU of 0.1 to 0.5 with an object of its class,
- classification: IoU of 0.5 or more with an object of another class,
- duplicate: IoU of 0.5 or more with an object of its class, which a better detection has,
- background: IoU below 0.1 with every object,
- both: the rest, as badly placed as it is misnamed.

An object without a match is missed, unless a localization or classification error is about it.

The order of the types is that of the authors' code, the paper leaves it open. Two things differ
from that code: it keeps the 100 best detections of an image rather than of a class in it, and it
sorts detections in crowds too.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from typing import Any

import numpy as np

from ws_det.evaluation.numbering import number_predictions, number_truth
from ws_det.evaluation.progress import Progress

TYPES = ("localization", "classification", "duplicate", "background", "both", "missed")
MENDABLE = TYPES[:2]  # would match if their place or class were right
CORRECT = -1
FOREGROUND, BACKGROUND = 0.5, 0.1


@dataclass(frozen=True)
class Sorted:
    """Detections and objects with what became of them; those in crowds are left out.

    Attributes:
        detections: Index of each in the list of predictions.
        outcome: Of each detection: ``CORRECT`` or the place of its type in ``TYPES``.
        target: The object that each detection is about, a place in ``objects``, or -1.
        score: Of each detection.
        category: Of each detection, as a number from 1 in the order of the ids.
        objects: Index of each in the truth's list of annotations.
        object_category: Of each object.
        found: Whether each object has a match.
        missed: Whether each object counts as missed.
    """

    detections: np.ndarray
    outcome: np.ndarray
    target: np.ndarray
    score: np.ndarray
    category: np.ndarray
    objects: np.ndarray
    object_category: np.ndarray
    found: np.ndarray
    missed: np.ndarray


def sort_errors(
    truth: Mapping[str, Any], predictions: Sequence[Mapping[str, Any]], kind: str
) -> Sorted:
    """Sort the detections of an evaluation.

    Args:
        truth: COCO annotations, all of them of its images and categories.
        predictions: COCO results.
        kind: ``"bbox"`` or ``"segm"``.

    Returns:
        What became of each detection and object.

    Raises:
        InputError: As ``evaluate``.
    """
    evaluation = _match(truth, predictions, kind)
    detections, objects = evaluation.cocoDt.anns, evaluation.cocoGt.anns
    kept = [key for key, thing in objects.items() if not thing["iscrowd"]]
    place = {key: index for index, key in enumerate(kept)}
    by_image: dict[int, list[dict]] = {}
    for entry in filter(None, evaluation.evalImgs):
        by_image.setdefault(entry["image_id"], []).append(entry)
    rows: list[tuple[int, int, int]] = []
    progress = Progress("sorting errors")
    for image in sorted(by_image):
        progress.step(len(by_image))
        right, wrong = [], []
        for entry in by_image[image]:
            matches, ignored = entry["dtMatches"][0], entry["dtIgnore"][0]
            for key, match, ignore in zip(entry["dtIds"], matches, ignored):
                if match and not ignore:
                    right.append((key, CORRECT, place[int(match)]))
                elif not ignore:
                    wrong.append(detections[key])
        here = [thing for thing in evaluation.cocoGt.imgToAnns[image] if not thing["iscrowd"]]
        # Within an image in the order of the predictions, which is how COCO orders equal scores.
        rows += sorted(right + _types_of(wrong, here, kind, place))
    keys, outcome, target = np.array(rows, int).reshape(-1, 3).T
    found = np.zeros(len(kept), bool)
    found[target[outcome == CORRECT]] = True
    missed = ~found
    missed[target[np.isin(outcome, [TYPES.index(name) for name in MENDABLE])]] = False
    return Sorted(
        detections=keys - 1,
        outcome=outcome,
        target=target,
        score=np.array([detections[key]["score"] for key in keys], float),
        category=np.array([detections[key]["category_id"] for key in keys], int),
        objects=np.array(kept, int) - 1,
        object_category=np.array([objects[key]["category_id"] for key in kept], int),
        found=found,
        missed=missed,
    )


def count_errors(sorted_: Sorted) -> dict[str, int]:
    """How many errors there are of each type."""
    counts = {name: int((sorted_.outcome == index).sum()) for index, name in enumerate(TYPES)}
    return {**counts, "missed": int(sorted_.missed.sum())}


def _match(truth: Mapping[str, Any], predictions: Sequence[Mapping], kind: str) -> Any:
    """COCO's own matching at IoU 0.5, of sizes all alike."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    progress = Progress("matching boxes" if kind == "bbox" else "matching masks")

    class Told(COCOeval):
        def evaluateImg(self, *cell: Any) -> Any:
            progress.step(len(self.params.imgIds) * len(self.params.catIds))
            return super().evaluateImg(*cell)

    def indexed(annotations: list[dict[str, Any]]) -> COCO:
        coco = COCO()
        coco.dataset = {**numbered.content, "annotations": annotations}
        coco.createIndex()
        return coco

    numbered = number_truth(truth, kind)
    found = [
        {**entry, "id": number, "area": 1, "iscrowd": 0}
        for number, entry in enumerate(number_predictions(predictions, numbered, kind), 1)
    ]
    with redirect_stdout(io.StringIO()):  # it prints
        evaluation = Told(indexed(numbered.content["annotations"]), indexed(found), kind)
        evaluation.params.iouThrs = np.array([FOREGROUND])
        evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, 1e10]], ["all"]
        evaluation.params.maxDets = [100]
        evaluation.evaluate()
    return evaluation


def _types_of(
    wrong: list[dict], objects: list[dict], kind: str, place: dict[int, int]
) -> list[tuple[int, int, int]]:
    """Id, type and target of the detections of an image that match nothing."""
    if not objects or not wrong:
        return [(detection["id"], TYPES.index("background"), -1) for detection in wrong]
    from pycocotools import mask as coco_mask

    field = {"bbox": "bbox", "segm": "segmentation"}[kind]
    sides = [[thing[field] for thing in things] for things in (wrong, objects)]
    iou = np.asarray(coco_mask.iou(*sides, [0] * len(objects)))
    categories = [np.array([t["category_id"] for t in things]) for things in (wrong, objects)]
    same = categories[0][:, None] == categories[1]
    own, other = np.where(same, iou, -1.0), np.where(same, -1.0, iou)
    rows = []
    for index, detection in enumerate(wrong):
        nearest, best = int(own[index].argmax()), own[index].max()
        stranger = int(other[index].argmax())
        if BACKGROUND <= best < FOREGROUND:
            name, target = "localization", nearest
        elif other[index, stranger] >= FOREGROUND:
            name, target = "classification", stranger
        elif best >= FOREGROUND:
            name, target = "duplicate", nearest
        elif iou[index].max() < BACKGROUND:
            name, target = "background", -1
        else:
            name, target = "both", stranger
        about = place[objects[target]["id"]] if target >= 0 else -1
        rows.append((detection["id"], TYPES.index(name), about))
    return rows

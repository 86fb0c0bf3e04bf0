"""From a detector's arrays to COCO results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def coco_results(
    image_id: Any, instances: Mapping[str, Any], category_ids: Sequence[Any]
) -> dict[str, list[dict[str, Any]]]:
    """The detections on one image, as MMDetection has them.

    Args:
        image_id: Of the image.
        instances: Arrays or tensors: ``bboxes`` as corners, ``scores``, ``labels`` and, of a
            detector with masks, ``masks`` as RLE, maybe with ``mask_scores`` of their own.
        category_ids: Of each label.

    Returns:
        COCO results by kind.
    """
    labels = check_labels(instances["labels"].tolist())
    boxes = [[x, y, right - x, low - y] for x, y, right, low in instances["bboxes"].tolist()]
    fields = {"bbox": ("bbox", boxes, "scores")}
    if "masks" in instances:
        scores = "mask_scores" if "mask_scores" in instances else "scores"
        fields["segm"] = ("segmentation", instances["masks"], scores)
    return {
        kind: [
            {"image_id": image_id, "category_id": category_ids[label], "score": score, field: shape}
            for label, score, shape in zip(
                labels, instances[scores].tolist(), shapes, strict=True
            )
        ]
        for kind, (field, shapes, scores) in fields.items()
    }


def check_labels(labels: Sequence[int]) -> Sequence[int]:
    """Labels as they are.

    Raises:
        IndexError: If one is negative, which Python would count from the end.
    """
    if labels and min(labels) < 0:
        raise IndexError(f"the label {min(labels)}")
    return labels

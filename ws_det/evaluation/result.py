"""What an evaluation gives, whichever back end computed it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ws_det.report import COLUMNS

if TYPE_CHECKING:
    import numpy as np

# Of COLUMNS: where precision (AP) or recall (AR) is averaged, as (threshold, area, detections) in
# the axes of Result.precision. None is all thresholds, .50, .55, ... .95.
_ALL, _SMALL, _MEDIUM, _LARGE = range(4)
_1, _10, _100 = range(3)
_CELLS = (
    *((None, _ALL, _100), (0, _ALL, _100), (5, _ALL, _100)),
    *((None, _SMALL, _100), (None, _MEDIUM, _100), (None, _LARGE, _100)),
    *((None, _ALL, _1), (None, _ALL, _10), (None, _ALL, _100)),
    *((None, _SMALL, _100), (None, _MEDIUM, _100), (None, _LARGE, _100)),
)


@dataclass(frozen=True, eq=False)
class Result:
    """COCO's numbers of one kind, between 0 and 1, and -1 where the truth has no such object.

    Attributes:
        kind: ``"bbox"`` or ``"segm"``.
        stats: COCO's twelve numbers by the names of ``ws_det.report.COLUMNS``.
        per_class: AP of each class by its name, in the order of ``class_names``.
        precision: Its axes are T IoU thresholds (.50, .55, ... .95), R recalls (0, .01, ... 1),
            K classes, A areas (all, small, medium, large), and M most detections an image
            (1, 10, 100).
        class_names: Of the K classes, in the order of their ids; the id is added to a name that
            two classes have.
        backend: Which one computed it.
        images: How many were evaluated.
    """

    kind: str
    stats: dict[str, float]
    per_class: dict[str, float]
    precision: np.ndarray
    class_names: list[str]
    backend: str
    images: int


def summarize(precision: np.ndarray, recall: np.ndarray) -> dict[str, float]:
    """COCO's twelve numbers.

    Args:
        precision: As in ``Result``, -1 where there is no truth.
        recall: The same without its axis of recalls.

    Returns:
        They by the names of ``COLUMNS``.
    """
    stats = {}
    for column, (threshold, area, most) in zip(COLUMNS, _CELLS):
        values = precision if column.startswith("AP") else recall
        values = values[..., area, most]
        stats[column] = _mean(values if threshold is None else values[threshold])
    return stats


def class_aps(precision: np.ndarray, names: Sequence[str]) -> dict[str, float]:
    """AP of each class by its name."""
    return {name: _mean(precision[:, :, k, _ALL, _100]) for k, name in enumerate(names)}


def as_report(results: Mapping[str, Result]) -> dict[str, Any]:
    """The numbers as plain data, in the form of ``coco_metrics.json``.

    Args:
        results: By kind.

    Returns:
        ``{"bbox": {"AP": ..., ...}, "segm": {...}, "images": N, "backend": ...,
        "classes": {"bbox": {name: AP}, ...}}``.
    """
    first = next(iter(results.values()))
    return {
        **{kind: result.stats for kind, result in results.items()},
        "images": first.images,
        "backend": first.backend,
        "classes": {kind: result.per_class for kind, result in results.items()},
    }


def _mean(values: np.ndarray) -> float:
    known = values[values > -1]
    return float(known.mean()) if known.size else -1.0

"""What an evaluation gives, whichever back end computed it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Result:
    """COCO's numbers of one kind, between 0 and 1, and -1 where the truth has no such object.

    Attributes:
        kind: ``"bbox"`` or ``"segm"``.
        stats: COCO's twelve numbers by the names of ``ws_det.report.COLUMNS``.
        per_class: AP of each class by its name, in the order of ``class_names``.
        precision: Its axes are T IoU thresholds (.50, .55, ... .95), R recalls (0, .01, ... 1),
            K classes, A areas (all, small, medium, large), and M most detections an image
            (1, 10, 100).
        class_names: Of the K classes, in the order of their ids.
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

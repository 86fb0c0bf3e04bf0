"""The numbers of the report page, as JSON holds them: per class, per size, curves, errors."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ws_det.evaluation.report_costs import cost_of_errors
from ws_det.evaluation.report_errors import CORRECT, Sorted, count_errors
from ws_det.evaluation.result import Result

CURVES = (".50", ".75", ".50:.95")
SIZES = {"small": (0, 32**2), "medium": (32**2, 96**2), "large": (96**2, 1e10)}
_DIGITS = 5


def truth_numbers(truth: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """How many images and objects there are, crowds left out, by class and by size."""
    objects = [thing for thing in truth["annotations"] if not thing.get("iscrowd", 0)]
    counts = by_class(truth, objects)
    areas = np.array([thing["area"] for thing in objects], float)
    return {
        "images": len(truth["images"]),
        "objects": len(objects),
        "classes": [{"name": name, "objects": count} for name, count in zip(names, counts)],
        # An area on a boundary counts on both sides, as it does in COCO.
        "sizes": {
            name: int(((areas >= low) & (areas <= high)).sum())
            for name, (low, high) in SIZES.items()
        },
    }


def by_class(truth: Mapping[str, Any], things: Sequence[Mapping[str, Any]]) -> list[int]:
    """How many things there are of each category, in the order of their ids."""
    counts = Counter(thing["category_id"] for thing in things)
    return [counts[key] for key in sorted({category["id"] for category in truth["categories"]})]


def result_numbers(result: Result, found: Sorted) -> dict[str, Any]:
    """The numbers of one run and kind; None where the truth has no such object.

    Args:
        result: What the evaluation gave.
        found: The detections of the same run and kind, sorted.

    Returns:
        ``stats``: COCO's twelve; ``classes``: AP, AP50, AP75, APs, APm and APl of each class;
        ``curves``: precision at 101 recalls for each of ``CURVES``, of the mean and each class;
        ``errors``: by type how many and the AP50 they cost; ``best``: see ``best_threshold``.
    """
    precision = result.precision[..., -1]  # up to 100 detections
    half, strict = precision[0], precision[5]  # at IoU .50 and .75
    columns = [
        *(_mean(part[..., 0]) for part in (precision, half[None], strict[None])),
        *(_mean(precision[..., area]) for area in (1, 2, 3)),
    ]
    curves = np.stack([half[..., 0], strict[..., 0], precision[..., 0].mean(axis=0)])  # (3, R, K)
    known = curves[:, :, (curves >= 0).all(axis=(0, 1))]
    counts, costs = count_errors(found), cost_of_errors(found)
    return {
        "stats": {name: _rounded(value) for name, value in result.stats.items()},
        "classes": [[_rounded(column[k]) for column in columns] for k in range(half.shape[1])],
        "curves": {
            "mean": _curves(known.mean(axis=2)) if known.size else None,
            "classes": [
                _curves(curves[:, :, k]) if (curves[:, :, k] >= 0).all() else None
                for k in range(half.shape[1])
            ],
        },
        "errors": {
            name: {"count": counts[name], "cost": _rounded(max(costs[name], 0))} for name in counts
        },
        "best": best_threshold(found),
    }


def best_threshold(found: Sorted) -> dict[str, float]:
    """The score from which on detections give the highest F1 at IoU 0.5, all classes together.

    Returns:
        ``threshold``, ``f1``, ``precision`` and ``recall`` of the detections with that score or
        more; the threshold is 1 if none is correct.
    """
    order = np.argsort(-found.score, kind="stable")
    score, hits = found.score[order], np.cumsum(found.outcome[order] == CORRECT)
    kept = np.arange(1, len(order) + 1)
    f1 = 2 * hits / (kept + len(found.objects))
    f1[:-1][score[:-1] == score[1:]] = 0  # equal scores stay together
    if not f1.any():
        return {"threshold": 1.0, "f1": 0.0, "precision": 0.0, "recall": 0.0}
    at = int(f1.argmax())
    return {
        "threshold": float(score[at]),
        "f1": float(f1[at]),
        "precision": float(hits[at] / kept[at]),
        "recall": float(hits[at] / len(found.objects)),
    }


def _mean(precision: np.ndarray) -> np.ndarray:
    """The AP of each class from (T, R, K), -1 where there is no object."""
    kept = precision >= 0
    return np.where(
        kept.any(axis=(0, 1)),
        np.where(kept, precision, 0).sum(axis=(0, 1)) / np.maximum(kept.sum(axis=(0, 1)), 1),
        -1,
    )


def _rounded(value: float) -> float | None:
    return None if value < 0 else round(float(value), _DIGITS)


def _curves(precision: np.ndarray) -> list[list[float]]:
    return [[round(value, 4) for value in curve] for curve in precision.tolist()]

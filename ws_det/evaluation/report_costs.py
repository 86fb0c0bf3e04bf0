"""What each type of error costs: the AP50 that is gained when it alone is put right (TIDE).

A localization or classification error becomes a match if it is the best one about an object that
has none, and goes otherwise; duplicates, background and both go; missed objects are not asked for.
"""

from __future__ import annotations

import numpy as np

from ws_det.evaluation.report_errors import CORRECT, MENDABLE, TYPES, Sorted

_RECALLS = np.linspace(0, 1, 101)


def cost_of_errors(sorted_: Sorted) -> dict[str, float]:
    """The AP50 that is gained when errors of one type alone are put right, by type."""
    base = _mean_ap(sorted_, sorted_.outcome == CORRECT)
    costs = {}
    for index, name in enumerate(TYPES):
        if name == "missed":
            fixed = _mean_ap(sorted_, sorted_.outcome == CORRECT, asked=~sorted_.missed)
        else:
            fixed = _without(sorted_, index)
        costs[name] = fixed - base
    return costs


def _without(sorted_: Sorted, index: int) -> float:
    """AP50 with the errors of one type put right."""
    correct, category = sorted_.outcome == CORRECT, sorted_.category.copy()
    errors = np.flatnonzero(sorted_.outcome == index)
    kept = sorted_.outcome != index
    if TYPES[index] in MENDABLE:
        errors = errors[~sorted_.found[sorted_.target[errors]]]
        errors = errors[np.argsort(-sorted_.score[errors], kind="stable")]
        best = errors[np.unique(sorted_.target[errors], return_index=True)[1]]
        kept[best] = correct[best] = True
        category[best] = sorted_.object_category[sorted_.target[best]]
    return _mean_ap(sorted_, correct, kept, category)


def _mean_ap(
    sorted_: Sorted,
    correct: np.ndarray,
    kept: np.ndarray | None = None,
    category: np.ndarray | None = None,
    asked: np.ndarray | None = None,
) -> float:
    """AP50 over the classes that have objects, at COCO's 101 recalls."""
    kept = np.ones(len(correct), bool) if kept is None else kept
    category = sorted_.category if category is None else category
    asked = np.ones(len(sorted_.objects), bool) if asked is None else asked
    aps = []
    for key in np.unique(sorted_.object_category[asked]):
        of_class = np.flatnonzero(kept & (category == key))
        order = of_class[np.argsort(-sorted_.score[of_class], kind="stable")]
        objects = (asked & (sorted_.object_category == key)).sum()
        aps.append(_ap(correct[order], int(objects)))
    return float(np.mean(aps)) if aps else 0.0


def _ap(correct: np.ndarray, objects: int) -> float:
    hits = np.cumsum(correct)
    precision = hits / np.arange(1, len(hits) + 1)
    precision = np.maximum.accumulate(precision[::-1])[::-1]
    places = np.searchsorted(hits / objects, _RECALLS)
    return float(np.append(precision, 0.0)[np.minimum(places, len(hits))].mean())

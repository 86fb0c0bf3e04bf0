"""What types of errors cost. Oracle: pycocotools, on predictions or truth that were put right."""

from __future__ import annotations

from copy import deepcopy

import pytest

pytest.importorskip("pycocotools", reason="the oracle is pycocotools")

import numpy as np

from ws_det.evaluation import evaluate
from ws_det.evaluation.report_costs import cost_of_errors
from ws_det.evaluation.report_errors import CORRECT, MENDABLE, TYPES, Sorted, sort_errors

CATEGORIES = (3, 7, 8)


def random_set(seed: int) -> tuple[dict, list[dict]]:
    """Objects apart from each other, and detections with all kinds of errors, scores with ties."""
    rng = np.random.default_rng(seed)
    objects, found = [], []
    for image in range(20):
        for slot in range(rng.integers(0, 6)):
            category = int(rng.choice(CATEGORIES))
            box = [100.0 * slot, 0.0, 40.0, 40.0]
            entry = {"image_id": image, "category_id": category, "bbox": box, "area": 1600.0}
            objects.append({**entry, "id": len(objects), "iscrowd": int(rng.random() < 0.05)})
            for _ in range(rng.integers(0, 4)):
                moved = box[0] + rng.choice([0, 2, 15, 20, 50])
                other = category if rng.random() < 0.7 else int(rng.choice(CATEGORIES))
                score = round(float(rng.random()), 1)
                place = [float(moved), *box[1:]]
                found.append(
                    {"image_id": image, "category_id": other, "bbox": place, "score": score}
                )
    truth = {
        "images": [{"id": image, "file_name": f"{image}.jpg"} for image in range(20)],
        "categories": [{"id": key, "name": str(key)} for key in CATEGORIES],
        "annotations": objects,
    }
    return truth, found


def ap50(truth: dict, found: list[dict]) -> float:
    return evaluate(truth, found, ["bbox"], "pycocotools")["bbox"].stats["AP50"]


def put_right(truth: dict, found: list[dict], errors: Sorted, name: str) -> tuple[dict, list[dict]]:
    """The set without the errors of one type, made by hand."""
    if name == "missed":
        gone = set(errors.objects[errors.missed].tolist())
        kept = [entry for i, entry in enumerate(truth["annotations"]) if i not in gone]
        return {**truth, "annotations": kept}, found
    found, dropped, mended = deepcopy(found), set(), set()
    wrong = np.flatnonzero(errors.outcome == TYPES.index(name))
    for i in sorted(wrong, key=lambda i: -errors.score[i]):
        at, target = errors.detections[i], errors.target[i]
        if name not in MENDABLE or errors.found[target] or target in mended:
            dropped.add(at)
            continue
        mended.add(target)
        right = truth["annotations"][errors.objects[target]]
        found[at] |= {"bbox": right["bbox"], "category_id": right["category_id"]}
    return truth, [entry for at, entry in enumerate(found) if at not in dropped]


@pytest.mark.parametrize("seed", range(5))
def test_costs_are_those_of_sets_put_right(seed: int) -> None:
    """To 1e-9: both average the same 101 precisions, in another order."""
    truth, found = random_set(seed)
    errors = sort_errors(truth, found, "bbox")
    base, costs = ap50(truth, found), cost_of_errors(errors)
    assert all((errors.outcome == i).any() for i in (CORRECT, *range(5))) and errors.missed.any()
    for name in TYPES:
        assert costs[name] == pytest.approx(
            ap50(*put_right(truth, found, errors, name)) - base, abs=1e-9
        ), name


def test_no_detections_cost_nothing_but_what_is_missed() -> None:
    """Without anything to ask for there is no class left, and no AP."""
    truth, _ = random_set(0)
    costs = cost_of_errors(sort_errors(truth, [], "bbox"))
    assert set(costs.values()) == {0.0}

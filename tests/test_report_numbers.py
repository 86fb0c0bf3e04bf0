"""The numbers of the report page. Oracle: pycocotools, called by the test itself."""

from __future__ import annotations

import io
import json
from contextlib import redirect_stdout
from typing import Any

import pytest

pytest.importorskip("pycocotools", reason="the oracle is pycocotools")

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from ws_det.evaluation import evaluate
from ws_det.evaluation.report_errors import CORRECT, sort_errors
from ws_det.evaluation.report_numbers import best_threshold, result_numbers, truth_numbers
from ws_det.report import COLUMNS

NAMES = {9: "no objects", 3: "cat", 7: "dog"}
SIDES = (20, 32, 60, 96, 150)  # areas on COCO's boundaries too
CELLS = ((None, 0), (0, 0), (5, 0), (None, 1), (None, 2), (None, 3))  # IoU, area of each column


@pytest.fixture(scope="module")
def scene() -> tuple[dict, list[dict]]:
    rng = np.random.default_rng(0)
    objects, found = [], []
    for image in range(1, 31):
        for slot in range(rng.integers(0, 5)):
            side = float(rng.choice(SIDES))
            entry = {"image_id": image, "category_id": int(rng.choice([3, 7]))}
            entry["bbox"] = [200.0 * slot, 0.0, side, side]
            crowd = int(rng.random() < 0.1)
            objects.append({**entry, "id": len(objects) + 1, "area": side**2, "iscrowd": crowd})
            for _ in range(rng.integers(0, 3)):
                moved = entry["bbox"][0] + float(rng.normal(0, 0.2 * side))
                score = round(float(rng.random()), 2)
                found.append({**entry, "bbox": [moved, *entry["bbox"][1:]], "score": score})
    truth = {
        "images": [{"id": i, "file_name": f"{i}.jpg"} for i in range(1, 31)],
        "categories": [{"id": key, "name": name} for key, name in NAMES.items()],
        "annotations": objects,
    }
    return truth, found


@pytest.fixture(scope="module")
def reference(scene: tuple[dict, list[dict]]) -> COCOeval:
    truth, found = json.loads(json.dumps(scene))  # pycocotools writes into them
    with redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = truth
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(found), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


@pytest.fixture(scope="module")
def numbers(scene: tuple[dict, list[dict]]) -> dict[str, Any]:
    result = evaluate(*scene, ["bbox"], "pycocotools")["bbox"]
    return result_numbers(result, sort_errors(*scene, "bbox"))


def test_stats_are_pycocotools(numbers: dict[str, Any], reference: COCOeval) -> None:
    """To the five digits that the page has."""
    assert list(numbers["stats"]) == list(COLUMNS)
    assert list(numbers["stats"].values()) == pytest.approx(reference.stats, abs=5.1e-6)


def test_class_rows_are_pycocotools(numbers: dict[str, Any], reference: COCOeval) -> None:
    precision = reference.eval["precision"][..., -1]
    assert reference.params.catIds == sorted(NAMES)
    for k, row in enumerate(numbers["classes"]):
        for value, (threshold, area) in zip(row, CELLS, strict=True):
            part = (
                precision[:, :, k, area] if threshold is None else precision[threshold, :, k, area]
            )
            part = part[part > -1]
            assert value == (pytest.approx(part.mean(), abs=5.1e-6) if len(part) else None)
    assert numbers["classes"][2] == [None] * 6  # the class without objects
    assert None not in numbers["classes"][0]


def test_curves_are_read_from_precision(numbers: dict[str, Any], reference: COCOeval) -> None:
    """To four digits; the mean leaves out the class without objects."""
    precision = reference.eval["precision"][..., 0, -1]
    expected = [precision[0], precision[5], precision.mean(axis=0)]
    for panel, curve in enumerate(expected):
        for k in (0, 1):
            got = numbers["curves"]["classes"][k][panel]
            np.testing.assert_allclose(got, curve[:, k], atol=5.1e-5)
        mean = numbers["curves"]["mean"][panel]
        np.testing.assert_allclose(mean, curve[:, :2].mean(axis=1), atol=5.1e-5)
        column = ("AP50", "AP75", "AP")[panel]
        assert np.mean(mean) == pytest.approx(numbers["stats"][column], abs=5.1e-5)
    assert numbers["curves"]["classes"][2] is None


def test_truth_is_counted_without_crowds(scene: tuple[dict, list[dict]]) -> None:
    truth, _ = scene
    shown = truth_numbers(truth, [NAMES[key] for key in sorted(NAMES)])
    objects = [entry for entry in truth["annotations"] if not entry["iscrowd"]]
    assert len(objects) < len(truth["annotations"])
    assert (shown["images"], shown["objects"]) == (30, len(objects))
    assert [entry["name"] for entry in shown["classes"]] == ["cat", "dog", "no objects"]
    counts = [sum(entry["category_id"] == key for entry in objects) for key in (3, 7, 9)]
    assert [entry["objects"] for entry in shown["classes"]] == counts
    sides = np.array([entry["bbox"][2] for entry in objects])
    assert shown["sizes"] == {
        "small": (sides <= 32).sum(),
        "medium": ((sides >= 32) & (sides <= 96)).sum(),
        "large": (sides >= 96).sum(),
    }


def test_threshold_is_the_best_of_all(scene: tuple[dict, list[dict]]) -> None:
    """Against a try of every score there is."""
    found = sort_errors(*scene, "bbox")
    best = best_threshold(found)
    tries = {}
    for score in np.unique(found.score):
        kept = found.score >= score
        hits = (found.outcome[kept] == CORRECT).sum()
        tries[score] = 2 * hits / (kept.sum() + len(found.objects))
    assert best["f1"] == pytest.approx(max(tries.values()))
    assert tries[best["threshold"]] == max(tries.values())
    precision, recall = best["precision"], best["recall"]
    assert best["f1"] == pytest.approx(2 * precision * recall / (precision + recall))


def test_equal_scores_stay_together(scene: tuple[dict, list[dict]]) -> None:
    """One object, a hit and a miss of one score: F1 2/3, not 1."""
    truth = {**scene[0], "annotations": [{**scene[0]["annotations"][0], "iscrowd": 0}]}
    hit = {**truth["annotations"][0], "score": 0.5}
    found = [hit, {**hit, "bbox": [900.0, 0.0, 20.0, 20.0]}]
    best = best_threshold(sort_errors(truth, found, "bbox"))
    assert best == {"threshold": 0.5, "f1": 2 / 3, "precision": 0.5, "recall": 1.0}


def test_nothing_found_has_zeros(scene: tuple[dict, list[dict]]) -> None:
    truth, _ = scene
    result = evaluate(truth, [], ["bbox"], "pycocotools")["bbox"]
    numbers = result_numbers(result, sort_errors(truth, [], "bbox"))
    assert set(numbers["stats"].values()) == {0}
    assert numbers["best"]["f1"] == 0 and numbers["best"]["threshold"] == 1


def test_no_objects_has_no_numbers(scene: tuple[dict, list[dict]]) -> None:
    truth, found = {**scene[0], "annotations": []}, scene[1]
    result = evaluate(truth, found, ["bbox"], "pycocotools")["bbox"]
    numbers = result_numbers(result, sort_errors(truth, found, "bbox"))
    assert set(numbers["stats"].values()) == {None} and numbers["curves"]["mean"] is None
    json.dumps(numbers, allow_nan=False)

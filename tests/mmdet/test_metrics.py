"""COCO's twelve numbers and their report. Oracle: pycocotools with its own defaults."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from ws_det.mmdet import report
from ws_det.mmdet.metrics import STATS, CocoTwelveMetric


def jittered(truth: COCO, seed: int) -> list[dict]:
    """Predictions near the truth, one in four of a wrong class: every number is between 0 and 1."""
    rng = np.random.default_rng(seed)
    ids = truth.getCatIds()
    predictions = []
    for image in truth.loadImgs(truth.getImgIds()):
        annotations = truth.loadAnns(truth.getAnnIds(imgIds=[image["id"]]))
        boxes = np.array([a["bbox"] for a in annotations]).reshape(-1, 4)
        boxes = boxes + rng.normal(0, 0.05, boxes.shape) * boxes[:, 2:].mean(1, keepdims=True)
        boxes[:, 2:] += boxes[:, :2]
        labels = np.array([ids.index(a["category_id"]) for a in annotations], dtype=np.int64)
        wrong = rng.random(len(labels)) < 0.25
        labels[wrong] = rng.integers(0, len(ids), wrong.sum())
        masks = [np.roll(truth.annToMask(a), rng.integers(0, 3), 0) for a in annotations]
        masks = np.array(masks).reshape(-1, image["height"], image["width"])
        predictions.append(
            {
                "img_id": image["id"],
                "ori_shape": (image["height"], image["width"]),
                "pred_instances": {
                    "bboxes": torch.tensor(boxes, dtype=torch.float32),
                    "labels": torch.tensor(labels),
                    "scores": torch.tensor(rng.random(len(labels)), dtype=torch.float32),
                    "masks": torch.tensor(masks, dtype=torch.bool),
                },
            }
        )
    return predictions


def evaluate(file: Path, predictions: list[dict], **options: bool) -> tuple[CocoTwelveMetric, dict]:
    metric = CocoTwelveMetric(ann_file=str(file), metric=["bbox", "segm"], **options)
    names = [c["name"] for c in json.loads(file.read_text())["categories"]]
    metric.dataset_meta = {"classes": names}
    metric.process({}, predictions)
    return metric, metric.evaluate(len(predictions))


def test_equals_pycocotools(tiny_coco: Path, tmp_path: Path) -> None:
    """All 24 numbers, to the last bit, on real annotations with crowds and non-contiguous ids."""
    file = tiny_coco / "annotations/instances_train2017.json"
    truth = COCO(str(file))
    predictions = jittered(truth, seed=0)
    metric, numbers = evaluate(file, predictions, classwise=True)
    files = metric.results2json([p for _, p in collected(metric, predictions)], str(tmp_path / "r"))
    for kind in ("bbox", "segm"):
        found = json.loads(Path(files[kind]).read_text())
        if kind == "segm":
            found = [{k: v for k, v in result.items() if k != "bbox"} for result in found]
        evaluation = COCOeval(truth, truth.loadRes(found), kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
        ours = [numbers[f"coco/{kind}_{name}"] for name in STATS]
        assert ours == evaluation.stats.tolist() and 0.05 < ours[0] < 0.95
        names = [category["name"] for category in truth.dataset["categories"]]
        per_class = [numbers[f"coco/{kind}_{name}_mAP"] for name in names]
        # COCO's AP is the mean of its classes' APs, up to the rounding of a sum of 40 floats
        assert np.mean([v for v in per_class if v > -1]) == pytest.approx(ours[0], abs=1e-9)


def collected(metric: CocoTwelveMetric, predictions: list[dict]) -> list[tuple[dict, dict]]:
    """What the metric keeps of the predictions."""
    metric.results.clear()
    metric.process({}, predictions)
    return metric.results


def test_nothing_found(coco_set: Path) -> None:
    """A model that finds nothing has AP 0, not no AP; -1 only where the set has no such size."""
    file = coco_set / "annotations/instances_val2017.json"
    none = [
        {
            "img_id": i,
            "ori_shape": (64, 96),
            "pred_instances": {
                "bboxes": torch.zeros(0, 4),
                "labels": torch.zeros(0, dtype=torch.long),
                "scores": torch.zeros(0),
                "masks": torch.zeros(0, 64, 96, dtype=torch.bool),
            },
        }
        for i in range(1, 5)
    ]
    _, numbers = evaluate(file, none)
    assert numbers["coco/bbox_mAP"] == numbers["coco/segm_mAP"] == 0
    assert numbers["coco/bbox_mAP_l"] == -1


def test_long_evaluations_say_how_far_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: by hand; 3 of 4 batches in 18 s leave 6 s, and no two lines in ten seconds."""
    said: list[str] = []
    runner = SimpleNamespace(logger=SimpleNamespace(info=said.append), test_dataloader=range(4))
    hook = report.CocoReportHook()
    clock = iter([0.0, 3.0, 9.0, 18.0, 21.0])
    monkeypatch.setattr(report.time, "monotonic", lambda: next(clock))
    hook.before_test_epoch(runner)
    for batch in range(4):
        hook.after_test_iter(runner, batch)
    assert said == ["evaluating: 3/4 batches, about 0:00:06 left"]

"""COCO's twelve numbers and their report. Oracle: pycocotools with its own defaults."""

from __future__ import annotations

import copy
import json
import os
import socket
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from mmdet.evaluation import DumpDetResults
from mmengine.dataset import DefaultSampler
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import distributed as dist
from torch import multiprocessing as mp

from tests.conftest import write_set
from ws_det.evaluation import BACKENDS
from ws_det.evaluation import evaluate as evaluate_saved
from ws_det.evaluation.saved import read_saved
from ws_det.leaving import leave_group
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


def metric_of(file: Path, **options: Any) -> CocoTwelveMetric:
    metric = CocoTwelveMetric(ann_file=str(file), metric=["bbox", "segm"], **options)
    names = [c["name"] for c in json.loads(file.read_text())["categories"]]
    metric.dataset_meta = {"classes": names}
    return metric


def evaluate(file: Path, predictions: list[dict], **options: Any) -> tuple[CocoTwelveMetric, dict]:
    metric = metric_of(file, **options)
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


def evaluate_on_rank(rank: int, port: int, file: str, folder: str) -> None:
    """Evaluate shares that MMEngine's sampler made, and shares whose repeat is not at the end."""
    os.environ |= dict(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=2)
    predictions = jittered(COCO(file), seed=0)
    numbers = []
    for share in (list(DefaultSampler(range(5), shuffle=False)), [[0, 1, 2], [2, 3, 4]][rank]):
        assert len(share) == 3
        metric = metric_of(Path(file), collect_device="gpu", classwise=True)
        for i in share:
            metric.process({}, predictions[i : i + 1])
        numbers.append(metric.evaluate(5))
    Path(folder, f"{rank}.json").write_text(json.dumps(numbers))
    leave_group()


def test_two_processes_equal_one(tmp_path: Path) -> None:
    """Five images on two processes: one repeats, and counts once. Oracle: one process."""
    file = write_set(tmp_path / "set", train=1, val=5) / "annotations/instances_val2017.json"
    predictions = jittered(COCO(str(file)), seed=0)
    _, alone = evaluate(file, predictions, classwise=True)
    assert 0.05 < alone["coco/bbox_mAP"] < 0.95
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # Not by fork: the threads of hotcoco, which another test may have started, would be missing.
    mp.start_processes(
        evaluate_on_rank, (port, str(file), str(tmp_path)), nprocs=2, start_method="spawn"
    )
    for rank in range(2):
        assert json.loads((tmp_path / f"{rank}.json").read_text()) == [alone, alone]


def test_an_image_twice_counts_once(coco_set: Path) -> None:
    file = coco_set / "annotations/instances_val2017.json"
    predictions = jittered(COCO(str(file)), seed=0)
    _, once = evaluate(file, predictions)
    _, twice = evaluate(file, [*predictions, *predictions[1:3]])
    assert twice == once


def test_classes_have_their_own_aps(coco_set: Path, tmp_path: Path) -> None:
    """Also where the categories of the file are not in the order of their ids."""
    content = json.loads((coco_set / "annotations/instances_val2017.json").read_text())
    content["categories"].reverse()
    file = tmp_path / "reversed.json"
    file.write_text(json.dumps(content))
    names = {c["id"]: c["name"] for c in content["categories"]}
    ids = [c["id"] for c in content["categories"]]
    predictions = jittered(COCO(str(file)), seed=0)
    for prediction in predictions:  # none of the class of the second label
        found = prediction["pred_instances"]
        kept = found["labels"] == 0
        prediction["pred_instances"] = {key: value[kept] for key, value in found.items()}
    _, numbers = evaluate(file, predictions, classwise=True)
    assert numbers[f"coco/bbox_{names[ids[0]]}_mAP"] > 0
    assert numbers[f"coco/bbox_{names[ids[1]]}_mAP"] == 0


@pytest.mark.parametrize("backend", BACKENDS)
def test_back_ends(backend: str, coco_set: Path) -> None:
    pytest.importorskip(BACKENDS[backend].module)
    file = coco_set / "annotations/instances_val2017.json"
    predictions = jittered(COCO(str(file)), seed=0)
    _, reference = evaluate(file, predictions, backend="pycocotools")
    # Sums in another order
    assert evaluate(file, predictions, backend=backend)[1] == pytest.approx(reference, abs=1e-9)


def test_the_results_are_kept_where_the_config_says(coco_set: Path, tmp_path: Path) -> None:
    """`outfile_prefix` writes what tools/evaluate.py reads. Oracle: the numbers of both."""
    file = coco_set / "annotations/instances_val2017.json"
    predictions = jittered(COCO(str(file)), seed=0)
    _, numbers = evaluate(file, predictions, outfile_prefix=str(tmp_path / "kept"))
    for kind in ("bbox", "segm"):
        stats = evaluate_saved(file, tmp_path / f"kept.{kind}.json", [kind])[kind].stats
        ours = [numbers[f"coco/{kind}_{name}"] for name in STATS]
        assert list(stats.values()) == pytest.approx(ours, abs=1e-9)  # sums in another order


def test_a_dump_gives_the_same_numbers(coco_set: Path, tmp_path: Path) -> None:
    """MMDetection's own DumpDetResults, read by tools/evaluate.py."""
    file = coco_set / "annotations/instances_val2017.json"
    predictions = jittered(COCO(str(file)), seed=0)
    _, numbers = evaluate(file, copy.deepcopy(predictions))
    dump = DumpDetResults(str(tmp_path / "found.pkl"))
    dump.process({}, predictions)
    dump.evaluate(len(predictions))
    results = evaluate_saved(file, read_saved(tmp_path / "found.pkl", file))
    for kind, result in results.items():
        ours = [numbers[f"coco/{kind}_{name}"] for name in STATS]
        assert list(result.stats.values()) == pytest.approx(ours, abs=1e-9)
    assert list(results) == ["bbox", "segm"]


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

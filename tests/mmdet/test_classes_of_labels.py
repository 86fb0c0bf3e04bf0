"""Saved predictions of a detector that knows some of the categories.

Oracle: MMDetection's own CocoMetric, told the detector's classes as a run tells it.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmdet.evaluation import CocoMetric, DumpDetResults
from mmengine.fileio import load

from tests.coco_cases import random_case
from tools import evaluate
from ws_det.mmdet.metrics import DumpPredictions

SEEDS = [seed for seed in range(40, 70) if seed % 10 != 9]  # there CocoMetric counts beyond 100


def of_some_classes(seed: int, file: Path) -> tuple[list[str], list[dict[str, Any]]]:
    """Write the truth of a case; a detector's classes and what it found of them."""
    truth, found = random_case(seed)
    for thing in truth["annotations"]:
        del thing["ignore"]  # of which there is a warning
    rng = np.random.default_rng(seed)
    rng.shuffle(truth["categories"])
    file.write_text(json.dumps(truth))
    known = [c for c in truth["categories"] if rng.random() < 0.75] or truth["categories"][-1:]
    labels = {category["id"]: label for label, category in enumerate(known)}
    samples = []
    for image in truth["images"]:
        of_image = [f for f in found if f["image_id"] == image["id"] and f["category_id"] in labels]
        boxes = np.array([f["bbox"] for f in of_image], np.float32).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        instances = {
            "bboxes": torch.tensor(boxes),
            "labels": torch.tensor([labels[f["category_id"]] for f in of_image], dtype=torch.long),
            "scores": torch.tensor([f["score"] for f in of_image], dtype=torch.float32),
        }
        size = (image["height"], image["width"])
        samples.append({"img_id": image["id"], "ori_shape": size, "pred_instances": instances})
    return [category["name"] for category in known], samples


def in_the_run(file: Path, names: list[str], samples: list[dict[str, Any]]) -> list[float]:
    metric = CocoMetric(ann_file=str(file), metric="bbox")
    metric.dataset_meta = {"classes": tuple(names)}
    metric.process({}, copy.deepcopy(samples))
    numbers = metric.evaluate(len(samples))
    return [numbers[f"coco/bbox_{name}"] for name in ("mAP", "mAP_50", "mAP_75", "mAP_s")]


def dumped(dump: DumpDetResults, names: list[str], samples: list[dict[str, Any]]) -> None:
    dump.dataset_meta = {"classes": tuple(names)}
    dump.process({}, copy.deepcopy(samples))
    dump.evaluate(len(samples))


@pytest.mark.parametrize("seed", SEEDS)
def test_a_detector_of_some_classes(
    seed: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The classes are in our file; for MMDetection's own they are given, or a warning asks."""
    file = tmp_path / "truth.json"
    names, samples = of_some_classes(seed, file)
    if not any(len(sample["pred_instances"]["labels"]) for sample in samples):
        return  # CocoMetric has no numbers then
    if all(thing["iscrowd"] for thing in json.loads(file.read_text())["annotations"]):
        return  # there is nothing to evaluate by, which is refused
    expected = in_the_run(file, names, samples)
    dumped(DumpPredictions(str(tmp_path / "ours.pkl")), names, samples)
    dumped(DumpDetResults(str(tmp_path / "theirs.pkl")), names, samples)
    for dump, flags in (("ours.pkl", []), ("theirs.pkl", ["--classes", *names])):
        out = tmp_path / "numbers.json"
        evaluate.main([str(tmp_path / dump), str(file), "--out", str(out), *flags])
        numbers = list(json.loads(out.read_text())["bbox"].values())
        # CocoMetric rounds to three digits
        assert numbers[:4] == pytest.approx(expected, abs=5.1e-4), dump
        assert "warning" not in capsys.readouterr().err
    if len(names) < len(json.loads(file.read_text())["categories"]):
        evaluate.main([str(tmp_path / "theirs.pkl"), str(file)])
        assert "do not say their classes" in capsys.readouterr().err


def test_mmdetection_evaluates_our_file_as_its_own(tmp_path: Path) -> None:
    """As its tools/analysis_tools/eval_metric.py does: load, process, evaluate."""
    file = tmp_path / "truth.json"
    names, samples = of_some_classes(46, file)
    dumped(DumpPredictions(str(tmp_path / "ours.pkl")), names, samples)
    images = load(str(tmp_path / "ours.pkl"))
    assert {image["classes"] for image in images} == {tuple(names)}
    assert in_the_run(file, names, images) == in_the_run(file, names, samples)


def test_other_names_and_another_order(tmp_path: Path, refusal) -> None:
    """By name against a file in another order; a name that is not there is refused."""
    file, other = tmp_path / "truth.json", tmp_path / "other.json"
    names, samples = of_some_classes(65, file)
    dumped(DumpPredictions(str(tmp_path / "ours.pkl")), names, samples)
    content = json.loads(file.read_text())
    content["categories"].reverse()
    other.write_text(json.dumps(content))
    numbers = []
    for truth in (file, other):
        evaluate.main([str(tmp_path / "ours.pkl"), str(truth), "--out", str(tmp_path / "n")])
        numbers.append(json.loads((tmp_path / "n").read_text())["bbox"])
    assert numbers[0] == numbers[1] and len(names) > 1
    said = refusal(evaluate, tmp_path / "ours.pkl", file, "--classes", "unicorn")
    assert "the detector's class 'unicorn' is not one category of" in said
    content["categories"][0]["name"] = "renamed"
    other.write_text(json.dumps(content))
    assert "with --classes" in refusal(evaluate, tmp_path / "ours.pkl", other)


def test_two_detectors_of_other_classes(tmp_path: Path) -> None:
    """--compare: what both know. Oracle: one detector whose classes are those alone."""
    file = tmp_path / "truth.json"
    names, samples = of_some_classes(65, file)
    dumped(DumpPredictions(str(tmp_path / "a.pkl")), names, samples)
    fewer = copy.deepcopy(samples)
    for sample in fewer:
        found = sample["pred_instances"]
        kept = found["labels"] == 0
        sample["pred_instances"] = {key: value[kept] for key, value in found.items()}
    dumped(DumpPredictions(str(tmp_path / "b.pkl")), names[:1], fewer)
    flags = ["--html", str(tmp_path / "page.html"), "--out", str(tmp_path / "n.json")]
    arguments = [str(tmp_path / "a.pkl"), str(file), "--compare", str(tmp_path / "b.pkl")]
    evaluate.main([*arguments, *flags])
    numbers = json.loads((tmp_path / "n.json").read_text())
    assert list(numbers["classes"]["bbox"]) == names[:1]
    expected = in_the_run(file, names[:1], fewer)[0]
    assert numbers["bbox"]["AP"] == pytest.approx(expected, abs=5.1e-4)  # it rounds

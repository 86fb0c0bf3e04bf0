"""COCO's numbers and the pictures. Oracle: pycocotools called directly."""

from __future__ import annotations

import io
from contextlib import redirect_stdout

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog
from detectron2.structures import Boxes, BoxMode, Instances
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from ws_det.detectron2.data import register_set
from ws_det.detectron2.evaluator import CocoTwelveEvaluator, PicturesEvaluator
from ws_det.pictures import decode_mask
from ws_det.report import COLUMNS


@pytest.fixture
def val(coco_set):
    return register_set(str(coco_set), "evaluated")[1]


def found_on(dataset_dict, shift=2.0):
    """Every object, moved to the right, the second with the wrong class."""
    instances = Instances((dataset_dict["height"], dataset_dict["width"]))
    boxes, classes, masks = [], [], []
    for number, annotation in enumerate(dataset_dict["annotations"]):
        box = BoxMode.convert(annotation["bbox"], annotation["bbox_mode"], BoxMode.XYXY_ABS)
        boxes.append([box[0] + shift, box[1], box[2] + shift, box[3]])
        classes.append((annotation["category_id"] + (number == 1)) % 2)
        mask = decode_mask(annotation["segmentation"], instances.image_size)
        masks.append(np.roll(mask, int(shift), 1))
    instances.pred_boxes = Boxes(torch.tensor(boxes))
    instances.pred_classes = torch.tensor(classes)
    instances.scores = torch.linspace(0.9, 0.4, len(boxes))
    instances.pred_masks = torch.from_numpy(np.stack(masks))
    return {"instances": instances}


def evaluated(name, evaluator, find=found_on):
    evaluator.reset()
    for dataset_dict in DatasetCatalog.get(name):
        evaluator.process([dataset_dict], [find(dataset_dict)])
    return evaluator.evaluate()


def test_twelve_numbers_are_pycocotools(val, coco_set, tmp_path):
    evaluator = CocoTwelveEvaluator(val, ("bbox", "segm"), str(tmp_path))
    results = evaluated(val, evaluator)
    truth = COCO(str(coco_set / "annotations/instances_val2017.json"))
    for kind in ("bbox", "segm"):
        found = truth.loadRes(str(tmp_path / "coco_instances_results.json"))
        if kind == "segm":  # sizes by the mask's area
            for annotation in found.dataset["annotations"]:
                rle = annotation["segmentation"]
                annotation["area"] = float(decode_mask(rle, rle["size"]).sum())
        with redirect_stdout(io.StringIO()):
            direct = COCOeval(truth, found, kind)
            direct.evaluate()
            direct.accumulate()
            direct.summarize()
        # Equal to the last bit: the same library on the same values.
        assert list(evaluator.report[kind].values()) == direct.stats.tolist()
        assert list(evaluator.report[kind]) == list(COLUMNS)
        assert 0 < evaluator.report[kind]["AP"] < 1
        assert results[kind]["AP"] == pytest.approx(100 * evaluator.report[kind]["AP"])
    assert evaluator.report["images"] == 4


def test_nothing_found_is_zero(val, tmp_path):
    def nothing(dataset_dict):
        return {"instances": found_on(dataset_dict)["instances"][:0]}

    evaluator = CocoTwelveEvaluator(val, ("bbox", "segm"), str(tmp_path))
    evaluated(val, evaluator, nothing)
    assert evaluator.report["bbox"]["AP"] == evaluator.report["segm"]["AR100"] == 0
    assert evaluator.report["bbox"]["APl"] == -1  # the set has no large object


def test_pictures_show_truth_and_prediction(val, tmp_path):
    """Oracle: the colours: no box is drawn on the right where nothing scores enough."""
    dicts = DatasetCatalog.get(val)
    sizes = {}
    for score_thr in (0.5, 0.99):
        path = tmp_path / f"{score_thr}.png"
        evaluator = PicturesEvaluator(dicts, val, str(path), count=2, score_thr=score_thr)
        evaluated(val, evaluator)
        image = np.asarray(Image.open(path).convert("RGB")).astype(int)
        sizes[score_thr] = ((image.max(2) - image.min(2)) > 150).sum()  # strong colours
        assert len(evaluator.pairs) == 2 and len(evaluator.pairs[0].truth) == 2
        assert len(evaluator.pairs[0].found) == (1 if score_thr == 0.5 else 0)
    assert sizes[0.5] > sizes[0.99] > 0

"""COCO's numbers and the pictures. Oracle: pycocotools called directly."""

from __future__ import annotations

import io
import json
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog
from detectron2.data.samplers import InferenceSampler
from detectron2.engine import launch
from detectron2.evaluation import COCOEvaluator
from detectron2.structures import Boxes, BoxMode, Instances
from detectron2.utils import comm
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from tests.conftest import write_set
from tools import evaluate as tool
from ws_det.detectron2.data import register_set
from ws_det.detectron2.evaluator import CocoTwelveEvaluator, PicturesEvaluator
from ws_det.detectron2.train import leave_groups
from ws_det.errors import InputError
from ws_det.evaluation import BACKENDS, evaluate
from ws_det.evaluation.saved import read_saved
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


def evaluate_on_rank(root, path):
    """Shares as Detectron2's sampler makes them, and with one image on both ranks."""
    name = register_set(root, "evaluated")[1]
    evaluator = CocoTwelveEvaluator(name, ("bbox", "segm"), path)
    dicts, reports = DatasetCatalog.get(name), []
    for share in (InferenceSampler(5), [[0, 1, 2], [2, 3, 4]][comm.get_rank()]):
        evaluator.reset()
        for number in share:
            evaluator.process([dicts[number]], [found_on(dicts[number])])
        evaluator.evaluate()
        reports.append(evaluator.report)
    Path(path, f"{comm.get_rank()}.json").write_text(json.dumps(reports))
    leave_groups()


def test_two_processes_equal_one(tmp_path):
    """Five images on two processes, then with one of them twice. Oracle: one process."""
    root = write_set(tmp_path / "set", train=1, val=5)
    launch(evaluate_on_rank, 2, dist_url="auto", args=(str(root), str(tmp_path)))
    evaluator = CocoTwelveEvaluator(
        register_set(str(root), "evaluated")[1], ("bbox", "segm"), str(tmp_path)
    )
    evaluated("evaluated_val", evaluator)
    assert 0 < evaluator.report["bbox"]["AP"] < 1
    assert json.loads((tmp_path / "0.json").read_text()) == [evaluator.report] * 2
    assert json.loads((tmp_path / "1.json").read_text()) == [{}, {}]


@pytest.mark.parametrize("backend", BACKENDS)
def test_back_ends_and_saved_predictions(val, coco_set, tmp_path, backend):
    """Both files that are left behind give the same numbers. Oracle: Detectron2's own evaluator."""
    pytest.importorskip(BACKENDS[backend].module)
    evaluator = CocoTwelveEvaluator(val, ("bbox", "segm"), str(tmp_path / "ours"), backend)
    results = evaluated(val, evaluator)
    theirs = COCOEvaluator(val, ("bbox", "segm"), output_dir=str(tmp_path), use_fast_impl=False)
    for kind, numbers in evaluated(val, theirs).items():
        assert results[kind] == pytest.approx(numbers, abs=1e-7, nan_ok=True)  # in percent
    file = coco_set / "annotations/instances_val2017.json"
    for folder in ("ours", "."):
        for name in ("coco_instances_results.json", "instances_predictions.pth"):
            found = read_saved(tmp_path / folder / name, file)
            for kind, result in evaluate(file, found).items():
                # Sums in another order
                assert result.stats == pytest.approx(evaluator.report[kind], abs=1e-9)


def test_saved_predictions_say_their_classes(val, coco_set, tmp_path):
    """Against a file of one more category, in another order. Oracle: the numbers of the run."""
    evaluator = CocoTwelveEvaluator(val, ("bbox", "segm"), str(tmp_path))
    evaluated(val, evaluator)
    content = json.loads((coco_set / "annotations/instances_val2017.json").read_text())
    content["categories"] = [{"id": 1, "name": "more"}, *content["categories"][::-1]]
    file = tmp_path / "more.json"
    file.write_text(json.dumps(content))
    more = ["--out", str(tmp_path / "numbers.json")]
    tool.main([str(tmp_path / "instances_predictions.pth"), str(file), *more])
    numbers = json.loads((tmp_path / "numbers.json").read_text())
    for kind in ("bbox", "segm"):
        # Sums in another order
        assert numbers[kind] == pytest.approx(evaluator.report[kind], abs=1e-9)


def test_a_back_end_that_is_not_there(val, tmp_path):
    with pytest.raises(InputError, match="use auto, hotcoco"):
        CocoTwelveEvaluator(val, ("bbox",), str(tmp_path), "cocoapi")


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

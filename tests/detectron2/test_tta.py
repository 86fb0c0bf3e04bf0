"""Test-time augmentation. Oracle: Detectron2's own GeneralizedRCNNWithTTA and COCOEvaluator."""

from __future__ import annotations

import json

import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import get_cfg
from detectron2.data import build_detection_test_loader
from detectron2.evaluation import COCOEvaluator, inference_on_dataset
from detectron2.modeling import GeneralizedRCNNWithTTA, build_model

from tests.detectron2.conftest import DEMO
from tests.detectron2.test_saved_config import LAZY, YAML
from tools import train_detectron2
from ws_det.detectron2.config import load_recipe
from ws_det.detectron2.data import register_set
from ws_det.detectron2.train import Job, run

MASKS = "mask_rcnn_R_50_FPN_3x_gn_ws.yaml"
SIZES = {"MIN_SIZES": (48, 64), "MAX_SIZE": 96, "FLIP": True}


@pytest.fixture(autouse=True)
def own_set(coco_set):
    register_set(str(coco_set), "own")


def options(**more):
    settings = YAML | {f"TEST.AUG.{key}": value for key, value in SIZES.items()} | more
    settings["MODEL.ROI_HEADS.SCORE_THRESH_TEST"] = 0.0
    return tuple(f"{key}={value}" for key, value in settings.items())


def weights(config, given, path):
    """Random weights whose scores differ, so that the merge has something to order."""
    recipe = load_recipe(config, given)
    torch.manual_seed(0)
    model = recipe.build_model()
    with torch.no_grad():
        model.roi_heads.box_predictor.cls_score.weight.mul_(30)
    torch.save({"model": model.state_dict()}, path)
    return model


def written(folder):
    return json.loads((folder / "inference_TTA/coco_instances_results.json").read_text())


def of_detectron2(cfg, model, name, folder):
    """Its results in percent, and its detections."""
    evaluator = COCOEvaluator(name, output_dir=str(folder), use_fast_impl=False)
    augmented = GeneralizedRCNNWithTTA(cfg, model.eval())
    found = inference_on_dataset(augmented, build_detection_test_loader(cfg, name), evaluator)
    return found, json.loads((folder / "coco_instances_results.json").read_text())


@pytest.mark.parametrize(
    ("config", "flag"), [(MASKS, True), ("faster_rcnn_R_50_FPN_1x_gn_ws.yaml", False)]
)
def test_yaml(config, flag, tmp_path, capsys):
    """By flag and by TEST.AUG.ENABLED."""
    path, out = tmp_path / "x.pth", tmp_path / "out"
    given = options(**({} if flag else {"TEST.AUG.ENABLED": True}))
    weights(config, given, path)
    given += (f"MODEL.WEIGHTS={path}", f"OUTPUT_DIR={out}")
    run(Job(config, given, eval_only=True, tta=flag))
    closing = capsys.readouterr().out.splitlines()[-1]
    cfg = load_recipe(config, given).cfg
    cfg.MODEL.DEVICE = "cpu"
    model = build_model(cfg)
    DetectionCheckpointer(model).load(str(path))
    results, detections = of_detectron2(cfg, model, "own_val", tmp_path / "theirs")
    assert written(out) == detections and len(detections) > 50
    report = json.loads((out / "coco_metrics_TTA.json").read_text())
    for kind, numbers in results.items():
        # theirs are in percent
        assert report[kind]["AP"] * 100 == pytest.approx(numbers["AP"], abs=1e-9)
        assert report[kind]["AP50"] * 100 == pytest.approx(numbers["AP50"], abs=1e-9)
    assert report.keys() == {*results, "images"}
    assert f"augmented: box AP {report['bbox']['AP']:.3f}" in closing
    plain = json.loads((out / "inference/coco_instances_results.json").read_text())
    assert plain != detections


def test_lazy_after_training(tmp_path, capsys):
    """The last weights, once; saved configs say it again."""
    out = tmp_path / "out"
    given = (*LAZY, "train.tta.min_sizes=[48,64]", "train.tta.max_size=96")
    given += ("train.max_iter=2", "train.eval_period=1", f"train.output_dir={out}")
    given += ("model.module.roi_heads.box_predictor.test_score_thresh=0.0",)
    run(Job(DEMO, given, tta=True))
    assert "augmented: box AP" in capsys.readouterr().out.splitlines()[-1]
    logged = [json.loads(line) for line in (out / "metrics.json").read_text().splitlines()]
    assert ["bbox_TTA/AP" in line for line in logged if "bbox/AP" in line][-1]
    recipe = load_recipe(str(out / "config.yaml"))
    assert recipe.tta == {"enabled": True, "min_sizes": [48, 64], "max_size": 96, "flip": True}
    cfg = get_cfg()
    cfg.MODEL.MASK_ON = True
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 2
    cfg.TEST.DETECTIONS_PER_IMAGE = 20  # of the demo's config
    cfg.TEST.AUG.update(SIZES)
    model = recipe.build_model()
    DetectionCheckpointer(model).load(str(out / "model_final.pth"))
    evaluator = COCOEvaluator("own_val", output_dir=str(tmp_path / "t"), use_fast_impl=False)
    augmented = GeneralizedRCNNWithTTA(cfg, model.eval())
    inference_on_dataset(augmented, recipe.build_test_loader("own_val"), evaluator)
    assert written(out) == json.loads((tmp_path / "t/coco_instances_results.json").read_text())


REFUSED = {
    "retinanet_R_50_FPN_1x_gn_ws.yaml": ((), "the model is a WSRetinaNet"),
    MASKS: (("TEST.AUG.MIN_SIZES=()",), "give train.tta (in a yaml config TEST.AUG) min_sizes"),
    DEMO: (("train.tta.sizes=[3]",), "train.tta.sizes is not known"),
}


@pytest.mark.parametrize("config", REFUSED)
def test_refused(config, coco_set, refusal, tmp_path):
    given, reason = REFUSED[config]
    output = "train.output_dir" if config == DEMO else "OUTPUT_DIR"
    flags = ("--config-file", config, "--data-root", coco_set, "--tta")
    assert reason in refusal(train_detectron2, *flags, f"{output}={tmp_path / 'out'}", *given)
    assert not (tmp_path / "out").exists()

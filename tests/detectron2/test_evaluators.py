"""The evaluators of a config: ours where COCO's are asked for, Detectron2's own elsewhere.

Oracle: Detectron2's own evaluators, built from the config as its tools build them.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.config import LazyConfig, instantiate
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import (
    COCOEvaluator,
    DatasetEvaluator,
    SemSegEvaluator,
    inference_on_dataset,
)
from detectron2.structures import Boxes, Instances
from PIL import Image

import ws_det
from tests.conftest import write_set
from tests.detectron2.conftest import DEMO
from tools import train_detectron2 as tool
from ws_det.detectron2.config import load_recipe
from ws_det.detectron2.data import register_set
from ws_det.detectron2.evaluator import CocoTwelveEvaluator
from ws_det.detectron2.evaluators import check_evaluators, plan
from ws_det.detectron2.preflight import build_model
from ws_det.detectron2.testing import evaluate
from ws_det.errors import InputError

CONFIG = f"""
from detectron2.config import LazyCall as L
from detectron2.config import LazyConfig
from detectron2.evaluation import COCOEvaluator, DatasetEvaluators, SemSegEvaluator

import ws_det
from tests.detectron2.test_evaluators import AnythingEvaluator
from ws_det.detectron2.data import register_set

cfg = LazyConfig.load(ws_det.config_path({DEMO!r}))
dataloader, lr_multiplier, model, optimizer, train = (
    cfg[key] for key in ("dataloader", "lr_multiplier", "model", "optimizer", "train")
)
"""


class AnythingEvaluator(DatasetEvaluator):
    """What a user's own may give."""

    def process(self, inputs, outputs):
        """Look at nothing."""

    def evaluate(self):
        odd = {"nan": math.nan, "none": None, "text": "good", "nested": {"a": {"b": 2}}}
        return {"own": {"number": 0.25, "tensor": torch.tensor(0.5), **odd}, "single": 3}


def weights_of(recipe, path):
    """Random, with predictors that find something."""
    model = build_model(recipe)
    for name, parameter in model.named_parameters():
        if "cls_score" in name or "objectness" in name:
            torch.nn.init.normal_(parameter, 0, 0.5)
    torch.save({"model": model.state_dict()}, path)
    return model.to(recipe.device)


def config(tmp_path, lines=""):
    path = tmp_path / "config.py"
    path.write_text(f"{CONFIG}\n{lines}\n")
    return str(path)


def recipe_of(tmp_path, root, lines="", *options):
    output = f"train.output_dir={tmp_path / 'out'}"
    return load_recipe(config(tmp_path, lines), [output, *options], str(root))


@pytest.mark.parametrize(
    ("kind", "classes"),
    [
        (None, ["CocoTwelveEvaluator"]),
        ("coco", ["CocoTwelveEvaluator"]),
        ("sem_seg", ["SemSegEvaluator"]),
        (
            "coco_panoptic_seg",
            ["SemSegEvaluator", "CocoTwelveEvaluator", "COCOPanopticEvaluator"],
        ),
        ("cityscapes_instance", ["CityscapesInstanceEvaluator"]),
        ("cityscapes_sem_seg", ["CityscapesSemSegEvaluator"]),
        ("pascal_voc", ["PascalVOCDetectionEvaluator"]),
        ("lvis", ["LVISEvaluator"]),
    ],
)
@pytest.mark.parametrize("lazy", [False, True])
def test_by_the_type_of_the_set(kind, classes, lazy, coco_set, tmp_path):
    """As Detectron2's tools/train_net.py has it, by hand, where a config names none."""
    if lazy:
        recipe = recipe_of(tmp_path, coco_set, "del dataloader['evaluator']")
    else:
        recipe = load_recipe("mask_rcnn_R_50_FPN_3x_gn_ws.yaml", [], str(coco_set))
    metadata = MetadataCatalog.get("data_root_val")
    if kind is None:
        del metadata.evaluator_type
    else:
        del metadata.evaluator_type
        metadata.evaluator_type = kind
    assert [planned.kind.__name__ for planned in plan(recipe, "data_root_val")] == classes


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("lvis", "needs the package lvis"),
        ("coco_panoptic_seg", "needs the package panopticapi"),
        ("cityscapes_instance", "needs the package cityscapesscripts"),
        ("own", "there is no evaluator for data_root_val, whose evaluator_type is 'own'"),
    ],
)
def test_what_is_missing_is_told_first(kind, words, coco_set, tmp_path):
    recipe = load_recipe("mask_rcnn_R_50_FPN_3x_gn_ws.yaml", [], str(coco_set))
    metadata = MetadataCatalog.get("data_root_val")
    del metadata.evaluator_type
    metadata.evaluator_type = kind
    with pytest.raises(InputError, match=words):
        check_evaluators(recipe)


def test_the_evaluators_of_a_lazy_config(coco_set, tmp_path):
    """Two of COCO's and a user's own: each number of Detectron2's, and the results in one file."""
    recipe = recipe_of(
        tmp_path,
        coco_set,
        "name = '${...test.dataset.names}'\n"
        "dataloader.evaluator = [L(COCOEvaluator)(dataset_name=name, tasks=('bbox',)), "
        "L(COCOEvaluator)(dataset_name=name, max_dets_per_image=3, tasks=('bbox', 'segm')), "
        "L(AnythingEvaluator)()]",
    )
    model = weights_of(recipe, tmp_path / "w.pth")
    kinds = [planned.kind for planned in plan(recipe, "data_root_val")]
    assert kinds == [CocoTwelveEvaluator, COCOEvaluator, AnythingEvaluator]
    LazyConfig.save(recipe.cfg, str(tmp_path / "saved.yaml"))  # where classes are names
    saved = plan(load_recipe(str(tmp_path / "saved.yaml")), "data_root_val")
    assert [planned.kind for planned in saved] == kinds
    results, report = evaluate(recipe, model)
    loader = recipe.build_test_loader("data_root_val")
    first, second = (
        inference_on_dataset(model, loader, instantiate(node))
        for node in recipe.cfg.dataloader.evaluator[:2]
    )
    # In percent; theirs is a C++ of its own, or pycocotools
    assert results["bbox"] == pytest.approx(first["bbox"], abs=1e-6, nan_ok=True)
    assert results["bbox_2"] == pytest.approx(second["bbox"], abs=1e-6, nan_ok=True)
    assert results["segm_2"] == pytest.approx(second["segm"], abs=1e-6, nan_ok=True)
    own = {key: value for key, value in report["others"].items() if key.startswith("own/")}
    assert own == {
        "own/number": 0.25,
        "own/tensor": 0.5,
        "own/nan": None,
        "own/none": None,
        "own/text": "good",
        "own/nested/a/b": 2.0,
    }
    assert results["single"] == 3 and set(results["own"]) == {
        *("number", "tensor", "nan", "nested/a/b")
    }
    assert json.loads((tmp_path / "out/coco_metrics.json").read_text()) == report
    assert report["bbox"]["AP"] * 100 == pytest.approx(results["bbox"]["AP"])
    assert "segm" not in report


def test_a_training_with_others_alone(coco_set, tmp_path, capsys):
    """No AP: curves without one, and one closing line. No evaluator at all ends as well."""
    for lines, words in (
        ("dataloader.evaluator = L(AnythingEvaluator)()", "own/number 0.250, own/tensor 0.500, "),
        ("dataloader.evaluator = None", "no COCO evaluation ran; checkpoints"),
    ):
        path = config(tmp_path, lines)
        flags = ["--config-file", path, "--data-root", str(coco_set), "train.max_iter=2"]
        folder = tmp_path / words.partition(" ")[0].replace("/", "-")
        options = ["train.eval_period=1", f"train.output_dir={folder}"]
        tool.main([*flags, *options])
        assert capsys.readouterr().out.splitlines()[-1].startswith(words)
        assert (folder / "curves.png").is_file()


def test_several_sets(tmp_path, capsys):
    """Each has its own files and numbers. Oracle: each alone, in Detectron2's own evaluator."""
    roots = [write_set(tmp_path / name, 1, count) for name, count in (("one", 2), ("two", 3))]
    lines = "\n".join(f"register_set({str(root)!r}, {root.name!r})" for root in roots)
    lines += "\ndataloader.train.dataset.names = 'one_train'\n"
    lines += "dataloader.test.dataset.names = ['one_val', 'two_val']\n"
    lines += "from ws_det.detectron2.recipe import LazyRecipe\n"
    lines += "LazyRecipe.lead_to(cfg, ('one_train', ['one_val', 'two_val']), 2)\n"
    path, out = config(tmp_path, lines), tmp_path / "out"
    recipe = load_recipe(path, [f"train.output_dir={out}"])
    model = weights_of(recipe, tmp_path / "w.pth")
    options = [f"train.output_dir={out}", f"train.init_checkpoint={tmp_path / 'w.pth'}"]
    tool.main(["--config-file", path, "--eval-only", *options])
    closing = capsys.readouterr().out.splitlines()[-1]
    report = json.loads((out / "coco_metrics.json").read_text())
    assert list(report["sets"]) == ["one_val", "two_val"]
    for name, count in (("one_val", 2), ("two_val", 3)):
        assert report["sets"][name]["images"] == count
        assert f"{name}: box AP {report['sets'][name]['bbox']['AP']:.3f}, mask AP " in closing
        theirs = COCOEvaluator(name, ("bbox", "segm"), use_fast_impl=False)
        found = inference_on_dataset(model, recipe.build_test_loader(name), theirs)
        for kind in ("bbox", "segm"):
            ours = 100 * report["sets"][name][kind]["AP"]
            assert ours == pytest.approx(found[kind]["AP"], abs=1e-6)  # sums in another order
        saved = json.loads((out / "inference" / name / "coco_instances_results.json").read_text())
        assert {entry["image_id"] for entry in saved} <= set(range(1, count + 1))
    assert sorted(path.name for path in (out / "inference").iterdir()) == ["one_val", "two_val"]


def test_keypoints_stay_beside(coco_set, tmp_path):
    """Oracle: COCOEvaluator on the same predictions."""
    content = json.loads((coco_set / "annotations/instances_val2017.json").read_text())
    rng = np.random.default_rng(0)
    for annotation in content["annotations"]:
        x, y, w, h = annotation["bbox"]
        points = [x, y, 0] + rng.random((17, 3)) * [w, h, 0] + [0, 0, 2]
        annotation.update(keypoints=points.ravel().tolist(), num_keypoints=17)
    root = tmp_path / "set"
    (root / "annotations").mkdir(parents=True)
    (root / "annotations/instances_val2017.json").write_text(json.dumps(content))
    (root / "val2017").symlink_to(coco_set / "val2017")
    name = register_set(str(root), "keypoints")[1]
    results = []
    for kind in (CocoTwelveEvaluator, COCOEvaluator):
        evaluator = kind(name, None, output_dir=str(tmp_path / kind.__name__))
        evaluator.reset()
        for item in DatasetCatalog.get(name):
            found = Instances((item["height"], item["width"]))
            corners = np.array([a["bbox"] for a in item["annotations"]], np.float32)
            corners[:, 2:] += corners[:, :2] + 1
            found.pred_boxes = Boxes(torch.tensor(corners))
            found.pred_classes = torch.tensor([a["category_id"] for a in item["annotations"]])
            found.scores = torch.linspace(0.9, 0.4, len(corners))
            points = np.array([a["keypoints"] for a in item["annotations"]], np.float32)
            found.pred_keypoints = torch.tensor(points.reshape(-1, 17, 3)) + 0.7
            evaluator.process([item], [{"instances": found}])
        results.append(evaluator.evaluate())
    assert results[0]["keypoints"] == pytest.approx(results[1]["keypoints"], nan_ok=True)
    assert 0 < results[0]["keypoints"]["AP"] < 100
    assert results[0]["bbox"] == pytest.approx(results[1]["bbox"], nan_ok=True)
    saved = [
        json.loads((tmp_path / kind / "coco_instances_results.json").read_text())
        for kind in ("CocoTwelveEvaluator", "COCOEvaluator")
    ]
    assert [entry["keypoints"] for entry in saved[0]] == [e["keypoints"] for e in saved[1]]


def test_semantic_segmentation(tmp_path):
    """A model without boxes. Oracle: Detectron2's SemSegEvaluator on the same model."""
    rng = np.random.default_rng(0)
    dicts = []
    for number in range(2):
        files = [tmp_path / f"{number}.jpg", tmp_path / f"{number}.png"]
        Image.fromarray(rng.integers(0, 256, (64, 96, 3), np.uint8)).save(files[0])
        Image.fromarray(rng.integers(0, 2, (64, 96), np.uint8)).save(files[1])
        paths = dict(zip(("file_name", "sem_seg_file_name"), map(str, files)))
        dicts.append({**paths, "height": 64, "width": 96, "image_id": number})
    if "semantic" in DatasetCatalog:
        DatasetCatalog.remove("semantic")
        MetadataCatalog.remove("semantic")
    DatasetCatalog.register("semantic", lambda: dicts)
    MetadataCatalog.get("semantic").set(
        evaluator_type="sem_seg", stuff_classes=["a", "b"], ignore_label=255
    )
    path = tmp_path / "semantic.yaml"
    path.write_text(
        "_BASE_: " + ws_det.config_path("mask_rcnn_R_50_FPN_3x_gn_ws.yaml") + "\n"
        "MODEL:\n  META_ARCHITECTURE: SemanticSegmentor\n  MASK_ON: False\n"
        "  RESNETS: {DEPTH: 18, RES2_OUT_CHANNELS: 64}\n"
        "  SEM_SEG_HEAD: {NUM_CLASSES: 2, NORM: GN}\n"
        "INPUT: {MIN_SIZE_TEST: 64}\nDATALOADER: {NUM_WORKERS: 0}\n"
        f"DATASETS: {{TRAIN: \"('semantic',)\", TEST: \"('semantic',)\"}}\n"
        f"OUTPUT_DIR: {tmp_path / 'out'}\n"
    )
    recipe = load_recipe(str(path))
    model = build_model(recipe).to(recipe.device)
    results, report = evaluate(recipe, model)
    theirs = SemSegEvaluator("semantic", output_dir=str(tmp_path / "theirs"))
    loader = recipe.build_test_loader("semantic")
    expected = inference_on_dataset(model, loader, theirs)["sem_seg"]
    assert results["sem_seg"] == pytest.approx(expected)
    assert report["others"]["sem_seg/mIoU"] == expected["mIoU"] and report["images"] == 2
    assert Path(recipe.output_dir, "inference", "sem_seg_predictions.json").is_file()

"""Odd annotation files in whole runs.

Oracle: the same run on the file as it should be, to the bit: its losses, weights and numbers.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.evaluation import COCOEvaluator

from tests.conftest import run as run_tool
from tests.conftest import write_set
from tests.detectron2.conftest import DEMO
from ws_det.detectron2.copies import registered_anew, write_copies
from ws_det.detectron2.data import check_sets
from ws_det.detectron2.set_files import Wants
from ws_det.detectron2.train import Job, run

STEPS = ("train.max_iter=2", "train.log_period=1", "train.eval_period=0")


def make_odd(content):
    """All that can be computed is missing or written otherwise."""
    first, second, *others = content["annotations"]
    first.update(segmentation=first["segmentation"][0], bbox=[str(side) for side in first["bbox"]])
    del first["area"], second["iscrowd"]
    for thing in others:
        thing["id"] = 1
    for image in content["images"]:
        del image["height"], image["width"]
    for image in content["images"][::2]:
        image["id"] = str(image["id"])
    return "\ufeff" + json.dumps(content)


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """A plain set, and an odd one that says the same."""
    plain = write_set(tmp_path_factory.mktemp("sets") / "plain", train=4, val=3)
    odd = Path(shutil.copytree(plain, plain.with_name("odd")))
    for path in odd.glob("annotations/*.json"):
        path.write_text(make_odd(json.loads(path.read_text())))
    return plain, odd


@pytest.fixture(scope="module")
def trained(sets, tmp_path_factory):
    """Where one process trained on each, and drew what it found beside the truth."""
    folder = tmp_path_factory.mktemp("runs")
    for root in sets:
        out = folder / root.name
        run(Job(DEMO, (*STEPS, f"train.output_dir={out}"), str(root), show_dir=str(out / "shown")))
    return folder


def everything_of(folder):
    """Weights and losses to the bit, and COCO's numbers."""
    state = torch.load(folder / "model_final.pth", weights_only=True)
    report = json.loads((folder / "coco_metrics.json").read_text())
    losses = state["trainer"]["hooks"]["CurvesHook"]["losses"]["loss"]
    return state["model"], torch.as_tensor(losses), report


def assert_equal_runs(first, second, images=3):
    model, losses, report = everything_of(first)
    other, other_losses, other_report = everything_of(second)
    assert all(torch.equal(value, other[key]) for key, value in model.items())
    assert torch.equal(losses, other_losses) and len(losses) == 2
    assert report == other_report and report["images"] == images


def test_an_odd_set_trains_as_a_plain_one(sets, trained):
    assert_equal_runs(trained / "plain", trained / "odd")
    pictures = [sorted(trained.glob(f"{root.name}/shown/*")) for root in sets]
    assert [p.read_bytes() for p in pictures[0]] == [p.read_bytes() for p in pictures[1]] != []
    copies = trained / "odd/annotations"
    assert sorted(path.name for path in copies.iterdir()) == [
        "data_root_train.json", "data_root_val.json",
    ]  # fmt: skip
    assert not (trained / "plain/annotations").exists()


def test_the_log_says_what_was_mended(sets, trained):
    lines = (trained / "odd/log.txt").read_text().splitlines()
    told = [line for line in lines if "instances_train2017.json: " in line]
    assert len(told) == 1 and "WARNING" in told[0]
    for words in ("computed the area", "numbered", "height and width of 4 images"):
        assert words in told[0]
    assert f"{sets[0]}/annotations/instances_train2017.json: " not in "".join(lines)


def test_the_config_names_the_set_and_not_the_copy(trained):
    config = (trained / "odd/config.yaml").read_text()
    assert "data_root_train" in config and "annotations" not in config


def test_spawned_processes_read_the_copies(sets, trained, tmp_path):
    """Oracle: what one process found and said of the plain set, with the same weights."""
    plain = trained / "plain"
    flags = ["--config-file", DEMO, "--data-root", sets[1], "--num-gpus", 2, "--dist-url", "auto"]
    options = [f"train.init_checkpoint={plain}/model_final.pth", f"train.output_dir={tmp_path}"]
    done = run_tool("train_detectron2", *flags, "--eval-only", *options)
    assert done.returncode == 0, done.stdout[-3000:]
    reports = [json.loads((d / "coco_metrics.json").read_text()) for d in (plain, tmp_path)]
    assert reports[0] == reports[1]
    results = "inference/coco_instances_results.json"
    found = [json.loads((d / results).read_text()) for d in (plain, tmp_path)]
    assert sorted(found[0], key=str) == sorted(found[1], key=str) != []


def test_every_reader_sees_the_copy_during_the_run_alone(sets, tmp_path):
    """A name of the user's own with metadata of their own. Oracle: the plain file."""
    plain, odd = (root / "annotations/instances_val2017.json" for root in sets)
    folder = sets[0] / "val2017"
    register_coco_instances("mine/odd", {"thing_colors": [(1, 2, 3)] * 2}, str(odd), str(folder))
    register_coco_instances("mine/plain", {}, str(plain), str(folder))
    function, metadata = DatasetCatalog["mine/odd"], MetadataCatalog.get("mine/odd")
    try:
        found = check_sets(["mine/odd"], [2], Wants(test_sets=["mine/odd"], masks=True))
        copies = write_copies(found, str(tmp_path))
        with registered_anew(copies):
            anew = MetadataCatalog.get("mine/odd")
            assert anew.json_file == f"{tmp_path}/annotations/mine%2Fodd.json"
            assert anew.thing_colors == [(1, 2, 3)] * 2
            expected = DatasetCatalog.get("mine/plain")
            assert DatasetCatalog.get("mine/odd") == expected
            truths = [
                COCOEvaluator(name, ("bbox",), output_dir=str(tmp_path))._coco_api.anns.values()
                for name in ("mine/odd", "mine/plain")
            ]
            boxes = [[thing["bbox"] for thing in truth] for truth in truths]
            assert boxes[0] == boxes[1]
        assert DatasetCatalog["mine/odd"] is function
        assert MetadataCatalog.get("mine/odd") is metadata
    finally:
        for name in ("mine/odd", "mine/plain"):
            DatasetCatalog.remove(name)
            MetadataCatalog.remove(name)

"""Training, resuming and evaluating through the tool, on two gloo processes and on one."""

from __future__ import annotations

import io
import json
import math
import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stdout
from pathlib import Path

import pytest
import torch
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from tests.conftest import run
from tests.detectron2.conftest import DEMO
from tests.killed import free_port
from tests.odd_set import write_odd_set
from ws_det.report import COLUMNS


def train(*arguments, timeout=240):
    done = run("train_detectron2", "--dist-url", "auto", *arguments, timeout=timeout)
    assert done.returncode == 0, done.stdout[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def trained(bcn_config, coco_set, tmp_path_factory):
    """Output folder and output of 4 steps with BCN on two processes, a checkpoint every 2."""
    folder = tmp_path_factory.mktemp("trained") / "out"
    flags = ["--config-file", bcn_config, "--data-root", coco_set, "--num-gpus", 2]
    options = ["train.max_iter=4", "train.eval_period=2", "train.log_period=1"]
    options += [f"train.output_dir={folder}", "train.checkpointer.period=2"]
    options += ["train.accumulation_steps=2"]
    return folder, train(*flags, *options), [*flags, *options[:3], *options[4:]]


def logged(folder, key="total_loss"):
    """{iteration: value} of the last run that logged it."""
    lines = map(json.loads, Path(folder, "metrics.json").read_text().splitlines())
    return {line["iteration"]: line[key] for line in lines if key in line}


def test_two_processes_train(trained):
    """The files and the log: finite losses, the arithmetic, one closing line."""
    folder, output, _ = trained
    losses = logged(folder)
    assert sorted(losses) == [0, 1, 2, 3] and all(map(math.isfinite, losses.values()))
    assert "2 processes x 1 image x 2 passes = 4 images a step" in output
    assert len(re.findall(r"^box AP \S+, mask AP \S+ \(4 images\); ", output, re.M)) == 1
    report = json.loads((folder / "coco_metrics.json").read_text())
    assert set(report) == {"bbox", "segm", "images"} and set(report["bbox"]) == set(COLUMNS)
    assert list(folder.glob("events.out.tfevents.*")) and (folder / "config.yaml").is_file()
    assert [p["iter"] for p in json.loads((folder / "curves.json").read_text())] == [2, 4]
    assert "eta: " in output


def test_data_root_names_the_classes(trained):
    """Oracle: the two categories of the set, in the checkpoint's shapes."""
    state = torch.load(trained[0] / "model_final.pth", weights_only=True)["model"]
    assert len(state["roi_heads.box_predictor.cls_score.weight"]) == 3
    assert len(state["roi_heads.mask_head.predictor.weight"]) == 2


def test_resume_equals_a_run_that_never_stopped(trained, tmp_path):
    """Oracle: the uninterrupted run: its losses, weights, estimates and optimizer, to the bit."""
    folder, _, flags = trained
    resumed = tmp_path / "out"
    resumed.mkdir()
    shutil.copy(folder / "model_0000001.pth", resumed)
    shutil.copy(folder / "curves.json", resumed)
    (resumed / "last_checkpoint").write_text("model_0000001.pth")
    output = train(*flags, f"train.output_dir={resumed}", "--resume")
    assert "Starting training from iteration 2" in output
    first, second = final(folder), final(resumed)
    assert_same(first, second)
    assert len(first["trainer"]["hooks"]["CurvesHook"]["losses"]["loss"]) == 4
    assert any("running_var" in key for key in first["model"])
    assert (resumed / "curves.json").read_text() == (folder / "curves.json").read_text()
    assert Image.open(resumed / "curves.png").size == Image.open(folder / "curves.png").size


@pytest.mark.slow
def test_two_machines_that_share_no_folder(trained, tmp_path):
    """docs/training.md's flags, on one machine. Oracle: two processes of one, to the bit."""
    folder, _, flags = trained
    port, flags = free_port(), [*flags, "train.checkpointer.period=2"]
    flags[flags.index("--num-gpus") + 1] = 1

    def machine(node):
        place = ["--num-machines", 2, "--machine-rank", node, "--dist-url"]
        place += [f"tcp://127.0.0.1:{port}", *flags, f"train.output_dir={tmp_path / str(node)}"]
        return run("train_detectron2", *place, timeout=240)

    with ThreadPoolExecutor() as pool:
        machines = list(pool.map(machine, range(2)))
    assert [done.returncode for done in machines] == [0, 0], machines
    assert "2 processes x 1 image x 2 passes = 4 images a step" in machines[0].stdout
    assert_same(final(folder), final(tmp_path / "0"))


def final(folder):
    """The last checkpoint; the losses of all steps are in it, metrics.json has running medians."""
    return torch.load(folder / "model_final.pth", weights_only=True)


def assert_same(first, second, path=""):
    assert type(first) is type(second), path
    if isinstance(first, dict):
        assert first.keys() == second.keys(), path
        for key in first:
            assert_same(first[key], second[key], f"{path}.{key}")
    elif isinstance(first, (list, tuple)):
        for index, (one, other) in enumerate(zip(first, second, strict=True)):
            assert_same(one, other, f"{path}.{index}")
    elif isinstance(first, torch.Tensor):
        assert torch.equal(first, second), path
    else:
        assert first == second, path


def test_two_processes_evaluate(trained, coco_set, tmp_path):
    """Oracle: pycocotools on the predictions, and the numbers of the training's evaluation."""
    folder, _, flags = trained
    output = train(
        *flags,
        "--eval-only",
        "--show-dir",
        tmp_path / "pictures",
        f"train.init_checkpoint={folder}/model_final.pth",
        f"train.output_dir={tmp_path / 'out'}",
    )
    closing = output.splitlines()[-1]
    assert closing.startswith("box AP") and "(4 images)" in closing and "pictures" in closing
    assert Image.open(tmp_path / "pictures/predictions.png").size[0] > 1000
    assert_equals_pycocotools(
        coco_set / "annotations/instances_val2017.json", tmp_path / "out", ("bbox", "segm")
    )
    own = json.loads((tmp_path / "out/coco_metrics.json").read_text())
    assert own == json.loads((folder / "coco_metrics.json").read_text())


def test_rank_without_truth_does_not_hang(tmp_path):
    """Images without an object, with crowds alone and with one-pixel boxes, on two ranks.

    No positive RoI on a rank, and every gradient is still reduced. Oracle: it ends, with finite
    losses.
    """
    kinds = ("empty", "crowd", "pixel", "empty", "crowd", "pixel", "empty", "plain")
    root = write_odd_set(tmp_path / "set", kinds)
    flags = ["--config-file", DEMO, "--data-root", root, "--num-gpus", 2]
    options = ["train.max_iter=4", "train.log_period=1", f"train.output_dir={tmp_path / 'out'}"]
    train(*flags, *options, "train.eval_period=0", timeout=200)
    losses = logged(tmp_path / "out")
    assert len(losses) == 4 and all(map(math.isfinite, losses.values()))


def test_yaml_config_trains_and_resumes(coco_set, tmp_path):
    """Oracle: the uninterrupted run's losses, and pycocotools."""

    def options(folder):
        return [
            *("--config-file", "faster_rcnn_R_50_FPN_1x_gn_ws.yaml", "--data-root", coco_set),
            *("OUTPUT_DIR", folder, "MODEL.WEIGHTS", "", "SEED", "3"),
            *("SOLVER.MAX_ITER", "2", "SOLVER.CHECKPOINT_PERIOD", "1", "SOLVER.IMS_PER_BATCH", "1"),
            *("SOLVER.STEPS", "()", "INPUT.MIN_SIZE_TRAIN", "(64,)", "INPUT.MIN_SIZE_TEST", "64"),
            *(
                "TEST.EVAL_PERIOD",
                "0",
                "DATALOADER.NUM_WORKERS",
                "0",
                "MODEL.BACKBONE.FREEZE_AT",
                0,
            ),
            *("MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", "16", "MODEL.RPN.POST_NMS_TOPK_TRAIN", "32"),
            *("MODEL.RPN.POST_NMS_TOPK_TEST", "16", "MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.0"),
        ]

    train(*options(tmp_path / "whole"))
    (tmp_path / "resumed").mkdir()
    shutil.copy(tmp_path / "whole/model_0000000.pth", tmp_path / "resumed")
    (tmp_path / "resumed/last_checkpoint").write_text("model_0000000.pth")
    train(*options(tmp_path / "resumed"), "--resume")
    assert_same(final(tmp_path / "whole"), final(tmp_path / "resumed"))
    assert_equals_pycocotools(
        coco_set / "annotations/instances_val2017.json", tmp_path / "resumed", ("bbox",)
    )


@pytest.mark.slow
def test_r50_on_real_coco(tiny_coco, tmp_path):
    """The supplied R50 GN+WS config on real images: 3 steps, then COCO's numbers.

    Oracle: pycocotools on the predictions.
    """
    resize = "[{_target_: detectron2.data.transforms.ResizeShortestEdge, "
    resize += "short_edge_length: 128, max_size: 160}]"
    output = train(
        *("--config-file", "mask_rcnn_R_50_FPN_2x_gn_ws.py", "--data-root", tiny_coco),
        "train.max_iter=3",
        "train.log_period=1",
        "train.init_checkpoint=''",
        f"train.output_dir={tmp_path}",
        "dataloader.test.dataset.names=data_root_train",
        "dataloader.train.total_batch_size=1",
        "dataloader.train.num_workers=0",
        "dataloader.test.num_workers=0",
        f"dataloader.train.mapper.augmentations={resize.replace(': ', ':')}",
        f"dataloader.test.mapper.augmentations={resize.replace(': ', ':')}",
        "model.module.roi_heads.batch_size_per_image=32",
        "model.module.roi_heads.box_predictor.test_score_thresh=0.0",
        "model.module.roi_heads.box_predictor.test_topk_per_image=20",
        "model.module.proposal_generator.post_nms_topk=[64,32]",
        timeout=500,
    )
    losses = logged(tmp_path)
    assert len(losses) == 3 and all(map(math.isfinite, losses.values()))
    assert "(50 images)" in output.splitlines()[-1]
    annotations = tiny_coco / "annotations/instances_train2017.json"
    assert_equals_pycocotools(annotations, tmp_path, ("bbox", "segm"))


def assert_equals_pycocotools(annotations, folder, kinds):
    """All 12 numbers of each kind against COCOeval with its own defaults."""
    report = json.loads(Path(folder, "coco_metrics.json").read_text())
    results = json.loads(Path(folder, "inference/coco_instances_results.json").read_text())
    assert len(results) > 0 and set(report) == {*kinds, "images"}
    truth = COCO(str(annotations))
    for kind in kinds:
        found = [dict(result) for result in results]
        for result in found:
            # loadRes takes a size from the box where there is one
            result.pop("segmentation" if kind == "bbox" else "bbox", None)
        evaluation = COCOeval(truth, truth.loadRes(found), kind)
        with redirect_stdout(io.StringIO()):
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
        # Equal to the last bit: the same library on the same values.
        assert [report[kind][column] for column in COLUMNS] == evaluation.stats.tolist()
